"""How much of the pool is open, and which threshold follows from it: no label of the pool is read.

Given open scores of the pool and of known images that were scored the same way (by networks that never saw them).
"""

from dataclasses import dataclass

import numpy as np

DELTA, GAMMA = 0.1, 0.01  # as in the source of `estimate_open_fraction`
LEVELS = (2.5, 97.5)


@dataclass(frozen=True)
class OpenFraction:
    """The estimated share of open images (0..1) and its 95 % bootstrap interval; see `threshold_for`."""

    value: float
    low: float
    high: float


def estimate_open_fraction(pool_scores, known_scores, n_boot=200, seed=0):
    """Best-bin estimate of the share of open images in the pool, with interval.

    Shapes: pool_scores (M,), known_scores (N,); larger = more open. If the pool's known images score like
    `known_scores`, their share in the pool is at most F_pool(c) / F_known(c) for any cut c (F: the fraction of images
    below c), with equality where no open image lies below c. The cut is the one with the lowest upper confidence bound.
    Source: Garg, Wu, Smola, Balakrishnan and Lipton (2021), "Mixture Proportion Estimation and PU Learning", Alg. 1.
    Differs: the interval is a bootstrap over both sets of images.
    Raises: ValueError for empty or non-finite scores.
    """
    pool, known = (np.asarray(s, dtype=float) for s in (pool_scores, known_scores))
    for name, scores in (("pool", pool), ("known", known)):
        if not scores.size or not np.isfinite(scores).all():
            raise ValueError(f"{name} scores: expected one or more finite numbers")
    value = 1 - _known_share(pool, known)
    rng = np.random.default_rng(seed)
    again = [1 - _known_share(rng.choice(pool, pool.size), rng.choice(known, known.size)) for _ in range(n_boot)]
    low, high = np.percentile(again, LEVELS) if n_boot else (value, value)
    return OpenFraction(value, float(min(low, value)), float(max(high, value)))


def threshold_for(scores, share):
    """The open score above which `share` of the images lie (inf for a share that rounds to no image)."""
    flagged = round(share * len(scores))
    return float(np.sort(scores)[-flagged]) if flagged else float("inf")


def _known_share(pool, known):
    """Estimated share of known images in the pool, at most 1."""
    cuts = np.unique(known)
    below_pool = np.searchsorted(np.sort(pool), cuts, side="right") / pool.size
    below_known = np.searchsorted(np.sort(known), cuts, side="right") / known.size
    slack = np.sqrt(np.log(4 / DELTA) / 2) * (pool.size**-0.5 + known.size**-0.5)
    best = np.argmin((below_pool + (1 + GAMMA) * slack) / below_known)
    return float(min(below_pool[best] / below_known[best], 1.0))
