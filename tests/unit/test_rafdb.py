"""RAF-DB's two sets: who is in them, and one clear sentence for whatever is wrong with the folders."""

import os
import shutil

import numpy as np
import pytest
from trees import face, write_rafdb, write_rafdb_both

from fer_openset.datasets import load_dataset, rafdb, rafdb_compound, store
from fer_openset.errors import UserError
from fer_openset.labels import BASIC, COMPOUND
from fer_openset.protocol import make_protocol
from fer_openset.settings import ROOT, load

PARAMS = ROOT / "params" / "datasets"
IMAGES, LIST = "Image/aligned", "EmoLabel/list_patition_label.txt"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_rafdb(tmp_path_factory.mktemp("made") / "rafdb")


@pytest.fixture
def tree(made, tmp_path):
    return shutil.copytree(made, tmp_path / "rafdb")


def read(root, **overrides):
    return rafdb.read(load(rafdb.RafdbSettings, PARAMS / "rafdb.yaml", "paper", overrides), root)


def test_names_numbers_splits_and_pixels(tree, tmp_path):
    listing = read(tree)
    images = store.open_store(listing, tmp_path / "cache")
    table = listing.table
    assert listing.classes == BASIC and images.shape == (42, 3, 100, 100)
    assert table["split"].value_counts().to_dict() == {"train": 28, "test": 14}
    assert table.loc["train_00005", "label"] == "fear" and table.loc["test_0014", "label"] == "neutral"
    assert list(table["split"]) == sorted(table["split"], reverse=True)  # training rows first
    for sample, label, number in (("train_00001", "surprise", 0), ("test_0014", "neutral", 5)):
        found = images[table.index.get_loc(sample)].astype(int)
        difference = np.abs(found - face(label, number, 100).transpose(2, 0, 1)).mean()
        assert difference < 6  # JPEG
    assert (images[0, 2].mean() < 0.7 * images[0, 0].mean()) and listing.files[0].endswith("train_00001_aligned.jpg")


def test_the_folder_above_and_another_size_will_do(tree, tmp_path):
    table = read(tree).table
    (tmp_path / "above").mkdir()
    tree.rename(tmp_path / "above" / "basic")
    assert read(tmp_path / "above").table.equals(table)
    small = read(tmp_path / "above", image_size=32)
    assert store.open_store(small, tmp_path / "cache").shape == (42, 3, 32, 32)


def test_names_with_spaces_and_other_letters(tree, tmp_path):
    names = {"train_00001": "train_ein Gesicht", "train_00002": "train_ gesicht\u2028é", "test_0001": "test_脸"}
    for old, new in names.items():
        (tree / IMAGES / f"{old}_aligned.jpg").rename(tree / IMAGES / f"{new}_aligned.jpg")
        text = (tree / LIST).read_text(encoding="utf-8").replace(f"{old}.jpg", f"{new}.jpg")
        (tree / LIST).write_text("\ufeff" + text.lstrip("\ufeff").replace("\n", "\r\n"), encoding="utf-8", newline="")
    listing = read(tree)
    assert set(names.values()) <= set(listing.table.index)
    assert len(store.open_store(listing, tmp_path / "cache")) == 42


def test_the_key_follows_the_files(tree):
    key = read(tree).key
    assert read(tree).key == key != read(tree, image_size=64).key
    os.utime(tree / IMAGES / "test_0001_aligned.jpg", (1, 1))
    assert read(tree).key != key


def test_compound_images_are_the_open_set(tmp_path):
    root = write_rafdb_both(tmp_path / "rafdb")
    settings = load(rafdb_compound.RafdbCompoundSettings, PARAMS / "rafdb_compound.yaml", "paper")
    listing = rafdb_compound.read(settings, root)
    protocol = make_protocol(listing.table, listing.classes, "compound")
    assert protocol.name == "compound" and protocol.known_classes == BASIC and protocol.open_classes == COMPOUND
    assert protocol.open_numbers() == [str(i) for i in range(8, 19)]
    parts = protocol.pool["part"].value_counts().to_dict()
    assert parts == {"closed test": 14, "open train": 22, "open test": 11} and len(protocol.train) == 28
    opened = protocol.pool.index[protocol.pool["is_open"]]
    assert all(sample.startswith("compound_") for sample in opened)
    assert set(listing.table.index) - set(opened) == set(read(root).table.index)
    with pytest.raises(UserError, match=f"{root / 'basic' / 'compound'}: there is no such folder"):
        rafdb_compound.read(settings, root / "basic")


def change_list(old, new):
    def spoil(root):
        text = (root / LIST).read_text(encoding="utf-8")
        assert old in text
        (root / LIST).write_text(text.replace(old, new, 1), encoding="utf-8")

    return spoil


THIRD = "train_00003.jpg 1"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "rafdb: there is no such folder; put RAF-DB there"),
        (lambda r: (r / LIST).unlink(), "list_patition_label.txt: there is no such file"),
        (lambda r: (r / LIST).write_bytes(b"\xff\xfe"), "list_patition_label.txt: not readable as UTF-8 text"),
        (lambda r: shutil.rmtree(r / "Image"), "aligned: there is no such folder; list_patition_label.txt lists 42"),
        (change_list(THIRD, "train_00003.jpg"), "line 3 reads 'train_00003.jpg'; expected a name such as"),
        (change_list(THIRD, "1 train_00003.jpg"), "line 3 reads '1 train_00003.jpg'; expected a name"),
        (change_list(THIRD, "valid_00003.jpg 1"), "line 3 reads 'valid_00003.jpg 1'; expected a name"),
        (change_list(THIRD, "train_00003.jpg 8"), "line 3 has the class number '8'; expected 1 .surprise. to 7 .neu"),
        (change_list(THIRD, "train_00003.jpg 0"), "line 3 has the class number '0'"),
        (change_list(THIRD, "train_00003.jpg ²"), "line 3 has the class number '²'"),
        (change_list(THIRD, "train_00002.jpg 1"), "names train_00002.jpg twice"),
        (change_list(THIRD, "train_/../../x.jpg 1"), "line 3 must hold a bare file name"),
        (change_list(THIRD + "\n", ""), "train_00003_aligned.jpg: .* has no label for this image"),
        (lambda r: (r / IMAGES / "test_0002_aligned.jpg").unlink(), "test_0002_aligned.jpg: .* but it is missing"),
        (lambda r: [path.unlink() for path in (r / IMAGES).glob("test_000[23]*")], r"and 1 more\): .* missing"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(tree, spoil, words):
    spoil(tree)
    with pytest.raises(UserError, match=words) as caught:
        read(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:400]),
        lambda path: path.write_bytes(b"no picture"),
    ],
)
def test_an_unreadable_picture_is_named(tree, tmp_path, spoil):
    path = tree / IMAGES / "test_0002_aligned.jpg"
    spoil(path)
    with pytest.raises(UserError, match=r"test_0002_aligned\.jpg: not readable as an image \("):
        store.open_store(read(tree), tmp_path / "cache")


def test_the_reader_is_registered_under_its_default_folder(tree, workplace):
    tree.rename(workplace.data / "rafdb") if workplace.data.is_dir() else shutil.copytree(
        tree, workplace.data / "rafdb"
    )
    assert load_dataset("rafdb", "smoke").images.shape == (42, 3, 100, 100)
