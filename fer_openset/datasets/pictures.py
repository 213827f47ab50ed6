"""The one place that opens image files: bounded, by content instead of extension, always the same kind of array.

What a file may hold besides an ordinary picture, and what becomes of it:
- EXIF orientation: the picture is turned as a viewer would turn it.
- 16 bits a pixel: the upper 8 are kept. CMYK, palette, YCbCr, black and white: converted.
- Transparency: shown on white. Animation, several pages: the first picture.
- More than MAX_PIXELS or MAX_BYTES, truncated, damaged, or another format: refused with one sentence.
"""

import io
import os
import stat
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image, ImageOps

from fer_openset.errors import UserError

# Formats that face datasets come in; each one more is another decoder that a broken file can reach.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 2**25  # 33.5 million: 134 MB of RGBA while it is open
MAX_BYTES = 2**26  # 64 MiB: no picture of that many pixels needs more as a file
LARGE_PIXELS = 2**22  # larger pictures are opened one at a time: each takes up to 12 bytes a pixel, in every thread
MOST_NAME_BYTES = 255
MAX_SCANS = 100  # of a progressive JPEG, which has about ten: each costs a pass over all pixels and ten bytes of file

_ONE_LARGE = threading.Lock()


def read_picture(path, channels, size=None, box=None):
    """Decode one image file, grey or colour, resized (with antialiasing, both sides to `size`) if asked.

    Shapes: (channels, H, W) uint8, channels 1 or 3; with `size` H = W = size. box: the part of the picture to take,
    (left, top, right, bottom) in pixels; what lies outside is cut off. Raises: UserError naming the file.
    """
    return decode_picture(_bytes_of(path), path, channels, size, box)


def picture_size(path):
    """(width, height) as the file's header says. Raises: UserError as `read_picture`, before a pixel is decoded."""
    with _opened(_bytes_of(path), path) as image:
        return image.size


def _bytes_of(path):
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
                raise UserError(f"{path}: not a file but a folder, pipe or device; put the picture there.")
            _need_small(found.st_size, path)
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore the file or its permissions.") from None


def _need_small(size, name):
    if size > MAX_BYTES:
        raise UserError(f"{name}: larger than {MAX_BYTES >> 20} MiB, too large for one picture; shrink it.")


def decode_picture(data, name, channels, size=None, box=None):
    """The same for the bytes of a file; `name` is what an error calls it."""
    mode = "L" if channels == 1 else "RGB"
    with _opened(data, name) as image, _turn(image):
        image.load()
        picture = eight_bits(ImageOps.exif_transpose(image))
        picture = picture if picture.mode == mode else picture.convert(mode)
        if box is not None:
            picture = picture.crop(_within(box, picture.size, name))
        if size is not None and picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _turn(image):
    """Threads that decode wait for each other before a large picture."""
    return _ONE_LARGE if image.width * image.height > LARGE_PIXELS else nullcontext()


@contextmanager
def _opened(data, name):
    """The picture, its header read and within bounds; whatever goes wrong while it is used becomes one sentence."""
    _need_small(len(data), name)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:  # known before a pixel is decoded
                raise ValueError(f"{image.width} x {image.height} pixels; expected at most {MAX_PIXELS:,}")
            if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
                raise ValueError(f"more than {MAX_SCANS} scans")
            yield image
    except UserError:
        raise
    except Exception as error:  # nothing but Pillow is used inside; on damaged files it raises whatever happens there
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"none of {', '.join(FORMATS)}"
        raise UserError(f"{name}: not readable as an image ({reason}); get the file again.") from None


def _within(box, size, name):
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1])
    if left >= right or top >= bottom:
        raise UserError(f"{name}: its face box lies outside the picture of {size[0]} x {size[1]} pixels; get the list "
                        "and the picture again.")  # fmt: skip
    return left, top, right, bottom


def eight_bits(image):
    """8 bits a channel and no transparency, in a mode that converts to L and RGB without loss.

    Raises: ValueError for 32 bits a pixel.
    """
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel; expected 8 or 16")
    if image.mode.startswith("I;16"):  # Pillow would cut every value above 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def paths_inside(root, names):
    """The paths of `names`, as a list or an archive spells them, under the folder `root`.

    Returns: a list of Paths, whether or not something is there. Raises: UserError for the first that would lie outside
    of `root`: an absolute path, `..`, a drive, or a symbolic link on the way that leads out.
    """
    root, real = Path(root), {}  # folders are resolved once: a dataset has its files in a few of them
    paths = []
    for name in map(str, names):
        parts = PurePosixPath(name.replace(os.sep, "/")).parts
        if not parts or "\0" in name or ".." in parts or name.startswith("/") or PureWindowsPath(name).drive:
            raise UserError(f"{root}: the entry {name[:200]!r} is no path under this folder; mend the list it is from.")
        if (
            max(len(part.encode("utf-8", "surrogatepass")) for part in parts) > MOST_NAME_BYTES
        ):  # the system would refuse to look for it
            raise UserError(f"{root}: the entry {name[:80]!r}... has a name of more than {MOST_NAME_BYTES} bytes; mend "
                            "the list it is from.")  # fmt: skip
        paths.append(root.joinpath(*parts))
        _stays(paths[-1], root, real)
    return paths


def _stays(path, root, real):
    for folder in (root, path.parent):
        if folder not in real:
            real[folder] = os.path.realpath(folder)
    end = os.path.realpath(path) if path.is_symlink() else os.path.join(real[path.parent], path.name)
    if os.path.commonpath([real[root], end]) != real[root]:
        raise UserError(f"{path}: a symbolic link leads out of {root}; give the folder it points to as data_root.")
