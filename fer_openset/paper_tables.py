"""Tables 1 to 5 as tidy rows: published beside measured, with rank, interval and verdict. `paper_shape` shows them.

Real faces only: rows of the synthetic faces and of the smoke and demo presets are never among them.
"""

import pandas as pd

from fer_openset import report
from fer_openset.eligibility import with_reasons
from fer_openset.labels import check_name
from fer_openset.methods import METHODS, ORACLE
from fer_openset.pools import FULL as PAPERS_POOL
from fer_openset.run_table import SETTING
from fer_openset.settings import pool_in
from fer_openset.variants import DEFAULT, changes, read_variants

TITLES = {
    "1": "one open class", "2": "two and three open classes", "3": "compound expressions and contempt",
    "4": "online detection", "5": "ablation of the three parts",
}  # fmt: skip
STAND_INS = {"3": ("contempt", "ambiguous")}  # measured on other datasets than the paper's
ONLINE = ("noisy_label", "noisy_label_online", "pool_novelty", "pool_novelty_online", ORACLE)  # Table 4 has only these
PARTS = {  # part: its setting, on and off
    "attention": ("attention", True, False),
    "cycle_lr": ("schedule", "cycle", "exponential"),
    "cycle_training": ("cycle_training", True, False),
}
FULL = "+".join(PARTS)  # the method as the paper proposes it
KEYS = ["dataset", "open_classes", "method", "metric"]
COLUMNS = (
    *("table", "dataset", "preset", "open_classes", "method", "metric", "alignment", "published", "mean", "sd"),
    *("lo", "hi", "n", "rank_published", "rank_measured", "verdict"),
)


def paper_table(number, runs, variants=None):
    """One table of the paper as tidy rows: every published value, and every measured one of its open classes.

    runs: the tidy table; variants: as `read_variants` gives it. A published value without a run has the verdict `no
    runs yet`. Ranks are among the paper's methods (Table 5: its rows) of one dataset, preset, alignment, open class and
    metric, where two or more have a value: `2 of 5`; measured ones by means over the seeds that all of them ran
    (`report.same_seeds`), where `mean` takes every seed.
    Means over open classes are measured only where all of them ran. Returns: a table with COLUMNS.
    """
    check_name(number, tuple(TITLES), "table of the paper")
    variants = read_variants() if variants is None else variants
    published = _published(number)
    runs = _rows(number, with_reasons(report.real_runs(runs), variants), variants, published)
    parts = [_summary(runs, metric) for metric in published["metric"].unique()]
    measured = _with_means(pd.concat(parts), published)
    table = published[[*KEYS, "published"]].merge(measured, "outer", KEYS)
    table["verdict"] = [_verdict(row) for row in table.itertuples()]
    rivals = set(table["method"]) if number == "5" else report.PAPER_METHODS  # the rows of Table 5 are not methods
    table["rank_published"] = _ranks(table, "published", rivals)
    table["rank_measured"] = _ranks(table, "fair", rivals)
    table = table.assign(table=number, n=table["n"].astype("Int64"))[list(COLUMNS)]
    order = [_order(row, published) for row in table.itertuples()]
    return table.iloc[sorted(range(len(table)), key=order.__getitem__)].reset_index(drop=True)


def _published(number):
    """The paper's values of one table. Table 5 gets a row for the whole method, which is in Table 1."""
    every = report.targets().rename(columns={"value": "published"})
    table = every[every["table"] == number]
    if number != "5":
        return table
    same = table[["dataset", "open_classes", "metric"]].drop_duplicates()
    whole = every[(every["table"] == "1") & (every["method"] == "noisy_label")].merge(same)
    return pd.concat([table, whole.assign(method=FULL)], ignore_index=True)


def _summary(runs, metric):
    """`report.summarise` of all seeds, and `fair`: the mean over those on which methods can be ranked."""
    keys = list(SETTING)
    fair = report.summarise(report.same_seeds(runs), metric)[[*keys, "mean"]].rename(columns={"mean": "fair"})
    return report.summarise(runs, metric).merge(fair, "left", keys).assign(metric=metric)


def _rows(number, runs, variants, published):
    """The runs that belong into this table."""
    asked = {*published["open_classes"], *STAND_INS.get(number, ())}
    runs = runs[runs["open_classes"].isin(asked)]
    if number == "5":
        return _by_parts(runs, variants)
    runs = runs[runs["variant"] == DEFAULT]
    return runs[runs["method"].isin(ONLINE)] if number == "4" else runs


def _by_parts(runs, variants):
    """Rows of noisy_label named by the parts that are on, and the baseline; variants that change more, and other pools,
    are left out."""
    kept = [runs[(runs["method"] == "msp") & (runs["variant"] == DEFAULT)]]
    may_be = {setting: values for setting, *values in PARTS.values()}
    for (dataset, preset), rows in runs[runs["method"] == "noisy_label"].groupby(["dataset", "preset"]):
        changed = changes(variants, dataset, preset, "noisy_label") or {DEFAULT: {}}
        for variant, mine in changed.items():
            switches = all(value in may_be.get(setting, ()) for setting, value in mine.items())
            if switches and pool_in(variant) == PAPERS_POOL and (mine or variant == DEFAULT):
                on = [part for part, (setting, value, _) in PARTS.items() if mine.get(setting, value) == value]
                kept.append(rows[rows["variant"] == variant].assign(method="+".join(on) or "none", variant=DEFAULT))
    return pd.concat(kept)


def _with_means(measured, published):
    """Measured rows, and their means over open classes where the table has such a column and every class ran."""
    classes = {o for o in published["open_classes"] if o != "mean"}
    if "mean" not in set(published["open_classes"]) or measured.empty:
        return measured
    keys = ["dataset", "preset", "alignment", "method", "variant", "metric"]
    groups = measured[measured["open_classes"].isin(classes)].groupby(keys)
    over = {"mean": "mean", "fair": _mean_of_all, "n": "min", "why_not": report.first_reason}
    means = groups[list(over)].agg(over)[groups["open_classes"].nunique() == len(classes)]
    return pd.concat([measured, means.reset_index().assign(open_classes="mean")])


def _mean_of_all(values):
    return values.mean(skipna=False)  # a class without a value on the same seeds: the mean would be over other classes


def _verdict(row):
    if pd.isna(row.mean):
        return report.NO_RUNS
    return report.verdict(row, row.metric)


def _ranks(table, column, rivals):
    """`2 of 5` among the methods `rivals` that have a value; empty for the others, and for one without a rival."""
    ranked = table[table["method"].isin(rivals) & table[column].notna()]
    if column == "published":  # a value that stands beside several measured rows counts once
        ranked = ranked.assign(preset="", alignment="").drop_duplicates(KEYS)
    groups = ranked.groupby(["dataset", "preset", "alignment", "open_classes", "metric"], dropna=False)[column]
    down = ranked["metric"].isin(report.LOWER_IS_BETTER)
    place = groups.rank(method="min", ascending=False).where(~down, groups.rank(method="min"))
    of = groups.transform("size").astype(int)
    words = (place.astype(int).astype(str) + " of " + of.astype(str)).where(of > 1, "")
    if column == "published":
        by_key = dict(zip(map(tuple, ranked[KEYS].to_numpy()), words, strict=True))
        return [by_key.get(tuple(key), "") for key in table[KEYS].to_numpy()]
    return words.reindex(table.index).fillna("")


def _order(row, published):
    classes = class_order(published)
    where = row.metric, row.dataset, str(row.preset), str(row.alignment)
    return *where, method_order(row.method), classes.index(row.open_classes)


def class_order(published):
    """Open classes in the paper's order, stand-ins behind them, the mean last."""
    names = dict.fromkeys([*published["open_classes"], *STAND_INS["3"]])
    return sorted(names, key=lambda name: name == "mean")


def method_order(method):
    """The paper's methods in its order, then ours as in the table of methods, then combinations of parts."""
    methods = [*report.PAPER_METHODS, *METHODS]
    return methods.index(method) if method in methods else len(methods) + method.count("+")
