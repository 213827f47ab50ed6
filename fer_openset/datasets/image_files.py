"""Folders of pictures with a list of labels beside them: what is there, whether the list agrees, and the pixels."""

import hashlib
import os

import numpy as np

from fer_openset.datasets.pictures import ENDINGS, paths_inside, read_picture
from fer_openset.errors import UserError


def need_folder(folder, what):
    """Raises: UserError when `folder` is not there; `what` says what should be put there."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; {what}")


def scan(folder, ending=ENDINGS):
    """Files of `folder` whose names end so, in any case: {name: (bytes, time of change)}, in the order of their names.

    Hidden files are passed over. Raises: UserError for a folder that cannot be read, a name that is not UTF-8 and a
    symbolic link that leads out of the folder.
    """
    found = {}
    try:
        for entry in os.scandir(folder):
            if entry.name.lower().endswith(ending) and not entry.name.startswith(".") and entry.is_file():
                if entry.is_symlink():
                    paths_inside(folder, [entry.name])
                stat = entry.stat()
                found[_utf8(entry.name, folder)] = stat.st_size, stat.st_mtime_ns
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check its permissions.") from None
    return dict(sorted(found.items()))


def _utf8(name, folder):
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: holds a file whose name is not UTF-8 ({name!a}); rename it.") from None
    return name


def match(folder, listed, found, list_name):
    """Compare the names in a list with the files on disk. Raises: UserError for a listed image that is missing, and
    for an image that no line of the list names."""
    missing, extra = sorted(set(listed) - set(found)), sorted(set(found) - set(listed))
    if missing:
        raise UserError(f"{folder / missing[0]}{_more(missing)}: {list_name} lists this image but it is missing; "
                        "restore it.")  # fmt: skip
    if extra:
        raise UserError(f"{folder / extra[0]}{_more(extra)}: {list_name} has no label for this image; "
                        "get the whole list, or remove the image.")  # fmt: skip


def _more(names):
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def digest_of(found):
    """sha256 over names, sizes and times as `scan` gives them: it changes when a file does, and none is opened."""
    digest = hashlib.sha256()
    for name, (size, changed) in found.items():
        digest.update(f"{name}\0{size} {changed}\n".encode())
    return digest.hexdigest()


def rgb_decoder(paths, size, boxes=None):
    """Decoder of colour pictures. Shapes: decode(start, stop) -> (stop - start, 3, size, size) uint8.

    boxes: for each path the part of the picture to take, (left, top, right, bottom) in pixels; None: all of it.
    """
    boxes = boxes or [None] * len(paths)
    return lambda start, stop: np.stack([read_picture(paths[i], 3, size, boxes[i]) for i in range(start, stop)])
