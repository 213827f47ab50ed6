"""FERPlus: FER2013's 48x48 grey faces with ten crowd votes each (Barsoum et al. 2016), in either form people have it.

Form 1, as the official generate_training_data.py writes it: fer2013new.csv beside FER2013Train, FER2013Valid and
FER2013Test (here or in data/) full of PNG files. Form 2: fer2013.csv beside fer2013new.csv, rows paired by position.
Both give the same table and the same pixels; where both are present the PNG files are read.
"""

import hashlib
import io
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from fer_openset.datasets.ferplus_pixels import (
    FOLDERS,
    PIXELS_FILE,
    VOTES_FILE,
    Fer2013File,
    check_pngs,
    need_columns,
    png_decoder,
    png_folder,
)
from fer_openset.datasets.image_files import need_folder, need_list
from fer_openset.datasets.store import SPLITS, Listing
from fer_openset.errors import UserError
from fer_openset.labels import AMBIGUOUS, BASIC, CONTEMPT, FERPLUS_COLUMNS
from fer_openset.settings import Settings

READER = 1  # raise it when the same files would give other pixels
SPLIT_OF = dict(zip(FOLDERS, SPLITS, strict=True))
ON_REQUEST = (CONTEMPT, AMBIGUOUS)


class FerplusSettings(Settings):
    """Settings of params/datasets/ferplus.yaml; `ambiguous` is set by naming that class as open, not in the file."""

    root: str
    image_size: int = Field(ge=8, le=1024)
    contempt: bool
    min_vote_share: float = Field(ge=0, le=1)
    ties: Literal["first", "drop"]
    ambiguous: bool = False


def class_names(settings):
    """The classes under these settings: the seven basic expressions, contempt and ambiguous faces if asked for."""
    return (*BASIC, *[CONTEMPT] * settings.contempt, *[AMBIGUOUS] * settings.ambiguous)


def with_classes(settings, names):
    """The change of settings that brings in the classes `names`."""
    return {key: getattr(settings, key) or key in names for key in ON_REQUEST}


def read(settings, root):
    """List FERPlus under `root`: the images whose votes give one of the wanted expressions, and how to decode them.

    Returns a `store.Listing` with C = 1, training rows first. A name that stands in two rows (four do, in the published
    file) is two samples of one picture, the second with `_2` after its id: counted so, the images add up to 28,224.
    Source: github.com/microsoft/FERPlus. Raises: UserError naming the file and the row that is missing or wrong.
    """
    root = Path(root)
    need_folder(root, "put FERPlus there, or give its folder as data_root.")
    votes, usages, digest = _read_votes(root / VOTES_FILE)
    classes = class_names(settings)
    cast = votes[list(FERPLUS_COLUMNS)].to_numpy()
    winner = majority(cast, settings.ties, settings.min_vote_share)
    votes["label"] = np.array([*FERPLUS_COLUMNS, ""], dtype=object)[winner]  # -1 takes the last: no label
    if settings.ambiguous:
        columns = [FERPLUS_COLUMNS.index(name) for name in classes if name != AMBIGUOUS]
        votes.loc[ambiguous(cast, columns), "label"] = AMBIGUOUS
    kept = votes[votes["label"].isin(classes)]
    kept = kept.iloc[np.argsort(kept["split"].map(SPLITS.index).to_numpy(), kind="stable")]
    faces, decode, files = _faces(root, votes, usages, kept, settings.image_size)
    material = {"reader": READER, "votes": digest, "faces": faces, "image_size": settings.image_size}
    shape = (1, settings.image_size, settings.image_size)
    table = kept.set_index("sample_id")[["label", "split"]]
    return Listing("ferplus", table, classes, material, shape, decode, files)


def majority(votes, ties="first", min_vote_share=0.0):
    """Column that wins each row, or -1 where none does: a tie with `ties="drop"`, or too small a share of the votes.

    Shapes: votes (N, C) non-negative integers, every row with at least one vote; returns (N,) int64.
    Differs: neither the paper nor FERPlus says what a tie is; `first` (the first column wins) gives their image counts.
    """
    winner = votes.argmax(axis=1).astype(np.int64)
    best = votes.max(axis=1)
    keep = best / votes.sum(axis=1) >= min_vote_share
    if ties == "drop":
        keep &= (votes == best[:, None]).sum(axis=1) == 1
    return np.where(keep, winner, -1)


def ambiguous(votes, columns):
    """Whether the crowd saw two expressions in a face and agreed on none: bool (N,).

    True where none of the expressions in `columns` has more than half of all ten columns' votes and two of them have at
    least 30 % each. Shapes: votes (N, C) as in `majority`. Differs: ours, a stand-in for compound expressions (the
    paper's Table 3 takes RAF-DB's) where only crowd votes are at hand.
    """
    most, second = np.sort(votes[:, columns], axis=1)[:, :-3:-1].T
    total = votes.sum(axis=1)
    return (2 * most <= total) & (10 * second >= 3 * total)


def _faces(root, votes, usages, kept, size):
    """What decides the pixels, the function that decodes those of the rows `kept`, and their files if they have any."""
    folder = png_folder(root)
    if folder is not None:
        files = list(f"{folder}/" + kept["folder"] + "/" + kept["name"])
        return check_pngs(folder, votes), png_decoder(folder, kept, size), files
    path = root / PIXELS_FILE
    if not path.is_file():
        names = ", ".join(FOLDERS.values())
        raise UserError(f"{root}: neither PNG files in {names} nor {PIXELS_FILE}; put one of the two there.")
    # The official script writes a repeated name twice, so the last of its rows is the picture that stays on disk.
    positions = kept["name"].map(votes.groupby("name")["position"].max()).to_numpy()
    found = path.stat()
    return [found.st_size, found.st_mtime_ns], Fer2013File(path, usages, positions, size).decode, None


def _read_votes(path):
    """Rows of fer2013new.csv that name an image, checked; the Usage of every row; the file's sha256.

    Columns of the rows: sample_id, split, folder, name, position (0 is the file's second line) and the ten votes.
    """
    frame, digest = _read_csv(path)
    need_columns(path, frame.columns, ("Usage", "Image name", *FERPLUS_COLUMNS))
    rows = frame[list(FERPLUS_COLUMNS)].copy()
    rows.insert(0, "name", frame["Image name"].fillna(""))
    rows.insert(1, "position", np.arange(len(frame)))
    _refuse(path, rows, ~frame["Usage"].isin(list(FOLDERS)), f"has none of {', '.join(FOLDERS)} as its Usage")
    outside = rows["name"].str.contains(r"[/\\\x00]|\.\.", regex=True)
    _refuse(path, rows, outside, "must hold a bare file name such as fer0000000.png, without a folder")
    for column in FERPLUS_COLUMNS:
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        wrong = ~((values >= 0) & (values == np.floor(values)) & (values < 1e6))
        _refuse(path, rows, wrong, f"has {frame[column][wrong].tolist()[:1]} as votes for {column}, not a whole number")
        rows[column] = values.astype(np.int64)
    rows["split"], rows["folder"] = frame["Usage"].map(SPLIT_OF), frame["Usage"].map(FOLDERS)
    rows = rows[rows["name"] != ""].copy()  # the official script skips the others: no face to be seen
    empty = rows[list(FERPLUS_COLUMNS)].sum(axis=1) == 0
    _refuse(path, rows, empty, "has no votes, so no majority; add them, or empty its image name to leave it out")
    again = rows.groupby("name").cumcount()
    rows["sample_id"] = rows["name"].str.removesuffix(".png") + again.map(lambda n: f"_{n + 1}" if n else "")
    twice = rows["sample_id"].duplicated()
    _refuse(path, rows, twice, "would have the sample id of another image; rename the image here and in its folder")
    return rows, frame["Usage"].tolist(), digest


def _read_csv(path):
    need_list(path, "FERPlus's votes are expected there.")
    try:
        raw = path.read_bytes()
        frame = pd.read_csv(io.BytesIO(raw), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path}: not readable as CSV ({' '.join(str(error).split())}); get the file again.") from None
    return frame, hashlib.sha256(raw).hexdigest()


def _refuse(path, rows, wrong, why):
    """Raise UserError for the first row marked wrong, by its line in the file (line 1 is the header)."""
    wrong = np.asarray(wrong, dtype=bool)
    if wrong.any():
        row = rows.iloc[int(np.argmax(wrong))]
        raise UserError(f"{path}: line {row['position'] + 2} ({row['name'] or 'no image name'}) {why}.")
