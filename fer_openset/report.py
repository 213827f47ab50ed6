"""Tables: the one tidy table of runs, its summaries, and measured beside published.

`results/tables/runs.csv` holds a row a run. It is rebuilt from the runs at hand merged with the rows already there.
Reports never show rows of the synthetic faces or the smoke and demo presets in one table with the paper's numbers.
"""

import html
import json
from pathlib import Path

import pandas as pd

from fer_openset.atomic import write_csv
from fer_openset.errors import UserError
from fer_openset.labels import EXPRESSIONS, check_name
from fer_openset.methods import ORACLE
from fer_openset.settings import ROOT, results_dir

KEY = ("dataset", "preset", "open_classes", "alignment", "method", "variant", "seed")
SETTING = KEY[:-1]
_TYPES = {
    **dict.fromkeys(SETTING, "str"),
    **dict.fromkeys(("seed", "n_known", "n_open"), "int64"),
    **dict.fromkeys(("auroc", "auroc_lo", "auroc_hi", "fpr_at_tpr95", "fpr_at_tpr95_open", "aupr_open"), "float64"),
    **dict.fromkeys(("oscr", "closed_accuracy", "seconds", "peak_mb"), "float64"),
    **dict.fromkeys(("device", "commit"), "str"),
}
RUN_COLUMNS = tuple(_TYPES)
METRICS = ("auroc", "fpr_at_tpr95", "fpr_at_tpr95_open", "aupr_open", "oscr", "closed_accuracy")
LOWER_IS_BETTER = ("fpr_at_tpr95", "fpr_at_tpr95_open")
# Digits kept in runs.csv. Rounding once makes a table read and written again the same file, byte for byte.
_DIGITS = {name: 1 if name in ("seconds", "peak_mb") else 6 for name, kind in _TYPES.items() if kind == "float64"}
NO_RUNS = "no runs yet"
# The methods of the paper's tables, in its order.
PAPER_METHODS = ("msp", "eow", "proser", "dias", "noisy_label")


def runs_path():
    """Where the tidy table lies: `tables/runs.csv` under the results folder."""
    return results_dir() / "tables" / "runs.csv"


def read_runs(path=None):
    """The tidy table; without the file, an empty table with the right columns.

    Raises: UserError for a file that is no such table.
    """
    path = Path(path or runs_path())
    if not path.exists():
        return _typed(pd.DataFrame(columns=list(RUN_COLUMNS)), path)
    return _typed(_read_csv(path), path)


def collect_runs(runs_dir=None):
    """The finished runs on disk, one row for each `methods/METHOD/ALIGNMENT/VARIANT/run.json`, smoke runs left out.

    Raises: UserError for a file that is no run, and for two folders that claim to be the same run.
    """
    runs_dir = Path(runs_dir or results_dir() / "runs")
    found = {}
    for path in sorted(runs_dir.glob("**/methods/*/*/*/run.json")):
        row = _read_row(path)
        if row["preset"] == "smoke":  # tests, not results
            continue
        key = tuple(row[name] for name in KEY)
        if key in found:
            raise UserError(f"{path}: the same run as {found[key][0]}; move one of the two folders out of {runs_dir}.")
        found[key] = path, row
    return _typed(pd.DataFrame([row for _, row in found.values()], columns=list(RUN_COLUMNS)), runs_dir)


def merge_runs(committed, found):
    """Both tables in one, sorted by `KEY`; a newly found row replaces the committed one of the same key."""
    rows = pd.concat([frame for frame in (committed, found) if len(frame)] or [committed])
    rows = rows.drop_duplicates(list(KEY), keep="last").sort_values(list(KEY), ignore_index=True)
    return _typed(rows, "the merged runs")


def write_tables(runs_dir=None, path=None):
    """Rebuild the tidy table from the runs at hand and the rows already there; returns it. The file appears whole."""
    path = Path(path or runs_path())
    runs = merge_runs(read_runs(path), collect_runs(runs_dir))
    write_csv(path, runs)
    return runs


def real_runs(runs):
    """Rows that may stand beside the paper's numbers: neither synthetic faces nor the smoke and demo presets."""
    return runs[(runs["dataset"] != "synthetic") & ~runs["preset"].isin(("smoke", "demo"))]


def summarise(runs, metric="auroc"):
    """One row a setting, seeds averaged: mean, sd (NaN for one seed), n seeds, and the interval lo..hi.

    Rows go by dataset, preset, open classes in the order of `labels.EXPRESSIONS`, alignment, method.
    The interval is the 95 % bootstrap interval over images, its ends averaged over seeds; only AUROC has one.
    """
    check_name(metric, METRICS, "metric")
    rows = runs.assign(lo=runs["auroc_lo"], hi=runs["auroc_hi"])
    if metric != "auroc":
        rows[["lo", "hi"]] = float("nan")
    over_seeds = {"mean": (metric, "mean"), "sd": (metric, "std"), "n": (metric, "size")}
    table = rows.groupby(list(SETTING)).agg(**over_seeds, lo=("lo", "mean"), hi=("hi", "mean")).reset_index()
    order = [(row.dataset, row.preset, _expression_order(row.open_classes)) for row in table.itertuples()]
    return table.iloc[sorted(range(len(table)), key=order.__getitem__)].reset_index(drop=True)


def targets(path=None):
    """The paper's numbers: table, dataset, open_classes, method, metric, value, kind, note; values as published.

    Raises: UserError for a missing file or column.
    """
    path = Path(path or ROOT / "results" / "paper" / "targets.csv")
    if not path.exists():
        raise UserError(f"{path}: there is no such file; restore it from the repository.")
    frame = _read_csv(path)
    _need(frame, ("table", "dataset", "open_classes", "method", "metric", "value", "kind", "note"), path)
    return frame.assign(value=pd.to_numeric(frame["value"]))


def compare_with_paper(runs, metric="auroc", published=None):
    """Measured beside published: `summarise`'s columns for real runs, then published, table and verdict.

    The verdict is `match` if the published value lies within 0.01 of the mean or within the interval, otherwise
    `better` or `worse`. Only the `paper` preset with variant `default` on the same dataset and open classes is
    comparable; other rows say why not. The alignment decides nothing here: it is a column, to be read.
    Differs: the paper's rows of means over open classes are left out, they need every open class at once.
    """
    published = targets() if published is None else published
    published = published[(published["metric"] == metric) & (published["open_classes"] != "mean")]
    # Tables 4 and 5 repeat values of Table 1.
    published = published.drop_duplicates(["dataset", "open_classes", "method"]).rename(columns={"value": "published"})
    columns = ["dataset", "open_classes", "method", "published", "table"]
    rows = summarise(real_runs(runs), metric).merge(published[columns], "left", columns[:3])
    return rows.assign(verdict=[_verdict(row, metric) for row in rows.itertuples()])


def _verdict(row, metric):
    if pd.isna(row.published):
        return "no published value"
    if row.preset != "paper":
        return f"not comparable (preset {row.preset})"
    if row.variant != "default":
        return f"not comparable (variant {row.variant})"
    # Half a unit of the sixth digit: 0.91 - 0.9 is not quite 0.01 in floating point.
    if abs(row.mean - row.published) <= 0.01 + 5e-7 or row.lo <= row.published <= row.hi:
        return "match"
    return "better" if (row.mean > row.published) != (metric in LOWER_IS_BETTER) else "worse"


def summary_table(runs, dataset, preset, metric="auroc", text=True):
    """Method, alignment and variant (rows) by open classes (columns) for one dataset and one preset.

    With `text` a cell reads `0.812 [0.800, 0.824]` for one seed and `0.812 ± 0.010 (3 seeds)` for more; without,
    it is the mean, for figures. Empty cells had no run.
    """
    rows = summarise(runs[(runs["dataset"] == dataset) & (runs["preset"] == preset)], metric)
    rows["cell"] = [_cell(row) for row in rows.itertuples()] if text else rows["mean"]
    table = rows.pivot(index=["method", "alignment", "variant"], columns="open_classes", values="cell")
    table = table[sorted(table.columns, key=_expression_order)]
    return table.fillna("") if text else table


def as_html(frame, best=None):
    """An HTML table of any frame; `best` "max" or "min" sets the best of each column of numbers in bold.

    A cell counts by the number it begins with. Each alignment has its own best; the oracle is never the best.
    """
    check_name(best, (None, "max", "min"), "choice of best")
    if frame.empty:
        return f"<p>{NO_RUNS}</p>"
    cells = frame.map(lambda cell: html.escape(_plain(cell)))
    if best:
        cells = cells.mask(_best_cells(frame, best), "<b>" + cells + "</b>")
    keys = [name for name in frame.index.names if name]
    flat = cells.reset_index() if keys else cells
    flat[keys] = flat[keys].map(lambda key: html.escape(str(key)))
    flat.columns = [html.escape(str(name)) for name in flat.columns]
    return flat.to_html(index=False, escape=False, border=0)


def as_text(runs):
    """Runs for the terminal: for each open class and method AUROC [lo, hi], FPR@TPR95 and closed accuracy.

    One block for each dataset and preset, so that synthetic and real numbers never share a table.
    """
    if runs.empty:
        return NO_RUNS
    named = {"auroc": "AUROC", "fpr_at_tpr95": "FPR@TPR95", "closed_accuracy": "closed accuracy"}
    blocks = []
    for (dataset, preset), part in runs.groupby(["dataset", "preset"]):
        rows = summarise(part)[["open_classes", "method", "alignment", "variant"]]
        for metric, title in named.items():
            rows[title] = [_cell(row) for row in summarise(part, metric).itertuples()]
        rows.loc[rows["open_classes"].duplicated(), "open_classes"] = ""
        blocks.append(f"{dataset}, preset {preset}\n" + _aligned(rows.rename(columns={"open_classes": "open class"})))
    return "\n\n".join(blocks)


def _aligned(rows):
    lines = [list(rows.columns), *rows.itertuples(index=False)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(row):
    if row.n > 1:
        return f"{row.mean:.3f} ± {row.sd:.3f} ({row.n} seeds)"
    return f"{row.mean:.3f}" + (f" [{row.lo:.3f}, {row.hi:.3f}]" if pd.notna(row.lo) else "")


def _plain(cell):
    if isinstance(cell, float):
        return "" if pd.isna(cell) else f"{cell:.3f}"
    return str(cell)


def _best_cells(frame, best):
    numbers = frame.map(lambda cell: pd.to_numeric(str(cell).split(" ")[0], errors="coerce")).astype("float64")
    if "method" in frame.index.names:  # an upper bound is no competitor
        numbers[frame.index.get_level_values("method") == ORACLE] = float("nan")
    if "alignment" in frame.index.names:
        return numbers == numbers.groupby(level="alignment").transform(best)
    return numbers == numbers.agg(best)


def _expression_order(open_classes):
    names = open_classes.split("+")
    return len(names), [EXPRESSIONS.index(n) if n in EXPRESSIONS else len(EXPRESSIONS) for n in names], open_classes


def _read_row(path):
    try:
        row = json.loads(path.read_text(encoding="utf-8"))["row"]
        keys = set(row)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a finished run ({error!r}); delete its folder and run it again.") from None
    if keys != set(RUN_COLUMNS):
        odd = ", ".join(sorted(keys ^ set(RUN_COLUMNS)))
        raise UserError(f"{path}: the row has other columns than runs.csv ({odd}); delete its folder and run it again.")
    return row


def _read_csv(path):
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors of form are ValueErrors
        raise UserError(f"{path}: not readable as CSV ({' '.join(str(error).split())}); restore the file.") from None


def _need(frame, columns, where):
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(f"{where}: column(s) {', '.join(missing)} missing; expected {', '.join(columns)}.")


def _typed(frame, where):
    """The run columns in order, each of its type, numbers rounded to what the file keeps."""
    _need(frame, RUN_COLUMNS, where)
    frame = frame[list(RUN_COLUMNS)].copy()
    for name, kind in _TYPES.items():
        try:
            values = frame[name].fillna("") if kind == "str" else pd.to_numeric(frame[name])
            frame[name] = values.astype(kind)
        except (ValueError, TypeError):
            raise UserError(f"{where}: column {name} holds something that is not a number; mend that row.") from None
    return frame.round(_DIGITS)
