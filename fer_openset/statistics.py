"""How sure is a difference: paired tests within a pool, and ranks over open classes.

Two runs on the same pool share its images, so their AUROCs rise and fall together; comparing their separate intervals
would be too cautious. DeLong's test uses the pairing.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, norm, rankdata

from fer_openset import atomic
from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.report import LOWER_IS_BETTER, METRICS, is_ranked, same_seeds
from fer_openset.run_table import POOL, finished_runs, merge_rows, truth_of
from fer_openset.settings import pool_in, results_dir, variant_name

RUN = ("method", "alignment", "variant")
DIFFERENCE_KEY = (*POOL, *RUN, *(f"{name}_b" for name in RUN))
DIFFERENCE_COLUMNS = (*DIFFERENCE_KEY, "n_known", "n_open", "difference", "lo", "hi", "p")
SCORES = "scores.csv"
REFERENCES = ("msp", "noisy_label")  # what every run is compared with: the baseline and the paper's method


@dataclass(frozen=True)
class Difference:
    """AUROC of the first scores minus that of the second, its 95 % interval, and the two-sided p of no difference."""

    value: float
    lo: float
    hi: float
    p: float


def auroc_difference(scores, other, is_open):
    """DeLong's paired test of two sets of open scores of the same images.

    Shapes: scores, other (N,) float, larger = more open; is_open (N,) bool; with sample ids, all in the same order.
    Source: DeLong, DeLong and Clarke-Pearson (1988), by midranks as Sun and Xu (2014). The interval says how far the
    difference depends on these images, not on the training seed. Raises: UserError for different ids, one-sided pools.
    """
    ids = [x.index for x in (scores, other, is_open) if isinstance(x, pd.Series)]
    if any(not ids[0].equals(index) for index in ids):
        raise UserError("the two runs have different sample ids; they can be compared on the same pool only.")
    is_open = np.asarray(is_open, bool)
    if is_open.all() or not is_open.any():
        raise UserError("the pool holds only known or only open images, so there is nothing to compare.")
    (value, open_a, known_a), (value_b, open_b, known_b) = (_places(s, is_open) for s in (scores, other))
    variance = sum(np.var(d, ddof=1) / len(d) for d in (open_a - open_b, known_a - known_b) if len(d) > 1)
    difference, sd = value - value_b, np.sqrt(variance)
    p = 2 * norm.sf(abs(difference) / sd) if sd > 0 else float(difference == 0)
    half = norm.ppf(0.975) * sd
    return Difference(difference, difference - half, difference + half, float(p))


def _places(scores, is_open):
    """AUROC, and for each open (known) image the share of known (open) images below (above) it, ties counting half."""
    scores = np.asarray(scores, float)
    of_open, of_known = scores[is_open], scores[~is_open]
    together = rankdata(np.concatenate([of_open, of_known]))
    m, n = len(of_open), len(of_known)
    open_place = (together[:m] - rankdata(of_open)) / n
    known_place = 1 - (together[m:] - rankdata(of_known)) / m
    return float(open_place.mean()), open_place, known_place


def differences_path():
    """Where the table of paired differences lies."""
    return results_dir() / "tables" / "differences.csv"


def read_differences():
    """Paired differences of AUROC between runs on one pool; an empty table without the file."""
    path = differences_path()
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(DIFFERENCE_COLUMNS))


def write_differences(runs_dir=None):
    """Rebuild the table of paired differences from the scores at hand and the rows already there; returns it.

    Rows already there are left out if one of their runs is at hand, for it was made again and the other was not; and if
    they are no comparison of two runs on the same images (see `_is_pair`).
    """
    found, at_hand = [], set()
    pools = {}
    for path, row in finished_runs(runs_dir):
        if not (path.parent / SCORES).exists():  # a record alone, without its scores: nothing to compare
            continue
        pools.setdefault(tuple(row[k] for k in POOL), []).append((row, path))
        at_hand.add(tuple(row[k] for k in (*POOL, *RUN)))
    for pool, members in pools.items():
        truth, read = truth_of(members[0][1]), {}
        for (row, path), (row_b, path_b) in _pairs(members):
            for wanted in (path, path_b):
                if wanted not in read:
                    read[wanted] = _scores(wanted, truth)
            ids = read[path].index
            if not ids.equals(read[path_b].index):  # a pool of another size or mix: not the same images
                continue
            is_open = truth.loc[ids]
            d = auroc_difference(read[path], read[path_b], is_open)
            sides = [row[k] for k in RUN] + [row_b[k] for k in RUN]
            counts = [int((~is_open).sum()), int(is_open.sum())]
            found.append([*pool, *sides, *counts, d.value, d.lo, d.hi, d.p])
    before = read_differences()
    kept = [_stays(row, at_hand) for row in before.to_dict("records")]
    before = before[np.array(kept, bool)]
    table = merge_rows(before, pd.DataFrame(found, columns=list(DIFFERENCE_COLUMNS)), DIFFERENCE_KEY)
    if len(table):
        atomic.write_csv(differences_path(), table, float_format="%.6g")
    return table


def _stays(row, at_hand):
    sides = _side(row, ""), _side(row, "_b")
    pool = tuple(row[k] for k in POOL)
    return _is_pair(*sides) and not any((*pool, *side.values()) in at_hand for side in sides)


def _side(row, end):
    return {name: row[name + end] for name in RUN}


def _pairs(members):
    """Which runs of a pool are compared: the first minus the second; never two that are known to differ in f_close."""
    for first, second in combinations(members, 2):
        if len({row["f_close"] for row, _ in (first, second)} - {""}) > 1:
            continue
        for a, b in ((first, second), (second, first)):
            if _is_pair(a[0], b[0]):
                yield a, b


def _is_pair(row, other):
    """Against the references under the same alignment, as released against aligned, a variant against the default.

    Only on one pool: another may hold the same ids with other pixels (blur, brightness), so ids alone do not tell.
    """
    if pool_in(row["variant"]) != pool_in(other["variant"]):
        return False
    same = {k: row[k] == other[k] for k in RUN}
    if same["alignment"] and not same["method"]:
        both_plain = row["variant"] == other["variant"] == "default"
        return both_plain and other["method"] in REFERENCES and row["method"] != REFERENCES[0]
    if same["method"] and same["variant"]:
        return row["alignment"] == "as_released"
    plain = variant_name("default", pool_in(other["variant"]))
    return same["method"] and same["alignment"] and other["variant"] == plain


def _scores(path, truth):
    file = path.parent / SCORES
    scores = pd.read_csv(file, index_col="sample_id")["open_score"]
    if not scores.index.isin(truth.index).all():
        raise UserError(f"{file}: holds sample ids that are not in the pool; delete its folder and run it again.")
    return scores.sort_index()


def ranks(runs, metric="auroc"):
    """Mean rank of each method over open classes, 1 = best, for one dataset and preset.

    runs: rows of one dataset and preset. Seeds are averaged, the same for all methods of a class as far as they ran
    with them (`report.same_seeds`). Default variants of methods that compete (`report.is_ranked`) take part, and single
    open classes only: a combined open set holds images that its parts hold.
    Each alignment is ranked for itself; a method without a run for some open class is not ranked, but named.
    Returns: alignment, method, mean_rank, best_in (open classes won, ties counted for each), n_classes, n_seeds (of a
    method and class, least to most), friedman_p (that all methods rank alike; NaN below three methods or two classes),
    left_out (methods that lack a class). Source: Demsar (2006). Raises: UserError for an unknown metric.
    """
    check_name(metric, METRICS, "metric")
    runs = runs[(runs["variant"] == "default") & runs["method"].map(is_ranked).astype(bool)]
    runs = runs[~runs["open_classes"].str.contains("+", regex=False)]
    parts = []
    for alignment, part in runs.groupby("alignment"):
        every = part.pivot_table(index="open_classes", columns="method", values=metric, dropna=False)
        part = same_seeds(part[part["method"].isin(every.dropna(axis=1).columns)])
        table = part.pivot_table(index="open_classes", columns="method", values=metric, dropna=False).dropna(axis=1)
        seeds = part[part["method"].isin(table.columns)].groupby(["open_classes", "method"]).size()
        said = {
            "n_classes": len(table),
            "n_seeds": _span(seeds),
            "left_out": ", ".join(every.columns.drop(table.columns)),
        }
        placed, best = (table.rank(axis=1, ascending=metric in LOWER_IS_BETTER, method=m) for m in ("average", "min"))
        enough = table.shape[1] >= 3 and len(table) >= 2
        p = friedmanchisquare(*(table[m] for m in table)).pvalue if enough else float("nan")
        one = pd.DataFrame({"mean_rank": placed.mean(), "best_in": (best == 1).sum()}).rename_axis("method")
        parts.append(one.reset_index().assign(alignment=alignment, friedman_p=p, **said))
    columns = ["alignment", "method", "mean_rank", "best_in", "n_classes", "n_seeds", "friedman_p", "left_out"]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts)[columns].sort_values(["alignment", "mean_rank"], ignore_index=True)


def _span(counts):
    """Least to most of some counts as text: `3`, or `1 to 3`."""
    if counts.empty:
        return "0"
    return str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def over_seeds(differences):
    """Paired differences averaged over seeds: mean, sd over seeds (NaN for one), n seeds, lo and hi averaged."""
    key = [name for name in DIFFERENCE_KEY if name != "seed"]
    grouped = differences.groupby(key, as_index=False)
    columns = {"mean": ("difference", "mean"), "sd": ("difference", "std"), "n": ("difference", "size")}
    return grouped.agg(**columns, lo=("lo", "mean"), hi=("hi", "mean"))


def sizes(runs):
    """One line that states n: seeds, and known and open images of each pool, for the rows of one table."""
    if runs.empty:
        return "n: no runs yet"
    seeds = _span(runs.groupby(["open_classes", "method", "alignment", "variant"]).size())
    pools = runs.groupby("open_classes", sort=False)[["n_known", "n_open"]].max()
    pools = "; ".join(f"{name} {row.n_known:,} known + {row.n_open:,} open" for name, row in pools.iterrows())
    return f"n: {seeds} seed{'' if seeds == '1' else 's'} a cell; images of the pool: {pools}"
