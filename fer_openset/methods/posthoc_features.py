"""Post-hoc scores on the features that f_close's head reads (its last maps averaged over space), by pytorch-ood.

Shapes: features (N, D) and (M, D) float32 -> open_score (M,) float64. Direction: larger = more open. What is fitted is
fitted on the known training images and their true known labels.

ReAct, ASH and SCALE shape activations. Here they shape the pooled features, handed over as 1 x 1 maps: that is where
ReAct and SCALE are defined, and where ASH' authors place it in a ResNet (after the average pooling). So the images need
no second pass, and every method sees the same numbers. [ours] With `mirror` these are means over an image and its
mirror image.
"""

import copy
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from pytorch_ood.detector import ASH, DICE, KNN, RMD, SCALE, SHE, Mahalanobis, NNGuide, ReAct, ViM, fDBD

from fer_openset.errors import UserError
from fer_openset.methods.posthoc import fitting_images, scored, train_targets
from fer_openset.settings import Settings

CHUNK = 512  # pool images at a time, where a detector compares each with the whole training set


class PlainSettings(Settings):
    """mahalanobis, rmd, she and fdbd have no settings."""


class NeighbourSettings(Settings):
    """k: which nearest neighbour (knn), or how many of them (nnguide)."""

    k: int = Field(ge=1)


class VimSettings(Settings):
    """d: dimension of the principal subspace, below D; null takes the paper's rule."""

    d: int | None = Field(ge=1)


class DiceSettings(Settings):
    """p: share of the head's weights that are masked."""

    p: float = Field(ge=0, lt=1)


class ShapingSettings(Settings):
    """percentile: share of the activations below the threshold (react), or left out of the kept sum (scale)."""

    percentile: float = Field(ge=0, lt=1)


class AshSettings(ShapingSettings):
    """percentile: share of an image's activations set to zero. variant: what happens to the others: `ash-p` nothing,
    `ash-b` all become equal, `ash-s` they are scaled up."""

    variant: Literal["ash-p", "ash-b", "ash-s"]


def mahalanobis(task, settings):
    """Half the squared Mahalanobis distance to the nearest class mean, one covariance for all. Range: >= 0.

    Source: Lee et al. (2018), Eq. 2. Differs: the penultimate layer alone, no input noise; the covariance is a sum over
    images, not a mean (pytorch-ood; the order is the same).
    """
    return _gaussian(task, Mahalanobis(None))


def rmd(task, settings):
    """Relative Mahalanobis distance: the smallest class distance minus the distance under one Gaussian for all training
    images. Range: all reals. Source: Ren et al. (2021)."""
    return _gaussian(task, RMD(None))


def knn(task, settings):
    """Euclidean distance of the unit-length features to the k-th nearest of the training images. Range: [0, 2].
    Source: Sun et al. (2022), Algorithm 1. Raises: UserError for k above the number of training images."""
    _check_neighbours("knn", task, settings)
    detector = KNN(None, k=settings.k).fit_features(_train(task), train_targets(task))
    return scored(task, detector.predict_features(_pool(task)))


def nnguide(task, settings):
    """Minus the energy times the mean of the k largest similarities to training images, each weighted by its energy.
    Range: all reals. Source: Park, Jung and Teoh (2023). Differs: the bank holds all training images; the
    paper draws 1 to 10 % of them. Raises: UserError for k above their number."""
    _check_neighbours("nnguide", task, settings)
    detector = NNGuide(None, _head(task), k=settings.k).fit_features(_train(task), train_targets(task))
    return scored(task, torch.cat([detector.predict_features(part) for part in _pool(task).split(CHUNK)]))


def vim(task, settings):
    """Norm of the features outside the principal subspace, scaled to the logits, minus the energy. Range: all reals.

    Source: Wang et al. (2022), Sec. 4; without `d` its rule, see `principal_dimension`. Differs: the rule takes no more
    than half as many dimensions as there are training images, for all of them lie within as many as there are, and the
    scale would be a quotient by rounding errors. Raises: UserError for a `d` that leaves nothing outside (pytorch-ood
    would take D/2 or divide by zero).
    """
    head, (n, width) = _head(task), task.train_features.shape
    d = settings.d or min(principal_dimension(width), max(n // 2, 1))
    if d >= min(width, n):
        raise UserError(f"vim: d = {d}, but f_close has {width} features and {n} training images; take a smaller d, or "
                        "null for the rule.")  # fmt: skip
    detector = ViM(None, d, head.weight, head.bias).fit_features(_train(task), train_targets(task))
    return scored(task, detector.predict_features(_pool(task)))


def principal_dimension(width):
    """ViM's rule for D features: 1000 from 2048 on, else 512. Source: the authors' code. Differs: D/2 below 768 (256
    for ResNet-18), where 512 would leave little or nothing outside."""
    return 1000 if width >= 2048 else 512 if width >= 768 else max(width // 2, 1)


def she(task, settings):
    """Minus the inner product with the mean features of the assigned class (rightly classified training images).
    Range: all reals. Source: Zhang et al. (2023). Differs: a class without a rightly classified training image
    takes the mean of all its images, where pytorch-ood stops (see `fitting_images`)."""
    train, y, head = _train(task), train_targets(task), _head(task)
    chosen = fitting_images(head(train), y, at_least=1)
    detector = SHE(None, head)
    detector.patterns = torch.stack([train[chosen & (y == k)].mean(0) for k in range(len(task.known_classes))])
    return scored(task, detector.predict_features(_pool(task)))


def dice(task, settings):
    """Energy of the logits when only the head's weights of large mean contribution stay. Range: all reals.
    Source: Sun and Li (2022)."""
    head = _head(task)
    detector = DICE(None, head.weight, head.bias, settings.p).fit_features(_train(task), train_targets(task))
    return scored(task, torch.cat([detector.predict_features(part) for part in _pool(task).split(CHUNK)]))


def react(task, settings):
    """Energy of the logits of features that are cut at a percentile of the training images' activations.
    Range: all reals. Source: Sun, Guo and Li (2021)."""
    detector = ReAct(None, _map_head(task), percentile=settings.percentile)
    detector.fit_feature_maps(_maps(_train(task)), train_targets(task))
    return scored(task, detector.predict_feature_maps(_maps(_pool(task))))


def ash(task, settings):
    """Energy of the logits of features whose smaller activations are set to zero, image by image. Range: all reals.
    Source: Djurisic et al. (2023)."""
    detector = ASH(None, _map_head(task), settings.variant, settings.percentile)
    return scored(task, detector.predict_feature_maps(_maps(_pool(task))))


def scale(task, settings):
    """Energy of the logits of features multiplied by exp(sum / sum of the largest ones), image by image.
    Range: all reals. Source: Xu et al. (2024)."""
    detector = SCALE(None, _map_head(task), settings.percentile)
    return scored(task, detector.predict_feature_maps(_maps(_pool(task))))


def fdbd(task, settings):
    """Minus the mean distance to the other classes' decision boundaries, over the distance to the training mean.
    Range: <= 0. Source: Liu and Qin (2024)."""
    detector = fDBD(None, _head(task)).fit_features(_train(task))
    return scored(task, detector.predict_features(_pool(task)))


def _gaussian(task, detector):
    with _float64():
        detector.fit_features(_train(task).double(), train_targets(task))
        return scored(task, detector.predict_features(_pool(task).double()))


@contextmanager
def _float64():
    """pytorch-ood sums covariances in the default type, and a ridge of 1e-6 keeps the inverse finite. With fewer
    training images than features float32 is too coarse for that ridge, and distances come out negative."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _check_neighbours(name, task, settings):
    if settings.k > len(task.train):
        raise UserError(f"{name}: k = {settings.k}, but only {len(task.train)} known training images; take fewer.")


def _train(task):
    return torch.tensor(task.train_features.to_numpy())


def _pool(task):
    return torch.tensor(task.pool_features.to_numpy())


def _maps(features):
    return features[:, :, None, None]


def _head(task):
    """f_close's head on the CPU: a copy, for some detectors move the one they get to another device."""
    return copy.deepcopy(task.f_close.net.head).cpu().requires_grad_(False)


def _map_head(task):
    head = _head(task)
    return lambda maps: head(maps.flatten(1))
