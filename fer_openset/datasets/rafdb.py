"""RAF-DB (Li, Deng and Du 2017): aligned 100 x 100 colour faces and a list with a number for each.

Layout, in the data folder or in its subfolder `basic`: EmoLabel/list_patition_label.txt (spelt so) with lines such as
`train_00001.jpg 5`, and Image/aligned/train_00001_aligned.jpg. The split is the first word of a name.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from fer_openset.datasets.image_files import digest_of, match, need_folder, need_list, rgb_decoder, scan
from fer_openset.datasets.store import SPLITS, Listing
from fer_openset.errors import UserError
from fer_openset.labels import BASIC
from fer_openset.settings import Settings

READER = 1  # raise it when the same files would give other pixels
LIST_FILE = Path("EmoLabel") / "list_patition_label.txt"
IMAGE_FOLDER = Path("Image") / "aligned"


class RafdbSettings(Settings):
    """Settings of params/datasets/rafdb.yaml."""

    root: str
    image_size: int = Field(ge=8, le=1024)


def class_names(settings):
    """The seven basic expressions."""
    return BASIC


def read(settings, root):
    """List RAF-DB's basic set under `root`: returns a `store.Listing` with C = 3, training rows first.

    Source: whdeng.cn/RAF/model1.html. Raises: UserError naming the file, line or image that is missing or wrong.
    """
    return listing_of("rafdb", [read_set(basic_folder(Path(root)), BASIC)], BASIC, settings.image_size)


def basic_folder(root):
    """Where the basic set lies: `root`/basic, or `root` itself."""
    need_folder(root, "put RAF-DB there, or give its folder as data_root.")
    return root / "basic" if os.path.isdir(root / "basic") else root


def read_set(folder, classes, prefix=""):
    """Rows and digest of one set: DataFrame with columns sample_id, label, split, path, in the order of its list.

    classes: what the numbers 1, 2, ... stand for; prefix: what goes before a name to make its sample id.
    """
    need_folder(folder, f"expected {LIST_FILE} and {IMAGE_FOLDER} in it.")
    rows, list_digest = _read_list(folder / LIST_FILE, classes)
    images = folder / IMAGE_FOLDER
    need_folder(images, f"{LIST_FILE.name} lists {len(rows)} images in it.")
    found = scan(images, ".jpg")
    stems = rows["name"].str.removesuffix(".jpg")
    match(images, stems + "_aligned.jpg", found, LIST_FILE.name)
    rows["sample_id"], rows["path"] = prefix + stems, f"{images}/" + stems + "_aligned.jpg"
    return rows.drop(columns="name"), [list_digest, digest_of(found)]


def listing_of(name, sets, classes, size):
    """One listing of several sets, each as `read_set` gives it."""
    rows = pd.concat([rows for rows, _ in sets], ignore_index=True)
    rows = rows.iloc[np.argsort(rows["split"].map(SPLITS.index).to_numpy(), kind="stable")]
    material = {"reader": READER, "files": [digest for _, digest in sets], "image_size": size}
    files = list(rows["path"])
    table = rows.set_index("sample_id")[["label", "split"]]
    return Listing(name, table, tuple(classes), material, (3, size, size), rgb_decoder(files, size), files)


def _read_list(path, classes):
    """Rows of a list_patition_label.txt, columns name, label, split, and the file's sha256."""
    need_list(path, "RAF-DB's labels are expected there.")
    try:
        raw = path.read_bytes()
        lines = raw.decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as UTF-8 text ({error}); get the file again.") from None
    rows = [_read_line(line, f"{path}: line {number}", classes) for number, line in enumerate(lines, 1) if line.strip()]
    frame = pd.DataFrame(rows, columns=["name", "label", "split"])
    again = frame["name"].duplicated()
    if again.any():
        raise UserError(f"{path}: names {frame['name'][again].iloc[0]} twice; keep the line that is right.")
    return frame, hashlib.sha256(raw).hexdigest()


def _read_line(line, where, classes):
    name, number = [*line.rsplit(None, 1), ""][:2]  # a name may hold spaces
    split = name.partition("_")[0]
    if split not in ("train", "test") or not name.endswith(".jpg") or not number:
        raise UserError(f"{where} reads {line.strip()!r}; expected a name such as train_00001.jpg or test_0001.jpg, "
                        "a space and a class number.")  # fmt: skip
    if set(name) & set("/\\\0"):
        raise UserError(f"{where} must hold a bare file name, without a folder, got {name!r}.")
    if number not in map(str, range(1, len(classes) + 1)):
        raise UserError(f"{where} has the class number {number!r}; expected 1 ({classes[0]}) to "
                        f"{len(classes)} ({classes[-1]}).")  # fmt: skip
    return name, classes[int(number) - 1], split
