"""The one tidy table of runs: read, rebuilt from the runs at hand, merged by key, written.

`results/tables/runs.csv` holds a row a run. It is rebuilt from the runs at hand merged with the rows already there.
Trials (see `datasets.trial`) have a table of their own, `trials.csv`: settings are chosen on them, nothing is compared.
"""

import json
from pathlib import Path

import pandas as pd

from fer_openset.atomic import write_csv
from fer_openset.errors import UserError
from fer_openset.methods.predictions import PREDICTIONS, REPLACES
from fer_openset.runs import is_trial
from fer_openset.settings import results_dir

KEY = ("dataset", "preset", "open_classes", "alignment", "method", "variant", "seed")
SETTING = KEY[:-1]
_TYPES = {
    **dict.fromkeys(SETTING, "str"),
    **dict.fromkeys(("seed", "n_known", "n_open"), "int64"),
    **dict.fromkeys(("auroc", "auroc_lo", "auroc_hi", "fpr_at_tpr95", "fpr_at_tpr95_open", "aupr_open"), "float64"),
    **dict.fromkeys(("oscr", "closed_accuracy", "seconds", "peak_mb"), "float64"),
    **dict.fromkeys(("device", "commit", "f_close"), "str"),  # f_close: see `pipeline.save_scores`
}
POOL = ("dataset", "preset", "open_classes", "seed")  # runs of one pool share its images, and should share f_close
RUN_COLUMNS = tuple(_TYPES)
# Digits kept in runs.csv. Rounding once makes a table read and written again the same file, byte for byte.
_DIGITS = {name: 1 if name in ("seconds", "peak_mb") else 6 for name, kind in _TYPES.items() if kind == "float64"}


def runs_path():
    """Where the tidy table lies: `tables/runs.csv` under the results folder."""
    return results_dir() / "tables" / "runs.csv"


def trials_path():
    """Where the table of trials lies: `tables/trials.csv` under the results folder."""
    return results_dir() / "tables" / "trials.csv"


def read_runs(path=None):
    """The tidy table; without the file, an empty table with the right columns.

    Raises: UserError for a file that is no such table.
    """
    path = Path(path or runs_path())
    if not path.exists():
        return _typed(pd.DataFrame(columns=list(RUN_COLUMNS)), path)
    return _typed(read_csv(path), path)


def collect_runs(runs_dir=None):
    """The finished runs on disk, trials too, one row for each `methods/METHOD/ALIGNMENT/VARIANT/run.json`.

    Raises: UserError for a file that is no run, and for two folders that claim to be the same run.
    """
    runs_dir = Path(runs_dir or results_dir() / "runs")
    found = {}
    for path, row in finished_runs(runs_dir, trials=True):
        key = tuple(row[name] for name in KEY)
        if key in found:
            raise UserError(f"{path}: the same run as {found[key][0]}; move one of the two folders out of {runs_dir}.")
        found[key] = path, row
    return _typed(pd.DataFrame([row for _, row in found.values()], columns=list(RUN_COLUMNS)), runs_dir)


def finished_runs(runs_dir=None, trials=False):
    """Path of `run.json` and row of each finished run on disk, trials too if asked. Raises: UserError, see above.

    A method with a classifier of its own that left no predictions (runs of earlier versions) has no OSCR and no closed
    accuracy: what its record says are f_close's.
    """
    for path in sorted(Path(runs_dir or results_dir() / "runs").glob("**/methods/*/*/*/run.json")):
        row = _read_row(path)
        if row["method"] in REPLACES and not (path.parent / PREDICTIONS).exists():
            row |= {"oscr": None, "closed_accuracy": None}
        if row["preset"] != "smoke" and (trials or not is_trial(row["dataset"])):  # smoke runs are tests, not results
            yield path, row


def truth_of(path):
    """Whether each pool image of a run is open: bool Series by sample id, from what its pseudo-label step wrote.

    path: of the run's `run.json`. Raises: UserError when that file is gone.
    """
    table = path.parents[4] / "pseudo_labels" / "pseudo_labels.csv"
    if not table.exists():
        raise UserError(f"{table}: there is no such file; run the pseudo-label notebook (02) of this run again.")
    return pd.read_csv(table, index_col="sample_id")["part"].str.startswith("open")


def merge_rows(committed, found, key):
    """Two tables in one, sorted by `key`; a newly found row replaces the committed one of the same key."""
    rows = pd.concat([frame for frame in (committed, found) if len(frame)] or [committed])
    return rows.drop_duplicates(list(key), keep="last").sort_values(list(key), ignore_index=True)


def merge_runs(committed, found):
    """Both tables in one, sorted by `KEY`; a newly found row replaces the committed one of the same key."""
    return _typed(merge_rows(committed, found, KEY), "the merged runs")


def mixed_pools(runs):
    """Pools of which not all rows tell of one f_close: one sentence each, for whoever compares their methods."""
    found = []
    for pool, rows in runs.groupby(list(POOL)):
        counts = rows["f_close"].value_counts().sort_index()
        if len(counts) > 1:
            told = [
                f"{name} ({count} runs)" if name else f"one not recorded ({count} runs)"
                for name, count in counts.items()
            ]
            found.append(f"{' '.join(map(str, pool))}: not all from one f_close: {', '.join(told)}.")
    return found


def write_tables(runs_dir=None, path=None):
    """Rebuild the tidy table from the runs at hand and the rows already there; returns it. The file appears whole.

    Trials at hand go into the table of trials beside it.
    """
    path = Path(path or runs_path())
    found = collect_runs(runs_dir)
    trials = found["dataset"].map(is_trial).astype(bool)
    runs = merge_runs(read_runs(path), found[~trials])
    write_csv(path, runs)
    if trials.any():
        beside = path.with_name(trials_path().name)
        write_csv(beside, merge_runs(read_runs(beside), found[trials]))
    return runs


def _read_row(path):
    try:
        row = {"f_close": "", **json.loads(path.read_text(encoding="utf-8"))["row"]}  # earlier versions do not tell it
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a finished run ({error!r}); delete its folder and run it again.") from None
    if set(row) != set(RUN_COLUMNS):
        odd = ", ".join(sorted(set(row) ^ set(RUN_COLUMNS)))
        raise UserError(f"{path}: the row has other columns than runs.csv ({odd}); delete its folder and run it again.")
    return row


def read_csv(path):
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors of form are ValueErrors
        raise UserError(f"{path}: not readable as CSV ({' '.join(str(error).split())}); restore the file.") from None


def need(frame, columns, where):
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(f"{where}: column(s) {', '.join(missing)} missing; expected {', '.join(columns)}.")


def _typed(frame, where):
    """The run columns in order, each of its type, numbers rounded to what the file keeps."""
    frame = frame if "f_close" in frame else frame.assign(f_close="")
    need(frame, RUN_COLUMNS, where)
    frame = frame[list(RUN_COLUMNS)].copy()
    for name, kind in _TYPES.items():
        try:
            values = frame[name].fillna("") if kind == "str" else pd.to_numeric(frame[name])
            frame[name] = values.astype(kind)
        except (ValueError, TypeError):
            raise UserError(f"{where}: column {name} holds something that is not a number; mend that row.") from None
    return frame.round(_DIGITS)
