"""This workbook's own method: what does the pool hold that the known training images do not?

Known training images and the known part of the pool come from one distribution, so the ratio of the pool's density to
theirs ranks open against known images optimally (Neyman and Pearson; semi-supervised novelty detection: Blanchard, Lee
and Scott 2010; open-set label shift: Garg, Balakrishnan and Lipton 2022). A network with K+1 outputs estimates it:
training images keep their label, pool images are class K+1, and each image is scored only by networks that never saw
it. Pseudo labels are not used, so their order cannot matter.
"""

import zlib
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator

from fer_openset import atomic
from fer_openset.augment import AugmentSettings, SizeSettings
from fer_openset.backbones import copy_known, layout_of, new_net
from fer_openset.closed_set import batch_of
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed
from fer_openset.methods.pool_sampling import log_odds, most_open, pool_mix_weights
from fer_openset.methods.two_views import two_view_loss
from fer_openset.pretrained import StartSettings, place_of, pretrained_net, start_record

KNOWN_SCORES = "known_scores.csv"
ORACLE = "oracle"


class PoolNoveltySettings(OptimSettings, AugmentSettings, SizeSettings, StartSettings):
    """Settings of the method; origins stand in params/methods/pool_novelty.yaml.

    init: weights a network starts from; `f_close` gives its body and its K head rows, `pretrained` a body (see
    StartSettings). folds: parts of pool and training images; a network trains on all but one and scores that one.
    repeats: how often both are split anew; scores are averaged. known_per_pool: known training images seen in an epoch
    for each pool image (a fresh draw each epoch).
    average_from: scores are averaged over the epochs from this one on (0 = the first). select_from: from this epoch on
    a network trains on the most open-looking part of its pool images alone, as large as the estimated open share
    (conditional value ignoring risk, Garg et al. 2021); 0 = never. mix_from: from this epoch on known training images
    are drawn in the estimated mix of the pool's known images (label shift), not in their own; 0 = never.
    consistency_weight: weight of the attention-map consistency of Eq. 2, 0 leaves it out. mirror: scores are means over
    an image and its mirror.
    """

    eval_batch_size: int = Field(512, ge=1)
    init: Literal["scratch", "f_close", "pretrained"]
    folds: int = Field(ge=2)
    repeats: int = Field(ge=1)
    known_per_pool: float = Field(gt=0)
    average_from: int = Field(ge=0)
    select_from: int = Field(0, ge=0)
    mix_from: int = Field(0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    consistency_weight: float = Field(0.0, ge=0)
    mirror: bool = True

    @model_validator(mode="after")
    def _some_epoch_is_averaged(self):
        if self.average_from >= self.epochs:
            raise ValueError(f"average_from is {self.average_from}, but there are epochs 0 to {self.epochs - 1} only")
        return self


def pool_novelty(task, settings):
    """Log odds of "from the pool" against "a known training image", by networks that never trained on the image.

    Shapes: open_score (M,). Range: all reals. Direction: larger = more open. Also writes `known_scores.csv`: scores of
    held-out known training images, for the open fraction. Source: design of this workbook.
    """
    scores, known_scores = cross_fitted(task, settings, pool_is_novel(task), "pool_novelty")
    atomic.write_csv(task.folder / KNOWN_SCORES, known_scores.rename_axis("sample_id").reset_index())
    return scores


def pool_novelty_online(task, settings):
    """The same for images that come one by one: no part of the pool that an image belongs to was trained on.

    The pool is split once into two halves by sample id, an earlier and a later pool; networks trained on one half
    score the other in single forward passes, and each half plays each part once. Shapes, range, direction: as
    `pool_novelty`. Differs from it: half the pool to learn from, and one split for all repeats.
    """
    online = settings.model_copy(update={"folds": 2})
    return cross_fitted(task, online, pool_is_novel(task), "pool_novelty_online", one_split=True)[0]


def oracle(task, settings):
    """The upper bound: the same cross-fitted networks, trained with the pool's true labels (known images keep theirs,
    open ones are class K+1). Shapes, range, direction: as `pool_novelty`. Raises: UserError without the true labels.
    """
    if task.oracle_targets is None:
        raise UserError("oracle: this task holds no true labels; make it with oracle = True.")
    targets = pool_is_novel(task)
    true = task.oracle_targets
    targets[task.dataset.rows(task.pool_ids)] = np.where(true < 0, len(task.known_classes), true)
    return cross_fitted(task, settings, targets, ORACLE)[0]


def pool_is_novel(task):
    """Training targets by position in the dataset: 0..K-1 for known training images, K for everything else."""
    targets = np.full(len(task.dataset.table), len(task.known_classes))
    targets[task.dataset.rows(task.train.index)] = task.train["target"]
    return targets


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


def cross_fitted(task, settings, targets, label, one_split=False):
    """Train `repeats` x `folds` networks; each scores the fold it did not train on.

    Shapes: targets (all positions of the dataset,) int64, 0..K. Returns: open scores of the pool, and of the held-out
    known training images: Series by sample id.
    """
    folds = [Fold(task, settings, r, f, one_split) for r in range(settings.repeats) for f in range(settings.folds)]
    learners = [_learner(fold.name, task, settings) for fold in folds]
    total = {"pool": torch.zeros(len(task.pool_ids), dtype=torch.float64),
             "known": torch.zeros(len(task.train), dtype=torch.float64)}  # fmt: skip

    def loss_of(net, batch, generator, epoch):
        y = torch.from_numpy(targets[batch]).to(task.device.torch_device)
        return _loss(net, batch_of(task.dataset, batch), y, settings.size_at(epoch), settings, task.device, generator)

    def after_epoch(epoch):
        if epoch >= settings.average_from:
            for fold, x in zip(folds, learners, strict=True):
                total["pool"][fold.pool_out] += log_odds(x.net, task, settings, fold.scored_pool)
                total["known"][fold.known_out] += log_odds(x.net, task, settings, fold.scored_known)
        return {}

    def rows_of(epoch):
        chosen = {}
        for fold, x in zip(folds, learners, strict=True):
            selects = settings.select_from and epoch >= settings.select_from and label != ORACLE
            mixes = settings.mix_from and epoch >= settings.mix_from
            pool = most_open(x.net, fold, task, settings) if selects else fold.pool
            weights = pool_mix_weights(x.net, fold, task, settings, targets) if mixes else None
            chosen[fold.name] = fold.rows(task.seed, epoch, pool, weights)
        return chosen

    place = place_of(task.dataset, task.known_classes, task.seed)
    identity = {**task.identity(), "targets": zlib.crc32(targets), **start_record(settings, place)}
    fit(learners, loss_of, rows_of, settings, task.device, task.seed, task.folder, label, identity, after_epoch, total)
    epochs = settings.epochs - settings.average_from
    times_known = np.sum([fold.known_out for fold in folds], axis=0) * epochs
    known = pd.Series(total["known"].numpy(), index=task.train.index, name="open_score")[times_known > 0]
    pool = pd.Series(total["pool"].numpy() / (settings.repeats * epochs), index=task.pool_ids, name="open_score")
    return pool, known / times_known[times_known > 0]


def _learner(name, task, settings):
    seed, n = stream_seed(task.seed, name, "net"), len(task.known_classes) + 1
    if settings.init == "pretrained":
        net, _ = pretrained_net(settings, n, seed, place_of(task.dataset, task.known_classes, task.seed))
    elif settings.init == "scratch":
        net = new_net(settings.backbone, n, seed)
    else:
        net = new_net(layout_of(settings.backbone, task.f_close.backbone), n, seed)
        known = task.f_close.net.state_dict()
        copy_known(net, known, "pool_novelty: the weights of f_close", settings.backbone)
    net = task.device.place(net)
    return Learner(name, net, make_optimizer(net, settings))


def _loss(net, images, y, size, settings, device, generator):
    weight = settings.consistency_weight or None
    return two_view_loss(net, images, y, size, settings, device, generator, weight, settings.label_smoothing)
