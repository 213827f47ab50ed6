"""A hundred photos of every kind: a row each, a sheet, and no photo that stops the others. Networks are tiny."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import CPU, small_net

from fer_openset import OpenSetDetector, __main__, detector
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
