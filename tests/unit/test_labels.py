"""Expression names: spelling, order, and what stays known."""

import pytest

from fer_openset import labels
from fer_openset.errors import UserError


def test_raf_db_order_is_that_of_its_files():
    assert labels.BASIC == ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    assert len(labels.COMPOUND) == 11 and len(set(labels.EXPRESSIONS)) == 19


def test_ferplus_columns_are_those_of_its_file():
    assert labels.FERPLUS_COLUMNS == (
        "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("surprise", ("surprise",)),
        ("fear+surprise", ("surprise", "fear")),
        ("fear + surprise+fear", ("surprise", "fear")),
        (["neutral", "anger"], ("anger", "neutral")),
        (("fear",), ("fear",)),
        ("surprise+", ("surprise",)),
    ],
)
def test_parse_open_knows_one_spelling(given, expected):
    chosen = labels.parse_open(given, labels.BASIC)
    assert chosen == expected
    assert labels.parse_open(labels.join_open(chosen), labels.BASIC) == chosen


def test_known_classes_keep_their_order():
    assert labels.known_classes(labels.BASIC, ("disgust", "surprise")) == (
        "fear", "happiness", "sadness", "anger", "neutral",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("suprise", ["suprise", "did you mean 'surprise'?", "neutral"]),
        ("zzz", ["unknown expression 'zzz'. Choose from: surprise, fear"]),
        ("", ["open_classes is empty", "surprise"]),
        ([], ["open_classes is empty"]),
        ("+".join(labels.BASIC), ["leaves 0 of 7 classes known", "at least two"]),
        ("+".join(labels.BASIC[:-1]), ["leaves 1 of 7 classes known"]),
        ("Surprise", ["did you mean 'surprise'?"]),
        ([3], ["unknown expression 3"]),
        ("contempt", ["unknown expression 'contempt'"]),  # not a class of this dataset
    ],
)
def test_parse_open_says_what_is_wrong(given, words):
    with pytest.raises(UserError) as caught:
        labels.parse_open(given, labels.BASIC)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_goes_by_its_own_name():
    classes = (*labels.BASIC, *labels.COMPOUND)
    chosen = labels.parse_open("compound", classes)
    assert chosen == labels.COMPOUND and labels.join_open(chosen) == "compound"
    more = labels.parse_open(["compound", "fear"], classes)
    assert more == ("fear", *labels.COMPOUND) and labels.join_open(more) == "fear+compound"
    assert labels.parse_open(labels.join_open(more), classes) == more
    some = labels.parse_open("sadly_angry+happily_surprised", classes)
    assert labels.join_open(some) == "happily_surprised+sadly_angry"


@pytest.mark.parametrize(
    ("given", "classes", "words"),
    [
        ("compound", labels.BASIC, "unknown expression 'compound'. Choose from: surprise"),
        ("compond", (*labels.BASIC, *labels.COMPOUND), "did you mean 'compound'?"),
        ("compound", labels.COMPOUND, "open_classes compound leaves 0 of 11 classes known"),
        ("plane", labels.OBJECTS, "unknown class 'plane'; did you mean 'airplane'?"),
    ],
)
def test_what_a_dataset_lacks_is_named_in_its_own_words(given, classes, words):
    with pytest.raises(UserError) as caught:
        labels.parse_open(given, classes)
    assert words in str(caught.value)
