"""The CSV form of a dataset of one's own: a row an image, path,label[,split]."""

import io
import os

import pandas as pd

from fer_openset.datasets.image_files import need_list
from fer_openset.datasets.pictures import paths_inside
from fer_openset.errors import UserError

COLUMNS = ("path", "label")


def read_labels(root, name, split_words):
    """Rows of ROOT/name: path under the root (with /), label, split ("" where the file has no such column).

    split_words: what may stand in the split column -> train, valid or test. Raises: UserError naming the line.
    """
    file = root / name
    need_list(file, "expected lines of path,label or path,label,split.")
    try:
        text = file.read_text(encoding="utf-8-sig")
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (OSError, ValueError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise UserError(f"{file}: not readable as CSV ({' '.join(str(error).split())}); mend the file.") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first columns for row names
        raise UserError(f"{file}: not readable as CSV (its lines have more fields than its first); mend the file.")
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise UserError(f"{file}: no column {', '.join(missing)}; expected path,label or path,label,split at its top.")
    rows = frame[list(COLUMNS)].assign(label=frame["label"].str.strip())  # a file's name may begin with a space
    rows["split"] = frame["split"].str.strip().str.lower() if "split" in frame else ""
    rows = rows[rows.apply(lambda column: column.str.strip() != "").any(axis=1)]  # empty lines
    words = split_words if "split" in frame else {"": ""}
    for row in rows.itertuples():
        why = _wrong(row, words)
        if why:
            raise UserError(f"{file}: line {row.Index + 2} {why}.")
    files = pd.Series(paths_inside(root, rows["path"]), rows.index, dtype=object)
    again = files.duplicated()  # a.png and ./a.png are one file
    if again.any():
        path = rows["path"][again.idxmax()]
        raise UserError(f"{file}: line {again.idxmax() + 2} names {path} a second time; keep one.")
    absent = next((i for i, path in files.items() if not os.path.isfile(path)), None)
    if absent is not None:
        raise UserError(f"{file}: line {absent + 2} names {rows['path'][absent]}, which is not in {root}; restore it.")
    return rows.assign(split=rows["split"].map(words)).reset_index(drop=True)


def _wrong(row, split_words):
    if not row.path.strip():
        return "has no path"
    if not row.label:
        return "has no label"
    if row.split not in split_words:
        return f"has the split {row.split!r}; expected train, valid or test (or no column split)"
    return None
