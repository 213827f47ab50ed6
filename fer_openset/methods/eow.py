"""EOW: one more class, taught on features that the network itself dreams up.

Wang et al., "Energy-Based Open-World Uncertainty Modeling for Confidence Calibration", ICCV 2021 (EOW-Softmax). The
energy of a feature map is E(z) = log p_{K+1}(z). Langevin sampling finds features of low energy, which the network
takes for known ones, and training calls them class K+1; real images keep their classes. What is left with a low p_{K+1}
is where the training images are. Known training images only; no pseudo label is read.
"""

from contextlib import contextmanager
from typing import Literal

import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from fer_openset import atomic
from fer_openset.fit import stream_seed
from fer_openset.methods.known_training import KnownTrainingSettings, clean_logits, fit_known, wider_learner
from fer_openset.methods.predictions import write_predictions
from fer_openset.winograd import same_weights

BOTH_SCORES = "both_scores.csv"
SAMPLE_AFTER = 3  # the stage of the body whose output is sampled: the input of the last stage


class EowSettings(KnownTrainingSettings):
    """Settings of the method; origins stand in params/methods/eow.yaml.

    ebm_weight, ebm_from: weight of the loss on samples, and the epoch (from 0) it starts at. input_noise: standard
    deviation of the noise on normalised training images. sgld_samples: features fed in a step; sgld_steps, sgld_rate,
    sgld_noise: Langevin steps to make them, step size and noise. buffer: features kept from step to step, so that
    chains go on; restart: share of the chains that start anew, at U(-start_range, start_range). score: which of the
    two scores is the method's.
    """

    ebm_weight: float = Field(gt=0)
    ebm_from: int = Field(ge=0)
    input_noise: float = Field(ge=0)
    sgld_samples: int = Field(ge=1)
    sgld_steps: int = Field(ge=1)
    sgld_rate: float = Field(gt=0)
    sgld_noise: float = Field(ge=0)
    buffer: int = Field(ge=1)
    restart: float = Field(ge=0, le=1)
    start_range: float = Field(gt=0)
    score: Literal["one_minus_max", "extra_class"] = "one_minus_max"

    @model_validator(mode="after")
    def _fits_together(self):
        if self.ebm_from >= self.epochs:
            raise ValueError("expected ebm_from below epochs: otherwise no sample is ever fed")
        if self.sgld_samples > self.buffer:
            raise ValueError("expected sgld_samples of at most buffer")
        return self


def eow(task, settings):
    """1 - max_{k<=K} p_k, or p_{K+1} (`score: extra_class`), of the softmax over K+1 outputs.

    Shapes: open_score (M,). Range: 0..1. Direction: larger = more open. Also writes `both_scores.csv`, and
    `predictions.csv`: for each pool image the known class of the largest p_k.
    Paper: the (K+1)-way softmax and its energy-based objective; constants of the authors' code. Differs: the authors
    publish no open-set score, both are ours; samples are fed in evaluation mode, for in training mode they would move
    the statistics of batch normalisation; samples are kept at 0 or more, as a stage's output is; noise meets training
    images alone, before the network (the authors' forward pass adds N(0, 0.01^2) to the features of stage 1, in
    training and in test); the chains of a step are distinct (authors: drawn from the buffer with replacement); no
    warm-up of the rate; the authors' last pass over validation images is left out; the `paper` preset starts from
    f_close, as PROSER does (authors: from scratch).
    """
    learner = wider_learner("eow", task, settings, 1)
    buffer = new_buffer(learner.net, task, settings)

    def loss_of(net, x, y, generator, epoch):
        return _loss(net, x, y, buffer if epoch >= settings.ebm_from else None, settings, task.device, generator)

    fit_known("eow", task, settings, learner, loss_of, extra={"buffer": buffer})
    logits = clean_logits(learner.net, task, settings, task.pool_ids)
    both = pd.DataFrame(open_scores(logits), index=task.pool_ids)
    atomic.write_csv(task.folder / BOTH_SCORES, both.rename_axis("sample_id").reset_index())
    write_predictions(task, logits)
    return both[settings.score]


def open_scores(logits):
    """Both scores: {name: float64 array (n,)} for logits (n, K+1). The first sums the other probabilities: from 1 - max
    a confident image would get 0."""
    log_p = logits.double().log_softmax(1)
    others = log_p.scatter(1, log_p[:, :-1].argmax(1, keepdim=True), -torch.inf)
    return {"one_minus_max": others.exp().sum(1).numpy(), "extra_class": log_p[:, -1].exp().numpy()}


def new_buffer(net, task, settings):
    """Starting features (buffer, D, h, w) float32 on the device, of the shape that the network gives one image."""
    device = task.device.torch_device
    image = torch.zeros(1, task.dataset.images.shape[1], settings.image_size, settings.image_size, device=device)
    with evaluating(net), torch.no_grad():
        shape = net.until(image, SAMPLE_AFTER).shape[1:]
    generator = task.device.generator(stream_seed(task.seed, "eow", "buffer"))
    return new_features((settings.buffer, *shape), settings.start_range, generator)


def new_features(shape, start_range, generator):
    """Where a chain starts: U(-start_range, start_range), cut at 0."""
    draw = torch.rand(shape, generator=generator, device=generator.device)
    return ((2 * draw - 1) * start_range).clamp_(min=0)


def _loss(net, x, y, buffer, settings, device, generator):
    """Cross-entropy over K+1 classes, and that of class K+1 on samples (`buffer` None: without them)."""
    x = x + settings.input_noise * torch.randn(x.shape, generator=generator, device=x.device)
    samples = None if buffer is None else draw_samples(net, buffer, settings, device, generator)
    with device.autocast():
        logits = net(x)
    loss_cls = F.cross_entropy(logits, y)
    if samples is None:
        return loss_cls, {"loss_cls": loss_cls}
    # After the images: their pass moves the statistics in place, and a pass before it could not be differentiated.
    with evaluating(net):
        loss_ebm = -log_extra(net, samples, device).mean()
    return loss_cls + settings.ebm_weight * loss_ebm, {"loss_cls": loss_cls, "loss_ebm": loss_ebm}


def draw_samples(net, buffer, settings, device, generator):
    """Go on with some of the buffer's chains and put them back. Returns: features (sgld_samples, D, h, w), detached."""
    where = torch.randperm(len(buffer), generator=generator, device=buffer.device)[: settings.sgld_samples]
    fresh = torch.rand(len(where), generator=generator, device=buffer.device) < settings.restart
    start = new_features((len(where), *buffer.shape[1:]), settings.start_range, generator)
    start = torch.where(fresh.view(-1, 1, 1, 1), start, buffer[where])
    with evaluating(net, frozen=True), same_weights(net):
        samples = langevin(net, start, settings, device, generator)
    buffer[where] = samples
    return samples


def langevin(net, z, settings, device, generator):
    """z <- max(0, z - rate * grad E(z) + noise * eps), `sgld_steps` times. Shapes: (n, D, h, w) -> the same.

    The network must be in evaluation mode. Paper: SGLD in the space of features, with the authors' constants.
    """
    z = z.contiguous(memory_format=torch.channels_last)
    for _ in range(settings.sgld_steps):
        z.requires_grad_()
        energy = log_extra(net, z, device).sum()
        (slope,) = torch.autograd.grad(energy, z)
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        z = (z.detach() - settings.sgld_rate * slope + settings.sgld_noise * noise).clamp_(min=0)
    return z


def log_extra(net, features, device):
    """E(z) = log p_{K+1}: (n,) for features (n, D, h, w)."""
    with device.autocast():
        logits = net.classify(net.since(features, SAMPLE_AFTER))
    return logits.log_softmax(1)[:, -1]


@contextmanager
def evaluating(net, frozen=False):
    """Evaluation mode inside, and with `frozen` no gradient of any weight; both as before afterwards."""
    was_training, taught = net.training, [p for p in net.parameters() if p.requires_grad]
    net.eval()
    for weight in taught if frozen else []:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        net.train(was_training)
        for weight in taught:
            weight.requires_grad_(True)
