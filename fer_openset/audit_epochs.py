"""What memorisation does to the baselines: f_close's outputs after each epoch, scored under both alignments.

python -m fer_openset audit-epochs --dataset ferplus --preset cpu --open-classes surprise
"""

import numpy as np
import pandas as pd

from fer_openset import atomic, metrics
from fer_openset.audit_tables import EPOCHS_KEY, EPOCHS_VALUES, read_epochs, table_path
from fer_openset.closed_set import closed_set_settings, predict, train_closed_set
from fer_openset.methods import method_settings, run_method
from fer_openset.methods.task import Task
from fer_openset.protocol import align
from fer_openset.run_table import merge_rows
from fer_openset.runs import is_result
from fer_openset.settings import ALIGNMENTS

METHODS = ("msp", "maxlogit", "energy", "pseudo_label_ce")


def follow(step, epochs=0):
    """Train f_close once more, keep its outputs after each epoch, and score them; resumes where it was killed.

    epochs: how long to train, 0 for the preset's length. The model lies in a folder of its own, so that no other step
    sees it. Writes results/tables/audit_epochs.csv (smoke runs and trials only return their rows). Returns: the rows.
    """
    p = step.parameters
    settings = closed_set_settings(p.preset, {"epochs": epochs} if epochs else None)
    folder = step.folder.root / f"audit_epochs_{settings.epochs}"
    ids = step.protocol.pool.index.union(step.protocol.train_split, sort=False)
    rows = step.dataset.rows(ids)

    def keep(epoch, net):
        logits = predict(net, step.dataset, rows, settings.size_at(epoch), settings.eval_batch_size, step.device,
                         settings.mirror)  # fmt: skip
        with atomic.atomic_path(_file(folder, epoch)) as target:
            np.save(target, logits)

    train_closed_set(step.dataset, step.protocol, settings, step.device, p.seed, folder, keep)
    found = []
    for epoch in range(settings.epochs):
        logits = np.load(_file(folder, epoch), allow_pickle=False)
        outputs = pd.DataFrame(logits, index=ids, columns=list(step.protocol.known_classes))
        key = {"dataset": step.dataset.name, "preset": p.preset, "open_classes": step.protocol.name, "seed": p.seed,
               "epochs": settings.epochs, "epoch": epoch + 1}  # fmt: skip
        found += [{**key, **row} for row in scored(step, outputs)]
    table = pd.DataFrame(found, columns=[*EPOCHS_KEY, *EPOCHS_VALUES])
    if is_result(step.dataset.name, p.preset):
        merged = merge_rows(read_epochs(), table, EPOCHS_KEY)
        atomic.write_csv(table_path("audit_epochs"), merged, float_format="%.6g")
    return table


def _file(folder, epoch):
    return folder / f"logits_{epoch + 1:03d}.npy"


def scored(step, outputs):
    """One row an alignment and method: AUROC with interval, accuracy on the known training images and in the pool."""
    p, protocol = step.parameters, step.protocol
    named = outputs.idxmax(axis=1)
    targets = np.asarray(protocol.known_classes)[protocol.train["target"]]
    known = protocol.pool.index[~protocol.pool["is_open"]]
    accuracy = {"train_accuracy": float((named.loc[protocol.train.index] == targets).mean()),
                "closed_accuracy": float((named.loc[known] == protocol.pool.loc[known, "label"]).mean())}  # fmt: skip
    own, is_open = align(outputs, protocol, "aligned"), protocol.pool["is_open"].to_numpy()
    counts = {"n_known": int((~is_open).sum()), "n_open": int(is_open.sum())}
    for alignment in ALIGNMENTS:
        logits = align(outputs, protocol, alignment, p.seed)
        task = Task(step.dataset, protocol.known_classes, protocol.train, protocol.valid, logits, None, step.device,
                    p.seed, alignment, step.folder.root, own_logits=own)  # fmt: skip
        for method in METHODS:
            scores = run_method(method, task, method_settings(method, p.preset)).to_numpy()
            lo, hi = metrics.bootstrap_interval("auroc", scores, is_open, n=300, seed=p.seed)
            auroc = {"auroc": metrics.auroc(scores, is_open), "auroc_lo": lo, "auroc_hi": hi}
            yield {"alignment": alignment, "method": method, **counts, **accuracy, **auroc}
