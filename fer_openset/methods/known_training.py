"""What EOW and PROSER share: they train on the known training images alone, with outputs beside the known classes."""

import zlib
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from fer_openset.augment import AugmentSettings, train_view
from fer_openset.backbones import copy_known, layout_of, new_net
from fer_openset.closed_set import batch_of, data_digest, predict
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed


class KnownTrainingSettings(OptimSettings, AugmentSettings):
    """Settings of every such method.

    init: weights the network starts from; `f_close` gives its body and its K head rows. mirror: logits of the clean
    view are means over an image and its mirror image.
    """

    backbone: str = "resnet18"
    image_size: int = Field(ge=1)
    eval_batch_size: int = Field(512, ge=1)
    init: Literal["scratch", "f_close"]
    mirror: bool = False


def wider_learner(method, task, settings, more):
    """A network with K + `more` outputs and its optimiser; the rows beyond the known classes start at random.

    Raises: UserError when f_close has another backbone than the settings ask for.
    """
    seed = stream_seed(task.seed, method, "net")
    backbone = layout_of(settings.backbone, task.f_close.backbone, settings.init)
    net = new_net(backbone, len(task.known_classes) + more, seed, zero_head=False)
    if settings.init == "f_close":
        copy_known(net, task.f_close.net.state_dict(), f"{method}: the weights of f_close", settings.backbone)
    net = task.device.place(net)
    return Learner(method, net, make_optimizer(net, settings))


def fit_known(method, task, settings, learner, loss_of, train=None, extra=None):
    """Train on the known training images (or the rows of `train`, indexed and filled like Task.train).

    loss_of(net, x, y, generator, epoch) -> what `fit` takes: x (n, C, S, S) the normalised training view, y (n,) int64
    0..K-1, both on the device. extra: as in `fit`. The pool plays no part. Returns: the history; with known validation
    images each epoch has `valid_accuracy`, of the largest of the K known logits.
    """
    train = task.train if train is None else train
    rows, device = task.dataset.rows(train.index), task.device.torch_device
    targets = np.full(len(task.dataset.table), -1)
    targets[rows] = train["target"]

    def on_batch(net, batch, generator, epoch):
        x = train_view(batch_of(task.dataset, batch), settings.image_size, settings, device, generator)
        return loss_of(net, x, torch.from_numpy(targets[batch]).to(device), generator, epoch)

    valid, valid_targets = task.valid.index, task.valid.get("target")

    def after_epoch(epoch):
        if not len(valid):
            return {}
        # On the way there one view will do, the mirrored one only costs time.
        last = settings if epoch + 1 == settings.epochs else settings.model_copy(update={"mirror": False})
        said = clean_logits(learner.net, task, last, valid)[:, : len(task.known_classes)].argmax(1)
        return {"valid_accuracy": float((said.numpy() == valid_targets.to_numpy()).mean())}

    known = {"train": data_digest(task.dataset, rows), "targets": zlib.crc32(targets[rows])}
    return fit([learner], on_batch, lambda epoch: {method: rows}, settings, task.device, task.seed, task.folder,
               method, {**task.identity(), **known}, after_epoch, extra)  # fmt: skip


def clean_logits(net, task, settings, ids):
    """Logits of the clean view of these sample ids: float64 tensor (n, K + more)."""
    rows = task.dataset.rows(ids)
    z = predict(net, task.dataset, rows, settings.image_size, settings.eval_batch_size, task.device, settings.mirror)
    return torch.from_numpy(z).double()
