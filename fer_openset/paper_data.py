"""What the figures of the paper are drawn from: committed tables and small arrays in, arrays and tables for ink out."""

import json

import numpy as np
import pandas as pd

from fer_openset import report
from fer_openset.errors import UserError
from fer_openset.methods import ORACLE
from fer_openset.pools import PoolSettings, pool_names, pool_settings
from fer_openset.settings import variant_name
from fer_openset.style import METHOD_COLOURS
from fer_openset.variants import DEFAULT, changes, settings_by_variant

GRID = np.linspace(0, 1, 201)
# Curves of a figure that cannot show thirty methods: these, and the best of the others.
HEADLINE = ("msp", "energy", "pseudo_label_ce", "eow", "proser", "dias", "noisy_label", "pool_novelty", ORACLE)


def roc_band(scores, is_open, n=200, seed=0, level=0.95):
    """The ROC curve (open positive) on a grid of false positive rates, with a bootstrap band over images.

    Shapes: scores (M,) float, larger = more open, is_open (M,) bool -> tpr, lo, hi (len(GRID),) at the rates GRID.
    Range: [0, 1]. The band is pointwise: known and open images are resampled each among themselves.
    Raises: UserError when one side is empty.
    """
    known, open_ = np.sort(scores[~is_open]), np.sort(scores[is_open])
    if not len(known) or not len(open_):
        raise UserError("a ROC curve needs known and open images; one side of this pool is empty.")
    rng = np.random.default_rng(seed)
    draws = [_tpr(np.sort(rng.choice(known, len(known))), np.sort(rng.choice(open_, len(open_)))) for _ in range(n)]
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return _tpr(known, open_), lo, hi


def _tpr(known, open_):
    """True positive rate at each rate of GRID; sorted arrays in. Ties count as flagged together."""
    place = len(known) - np.floor(GRID * len(known)).astype(int)
    cut = np.append(known, np.inf)[np.minimum(place, len(known))]
    found = 1 - np.searchsorted(open_, cut, side="left") / len(open_)
    return np.where(GRID == 0, 0.0, np.where(GRID == 1, 1.0, found))


def rows_of(runs, where, **keys):
    """Rows of a tidy table: `where`'s dataset and preset, and these values (one of a tuple) in other columns."""
    for name, value in {"dataset": where.dataset, "preset": where.preset, **keys}.items():
        runs = runs[runs[name].isin(value if isinstance(value, tuple) else (value,))]
    return runs


def scored_runs(arrays, alignment="aligned"):
    """[(method, scores, is_open)] of one alignment, family by family as in `style`; [] without arrays."""
    if arrays is None:
        return []
    found = {}
    for name, scores in zip(arrays["run"], arrays["score"], strict=True):
        method, its_alignment = str(name).split("/")
        if its_alignment == alignment:
            found[method] = scores
    places = list(METHOD_COLOURS)
    order = sorted(found, key=lambda m: (places.index(m) if m in places else -1, m))
    return [(method, found[method], arrays["is_open"]) for method in order]


def label_shares(counts, labels, n_boot=500, seed=0):
    """Share of each pseudo label, largest first, with its 95 % bootstrap interval. Shapes: counts (K,), labels (K,).

    Returns: table with columns label, share, lo, hi.
    """
    counts = np.asarray(counts)
    shares = counts / counts.sum()
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), shares, size=n_boot) / counts.sum()
    lo, hi = np.quantile(drawn, [0.025, 0.975], axis=0)
    table = pd.DataFrame({"label": labels, "share": shares, "lo": lo, "hi": hi})
    return table.sort_values("share", ascending=False, ignore_index=True)


def evenness(counts):
    """Entropy of the counts over its maximum: 0 one class only, 1 all classes alike. Shapes: (K,) -> float."""
    shares = np.asarray(counts, float)
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(np.asarray(counts))))


def open_neighbours(place, is_open, k=10):
    """How well open images keep together: the mean share of open ones among the k nearest places of an open image.

    Shapes: place (n, 2), is_open (n,) bool. Range: [0, 1]; images in random places give the share of open images.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(place) - 1)
    nearest = NearestNeighbors(n_neighbors=k + 1).fit(place).kneighbors(place[is_open], return_distance=False)
    return float(is_open[nearest[:, 1:]].mean())


def weight_sweep(runs, variants, where):
    """Fig. 5, first half: AUROC of noisy_label against the consistency weight.

    Runs that agree in every other setting form one group; of each backbone the group with the most weights is shown, if
    it has two or more. Returns: table with columns group, x, mean, lo, hi.
    """
    rows = rows_of(runs, where, method="noisy_label", alignment="aligned", open_classes=where.open_classes)
    every = settings_by_variant(variants, where.dataset, where.preset, "noisy_label")
    groups = {}
    for row in report.summarise(rows).itertuples():
        if row.variant in every and not row.variant.startswith("pool_"):
            mine = every[row.variant]
            others = {k: v for k, v in mine.items() if k not in ("consistency_weight", "keep_epochs")}
            key = json.dumps(others, sort_keys=True)
            point = (mine["backbone"], mine["consistency_weight"], row.mean, row.lo, row.hi)
            groups.setdefault(key, []).append(point)
    best = {}
    for group in groups.values():
        name = group[0][0]
        if _weights(group) > max(1, _weights(best.get(name, []))):
            best[name] = group
    points = [point for group in best.values() for point in group]
    return pd.DataFrame(points, columns=["group", "x", "mean", "lo", "hi"]).drop_duplicates(["group", "x"])


def _weights(points):
    return len({x for _, x, *_ in points})


def epoch_sweep(epochs, variants, where):
    """Fig. 5, second half: AUROC after each epoch of runs that kept their scores, at the default consistency weight.

    epochs: as `ablation_report.read_epochs` gives it; seeds are averaged. Returns: table with
    columns group, x, mean, lo, hi (no interval: NaN).
    """
    every = settings_by_variant(variants, where.dataset, where.preset, "noisy_label")
    weight = every.get(DEFAULT, {}).get("consistency_weight")
    rows = rows_of(epochs, where, method="noisy_label", alignment="aligned", open_classes=where.open_classes)
    mine = {v: s["backbone"] for v, s in every.items() if s["consistency_weight"] == weight}
    rows = rows[rows["variant"].isin(mine)]
    rows = rows.assign(group=rows["variant"].map(mine)).groupby(["group", "epoch"])["auroc"].mean().reset_index()
    return rows.rename(columns={"epoch": "x", "auroc": "mean"}).assign(lo=np.nan, hi=np.nan)


def comparison(runs, variants, where):
    """Fig. 6: MSP, the method with all open images under one pseudo label, and the method; measured and published.

    Returns: table with columns name, method, mean, lo, hi, published. The published values are RAF-DB's.
    """
    changed = changes(variants, where.dataset, where.preset, "noisy_label")
    one_label = [v for v, mine in changed.items() if set(mine) == {"oracle_open_label"}]
    published = report.targets().query("open_classes == 'surprise' and dataset == 'rafdb' and metric == 'auroc'")
    published = published.drop_duplicates("method").set_index("method")["value"]
    wanted = [("baseline (msp)", "msp", DEFAULT, "msp"), ("method, as it is", "noisy_label", DEFAULT, "noisy_label")]
    labels = [(changed[v]["oracle_open_label"], v) for v in one_label] or [("happiness", None)]
    wanted[1:1] = [
        (f"all open images labelled {name}", "noisy_label", v, f"noisy_label_all_{name}") for name, v in labels
    ]
    rows = report.summarise(rows_of(runs, where, open_classes=where.open_classes, alignment="aligned"))
    out = []
    for name, method, variant, target in wanted:
        found = rows[(rows["method"] == method) & (rows["variant"] == variant)][["mean", "lo", "hi"]]
        values = found.iloc[0].tolist() if len(found) else [np.nan] * 3
        out.append((name, method, *values, published.get(target, np.nan)))
    return pd.DataFrame(out, columns=["name", "method", "mean", "lo", "hi", "published"])


def by_open_share(runs, where):
    """AUROC against the share of open images: methods that ran on pools of several shares of this open-class set.

    Returns: table with columns method, variant, share, mean, lo, hi; seeds averaged.
    """
    pools = {variant_name(DEFAULT, name) for name in pool_names() if pool_settings(name) == _only_share(name)}
    rows = rows_of(runs, where, open_classes=where.open_classes, alignment="aligned", variant=(DEFAULT, *pools))
    rows = rows.assign(share=rows["n_open"] / (rows["n_open"] + rows["n_known"]))
    rows = rows[rows["method"].isin(rows["method"][rows["variant"] != DEFAULT])]
    columns = {"mean": ("auroc", "mean"), "lo": ("auroc_lo", "mean"), "hi": ("auroc_hi", "mean")}
    return rows.groupby(["method", "variant"]).agg(share=("share", "mean"), **columns).reset_index()


def _only_share(name):
    """What a pool's settings are if its share of open images is all that differs from the paper's pool."""
    return PoolSettings(open_share=pool_settings(name).open_share or 0.5)


def against_oracle(runs, where):
    """AUROC of each method (rows) and open class (columns), and the share of the oracle's lead over chance it reaches.

    reached = (AUROC - 0.5) / (oracle's AUROC - 0.5), NaN where the oracle did not run on that class. Aligned, default.
    Returns: (auroc, reached), tables of the same shape, best mean first, the oracle last; empty without runs.
    """
    rows = rows_of(runs, where, alignment="aligned", variant=DEFAULT)
    if rows.empty:
        return pd.DataFrame(), pd.DataFrame()
    table = report.summary_table(rows, where.dataset, where.preset, text=False).droplevel(["alignment", "variant"])
    order = table.mean(axis=1).sort_values(ascending=False).index
    table = table.loc[[m for m in order if m != ORACLE] + [m for m in order if m == ORACLE]]
    lead = table.loc[ORACLE] - 0.5 if ORACLE in table.index else pd.Series(np.nan, table.columns)
    return table, (table - 0.5) / lead
