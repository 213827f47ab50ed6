"""CIFAR-10 (Krizhevsky 2009): ten kinds of things in 32 x 32 colour pictures, where classes differ much.

The paper sets faces against it (Fig. 1). Two layouts are read, never downloaded: the binary version,
cifar-10-batches-bin with data_batch_1.bin .. data_batch_5.bin and test_batch.bin, and the one torchvision unpacks,
cifar-10-batches-py, whose pickles are taken apart without running them (cifar10_pickles.py). Where both are present the
binary one is read. Both give the same table and the same pixels.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset.datasets.cifar10_pickles import read_batch
from fer_openset.datasets.image_files import digest_of, need_folder
from fer_openset.datasets.store import Listing
from fer_openset.errors import UserError
from fer_openset.labels import OBJECTS
from fer_openset.settings import Settings

READER = 1  # raise it when the same files would give other pixels
BATCHES = {**{f"data_batch_{i}": "train" for i in range(1, 6)}, "test_batch": "test"}
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
BINARY, PICKLED = "cifar-10-batches-bin", "cifar-10-batches-py"


class Cifar10Settings(Settings):
    """Settings of params/datasets/cifar10.yaml."""

    root: str


def class_names(settings):
    """The ten kinds of things."""
    return OBJECTS


def read(settings, root):
    """List CIFAR-10 under `root`: returns a `store.Listing` with C = 3, training rows first.

    Sample ids count the pictures of a batch: data_batch_1_00000. Source: cs.toronto.edu/~kriz/cifar.html.
    Raises: UserError naming the file and the record that is missing or wrong.
    """
    root = Path(root)
    need_folder(root, "put CIFAR-10 there, or give its folder as data_root.")
    paths, load = _find(root)
    batches = [(path, split, *load(path)) for path, split in zip(paths, BATCHES.values(), strict=True)]
    for path, _, labels, _ in batches:
        _check_labels(path, labels)
    rows = [
        (f"{path.stem}_{i:05d}", OBJECTS[number], split)
        for path, split, labels, _ in batches
        for i, number in enumerate(labels)
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "label", "split"]).set_index("sample_id")
    stats = {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
    decode = _decoder([images for *_, images in batches])
    return Listing("cifar10", table, OBJECTS, {"reader": READER, "files": digest_of(stats)}, SHAPE, decode)


def _find(root):
    """The six files, and the function that reads one."""
    for name, suffix, load in ((BINARY, ".bin", _read_binary), (PICKLED, "", read_batch)):
        for folder in (root / name, root):
            paths = [folder / f"{batch}{suffix}" for batch in BATCHES]
            missing = [path for path in paths if not path.is_file()]
            if not missing:
                return paths, load
            if len(missing) < len(paths):
                raise UserError(f"{missing[0]}: there is no such file, but others of CIFAR-10 are; unpack it again.")
    raise UserError(f"{root}: neither {BINARY} nor {PICKLED} with the batches of CIFAR-10; unpack one of them there.")


def _read_binary(path):
    """Labels (n,) and a memory map of the pictures (n, 3072), both uint8."""
    size = path.stat().st_size
    if size == 0 or size % (1 + PIXELS):
        raise UserError(f"{path}: {size} bytes are no whole number of records of {1 + PIXELS}; get the file again.")
    records = np.memmap(path, np.uint8, mode="r").reshape(-1, 1 + PIXELS)
    return np.array(records[:, 0]), records[:, 1:]


def _check_labels(path, labels):
    wrong = np.flatnonzero(np.asarray(labels) >= len(OBJECTS))
    if wrong.size:
        raise UserError(f"{path}: record {wrong[0]} (from 0) has the class number {labels[wrong[0]]}; expected "
                        f"0 ({OBJECTS[0]}) to {len(OBJECTS) - 1} ({OBJECTS[-1]}).")  # fmt: skip


def _decoder(batches):
    starts = np.cumsum([0, *map(len, batches)])

    def decode(start, stop):
        parts = [
            images[max(start - first, 0) : max(stop - first, 0)] for first, images in zip(starts, batches, strict=False)
        ]
        return np.concatenate(parts).reshape(-1, *SHAPE)

    return decode
