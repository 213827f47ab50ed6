"""What the figures of the paper are drawn from: committed tables and small arrays in, arrays and tables for ink out."""

import json

import numpy as np
import pandas as pd

from fer_openset import metrics, report
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
    known, open_ = scores[~is_open], scores[is_open]
    if not len(known) or not len(open_):
        raise UserError("a ROC curve needs known and open images; one side of this pool is empty.")
    flags, rng = np.repeat([False, True], [len(known), len(open_)]), np.random.default_rng(seed)
    draws = [_tpr(np.concatenate([rng.choice(known, len(known)), rng.choice(open_, len(open_))]), flags)
             for _ in range(n)]  # fmt: skip
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return _tpr(scores, is_open), lo, hi


def _tpr(scores, is_open):
    """True positive rate at each rate of GRID, from (0, 0) on: the upper end of a rise, straight lines across ties."""
    return np.where(GRID == 0, 0.0, np.interp(GRID, *metrics.roc_curve(scores, is_open)))


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


def comparison_scores(arrays, variant):
    """Open scores of the method as it is and with all open images under one label; None unless both are at hand."""
    as_it_is = {method: scores for method, scores, _ in scored_runs(arrays)}.get("noisy_label")
    if as_it_is is None or "variant_run" not in arrays.arrays:
        return None
    found = dict(zip(arrays["variant_run"].tolist(), arrays["variant_score"], strict=True))
    other = found.get(f"noisy_label/aligned/{variant}")
    return None if other is None else (as_it_is, other)


def is_skewed(scores):
    """Whether nearly all of a positive score's histogram would be one bin: its median lies below 5 % of its range."""
    return bool(scores.min() > 0 and np.median(scores) < 0.05 * np.quantile(scores, 0.995))


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
    """Fig. 5, first half: AUROC of noisy_label against the consistency weight, the runs of `swept` if two or more.

    Returns: table with columns group, variant, x, mean, lo, hi.
    """
    rows = rows_of(runs, where, method="noisy_label", alignment="aligned", open_classes=where.open_classes)
    table, every = report.summarise(rows), settings_by_variant(variants, where.dataset, where.preset, "noisy_label")
    chosen = {v: x for group in swept(table["variant"], every) if len(group) > 1 for v, x in group.items()}
    table = table[table["variant"].isin(chosen)]
    group = table["variant"].map(lambda v: every[v]["backbone"])
    return table.assign(group=group, x=table["variant"].map(chosen))[["group", "variant", "x", "mean", "lo", "hi"]]


def swept(names, every):
    """Variants that differ in the weight of the consistency alone: of each backbone the group with the most weights.

    names: of the variants at hand; every: {variant: settings}. Runs that agree in every other setting form one group.
    Returns: [{variant: weight}], one variant a weight, those of other pools left out.
    """
    groups = {}
    for name in sorted(set(names) & set(every)):
        mine = every[name]
        if "pool_" not in name:
            others = {k: v for k, v in mine.items() if k not in ("consistency_weight", "keep_epochs")}
            group = groups.setdefault((mine["backbone"], json.dumps(others, sort_keys=True)), {})
            group.setdefault(mine["consistency_weight"], name)
    best = {}
    for (backbone, _), group in groups.items():
        best[backbone] = max(best.get(backbone, {}), group, key=len)
    return [{name: weight for weight, name in group.items()} for group in best.values()]


def epoch_sweep(epochs, variants, where):
    """Fig. 5, second half: AUROC after each epoch within one run that kept its scores, at the default weight.

    epochs: as `ablation_report.read_epochs` gives it; the runs are those of `swept`, so that no two kinds of run are
    averaged; seeds are. Returns: table with columns group, variant, x, mean, lo, hi (no interval: NaN).
    """
    every = settings_by_variant(variants, where.dataset, where.preset, "noisy_label")
    usual = every.get(DEFAULT, {}).get("consistency_weight")
    rows = rows_of(epochs, where, method="noisy_label", alignment="aligned", open_classes=where.open_classes)
    mine = [v for group in swept(rows["variant"], every) for v, weight in group.items() if weight == usual]
    rows = rows[rows["variant"].isin(mine)]
    rows = rows.assign(group=[every[v]["backbone"] for v in rows["variant"]])
    rows = rows.groupby(["group", "variant", "epoch"], as_index=False)["auroc"].mean()
    return rows.rename(columns={"epoch": "x", "auroc": "mean"}).assign(lo=np.nan, hi=np.nan)


def comparison(runs, variants, where):
    """Fig. 6: MSP, the method with all open images under one pseudo label, and the method; measured and published.

    Returns: table with columns name, label (of all open images, "" for none), method, variant ("" if unknown), mean,
    lo, hi (NaN where nothing ran), published. The published values are RAF-DB's; NaN for synthetic faces.
    """
    changed = changes(variants, where.dataset, where.preset, "noisy_label")
    one_label = [v for v, mine in changed.items() if set(mine) == {"oracle_open_label"}]
    published = report.targets().query("open_classes == 'surprise' and dataset == 'rafdb' and metric == 'auroc'")
    published = published.drop_duplicates("method").set_index("method")["value"]
    labels = [(changed[v]["oracle_open_label"], v) for v in one_label] or [("happiness", "")]
    wanted = [("baseline (msp)", "", "msp", DEFAULT, "msp"),
              *((f"all open images labelled {label}", label, "noisy_label", v, f"noisy_label_all_{label}")
                for label, v in labels),
              ("method, as it is", "", "noisy_label", DEFAULT, "noisy_label")]  # fmt: skip
    rows = report.summarise(rows_of(runs, where, open_classes=where.open_classes, alignment="aligned"))
    out = []
    for *names, method, variant, target in wanted:
        found = rows[(rows["method"] == method) & (rows["variant"] == variant)][["mean", "lo", "hi"]]
        values = found.iloc[0].tolist() if len(found) else [np.nan] * 3
        mark = np.nan if where.dataset == "synthetic" else published.get(target, np.nan)
        out.append((*names, method, variant, *values, mark))
    return pd.DataFrame(out, columns=["name", "label", "method", "variant", "mean", "lo", "hi", "published"])


def by_open_share(runs, where):
    """AUROC against the share of open images: methods that ran on pools of several shares of this open-class set.

    Returns: table with columns method, variant, share, n_open, mean, lo, hi; seeds averaged.
    """
    pools = {variant_name(DEFAULT, name) for name in pool_names() if pool_settings(name) == _only_share(name)}
    rows = rows_of(runs, where, open_classes=where.open_classes, alignment="aligned", variant=(DEFAULT, *pools))
    rows = rows.assign(share=rows["n_open"] / (rows["n_open"] + rows["n_known"]))
    rows = rows[rows["method"].isin(rows["method"][rows["variant"] != DEFAULT])]
    columns = {"share": ("share", "mean"), "n_open": ("n_open", "min")}
    columns |= {"mean": ("auroc", "mean"), "lo": ("auroc_lo", "mean"), "hi": ("auroc_hi", "mean")}
    return rows.groupby(["method", "variant"]).agg(**columns).reset_index()


def _only_share(name):
    """What a pool's settings are if its share of open images is all that differs from the paper's pool."""
    return PoolSettings(open_share=pool_settings(name).open_share or 0.5)


def against_oracle(runs, where):
    """AUROC of each method (rows) and open class (columns), and the share of the oracle's lead over chance it reaches.

    reached = (AUROC - 0.5) / (oracle's AUROC - 0.5), NaN where one of the two did not run. Aligned, default. Rows go by
    the mean over `shared_classes`, best first: a mean over other classes for each method would order nothing; those
    that did not run there come after the others, the oracle last. Returns: (auroc, reached), of the same shape; empty
    without runs.
    """
    rows = rows_of(runs, where, alignment="aligned", variant=DEFAULT)
    if rows.empty:
        return pd.DataFrame(), pd.DataFrame()
    table = report.summary_table(rows, where.dataset, where.preset, text=False).droplevel(["alignment", "variant"])
    order = table[shared_classes(table)].mean(axis=1).sort_values(ascending=False, kind="stable").index
    table = table.loc[[m for m in order if m != ORACLE] + [m for m in order if m == ORACLE]]
    lead = table.loc[ORACLE] - 0.5 if ORACLE in table.index else pd.Series(np.nan, table.columns)
    return table, (table - 0.5) / lead


def shared_classes(table):
    """Open classes (columns) on which the most methods (rows) have a value: all of them, as a rule."""
    ran = table.notna().sum()
    return list(ran.index[ran == ran.max()])
