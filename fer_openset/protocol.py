"""Who is trained on, who is in the pool, and which pseudo labels the pool gets: everything keyed by sample id."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_openset.datasets import load_dataset
from fer_openset.errors import UserError
from fer_openset.labels import EXPRESSIONS, join_open, known_classes, parse_open

POOLS = ("full", "test_only")
# The sampler seed with which the published RAF-DB pseudo labels replay (design note: 1146 of 1146 labels agree).
RELEASED_SAMPLER_SEED = 3838790957920623213


@dataclass(frozen=True)
class Protocol:
    """The split of one dataset for one open-class set.

    known_classes: names of the network's outputs 0..K-1. train / valid: known images of those splits, indexed by
    sample id with the column `target` (0..K-1). train_split: every id of the training split, known and open, in
    dataset order. pool: indexed by sample id, columns split, label, is_open, part (`closed test`, `open test`,
    `open train`). Labels of the pool are for metrics only.
    """

    open_classes: tuple
    known_classes: tuple
    train: pd.DataFrame
    valid: pd.DataFrame
    train_split: pd.Index
    pool: pd.DataFrame

    @property
    def name(self):
        return join_open(self.open_classes)

    def open_numbers(self):
        """Numbers of the open classes as the authors count them: RAF-DB's order from 0 (surprise) to 6 (neutral).

        A class that is no expression of theirs goes by its name.
        """
        return [str(EXPRESSIONS.index(name)) if name in EXPRESSIONS else name for name in self.open_classes]

    def pool_targets(self):
        """True closed-set target of each pool image, -1 for open ones (for metrics only)."""
        return targets_of(self.pool["label"], self.known_classes)


def targets_of(labels, known):
    """Position of each label among the known classes, -1 for the others; int64 array (N,)."""
    return pd.Index(known).get_indexer(labels).astype(np.int64)


def make_protocol(table, classes, open_classes, pool="full"):
    """Split a dataset's table for `open_classes` (names, or one string joined by `+`).

    pool: `full` is the paper's (test split + every open-class training image); `test_only` leaves the training
    images out. Paper: "Implementation Details" and Problem Definition.
    Raises: UserError for unknown classes, no known class left, an empty part of the pool or of the training set.
    """
    if pool not in POOLS:
        raise UserError(f"pool = {pool!r}: choose one of {', '.join(POOLS)}.")
    open_classes = parse_open(open_classes, classes)
    known = known_classes(classes, open_classes)
    is_open = table["label"].isin(open_classes)
    in_train, in_test = table["split"] == "train", table["split"] == "test"
    in_pool = in_test | (in_train & is_open) if pool == "full" else in_test
    members = table[in_pool & table["label"].isin(classes)]
    members = members.assign(is_open=members["label"].isin(open_classes))
    side = members["is_open"].map({True: "open ", False: "closed "})
    members = members.assign(part=side + members["split"])
    protocol = Protocol(
        open_classes=open_classes,
        known_classes=known,
        train=_known_part(table[in_train & ~is_open], known),
        valid=_known_part(table[(table["split"] == "valid") & ~is_open], known),
        train_split=table.index[in_train],
        pool=members[["split", "label", "is_open", "part"]],
    )
    _check(protocol)
    return protocol


def reopened(record, data_root=""):
    """Dataset and protocol of a finished step, from its record; data_root: the dataset's folder, if it has moved.

    Raises: UserError when the dataset's files are not there.
    """
    source = record.get("source") or {"dataset": record["dataset"], "data_root": ""}  # old records lack it
    asked, root = record["open_classes"], data_root or source["data_root"]
    dataset = load_dataset(source["dataset"], record["preset"], root, open_classes=asked)
    return dataset, make_protocol(dataset.table, dataset.classes, asked)


def _known_part(rows, known):
    targets = targets_of(rows["label"], known)
    return pd.DataFrame({"target": targets}, index=rows.index)[targets >= 0]


def _check(protocol):
    name = protocol.name
    if not protocol.pool["is_open"].any():
        raise UserError(f"the pool holds no image of the open class(es) {name}; choose another open class.")
    if protocol.pool["is_open"].all():
        raise UserError(f"the test split holds no known image when {name} is open; check the dataset's splits.")
    missing = [c for i, c in enumerate(protocol.known_classes) if not (protocol.train["target"] == i).any()]
    if missing:
        raise UserError(f"the training split holds no {', '.join(missing)}; make them open or check the dataset.")
    if protocol.train.index.intersection(protocol.pool.index).size:
        raise AssertionError("a known training image is in the pool")


def released_source(train_split, seed=0):
    """Whose outputs each training image was given by the authors' released notebook: a seeded permutation.

    Its loader shuffled the training images but the outputs were read by dataset position, so the image at position
    p got the output of the image at position permutation[p]. The test split was read in order and is right.
    Returns: Series, index = sample id, value = sample id whose output it gets.
    Source: the authors' predict_pseudo_labels.ipynb as described by the protocol audit. Differs: seed 0 is the
    sampler seed recorded for the published RAF-DB file; other seeds shift it, so that repeats differ.
    """
    import torch  # the sampler is torch's own randperm; imported here so that reading tables stays quick

    generator = torch.Generator().manual_seed((RELEASED_SAMPLER_SEED + seed) % 2**63)
    order = torch.randperm(len(train_split), generator=generator).numpy()
    return pd.Series(train_split[order], index=train_split, name="source")


def output_source(protocol, alignment, seed=0):
    """Whose outputs each pool image is given: its own (`aligned`), or those the released notebook gave it.

    Returns: Series, index = the pool's sample ids in their order, value = sample id whose output it gets.
    """
    source = pd.Series(protocol.pool.index, index=protocol.pool.index, name="source")
    if alignment == "as_released":
        moved = released_source(protocol.train_split, seed)
        from_train = protocol.pool.index[protocol.pool["split"] == "train"]
        source.loc[from_train] = moved.loc[from_train].to_numpy()
    return source


def align(outputs, protocol, alignment, seed=0):
    """Give every pool image its row of f_close outputs, `aligned` or `as_released`.

    outputs: DataFrame (logits, features, anything) indexed by sample id that holds the pool and, for `as_released`, the
    whole training split.
    Returns: DataFrame with the pool's ids in the pool's order. Raises: UserError when an id has no output.
    """
    source = output_source(protocol, alignment, seed)
    absent = pd.Index(source).difference(outputs.index)
    if len(absent):
        raise UserError(f"{len(absent)} images have no output of f_close (first: {absent[0]}); run notebook 02 again.")
    return outputs.loc[source.to_numpy()].set_axis(protocol.pool.index)
