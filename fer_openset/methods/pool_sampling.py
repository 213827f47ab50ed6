"""What an epoch of pool_novelty trains on, when the whole pool and the training images' own mix will not do.

Both choices read scores of images that the scoring network did not train on, and no label of the pool.
"""

import numpy as np
import pandas as pd
import torch

from fer_openset.closed_set import predict
from fer_openset.fit import stream_seed
from fer_openset.open_fraction import estimate_open_fraction

FEWEST = 16  # images of class K+1 that a network needs at least
MOST = 10.0  # how much more often an image of one known class may be drawn than in the training images' own mix


def outputs(net, task, settings, rows):
    """Outputs of the clean view of these positions: float64 tensor (n, K+1), class K+1 last."""
    z = predict(net, task.dataset, rows, settings.image_size, settings.eval_batch_size, task.device, settings.mirror)
    return torch.from_numpy(z).double()


def log_odds(net, task, settings, rows):
    """z_{K+1} - logsumexp_k z_k of the clean view: float64 tensor (n,); larger = more open."""
    return odds_of(outputs(net, task, settings, rows), -1)


def odds_of(z, number):
    """z_number - logsumexp of all other outputs. Shapes: z (n, K+1) -> (n,)."""
    others = z.clone()
    others[:, number] = -torch.inf
    return z[:, number] - others.logsumexp(1)


def chance_open(scores, known_scores, share):
    """The chance of each pool image to be open, as far as scores of networks that never saw it can tell.

    If `share` of the pool is open and its known images score like `known_scores`, Bayes' rule gives it as
    1 - (1 - share) * (density of known scores) / (density of pool scores). The ratio comes from an isotonic regression
    of "from the pool" on the score, both sets weighing alike: no shape is assumed, but a higher score never means less.

    Shapes: scores, known_scores: Series of open scores; share 0..1 -> Series like `scores`, 0..1, larger = more open;
    None when fewer than FEWEST open images are expected: too few to learn from.
    """
    if round(share * len(scores)) < FEWEST:
        return None
    from sklearn.isotonic import IsotonicRegression  # a second to import: two notebooks of a class do without it

    from_pool = np.r_[np.ones(len(scores)), np.zeros(len(known_scores))]
    weights = np.r_[np.full(len(scores), 1 / len(scores)), np.full(len(known_scores), 1 / len(known_scores))]
    line = IsotonicRegression(out_of_bounds="clip").fit(np.r_[scores, known_scores], from_pool, weights)
    at = line.predict(scores).clip(1e-9)
    return pd.Series((1 - (1 - share) * (1 - at) / at).clip(0, 1), index=scores.index)


def draw_open(fold, task, chance, epoch, seed):
    """Pool images of a fold drawn by their chance of being open: positions, with repeats; as many as are expected to be
    open, and no fewer than an epoch has images of a known class on average. The whole pool is mostly known images when
    open ones are rare; this is not."""
    weights = chance.loc[task.dataset.table.index[fold.pool]].to_numpy()
    n = max(round(weights.sum()), round(fold.drawn / len(task.known_classes)), FEWEST)
    if not weights.any():  # the few that may be open all lie in the other folds
        weights = np.ones(len(weights))
    rng = np.random.default_rng(stream_seed(seed, fold.name, epoch, "open"))
    return rng.choice(fold.pool, n, p=weights / weights.sum())


def pool_mix_weights(net, fold, task, settings, targets):
    """How often to draw each known training image of a fold, so that they come in the mix of the pool's known images.

    The share of each known class in the pool is a best-bin estimate, as the open share is, with the class's held-out
    images in the place of all known ones. Shapes: targets (positions of the dataset,) -> float64 (len(fold.known),),
    sum 1.
    Source: open-set label shift, Garg, Balakrishnan and Lipton 2022 (PULSE estimates one share a class as here).
    """
    pool, known = (outputs(net, task, settings, rows) for rows in (fold.scored_pool, fold.scored_known))
    own, drawn = targets[fold.known], np.ones(len(fold.known))
    for number, name in enumerate(task.known_classes):
        of_class = targets[fold.scored_known] == number
        if not of_class.any():
            continue  # too rare to tell: as often as before
        mine, theirs = -odds_of(known[of_class], number).numpy(), -odds_of(pool, number).numpy()
        in_pool = 1 - estimate_open_fraction(theirs, mine, n_boot=0).value
        drawn[own == number] = in_pool / (own == number).mean()
        print(f"{fold.name}: {in_pool:.1%} of the pool looks like {name}", flush=True)
    drawn = np.clip(drawn / drawn.mean(), 1 / MOST, MOST)
    return drawn / drawn.sum()
