"""f_close: what it learns from, what it writes, and what it refuses to read."""

import errno
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import CPU, small_net, tiny_dataset, tiny_images, tiny_table

from fer_openset import closed_set
from fer_openset.closed_set import (
    ClosedModel,
    ClosedSetSettings,
    Outputs,
    closed_outputs,
    data_digest,
    load_model,
    predict,
    predict_with_features,
    read_features,
    read_outputs,
    save_model,
    train_closed_set,
    write_pseudo_labels,
)
from fer_openset.datasets import Dataset
from fer_openset.errors import UserError
from fer_openset.labels import BASIC
from fer_openset.protocol import align, make_protocol

RECIPE = ClosedSetSettings(lr=0.02, epochs=3, batch_size=16, image_size=32, eval_batch_size=64)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(closed_set, "new_net", small_net)


@pytest.fixture
def dataset():
    return tiny_dataset({"train": 12, "valid": 4, "test": 4})


def trained(dataset, folder, open_classes="surprise", recipe=RECIPE, seed=0):
    protocol = make_protocol(dataset.table, dataset.classes, open_classes)
    return protocol, *train_closed_set(dataset, protocol, recipe, CPU, seed, folder)


def equal_nets(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_the_known_classes(tmp_path):
    recipe = RECIPE.model_copy(update={"epochs": 12, "lr": 0.03, "schedule": "one_cycle"})
    dataset = tiny_dataset({"train": 40, "valid": 4, "test": 1})
    protocol, model, history = trained(dataset, tmp_path, recipe=recipe)
    assert model.classes == protocol.known_classes and model.image_size == 32
    assert history["valid_accuracy"].iloc[-1] > 0.9 and history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert (tmp_path / "model.safetensors").exists() and (tmp_path / "history.csv").exists()


def test_it_sees_known_training_images_only(dataset, tmp_path, monkeypatch):
    seen = []
    batch_of = closed_set.batch_of
    monkeypatch.setattr(closed_set, "predict", lambda *args: np.zeros((24, 6)))

    def spy(data, rows):
        seen.extend(rows)
        return batch_of(data, rows)

    monkeypatch.setattr(closed_set, "batch_of", spy)
    protocol, _, _ = trained(dataset, tmp_path)
    assert set(dataset.table.index[seen]) <= set(protocol.train.index)


def test_labels_of_the_pool_change_nothing(dataset, tmp_path):
    """Open images and test images may be called anything: f_close is the same to the bit."""
    _, model, _ = trained(dataset, tmp_path / "a")
    table = dataset.table.copy()
    pool_test = (table["split"] == "test") & (table["label"] != "surprise")
    table.loc[pool_test, "label"] = np.roll(table.loc[pool_test, "label"], 1)
    assert not table.equals(dataset.table)
    _, other, _ = trained(Dataset("tiny", dataset.classes, table, dataset.images), tmp_path / "b")
    assert equal_nets(model.net, other.net)


def test_the_seed_decides_the_weights(dataset, tmp_path):
    nets = [trained(dataset, tmp_path / str(i), seed=seed)[1].net for i, seed in enumerate((0, 0, 1))]
    assert equal_nets(nets[0], nets[1]) and not equal_nets(nets[0], nets[2])


def test_a_model_comes_back(dataset, tmp_path):
    protocol, model, _ = trained(dataset, tmp_path)
    back = load_model(tmp_path, CPU)
    assert (back.classes, back.image_size, back.backbone) == (model.classes, model.image_size, model.backbone)
    assert equal_nets(back.net, model.net)
    outputs = closed_outputs(back, dataset, protocol, RECIPE, CPU)
    again = closed_outputs(model, dataset, protocol, RECIPE, CPU)
    assert outputs.logits.equals(again.logits) and outputs.features.equals(again.features)


def test_a_finished_training_is_not_repeated_but_other_data_are_learnt_anew(dataset, tmp_path, capsys):
    _, first, _ = trained(dataset, tmp_path)
    capsys.readouterr()
    _, again, _ = trained(dataset, tmp_path)
    assert "resuming after epoch 3 of 3" in capsys.readouterr().out and equal_nets(first.net, again.net)
    other = Dataset("tiny", dataset.classes, dataset.table, tiny_images(dataset.table["label"], BASIC, seed=9))
    swapped = dataset.table.copy()
    swap = {"fear": "anger", "anger": "fear"}
    swapped["label"] = [swap.get(name, name) for name in swapped["label"]]
    for name, data in (("labels", Dataset("tiny", dataset.classes, swapped, dataset.images)), ("images", other)):
        trained(dataset, tmp_path / name)
        capsys.readouterr()
        _, model, _ = trained(data, tmp_path / name)
        assert "resuming" not in capsys.readouterr().out and not equal_nets(first.net, model.net)


def test_the_digest_changes_with_images_and_ids(dataset):
    rows = np.arange(40)
    digest = data_digest(dataset, rows)
    assert digest == data_digest(dataset, rows) != data_digest(dataset, rows[:-1])
    assert digest != data_digest(tiny_dataset({"train": 12, "valid": 4, "test": 4}, seed=1), rows)
    renamed = dataset.table.rename(index={"train_0003": "train_x"})
    assert digest != data_digest(Dataset("tiny", dataset.classes, renamed, dataset.images), rows)


def test_without_validation_images_there_is_no_validation_accuracy(tmp_path):
    _, _, history = trained(tiny_dataset({"train": 4, "test": 2}), tmp_path)
    assert "valid_accuracy" not in history and len(history) == 3


def test_the_first_epochs_may_see_smaller_images(dataset, tmp_path, monkeypatch):
    sizes = []
    view = closed_set.train_view

    def spy(images, size, *args):
        sizes.append(size)
        return view(images, size, *args)

    monkeypatch.setattr(closed_set, "train_view", spy)
    recipe = RECIPE.model_copy(update={"start_size": 16, "start_epochs": 2, "batch_size": 72})
    _, model, _ = trained(dataset, tmp_path, recipe=recipe)
    assert sizes == [16, 16, 32] and model.image_size == 32


def test_outputs_hold_the_pool_and_the_whole_training_split_by_id(dataset):
    protocol = make_protocol(dataset.table, dataset.classes, "fear")
    model = ClosedModel(small_net("small", 6, 3, zero_head=False), protocol.known_classes, 32, "small")
    outputs = closed_outputs(model, dataset, protocol, RECIPE, CPU).logits
    assert set(outputs.index) == set(protocol.pool.index) | set(protocol.train_split) and outputs.index.is_unique
    assert list(outputs.columns) == list(protocol.known_classes) and (outputs.dtypes == "float32").all()
    sample = outputs.index[17]
    one = predict(model.net, dataset, dataset.rows([sample]), 32, 1, CPU)[0]
    np.testing.assert_allclose(outputs.loc[sample], one, atol=1e-5)


def test_outputs_are_made_at_the_models_own_size(dataset):
    """Notebook 02 may be run with other settings than 01; f_close must still see what it was trained on."""
    protocol = make_protocol(dataset.table, dataset.classes, "fear")
    model = ClosedModel(small_net("small", 6, 3, zero_head=False), protocol.known_classes, 16, "small")
    outputs = closed_outputs(model, dataset, protocol, RECIPE, CPU).logits
    at_16 = predict(model.net, dataset, dataset.rows(outputs.index), 16, 64, CPU)
    np.testing.assert_allclose(outputs, at_16, atol=1e-5)


def test_mirrored_outputs_are_the_mean_over_both_views(dataset):
    """Half of the images are turned round first: with `mirror` that changes no logit, without it does."""
    protocol = make_protocol(dataset.table, dataset.classes, "fear")
    tilted = dataset.images // 2 + np.linspace(0, 120, 32).astype(np.uint8)  # no longer their own mirror images
    turned = tilted.copy()
    turned[::2] = turned[::2, :, :, ::-1]
    model = ClosedModel(small_net("small", 6, 3, zero_head=False), protocol.known_classes, 32, "small")
    for mirror in (True, False):
        recipe = RECIPE.model_copy(update={"mirror": mirror})
        one, other = (
            closed_outputs(model, Dataset("tiny", dataset.classes, dataset.table, images), protocol, recipe, CPU)
            for images in (tilted, turned)
        )
        assert np.allclose(one.logits, other.logits, atol=1e-5) == mirror
        assert np.allclose(one.features, other.features, atol=1e-3) == mirror
    views = [
        predict(model.net, Dataset("t", BASIC, dataset.table, i), np.arange(9), 32, 4, CPU)
        for i in (tilted, tilted[..., ::-1])
    ]
    both = predict(model.net, Dataset("t", BASIC, dataset.table, tilted), np.arange(9), 32, 4, CPU, mirror=True)
    np.testing.assert_allclose(both, (views[0] + views[1]) / 2, atol=1e-5)


def test_predict_leaves_the_mode_of_the_network(dataset):
    net = small_net("small", 6, 0)
    for training in (True, False):
        net.train(training)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        predict(net, dataset, np.arange(10), 32, 4, CPU)
        assert net.training is training
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("mirror", [False, True])
def test_logits_are_the_head_on_the_cached_features(dataset, mirror):
    """Also with `mirror`: the head is linear, so the mean of the logits is the head on the mean of the features."""
    net = small_net("small", 6, 3, zero_head=False)
    tilted = dataset.images // 2 + np.linspace(0, 120, 32).astype(np.uint8)
    data = Dataset("tiny", dataset.classes, dataset.table, tilted)
    rows = np.arange(40)
    logits, features = predict_with_features(net, data, rows, 32, 7, CPU, mirror)
    assert features.dtype == np.float16 and features.shape == (40, 32) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, predict(net, data, rows, 32, 16, CPU, mirror), atol=1e-5)
    head = torch.from_numpy(features.astype("float32")) @ net.head.weight.T + net.head.bias
    np.testing.assert_allclose(head.detach(), logits, atol=5e-3)
    assert np.ptp(features, axis=0).max() > 0.1  # they differ from image to image
    assert net.training


def test_features_too_large_for_float16_are_refused(dataset):
    net = small_net("small", 6, 3)
    with torch.no_grad():
        net.body[4].weight.fill_(1e6)
    with pytest.raises(UserError, match="features that are not finite"):
        predict_with_features(net, dataset, np.arange(9), 32, 4, CPU)


# The files of the pseudo-label step, on seven images whose outputs are written by hand.


@pytest.fixture
def by_hand():
    classes = ("surprise", "fear", "disgust", "anger")
    rows = [("test_a", "fear", "test"), ("train_a", "surprise", "train"), ("train_b", "disgust", "train"),
            ("test_b", "surprise", "test"), ("train_c", "surprise", "train"), ("train_d", "fear", "train"),
            ("test_c", "anger", "test"), ("train_e", "anger", "train")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["sample_id", "label", "split"]).set_index("sample_id")
    protocol = make_protocol(table, classes, "surprise")
    says = {"test_a": 0, "train_a": 2, "train_b": 1, "test_b": 1, "train_c": 0, "train_d": 0, "test_c": 2, "train_e": 2}
    outputs = pd.DataFrame(np.eye(3, dtype="float32")[[says[i] for i in table.index]], index=table.index)
    outputs.columns = ["fear", "disgust", "anger"]
    return protocol, outputs


def with_features(logits):
    """f_close's outputs: these logits, and features that are told apart by their place."""
    features = np.arange(len(logits) * 5).reshape(-1, 5).astype("float16")
    return Outputs(logits, pd.DataFrame(features, index=logits.index))


def test_the_authors_two_text_files(by_hand, tmp_path):
    protocol, outputs = by_hand
    write_pseudo_labels(with_features(outputs), protocol, 0, tmp_path)
    folder = tmp_path / "authors_format_aligned"
    assert sorted(p.name for p in folder.iterdir()) == [
        "predicted_labels_open0.txt", "predicted_labels_open0_openset_index.txt",
    ]  # fmt: skip
    # The test split first, then the open training images; numbers count the known classes from 0.
    assert (folder / "predicted_labels_open0.txt").read_text() == "test_a 0\ntest_b 1\ntest_c 2\ntrain_a 2\ntrain_c 0\n"
    assert (folder / "predicted_labels_open0_openset_index.txt").read_text() == "1\n3\n4\n"


def test_both_alignments_are_written_and_the_test_part_is_the_same(by_hand, tmp_path):
    protocol, outputs = by_hand
    table = write_pseudo_labels(with_features(outputs), protocol, 3, tmp_path)
    for alignment in ("aligned", "as_released"):
        expected = align(outputs, protocol, alignment, 3).idxmax(axis=1)
        assert (table[alignment] == expected).all()
        lines = (tmp_path / f"authors_format_{alignment}" / "predicted_labels_open0.txt").read_text().splitlines()
        numbers = {line.split()[0]: int(line.split()[1]) for line in lines}
        assert numbers == {i: outputs.columns.get_loc(name) for i, name in expected.items()}
    in_test = protocol.pool["split"] == "test"
    assert (table["aligned"] == table["as_released"])[in_test].all()
    written = pd.read_csv(tmp_path / "pseudo_labels.csv", index_col="sample_id")
    assert (written == table).all(axis=None) and list(written.columns) == ["part", "aligned", "as_released"]


def test_file_names_use_raf_dbs_numbers_from_0(tmp_path):
    table = tiny_table({"train": 2, "test": 1})
    protocol = make_protocol(table, BASIC, "neutral+fear")
    outputs = pd.DataFrame(
        np.zeros((len(table), 5), "float32"), index=table.index, columns=list(protocol.known_classes)
    )
    write_pseudo_labels(with_features(outputs), protocol, 0, tmp_path)
    assert (tmp_path / "authors_format_aligned" / "predicted_labels_open1_6_openset_index.txt").exists()
    # Classes alternate in this table: of the seven test images the second and the last are open, then four of train.
    index = (tmp_path / "authors_format_aligned" / "predicted_labels_open1_6_openset_index.txt").read_text().split()
    assert index == ["1", "6", "7", "8", "9", "10"]


def test_outputs_round_trip(by_hand, tmp_path):
    protocol, outputs = by_hand
    outputs = outputs + np.random.default_rng(0).normal(size=outputs.shape).astype("float32")
    write_pseudo_labels(with_features(outputs), protocol, 0, tmp_path)
    back = read_outputs(tmp_path)
    assert back.index.tolist() == outputs.index.tolist() and back.columns.tolist() == outputs.columns.tolist()
    assert np.array_equal(back.to_numpy(), outputs.to_numpy()) and back.to_numpy().dtype == np.float32
    assert align(back, protocol, "aligned").index.equals(protocol.pool.index)
    features = read_features(tmp_path)
    assert features.index.equals(back.index) and (features.dtypes == "float16").all()
    assert np.array_equal(features.to_numpy(), with_features(outputs).features.to_numpy())


def test_outputs_of_an_older_version_have_no_features(by_hand, tmp_path):
    _, logits = by_hand
    np.savez(tmp_path / "outputs.npz", sample_id=logits.index.to_numpy(str), logits=logits.to_numpy(),
             classes=np.array(logits.columns, dtype=str))  # fmt: skip
    assert read_outputs(tmp_path).shape == logits.shape
    with pytest.raises(UserError, match=r"holds no features; run the pseudo-label notebook \(02\) again"):
        read_features(tmp_path)


def test_full_disk_while_writing_outputs_is_one_sentence(by_hand, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_pseudo_labels(with_features(by_hand[1]), by_hand[0], 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_outputs_of_another_kind_are_refused_and_never_unpickled(by_hand, tmp_path):
    trap = tmp_path / "sprung"
    path = tmp_path / "outputs.npz"
    pickled = np.array([Trap(trap)], dtype=object)
    with pytest.raises(UserError, match=r"there is no such file; run the pseudo-label notebook \(02\)"):
        read_outputs(tmp_path)
    np.savez(path, sample_id=pickled, logits=np.zeros((1, 3)), classes=np.array(["a", "b", "c"]))
    whole = path.read_bytes()
    for content in (whole, whole[: len(whole) // 2], b"", b"junk", pickle.dumps(Trap(trap)), b"PK\x03\x04cut"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not readable") as caught:
            read_outputs(tmp_path)
        assert "\n" not in str(caught.value)
    np.savez(path, sample_id=np.array(["a"]))
    with pytest.raises(UserError, match="not readable"):
        read_outputs(tmp_path)
    np.savez(path, sample_id=np.array(["a"]), logits=np.zeros((2, 3)), classes=np.array(["a", "b", "c"]))
    with pytest.raises(UserError, match="not readable"):
        read_outputs(tmp_path)
    assert not trap.exists()


def test_a_model_file_of_another_kind_is_refused_and_never_unpickled(tmp_path):
    trap = tmp_path / "sprung"
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="there is no such file"):
        load_model(tmp_path, CPU)
    torch.save({"a": Trap(trap)}, path)
    with pytest.raises(UserError, match="no readable safetensors file"):
        load_model(tmp_path, CPU)
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(UserError, match="no readable safetensors file"):
        load_model(tmp_path, CPU)
    assert not trap.exists()


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"backbone": "resnet18", "classes": ["a", "b"]},
        {"backbone": "resnet18", "classes": ["a", "b", "c"], "image_size": 32},
        {"backbone": "resnet18", "classes": 2, "image_size": 32},
    ],
)
def test_a_foreign_safetensors_file_is_one_sentence(tmp_path, header):
    tensors = small_net("small", 2, 0).state_dict()
    closed_set.save_tensors(tmp_path / "model.safetensors", tensors, **header)
    with pytest.raises(UserError, match="not a model of this workbook") as caught:
        load_model(tmp_path, CPU)
    assert "\n" not in str(caught.value) and "train f_close again" in str(caught.value)


def test_an_unknown_backbone_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.undo()  # the real new_net, which knows its backbones
    model = ClosedModel(small_net("small", 2, 0), ("a", "b"), 32, "small")
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not a model of this workbook"):
        load_model(tmp_path, CPU)
