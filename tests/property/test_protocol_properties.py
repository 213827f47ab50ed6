"""The protocol over random tables and random sets of open classes."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from fer_openset.errors import UserError
from fer_openset.labels import BASIC, join_open
from fer_openset.protocol import POOLS, align, make_protocol

SPLITS = ("train", "valid", "test")
rows = st.lists(st.tuples(st.sampled_from(BASIC), st.sampled_from(SPLITS)), min_size=1, max_size=60)
open_sets = st.sets(st.sampled_from(BASIC), min_size=1, max_size=5)


def table_of(pairs):
    ids = pd.Index([f"s{i:03d}" for i in range(len(pairs))], name="sample_id")
    return pd.DataFrame(pairs, columns=["label", "split"], index=ids)


def full_table(pairs):
    """A table that every open set can use: one training and one test image of each class besides the random rows."""
    return table_of([(c, s) for c in BASIC for s in ("train", "test")] + pairs)


@given(rows, open_sets, st.sampled_from(POOLS))
def test_a_split_is_refused_exactly_when_it_cannot_work(pairs, chosen, pool):
    table = table_of(pairs)
    counts = {split: set(table.loc[table["split"] == split, "label"]) for split in SPLITS}
    known = set(BASIC) - chosen
    open_in_pool = counts["test"] & chosen or (pool == "full" and counts["train"] & chosen)
    usable = bool(known <= counts["train"] and counts["test"] & known and open_in_pool)
    try:
        make_protocol(table, BASIC, sorted(chosen), pool)
    except UserError:
        assert not usable
    else:
        assert usable


@given(rows, open_sets, st.sampled_from(POOLS))
def test_known_training_images_never_enter_the_pool(pairs, chosen, pool):
    table = full_table(pairs)
    protocol = make_protocol(table, BASIC, sorted(chosen), pool)
    known_train = {i for i, row in table.iterrows() if row["split"] == "train" and row["label"] not in chosen}
    open_train = {i for i, row in table.iterrows() if row["split"] == "train" and row["label"] in chosen}
    test = set(table.index[table["split"] == "test"])
    assert set(protocol.train.index) == known_train
    assert set(protocol.pool.index) == (test | open_train if pool == "full" else test)
    assert not known_train & set(protocol.pool.index)
    assert not set(protocol.valid.index) & set(protocol.pool.index)
    assert set(protocol.pool.index[protocol.pool["is_open"]]) == {
        i for i in protocol.pool.index if table.loc[i, "label"] in chosen
    }


@given(rows, open_sets, st.randoms(use_true_random=False), st.sampled_from(POOLS))
def test_the_order_of_rows_changes_only_the_order(pairs, chosen, random, pool):
    table = full_table(pairs)
    order = list(table.index)
    random.shuffle(order)
    plain = make_protocol(table, BASIC, sorted(chosen), pool)
    mixed = make_protocol(table.loc[order], BASIC, list(chosen), pool)
    assert mixed.name == plain.name == join_open([c for c in BASIC if c in chosen])
    assert mixed.known_classes == plain.known_classes
    for part in ("train", "valid", "pool"):
        assert getattr(mixed, part).sort_index().equals(getattr(plain, part).sort_index())


@given(rows, open_sets, st.integers(0, 5), st.randoms(use_true_random=False))
def test_alignment_is_by_id(pairs, chosen, seed, random):
    table = full_table(pairs)
    protocol = make_protocol(table, BASIC, sorted(chosen))
    outputs = pd.DataFrame({"row": np.arange(len(table))}, index=table.index)
    order = list(table.index)
    random.shuffle(order)
    aligned = align(outputs.loc[order], protocol, "aligned", seed)
    assert (aligned["row"] == outputs.loc[protocol.pool.index, "row"]).all()
    released = align(outputs.loc[order], protocol, "as_released", seed)
    assert released.index.equals(protocol.pool.index)
    in_test = protocol.pool["split"] == "test"
    assert released[in_test].equals(aligned[in_test])
    got = released.loc[~in_test, "row"]
    assert got.is_unique and set(got) <= set(outputs.loc[protocol.train_split, "row"])
