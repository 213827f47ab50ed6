"""FERPlus in both its forms: the same table and pixels, and one clear sentence for whatever is wrong with the files."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fer_openset.datasets import ferplus, load_dataset, store
from fer_openset.errors import UserError
from fer_openset.labels import BASIC, FERPLUS_COLUMNS
from fer_openset.settings import ROOT, load

PARAMS = ROOT / "params" / "datasets" / "ferplus.yaml"
HEADER = ["Usage", "Image name", *FERPLUS_COLUMNS]
# Usage, name, votes, and the expression that the default settings give (None: not one of the seven).
ROWS = [
    ("Training", "fer0000000.png", (6, 4, 0, 0, 0, 0, 0, 0, 0, 0), "neutral"),
    ("Training", "", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10), None),
    ("Training", "fer0000001.png", (0, 0, 0, 0, 5, 5, 0, 0, 0, 0), "anger"),
    ("Training", "fer0000009.png", (0, 9, 1, 0, 0, 0, 0, 0, 0, 0), "happiness"),
    ("Training", "fer0000002.png", (0, 0, 0, 0, 0, 0, 1, 9, 0, 0), None),  # contempt
    ("PublicTest", "fer0000003.png", (0, 0, 9, 0, 0, 0, 0, 0, 0, 0), "surprise"),
    ("PrivateTest", "fer0000004.png", (1, 0, 0, 4, 1, 1, 1, 1, 1, 0), "sadness"),
    ("PrivateTest", "fer0000005.png", (0, 0, 0, 0, 0, 0, 0, 0, 10, 0), None),  # unknown
    ("PrivateTest", "fer0000006.png", (0, 0, 0, 0, 0, 0, 10, 0, 0, 0), "fear"),
    ("Training", "fer0000009.png", (0, 9, 1, 0, 0, 0, 0, 0, 0, 0), "happiness"),  # the same name a second time
]
EXPECTED = {
    "fer0000000": ("neutral", "train"),
    "fer0000001": ("anger", "train"),
    "fer0000009": ("happiness", "train"),
    "fer0000009_2": ("happiness", "train"),
    "fer0000003": ("surprise", "valid"),
    "fer0000004": ("sadness", "test"),
    "fer0000006": ("fear", "test"),
}


def face(position):
    return np.random.default_rng(position).integers(0, 256, (48, 48), dtype=np.uint8)


def write_votes(root, rows=ROWS, header=HEADER):
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "fer2013new.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([header, *[(usage, name, *votes) for usage, name, votes, _ in rows]])


def write_pngs(base):
    """As the official script does: one folder a Usage, label.csv in it, later rows over earlier ones."""
    for folder in ferplus.FOLDERS.values():
        (base / folder).mkdir(parents=True)
        (base / folder / "label.csv").write_text('fer0000000.png,"(0, 0, 48, 48)",6,4,0,0,0,0,0,0,0,0\n')
    for position, (usage, name, _, _) in enumerate(ROWS):
        if name:
            Image.fromarray(face(position)).save(base / ferplus.FOLDERS[usage] / name)


def write_pixels(root, rows=ROWS, end="\n"):
    lines = ["emotion,pixels,Usage"]
    lines += [f"0,{' '.join(map(str, face(i).ravel()))},{row[0]}" for i, row in enumerate(rows)]
    (root / "fer2013.csv").write_bytes(end.join([*lines, ""]).encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole tree of the first form, made once; tests that spoil it take a copy."""
    root = tmp_path_factory.mktemp("made") / "ferplus"
    write_votes(root)
    write_pngs(root)
    return root


@pytest.fixture
def tree(made, tmp_path):
    return shutil.copytree(made, tmp_path / "ferplus")


@pytest.fixture
def two_csv(tmp_path):
    write_votes(tmp_path / "csv")
    write_pixels(tmp_path / "csv")
    return tmp_path / "csv"


def read(root, **overrides):
    return ferplus.read(load(ferplus.FerplusSettings, PARAMS, "paper", overrides), root)


def open_images(root, cache, **overrides):
    listing = read(root, **overrides)
    return listing, store.open_store(listing, cache)


def said(root, cache, **overrides):
    """The one sentence that a user sees for this folder."""
    with pytest.raises(UserError) as error:
        open_images(root, cache, **overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_majority_label_split_and_pixels(tree, tmp_path):
    listing, images = open_images(tree, tmp_path / "cache")
    assert listing.classes == BASIC
    assert {i: (row.label, row.split) for i, row in listing.table.iterrows()} == EXPECTED
    assert list(listing.table.index) == list(EXPECTED)
    assert images.shape == (7, 1, 48, 48)
    for sample_id, position in {"fer0000000": 0, "fer0000009": 9, "fer0000009_2": 9, "fer0000006": 8}.items():
        assert np.array_equal(images[listing.table.index.get_loc(sample_id), 0], face(position))


def test_both_forms_agree(tree, two_csv, tmp_path):
    listing, images = open_images(tree, tmp_path / "cache")
    other, same_images = open_images(two_csv, tmp_path / "cache")
    assert listing.table.equals(other.table) and listing.classes == other.classes
    assert np.array_equal(images, same_images)
    small, small_images = open_images(tree, tmp_path / "cache", image_size=20)
    assert np.array_equal(small_images, open_images(two_csv, tmp_path / "cache", image_size=20)[1])
    assert small_images.shape == (7, 1, 20, 20) and small.table.equals(listing.table)


def test_other_spellings_of_fer2013_csv_read_the_same(two_csv, tmp_path):
    images = open_images(two_csv, tmp_path / "cache")[1]
    write_pixels(two_csv, end="\r\n")
    lines = (two_csv / "fer2013.csv").read_text().splitlines()
    fields = [line.split(",") for line in lines]
    lines = ["emotion, Usage, pixels"] + [f'{emotion},{usage},"{pixels}"' for emotion, pixels, usage in fields[1:]]
    (two_csv / "fer2013.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert np.array_equal(images, open_images(two_csv, tmp_path / "cache2")[1])


def test_a_clone_of_ferplus_keeps_its_folders_in_data(tree, two_csv, tmp_path):
    images = open_images(tree, tmp_path / "cache")[1]
    for folder in ferplus.FOLDERS.values():
        (two_csv / "data" / folder).mkdir(parents=True)
        (two_csv / "data" / folder / "label.csv").write_text("")
    assert np.array_equal(images, open_images(two_csv, tmp_path / "cache2")[1])  # no PNG yet: fer2013.csv
    shutil.rmtree(two_csv / "data")
    write_pngs(two_csv / "data")
    (two_csv / "fer2013.csv").unlink()
    assert np.array_equal(images, open_images(two_csv, tmp_path / "cache2")[1])


def test_settings_change_who_is_in(made):
    assert read(made, contempt=True).table.loc["fer0000002", "label"] == "contempt"
    assert read(made, contempt=True).classes == (*BASIC, "contempt")
    assert "fer0000001" not in read(made, ties="drop").table.index
    assert set(EXPECTED) - set(read(made, min_vote_share=0.5).table.index) == {"fer0000004"}
    assert set(read(made, min_vote_share=1.0).table.index) == {"fer0000003", "fer0000006"}


@pytest.mark.parametrize(
    ("cast", "expected"),
    [
        ({"happiness": 5, "surprise": 5}, True),
        ({"happiness": 5, "surprise": 3, "NF": 2}, True),
        ({"happiness": 3, "surprise": 3, "unknown": 4}, True),  # the winner is no expression
        ({"happiness": 6, "surprise": 4}, False),  # more than half
        ({"happiness": 5, "surprise": 2, "fear": 2, "anger": 1}, False),  # no second one
        ({"happiness": 5, "unknown": 5}, False),
        ({"happiness": 5, "contempt": 5}, False),  # contempt is none of the seven
        ({"fear": 4, "sadness": 3, "anger": 3}, True),
        ({"fear": 4, "sadness": 2, "anger": 2, "NF": 1}, False),  # 2 of 9
        ({"fear": 4, "sadness": 3, "NF": 2}, True),  # 3 of 9
        ({"neutral": 2, "sadness": 1, "fear": 1}, False),  # 1 of 4
    ],
)
def test_ambiguous_faces_are_those_in_which_the_crowd_saw_two_expressions(cast, expected):
    votes = np.array([[cast.get(column, 0) for column in FERPLUS_COLUMNS]])
    columns = [FERPLUS_COLUMNS.index(name) for name in BASIC]
    assert ferplus.ambiguous(votes, columns).tolist() == [expected]


def test_ambiguous_faces_leave_their_classes_only_when_asked_for(made):
    asked = read(made, ambiguous=True)
    assert asked.classes == (*BASIC, "ambiguous") and asked.table.index.equals(read(made).table.index)
    changed = asked.table["label"] != read(made).table["label"]
    assert asked.table[changed].index.tolist() == ["fer0000001"]  # five votes for anger, five for disgust
    both = read(made, ambiguous=True, contempt=True)
    assert both.classes == (*BASIC, "contempt", "ambiguous") and both.table.loc["fer0000002", "label"] == "contempt"


def test_settings_that_leave_nobody(tree, tmp_path):
    write_votes(tree, [(usage, name, (1,) * 10, None) for usage, name, _, _ in ROWS])
    assert "no image is left" in said(tree, tmp_path / "cache", min_vote_share=0.5)


def test_the_key_follows_the_files_and_the_settings(tree):
    key = read(tree).key
    assert read(tree).key == key
    assert read(tree, image_size=24).key != key
    assert read(tree, ties="drop").key != key
    os.utime(tree / "FER2013Train" / "fer0000000.png", (1, 1))
    assert read(tree).key != key


def test_an_image_of_another_size_or_colour_becomes_a_grey_48(tree, tmp_path):
    path = tree / "FER2013Train" / "fer0000000.png"
    Image.new("RGBA", (100, 60), (200, 200, 200, 255)).save(path)
    assert (open_images(tree, tmp_path / "cache")[1][0] == 200).all()


def test_settings_are_checked(made):
    for overrides, words in (
        ({"min_vote_share": 1.5}, "min_vote_share = 1.5"),
        ({"ties": "random"}, "ties = 'random'"),
        ({"contempt": "no"}, "contempt = 'no'"),
        ({"min_share": 0.5}, "did you mean 'min_vote_share'"),
    ):
        with pytest.raises(UserError, match=words):
            read(made, **overrides)


def test_load_dataset_takes_the_folder_of_the_settings_or_the_one_named(tree, workplace):
    with pytest.raises(UserError, match=f"{workplace.data / 'ferplus'}: there is no such folder"):
        load_dataset("ferplus", "paper", root=str(workplace.data / "ferplus"))
    shutil.copytree(tree, workplace.data / "elsewhere")
    named = load_dataset("ferplus", "paper", root="elsewhere")
    tree.rename(workplace.data / "ferplus")
    default = load_dataset("ferplus", "paper", overrides={"ties": "drop"})
    assert named.name == default.name == "ferplus"
    assert set(named.table.index) - set(default.table.index) == {"fer0000001"}
    assert np.array_equal(named.images[named.rows(default.table.index)], default.images)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: shutil.rmtree(r), "ferplus: there is no such folder"),
        (lambda r: (r / "fer2013new.csv").unlink(), "fer2013new.csv: there is no such file"),
        (lambda r: shutil.rmtree(r / "FER2013Valid"), "FER2013Valid: there is no such folder, but .* lists 1 images"),
        (lambda r: [shutil.rmtree(r / f) for f in ferplus.FOLDERS.values()], "neither PNG files in .* nor fer2013.csv"),
        (lambda r: (r / "FER2013Test/fer0000004.png").unlink(), r"FER2013Test/fer0000004\.png: .* missing; restore it"),
        (
            lambda r: write_votes(r, ROWS[:5]),
            r"FER2013Valid/fer0000003\.png: fer2013new.csv has no label for this image",
        ),
        (
            lambda r: write_votes(r, [*ROWS[:8], ROWS[9]]),
            r"FER2013Test/fer0000006\.png: fer2013new.csv has no label for this image",
        ),
        (lambda r: (r / "fer2013new.csv").write_text(""), "fer2013new.csv: not readable as CSV"),
        (lambda r: (r / "fer2013new.csv").write_bytes(b"Usage\n\xff\xfe"), "fer2013new.csv: not readable as CSV"),
        (lambda r: write_votes(r, header=[*HEADER[:5], "sad", *HEADER[6:]]), "no column sadness; its first line must"),
    ],
)
def test_missing_files_and_rows(tree, tmp_path, spoil, words):
    spoil(tree)
    with pytest.raises(UserError, match=words):
        open_images(tree, tmp_path / "cache")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("Training", "fer0000000.png", (0,) * 10, None), "line 2 (fer0000000.png) has no votes, so no majority"),
        (("Training", "fer0000000.png", ("many",) * 10, None), "has ['many'] as votes for neutral, not a whole number"),
        (("Training", "fer0000000.png", ("",) * 10, None), "has [''] as votes for neutral"),
        (("Training", "fer0000000.png", (1, -2, *(0,) * 8), None), "has ['-2'] as votes for happiness"),
        (("Training", "fer0000000.png", (1, 2.5, *(0,) * 8), None), "has ['2.5'] as votes for happiness"),
        (("Training", "fer0000000.png", (1, "inf", *(0,) * 8), None), "has ['inf'] as votes for happiness"),
        (("Training", "fer0000000.png", (1,), None), "as votes for happiness, not a whole number"),
        (("Train", "fer0000000.png", (1,) * 10, None), "line 2 (fer0000000.png) has none of Training, PublicTest"),
        (("Training", "../fer0000000.png", (1,) * 10, None), "must hold a bare file name"),
        (("Training", "/etc/fer0000000.png", (1,) * 10, None), "must hold a bare file name"),
        (("Training", "..", (1,) * 10, None), "must hold a bare file name"),
        (("Training", "a\\b.png", (1,) * 10, None), "must hold a bare file name"),
    ],
)
def test_a_row_of_votes_that_is_wrong(tree, tmp_path, row, words):
    write_votes(tree, [row, *ROWS[1:]])
    message = said(tree, tmp_path / "cache")
    assert message.startswith(f"{tree / 'fer2013new.csv'}: line 2 ") and words in message


def test_two_images_never_share_a_sample_id(tree, tmp_path):
    first, second = ROWS[0], ROWS[1]
    again = (first[0], first[1].removesuffix(".png") + "_2.png", *first[2:])
    write_votes(tree, [first, first, again, second, *ROWS[2:]])
    message = said(tree, tmp_path / "cache")
    assert "line 4 " in message and "would have the sample id of another image" in message


def bomb(path):
    """A PNG whose header promises 20,000 x 20,000 pixels."""
    Image.new("1", (20_000, 20_000)).save(path, compress_level=1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-900]),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no picture"),
        lambda path: Image.fromarray(face(0)).save(path, "PPM"),
        lambda path: Image.new("1", (10_000, 10_000)).save(path),
        bomb,
    ],
)
def test_an_unreadable_png_is_named(tree, tmp_path, spoil):
    path = tree / "FER2013Test" / "fer0000006.png"
    spoil(path)
    message = said(tree, tmp_path / "cache")
    assert message.startswith(f"{path}: not readable as an image (")
    assert not list((tmp_path / "cache").rglob("images.npy"))


def change_line(number, change):
    def spoil(root):
        lines = (root / "fer2013.csv").read_text().split("\n")
        lines[number - 1] = change(lines[number - 1])
        (root / "fer2013.csv").write_text("\n".join(lines))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            change_line(1, lambda line: "emotion,pixel,Usage"),
            "no column pixels; its first line must name pixels, Usage",
        ),
        (lambda r: write_pixels(r, ROWS[:-1]), "9 rows, but fer2013new.csv has 10; the two files pair row by row"),
        (lambda r: write_pixels(r, [*ROWS, ROWS[0]]), "11 rows, but fer2013new.csv has 10"),
        (lambda r: write_votes(r, ROWS[:-1]), "10 rows, but fer2013new.csv has 9"),
        (lambda r: write_pixels(r, ROWS[1:6] + ROWS), "line 6 says PublicTest, but fer2013new.csv says Training there"),
        (change_line(3, lambda line: "0,1 2 3"), "line 3 has 2 fields, expected 3"),
        (change_line(2, lambda line: line.replace(" ", " x", 1)), r"line 2 has no 2304 pixels of 0..255"),
        (change_line(2, lambda line: line.replace(" ", " 1", 1)), r"line 2 has no 2304 pixels of 0..255"),
        (change_line(2, lambda line: "0,1 2 3,Training"), r"line 2 has no 2304 pixels of 0..255"),
    ],
)
def test_a_fer2013_csv_that_is_wrong(two_csv, tmp_path, spoil, words):
    spoil(two_csv)
    with pytest.raises(UserError, match=r"fer2013\.csv: " + words):
        open_images(two_csv, tmp_path / "cache")


@pytest.mark.real_faces
def test_the_real_faces_give_the_papers_counts(ferplus_root, tmp_path, capsys):
    listing, images = open_images(ferplus_root, tmp_path / "cache")
    table = listing.table
    count = table.groupby("split").size()
    assert (count["train"], count["valid"], count["test"]) == (28_224, 3_529, 3_519)
    surprise = table["label"] == "surprise"
    assert (~surprise & (table["split"] == "train")).sum() == 24_662
    assert (~surprise & (table["split"] == "test")).sum() == 3_075
    assert (surprise & (table["split"] == "test")).sum() == 444
    assert (surprise & (table["split"] == "train")).sum() == 3_562
    assert list(table["split"]) == ["train"] * 28_224 + ["valid"] * 3_529 + ["test"] * 3_519
    assert sum(i.endswith("_2") for i in table.index) == 3  # of the four names that stand twice, one is NF there

    assert images.shape == (35_272, 1, 48, 48)
    for sample_id in ("fer0000000", "fer0028638", table.index[-1]):
        row = table.index.get_loc(sample_id)
        path = (
            ferplus_root
            / ferplus.FOLDERS[dict(zip(store.SPLITS, ferplus.FOLDERS, strict=True))[table["split"].iloc[row]]]
        )
        with Image.open(path / f"{sample_id}.png") as image:
            assert np.array_equal(images[row, 0], np.asarray(image))
    shutil.rmtree(tmp_path / "cache")  # 78 MiB
