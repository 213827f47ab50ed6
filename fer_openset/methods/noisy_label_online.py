"""The paper's method for images that come one by one: trained once on a pool, then single forward passes (Table 4)."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from fer_openset.errors import UserError
from fer_openset.methods.folds import pool_folds
from fer_openset.methods.noisy_label import NoisyLabelSettings, cross_entropies, pool_rows, score_generator, train


def noisy_label_online(task, settings: NoisyLabelSettings):
    """The same for images that come one by one: -log p(argmax f_close(x) | x) by nets that never saw the image.

    The pool is split once into two halves by sample id (those of `pool_novelty_online`); nets trained on one half score
    the other, and each half plays each part once. Shapes, range, direction: as `noisy_label`. Paper: Table 4. Differs:
    half the pool to learn from. An image that arrives alone has the label that f_close gives it, so under `as_released`
    only the training half carries scrambled labels. Raises: UserError as `noisy_label`, and for `trajectory` scores.
    """
    if settings.score == "trajectory":
        raise UserError("noisy_label_online: score: trajectory needs the nets of every epoch; set score: last.")
    own = torch.from_numpy(task.need_own_logits().to_numpy().argmax(1).astype(np.int64))
    out = np.empty(len(task.pool_ids))
    for half in (0, 1):
        scored = halves(task) == half
        learners, _ = train(without(task, half), settings)
        generator = score_generator(task, settings, 0)
        ce = [cross_entropies(x.net, task, settings, pool_rows(task)[scored], own[torch.from_numpy(scored)], generator)
              for x in learners]  # fmt: skip
        out[scored] = np.mean(ce, axis=0)
    return pd.Series(out, index=task.pool_ids)


def halves(task):
    """The half of the pool that each image belongs to, 0 or 1: int64 array (M,)."""
    return pool_folds(task.dataset, task.pool_ids, 2, task.seed)


def without(task, half):
    """The task whose pool is the other half; it trains in a folder of its own."""
    kept = halves(task) != half
    true = None if task.oracle_targets is None else task.oracle_targets[kept]
    return replace(task, pool_logits=task.pool_logits[kept], own_logits=task.own_logits[kept], oracle_targets=true,
                   folder=task.folder / f"scores_half{half}")  # fmt: skip
