"""The CSV form of a dataset of one's own: a row an image, path,label[,split]."""

import io

import pandas as pd

from fer_openset.datasets.pictures import paths_inside
from fer_openset.errors import UserError

COLUMNS = ("path", "label")


def read_labels(root, name, split_words):
    """Rows of ROOT/name: path under the root (with /), label, split ("" where the file has no such column).

    split_words: what may stand in the split column -> train, valid or test. Raises: UserError naming the line.
    """
    file = root / name
    try:
        text = file.read_text(encoding="utf-8-sig")
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; expected lines of path,label or path,label,split.") from None
    except (OSError, ValueError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise UserError(f"{file}: not readable as CSV ({' '.join(str(error).split())}); mend the file.") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first columns for row names
        raise UserError(f"{file}: not readable as CSV (its lines have more fields than its first); mend the file.")
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise UserError(f"{file}: no column {', '.join(missing)}; expected path,label or path,label,split at its top.")
    rows = frame[list(COLUMNS)].apply(lambda column: column.str.strip())
    rows["split"] = frame["split"].str.strip().str.lower() if "split" in frame else ""
    rows = rows[(rows != "").any(axis=1)]  # empty lines
    words = split_words if "split" in frame else {"": ""}
    for row in rows.itertuples():
        why = _wrong(row, words)
        if why:
            raise UserError(f"{file}: line {row.Index + 2} {why}.")
    again = rows["path"].duplicated()
    if again.any():
        path = rows["path"][again.idxmax()]
        raise UserError(f"{file}: line {again.idxmax() + 2} names {path} a second time; keep one.")
    files = dict(zip(rows.index, paths_inside(root, rows["path"]), strict=True))
    absent = next((i for i, file in files.items() if not file.is_file()), None)
    if absent is not None:
        raise UserError(f"{file}: line {absent + 2} names {rows['path'][absent]}, which is not in {root}; restore it.")
    return rows.assign(split=rows["split"].map(words)).reset_index(drop=True)


def _wrong(row, split_words):
    if not row.path:
        return "has no path"
    if not row.label:
        return "has no label"
    if row.split not in split_words:
        return f"has the split {row.split!r}; expected train, valid or test (or no column split)"
    return None
