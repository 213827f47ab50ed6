"""What a pipeline notebook opens with and what it saves: the steps' inputs, and their records on disk.

For f_close's own step see `closed_step`.
"""

import random
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from fer_openset import atomic, metrics, runs
from fer_openset.closed_set import MODEL, ClosedSetSettings, closed_outputs, closed_set_settings, write_pseudo_labels
from fer_openset.closed_step import need_closed_set
from fer_openset.datasets import Dataset, load_dataset
from fer_openset.device import Device, peak_memory_mb, pick_device
from fer_openset.errors import UserError
from fer_openset.fit import training_seconds
from fer_openset.methods import method_settings, reads_true_labels, run_method
from fer_openset.methods.pool_novelty import SHARE_SCORES
from fer_openset.methods.predictions import REPLACES, read_predictions
from fer_openset.methods.task import Task, make_task
from fer_openset.open_fraction import estimate_open_fraction, threshold_for
from fer_openset.pools import FULL, pool_settings, reshaped, shifted
from fer_openset.pretrained import place_of, start_record
from fer_openset.protocol import Protocol, make_protocol
from fer_openset.settings import RunParameters, Settings
from fer_openset.weight_files import sha256


@dataclass(frozen=True)
class Step:
    """One notebook's inputs: its parameters, the dataset, who is known and open, where results go, the device."""

    parameters: RunParameters
    dataset: Dataset
    protocol: Protocol
    folder: runs.RunFolder
    device: Device
    began: float

    def seconds(self):
        """How long ago the step was opened."""
        return time.perf_counter() - self.began

    def record(self, settings, **more):
        """The step's `run.json`: provenance, what it ran on, how long it took since it was opened."""
        p = self.parameters
        place = place_of(self.dataset, self.protocol.known_classes, p.seed)
        more = {"seconds": round(self.seconds(), 1), "peak_mb": peak_memory_mb(), **more}
        more |= {key: value for part in settings.values() for key, value in start_record(part, place).items()}
        return runs.provenance(
            settings, dataset=self.dataset.name, preset=p.preset, open_classes=self.protocol.name, seed=p.seed,
            source={"dataset": p.dataset, "data_root": p.data_root},
            device=self.device.name, **more,
        )  # fmt: skip


def open_step(parameters):
    """Seed everything, find the device, load the dataset, split it; prints one line that says what was opened."""
    began = time.perf_counter()
    random.seed(parameters.seed)
    np.random.seed(parameters.seed)  # noqa: NPY002 - libraries that ask the global state
    torch.manual_seed(parameters.seed)
    device = pick_device()
    asked = parameters.open_classes
    dataset = load_dataset(parameters.dataset, parameters.preset, parameters.data_root, open_classes=asked)
    protocol = make_protocol(dataset.table, dataset.classes, asked)
    if getattr(parameters, "pool", FULL) != FULL:
        pool = pool_settings(parameters.pool)
        protocol = reshaped(protocol, pool, parameters.seed)
        dataset = shifted(dataset, protocol, pool)
    folder = runs.RunFolder(dataset.name, parameters.preset, protocol.name, parameters.seed)
    print(f"{dataset.name}, open = {protocol.name}, preset {parameters.preset}, seed {parameters.seed}; "
          f"{len(protocol.train):,} known training images, pool of {len(protocol.pool):,}; "
          f"{device.name}, {device.arithmetic}", flush=True)  # fmt: skip
    return Step(parameters, dataset, protocol, folder, device, began)


def save_pseudo_labels(step, settings, outputs):
    """Write f_close's outputs, the pseudo labels and their record. Returns: the table of pseudo labels."""
    p = step.parameters
    runs.forget(step.folder.pseudo_labels)
    table = write_pseudo_labels(outputs, step.protocol, p.seed, step.folder.pseudo_labels)
    more = {"n_pool": len(table), "f_close": _digest_of_f_close(step)}
    runs.save_record(step.folder.pseudo_labels, step.record({"closed_set": settings}, **more))
    return table


def _digest_of_f_close(step):
    """Tells this step's f_close from one that was trained again."""
    return sha256(step.folder.closed_set / MODEL)


def need_tasks(step):
    """The detection tasks of this step, one a method: {method: Task}; they share images and f_close's outputs.

    In the smoke preset the steps before it are run if they are missing. Raises: UserError when f_close or the pseudo
    labels are missing, or when overrides have no variant name or more than one method to apply to.
    """
    p = step.parameters
    if p.variant == "default" and p.overrides:
        raise UserError("overrides change the method: give the run its own name with `variant` (not 'default').")
    if p.overrides and len(p.methods) > 1:
        raise UserError(f"overrides belong to one method, but method names {len(p.methods)}; run them one by one.")
    f_close = need_closed_set(step)
    if p.preset == "smoke" and not runs.is_done(step.folder.pseudo_labels):
        settings = closed_set_settings("smoke")
        outputs = closed_outputs(f_close, step.dataset, step.protocol, settings, step.device)
        save_pseudo_labels(step, settings, outputs)
    task = make_task(step.dataset, step.protocol, f_close, _outputs_of(step, f_close), step.device, p.seed, p.alignment)
    return {method: task.for_method(step.folder.method(method, p.alignment, p.run_variant),
                                    step.protocol.pool_targets() if reads_true_labels(method, p.overrides) else None)
            for method in p.methods}  # fmt: skip


def _outputs_of(step, f_close):
    """The folder with f_close's outputs: those of notebook 02, or made here for a pool whose images were changed."""
    record, weights = runs.load_record(step.folder.pseudo_labels), _digest_of_f_close(step)
    if record.get("f_close") not in (None, weights):
        raise UserError(f"{step.folder.pseudo_labels}: f_close was trained again since these pseudo labels were made; "
                        "run notebook 02 again.")  # fmt: skip
    pool = pool_settings(step.parameters.pool)
    if not pool.changes_images:
        return step.folder.pseudo_labels
    folder = step.folder.shifted_outputs(step.parameters.pool)
    made_from = {"f_close": weights, "pool": pool.model_dump(mode="json")}
    if not runs.is_done(folder) or runs.load_record(folder).get("made_from") != made_from:
        runs.forget(folder)  # a kill must not leave it beside newer outputs
        settings = ClosedSetSettings.build(record["settings"]["closed_set"], "the record of the pseudo labels")
        outputs = closed_outputs(f_close, step.dataset, step.protocol, settings, step.device)
        write_pseudo_labels(outputs, step.protocol, step.parameters.seed, folder)
        runs.save_record(folder, step.record({"closed_set": settings}, made_from=made_from))
    return folder


@dataclass(frozen=True)
class Detection:
    """What one method said about the pool: settings, open scores by sample id, the seconds it took, and the memory that
    the process had taken until then, at its peak, in MiB."""

    method: str
    task: Task
    settings: Settings
    scores: pd.Series
    seconds: float
    peak_mb: float


def detect(step, tasks):
    """Run every method of the step on its task. Returns: {method: Detection}."""
    p = step.parameters
    found, began = {}, step.began  # opening the step counts for the first method, which may be the only one
    for method, task in tasks.items():
        settings = method_settings(method, p.preset, p.overrides)
        scores = run_method(method, task, settings)
        seconds = max(time.perf_counter() - began, training_seconds(task.folder))  # the latter after a resume
        found[method] = Detection(method, task, settings, scores, round(seconds, 1), peak_memory_mb())
        began = time.perf_counter()
    return found


def evaluate(step, detection):
    """All metrics of one method's open scores: the only place of a run that reads the pool's labels.

    OSCR and closed accuracy are f_close's, but those of the method's own classifier where it trains one in f_close's
    place (`predictions.REPLACES`); None if such a method left no predictions.
    """
    pool, task = step.protocol.pool, detection.task
    told = read_predictions(task) if detection.method in REPLACES else task.pseudo_labels
    correct = None if told is None else told == step.protocol.pool_targets()
    return metrics.evaluate(detection.scores.loc[pool.index].to_numpy(), pool["is_open"].to_numpy(), correct)


def open_share(step, detection):
    """The estimated share of open images in the pool, and how the threshold that follows from it does.

    Only for methods that left scores to estimate it from (pool_novelty); else {}. Returns: estimate, its 95 %
    interval lo..hi and the threshold, made without labels; then, read from the labels, the true share and, at the
    threshold, the fraction of open images flagged (`open_flagged`) and of known images flagged (`known_flagged`).
    """
    path, scores = detection.task.folder / SHARE_SCORES, detection.scores
    if not path.exists():
        return {}
    parts = pd.read_csv(path).set_index("part")["open_score"]
    found = estimate_open_fraction(parts["pool"], parts["known"], seed=step.parameters.seed)
    threshold = threshold_for(scores, found.value)
    is_open = step.protocol.pool["is_open"].loc[scores.index]
    flagged = scores >= threshold
    return {"estimate": found.value, "lo": found.low, "hi": found.high, "threshold": threshold,
            "true_share": float(is_open.mean()), "open_flagged": float(flagged[is_open].mean()),
            "known_flagged": float(flagged[~is_open].mean())}  # fmt: skip


def save_scores(step, detection, result, share=None):
    """Write the scores, then the record with the run's row of the tidy table. Returns: the row.

    The row's f_close is the first twelve digits of its weights' SHA-256: methods with the same one share a network.
    """
    p, folder = step.parameters, detection.task.folder
    runs.forget(folder)  # a kill must not leave it beside newer scores
    atomic.write_csv(folder / "scores.csv", detection.scores.rename_axis("sample_id").reset_index())
    cost = {"seconds": detection.seconds, "peak_mb": detection.peak_mb}
    record = step.record({detection.method: detection.settings}, **cost)
    row = {"dataset": step.dataset.name, "preset": p.preset, "open_classes": step.protocol.name,
           "alignment": p.alignment, "method": detection.method, "variant": p.run_variant, "seed": p.seed,
           **{k: v for k, v in result.items() if k != "aupr_known"},
           **{k: record[k] for k in ("seconds", "peak_mb", "device", "commit")},
           "f_close": _digest_of_f_close(step)[:12]}  # fmt: skip
    runs.save_record(folder, {**record, "row": row, "metrics": result, "open_share": share or {}})
    return row


def run_variants(parameters, variants):
    """Run a method as it is and under these overrides, one after the other, as notebook 03 does; skips what is done.

    variants: {name: overrides}. Returns: their rows of the table of runs, a DataFrame. Meant for the smoke preset;
    the batch runs grids.
    """
    rows = []
    for variant, overrides in {"default": {}, **variants}.items():
        step = open_step(parameters.model_copy(update={"variant": variant, "overrides": overrides}))
        (task,) = need_tasks(step).values()
        if not runs.is_done(task.folder):
            (found,) = detect(step, {parameters.method: task}).values()
            save_scores(step, found, evaluate(step, found))
        rows.append(runs.load_record(task.folder)["row"])
    return pd.DataFrame(rows)
