"""The one training loop: networks learn epoch by epoch, with progress, a history and a checkpoint after each.

Randomness is drawn anew for each (seed, learner, epoch), so a run that was killed and resumed gives what an
undisturbed run gives.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from fer_openset import atomic, progress, runs
from fer_openset.checkpoint import CHECKPOINT, flatten_optimizer, load_tensors, restore_optimizer, save_tensors
from fer_openset.device import give_back_memory
from fer_openset.errors import UserError
from fer_openset.fused import contiguous_views, lend_gradients
from fer_openset.settings import Settings

PROGRESS_SECONDS = 15


class OptimSettings(Settings):
    """Optimiser and learning-rate curve; the curve is a function of the epoch count only.

    schedule: `constant`; `exponential` (lr * gamma^epoch); `cycle` (lr * gamma^(epoch mod cycle_length), the reset
    of the paper's cyclic rate); `steps` (lr * gamma at each epoch of `milestones`, counted from 0, and from then on);
    `one_cycle` (linear up over the first `warmup` share, then linearly to zero).
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    schedule: Literal["constant", "exponential", "cycle", "steps", "one_cycle"] = "constant"
    gamma: float = Field(0.9, gt=0)
    cycle_length: int = Field(10, ge=1)
    milestones: Annotated[tuple[int, ...], Field(strict=False)] = ()  # YAML has lists only
    warmup: float = Field(0.2, ge=0, lt=1)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)


def rate_at(settings, epoch, share):
    """Learning rate in `epoch` (from 0) after `share` of its steps (0..1)."""
    if settings.schedule == "exponential":
        return settings.lr * settings.gamma**epoch
    if settings.schedule == "cycle":
        return settings.lr * settings.gamma ** (epoch % settings.cycle_length)
    if settings.schedule == "steps":
        return settings.lr * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    if settings.schedule == "one_cycle":
        done = (epoch + share) / settings.epochs
        ramp = done / settings.warmup if done < settings.warmup else (1 - done) / (1 - settings.warmup)
        return settings.lr * max(ramp, 1e-3)
    return settings.lr


def make_optimizer(net, settings):
    """Adam, AdamW or Nesterov SGD over all parameters; SGD and AdamW leave biases and norms undecayed.

    The network must lie where it is trained: on its device, in its memory format.
    """
    views = contiguous_views(net)
    if settings.optimizer == "adam":
        adam = torch.optim.Adam(views.values(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        return lend_gradients(adam, net, views)
    groups = [
        {"params": [p for p in views.values() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in views.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        made = torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True
        )
    else:
        made = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    return lend_gradients(made, net, views)


@dataclass
class Learner:
    """One network, its optimiser and its name (which keys its randomness and its history rows).

    step(rows, generator, epoch) -> dict of scalar tensors to log, `loss` among them: learns one batch where one loss
    and one optimiser cannot say how (adversaries, networks that take turns); None: a step down the `loss_of` of `fit`.
    """

    name: str
    net: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable | None = None


def stream_seed(*parts):
    """A 63-bit seed from any mix of words and numbers, the same on every machine."""
    words = np.random.SeedSequence([zlib.crc32(str(p).encode()) for p in parts]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


def fit(learners, loss_of, rows_of, settings, device, seed, folder, label, identity=None, after_epoch=None, extra=None):
    """Train `learners` for `settings.epochs` epochs; resume from `folder/checkpoint.safetensors` if it fits.

    loss_of(net, rows, generator, epoch) -> scalar tensor, or (scalar tensor, dict of scalar tensors to log).
    rows_of(epoch) -> {learner name: int64 array of positions to train on}; called once before each epoch, for all
    learners at once; None instead of positions: this learner rests, or is trained by another one's `step`.
    after_epoch(epoch) -> dict of values for the history. extra: dict of tensors that belong to the run and travel in
    the checkpoint (changed in place). identity: JSON values a checkpoint must agree in to be resumed, besides settings
    and seed.
    Returns: the history, a DataFrame with a row per epoch and learner (also `folder/history.csv`).
    Raises: UserError when a loss or a weight is NaN or infinite; the last good checkpoint stays.
    """
    folder = Path(folder)
    run = _fingerprint(learners, settings, seed, identity)
    history = _resume(learners, folder, run, extra)
    start = history[-1]["epoch"] if history else 0
    if start < settings.epochs:
        runs.forget(folder)  # an earlier training may have left a record
    if start:
        print(f"{label}: resuming after epoch {start} of {settings.epochs}", flush=True)
    with progress.bar(label, settings.epochs, "epochs", start) as advance:
        for epoch in range(start, settings.epochs):
            begin = time.perf_counter()
            chosen = rows_of(epoch)
            for x in learners:
                x.net.train()
            active = [x for x in learners if chosen[x.name] is not None]
            tick = _shared(advance, len(active))
            rows = [_one_epoch(x, loss_of, chosen[x.name], settings, device, seed, epoch, label, tick) for x in active]
            _check_weights(learners, settings, epoch, label)
            give_back_memory()
            values = after_epoch(epoch) if after_epoch else {}
            give_back_memory()
            seconds = time.perf_counter() - begin
            history += [{"epoch": epoch + 1, **row, **values, "seconds": round(seconds, 2)} for row in rows]
            _save(learners, folder, run, extra, history)
            shown = " ".join(f"{k} {v:.4g}" for k, v in {**_mean(rows), **values}.items())
            progress.say(f"{label}: epoch {epoch + 1}/{settings.epochs} {shown} ({seconds:.0f} s)")
    return pd.DataFrame(history)


def _shared(advance, n):
    """What moves an epoch's bar on by a part of one of its n passes."""
    return lambda part: advance(part / n)


def _mean(rows):
    numbers = pd.DataFrame(rows).select_dtypes("number")
    return {k: v for k, v in numbers.mean().items() if k != "n"}


def _one_epoch(learner, loss_of, rows, settings, device, seed, epoch, label, tick):
    """One pass over `rows` in a fresh random order; the last short batch is dropped unless it is the only one.

    tick(part): told after each step which part of the pass it was.
    """
    order = np.random.default_rng(stream_seed(seed, learner.name, epoch, "order")).permutation(rows)
    generator = device.generator(stream_seed(seed, learner.name, epoch, "views"))
    size = min(settings.batch_size, len(order))
    steps = max(len(order) // size, 1)
    totals, shown = {}, time.perf_counter()
    learn = learner.step or (lambda *batch: _descend(learner, loss_of(learner.net, *batch)))
    for step in range(steps):
        for group in learner.optimizer.param_groups:
            group["lr"] = rate_at(settings, epoch, step / steps)
        for key, value in learn(order[step * size : (step + 1) * size], generator, epoch).items():
            totals[key] = totals.get(key, 0) + value.detach()
        tick(1 / steps)
        if time.perf_counter() - shown > PROGRESS_SECONDS:
            shown = time.perf_counter()
            if not progress.watched():  # there a bar says so
                print(f"{label}: epoch {epoch + 1}, {learner.name}, step {step + 1} of {steps}", flush=True)
    means = {key: float(value) / steps for key, value in totals.items()}
    if not np.isfinite(means["loss"]):
        raise UserError(
            f"{label}: the loss became {means['loss']} in epoch {epoch + 1}; lower lr (now {settings.lr:g}), run again."
        )
    lr = rate_at(settings, epoch, 0.0)
    return {"learner": learner.name, "n": len(rows), "lr": lr, **means}


def _descend(learner, result):
    """One optimiser step down a loss. Returns: what to log."""
    loss, parts = result if isinstance(result, tuple) else (result, {})
    learner.optimizer.zero_grad(set_to_none=True)  # what `loss_of` may have left there
    loss.backward()
    take_step(learner)
    return {"loss": loss, **parts}


def take_step(learner):
    """Step by the network's gradients and let go of them: memory is tightest in a forward pass, which needs none."""
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)


def _check_weights(learners, settings, epoch, label):
    """The last step can spoil the weights after the last loss was fine: such weights must not reach the checkpoint."""
    for x in learners:
        if not all(torch.isfinite(p).all() for p in x.net.parameters()):
            raise UserError(f"{label}: a weight became infinite or NaN in epoch {epoch + 1} ({x.name}); "
                            f"lower lr (now {settings.lr:g}), run again.")  # fmt: skip


def _fingerprint(learners, settings, seed, identity):
    names = [x.name for x in learners]
    return {"settings": settings.model_dump(mode="json"), "seed": seed, "learners": names, **(identity or {})}


def _save(learners, folder, run, extra, history):
    tensors = {f"extra/{k}": v for k, v in (extra or {}).items()}
    for x in learners:
        tensors |= {f"{x.name}/net/{k}": v for k, v in x.net.state_dict().items()}
        tensors |= {f"{x.name}/opt/{k}": v for k, v in flatten_optimizer(x.optimizer).items()}
    # The checkpoint last: killed in between, the epoch is repeated and the history is never behind the weights.
    atomic.write_csv(folder / "history.csv", pd.DataFrame(history))
    save_tensors(folder / CHECKPOINT, tensors, run=run, history=history)


def training_seconds(folder):
    """How long the epochs took that this folder and those within it know of, in one session or several; 0 if none."""
    tables = [pd.read_csv(path) for path in Path(folder).rglob("history.csv")]
    return float(sum(table.groupby("epoch")["seconds"].first().sum() for table in tables))


def _resume(learners, folder, run, extra):
    """Load the checkpoint of the same settings and seed if there is one; returns its history rows."""
    path = folder / CHECKPOINT
    if not path.exists():
        return []
    tensors, header = load_tensors(path)
    if header.get("run") != run:
        return []  # other settings: that training does not continue this one
    for x in learners:
        x.net.load_state_dict(_under(tensors, f"{x.name}/net/"))
        restore_optimizer(x.optimizer, _under(tensors, f"{x.name}/opt/"))
    for key in extra or {}:
        extra[key].copy_(tensors[f"extra/{key}"])
    return header["history"]


def _under(tensors, prefix):
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
