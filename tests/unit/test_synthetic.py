"""Synthetic faces: the same everywhere, unequal and noisy as asked, and moved by the muscles they claim to move."""

import numpy as np
import pytest

from fer_openset.datasets import load_dataset, synthetic
from fer_openset.datasets.action_units import COLUMN, PROTOTYPES, UNITS, shown
from fer_openset.datasets.face_parameters import DAMAGE, IDENTITY, NUISANCE, OCCLUDER
from fer_openset.datasets.faces import draw
from fer_openset.errors import UserError
from fer_openset.labels import BASIC, COMPOUND, CONTEMPT, EXPRESSIONS
from fer_openset.settings import PRESETS, ROOT, load

PARAMS = ROOT / "params" / "datasets" / "synthetic.yaml"
SIZE = 96


def settings(preset="smoke", **overrides):
    return load(synthetic.SyntheticSettings, PARAMS, preset, overrides)


def plain_face(**units):
    """The average person, straight on, with `left` and `right` strengths {unit: strength} or the same on both."""
    face = {name: [(low + high) / 2] for name, (low, high) in IDENTITY.items()}
    face |= {name: [middle] for name, (middle, _) in NUISANCE.items()}
    face |= {name: [0] for name in (*DAMAGE, OCCLUDER)}
    planted = np.zeros((1, len(UNITS), 2), np.float32)
    for side, strengths in enumerate((units.get("left", {}), units.get("right", units.get("left", {})))):
        for unit, strength in strengths.items():
            planted[0, COLUMN[unit], side] = strength
    return draw(face, planted, SIZE, np.zeros((1, SIZE, SIZE), np.float32))[0].astype(int)


def rows(low, high):
    """Rows of the picture between two heights of the face's frame (see face_sheet), for the plain face."""
    scale, shift = NUISANCE["scale"][0], NUISANCE["shift_y"][0]
    low, high = ((v * scale + shift + 1) / 2 * SIZE for v in (low, high))
    return slice(round(low), round(high))


MIDDLE = slice(SIZE * 5 // 12, SIZE * 7 // 12)


def test_a_picture_depends_on_its_seed_and_index_only():
    smoke = settings(n_train=40, n_valid=20, n_test=20)
    whole = synthetic.render(smoke, range(80))
    shuffled = np.random.default_rng(0).permutation(80)
    assert np.array_equal(synthetic.render(smoke, shuffled), whole[shuffled])
    assert all(np.array_equal(synthetic.render(smoke, [i])[0], whole[i]) for i in (0, 41, 79))
    decode = synthetic.read(smoke).decode
    assert np.array_equal(np.concatenate([decode(0, 7), decode(7, 80)]), whole)
    assert len({picture.tobytes() for picture in whole}) == 80
    assert not np.array_equal(synthetic.render(settings(seed=1, n_train=40, n_valid=20, n_test=20), [0])[0], whole[0])


def test_a_longer_split_leaves_the_others_alone():
    short, long = settings(n_train=40), settings(n_train=60)
    tests = [(s.n_train + s.n_valid) + np.arange(5) for s in (short, long)]
    assert np.array_equal(synthetic.render(short, tests[0]), synthetic.render(long, tests[1]))


def test_the_dataset_loads_through_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_OPENSET_CACHE", str(tmp_path))
    dataset = load_dataset("synthetic", "smoke")
    smoke = settings()
    assert dataset.images.shape == (smoke.n_train + smoke.n_valid + smoke.n_test, 1, 32, 32)
    assert dataset.classes == BASIC
    assert np.array_equal(dataset.images[200:210], synthetic.render(smoke, range(200, 210)))
    other = load_dataset("synthetic", "smoke", overrides={"nuisance": 0.0})
    assert not np.array_equal(other.images[0], dataset.images[0])  # another setting, another store


def test_nobody_is_in_two_splits():
    smoke = settings()
    table = synthetic.samples(smoke)
    keys = sorted({(synthetic.SPLITS.index(s), p) for s, p in zip(table["split"], table["person"], strict=True)})
    identities, _, _ = synthetic._people(smoke, keys)
    faces = np.stack(list(identities.values()), axis=1)
    assert len(np.unique(faces, axis=0)) == len(keys)
    assert table.groupby(["split", "person"]).size().max() == smoke.images_per_person


@pytest.mark.parametrize("preset", PRESETS)
def test_every_class_is_in_every_split_and_the_classes_are_unequal(preset):
    table = synthetic.samples(settings(preset))
    counts = table.groupby("split")["label"].value_counts().unstack(0)
    assert set(counts.index) == set(BASIC) and not counts.isna().any(axis=None) and counts.min().min() >= 2
    assert (counts["train"].idxmax(), counts["test"].idxmax()) == ("happiness", "happiness")
    assert counts["train"].max() > 5 * counts["train"].min()
    assert counts["train"].min() > 0.035 * counts["train"].sum()


@pytest.mark.parametrize("classes, names", [
    ("basic+contempt", (*BASIC, CONTEMPT)), ("basic+compound", (*BASIC, *COMPOUND)), ("all", EXPRESSIONS),
])  # fmt: skip
def test_contempt_and_compounds_come_only_when_asked_for(classes, names):
    asked = settings(classes=classes)
    listing = synthetic.read(asked)
    assert listing.classes == names
    assert all(set(part["label"]) == set(names) for _, part in listing.table.groupby("split"))


@pytest.mark.parametrize("rate", [0.0, 0.04, 0.2])
def test_labels_are_wrong_as_often_as_asked_and_towards_look_alikes(rate):
    table = synthetic.samples(settings("paper", label_noise=rate, classes="all"))
    wrong = table[table["label"] != table["expression"]]
    assert abs(len(wrong) / len(table) - rate) <= 4 * np.sqrt(rate / len(table))
    basic = wrong[wrong["expression"].isin(synthetic.MISTAKES)]
    assert all(
        label in synthetic.MISTAKES[shown] for label, shown in zip(basic["label"], basic["expression"], strict=True)
    )
    assert set(wrong["label"]) <= set(BASIC)


def test_every_expression_shows_its_units_and_the_optional_ones_at_their_share():
    assert tuple(PROTOTYPES) != () and set(PROTOTYPES) == set(EXPRESSIONS)
    coins = np.random.default_rng(0).random((4000, len(UNITS)))
    units = shown(["sadness"] * 4000, coins)
    assert (units[:, [COLUMN[4], COLUMN[15]]] == 1).all() and (units[:, COLUMN[12]] == 0).all()
    assert abs(units[:, COLUMN[17], 0].mean() - 0.67) < 0.03 and abs(units[:, COLUMN[11], 1].mean() - 0.26) < 0.03
    contempt = shown(["contempt"] * 4000, coins)[:, COLUMN[12]]
    assert (contempt.sum(axis=1) == 1).all() and 0.45 < contempt[:, 0].mean() < 0.55


def test_without_a_unit_the_face_is_the_same_and_with_any_unit_it_is_not():
    neutral = plain_face()
    assert np.array_equal(neutral, plain_face(left={12: 0.0}))
    pictures = {unit: plain_face(left={unit: 1.0}) for unit in UNITS}
    assert all(np.abs(picture - neutral).max() > 8 for picture in pictures.values())
    assert len({picture.tobytes() for picture in pictures.values()}) == len(UNITS)


def test_a_unit_moves_only_its_own_part_of_the_face():
    neutral = plain_face()
    changed = {unit: np.abs(plain_face(left={unit: 1.0}) - neutral) > 4 for unit in (1, 2, 4, 12, 15, 25)}
    for brow in (1, 2, 4):
        assert changed[brow][rows(-0.8, -0.2)].any() and not changed[brow][rows(0.3, 1.0)].any()
    for mouth in (12, 15, 25):
        assert changed[mouth][rows(0.3, 0.8)].any() and not changed[mouth][rows(-0.8, -0.2)].any()
    one_sided = np.abs(plain_face(left={12: 1.0}, right={12: 0.0}) - neutral) > 4
    assert one_sided[:, : SIZE // 2].sum() > 20 * one_sided[:, SIZE * 7 // 12 :].sum()


def test_units_move_features_the_way_muscles_do():
    def darkest(picture, band, columns):
        """Height of the darkest pixel in a band of the face: the brow, the line of the lips."""
        return np.argmin(picture[rows(*band), columns], axis=0).mean()

    corner, brow = slice(SIZE // 2 + 12, SIZE // 2 + 15), slice(SIZE // 2 + 9, SIZE // 2 + 22)
    lips = [darkest(plain_face(left=u), (0.35, 0.78), corner) for u in ({12: 1.0}, {}, {15: 1.0})]
    assert lips[0] < lips[1] - 2 < lips[2] - 4  # lip corners: pulled up, at rest, pulled down
    brows = [darkest(plain_face(left=u), (-0.64, -0.26), brow) for u in ({1: 1.0, 2: 1.0}, {}, {4: 1.0})]
    assert brows[0] < brows[1] - 2 < brows[2]

    lip_rows = rows(0.4, 1.0)
    closed, dropped, smiling = (plain_face(left=u)[lip_rows, MIDDLE] for u in ({}, {25: 1, 26: 1}, {12: 1, 25: 1}))
    assert (dropped < 60).sum() > 3 * (closed < 60).sum()  # the jaw drops: a dark opening
    assert (smiling > 170).sum() > (closed > 170).sum() + 20  # a smile with parted lips: teeth


def test_people_and_camera_change_a_picture_more_than_expressions_do():
    names, images = synthetic.examples(BASIC, per_class=8, image_size=48, nuisance=settings().nuisance)
    images = images.reshape(len(BASIC), 8, -1).astype(float)
    assert list(names[:9]) == ["surprise"] * 8 + ["fear"]
    between_people = images.std(axis=1).mean()
    between_expressions = images.std(axis=0).mean()
    assert between_people > 2 * between_expressions > 0


@pytest.mark.parametrize("overrides, words", [
    ({"classes": "basics"}, ("classes", "'basic'")),
    ({"image_size": 16}, ("image_size", "24")),
    ({"n_test": 13}, ("n_test", "at least 14")),
    ({"n_train": 30, "classes": "all"}, ("n_train", "at least 38")),
    ({"intensity_low": 0.9, "intensity_high": 0.5}, ("intensity_high", "0.9")),
    ({"label_noise": 0.8}, ("label_noise", "0.5")),
    ({"image_sise": 48}, ("image_sise", "image_size")),
])  # fmt: skip
def test_bad_settings_are_one_clear_sentence(overrides, words):
    with pytest.raises(UserError) as error:
        settings(**overrides)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_examples_refuse_an_unknown_expression():
    with pytest.raises(UserError, match="happiness"):
        synthetic.examples(["hapiness"])
