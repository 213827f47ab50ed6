"""The engine: the same work by the workbook's own training functions and its own scoring, nothing rewritten."""

import inspect
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from benchmarks import faces
from fer_openset import closed_set
from fer_openset.backbones import new_net
from fer_openset.device import pick_device
from fer_openset.fit import fit
from fer_openset.labels import BASIC
from fer_openset.methods import method_settings, run_method
from fer_openset.methods import noisy_label as noisy_label_module
from fer_openset.methods.task import Task
from fer_openset.protocol import Protocol


def run(workload, folder, watch):
    """Do the workload, with the watch on its timed pass. Returns: mean loss, or mean logit when it scores."""
    dataset = faces.dataset(folder, max(workload.images, workload.warm_up))
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        work = {"detection": _detection, "closed": _closed, "scoring": _scoring}[workload.task]
        return work(dataset, workload, pick_device(), Path(runs), watch)


def settings_of(workload):
    """The `paper` preset of the task at the workload's size and batch: an epoch to warm up, an epoch to time.

    One net on the whole pool: a second net, and the choice of clean images, repeat the same steps.
    """
    given = {"image_size": workload.size, "batch_size": workload.batch, "eval_batch_size": workload.batch, "epochs": 2}
    if workload.task == "closed":
        return closed_set.closed_set_settings("paper", given)
    return method_settings("noisy_label", "paper", {**given, "nets": 1, "cycle_training": False})


def _detection(dataset, workload, device, folder, watch):
    targets = faces.labels(len(dataset.table))
    logits = pd.DataFrame(np.eye(len(BASIC), dtype="float32")[targets], index=dataset.table.index, columns=BASIC)
    # No f_close: the preset starts from random weights.
    task = Task(dataset, BASIC, pd.DataFrame(), pd.DataFrame(), logits, None, device, 0, "aligned", folder)
    with _watched(noisy_label_module, watch, workload):
        run_method("noisy_label", task, settings_of(workload))
    return _last_loss(folder)


def _closed(dataset, workload, device, folder, watch):
    train = pd.DataFrame({"target": faces.labels(len(dataset.table))}, index=dataset.table.index)
    protocol = Protocol((), BASIC, train, train[:0], dataset.table.index, pd.DataFrame())
    with _watched(closed_set, watch, workload):
        closed_set.train_closed_set(dataset, protocol, settings_of(workload), device, 0, folder)
    return _last_loss(folder)


def _scoring(dataset, workload, device, folder, watch):
    net = device.place(new_net("resnet18", len(BASIC), 0, zero_head=False))
    rows = np.arange(len(dataset.table))
    closed_set.predict(net, dataset, rows[: workload.warm_up], workload.size, workload.batch, device)
    watch.start()
    logits = closed_set.predict(net, dataset, rows[: workload.images], workload.size, workload.batch, device)
    watch.stop()
    return float(logits.mean())


def _last_loss(folder):
    return float(pd.read_csv(folder / "history.csv")["loss"].iloc[-1])


def _watched(module, watch, workload):
    """Have `module` call the shipped `fit` with the watch on its second epoch; the first sees few images.

    The checkpoint after an epoch falls outside: a real epoch is ten times longer and its checkpoint no larger.
    """

    def watched_fit(*arguments, **options):
        call = inspect.signature(fit).bind(*arguments, **options)
        call.apply_defaults()
        rows_of, after_epoch = call.arguments["rows_of"], call.arguments["after_epoch"]

        def rows(epoch):
            limit = workload.images if epoch else workload.warm_up
            chosen = {name: positions[:limit] for name, positions in rows_of(epoch).items()}
            watch.start()
            return chosen

        def after(epoch):
            watch.stop()
            return after_epoch(epoch) if after_epoch else {}

        call.arguments |= {"rows_of": rows, "after_epoch": after}
        return fit(*call.args, **call.kwargs)

    return patch.object(module, "fit", watched_fit)
