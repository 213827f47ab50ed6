"""Three plain ways to find wrong labels, as rivals of the paper's: is all of its machinery needed?

Each gets what `noisy_label` gets, the pool and its pseudo labels, and trains networks of its own. With `as_released`
the scrambled order changes the pseudo labels (and f_close's logits); an image's pixels stay its own, as in the paper.
"""

from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from fer_openset.augment import AugmentSettings, SizeSettings
from fer_openset.backbones import copy_weights, layout_of, new_net
from fer_openset.closed_set import ClosedSetSettings, batch_of, predict, train_closed_set
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed
from fer_openset.methods.folds import check_unseen, fold_of
from fer_openset.methods.noisy_label import NoisyLabelSettings, cross_entropies, noisy_label
from fer_openset.methods.two_views import two_view_loss
from fer_openset.pretrained import StartSettings
from fer_openset.runs import RunFolder, load_record
from fer_openset.settings import Settings


class SelfConfidenceSettings(OptimSettings, AugmentSettings, SizeSettings):
    """folds: parts of the pool; a network trains on all but one and scores that one. init: weights the networks start
    from. Origins stand in params/methods/self_confidence.yaml."""

    backbone: str = "resnet18"
    eval_batch_size: int = Field(512, ge=1)
    init: Literal["scratch", "f_close"]
    folds: int = Field(ge=2)
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class DisagreementSettings(Settings):
    """None: the second model has the settings that f_close was trained with."""


class LossAverageSettings(OptimSettings, AugmentSettings, StartSettings):
    """What `noisy_label` may vary when its own ideas are off; origins stand in params/methods/loss_average.yaml."""

    image_size: int = Field(ge=1)
    eval_batch_size: int = Field(512, ge=1)
    init: Literal["scratch", "f_close", "pretrained"]


def self_confidence(task, settings):
    """Out-of-fold cross-entropy of the pseudo label: -log of what networks that never saw the image give it.

    Shapes: open_score (M,). Range: >= 0. Direction: larger = more open. Source: the self-confidence of confident
    learning (Northcutt, Jiang and Chuang 2021), as -log p instead of p. Differs: `init: f_close` is possible but not
    out-of-fold in full, for f_close made the labels of all folds. Raises: UserError for more folds than images.
    """
    rows, labels = task.dataset.rows(task.pool_ids), task.pseudo_labels
    if settings.folds > len(rows):
        raise UserError(f"self_confidence: folds = {settings.folds}, but the pool has {len(rows)} images; take fewer.")
    pictures = task.dataset.first_copy[rows]
    fold = fold_of(task.pool_ids, settings.folds, task.seed, "self_confidence", groups=pictures)
    learners = [_learner(f"f{k}", task, settings) for k in range(settings.folds)]
    target = np.full(len(task.dataset.table), -1)
    target[rows] = labels
    train_on = {x.name: rows[fold != k] for k, x in enumerate(learners)}
    for k in range(settings.folds):
        check_unseen(pictures[fold != k], pictures[fold == k])

    def loss_of(net, batch, generator, epoch):
        y = torch.from_numpy(target[batch]).to(task.device.torch_device)
        return _loss(net, batch_of(task.dataset, batch), y, settings.size_at(epoch), settings, task.device, generator)

    identity = {**task.identity(), "alignment": task.alignment}
    fit(learners, loss_of, lambda epoch: train_on, settings, task.device, task.seed, task.folder,
        f"self_confidence {task.alignment}", identity)  # fmt: skip
    scores = np.empty(len(rows))
    for k, x in enumerate(learners):
        out = fold == k
        scores[out] = cross_entropies(x.net, task, settings, rows[out], torch.from_numpy(labels[out]))
    return pd.Series(scores, index=task.pool_ids)


def disagreement(task, settings):
    """Jensen-Shannon divergence, in nats, between the predictions of f_close and of a second model trained like it.

    Shapes: open_score (M,). Range: [0, log 2]. Direction: larger = more open. The second model has f_close's recipe and
    known training images, and a seed of its own; the recipe is read from f_close's record, overrides included. Source:
    members of an ensemble disagree on what none was taught (Lakshminarayanan, Pritzel and Blundell 2017, Sec. 2.4, with
    the divergence between two members). Raises: UserError when f_close has no record beside the task's folder.
    """
    folder = RunFolder.closed_set_of(task.folder)
    recipe = ClosedSetSettings.build(load_record(folder)["settings"]["closed_set"], f"the record in {folder}")
    # Weights pretrained for a seed are those of the task's: both models start from the same file.
    recipe = recipe.model_copy(update={"weights": recipe.weights.replace("{seed}", str(task.seed))})
    # A task tells what training needs of a protocol: the known classes, their images, and a name.
    second, _ = train_closed_set(
        task.dataset, task, recipe, task.device, stream_seed(task.seed, "second f_close"), task.folder
    )
    rows = task.dataset.rows(task.pool_ids)
    logits = predict(
        second.net, task.dataset, rows, second.image_size, recipe.eval_batch_size, task.device, recipe.mirror
    )
    return pd.Series(jensen_shannon(task.pool_logits.to_numpy(), logits), index=task.pool_ids)


def jensen_shannon(first, second):
    """Jensen-Shannon divergence of two softmaxes, image by image: logits (M, K) twice -> float64 (M,), 0..log 2."""
    log_p, log_q = (torch.tensor(z, dtype=torch.float64).log_softmax(1) for z in (first, second))
    log_mean = torch.logaddexp(log_p, log_q) - np.log(2)
    halves = [(x.exp() * (x - log_mean)).sum(1) for x in (log_p, log_q)]
    return ((halves[0] + halves[1]) / 2).numpy()


def loss_average(task, settings):
    """Mean over epochs of the mean-centred cross-entropy of the pseudo label, one plainly trained net.

    Shapes: open_score (M,). Range: all reals. Direction: larger = more open. Source: O2U-Net (Huang et al. 2019):
    the rate falls and returns, so that the net swings between under- and overfitting. It is `noisy_label` with
    `score: trajectory` and without attention, selection and second net. Differs: losses are read after each epoch, in
    evaluation mode on clean views, not during it; the rate falls geometrically within a cycle, as in `noisy_label`.
    """
    plain = NoisyLabelSettings(
        **settings.model_dump(), attention=False, consistency_weight=0.0, cycle_training=False, nets=1, warmup_epochs=0,
        select_threshold=0.5, score="trajectory",
    )  # fmt: skip
    return noisy_label(task, plain, "loss_average")


def _learner(name, task, settings):
    backbone = layout_of(settings.backbone, task.f_close.backbone, settings.init)
    net = new_net(backbone, len(task.known_classes), stream_seed(task.seed, name, "net"))
    if settings.init == "f_close":
        copy_weights(net, task.f_close.net.state_dict(), "self_confidence: the weights of f_close", settings.backbone)
    net = task.device.place(net)
    return Learner(name, net, make_optimizer(net, settings))


def _loss(net, images, y, size, settings, device, generator):
    return two_view_loss(net, images, y, size, settings, device, generator, None, settings.label_smoothing)
