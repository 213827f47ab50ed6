"""A hundred photos of every kind: a row each, a sheet, and no photo that stops the others. Networks are tiny."""

import weakref

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import CPU, small_net

from fer_openset import OpenSetDetector, __main__, detector
from fer_openset import score_photos as module
from fer_openset.backbones import new_net
from fer_openset.contact_sheet import contact_sheet
from fer_openset.datasets.example_photos import make_photos
from fer_openset.detector import Use
from fer_openset.face_crop import photo_settings
from fer_openset.figures import OPEN
from fer_openset.score_photos import COLUMNS, score_photos, summary

CLASSES = ("happiness", "sadness", "anger")
RUN = {"dataset": "tiny", "preset": "smoke", "open_classes": "fear", "seed": 0, "commit": "none"}
SMALL = ((160, 120), (120, 160), (200, 150))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(detector, "new_net", small_net)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    kinds = make_photos(folder, 100, sizes=SMALL)
    (folder / "notes.txt").write_text("not a photo")
    return folder, kinds


def made_detector(channels=1, threshold=-1.05):
    use = Use(CLASSES, "energy", {"temperature": 1.0}, threshold, "known_95", 48, channels, 32, False, "small", RUN)
    net = small_net("small", 3, 0, zero_head=False) if channels == 1 else new_net("resnet18", 3, 0, zero_head=False)
    return OpenSetDetector(use, net, {}, CPU)


@pytest.fixture
def saved(tmp_path):
    return str(made_detector().save(tmp_path / "detector.safetensors"))


def test_a_hundred_photos_from_the_command_line(album, saved, tmp_path, capsys):
    folder, kinds = album
    assert len(kinds) == 100 and set(kinds.values()) == set("grey colour rgba sixteen empty corrupt several".split())
    assert __main__.main(["score", saved, str(folder), "--csv", str(tmp_path / "out.csv")]) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table.columns) == list(COLUMNS) and len(table) == 100
    kind = table["photo"].map(lambda photo: kinds[photo.rpartition("/")[2]])
    scored = table["open_score"].notna()
    assert table["status"][kind == "corrupt"].str.startswith("unreadable: not readable as an image (").all()
    assert (table["status"][kind == "empty"] == "no face").all()
    one = table[kind.isin(["grey", "colour", "rgba", "sixteen"])]
    assert (one["status"] == "ok").mean() > 0.85 and (table["status"] == "several faces: largest taken").sum() >= 3
    assert (scored == table["status"].isin(["ok", "several faces: largest taken"])).all()
    assert table["expression"][scored].isin(CLASSES).all() and table["expression"][~scored].isna().all()
    assert (table["is_open"][scored].astype(str) == (table["open_score"][scored] >= -1.05).astype(str)).all()
    assert (table["right"] - table["left"])[scored].gt(30).all() and table["left"][~scored].isna().all()
    said = capsys.readouterr().out
    assert said.startswith("100 photos: ") and "4 unreadable" in said and "1 other files left out" in said
    with Image.open(tmp_path / "out.png") as sheet:
        assert np.asarray(sheet).std() > 20 and sheet.height > 800


def test_the_sheet_puts_the_most_open_first():
    faces = np.full((3, 1, 8, 8), 90, np.uint8)
    sheet = contact_sheet(
        faces, np.zeros((3, 8, 8)), [("a.png", "x", True), ("b" * 99, "y", False), ("ä☃", "z", False)]
    )
    red = [int(OPEN[i : i + 2], 16) for i in (1, 3, 5)]
    frame = (np.asarray(sheet) == red).all(2)
    frame[:20] = False  # the legend
    assert frame.sum() > 300 and frame[:, sheet.width // 3 :].sum() == 0
    grey = (np.asarray(sheet) == 90).all(2)
    assert grey.sum() > 3 * 70 * 70  # each face once as it is; the overlay darkens it


def test_the_sheet_shows_the_200_most_open_each_with_its_own_face(tmp_path, monkeypatch):
    scores = np.random.default_rng(0).permutation(np.arange(230.0))
    table = pd.DataFrame({"photo": [f"{s:.0f}.png" for s in scores], "open_score": scores, "expression": "anger"})
    table["is_open"] = scores > 100
    faces = np.broadcast_to(scores.astype(np.uint8)[:, None, None, None], (230, 1, 48, 48)).copy()
    table = table.astype({"open_score": "Float64", "is_open": "boolean"})
    blank = pd.DataFrame({"photo": "none.png", "open_score": pd.NA, "is_open": pd.NA}, index=[0]).astype(
        {"open_score": "Float64", "is_open": "boolean"}
    )
    table = pd.concat([table[:50], blank, table[50:]], ignore_index=True)  # a photo without a face has none in `faces`
    drawn = []

    def spy(faces, maps, titles):
        drawn.append((faces, maps, titles))
        return contact_sheet(faces[:6], maps[:6], titles[:6])

    monkeypatch.setattr(module, "contact_sheet", spy)
    assert module.write_sheet(made_detector(), table, faces, tmp_path / "s.png") == 200
    (faces, maps, titles), expected = drawn[0], np.arange(229, 29, -1)
    assert faces[:, 0, 0, 0].tolist() == expected.tolist() and len(maps) == 200
    assert titles == [(f"{s}.png", f"anger {s:.2f}", s > 100) for s in expected]
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.format == "PNG"


def test_a_photo_in_memory_is_dropped_when_its_face_is_made(tmp_path, monkeypatch):
    for i in range(6):
        Image.new("L", (400, 400), 40 * i).save(tmp_path / f"{i}.png")
    seen, most = [], []
    real = module.read_photo

    def spy(path, longest):
        most.append(sum(image() is not None for image in seen))
        image, side = real(path, longest)
        seen.append(weakref.ref(image))
        return image, side

    monkeypatch.setattr(module, "read_photo", spy)
    table, faces, _ = score_photos(made_detector(), [tmp_path], crop=False)
    assert len(faces) == len(table) == 6 and max(most) <= 1 and table["right"].tolist() == [400] * 6


def test_neither_rows_nor_sheet_are_written_over_a_photo(saved, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("L", (48, 48), 90).save(photos / "me.png")
    before = (photos / "me.png").read_bytes()
    for given in (
        [photos / "me.png", "--csv", photos / "me.csv"],
        [photos, "--csv", photos / "me.csv"],
        [photos, "--csv", photos / "me.png", "--sheet", photos / "sheet.png"],
        [photos, "--csv", photos / "sub" / ".." / "me.csv"],
    ):
        assert __main__.main(["score", saved, "--no-crop", *map(str, given)]) == 2
        said = capsys.readouterr().err.strip()
        assert "me.png: " in said and "would be written over one of the photos" in said and "\n" not in said
        assert (photos / "me.png").read_bytes() == before and not (photos / "me.csv").exists()


def test_our_own_sheet_among_the_photos_is_left_out_and_replaced(saved, tmp_path, capsys):
    Image.new("L", (48, 48), 90).save(tmp_path / "me.png")
    for first in (True, False):
        photos = [str(tmp_path)] if first else [str(tmp_path), str(tmp_path / "out.png")]
        for name in ("out.csv", "again.csv"):
            assert __main__.main(["score", saved, *photos, "--no-crop", "--csv", str(tmp_path / name)]) == 0
            assert pd.read_csv(tmp_path / name)["photo"].tolist() == [str(tmp_path / "me.png")]


def test_a_sheet_of_earlier_photos_does_not_stay_beside_rows_without_a_face(saved, tmp_path):
    Image.new("L", (48, 48), 90).save(tmp_path / "wall.png")
    for option, there in (["--no-crop"], True), ([], False):
        score = ["score", saved, str(tmp_path / "wall.png"), *option, "--csv", str(tmp_path / "out.csv")]
        assert __main__.main(score) == 0
        assert (tmp_path / "out.png").exists() == there
    assert pd.read_csv(tmp_path / "out.csv")["status"].tolist() == ["no face"]
    Image.new("L", (48, 48), 90).save(tmp_path / "out.png")  # a picture of somebody's own
    assert __main__.main(["score", saved, str(tmp_path / "wall.png"), "--csv", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.png").exists()


@pytest.mark.parametrize("option", ["--csv", "--sheet"])
def test_a_place_that_cannot_be_written_is_said_before_any_photo_is_scored(
    saved, tmp_path, capsys, monkeypatch, option
):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (48, 48), 90).save(tmp_path / "me.png")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(module, "score_photos", lambda *_, **__: pytest.fail("photos were scored"))
    for wrong in ("folder", "", ".", "me.png/out.csv", "x" * 300):
        assert (
            __main__.main(["score", saved, "me.png", option, wrong, *(["--csv", "o.csv"] * (option != "--csv"))]) == 2
        )
        said = capsys.readouterr().err.strip()
        assert said.endswith(".") and "\n" not in said, said


def test_the_largest_face_and_its_box_in_the_photos_own_pixels(tmp_path):
    pixels = np.zeros((1500, 2000), np.uint8)
    pixels[500:1000, 1000:1500] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = []

    def detect(grey):
        seen.append(grey.shape)
        return np.array([[0, 0, 10, 10], [640, 320, 320, 320]])

    settings = photo_settings({"margin": 0.0, "longest_side": 1280})
    table, faces, _ = score_photos(made_detector(), [tmp_path], detect=detect, settings=settings)
    assert seen == [(960, 1280)]
    row = table.iloc[0]
    assert row["status"] == "several faces: largest taken" and row["faces"] == 2
    assert row[["left", "top", "right", "bottom"]].tolist() == [1000, 500, 1500, 1000]
    assert (faces[0, 0, 2:-2, 2:-2] == 200).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_cropped_faces_are_taken_as_they_are(album, channels):
    folder, kinds = album

    def never(grey):
        raise AssertionError("a face was looked for")

    found = made_detector(channels)
    table, faces, _ = score_photos(found, [folder], crop=False, detect=never)
    assert table["status"].eq("ok").sum() == 96 and len(faces) == 96 and faces.shape[1:] == (channels, 48, 48)
    photo = table.index[table["photo"].map(lambda p: kinds[p.rpartition("/")[2]] == "grey")][0]
    with Image.open(table["photo"][photo]) as image:
        alone = found.predict([image.convert("L")])
        assert table["bottom"][photo] == image.height
    assert table["open_score"][photo] == pytest.approx(alone["open_score"][0], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "ALBUM"], "nowhere: neither a saved detector nor the folder of a run; there is no finished run"),
        (["SAVED", "nowhere"], "nowhere: there is no such file or folder"),
        (["SAVED", "ALBUM", "--method", "msp"], "a saved detector keeps its method"),
        (["SAVED", "ALBUM", "--csv", "PLACE/x.png"], "rows and contact sheet would be one file"),
        (["SAVED", "ALBUM", "--margin", "9"], "margin = 9.0: input should be less than or equal to 3"),
        (["ALBUM/notes.txt", "ALBUM"], "no readable safetensors file"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(album, saved, tmp_path, capsys, workplace, arguments, words):
    names = {"SAVED": saved, "ALBUM": str(album[0]), "PLACE": str(tmp_path)}
    for name, value in names.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    assert __main__.main(["score", *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said


def test_a_detector_without_a_threshold_says_so(tmp_path):
    Image.new("L", (48, 48)).save(tmp_path / "a.png")
    found = made_detector(threshold=float("inf"))
    found = OpenSetDetector.load(found.save(tmp_path / "d.safetensors"), device=CPU)
    table, _, others = score_photos(found, [tmp_path / "a.png"], crop=False)
    assert not table["is_open"].any() and "the rule known_95 has a threshold" in summary(found, table, others)


def test_photos_without_any_face_give_rows_and_no_sheet(saved, tmp_path, capsys):
    Image.new("RGB", (200, 100), "grey").save(tmp_path / "sky.png")
    csv = tmp_path / "out.csv"
    assert __main__.main(["score", saved, str(tmp_path / "sky.png"), "--csv", str(csv)]) == 0
    assert pd.read_csv(csv)["status"].tolist() == ["no face"] and not csv.with_suffix(".png").exists()
    assert "1 photos: 1 no face" in capsys.readouterr().out
