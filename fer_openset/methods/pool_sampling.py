"""What an epoch of pool_novelty trains on, when the whole pool and the training images' own mix will not do.

Both choices read scores of images that the network did not train on, and no label of the pool.
"""

import numpy as np
import torch

from fer_openset.closed_set import predict
from fer_openset.open_fraction import estimate_open_fraction

FEWEST = 16  # images of class K+1 that an epoch needs at least
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


def most_open(net, fold, task, settings):
    """The part of a fold's pool images that looks most open to its network, as large as the open share estimated on
    the images that the network did not train on; repeated until it weighs about as much as one known class.

    Without it nearly all images of class K+1 are known ones when open images are rare. Returns: positions, repeats
    included. Source: Garg et al. 2021, "Mixture Proportion Estimation and PU Learning", CVIR. Differs: the part is
    chosen once an epoch, not in each batch.
    """
    pool, known = (log_odds(net, task, settings, rows).numpy() for rows in (fold.scored_pool, fold.scored_known))
    share = estimate_open_fraction(pool, known, n_boot=0).value
    n = max(round(share * len(fold.pool)), FEWEST)
    kept = fold.pool[np.argsort(-log_odds(net, task, settings, fold.pool).numpy(), kind="stable")[:n]]
    print(f"{fold.name}: {share:.1%} of the pool looks open; training on {len(kept)} of its images", flush=True)
    return np.tile(kept, max(1, round(fold.drawn / len(task.known_classes) / len(kept))))


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
