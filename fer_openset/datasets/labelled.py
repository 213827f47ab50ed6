"""Your own labelled faces: a folder for each class, or a CSV of path,label[,split], with any class names and sizes.

Three forms: ROOT/CLASS/..., ROOT/train/CLASS/... (and test, valid), or the file that `labels` names. Splits that are
not given are drawn, class by class, from a seed and the image's path alone, so that adding images moves few others.
"""

import zlib

import numpy as np
import pandas as pd
from pydantic import Field

from fer_openset.datasets.image_files import digest_of, need_folder, readable, utf8
from fer_openset.datasets.labelled_csv import read_labels
from fer_openset.datasets.pictures import ENDINGS
from fer_openset.datasets.store import SPLITS, Listing
from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.photos import as_face, hidden, read_photo
from fer_openset.settings import Settings

READER = 1  # raise it when the same files would give other pixels
SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "valid": "valid",
               "val": "valid", "validation": "valid"}  # fmt: skip
FORBIDDEN = set('+/\\{}*?"<>|:')  # class names become parts of paths; + joins them


class FolderSettings(Settings):
    """Settings of a dataset of one's own; see params/datasets/folder.yaml for what each one means."""

    root: str
    labels: str
    classes: list[str]
    image_size: int = Field(ge=8, le=1024)
    colour: bool
    valid_share: float = Field(ge=0, le=0.5)
    test_share: float = Field(gt=0, le=0.5)
    split_seed: int = Field(ge=0)


def read(settings, root):
    """List the user's images for the store. Shapes: see `store.Listing`; C is 3 with `colour`, else 1.

    A sample's id is its path under the root. Other shapes than squares lose their longer side's ends.
    Raises: UserError naming the file, line or class that is missing or wrong.
    """
    table = _table(settings, root)
    classes = _classes(settings, root, table)
    table = table[table["label"].isin(classes)].sort_values(["split", "path"], key=_in_order, kind="stable")
    channels = 3 if settings.colour else 1
    files = [root / path for path in table["path"]]

    def decode(start, stop):
        return np.stack([as_face(read_photo(file)[0], settings.image_size, channels) for file in files[start:stop]])

    stats = {path: (root / path).stat() for path in table["path"]}
    digest = digest_of({path: (found.st_size, found.st_mtime_ns) for path, found in stats.items()})
    material = {"reader": READER, "root": str(root), "files": digest, "channels": channels}
    listed = table.set_index("path")[["label", "split"]].rename_axis("sample_id")
    shape = (channels, settings.image_size, settings.image_size)
    return Listing(root.name, listed, classes, material, shape, decode, list(map(str, files)))


def class_names_in(settings, root):
    """The dataset's classes, in the order of the network's outputs: the settings' own, else those found, sorted."""
    return _classes(settings, root, _table(settings, root))


def _in_order(column):
    return column.map(SPLITS.index) if column.name == "split" else column


def _table(settings, root):
    """A row an image: path (under the root, with /), label, split."""
    need_folder(root, "put your faces there, or give their folder as data_root.")
    if settings.labels:
        table = read_labels(root, settings.labels, SPLIT_WORDS)
    else:
        table = pd.DataFrame(_in_folders(root), columns=["path", "label", "split"])
    if table.empty:
        raise UserError(f"{root}: no image in a class's folder there; expected {root.name}/CLASS/image.jpg.")
    for name in table["label"].unique():
        _check_class_name(root, name)
    return table.assign(split=draw_splits(table, settings))


def _in_folders(root):
    folders = _visible(root)
    split_form = bool(folders) and all(folder.name.lower() in SPLIT_WORDS for folder in folders)
    for top in folders:
        split = SPLIT_WORDS[top.name.lower()] if split_form else ""
        for folder in _visible(top) if split_form else [top]:
            for file in sorted(_files_below(folder, root)):
                path = file.relative_to(root)
                if file.name.lower().endswith(ENDINGS) and file.is_file() and not hidden(path):
                    yield utf8(path.as_posix(), root), folder.name, split


def _files_below(folder, root, above=frozenset()):
    """Every file below, also in linked folders, but not round and round in one that holds a link to itself.

    A link to a folder of the dataset, or to one that holds it, is passed over: its images have a label of their own.
    """
    here = folder.resolve()
    if here in above:
        return
    for entry in _entries(folder):
        if not entry.is_dir():
            yield entry
        elif not (entry.is_symlink() and _overlap(entry.resolve(), root.resolve())):
            yield from _files_below(entry, root, above | {here})


def _overlap(one, other):
    return one.is_relative_to(other) or other.is_relative_to(one)


def _entries(folder):
    with readable(folder):
        return list(folder.iterdir())


def _visible(folder):
    return sorted(f for f in _entries(folder) if f.is_dir() and not f.name.startswith("."))


def _check_class_name(root, name):
    odd = sorted(FORBIDDEN & set(name)) or [c for c in name if not c.isprintable()]
    if odd or not name.strip() or name != name.strip() or name.startswith(".") or len(name) > 60:
        raise UserError(
            f"{root}: the class name {name!r} cannot be used in file names; take 1 to 60 characters, none of "
            f"{' '.join(sorted(FORBIDDEN))}, and no dot or space at its start."
        )


def _classes(settings, root, table):
    found = tuple(sorted(table["label"].unique()))
    for name in settings.classes:
        check_name(name, found, f"class among the images of {root}")
    if len(set(settings.classes)) < len(settings.classes):
        raise UserError(f"classes lists a class twice ({', '.join(settings.classes)}); keep one.")
    return tuple(settings.classes) or found


def draw_splits(table, settings):
    """The split of each image: as given, and where a split is not given its share of every class.

    Shapes: table with columns path, label, split ("" for all rows, or given for all) -> Series of train, valid, test.
    Where `valid` is not given it is taken from the training images, likewise `test`. A class keeps at least one
    training image; it gets a test image from two images on, a validation image from five.
    """
    given = set(table["split"]) - {""}
    out = table["split"].replace("", "train")
    for _, rows in table[out == "train"].groupby("label"):
        order = sorted(rows.index, key=lambda i: _mark(rows["path"][i], settings.split_seed))
        n_test = 0 if "test" in given else _count(settings.test_share, len(order), 2)
        n_valid = 0 if "valid" in given else _count(settings.valid_share, len(order), 5)
        n_valid = min(n_valid, len(order) - n_test - 1)
        out[order[:n_test]] = "test"
        out[order[n_test : n_test + n_valid]] = "valid"
    return out


def _mark(path, seed):
    return zlib.crc32(f"{seed}/{path}".encode("utf-8", "replace")), path


def _count(share, n, least):
    return max(1, round(share * n)) if share > 0 and n >= least else 0
