"""PROSER: dummy outputs that come second on every known image, and first on mixtures of two classes.

Zhou, Ye and Zhan, "Learning Placeholders for Open-Set Recognition", CVPR 2021. The dummy outputs are the classifier
placeholders (an image's next best answer after its own class), features mixed within the network the data
placeholders (stand-ins for classes never seen). Known training images only; no pseudo label is read.
"""

from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field

from fer_openset import atomic
from fer_openset.errors import UserError
from fer_openset.fit import stream_seed
from fer_openset.methods.folds import fold_of
from fer_openset.methods.known_training import KnownTrainingSettings, clean_logits, fit_known, wider_learner
from fer_openset.methods.predictions import write_predictions
from fer_openset.methods.two_norms import unrecorded

CALIBRATION, DECISIONS = "calibration.json", "decisions.csv"
OPEN = "open"
MIX_AFTER = 3  # the stage of the body whose output is mixed
REMOVED = -1e9  # the logit of an answer that is not allowed


class ProserSettings(KnownTrainingSettings):
    """Settings of the method; origins stand in params/methods/proser.yaml.

    dummies: number C of dummy outputs, of which the largest counts. beta: both parameters of the mixing share's Beta
    distribution. data_weight, placeholder_weight: weights of the losses on mixtures and on "second best", beside
    the classification's 1. spare_statistics: mixtures are normalised by their own batch and leave alone the running
    statistics that images are scored with. keep: share of the calibration images that the K+1 decision leaves known.
    held_out_one_in: without known validation images one in so many known training images of each class is not trained
    on and calibrates instead.
    """

    batch_size: int = Field(ge=4)  # two halves, and two images to mix
    dummies: int = Field(1, ge=1)
    beta: float = Field(gt=0)
    data_weight: float = Field(ge=0)
    placeholder_weight: float = Field(ge=0)
    spare_statistics: bool = True
    keep: float = Field(gt=0, lt=1)
    held_out_one_in: int = Field(ge=2)


def proser(task, settings):
    """The largest dummy logit minus the largest known logit.

    Shapes: open_score (M,). Range: all reals. Direction: larger = more open. Also writes `calibration.json` and
    `decisions.csv`: for each pool image a known class or `open`, by the largest of the K+1 calibrated logits; and
    `predictions.csv`, the known class of the largest known logit.
    Paper: classifier and data placeholders; calibration. Differs: the authors' softmax over K+1 logits at temperature
    1024 ranks as this difference does, and is not computed; pairs of one class are left out of the loss on mixtures,
    for they are no new class; mixtures stay out of the running statistics (authors: half of what stage 4 records is
    mixtures, and images are scored with it); one optimiser for all epochs (authors: a new one each epoch, which forgets
    the momentum); Nesterov's momentum, and no decay of biases and norms (this workbook's SGD); the authors'
    max(AUC, 1 - AUC) is not repeated. Raises: UserError with one known class, or with nothing to calibrate on.
    """
    n_known = len(task.known_classes)
    if n_known < 2:
        raise UserError("proser: one known class leaves no two classes to mix; it needs at least 2 known classes.")
    train, calibration, origin = calibration_split(task, settings)
    learner = wider_learner("proser", task, settings, settings.dummies)

    def loss_of(net, x, y, generator, epoch):
        return _loss(net, x, y, n_known, settings, task.device, generator)

    fit_known("proser", task, settings, learner, loss_of, train)
    pool, known = (with_dummy(clean_logits(learner.net, task, settings, ids), n_known)
                   for ids in (task.pool_ids, calibration))  # fmt: skip
    scores = pd.Series(dummy_lead(pool).numpy(), index=task.pool_ids)
    bias = calibrate(dummy_lead(known).numpy(), settings.keep)
    _write_decisions(task, pool, bias)
    write_predictions(task, pool)
    kept = float((dummy_lead(known).numpy() + bias <= 0).mean())
    found = {"bias": bias, "kept": kept, "images": len(calibration), "images_from": origin}
    atomic.write_json(task.folder / CALIBRATION, found)
    return scores


def calibration_split(task, settings):
    """Who is trained on, and on whom the bias is fitted. Returns: (rows of task.train, ids, whose they are).

    Known validation images if there are any. If not, [ours] one in `held_out_one_in` known training images of each
    class, chosen by sample id and seed, which then are not trained on (an f_close that is started from has seen them).
    """
    if len(task.valid):
        return task.train, task.valid.index, "known validation images"
    one_in = settings.held_out_one_in
    fold = pd.Series(-1, index=task.train.index)
    for target, ids in task.train.groupby("target").groups.items():
        fold[ids] = fold_of(ids, one_in, task.seed, "proser", target)
    out = fold == one_in - 1  # the last fold: a class of fewer images keeps them all
    if not out.any():
        raise UserError(f"proser: there are no known validation images and no known class has {one_in} training "
                        "images to hold one out; lower held_out_one_in or add a validation split.")  # fmt: skip
    origin = f"one in {one_in} known training images, held out (there are no validation images)"
    print(f"proser: calibrates on {out.sum()} images: {origin}", flush=True)
    return task.train[~out], task.train.index[out], origin


def with_dummy(logits, n_known):
    """Logits (n, K + C) -> (n, K + 1): the known classes' and the largest dummy's."""
    return torch.cat([logits[:, :n_known], logits[:, n_known:].amax(1, keepdim=True)], 1)


def dummy_lead(logits):
    """d - max_k z_k for logits (n, K + 1): (n,), larger = more open."""
    return logits[:, -1] - logits[:, :-1].amax(1)


def calibrate(leads, keep):
    """What to add to the dummy logit so that at least `keep` of these known images stay known: a float.

    Shapes: leads (n,) of `dummy_lead`. Paper: calibration on validation data.
    """
    return -float(np.quantile(leads, keep, method="higher"))


def _write_decisions(task, logits, bias):
    names = np.array([*task.known_classes])[logits[:, :-1].argmax(1).numpy()]
    decision = np.where(dummy_lead(logits).numpy() + bias > 0, OPEN, names)
    atomic.write_csv(task.folder / DECISIONS, pd.DataFrame({"sample_id": task.pool_ids, "decision": decision}))


def _loss(net, x, y, n_known, settings, device, generator):
    """Half of the batch mixed, the other clean. Returns: (loss, its parts)."""
    half = len(y) // 2
    with device.autocast():
        mixed, new = mix(net.until(x[:half], MIX_AFTER), y[:half], settings.beta, generator)
        with unrecorded(net) if settings.spare_statistics else nullcontext():
            of_mixed = with_dummy(net.classify(net.since(mixed, MIX_AFTER)), n_known)
        clean = with_dummy(net(x[half:]), n_known)
    y = y[half:]
    loss_data = mixture_loss(of_mixed, new)
    loss_cls, loss_second = F.cross_entropy(clean, y), placeholder_loss(clean, y)
    loss = loss_cls + settings.data_weight * loss_data + settings.placeholder_weight * loss_second
    return loss, {"loss_cls": loss_cls, "loss_data": loss_data, "loss_second": loss_second}


def mix(features, y, beta, generator):
    """Mix each image with another of the batch, all by one share from Beta(beta, beta).

    Shapes: features (n, D, h, w), y (n,) -> mixtures (n, D, h, w), new (n,) bool: the two are of different classes.
    Paper: data placeholders by manifold mixup (Verma et al. 2019).
    """
    device = features.device
    draw = int(torch.randint(2**62, (), generator=generator, device=device))
    share = np.random.default_rng(stream_seed(draw, "share")).beta(beta, beta)
    other = torch.randperm(len(y), generator=generator, device=device)
    return share * features + (1 - share) * features[other], y != y[other]


def mixture_loss(logits, new):
    """Cross-entropy of the dummy class over the mixtures of two classes, else 0. Paper: data placeholders."""
    target = torch.full((len(logits),), logits.shape[1] - 1, device=logits.device)
    each = F.cross_entropy(logits, target, reduction="none")
    return (each * new).sum() / new.sum().clamp(min=1)


def placeholder_loss(logits, y):
    """Cross-entropy of the dummy class once the image's own class is removed. Paper: classifier placeholders."""
    others = logits.scatter(1, y[:, None], REMOVED)
    return F.cross_entropy(others, torch.full_like(y, logits.shape[1] - 1))
