"""Who trains on what: folds by sample id, so that no image is scored by a network that trained on it or on a copy."""

import zlib

import numpy as np

from fer_openset.fit import stream_seed


def fold_of(ids, folds, *keys, groups=None, given=None):
    """A fold 0..folds-1 for each sample id, of equal sizes to one image; a function of the ids and `keys` alone.

    groups: (M,) what may not be torn apart, None if each id stands for itself; sizes then are as equal as that allows.
    given: {group: fold} of groups whose fold is settled.
    Shapes: ids (M,) -> int64 array (M,). The order of the ids makes no difference.
    """
    marks = _marks(ids, *keys)
    groups = ids if groups is None else groups
    out, settled, sizes = np.empty(len(marks), np.int64), dict(given or {}), [0] * folds
    for position in sorted(range(len(marks)), key=marks.__getitem__):
        fold = settled.setdefault(groups[position], sizes.index(min(sizes)))  # the smallest so far takes what is new
        out[position] = fold
        sizes[fold] += 1
    return out


def _marks(ids, *keys):
    """What puts ids in a random order that is a function of them and of `keys`, and not of how they lie."""
    return [(zlib.crc32("/".join(map(str, (*keys, i))).encode()), i) for i in ids]


def pool_folds(dataset, pool_ids, folds, seed, split=0):
    """The fold of each image of the pool: (M,) int64. Copies of one picture stay together."""
    return fold_of(pool_ids, folds, seed, split, "pool", groups=_pictures(dataset, pool_ids))


def _pictures(dataset, ids):
    return dataset.first_copy[dataset.rows(ids)]


class Fold:
    """What one network may train on and what it scores, as positions in the dataset.

    It may train on the pool's other folds, and on every known training image unless it scores that image or a copy.
    """

    def __init__(self, task, settings, repeat, number, one_split=False):
        split = 0 if one_split else repeat
        of_pool = pool_folds(task.dataset, task.pool_ids, settings.folds, task.seed, split)
        of_known = _known_folds(task, settings.folds, split, of_pool)
        pool, known = task.dataset.rows(task.pool_ids), task.dataset.rows(task.train.index)
        self.pictures = task.dataset.first_copy
        self.name = f"r{repeat}f{number}"
        self.pool_out = of_pool == number
        self.known_out = _at_most(self.pool_out.sum(), of_known == number, _marks(task.train.index, task.seed, split))
        self.pool, self.scored_pool = pool[~self.pool_out], pool[self.pool_out]
        self.scored_known = known[self.known_out]
        scored = self.pictures[np.concatenate([self.scored_pool, self.scored_known])]
        self.known = known[~np.isin(self.pictures[known], scored)]
        self.drawn = min(round(settings.known_per_pool * len(self.pool)), len(self.known))

    def rows(self, seed, epoch, pool, weights=None):
        """Positions to train on in this epoch: these of the pool, and known training images drawn anew, all alike or
        with `weights` (len(self.known),).

        Raises: AssertionError when one of them is to be scored.
        """
        rng = np.random.default_rng(stream_seed(seed, self.name, epoch, "known"))
        chosen = np.concatenate([pool, rng.choice(self.known, self.drawn, replace=False, p=weights)])
        check_unseen(self.pictures[chosen], self.pictures[np.concatenate([self.scored_pool, self.scored_known])])
        return chosen


def _known_folds(task, folds, split, of_pool):
    """The fold of each known training image: that of its copy in the pool, if it has one."""
    given = dict(zip(_pictures(task.dataset, task.pool_ids), of_pool, strict=True))
    ids = task.train.index
    return fold_of(ids, folds, task.seed, split, "known", groups=_pictures(task.dataset, ids), given=given)


def _at_most(n, mask, marks):
    """n of the set places by the order of their marks: no more known images are held out and scored than pool images,
    and not those of the first classes where a dataset lies sorted by class."""
    chosen = sorted(np.flatnonzero(mask), key=marks.__getitem__)[:n]
    return np.isin(np.arange(len(mask)), chosen)


def check_unseen(trained_on, scored):
    """Raises: AssertionError when an image would be scored by a network that trains on it."""
    seen = np.intersect1d(trained_on, scored)
    if len(seen):
        raise AssertionError(f"{len(seen)} images would be scored by a network that trained on them")
