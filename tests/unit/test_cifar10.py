"""CIFAR-10 in both its layouts, whose pickles are taken apart and never run."""

import os
import pickle

import numpy as np
import pytest
from guarded import one_sentence, shared_tuples
from trees import cifar10_batches, pickled_batch, write_cifar10, write_cifar10_pickles

from fer_openset.datasets import cifar10, classes_of, store
from fer_openset.datasets.cifar10_pickles import read_batch
from fer_openset.errors import UserError
from fer_openset.labels import OBJECTS
from fer_openset.protocol import make_protocol

SETTINGS = cifar10.Cifar10Settings(root="cifar10")
LABELS, PICTURES = cifar10_batches(1)["data_batch_1"]


@pytest.fixture
def tree(tmp_path):
    return write_cifar10(tmp_path / "cifar10")


def test_labels_splits_and_pixels(tree, tmp_path):
    listing = cifar10.read(SETTINGS, tree)
    images = store.open_store(listing, tmp_path / "cache")
    assert listing.classes == OBJECTS == classes_of("cifar10", "paper", "dog") and images.shape == (120, 3, 32, 32)
    assert listing.table["split"].value_counts().to_dict() == {"train": 100, "test": 20}
    for name, (labels, pictures) in cifar10_batches().items():
        for i in (0, 13, 19):
            sample = f"{name}_{i:05d}"
            assert listing.table.loc[sample, "label"] == OBJECTS[labels[i]]
            assert np.array_equal(images[listing.table.index.get_loc(sample)].ravel(), pictures[i])


def test_decoding_may_start_and_stop_anywhere(tree):
    decode = cifar10.read(SETTINGS, tree).decode
    whole = decode(0, 120)
    for start, stop in ((0, 1), (19, 21), (5, 77), (100, 120), (119, 120)):
        assert np.array_equal(decode(start, stop), whole[start:stop])


@pytest.mark.parametrize("protocol", [2, 4])
def test_torchvisions_layout_gives_the_same(tree, tmp_path, protocol):
    binary = cifar10.read(SETTINGS, tree)
    pickled = cifar10.read(SETTINGS, write_cifar10_pickles(tmp_path / "py", protocol))
    assert pickled.table.equals(binary.table)
    assert np.array_equal(pickled.decode(0, 120), binary.decode(0, 120))


def test_the_test_file_is_what_python_2_wrote():
    """What the tests feed is a real pickle: the standard library reads the same from it."""
    batch = pickle.loads(pickled_batch("b", LABELS.tolist(), PICTURES), encoding="bytes")
    assert np.array_equal(batch[b"data"], PICTURES) and batch[b"labels"] == LABELS.tolist()


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_payload_is_refused_and_has_not_run(tmp_path, protocol):
    harm, path = tmp_path / "harm", tmp_path / "data_batch_1"
    wrong = [
        Payload(harm),
        {b"labels": LABELS.tolist(), b"data": Payload(harm)},
        {b"labels": Payload(harm), b"data": PICTURES},
        {Payload(harm): 1, b"labels": LABELS.tolist(), b"data": PICTURES[:5]},
    ]
    for value in wrong:
        path.write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(UserError, match="data_batch_1: not a batch of CIFAR-10") as caught:
            read_batch(path)
        assert "\n" not in str(caught.value) and not harm.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no pickle",
        b"\x80\x02.",
        b"\x80\x02u.",
        pickled_batch("b", LABELS.tolist(), PICTURES)[:-5],
        pickled_batch("b", LABELS.tolist()[:-1], PICTURES),
        pickle.dumps({b"labels": LABELS.tolist()}, 2),
        pickle.dumps([1, 2], 2),
        pickle.dumps({b"labels": LABELS.tolist(), b"data": PICTURES.astype(float)}, 4),
        pickle.dumps({b"labels": LABELS.tolist(), b"data": PICTURES[:, :100].copy()}, 4),
        pickle.dumps({b"labels": LABELS.tolist(), b"data": np.asfortranarray(PICTURES)}, 4),
        pickle.dumps({b"labels": [300] * 10, b"data": PICTURES}, 4),
        pickle.dumps({b"labels": ["cat"] * 10, b"data": PICTURES}, 4),
    ],
)
def test_a_file_that_is_no_batch(tmp_path, raw):
    (tmp_path / "batch").write_bytes(raw)
    with pytest.raises(UserError, match="batch: not a batch of CIFAR-10"):
        read_batch(tmp_path / "batch")


def test_cut_and_changed_bytes_never_do_more_than_refuse(tmp_path):
    raw, path = pickled_batch("b", LABELS.tolist(), PICTURES), tmp_path / "batch"
    rng = np.random.default_rng(0)
    for _ in range(100):
        changed = bytearray(raw)
        changed[rng.integers(400)] = rng.integers(256)
        path.write_bytes(changed)
        try:
            labels, pictures = read_batch(path)
        except UserError:
            continue
        assert labels.shape == (10,) and pictures.shape == (10, 3072)


def with_shape(shape):
    """A batch of one label whose data claims this shape, which opcodes give."""
    program = b"\x80\x02" + shape + b"q\x09}(U\x06labels](K\x01eU\x04datacnumpy.core.multiarray\n_reconstruct\n)R"
    return program + b"(K\x01h\x09cnumpy\ndtype\nU\x02u1\x85R\x89U\x03abctbu."


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (shared_tuples() + b"}h\x00Ns.", "it names something by other than text"),
        (shared_tuples() + b"}(h\x00Nu.", "it names something by other than text"),
        (shared_tuples() + b"h\x00N\x93.", "it names a function by something other than text"),
        (with_shape(shared_tuples()), "no shape of two numbers"),
        (with_shape(shared_tuples() + b"h\x00h\x00\x86"), "no shape of two numbers"),
        (with_shape(b"N" + b"\x85" * 5000 + b"N\x86"), "no shape of two numbers"),
        (with_shape(b"\x8a\x0a" + b"\xff" * 9 + b"\x7fM\x00\x0c\x86"), "no shape of two numbers"),
        (with_shape(b"\x8a\xff" + b"\xff" * 254 + b"\x7fM\x00\x0c\x86"), "no shape of two numbers"),
        (with_shape(b"J\xff\xff\xff\xffM\x00\x0c\x86"), "no shape of two numbers"),
        (with_shape(b"K\x02M\x00\x0c\x86"), "ValueError"),
        (with_shape(b"K\x02K\x03\x86"), "its data has shape (2, 3)"),
        (b"c" + b"a" * 9000 + b"\nb\n)R.", "not a batch"),
        (b"I" + b"a" * 9000 + b"\n.", "not a batch"),
        (b"N" * 40_000 + b"(t" * 40_000 + b".", "AttributeError"),  # 40,000 marks, each above 40,000 things
        (b"N" * 250_000, "far more opcodes"),
    ],
)
def test_a_batch_that_would_take_for_ever_is_refused(tmp_path, raw, words):
    (tmp_path / "batch").write_bytes(raw)
    said = one_sentence(read_batch, tmp_path / "batch")
    assert "batch: not a batch of CIFAR-10 (" in said and words in said


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda f: (f / "test_batch.bin").unlink(),
            "test_batch.bin: there is no such file, but others of",
        ),
        (lambda f: (f / "test_batch.bin").write_bytes(b""), "test_batch.bin: 0 bytes are no whole number of records"),
        (
            lambda f: (f / "test_batch.bin").write_bytes(b"0" * 4000),
            "4000 bytes are no whole number of records of",
        ),
        (
            lambda f: (f / "data_batch_2.bin").write_bytes(bytes(3073) + bytes([10]) + bytes(3072)),
            "data_batch_2.bin: record 1 .from 0. has the class number 10; expected 0 .airplane. to 9 .truck.",
        ),
        (lambda f: f.rename(f.parent / "other"), "neither cifar-10-batches-bin nor cifar-10-batches-py"),
    ],
)
def test_what_is_wrong_with_the_files_is_one_sentence(tree, spoil, words):
    spoil(tree / "cifar-10-batches-bin")
    with pytest.raises(UserError, match=words):
        cifar10.read(SETTINGS, tree)


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match="none: there is no such folder; put CIFAR-10 there"):
        cifar10.read(SETTINGS, tmp_path / "none")


def test_open_classes_are_things_here(tree):
    listing = cifar10.read(SETTINGS, tree)
    protocol = make_protocol(listing.table, listing.classes, "dog+cat")
    assert protocol.name == "cat+dog" and protocol.open_numbers() == ["cat", "dog"]
    with pytest.raises(UserError, match="unknown class 'dogg'; did you mean 'dog'. Choose from: airplane"):
        make_protocol(listing.table, listing.classes, "dogg")
    with pytest.raises(UserError, match="unknown class 'surprise'"):
        make_protocol(listing.table, listing.classes, "surprise")
