"""Post-hoc scores on f_close's logits, computed by pytorch-ood: nothing is trained.

Shapes: pool_logits (M, K) float32 -> open_score (M,) float64. Direction: larger = more open. What is fitted is fitted
on the known training images and their true known labels. `as_released` hands open training images the outputs of
others; their scores are computed from those, here and in the other post-hoc files.
"""

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pytorch_ood.detector import GEN, EnergyBased, Entropy, KLMatching, MaxLogit, MaxSoftmax, OpenMax

from fer_openset.errors import UserError
from fer_openset.settings import Settings


class PosthocSettings(Settings):
    """Most of these methods have no settings."""


class EnergySettings(Settings):
    """temperature T of the free energy."""

    temperature: float = Field(gt=0)


class GenSettings(Settings):
    """gamma: exponent, the smaller the more the small probabilities count."""

    gamma: float = Field(gt=0)


class OpenMaxSettings(Settings):
    """tail_size: training images a class whose distances make its tail. alpha: top logits that are revised (<= K).
    euclid_weight: weight of the Euclidean distance; the cosine distance has the rest."""

    tail_size: int = Field(ge=2)
    alpha: int = Field(ge=1)
    euclid_weight: float = Field(ge=0, le=1)


def msp(task, settings):
    """Negative maximum softmax probability, the paper's baseline. Range: [-1, -1/K]. Source: Hendrycks, Gimpel 2017."""
    return scored(task, MaxSoftmax.score(pool_logits(task)))


def maxlogit(task, settings):
    """Negative maximum logit. Range: all reals. Source: Hendrycks et al. (2022)."""
    return scored(task, MaxLogit.score(pool_logits(task)))


def energy(task, settings):
    """Free energy -T log sum exp(z / T). Range: all reals. Source: Liu et al. (2020)."""
    return scored(task, EnergyBased.score(pool_logits(task), t=settings.temperature))


def entropy(task, settings):
    """Entropy of the softmax, in nats. Range: [0, log K]. Source: Chan, Rottmann and Gottschalk (2021). Differs:
    pytorch-ood clips p to [1e-7, 1 - 1e-7], so the order of surer images is not the entropy's."""
    return scored(task, Entropy.score(pool_logits(task)))


def gen(task, settings):
    """Generalised entropy, mean over classes of (p (1 - p))^gamma. Range: [0, 0.25^gamma]. Source: Liu, Lochman and
    Zach (2023). Differs: a mean, not a sum (pytorch-ood; the order is the same), and all K classes count: the
    paper's top M = 100 are for a thousand classes. pytorch-ood clips p to [1e-7, 1 - 1e-7], so surer images tie."""
    return scored(task, GEN.score(pool_logits(task), gamma=settings.gamma))


def klmatching(task, settings):
    """Smallest divergence KL(p || d_k) to a typical posterior d_k, the mean softmax of the training images that f_close
    calls class k. Range: >= 0. Source: Hendrycks et al. (2022), "KL matching". Differs: the typical posteriors come
    from training images, as everything that is fitted here; the paper takes validation images."""
    detector = KLMatching(None).fit_logits(as_double(task.train_logits))
    return scored(task, detector.predict_logits(pool_logits(task)))


def openmax(task, settings):
    """OpenMax' probability of the unknown class. Range: [0, 1]. Source: Bendale and Boult (2016), Algorithms 1 and 2.

    Class means and tails come from rightly classified training images (Algorithm 1; see `fitting_images`).
    Differs: one row a class is scored beside the pool, for pytorch-ood takes a distance of 0 to every class that no
    image of the batch is assigned to. Raises: UserError for alpha > K, which pytorch-ood would cut to K silently.
    """
    n_classes = len(task.known_classes)
    if settings.alpha > n_classes:
        raise UserError(f"openmax: alpha = {settings.alpha}, but only {n_classes} classes are known; take fewer.")
    train, y = as_double(task.train_logits), train_targets(task)
    chosen = fitting_images(train, y, at_least=2)
    fewest = int(torch.bincount(y[chosen], minlength=n_classes).min())
    if fewest <= settings.tail_size:
        print(f"openmax: a class has {fewest} images to fit, all within its tail of {settings.tail_size}, so its "
              "ordinary images rate as unknown; set a smaller tail_size", flush=True)  # fmt: skip
    detector = OpenMax(None, tailsize=settings.tail_size, alpha=settings.alpha, euclid_weight=settings.euclid_weight)
    detector.fit_logits(train[chosen], y[chosen])
    one_of_each = torch.eye(n_classes, dtype=torch.float64)
    return scored(task, detector.predict_logits(torch.cat([pool_logits(task), one_of_each]))[: len(task.pool_ids)])


def pool_logits(task):
    """float64 (M, K): confident models round to the same float32 probability and would tie."""
    return as_double(task.pool_logits)


def as_double(frame):
    """A DataFrame as a float64 tensor."""
    return torch.tensor(frame.to_numpy(), dtype=torch.float64)


def train_targets(task):
    """True known labels of the known training images: int64 tensor (N,), 0..K-1."""
    return torch.tensor(task.train["target"].to_numpy(), dtype=torch.int64)


def fitting_images(logits, y, at_least):
    """Rightly classified training images, as a boolean tensor (N,).

    [ours] A class with fewer than `at_least` of them keeps all its images: a poor f_close still has a mean for every
    class. Shapes: logits (N, K), y (N,).
    """
    right = logits.argmax(1) == y
    few = torch.bincount(y[right], minlength=logits.shape[1]) < at_least
    return right | few[y]


def scored(task, values):
    """Open scores by sample id. Raises: UserError when one is not finite."""
    scores = pd.Series(values.double().cpu().numpy(), index=task.pool_ids)
    bad = ~np.isfinite(scores)
    if bad.any():
        raise UserError(f"{bad.sum()} of {len(scores)} images have no finite score (first: {scores.index[bad][0]}); "
                        "f_close's outputs are degenerate, train it longer.")  # fmt: skip
    return scores
