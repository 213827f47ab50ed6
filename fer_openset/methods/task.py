"""What a method is given: images, known labels and pseudo labels, but no label of the pool (the oracle excepted)."""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset.closed_set import ClosedModel, data_digest, read_outputs
from fer_openset.datasets import Dataset
from fer_openset.device import Device
from fer_openset.protocol import Protocol, align


@dataclass(frozen=True)
class Task:
    """One detection problem. The pool's labels are deliberately not here: metrics alone read them.

    pool_ids: sample ids of the pool (M). pool_logits: DataFrame (M, K), f_close's logits of the pool under the
    task's alignment. train, valid: known training and known validation images (nothing trains on the latter; it may be
    empty), indexed by sample id, column `target` (0..K-1).
    folder: where a method may keep its checkpoint and history. oracle_targets: None for every method but `oracle`,
    which gets the pool's true targets (M,), -1 for open images.
    """

    dataset: Dataset
    known_classes: tuple
    train: pd.DataFrame
    valid: pd.DataFrame
    pool_logits: pd.DataFrame
    f_close: ClosedModel
    device: Device
    seed: int
    alignment: str
    folder: Path
    oracle_targets: np.ndarray | None = None

    @property
    def pool_ids(self):
        return self.pool_logits.index

    @property
    def pseudo_labels(self):
        """Position of f_close's highest logit for each pool image: int64 array (M,), values 0..K-1."""
        return self.pool_logits.to_numpy().argmax(1).astype(np.int64)

    def for_method(self, folder, oracle_targets=None):
        """The same problem for one method, with its own folder; only `oracle` is given the pool's true targets."""
        return replace(self, folder=Path(folder), oracle_targets=oracle_targets)

    def identity(self):
        """What a checkpoint of any method on this task must agree in."""
        data = data_digest(self.dataset, self.dataset.rows(self.pool_ids))
        f_close = zlib.crc32(np.ascontiguousarray(self.pool_logits))
        return {"dataset": self.dataset.name, "data": data, "f_close": f_close}


def make_task(dataset, protocol: Protocol, f_close, pseudo_label_folder, device, seed, alignment, folder="."):
    """Put a task together from what the earlier steps wrote. Raises: UserError when a step has not run."""
    logits = align(read_outputs(pseudo_label_folder), protocol, alignment, seed)
    return Task(dataset, protocol.known_classes, protocol.train, protocol.valid, logits, f_close, device, seed,
                alignment, Path(folder))  # fmt: skip
