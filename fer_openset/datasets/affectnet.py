"""AffectNet with eight expressions (Mollahosseini, Hasani and Mahoor 2019), in either form people have it.

Form 1 (AffectNet-8): train_set and val_set, each with 224 x 224 colour faces images/ID.jpg and annotations/ID_exp.npy.
Form 2, the older one, is read by affectnet_lists.py: whole photographs, and CSV files that say where the face is. The
validation set is the test split, as everyone uses it: the test set was never published.
"""

import io
from pathlib import Path
from textwrap import shorten

import numpy as np
import pandas as pd
from pydantic import Field

from fer_openset.datasets import affectnet_lists
from fer_openset.datasets.image_files import digest_of, match, need_folder, rgb_decoder, scan
from fer_openset.datasets.store import Listing
from fer_openset.errors import UserError
from fer_openset.labels import AFFECTNET, BASIC, CONTEMPT
from fer_openset.numpy_files import DAMAGED
from fer_openset.settings import Settings

READER = 1  # raise it when the same files would give other pixels
FOLDERS = {"train": "train_set", "test": "val_set"}
MARK = "_exp.npy"
MOST_BYTES = 4096  # of an annotation: a header and one number
ON_REQUEST = (CONTEMPT,)


class AffectnetSettings(Settings):
    """Settings of params/datasets/affectnet.yaml."""

    root: str
    image_size: int = Field(ge=8, le=1024)
    contempt: bool


def class_names(settings):
    """The expressions under these settings: eight, or seven without contempt."""
    return (*BASIC, *[CONTEMPT] * settings.contempt)


def with_classes(settings, names):
    """The change of settings that brings in the classes `names`."""
    return {"contempt": settings.contempt or CONTEMPT in names}


def read(settings, root):
    """List AffectNet under `root`: returns a `store.Listing` with C = 3, training rows first.

    Source: mohammadmahoor.com/affectnet. Raises: UserError naming the file or row that is missing or wrong.
    """
    root = Path(root)
    need_folder(root, "put AffectNet there, or give its folder as data_root.")
    parts = _annotated(root) if (root / FOLDERS["train"]).is_dir() else affectnet_lists.read_parts(root)
    rows, digests = pd.concat([rows for rows, _ in parts], ignore_index=True), [digest for _, digest in parts]
    rows = rows[rows["label"].isin(class_names(settings))]
    files, boxes = list(rows["path"]), list(rows["box"]) if "box" in rows else None
    table = rows.set_index("sample_id")[["label", "split"]]
    size = settings.image_size
    material = {"reader": READER, "files": digests, "image_size": size}
    decode = rgb_decoder(files, size, boxes)
    return Listing("affectnet", table, class_names(settings), material, (3, size, size), decode, files)


def _annotated(root):
    """Rows and digest of the training set and of the validation set."""
    return [_read_set(root / folder, split) for split, folder in FOLDERS.items()]


def _read_set(folder, split):
    images, notes = folder / "images", folder / "annotations"
    for part in (images, notes):
        need_folder(part, "AffectNet-8 keeps images and annotations in each of its two folders.")
    found, labels = scan(images, ".jpg"), scan(notes, MARK)
    note_of = {name[: -len(MARK)]: name for name in labels}  # the ending in whatever case
    match(images, [f"{stem}.jpg" for stem in note_of], found, f"{folder.name}/annotations")
    read_number = _NumberReader()
    stems = [name[: -len(".jpg")] for name in found]
    rows = pd.DataFrame({
        "sample_id": [f"{split}_{stem}" for stem in stems],
        "label": [AFFECTNET[read_number(f"{notes}/{note_of[stem]}", labels[note_of[stem]][0])] for stem in stems],
        "split": split,
        "path": [f"{images}/{name}" for name in found],
    })  # fmt: skip
    return rows, digest_of(found)


class _NumberReader:
    """Reads the one number of a .npy file, without numpy's loader for objects; equal files are parsed once."""

    def __init__(self):
        self.known = {}

    def __call__(self, path, size):
        try:
            if size > MOST_BYTES:
                raise ValueError(f"{size} bytes, expected one number")
            with open(path, "rb") as handle:
                raw = handle.read(MOST_BYTES)
            if raw not in self.known:
                self.known[raw] = _number(raw)
        except DAMAGED as error:
            reason = shorten(str(error), 200, placeholder=" ...")
            raise UserError(f"{path}: not readable as an annotation ({reason}); get the file again.") from None
        number = self.known[raw]
        if not 0 <= number < len(AFFECTNET):
            raise UserError(f"{path}: class number {number}; expected 0 ({AFFECTNET[0]}) to "
                            f"{len(AFFECTNET) - 1} ({AFFECTNET[-1]}).")  # fmt: skip
        return number


def _number(raw):
    """The whole number in a .npy file's bytes, stored as text (as AffectNet does) or as a number."""
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format, expected 1.0 or 2.0")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if shape not in ((), (1,)) or dtype.kind not in "USiu":
        raise ValueError(f"it holds {dtype} of shape {shape}, expected one number")
    value = np.frombuffer(stream.read(), dtype, count=1)[0]
    return int(value.decode() if dtype.kind == "S" else value)
