"""Any folder of pictures: faces without labels, for pretraining."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset.datasets.pictures import ENDINGS, paths_inside, read_picture
from fer_openset.datasets.store import Listing
from fer_openset.errors import UserError

READER = 1  # raise it when the same files would give other pixels
UNLABELLED = "unlabelled"


def read_folder(root, size, channels=3):
    """List every picture under `root`, at any depth, in the order of their paths; hidden files are passed over.

    Returns a `store.Listing`: sample ids are paths relative to `root`, with `/`; every label is `unlabelled`, every
    split `train`. Raises: UserError for a folder that is missing, without pictures, or with a link out of it.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; name one with pictures of faces.")
    names = sorted(_pictures(root))
    if not names:
        raise UserError(f"{root}: holds no picture ({', '.join(ENDINGS)}); name a folder with pictures of faces.")
    paths = paths_inside(root, names)
    index = pd.Index(names, name="sample_id")
    table = pd.DataFrame({"label": UNLABELLED, "split": "train"}, index=index)
    material = {"reader": READER, "files": _digest(names, paths)}

    def decode(start, stop):
        return np.stack([read_picture(path, channels, size) for path in paths[start:stop]])

    return Listing("faces", table, (UNLABELLED,), material, (channels, size, size), decode)


def _pictures(root):
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _digest(names, paths):
    digest = hashlib.sha256()
    for name, path in zip(names, paths, strict=True):
        found = path.stat()
        digest.update(f"{name}\0{found.st_size} {found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
