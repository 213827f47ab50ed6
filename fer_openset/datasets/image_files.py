"""Folders of pictures with a list of labels beside them: what is there, whether the list agrees, and the pixels."""

import hashlib
import os
from contextlib import contextmanager

import numpy as np

from fer_openset.datasets.pictures import ENDINGS, paths_inside, read_picture
from fer_openset.errors import Unmatched, UserError

MOST_LIST_BYTES = 2**30  # AffectNet's, with 68 points a face, takes a third of it


def need_folder(folder, what):
    """Raises: UserError when `folder` is not there; `what` says what should be put there."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder; {what}")


def need_list(path, what):
    """Raises: UserError when `path` is no file, or too large for a list; `what` says what is expected there.

    Asked before it is opened, for reading a pipe in its place would wait for ever.
    """
    if not os.path.lexists(path):
        raise UserError(f"{path}: there is no such file; {what}")
    if not os.path.isfile(path):
        raise UserError(f"{path}: not a file but a folder, pipe or broken link; {what}")
    if os.path.getsize(path) > MOST_LIST_BYTES:
        raise UserError(f"{path}: larger than {MOST_LIST_BYTES >> 30} GiB, too large for a list; get the file again.")


def scan(folder, ending=ENDINGS):
    """Files of `folder` whose names end so, in any case: {name: (bytes, time of change)}, in the order of their names.

    Hidden files are passed over. Raises: UserError for a folder that cannot be read, a name that is not UTF-8 and a
    symbolic link that leads out of the folder.
    """
    found = {}
    with readable(folder):
        for entry in os.scandir(folder):
            if entry.name.lower().endswith(ending) and not entry.name.startswith(".") and entry.is_file():
                if entry.is_symlink():
                    paths_inside(folder, [entry.name])
                stat = entry.stat()
                found[utf8(entry.name, folder)] = stat.st_size, stat.st_mtime_ns
    return dict(sorted(found.items()))


@contextmanager
def readable(folder):
    """Raises: UserError when reading `folder` within this fails."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check its permissions.") from None


def utf8(name, folder):
    """The name of a file of `folder`, as it is. Raises: UserError for one that is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: holds a file whose name is not UTF-8 ({name!a}); rename it.") from None
    return name


def match(folder, listed, found, list_name):
    """Compare the names in a list with the files on disk. Raises: UserError for a listed image that is missing, and
    for an image that no line of the list names."""
    for names, why in ((set(listed) - set(found), f"{list_name} lists this image but it is missing; restore it."),
                       (set(found) - set(listed), f"{list_name} has no label for this image; get the whole list, or "
                                                  "remove the image.")):  # fmt: skip
        if names:
            names = sorted(names)
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise Unmatched(f"{folder / names[0]}{more}: {why}", len(set(listed)), len(found), names)


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
