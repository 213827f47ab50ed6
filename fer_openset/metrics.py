"""Arithmetic of open-set detection: scores and truth in, numbers out.

`scores` are open scores (larger = more open), `is_open` the truth. A pool is first reduced to how many known and
open images sit at each distinct score, from the least to the most open. All metrics are sums over these counts,
so ties are exact, the order of the images cannot matter, and a bootstrap resamples counts, not images.
"""

import numpy as np

from fer_openset.errors import UserError

TARGET_TPR = 0.95


def auroc(scores, is_open):
    """Probability that an open image scores above a known one, ties counting half (open positive).

    Shapes: scores (N,) float, is_open (N,) bool. Range: [0, 1], chance 0.5. Direction: higher is better.
    Raises: UserError for unequal lengths, non-finite scores, or a pool without known or without open images.
    """
    return float(_auroc(*_counts(scores, is_open)))


def fpr_at_tpr95(scores, is_open):
    """Share of open images taken for known at the threshold that accepts 95 % of the known ones (known positive).

    Linear interpolation on the ROC curve between the thresholds on either side of 95 %; images with equal scores
    are one step. Where the curve runs along TPR = 0.95 exactly, its lowest FPR counts.
    Shapes: as `auroc`. Range: [0, 1], chance 0.95. Direction: lower is better. Paper: the FPR@TPR95 of Table 1.
    Differs: `numpy.interp` on the same curve gives the highest FPR of such a stretch. Raises: as `auroc`.
    """
    return float(_fpr_known_positive(*_counts(scores, is_open)))


def fpr_at_tpr95_open(scores, is_open):
    """Share of known images flagged as open at the first threshold that flags 95 % of the open ones (open positive).

    Shapes: as `auroc`. Range: [0, 1]. Direction: lower is better.
    Source: the convention of pytorch-ood and OpenOOD; equals `FPR95TPR` of pytorch-ood.
    Differs: not interpolated, as there, so it is never below the interpolated value: 1 for equal scores, not 0.95.
    Raises: as `auroc`.
    """
    return float(_fpr_open_positive(*_counts(scores, is_open)))


def aupr_open(scores, is_open):
    """Average precision with open as the positive class.

    Shapes: as `auroc`. Range: [0, 1], chance = share of open images. Direction: higher is better.
    Differs: pytorch-ood joins the points of the precision-recall curve by straight lines; this is scikit-learn's sum
    of steps, which is not optimistic. Raises: as `auroc`.
    """
    return float(_aupr_open(*_counts(scores, is_open)))


def aupr_known(scores, is_open):
    """Average precision with known as the positive class, ranked by -scores.

    Shapes: as `auroc`. Range: [0, 1], chance = share of known images. Direction: higher is better.
    Raises: as `auroc`.
    """
    return float(_aupr_known(*_counts(scores, is_open)))


def oscr(scores, is_open, correct):
    """Area under the curve of correct classification rate against false positive rate.

    Over all thresholds: the share of known images that are accepted and rightly classified, against the share of
    open images accepted. Images with equal scores are one diagonal step, as on a ROC curve.
    Shapes: as `auroc`; correct (N,) bool, read for known images only. Range: [0, closed accuracy].
    Direction: higher is better. Source: Dhamija et al., Reducing network agnostophobia, 2018.
    Differs: they count ties against the method. Raises: as `auroc`.
    """
    correct = _flags(correct, scores, "correct")  # before the sample ids, if any, are dropped
    scores, is_open = _check(scores, is_open)
    known, open_ = _counts(scores, is_open)
    _, position = np.unique(scores, return_inverse=True)
    accepted = np.bincount(position[correct & ~is_open], minlength=len(known))
    return float(_pairs(accepted, open_) / (2 * known.sum() * open_.sum()))


def closed_accuracy(predicted, true):
    """Share of known images whose predicted class is the true one.

    Shapes: predicted, true (N,) names or class numbers, known images only. Range: [0, 1].
    Raises: UserError for unequal lengths or no image.
    """
    predicted, true = _same_ids(predicted, true, "predicted", "true")
    if len(true) == 0:
        raise UserError("no known image was given, so there is no closed accuracy; pass at least one.")
    return float(np.mean(predicted == true))


def roc_curve(scores, is_open, positive="open"):
    """The ROC curve, one point per distinct score, from (0, 0) to (1, 1).

    `positive` names the positive class, "open" or "known". Shapes: fpr, tpr (M + 1,) float for M distinct scores.
    Raises: as `auroc`.
    """
    known, open_ = _counts(scores, is_open)
    sides = {"open": (known[::-1], open_[::-1]), "known": (open_, known)}
    if positive not in sides:
        raise UserError(f"positive is {positive!r}; expected 'open' or 'known'.")
    negative, chosen = sides[positive]
    return _rate(negative), _rate(chosen)


def bootstrap_interval(metric, scores, is_open, n=1000, seed=0, level=0.95):
    """Percentile interval of one metric under resampling of images, known and open images each among themselves.

    `metric` is a function of this module on (scores, is_open), or its name. Resampling within known and within
    open keeps both counts fixed. It says how far the number depends on these images, not on the training seed.
    Shapes: as `auroc`; returns (lo, hi). Range: that of the metric.
    Raises: UserError as `auroc`, for a metric without a counting form, n < 1 and a level outside (0, 1).
    """
    form = _FORMS.get(getattr(metric, "__name__", metric))
    if form is None:
        raise UserError(f"no bootstrap interval for {metric!r}; choose from {', '.join(_FORMS)}.")
    if n < 1 or not 0 < level < 1:
        raise UserError(f"bootstrap with n = {n} and level = {level}: expected n of 1 or more and 0 < level < 1.")
    known, open_ = _counts(scores, is_open)
    rng = np.random.default_rng(seed)
    most = max(len(known), known.sum(), open_.sum())
    size = max(1, 2_000_000 // most)  # resamples at a time: some 16 MB an array whatever the pool's size
    parts = [min(size, n - start) for start in range(0, n, size)]
    values = np.concatenate([form(_resample(known, part, rng), _resample(open_, part, rng)) for part in parts])
    lo, hi = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def evaluate(scores, is_open, correct, n=1000, seed=0):
    """All numbers of a run's row: counts, AUROC with its 95 % bootstrap interval, and the rest.

    Shapes: as `oscr`. `closed_accuracy` is that of the pool's known images. correct: None where nobody knows which
    classes the scored classifier predicts; OSCR and closed accuracy are None then. Raises: as `auroc`.
    """
    if correct is not None:
        correct = _flags(correct, scores, "correct")  # before the sample ids, if any, are dropped
    scores, is_open = _check(scores, is_open)
    lo, hi = bootstrap_interval(auroc, scores, is_open, n=n, seed=seed)
    return {
        "n_known": int((~is_open).sum()),
        "n_open": int(is_open.sum()),
        "auroc": auroc(scores, is_open),
        "auroc_lo": lo,
        "auroc_hi": hi,
        "fpr_at_tpr95": fpr_at_tpr95(scores, is_open),
        "fpr_at_tpr95_open": fpr_at_tpr95_open(scores, is_open),
        "aupr_open": aupr_open(scores, is_open),
        "aupr_known": aupr_known(scores, is_open),
        "oscr": None if correct is None else oscr(scores, is_open, correct),
        "closed_accuracy": None if correct is None else float(correct[~is_open].mean()),
    }


# Counting forms. known, open_: (..., M) int, images at each distinct score, ascending; leading axes are resamples.


def _pairs(below, above):
    """Twice the number of pairs with `below` under `above`, equal scores counting half: a whole number."""
    return ((2 * np.cumsum(below, axis=-1) - below) * above).sum(axis=-1)


def _auroc(known, open_):
    return _pairs(known, open_) / (2 * known.sum(axis=-1) * open_.sum(axis=-1))


def _rate(counts):
    """(..., M + 1) share passed after each threshold, starting at 0."""
    passed = np.cumsum(counts, axis=-1)
    return np.concatenate([np.zeros_like(passed[..., :1]), passed], axis=-1) / passed[..., -1:]


def _fpr_known_positive(known, open_):
    tpr, fpr = _rate(known), _rate(open_)
    after = np.argmax(tpr >= TARGET_TPR, axis=-1)[..., None]  # never 0: the curve starts at TPR 0
    (t0, t1), (f0, f1) = ([np.take_along_axis(c, after - s, axis=-1)[..., 0] for s in (1, 0)] for c in (tpr, fpr))
    return f0 + (f1 - f0) * (TARGET_TPR - t0) / (t1 - t0)


def _fpr_open_positive(known, open_):
    tpr, fpr = _rate(open_[..., ::-1]), _rate(known[..., ::-1])
    after = np.argmax(tpr >= TARGET_TPR, axis=-1)[..., None]
    return np.take_along_axis(fpr, after, axis=-1)[..., 0]


def _aupr_known(known, open_):
    found = np.cumsum(known, axis=-1)
    # A resample may leave the first scores empty; they weigh nothing, but 0/0 must not appear.
    precision = found / np.maximum(found + np.cumsum(open_, axis=-1), 1)
    return (known * precision).sum(axis=-1) / found[..., -1]


def _aupr_open(known, open_):
    return _aupr_known(open_[..., ::-1], known[..., ::-1])


_FORMS = {
    "auroc": _auroc,
    "fpr_at_tpr95": _fpr_known_positive,
    "fpr_at_tpr95_open": _fpr_open_positive,
    "aupr_open": _aupr_open,
    "aupr_known": _aupr_known,
}


def _resample(counts, n, rng):
    """(n, M) counts of as many images drawn with replacement: multinomial, drawn image by image as that is faster."""
    total = counts.sum()
    owner = np.repeat(np.arange(len(counts)), counts)
    drawn = owner[rng.integers(total, size=(n, total))] + len(counts) * np.arange(n)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * len(counts)).reshape(n, -1)


def _counts(scores, is_open):
    scores, is_open = _check(scores, is_open)
    values, position = np.unique(scores, return_inverse=True)
    return tuple(np.bincount(position[side], minlength=len(values)) for side in (~is_open, is_open))


def _check(scores, is_open):
    scores, is_open = _same_ids(scores, is_open, "scores", "is_open")
    try:
        scores = scores.astype(np.float64)
    except (TypeError, ValueError):
        raise UserError(f"scores are not numbers (found {scores.dtype}); expected one number per image.") from None
    is_open = _flags(is_open, scores, "is_open")
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise UserError(f"{bad} of {len(scores)} scores are not finite (NaN or infinite); look at the method's run.")
    for side, kind in ((is_open, "open"), (~is_open, "known")):
        if not side.any():
            raise UserError(f"the pool holds no {kind} images, so there is nothing to detect; check the open classes.")
    return scores, is_open


def _flags(flags, other, name):
    flags, _ = _same_ids(flags, other, name, "scores")
    if flags.dtype != bool and not np.isin(flags, (0, 1)).all():
        raise UserError(f"{name} holds values other than true and false; expected one truth value per image.")
    return flags.astype(bool)


def _same_ids(first, second, first_name, second_name):
    """Two (N,) arrays. Tables with different sample ids are refused: joining by position is how scores get swapped."""
    ids = [getattr(side, "index", None) for side in (first, second)]
    if all(hasattr(index, "equals") for index in ids) and not ids[0].equals(ids[1]):
        raise UserError(f"{first_name} and {second_name} have different sample ids; align them by id first.")
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape:
        raise UserError(
            f"{first_name} has shape {first.shape} and {second_name} {second.shape}; expected one value per image each."
        )
    return first, second
