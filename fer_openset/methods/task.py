"""What a method is given: images, known labels and pseudo labels, but no label of the pool (the oracle excepted)."""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset.closed_set import ClosedModel, data_digest, read_features, read_outputs
from fer_openset.datasets import Dataset
from fer_openset.device import Device
from fer_openset.errors import UserError
from fer_openset.labels import join_open, known_classes
from fer_openset.protocol import Protocol, align, output_source


class CachedOutputs:
    """What the pseudo-label step wrote about a task's images: read at first use, then kept for the next method.

    train_logits (N, K): of the known training images. sources: Series, pool id -> the id whose outputs the task's
    alignment hands to it.
    """

    def __init__(self, folder, train_logits, sources):
        self.folder, self.train_logits, self.sources = folder, train_logits, sources

    @cached_property
    def _features(self):
        return read_features(self.folder)

    @cached_property
    def train_features(self):
        return self._features.loc[self.train_logits.index].astype("float32")

    @cached_property
    def pool_features(self):
        return self._features.loc[self.sources.to_numpy()].set_axis(self.sources.index).astype("float32")


@dataclass(frozen=True)
class Task:
    """One detection problem. The pool's labels are deliberately not here, nor in its dataset's table, where the label
    of everything but the known training and validation images is empty: metrics alone read them.

    pool_ids: sample ids of the pool (M). pool_logits: DataFrame (M, K), f_close's logits of the pool under the
    task's alignment. train, valid: known training and known validation images (nothing trains on the latter; it may be
    empty), indexed by sample id, column `target` (0..K-1).
    folder: where a method may keep its checkpoint and history. oracle_targets: None for every method but `oracle`,
    which gets the pool's true targets (M,), -1 for open images. own_logits: as pool_logits, but each row belongs to its
    image whatever the alignment: what f_close says to an image that arrives alone. outputs: f_close's cached outputs,
    see the properties.
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
    own_logits: pd.DataFrame | None = None
    outputs: CachedOutputs | None = None

    @property
    def name(self):
        """The open classes, joined as in file names (the names only: which images show them is not known here)."""
        return join_open(known_classes(self.dataset.classes, self.known_classes))

    @property
    def train_logits(self):
        """f_close's logits of the known training images, in any alignment: DataFrame (N, K), rows as in `train`."""
        return self._cached().train_logits

    @property
    def train_features(self):
        """What f_close's head reads, for the known training images: float32 DataFrame (N, D), rows as in `train`."""
        return self._cached().train_features

    @property
    def pool_features(self):
        """The same for the pool under the task's alignment: float32 DataFrame (M, D), rows as in `pool_logits`."""
        return self._cached().pool_features

    @property
    def pool_sources(self):
        """The ids of the images whose outputs the pool gets under the task's alignment, in the pool's order (M,)."""
        return pd.Index(self._cached().sources)

    def _cached(self):
        if self.outputs is None:
            raise UserError("this task holds f_close's logits of the pool only; make it with make_task.")
        return self.outputs

    @property
    def pool_ids(self):
        return self.pool_logits.index

    @property
    def pseudo_labels(self):
        """Position of f_close's highest logit for each pool image: int64 array (M,), values 0..K-1."""
        return self.pool_logits.to_numpy().argmax(1).astype(np.int64)

    def need_own_logits(self):
        """own_logits. Raises: UserError for a task without them."""
        if self.own_logits is None:
            raise UserError(
                "this task does not know which outputs of f_close are an image's own; make it with make_task."
            )
        return self.own_logits

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
    logits = read_outputs(pseudo_label_folder)
    pool_logits, own = (align(logits, protocol, which, seed) for which in (alignment, "aligned"))
    told = dataset.table.index.isin(protocol.train.index.append(protocol.valid.index))
    dataset = replace(dataset, table=dataset.table.assign(label=dataset.table["label"].where(told, "")))
    absent = protocol.train.index.difference(logits.index)
    if len(absent):
        raise UserError(f"{len(absent)} known training images have no output of f_close (first: {absent[0]}); "
                        "run notebook 02 again.")  # fmt: skip
    source = output_source(protocol, alignment, seed)
    outputs = CachedOutputs(pseudo_label_folder, logits.loc[protocol.train.index], source)
    return Task(dataset, protocol.known_classes, protocol.train, protocol.valid, pool_logits, f_close, device, seed,
                alignment, Path(folder), own_logits=own, outputs=outputs)  # fmt: skip
