"""AffectNet in both its forms: who is in, where the face is, and one clear sentence for whatever is wrong."""

import io
import shutil

import numpy as np
import pytest
from trees import face, write_affectnet, write_affectnet_lists

from fer_openset.datasets import affectnet, classes_of, store
from fer_openset.errors import UserError
from fer_openset.labels import AFFECTNET, BASIC
from fer_openset.protocol import make_protocol
from fer_openset.settings import ROOT, load

PARAMS = ROOT / "params" / "datasets" / "affectnet.yaml"
NOTES, IMAGES = "train_set/annotations", "train_set/images"
LISTS, PHOTOGRAPHS = "Manually_Annotated_file_lists", "Manually_Annotated_Images"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_affectnet(tmp_path_factory.mktemp("made") / "affectnet", train=2, test=1)


@pytest.fixture
def tree(made, tmp_path):
    return shutil.copytree(made, tmp_path / "affectnet")


@pytest.fixture
def lists(tmp_path):
    return write_affectnet_lists(tmp_path / "lists", train=2, test=1)


def read(root, **overrides):
    return affectnet.read(load(affectnet.AffectnetSettings, PARAMS, "demo", overrides), root)


def test_numbers_are_affectnets_own():
    expected = "neutral happiness sadness surprise fear disgust anger contempt"
    assert tuple(expected.split()) == AFFECTNET


def test_annotations_give_labels_and_splits(tree, tmp_path):
    listing = read(tree)
    images = store.open_store(listing, tmp_path / "cache")
    assert listing.classes == (*BASIC, "contempt") and images.shape == (24, 3, 48, 48)
    for sample, label, number in (("train_1", "neutral", 0), ("train_16", "contempt", 1), ("test_4", "surprise", 2)):
        assert listing.table.loc[sample, "label"] == label
        found = images[listing.table.index.get_loc(sample)].astype(int)
        assert np.abs(found - face(label, number).transpose(2, 0, 1)).mean() < 6
    protocol = make_protocol(listing.table, listing.classes, "contempt")
    assert protocol.known_classes == BASIC
    assert protocol.pool["part"].value_counts().to_dict() == {"closed test": 7, "open train": 2, "open test": 1}


def test_seven_classes_without_contempt_unless_it_is_open(tree):
    seven = read(tree, contempt=False)
    assert seven.classes == BASIC and len(seven.table) == 21
    settings = load(affectnet.AffectnetSettings, PARAMS, "demo", {"contempt": False})
    assert affectnet.with_classes(settings, ["fear", "contempt"]) == {"contempt": True}
    assert affectnet.with_classes(settings, ["fear"]) == {"contempt": False}
    assert classes_of("affectnet", "cpu", "contempt") == (*BASIC, "contempt")


@pytest.mark.parametrize("value", ["7", b"7", 7, np.uint8(7), [7], ["7"], np.array(7, ">i4"), np.array(["7"], ">U1")])
def test_a_number_is_read_however_it_is_stored(tree, value):
    np.save(tree / NOTES / "1_exp.npy", np.array(value))
    assert read(tree).table.loc["train_1", "label"] == "contempt"


def test_the_ending_of_an_annotation_may_be_in_capitals(tree):
    label = read(tree).table.loc["train_3", "label"]
    (tree / NOTES / "3_exp.npy").rename(tree / NOTES / "3_exp.NPY")
    assert read(tree).table.loc["train_3", "label"] == label


def spoilt(**arrays):
    """A .npy file of something else."""
    stream = io.BytesIO()
    np.save(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not readable as an annotation"),
        (b"3", "not readable as an annotation"),
        (spoilt(arr=np.array("8")), "class number 8; expected 0 .neutral. to 7 .contempt."),
        (spoilt(arr=np.array(-1)), "class number -1"),
        (spoilt(arr=np.array("happy")), "not readable as an annotation .invalid literal"),
        (spoilt(arr=np.array(3.0)), "holds float64 of shape"),
        (spoilt(arr=np.arange(2)), "of shape .2,., expected one number"),
        (spoilt(arr=np.array("3"))[:-2], "not readable as an annotation"),
        (spoilt(arr=np.zeros(2000)), "16128 bytes, expected one number"),
        (spoilt(arr=np.array([{"a": 1}], dtype=object), allow_pickle=True), "holds object of shape"),
        (spoilt(arr=np.array("3")).replace(b"()", b"(9999999999,)", 1), "not readable as an annotation"),
        (b"\x93NUMPY\x03\x00" + spoilt(arr=np.array("3"))[8:], "version 3.0 of the format, expected 1.0 or 2.0"),
    ],
)
def test_an_annotation_that_is_wrong(tree, raw, words):
    (tree / NOTES / "3_exp.npy").write_bytes(raw)
    with pytest.raises(UserError, match=f"3_exp.npy: .*{words}") as caught:
        read(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "affectnet: there is no such folder; put AffectNet there"),
        (lambda r: shutil.rmtree(r / "train_set"), "neither train_set and val_set nor Manually_Annotated_file_lists"),
        (lambda r: shutil.rmtree(r / "val_set"), "val_set/images: there is no such folder"),
        (lambda r: shutil.rmtree(r / NOTES), "train_set/annotations: there is no such folder"),
        (lambda r: (r / IMAGES / "3.jpg").unlink(), "3.jpg: train_set/annotations lists this image but it is missing"),
        (lambda r: (r / NOTES / "3_exp.npy").unlink(), "3.jpg: train_set/annotations has no label for this image"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(tree, spoil, words):
    spoil(tree)
    with pytest.raises(UserError, match=words):
        read(tree)


def test_names_with_spaces_newlines_and_other_letters(tree, tmp_path):
    names = ["a b", "ü 脸", "a\nb"]
    for old, new in zip(("1", "2", "3"), names, strict=True):
        (tree / IMAGES / f"{old}.jpg").rename(tree / IMAGES / f"{new}.jpg")
        (tree / NOTES / f"{old}_exp.npy").rename(tree / NOTES / f"{new}_exp.npy")
    listing = read(tree)
    assert {f"train_{name}" for name in names} <= set(listing.table.index)
    assert len(store.open_store(listing, tmp_path / "cache")) == 24


def test_the_older_lists_give_the_same_people_and_cut_the_face_out(lists, tree, tmp_path):
    listing = read(lists)
    images = store.open_store(listing, tmp_path / "cache")
    assert listing.classes == read(tree).classes
    assert listing.table["label"].value_counts().to_dict() == read(tree).table["label"].value_counts().to_dict()
    sample = "train_1/train4.png"
    assert listing.table.loc[sample].tolist() == ["happiness", "train"]
    assert np.array_equal(images[listing.table.index.get_loc(sample)], face("happiness", 1).transpose(2, 0, 1))
    (lists / "Manually_Annotated").mkdir()
    (lists / PHOTOGRAPHS).rename(lists / "Manually_Annotated" / PHOTOGRAPHS)
    assert read(lists).table.equals(listing.table)


def change(old, new, name="training.csv"):
    def spoil(root):
        path = root / LISTS / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: (r / LISTS / "validation.csv").unlink(), "validation.csv: there is no such file"),
        (lambda r: shutil.rmtree(r / PHOTOGRAPHS), "Manually_Annotated_Images: there is no such folder"),
        (lambda r: (r / LISTS / "training.csv").write_bytes(b"\xff\xfe,"), "training.csv: not readable as CSV"),
        (change("face_x", "left"), "training.csv: no column face_x; its first line must name"),
        (
            change(",1;2;3,0,", ",1;2;3,11,"),
            r"line 2 \(1/train1.png\) has \['11'\] as its expression, exp",
        ),
        (change(",1;2;3,0,", ",1;2;3,happy,"), r"line 2 .* has \['happy'\] as its expression"),
        (change("1/train1.png,10", "1/train1.png,NULL"), r"line 2 .* has \['NULL'.*\] as its face_x, expected pixels"),
        (change("20,48,48", "20,0,48"), r"line 2 .* has \['0'.*\] as its face_width"),
        (change("20,48,48", "20,1e400,48"), r"line 2 .* as its face_width"),
        (change("1/train1.png", "../train1.png"), "is no path under this folder; mend the list"),
        (change("1/train1.png", "/etc/passwd"), "is no path under this folder; mend the list"),
        (change("1/train1.png", "C:/train1.png"), "is no path under this folder; mend the list"),
        (change("1/train1.png", ""), "the entry '' is no path under this folder"),
        (change("1/train1.png", "2/train2.png"), "name 2/train2.png twice"),
        (change("1/test1.png", "2/train2.png", "validation.csv"), "name 2/train2.png twice"),
        (
            lambda r: (r / PHOTOGRAPHS / "1/train1.png").unlink(),
            "train1.png: training.csv or validation.csv lists",
        ),
        (
            lambda r: shutil.copy(r / PHOTOGRAPHS / "1/train1.png", r / PHOTOGRAPHS / "1/x.png"),
            "1/x.png: .* has no label",
        ),
    ],
)
def test_lists_that_are_wrong(lists, spoil, words):
    spoil(lists)
    with pytest.raises(UserError, match=words) as caught:
        read(lists)
    assert "\n" not in str(caught.value)


def test_a_box_outside_the_picture_is_named_and_one_that_sticks_out_is_cut(lists, tmp_path):
    change("1/train1.png,10,20,48,48", "1/train1.png,60,-5,80,80")(lists)
    assert len(store.open_store(read(lists), tmp_path / "cache")) == 24
    change("1/train1.png,60,", "1/train1.png,600,")(lists)
    with pytest.raises(UserError, match="train1.png: its face box lies outside the picture of 100 x 120"):
        store.open_store(read(lists), tmp_path / "cache")
