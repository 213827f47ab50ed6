"""The paper's method: open images are those whose pseudo label a cautious learner refuses to fit.

Two networks learn the pool's pseudo labels with attention-map consistency, a cyclic learning rate and mutual
selection of clean samples; an image's open score is its remaining cross-entropy.
"""

from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from fer_openset import atomic
from fer_openset.augment import AugmentSettings, clean_view, train_view
from fer_openset.backbones import copy_weights, layout_of, new_net
from fer_openset.closed_set import batch_of
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed
from fer_openset.labels import check_name
from fer_openset.methods.selection import select_clean, select_clean_per_class
from fer_openset.methods.two_views import two_view_loss
from fer_openset.pretrained import StartSettings, place_of, pretrained_net, start_record

EPOCH_SCORES = "epoch_scores.csv"


class NoisyLabelSettings(OptimSettings, AugmentSettings, StartSettings):
    """Settings of the method; origins stand in params/methods/noisy_label.yaml.

    attention, cycle_training: switches of Table 5 (the third, the LR cycle, is `schedule`). nets: 1 or 2.
    init: weights both nets start from; see StartSettings for `pretrained`.
    warmup_epochs: epochs on the whole pool before selection starts. score_view: `clean`, or `noisy` as in the authors'
    code. score: `last` epoch's cross-entropy, or `trajectory`, the mean over epochs of the mean-centred one (O2U-Net).

    Switches for controls; their defaults are the method. labels: `soft` trains on f_close's probabilities at
    `temperature` (scores stay cross-entropies against the pseudo label). select_by: one mixture for the `pool`, or one
    for each pseudo `class`. alternate: both nets train each `epoch`, or they take turns by whole LR `cycle`.
    detach_cam: the consistency does not teach the head. keep_epochs: also write `epoch_scores.csv`, the pool's scores
    after each epoch. oracle_open_label: a known class that every open image of the pool gets as pseudo label (Fig. 6);
    it reads the pool's true labels.
    """

    image_size: int = Field(ge=1)
    eval_batch_size: int = Field(512, ge=1)
    init: Literal["scratch", "f_close", "pretrained"]
    attention: bool = True
    consistency_weight: float = Field(ge=0)
    cycle_training: bool = True
    nets: Literal[1, 2] = 2
    warmup_epochs: int = Field(ge=0)
    select_threshold: float = Field(gt=0, lt=1)
    score_view: Literal["clean", "noisy"] = "clean"
    score: Literal["last", "trajectory"] = "last"
    labels: Literal["hard", "soft"] = "hard"
    temperature: float = Field(1.0, gt=0)
    select_by: Literal["pool", "class"] = "pool"
    alternate: Literal["epoch", "cycle"] = "epoch"
    detach_cam: bool = True
    keep_epochs: bool = False
    oracle_open_label: str = ""

    @model_validator(mode="after")
    def _switches_fit(self):
        if self.oracle_open_label and self.labels == "soft":
            raise ValueError("oracle_open_label sets hard labels; leave labels: soft out")
        if self.alternate == "cycle":
            self._check_turns()
        if self.cycle_training and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs, so selection would never "
                             "start; lower it, or set cycle_training: false")  # fmt: skip
        return self

    def _check_turns(self):
        if not self.cycle_training:
            raise ValueError("alternate: cycle lets the nets of cycle_training take turns; set cycle_training: true")
        after = self.epochs - self.warmup_epochs
        if self.warmup_epochs % self.cycle_length or after < 2 * self.cycle_length:
            raise ValueError("alternate: cycle needs a warm-up of whole cycles, and two cycles after it, or f2 has no "
                             f"turn; there are {self.warmup_epochs} and {after} epochs, a cycle has "
                             f"{self.cycle_length}")  # fmt: skip


def noisy_label(task, settings, label="noisy_label"):
    """Cross-entropy of the pool's pseudo labels after training on them, mean of the nets.

    Shapes: open_score (M,). Range: >= 0 (`trajectory`: all reals). Direction: larger = more open.
    Paper: Eqs. 1-3 and "Pipeline". Differs: both views go through a net in one batch, so they share batch statistics;
    all nets train in every epoch, each on the other's selection, both selected before either trains. label: how
    progress is announced.
    Raises: UserError for cycle_training with one net, or pretrained weights that do not fit.
    """
    learners, by_epoch = train(task, settings, label)
    if settings.score == "trajectory":
        centred = by_epoch - by_epoch.mean(1, keepdim=True)
        return pd.Series(centred.mean(0).numpy(), index=task.pool_ids)
    generator = score_generator(task, settings, 0)
    labels = pseudo_labels_of(task, settings)
    scores = [cross_entropies(x.net, task, settings, pool_rows(task), labels, generator) for x in learners]
    return pd.Series(np.mean(scores, axis=0), index=task.pool_ids)


def train(task, settings, label="noisy_label"):
    """Train the nets on the pool and its pseudo labels, or read them back if that is done.

    Returns: (learners, mean cross-entropy of the pool after each epoch: (epochs, M) float64, empty unless asked for).
    """
    if settings.cycle_training and settings.nets == 1:
        raise UserError("noisy_label: cycle_training needs nets = 2; set cycle_training: false to train one net.")
    rows, labels = pool_rows(task), pseudo_labels_of(task, settings)
    targets = _targets(task, settings, labels)
    place = np.full(len(task.dataset.table), -1)
    place[rows] = np.arange(len(rows))  # position in the dataset -> position in the pool
    learners = [_learner(f"f{i + 1}", task, settings) for i in range(settings.nets)]
    (task.folder / EPOCH_SCORES).unlink(missing_ok=True)  # of a run with other settings
    keep = settings.keep_epochs or settings.score == "trajectory"
    by_epoch = torch.zeros(settings.epochs if keep else 0, len(rows), dtype=torch.float64)
    clean = []  # the cross-entropies after the last epoch, where they were kept: the next choice asks for the same

    def loss_of(net, batch, generator, epoch):
        y = targets[torch.from_numpy(place[batch])].to(task.device.torch_device)
        return _loss(net, batch_of(task.dataset, batch), y, settings, task.device, generator)

    def entropies(generator=None):
        return [cross_entropies(x.net, task, settings, rows, labels, generator) for x in learners]

    def rows_of(epoch):
        if not settings.cycle_training or epoch < settings.warmup_epochs:
            return {x.name: rows for x in learners}
        select = select_clean if settings.select_by == "pool" else select_clean_per_class
        found = clean.pop() if clean else entropies()
        kept = [select(values, settings.select_threshold, labels.numpy()) for values in found]
        print(f"noisy_label: kept {' and '.join(f'{k.mean():.0%}' for k in kept)} of the pool as clean", flush=True)
        chosen = {"f1": rows[kept[1]], "f2": rows[kept[0]]}
        if settings.alternate == "cycle":
            chosen[_resting(epoch, settings)] = None
        return chosen

    def after_epoch(epoch):
        if keep:
            generator = score_generator(task, settings, epoch)
            found = entropies(generator)
            by_epoch[epoch] = torch.from_numpy(np.mean(found, axis=0))
            clean[:] = [found] if generator is None else []
        return {}

    here = place_of(task.dataset, task.known_classes, task.seed)
    identity = {**task.identity(), "alignment": task.alignment, **start_record(settings, here)}
    fit(learners, loss_of, rows_of, settings, task.device, task.seed, task.folder,
        f"{label} {task.alignment}", identity, after_epoch, {"by_epoch": by_epoch} if keep else None)  # fmt: skip
    if settings.keep_epochs:
        table = pd.DataFrame(by_epoch.T.numpy(), index=task.pool_ids, columns=range(1, settings.epochs + 1))
        atomic.write_csv(task.folder / EPOCH_SCORES, table.rename_axis("sample_id").reset_index(), float_format="%.5g")
    return learners, by_epoch


def pseudo_labels_of(task, settings):
    """The labels that the nets are trained on and scored against: int64 tensor (M,), values 0..K-1."""
    labels = task.pseudo_labels
    if settings.oracle_open_label:
        if task.oracle_targets is None:
            raise UserError(
                "noisy_label: oracle_open_label reads the pool's true labels, which this task does not hold."
            )
        check_name(settings.oracle_open_label, task.known_classes, "known class for oracle_open_label")
        labels = np.where(task.oracle_targets < 0, task.known_classes.index(settings.oracle_open_label), labels)
    return torch.from_numpy(labels)


def _targets(task, settings, labels):
    if settings.labels == "hard":
        return labels
    return torch.softmax(torch.tensor(task.pool_logits.to_numpy()) / settings.temperature, dim=1)


def _resting(epoch, settings):
    """Who does not train in this epoch when the nets take turns: f2 in the first cycle after the warm-up."""
    turn = (epoch - settings.warmup_epochs) // settings.cycle_length
    return ("f2", "f1")[turn % 2]


def score_generator(task, settings, epoch):
    """Randomness of the noisy scoring pass; None for the clean one."""
    if settings.score_view == "clean":
        return None
    return task.device.generator(stream_seed(task.seed, "score", epoch))


def pool_rows(task):
    return task.dataset.rows(task.pool_ids)


def _learner(name, task, settings):
    """A net that starts from `settings.init`; unless that is f_close, its head is its own (own seed: two views)."""
    seed, n = stream_seed(task.seed, "body"), len(task.known_classes)
    if settings.init == "f_close":
        net = new_net(layout_of(settings.backbone, task.f_close.backbone), n, seed, zero_head=False)
        copy_weights(net, task.f_close.net.state_dict(), "noisy_label: the weights of f_close", settings.backbone)
    elif settings.init == "pretrained":
        place = place_of(task.dataset, task.known_classes, task.seed)
        net, _ = pretrained_net(settings, n, seed, place, zero_head=False)
    else:
        net = new_net(settings.backbone, n, seed, zero_head=False)
    if settings.init != "f_close":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(task.seed, name, "head"))
            net.head.reset_parameters()
    net = task.device.place(net)
    return Learner(name, net, make_optimizer(net, settings))


def _loss(net, images, y, settings, device, generator):
    """Eq. 3 on the erased view and its mirror image."""
    weight = settings.consistency_weight if settings.attention else None
    return two_view_loss(
        net, images, y, settings.image_size, settings, device, generator, weight, detach_head=settings.detach_cam
    )


def cross_entropies(net, task, settings, rows, labels, generator=None):
    """Cross-entropy of each pool image against its pseudo label, evaluation mode: float64 array (M,).

    generator: None for the clean view; with one, the training view (the authors' noisy scoring pass).
    """
    net.eval()
    out, batch_size = [], task.device.at_once(settings.eval_batch_size)
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
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
