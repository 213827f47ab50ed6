"""Tables of the stress study: what each change of the pool does to each method. Read from the table of runs alone."""

import pandas as pd

from fer_openset import report
from fer_openset.methods import ORACLE
from fer_openset.pools import FULL, pool_names
from fer_openset.settings import variant_name

METHODS = ("msp", "maxlogit", "energy", "noisy_label", "pool_novelty", ORACLE)
PUBLISHED_MEAN = "noisy_label"  # the paper's method, whose mean over the seven classes is the figure to beat


def by_pool(runs, dataset, preset, open_classes, metric="auroc"):
    """Methods by pool, as text with intervals: rows `full`, then the pools of params/pools that have runs.

    Aligned runs with the methods' own settings. Returns: table with columns images and open share, then a column a
    method; empty without runs.
    """
    rows = _aligned(runs, dataset, preset)
    rows = rows[rows["open_classes"] == open_classes]
    tables = []
    for pool in pool_names():
        part = rows[rows["variant"] == variant_name("default", pool)]
        if not part.empty and (pool == FULL or rows["variant"].str.startswith("pool_").any()):
            text = report.summary_table(part, dataset, preset, metric)[open_classes].droplevel(["alignment", "variant"])
            n_open, size = part["n_open"].iloc[0], part["n_open"].iloc[0] + part["n_known"].iloc[0]
            tables.append({"pool": pool, "images": f"{size:,}", "open": f"{n_open / size:.1%}", **text.to_dict()})
    table = pd.DataFrame(tables)
    return table if table.empty else table.set_index("pool").fillna("")


def per_class(runs, dataset, preset):
    """AUROC of each method (rows) for each open class, the mean over them, and how much of the oracle is reached.

    One row a method, `n` classes with runs of it; `ratio` is the smallest share of the oracle's AUROC over the classes
    where both ran, NaN without. Rows stand in the order of the mean over the classes that all of them have: a mean
    over other classes orders nothing. Aligned, default variant, seeds averaged. Empty without runs.
    """
    rows = _aligned(runs, dataset, preset)
    rows = rows[rows["variant"] == "default"]
    if rows.empty:
        return pd.DataFrame()
    table = report.summary_table(rows, dataset, preset, text=False).droplevel(["alignment", "variant"])
    single = table[[name for name in table.columns if "+" not in name]]
    bound = single.loc[ORACLE] if ORACLE in single.index else single.iloc[0] * float("nan")
    means = {"mean": single.mean(axis=1), "n": single.notna().sum(axis=1), "ratio": (single / bound).min(axis=1)}
    shared = single.loc[:, single.notna().all()].mean(axis=1)
    return single.assign(**means).loc[shared.sort_values(ascending=False, kind="stable").index]


def published_mean():
    """The paper's mean AUROC of its own method on FERPlus."""
    found = report.targets().query("dataset == 'ferplus' and open_classes == 'mean' and metric == 'auroc'")
    return float(found[found["method"] == PUBLISHED_MEAN]["value"].iloc[0])


def _aligned(runs, dataset, preset):
    chosen = (runs["dataset"] == dataset) & (runs["preset"] == preset) & (runs["alignment"] == "aligned")
    return runs[chosen & runs["method"].isin(METHODS)]
