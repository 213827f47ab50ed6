"""Photos of any size become faces as the networks saw them: found in folders, opened safely, squared.

Whatever is wrong with one file is said of that file and never stops the others.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fer_openset.datasets.pictures import ENDINGS, eight_bits, read_picture
from fer_openset.errors import UserError

SHEET = "fer_openset contact sheet"  # stands in the PNG files that we make of faces, and tells them from photos


def readable(path):
    """A path as text that can be written anywhere: bytes that are no UTF-8 become question marks."""
    return os.fsencode(str(path)).decode("utf-8", "replace")


def find_photos(paths):
    """Files to look at: those named, and in each folder named every file with a picture's ending, in sorted order.

    Hidden files and our own contact sheets are left out. Returns: (list of paths, number of other files). Raises:
    UserError for a path that does not exist, and when no photo is left.
    """
    found, others = [], 0
    for path in map(Path, paths):
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if not p.is_dir() and not hidden(p.relative_to(path))]
            pictures = [p for p in inside if p.name.lower().endswith(ENDINGS)]
            others += len(inside) - len(pictures)
        elif os.path.lexists(path):
            pictures = [path]
        else:
            raise UserError(f"{readable(path)}: there is no such file or folder; expected photos there.")
        photos = [p for p in pictures if not is_sheet(p)]  # an earlier call wrote it among the photos
        found, others = found + photos, others + len(pictures) - len(photos)
    if not found:
        raise UserError(f"{', '.join(map(readable, paths))}: no photo there; expected files ending in "
                        f"{', '.join(ENDINGS)} other than our own contact sheets.")  # fmt: skip
    return list(dict.fromkeys(found)), others


def is_sheet(path):
    """Whether a file is a contact sheet of ours; False for what cannot be read."""
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        return False
    try:
        with open(path, "rb") as file:
            return SHEET.encode() in file.read(256)  # Pillow writes texts before the pixels
    except OSError:
        return False


def hidden(path):
    """Whether a file, or a folder on the way to it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def read_photo(path, longest=None):
    """Open one photo, upright, in colour; a larger one is shrunk to `longest` pixels on its longer side.

    Returns: (PIL image, the longer side before). Raises: UserError naming the file, as `pictures.read_picture`.
    """
    image = Image.fromarray(np.ascontiguousarray(read_picture(path, 3).transpose(1, 2, 0)))
    side = max(image.size)
    if longest:
        image.thumbnail((longest, longest))
    return image, side


def as_face(image, size, channels):
    """A picture as the store holds faces: its middle square, grey or colour. Shapes: (channels, size, size) uint8.

    Resized with antialiasing. `channels` is 1 or 3. Turned upright, 16 bits and transparency as in a file: see
    `datasets.pictures`. Raises: ValueError for 32 bits a pixel.
    """
    image = eight_bits(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None].copy() if channels == 1 else pixels.transpose(2, 0, 1).copy()
