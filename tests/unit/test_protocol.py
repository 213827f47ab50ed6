"""Who is trained on, who is in the pool, and whose outputs the pool is given."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import CPU, shuffled, small_net, task_of, tiny_dataset, tiny_table
from torch.utils.data import DataLoader, RandomSampler

from fer_openset.closed_set import ClosedModel, ClosedSetSettings, closed_outputs, predict
from fer_openset.errors import UserError
from fer_openset.labels import BASIC
from fer_openset.methods.posthoc import PosthocSettings, msp
from fer_openset.protocol import RELEASED_SAMPLER_SEED, align, make_protocol, released_source, targets_of

TABLE = tiny_table({"train": 3, "valid": 1, "test": 2})


def outputs_for(ids, k=6, seed=0):
    values = np.random.default_rng(seed).normal(size=(len(ids), k)).astype("float32")
    return pd.DataFrame(values, index=pd.Index(ids, name="sample_id"), columns=[f"c{i}" for i in range(k)])


def test_the_papers_pool_is_test_plus_open_training_images():
    protocol = make_protocol(TABLE, BASIC, "surprise")
    assert protocol.known_classes == BASIC[1:] and protocol.open_classes == ("surprise",)
    assert len(protocol.train) == 18 and len(protocol.valid) == 6 and len(protocol.train_split) == 21
    assert protocol.pool["part"].value_counts().to_dict() == {"closed test": 12, "open train": 3, "open test": 2}
    in_pool = TABLE.loc[protocol.pool.index]
    assert (protocol.pool["is_open"] == (in_pool["label"] == "surprise")).all()
    assert protocol.pool.index.tolist() == [i for i in TABLE.index if i in set(protocol.pool.index)]


def test_test_only_leaves_the_training_images_out():
    protocol = make_protocol(TABLE, BASIC, "surprise", pool="test_only")
    assert protocol.pool.index.tolist() == TABLE.index[TABLE["split"] == "test"].tolist()
    assert protocol.train.equals(make_protocol(TABLE, BASIC, "surprise").train)
    with pytest.raises(UserError, match="choose one of full, test_only"):
        make_protocol(TABLE, BASIC, "surprise", pool="train")


def test_targets_count_the_known_classes_in_their_order():
    protocol = make_protocol(TABLE, BASIC, "happiness+fear")
    assert protocol.known_classes == ("surprise", "disgust", "sadness", "anger", "neutral")
    for part in (protocol.train, protocol.valid):
        names = [protocol.known_classes[t] for t in part["target"]]
        assert names == TABLE.loc[part.index, "label"].tolist()
    truth = protocol.pool_targets()
    assert truth.dtype == np.int64 and ((truth == -1) == protocol.pool["is_open"]).all()
    assert targets_of(["fear", "neutral", "?"], ("neutral", "fear")).tolist() == [1, 0, -1]


def test_numbers_of_open_classes_are_raf_dbs_from_0():
    assert make_protocol(TABLE, BASIC, "neutral+surprise").open_numbers() == ["0", "6"]


def test_open_validation_images_are_used_nowhere():
    protocol = make_protocol(TABLE, BASIC, "surprise")
    lost = TABLE.index[(TABLE["split"] == "valid") & (TABLE["label"] == "surprise")]
    assert len(lost) and not set(lost) & (
        set(protocol.pool.index) | set(protocol.train.index) | set(protocol.valid.index)
    )


@pytest.mark.parametrize(
    ("keep", "open_classes", "words"),
    [
        (TABLE["split"].notna(), "+".join(BASIC), "leaves 0 of 7"),
        (TABLE["split"].notna(), "surpise", "did you mean 'surprise'?"),
        (TABLE["label"] != "surprise", "surprise", "the pool holds no image of the open class(es) surprise"),
        (TABLE["split"] == "train", "surprise", "the test split holds no known image"),
        (~((TABLE["label"] == "anger") & (TABLE["split"] == "train")), "fear", "the training split holds no anger"),
        (TABLE["split"] == "test", "fear", "the training split holds no surprise, disgust"),
    ],
)
def test_splits_that_cannot_be_used_are_one_sentence(keep, open_classes, words):
    with pytest.raises(UserError) as caught:
        make_protocol(TABLE[keep], BASIC, open_classes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_aligned_gives_every_image_its_own_row_whatever_the_order_of_the_outputs():
    protocol = make_protocol(TABLE, BASIC, "surprise")
    outputs = outputs_for(TABLE.index)
    for order in (outputs, outputs[::-1], outputs.sample(frac=1, random_state=3)):
        for alignment in ("aligned", "as_released"):
            got = align(order, protocol, alignment, seed=1)
            assert got.equals(align(outputs, protocol, alignment, seed=1))
            assert got.index.equals(protocol.pool.index)
    assert align(outputs.sample(frac=1, random_state=3), protocol, "aligned").equals(outputs.loc[protocol.pool.index])


def test_as_released_is_what_a_shuffled_loader_read_by_position_gives():
    """The released notebook, written as plainly as possible: store in iteration order, read by dataset position."""
    protocol = make_protocol(TABLE, BASIC, "surprise+anger")
    outputs = outputs_for(TABLE.index, k=5)
    train = list(protocol.train_split)
    seed = 2
    generator = torch.Generator().manual_seed(RELEASED_SAMPLER_SEED + seed)
    loader = DataLoader(train, batch_size=4, sampler=RandomSampler(train, generator=generator), collate_fn=list)
    stored = []
    for batch in loader:
        for sample in batch:
            stored.append(outputs.loc[sample].to_numpy())
    got = align(outputs, protocol, "as_released", seed)
    moved = 0
    for sample in protocol.pool.index:
        if sample in train:
            expected = stored[train.index(sample)]
            moved += not np.array_equal(expected, outputs.loc[sample])
        else:
            expected = outputs.loc[sample].to_numpy()  # the test split was read in order
        assert np.array_equal(got.loc[sample], expected)
    assert moved > 0


def test_as_released_is_a_permutation_of_the_training_split_and_depends_on_the_seed():
    ids = pd.Index([f"a{i}" for i in range(500)])
    first = released_source(ids, 0)
    assert sorted(first) == sorted(ids) and first.index.equals(ids)
    assert first.equals(released_source(ids, 0)) and not first.equals(released_source(ids, 1))
    assert (first == ids).sum() < 8  # a random permutation has one fixed point on average


def test_released_labels_are_independent_of_the_image_and_aligned_ones_are_not():
    """The defect's mark: read from the right row a label fits its image, scrambled it is that of a random one."""
    table = tiny_table({"train": 200, "test": 5})
    protocol = make_protocol(table, BASIC, "surprise")
    one_hot = np.eye(7)[targets_of(table["label"], BASIC)]
    outputs = pd.DataFrame(one_hot, index=table.index, columns=BASIC)
    from_train = protocol.pool.index[protocol.pool["part"] == "open train"]
    assert (align(outputs, protocol, "aligned").loc[from_train].idxmax(axis=1) == "surprise").all()
    shares = align(outputs, protocol, "as_released").loc[from_train].idxmax(axis=1).value_counts(normalize=True)
    assert len(shares) == 7 and shares.max() < 0.25  # those of a random training image: one in seven


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    released_source(pd.Index(["a", "b", "c"]))
    assert torch.equal(before, torch.random.get_rng_state())


def test_missing_outputs_are_named():
    protocol = make_protocol(TABLE, BASIC, "surprise")
    with pytest.raises(UserError, match=r"1 images have no output of f_close \(first: test_0005\)"):
        align(outputs_for(TABLE.index.drop("test_0005")), protocol, "aligned")
    known_only = outputs_for(TABLE.index.drop(TABLE.index[(TABLE["split"] == "train") & (TABLE["label"] == "fear")]))
    align(known_only, protocol, "aligned")
    with pytest.raises(UserError, match="have no output of f_close"):
        for seed in range(20):  # some seed hands a fear image's output to an open one
            align(known_only, protocol, "as_released", seed)


def test_order_of_rows_and_size_of_batches_change_nothing_keyed_by_id(tmp_path):
    """The audit's lesson as a test: shuffle the table, evaluate in other batches, and join by id."""
    dataset = tiny_dataset({"train": 4, "valid": 1, "test": 3})
    net = small_net("small", 6, seed=3, zero_head=False)
    scores = {}
    for name, data, batch in (("plain", dataset, 512), ("shuffled", shuffled(dataset), 512), ("small", dataset, 5)):
        protocol = make_protocol(data.table, data.classes, "surprise")
        model = ClosedModel(net, protocol.known_classes, 32, "small")
        settings = ClosedSetSettings(lr=0.1, epochs=1, batch_size=1, image_size=32, eval_batch_size=batch)
        outputs = closed_outputs(model, data, protocol, settings, CPU)
        logits = align(outputs.logits, protocol, "aligned")
        task = task_of(data, logits.index, np.zeros(len(logits), int), protocol.known_classes, tmp_path)
        scores[name] = msp(task.__class__(**{**vars(task), "pool_logits": logits}), PosthocSettings())
        truth = dataset.table.loc[protocol.pool.index, "label"]
        assert (protocol.pool["label"] == truth).all()
    for other in ("shuffled", "small"):
        assert sorted(scores[other].index) == sorted(scores["plain"].index)
        np.testing.assert_allclose(scores[other].loc[scores["plain"].index], scores["plain"], atol=1e-5)
    assert scores["plain"].nunique() == len(scores["plain"])  # nothing ties, so a swap would show


def test_predict_follows_the_order_of_the_rows_asked_for():
    dataset = tiny_dataset()
    net = small_net("small", 6, seed=3, zero_head=False)
    rows = np.arange(20)
    ahead = predict(net, dataset, rows, 32, 7, CPU)
    np.testing.assert_allclose(predict(net, dataset, rows[::-1], 32, 7, CPU)[::-1], ahead, atol=1e-5)
