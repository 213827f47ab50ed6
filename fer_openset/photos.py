"""Photos of any size and kind become faces as the networks saw them: found in folders, opened safely, squared.

Whatever is wrong with one file is said of that file and never stops the others.
"""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fer_openset.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
TRANSPARENT = 127  # what shows through a transparent pixel: neither black nor white


class PhotoError(UserError):
    """A file that gives no picture; `reason` is the sentence without the file's name."""

    def __init__(self, path, reason):
        super().__init__(f"{readable(path)}: {reason}; get the file again or take it out.")
        self.reason = reason


def readable(path):
    """A path as text that can be written anywhere: bytes that are no UTF-8 become question marks."""
    return os.fsencode(str(path)).decode("utf-8", "replace")


def find_photos(paths):
    """Files to look at: those named, and in each folder named every file with a picture's suffix, in sorted order.

    Hidden files are left out. Returns: (list of paths, number of other files in the folders). Raises: UserError for a
    path that does not exist, and when no photo is left.
    """
    found, others = [], 0
    for path in map(Path, paths):
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if not p.is_dir() and not _hidden(p.relative_to(path))]
            pictures = [p for p in inside if p.suffix.lower() in SUFFIXES]
            found, others = found + pictures, others + len(inside) - len(pictures)
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise UserError(f"{readable(path)}: there is no such file or folder; expected photos there.")
    if not found:
        raise UserError(f"{', '.join(map(readable, paths))}: no photo there; expected files ending in "
                        f"{', '.join(SUFFIXES)}.")  # fmt: skip
    return list(dict.fromkeys(found)), others


def _hidden(path):
    return any(part.startswith(".") for part in path.parts)


def read_photo(path, longest=None):
    """Open one picture, upright, in mode `L` (grey) or `RGB`; its first frame if there are several.

    longest: a larger picture is shrunk to so many pixels on its longer side. 16 bits a pixel become 8. Pictures above
    Pillow's limit of 89 million pixels are refused before they are decoded. Returns: (picture, the longer side of the
    file's own). Raises: PhotoError.
    """
    if not Path(path).is_file():
        raise PhotoError(path, "no file that could be opened")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                side = max(image.size)
                if longest and not image.mode.startswith("I"):
                    image.thumbnail((longest, longest))  # a JPEG is decoded at a fraction of its size
                return _plain(ImageOps.exif_transpose(image), longest), side
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoError(path, f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise PhotoError(path, f"no picture of a known kind ({', '.join(FORMATS)})") from None
    except PhotoError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise PhotoError(path, f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})") from None


def _plain(image, longest):
    """Grey or RGB, 8 bits."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values // 256 if values.max() > 255 else values).clip(0, 255).astype(np.uint8))
        if longest:
            image.thumbnail((longest, longest))
    if image.mode == "F":
        raise ValueError("floating-point pixels; expected 8 or 16 bits")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        below = Image.new("RGBA", over.size, (TRANSPARENT,) * 3 + (255,))
        image = Image.alpha_composite(below, over).convert("L" if image.mode in ("L", "LA", "La") else "RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def as_face(image, size, channels):
    """A picture as the store holds faces: its middle square, grey or colour. Shapes: (channels, size, size) uint8.

    Resized with antialiasing. `channels` is 1 or 3.
    """
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None].copy() if channels == 1 else pixels.transpose(2, 0, 1).copy()
