"""AffectNet's older form: photographs in numbered folders, and CSV lists with the face's box and its expression.

Manually_Annotated_file_lists/training.csv and validation.csv; pictures in Manually_Annotated_Images, here or in
Manually_Annotated. The face box is cut out; rows of no expression, an uncertain one or no face (8, 9, 10) are left out.
"""

import hashlib

import numpy as np
import pandas as pd

from fer_openset.datasets.ferplus_pixels import need_columns
from fer_openset.datasets.image_files import digest_of, match, need_list, scan
from fer_openset.datasets.pictures import paths_inside
from fer_openset.errors import UserError
from fer_openset.labels import AFFECTNET

LISTS = {"train": "training.csv", "test": "validation.csv"}
BOX = ("face_x", "face_y", "face_width", "face_height")
COLUMNS = ("subDirectory_filePath", *BOX, "expression")
NUMBERS = 11  # eight expressions, then none, uncertain, no face


def read_parts(root):
    """Rows and digest of the training and the validation list; columns sample_id, label, split, path, box.

    Raises: UserError naming the file, the line or the image that is missing or wrong.
    """
    lists, images = _find(root)
    frames = {split: _read_list(lists / name) for split, name in LISTS.items()}
    listed = pd.concat([frame["name"] for frame, _ in frames.values()])
    if listed.duplicated().any():
        raise UserError(f"{lists}: {' and '.join(LISTS.values())} name {listed[listed.duplicated()].iloc[0]} twice; "
                        "keep the row that is right.")  # fmt: skip
    kept = {split: frame[frame["label"] != ""] for split, (frame, _) in frames.items()}
    paths_inside(images, listed)
    found = _scan_subfolders(images, listed)
    # A row without an expression may lack its picture: nobody looks at it.
    unused = set(listed) - set().union(*(frame["name"] for frame in kept.values()))
    match(images, set(listed) - (unused - set(found)), found, " or ".join(LISTS.values()))
    pixels = digest_of(found)
    return [(_rows(kept[split], split, images), [digest, pixels]) for split, (_, digest) in frames.items()]


def _find(root):
    lists = next((base for base in (root / "Manually_Annotated_file_lists", root) if (base / LISTS["train"]).is_file()),
                 None)  # fmt: skip
    if lists is None:
        raise UserError(f"{root}: neither train_set and val_set nor Manually_Annotated_file_lists/{LISTS['train']}; "
                        "put AffectNet there in one of its two forms.")  # fmt: skip
    places = [root / "Manually_Annotated_Images", root / "Manually_Annotated" / "Manually_Annotated_Images"]
    images = next((place for place in places if place.is_dir()), None)
    if images is None:
        raise UserError(f"{places[0]}: there is no such folder; {LISTS['train']} lists images in it.")
    return lists, images


def _scan_subfolders(images, listed):
    """Pictures of every folder that the lists name or that is there, by their path below `images`."""
    folders = {"", *(name.rpartition("/")[0] for name in listed)}
    folders |= {path.name for path in images.iterdir() if path.is_dir()}
    found = {}
    for folder in sorted(folders):
        if (images / folder).is_dir():
            found |= {f"{folder}/{name}".lstrip("/"): stat for name, stat in scan(images / folder).items()}
    return found


def _rows(frame, split, images):
    edges = frame[list(BOX)].to_numpy()
    edges[:, 2:] += edges[:, :2]
    return pd.DataFrame({
        "sample_id": split + "_" + frame["name"],
        "label": frame["label"],
        "split": split,
        "path": f"{images}/" + frame["name"],
        "box": list(map(tuple, edges.tolist())),
    })  # fmt: skip


def _read_list(path):
    """Rows of one list, columns name, label ("" where there is no expression) and the box; the file's sha256."""
    need_list(path, "AffectNet's labels are expected there.")
    try:
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        need_columns(path, pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns, COLUMNS)
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", usecols=list(COLUMNS))
    except (OSError, ValueError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path}: not readable as CSV ({' '.join(str(error).split())}); get the file again.") from None
    names = frame["subDirectory_filePath"]
    number = pd.to_numeric(frame["expression"], errors="coerce")
    wrong = ~number.isin(range(NUMBERS))
    _refuse(path, names, wrong, f"has {frame['expression'][wrong].tolist()[:1]} as its expression, expected 0 to 10")
    rows = pd.DataFrame({"name": names})
    rows["label"] = np.array([*AFFECTNET, *[""] * (NUMBERS - len(AFFECTNET))], dtype=object)[number.astype(int)]
    for column in BOX:
        value = pd.to_numeric(frame[column], errors="coerce").to_numpy(float, na_value=np.nan)
        wrong = ~(np.abs(value) < 1e6) | (column.endswith(("width", "height")) & ~(value > 0))
        _refuse(path, names, wrong & (rows["label"] != ""),
                f"has {frame[column][wrong].tolist()[:1]} as its {column}, expected pixels")  # fmt: skip
        rows[column] = np.where(wrong, 0, value).astype(int)
    return rows, digest


def _refuse(path, names, wrong, why):
    """Raise UserError for the first row marked wrong, by its line in the file (line 1 is the header)."""
    if wrong.any():
        first = int(np.argmax(wrong))
        raise UserError(f"{path}: line {first + 2} ({names.iloc[first] or 'no image name'}) {why}.")
