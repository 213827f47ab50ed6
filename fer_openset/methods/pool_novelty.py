"""This workbook's own method: what does the pool hold that the known training images do not?

Known training images and the known part of the pool come from one distribution, so the ratio of the pool's density to
theirs ranks open against known images optimally (Neyman and Pearson; semi-supervised novelty detection: Blanchard, Lee
and Scott 2010; open-set label shift: Garg, Balakrishnan and Lipton 2022). A network with K+1 outputs estimates it:
training images keep their label, pool images are class K+1, and each image is scored only by networks that never saw
it. Where open images are rare nearly all of class K+1 are known images, and the ratio is learned slowly; so a further
round draws the pool's images by the chance of being open that the round before gave them. Pseudo labels are not used,
so their order cannot matter.
"""

import shutil
import zlib
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator

from fer_openset import atomic
from fer_openset.augment import AugmentSettings, SizeSettings
from fer_openset.backbones import copy_known, layout_of, new_net
from fer_openset.checkpoint import CHECKPOINT
from fer_openset.closed_set import batch_of
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed
from fer_openset.methods.folds import Fold, pool_folds
from fer_openset.methods.pool_sampling import chance_open, draw_open, log_odds, pool_mix_weights
from fer_openset.methods.two_views import two_view_loss
from fer_openset.open_fraction import estimate_open_fraction
from fer_openset.pretrained import StartSettings, place_of, pretrained_net, start_record

SHARE_SCORES = "share_scores.csv"
ORACLE = "oracle"


class PoolNoveltySettings(OptimSettings, AugmentSettings, SizeSettings, StartSettings):
    """Settings of the method; origins stand in params/methods/pool_novelty.yaml.

    init: weights a network starts from; `f_close` gives its body and its K head rows, `pretrained` a body (see
    StartSettings). folds: parts of the pool; a network trains on all but one and scores that one, and as many known
    images, which it does not train on either (`Fold`).
    repeats: how often both are split anew; scores are averaged. known_per_pool: known training images seen in an epoch
    for each pool image (a fresh draw each epoch).
    rounds: how often networks are trained from `init`; from the second round on, the pool's images are drawn by their
    chance of being open (`chance_open`), which the scores of the round before give.
    average_from: scores are averaged over the epochs from this one on (0 = the first). mix_from: from this epoch on
    known training images are drawn in the estimated mix of the pool's known images (label shift), not in their own;
    0 = never.
    consistency_weight: weight of the attention-map consistency of Eq. 2, 0 leaves it out. mirror: scores are means over
    an image and its mirror.
    """

    eval_batch_size: int = Field(512, ge=1)
    init: Literal["scratch", "f_close", "pretrained"]
    folds: int = Field(ge=2)
    repeats: int = Field(ge=1)
    rounds: int = Field(ge=1)
    known_per_pool: float = Field(gt=0)
    average_from: int = Field(ge=0)
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

    Shapes: open_score (M,). Range: all reals. Direction: larger = more open. With several rounds, the mean over those
    from the second on, whose networks start anew from other random streams. Also writes `share_scores.csv` for the open
    share: scores of the pool and of held-out known images in the first round. In later rounds they cannot be compared:
    whether an image was in the pool had a say in what its networks trained on. Source: design of this workbook.
    """
    earlier, chance = _before_last_round(task, settings)
    number = 1 if chance is None else settings.rounds
    last, known = cross_fitted(task, settings, pool_is_novel(task), "pool_novelty", chance=chance, number=number)
    if settings.rounds == 1:
        _write_share_scores(task.folder, last, known)
    rounds = [*earlier[1:], last]
    return sum(rounds) / len(rounds)


def _before_last_round(task, settings):
    """Run all rounds but the last, each in a folder of its own.

    Returns: the scores of each of these rounds, and the chance of each pool image to be open, by id, for the last one;
    no scores and None for a single round, or if too few images look open for another: then the first round becomes the
    last.
    """
    found, chance = [], None
    for number in range(1, settings.rounds):
        within = task.for_method(task.folder / f"round{number}")
        name = f"pool_novelty, round {number}"
        scores, known = cross_fitted(within, settings, pool_is_novel(task), name, chance=chance, number=number)
        if number == 1:
            _write_share_scores(task.folder, scores, known)
            share = estimate_open_fraction(scores, known, n_boot=0).value
        chance = chance_open(scores, known, share)
        if chance is None:
            print(f"{name}: {share:.1%} of {len(scores)} images look open, too few for another round", flush=True)
            first, last = (x.folder / CHECKPOINT for x in (within, task))
            with atomic.atomic_path(last) as copy:  # this round is the last one, and done
                shutil.copyfile(first, copy)  # not moved: the method run again finds the round
            (task.folder / "history.csv").unlink(missing_ok=True)  # an older training's; this one's lies with its round
            return [], None
        found.append(scores)
        drawn = (chance**2).sum() / chance.sum()
        print(f"{name}: {share:.1%} of the pool looks open, {drawn:.1%} of what the next round will draw", flush=True)
    return found, chance


def _write_share_scores(folder, scores, known):
    parts = pd.concat({"pool": scores, "known": known}, names=["part", "sample_id"])
    atomic.write_csv(folder / SHARE_SCORES, parts.reset_index())


def pool_novelty_online(task, settings):
    """The same for images that come one by one: no part of the pool that an image belongs to was trained on.

    The pool is split once into two halves by sample id, an earlier and a later pool; networks trained on one half
    score the other in single forward passes, and each half plays each part once. Rounds before the last see one half
    only. Shapes, range, direction: as `pool_novelty`. Differs from it: half the pool to learn from (a quarter in rounds
    before the last), one split for all repeats, and the scores are those of the last epoch's networks in the last
    round: an average over epochs or rounds would need a pass through the networks of each.
    """
    online = settings.model_copy(update={"folds": 2})
    halves, chances = pool_folds(task.dataset, task.pool_ids, 2, task.seed), []
    for half in range(2):
        logits = task.pool_logits[halves == half]
        earlier = replace(task, pool_logits=logits, folder=task.folder / f"half{half}")
        chances.append(_before_last_round(earlier, online)[1])
    chance = None if any(c is None for c in chances) else pd.concat(chances)
    last = online.model_copy(update={"average_from": settings.epochs - 1})
    return cross_fitted(task, last, pool_is_novel(task), "pool_novelty_online", one_split=True, chance=chance)[0]


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


def cross_fitted(task, settings, targets, label, one_split=False, chance=None, number=1):
    """Train `repeats` x `folds` networks; each scores the fold it did not train on.

    Shapes: targets (all positions of the dataset,) int64, 0..K; chance: None, or a Series with the chance of being open
    of each pool image, by which the pool's images are drawn. number: of the round; each has its own random streams, all
    have the same folds. Returns: open scores of the pool, and of the held-out known training images: Series by sample
    id.
    """
    seed = task.seed if number == 1 else stream_seed(task.seed, "round", number)
    folds = [Fold(task, settings, r, f, one_split) for r in range(settings.repeats) for f in range(settings.folds)]
    learners = [_learner(fold.name, task, settings, seed) for fold in folds]
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
            mixes = settings.mix_from and epoch >= settings.mix_from
            pool = fold.pool if chance is None else draw_open(fold, task, chance, epoch, seed)
            weights = pool_mix_weights(x.net, fold, task, settings, targets) if mixes else None
            chosen[fold.name] = fold.rows(seed, epoch, pool, weights)
        return chosen

    place = place_of(task.dataset, task.known_classes, task.seed)
    identity = {
        **task.identity(),
        "targets": zlib.crc32(targets),
        "chance": _digest(chance),
        "folds": zlib.crc32(np.concatenate([part for fold in folds for part in (fold.pool, fold.known)])),
        **start_record(settings, place),
    }
    fit(learners, loss_of, rows_of, settings, task.device, seed, task.folder, label, identity, after_epoch, total)
    epochs = settings.epochs - settings.average_from
    times_known = np.sum([fold.known_out for fold in folds], axis=0) * epochs
    known = pd.Series(total["known"].numpy(), index=task.train.index, name="open_score")[times_known > 0]
    pool = pd.Series(total["pool"].numpy() / (settings.repeats * epochs), index=task.pool_ids, name="open_score")
    return pool, known / times_known[times_known > 0]


def _digest(chance):
    return None if chance is None else zlib.crc32(chance.sort_index().to_numpy())


def _learner(name, task, settings, seed):
    seed, n = stream_seed(seed, name, "net"), len(task.known_classes) + 1
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
