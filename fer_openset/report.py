"""Comparison: summaries of the table of runs, and measured beside published.

Reports never show rows of the synthetic faces or the smoke and demo presets in one table with the paper's numbers.
"""

import html
from pathlib import Path

import pandas as pd

from fer_openset.datasets import dataset_values
from fer_openset.eligibility import with_reasons
from fer_openset.errors import UserError
from fer_openset.labels import EXPRESSIONS, check_name
from fer_openset.methods import ORACLE
from fer_openset.run_table import (
    KEY,
    RUN_COLUMNS,
    SETTING,
    collect_runs,
    finished_runs,
    merge_rows,
    merge_runs,
    mixed_pools,
    need,
    read_csv,
    read_runs,
    runs_path,
    truth_of,
    write_tables,
)
from fer_openset.settings import ROOT
from fer_openset.variants import DEFAULT

__all__ = [
    "KEY", "METRICS", "NO_RUNS", "RUN_COLUMNS", "as_html", "as_text", "collect_runs", "compare_with_paper",
    "finished_runs", "merge_rows", "merge_runs", "mixed_pools", "read_runs", "real_runs", "runs_path", "same_seeds",
    "summarise", "summary_table", "targets", "truth_of", "write_tables",
]  # fmt: skip
METRICS = ("auroc", "fpr_at_tpr95", "fpr_at_tpr95_open", "aupr_open", "oscr", "closed_accuracy")
LOWER_IS_BETTER = ("fpr_at_tpr95", "fpr_at_tpr95_open")
NO_RUNS = "no runs yet"
POOL = ("dataset", "preset", "open_classes")
# The methods of the paper's tables, in its order.
PAPER_METHODS = ("msp", "eow", "proser", "dias", "noisy_label")


def real_runs(runs):
    """Rows that may stand beside the paper's numbers: neither synthetic faces nor the smoke and demo presets."""
    drawn = [name for name in runs["dataset"].unique() if _is_drawn(name)]
    return runs[~runs["dataset"].isin(drawn) & ~runs["preset"].isin(("smoke", "demo"))]


def _is_drawn(dataset):
    """Whether the faces of a dataset are synthetic ones, whatever its settings file is called."""
    try:
        return dataset_values(dataset, "paper")[0] == "synthetic"
    except UserError:  # its settings file is not at hand: all there is to go by is the name
        return dataset == "synthetic"


def summarise(runs, metric="auroc"):
    """One row a setting, seeds averaged: mean, sd (NaN for one seed), n seeds, and the interval lo..hi.

    Rows go by dataset, preset, open classes in the order of `labels.EXPRESSIONS`, alignment, method.
    The interval is the 95 % bootstrap interval over images, its ends averaged over seeds; only AUROC has one.
    A column `why_not` of the runs (see `eligibility`) is kept: the reason of the first seed that has one.
    """
    check_name(metric, METRICS, "metric")
    rows = runs.assign(lo=runs["auroc_lo"], hi=runs["auroc_hi"])
    if metric != "auroc":
        rows[["lo", "hi"]] = float("nan")
    over_seeds = {"mean": (metric, "mean"), "sd": (metric, "std"), "n": (metric, "count")}
    if "why_not" in rows:
        over_seeds["why_not"] = ("why_not", first_reason)
    table = rows.groupby(list(SETTING)).agg(**over_seeds, lo=("lo", "mean"), hi=("hi", "mean")).reset_index()
    order = [(row.dataset, row.preset, _expression_order(row.open_classes)) for row in table.itertuples()]
    return table.iloc[sorted(range(len(table)), key=order.__getitem__)].reset_index(drop=True)


def first_reason(reasons):
    """The first of some values of `why_not` that is not empty; empty if all are."""
    return next(filter(None, reasons), "")


def same_seeds(runs):
    """The rows of the seed that ran the most methods, alignments and variants on its pool (the first of several), and
    of seeds that ran the very same: where methods are shown side by side, all of them then stand on the same seeds.
    Columns as in the table of runs."""
    if runs.empty:
        return runs
    what = runs[[name for name in ("method", "alignment", "variant") if name in runs]].astype(str)
    ran = what.agg("/".join, axis=1).groupby([runs[name] for name in (*POOL, "seed")])
    ran = ran.agg(lambda names: tuple(sorted(names))).rename("ran").reset_index()
    ran["n"] = ran["ran"].map(len)
    most = ran.sort_values(["n", "seed"], ascending=[False, True]).drop_duplicates(list(POOL))
    kept = ran.merge(most[[*POOL, "ran"]], on=[*POOL, "ran"])
    seeds, kept = (pd.MultiIndex.from_frame(frame[[*POOL, "seed"]]) for frame in (runs, kept))
    return runs[seeds.isin(kept)]


def targets(path=None):
    """The paper's numbers: table, dataset, open_classes, method, metric, value, kind, note; values as published.

    Raises: UserError for a missing file or column.
    """
    path = Path(path or ROOT / "results" / "paper" / "targets.csv")
    if not path.exists():
        raise UserError(f"{path}: there is no such file; restore it from the repository.")
    frame = read_csv(path)
    need(frame, ("table", "dataset", "open_classes", "method", "metric", "value", "kind", "note"), path)
    return frame.assign(value=pd.to_numeric(frame["value"]))


def compare_with_paper(runs, metric="auroc", published=None, variants=None):
    """Measured beside published: `summarise`'s columns for real runs, then published, table and verdict.

    The verdict is `match` if the published value lies within 0.01 of the mean or within the interval, otherwise
    `better` or `worse`. Comparable is only the `paper` preset with variant `default` on the same dataset and open
    classes, with networks that started as the authors' did (`eligibility`); other rows say why not. The alignment
    decides nothing here: it is a column, to be read. variants: as `variants.read_variants` gives them.
    Differs: the paper's rows of means over open classes are left out, they need every open class at once; so are the
    numbers that the authors' notebook printed, on pseudo labels in another order.
    """
    published = targets() if published is None else published
    said = (published["metric"] == metric) & (published["open_classes"] != "mean")
    published = published[said & (published["kind"] == "paper")]
    # Tables 4 and 5 repeat values of Table 1.
    published = published.drop_duplicates(["dataset", "open_classes", "method"]).rename(columns={"value": "published"})
    columns = ["dataset", "open_classes", "method", "published", "table"]
    rows = summarise(with_reasons(real_runs(runs), variants), metric).merge(published[columns], "left", columns[:3])
    verdicts = [verdict(row, metric) for row in rows.itertuples()]
    return rows.drop(columns="why_not").assign(verdict=verdicts)


def verdict(row, metric):
    """How a measured row, `why_not` among its columns, stands beside its published value; see `compare_with_paper`."""
    if pd.isna(row.published):
        return "no published value"
    if row.preset != "paper":
        return f"not comparable (preset {row.preset})"
    if row.variant != "default":
        return f"not comparable (variant {row.variant})"
    if row.why_not:
        return f"not comparable ({row.why_not})"
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
    rows["cell"] = [cell(row) for row in rows.itertuples()] if text else rows["mean"]
    table = rows.pivot(index=["method", "alignment", "variant"], columns="open_classes", values="cell")
    table = table[sorted(table.columns, key=_expression_order)]
    return table.fillna("") if text else table


def as_html(frame, best=None, missing="", plain=()):
    """An HTML table of any frame; `best` "max" or "min" sets the best of each column of numbers in bold.

    A cell counts by the number it begins with. Each alignment has its own best, where two or more compete; who does not
    compete, `is_ranked` says; only default variants do. missing: what an empty cell shows. plain: columns without a
    best, as a count.
    """
    check_name(best, (None, "max", "min"), "choice of best")
    if frame.empty:
        return f"<p>{NO_RUNS}</p>"
    cells = frame.map(lambda cell: html.escape(_plain(cell) or missing))
    if best:
        bold = best_cells(frame, best)
        bold[[name for name in plain if name in bold]] = False
        cells = cells.mask(bold, "<b>" + cells + "</b>")
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
            rows[title] = [cell(row) for row in summarise(part, metric).itertuples()]
        rows.loc[rows["open_classes"].duplicated(), "open_classes"] = ""
        blocks.append(f"{dataset}, preset {preset}\n" + _aligned(rows.rename(columns={"open_classes": "open class"})))
    return "\n\n".join(blocks)


def _aligned(rows):
    lines = [list(rows.columns), *rows.itertuples(index=False)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def cell(row):
    if pd.isna(row.mean):
        return ""
    if row.n > 1 and pd.notna(row.sd):
        return f"{row.mean:.3f} ± {row.sd:.3f} ({row.n} seeds)"
    return f"{row.mean:.3f}" + (f" [{row.lo:.3f}, {row.hi:.3f}]" if pd.notna(row.lo) else "")


def _plain(cell):
    if isinstance(cell, float):
        return "" if pd.isna(cell) else f"{cell:.3f}"
    return str(cell)


def best_cells(frame, best):
    numbers = frame.map(lambda cell: pd.to_numeric(str(cell).split(" ")[0], errors="coerce")).astype("float64")
    if "method" in frame.index.names:
        numbers[[not is_ranked(name) for name in frame.index.get_level_values("method")]] = float("nan")
    if "variant" in frame.index.names:  # another pool, or settings that may read the truth: no rival of the default
        numbers[frame.index.get_level_values("variant") != DEFAULT] = float("nan")
    by = frame.index.get_level_values("alignment") if "alignment" in frame.index.names else [""] * len(frame)
    groups = numbers.groupby(list(by))
    return (numbers == groups.transform(best)) & (groups.transform("count") > 1)


def is_ranked(method):
    """Whether a method competes: not the oracle, an upper bound, and not the online form of another method."""
    return method != ORACLE and not method.endswith("_online")


def _expression_order(open_classes):
    names = open_classes.split("+")
    return len(names), [EXPRESSIONS.index(n) if n in EXPRESSIONS else len(EXPRESSIONS) for n in names], open_classes
