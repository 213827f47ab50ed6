"""Who trains on what: folds by sample id, so that no image is scored by a network that trained on it."""

import zlib

import numpy as np

from fer_openset.fit import stream_seed


def fold_of(ids, folds, *keys):
    """A fold 0..folds-1 for each sample id, of equal sizes to one image; a function of the ids and `keys` alone.

    Shapes: ids (M,) -> int64 array (M,). The order of the ids makes no difference.
    """
    marks = [(zlib.crc32("/".join(map(str, (*keys, i))).encode()), i) for i in ids]
    out = np.empty(len(marks), np.int64)
    for rank, position in enumerate(sorted(range(len(marks)), key=marks.__getitem__)):
        out[position] = rank % folds
    return out


class Fold:
    """What one network may train on and what it scores, as positions in the dataset."""

    def __init__(self, task, settings, repeat, number, one_split=False):
        split = 0 if one_split else repeat
        pool, known = (
            (task.dataset.rows(ids), fold_of(ids, settings.folds, task.seed, split, part) == number)
            for part, ids in (("pool", task.pool_ids), ("known", task.train.index))
        )
        self.name = f"r{repeat}f{number}"
        self.pool_out, self.known_out = pool[1], known[1] & _first(known[1], pool[1].sum())
        self.pool, self.scored_pool = pool[0][~pool[1]], pool[0][pool[1]]
        self.known, self.scored_known = known[0][~known[1]], known[0][self.known_out]
        self.drawn = min(round(settings.known_per_pool * len(self.pool)), len(self.known))

    def rows(self, seed, epoch, pool, weights=None):
        """Positions to train on in this epoch: these of the pool, and known training images drawn anew, all alike or
        with `weights` (len(self.known),).

        Raises: AssertionError when one of them is to be scored.
        """
        rng = np.random.default_rng(stream_seed(seed, self.name, epoch, "known"))
        chosen = np.concatenate([pool, rng.choice(self.known, self.drawn, replace=False, p=weights)])
        check_unseen(chosen, np.concatenate([self.scored_pool, self.scored_known]))
        return chosen


def _first(mask, n):
    """The first n of the set places: no more held-out known images are scored than pool images."""
    return np.cumsum(mask) <= n


def check_unseen(trained_on, scored):
    """Raises: AssertionError when an image would be scored by a network that trains on it."""
    seen = np.intersect1d(trained_on, scored)
    if len(seen):
        raise AssertionError(f"{len(seen)} images would be scored by a network that trained on them")
