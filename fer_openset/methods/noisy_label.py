"""The paper's method: open images are those whose pseudo label a cautious learner refuses to fit.

Two networks learn the pool's pseudo labels with attention-map consistency, a cyclic learning rate and mutual
selection of clean samples; an image's open score is its remaining cross-entropy.
"""

import warnings
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from fer_openset.augment import AugmentSettings, clean_view, train_view
from fer_openset.backbones import copy_weights, new_net
from fer_openset.checkpoint import load_tensors
from fer_openset.closed_set import batch_of
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed
from fer_openset.methods.two_views import two_view_loss
from fer_openset.settings import ROOT


class NoisyLabelSettings(OptimSettings, AugmentSettings):
    """Settings of the method; origins stand in params/methods/noisy_label.yaml.

    attention, cycle_training: switches of Table 5 (the third, the LR cycle, is `schedule`). nets: 1 or 2.
    init: weights both nets start from; `pretrained` reads `weights` (safetensors, this workbook's format).
    warmup_epochs: epochs on the whole pool before selection starts. score_view: `clean`, or `noisy` as in the authors'
    code. score: `last` epoch's cross-entropy, or `trajectory`, the mean over epochs of the mean-centred one (O2U-Net).
    """

    backbone: str = "resnet18"
    image_size: int = Field(ge=1)
    eval_batch_size: int = Field(512, ge=1)
    init: Literal["scratch", "f_close", "pretrained"]
    weights: str = ""
    attention: bool = True
    consistency_weight: float = Field(ge=0)
    cycle_training: bool = True
    nets: Literal[1, 2] = 2
    warmup_epochs: int = Field(ge=0)
    select_threshold: float = Field(gt=0, lt=1)
    score_view: Literal["clean", "noisy"] = "clean"
    score: Literal["last", "trajectory"] = "last"

    @model_validator(mode="after")
    def _selection_starts(self):
        if self.cycle_training and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs, so selection would never "
                             "start; lower it, or set cycle_training: false")  # fmt: skip
        return self


def noisy_label(task, settings):
    """Cross-entropy of the pool's pseudo labels after training on them, mean of the nets.

    Shapes: open_score (M,). Range: >= 0 (`trajectory`: all reals). Direction: larger = more open.
    Paper: Eqs. 1-3 and "Pipeline". Differs: both views go through a net in one batch, so they share batch statistics;
    all nets train in every epoch, each on the other's selection, both selected before either trains.
    Raises: UserError for cycle_training with one net, or pretrained weights that do not fit.
    """
    if settings.cycle_training and settings.nets == 1:
        raise UserError("noisy_label: cycle_training needs nets = 2; set cycle_training: false to train one net.")
    rows = task.dataset.rows(task.pool_ids)
    labels = torch.from_numpy(task.pseudo_labels)
    place = np.full(len(task.dataset.table), -1)
    place[rows] = np.arange(len(rows))  # position in the dataset -> position in the pool
    learners = [_learner(f"f{i + 1}", task, settings) for i in range(settings.nets)]
    total = torch.zeros(len(rows), dtype=torch.float64)

    def loss_of(net, batch, generator, epoch):
        y = labels[torch.from_numpy(place[batch])].to(task.device.torch_device)
        return _loss(net, batch_of(task.dataset, batch), y, settings, task.device, generator)

    def entropies(view, epoch=0):
        generator = task.device.generator(stream_seed(task.seed, "score", epoch)) if view == "noisy" else None
        return [cross_entropies(x.net, task, settings, rows, labels, generator) for x in learners]

    def rows_of(epoch):
        if not settings.cycle_training or epoch < settings.warmup_epochs:
            return {x.name: rows for x in learners}
        kept = [select_clean(values, settings.select_threshold, task.pseudo_labels) for values in entropies("clean")]
        print(f"noisy_label: kept {' and '.join(f'{k.mean():.0%}' for k in kept)} of the pool as clean", flush=True)
        return {"f1": rows[kept[1]], "f2": rows[kept[0]]}

    def after_epoch(epoch):
        if settings.score == "trajectory":
            mean = np.mean(entropies(settings.score_view, epoch), axis=0)
            total.add_(torch.from_numpy(mean - mean.mean()))
        return {}

    identity = {**task.identity(), "alignment": task.alignment}
    fit(learners, loss_of, rows_of, settings, task.device, task.seed, task.folder,
        f"noisy_label {task.alignment}", identity, after_epoch, {"total": total})  # fmt: skip
    if settings.score == "trajectory":
        return pd.Series(total.numpy() / settings.epochs, index=task.pool_ids)
    return pd.Series(np.mean(entropies(settings.score_view), axis=0), index=task.pool_ids)


def _learner(name, task, settings):
    """A net whose body starts from `settings.init` and whose head is its own (different head seeds: two views)."""
    net = new_net(settings.backbone, len(task.known_classes), stream_seed(task.seed, "body"), zero_head=False)
    if settings.init == "f_close":
        copy_weights(net, task.f_close.net.state_dict(), "noisy_label: the weights of f_close", settings.backbone)
    elif settings.init == "pretrained":
        if not settings.weights:
            raise UserError("noisy_label: init: pretrained needs `weights`, the path of a safetensors file.")
        path = ROOT / settings.weights
        body = {k: v for k, v in load_tensors(path)[0].items() if k.startswith("body.")}
        head = {f"head.{k}": v for k, v in net.head.state_dict().items()}
        copy_weights(net, {**head, **body}, f"noisy_label: the weights of {path}", settings.backbone)
    if settings.init != "f_close":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(task.seed, name, "head"))
            net.head.reset_parameters()
    net = task.device.place(net)
    return Learner(name, net, make_optimizer(net, settings))


def _loss(net, images, y, settings, device, generator):
    """Eq. 3 on the erased view and its mirror image."""
    weight = settings.consistency_weight if settings.attention else None
    return two_view_loss(net, images, y, settings.image_size, settings, device, generator, weight)


def cross_entropies(net, task, settings, rows, labels, generator=None):
    """Cross-entropy of each pool image against its pseudo label, evaluation mode: float64 array (M,).

    generator: None for the clean view; with one, the training view (the authors' noisy scoring pass).
    """
    net.eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(rows), settings.eval_batch_size):
            part = slice(start, start + settings.eval_batch_size)
            images = batch_of(task.dataset, rows[part])
            if generator is None:
                x = clean_view(images, settings.image_size, task.device.torch_device)
            else:
                x = train_view(images, settings.image_size, settings, task.device.torch_device, generator)
            with task.device.autocast():
                logits = net(x)
            y = labels[part].to(task.device.torch_device)
            out.append(F.cross_entropy(logits.double(), y, reduction="none").cpu())
    return torch.cat(out).numpy()


def select_clean(values, threshold, labels):
    """Which images belong to the low-loss component of a two-component Gaussian mixture: boolean array (M,).

    values: cross-entropies (M,), min-max normalised here. Source: Li, Socher and Hoi (2020), as the paper cites it.
    Differs: a selection of under 10 % or over 99 % is degenerate and keeps everything, and says so; a pseudo class that
    would lose its last image keeps all of its images, for a net that no longer sees a class cannot tell it at all.
    """
    spread = np.ptp(values)
    if spread == 0:
        print("noisy_label: every image has the same loss: keeping all", flush=True)
        return np.ones(len(values), bool)
    scaled = ((values - values.min()) / spread).reshape(-1, 1)
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the recipe is ten steps, converged or not
        mixture.fit(scaled)
    kept = mixture.predict_proba(scaled)[:, mixture.means_.argmin()] > threshold
    if not 0.10 <= kept.mean() <= 0.99:
        print(f"noisy_label: keeping all, the selection is degenerate ({kept.mean():.1%})", flush=True)
        return np.ones(len(values), bool)
    return kept | ~np.isin(labels, labels[kept])
