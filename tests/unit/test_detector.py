"""A finished run as one object: what it says of new images, where its threshold comes from, that a file keeps it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import trees
from PIL import Image
from tiny import CPU, small_net, tiny_dataset, tiny_images

import fer_openset
from fer_openset import OpenSetDetector, closed_set, metrics, pipeline, protocol, runs
from fer_openset import detector as detectors
from fer_openset.checkpoint import load_tensors, save_tensors
from fer_openset.datasets import Dataset, list_dataset, load_dataset
from fer_openset.datasets.example_photos import make_labelled
from fer_openset.detector import SCORES
from fer_openset.detector_run import face_shape, threshold_keeping
from fer_openset.errors import UserError
from fer_openset.labels import BASIC
from fer_openset.methods import pool_novelty
from fer_openset.settings import DetectionParameters

GIVEN = {"dataset": "tiny", "open_classes": "fear", "method": "pool_novelty"}
LONGER = {"epochs": 8, "average_from": 6}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A results folder with one run of f_close and pool_novelty on tiny images; networks are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_OPENSET_RESULTS", str(tmp_path_factory.mktemp("results")))
        dataset = tiny_dataset({"train": 12, "valid": 8, "test": 8})
        patch.setattr(pipeline, "load_dataset", lambda *_, **__: dataset)
        patch.setattr(protocol, "load_dataset", lambda *_, **__: dataset)
        patch.setattr(pipeline, "pick_device", lambda: CPU)
        for module in (closed_set, pool_novelty, detectors):
            patch.setattr(module, "new_net", small_net)
        patch.setattr(pipeline, "method_settings", lambda method, preset, _: real(method, preset, LONGER))
        step = pipeline.open_step(DetectionParameters.build(GIVEN, "p"))
        detection = pipeline.detect(step, pipeline.need_tasks(step))["pool_novelty"]
        result, share = pipeline.evaluate(step, detection), pipeline.open_share(step, detection)
        pipeline.save_scores(step, detection, result, share)
        yield step


real = pipeline.method_settings


def load(step, **options):
    return OpenSetDetector.load(step.folder.root, device=CPU, **options)


def new_images(n=8, seed=5):
    labels = [name for name in BASIC for _ in range(n)]
    return tiny_images(labels, BASIC, seed=seed), np.array(labels)


def test_new_images_of_an_open_class_score_higher(place):
    images, labels = new_images()
    table = load(place).predict(images)
    assert list(table.columns) == ["expression", "open_score", "is_open"]
    assert set(table["expression"]) <= set(BASIC) - {"fear"}
    assert metrics.auroc(table["open_score"].to_numpy(), labels == "fear") > 0.9
    assert table["is_open"].dtype == bool


def test_the_expression_is_that_of_f_close(place):
    images, _ = new_images()
    found = load(place, method="msp")
    net = found.f_close
    data = Dataset("x", BASIC, pd.DataFrame(index=range(len(images))), images)
    logits = closed_set.predict(net, data, np.arange(len(images)), found.use.image_size, 512, CPU)
    assert found.predict(images)["expression"].tolist() == [found.use.classes[i] for i in logits.argmax(1)]
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    expected = -(softmax / softmax.sum(1, keepdims=True)).max(1)
    assert np.allclose(found.predict(images)["open_score"], expected, atol=1e-5)


def test_the_score_is_the_mean_log_odds_of_the_runs_networks(place):
    found = load(place)
    assert list(found.novelty) == ["r0f0", "r0f1"] and found.use.rule == "open_share"
    images, _ = new_images(2)
    alone = [
        OpenSetDetector(found.use, found.f_close, {k: net}, CPU).predict(images)["open_score"]
        for k, net in found.novelty.items()
    ]
    assert np.allclose(found.predict(images)["open_score"], (alone[0] + alone[1]) / 2)
    tensors, _ = load_tensors(place.folder.method("pool_novelty") / "checkpoint.safetensors")
    assert np.array_equal(found.novelty["r0f1"].head.weight.detach(), tensors["r0f1/net/head.weight"])


@pytest.mark.parametrize("method", detectors.SCORES)
def test_a_threshold_on_known_validation_images_keeps_95_percent(place, method):
    found = load(place, method=method, rule="known_95")
    valid = place.protocol.valid.index
    table = found.predict(place.dataset.images[place.dataset.rows(valid)], valid)
    assert len(table) == 48 and table.index.equals(valid)
    assert table["is_open"].sum() == 2  # 46 of 48 are the first share of at least 95 %
    assert found.use.rule == "known_95" and found.use.method == method


def test_the_open_share_threshold_is_the_runs_own(place):
    record = runs.load_record(place.folder.method("pool_novelty"))
    assert load(place).use.threshold == record["open_share"]["threshold"]


def test_threshold_keeping():
    assert 95 <= threshold_keeping(np.arange(1, 101)) < 95.001 and threshold_keeping([3.0]) > 3
    assert (np.arange(1, 101) < threshold_keeping(np.arange(1, 101))).sum() == 95


@pytest.mark.parametrize("method", ["pool_novelty", "energy"])
def test_one_file_says_the_same(place, tmp_path, method):
    found = load(place, method=method)
    path = found.save(tmp_path / "detector.safetensors")
    assert list(tmp_path.iterdir()) == [path]
    again = OpenSetDetector.load(path, device=CPU)
    assert again.use == found.use
    images, _ = new_images(2)
    pd.testing.assert_frame_equal(again.predict(images), found.predict(images))
    assert np.array_equal(again.attention(images), found.attention(images))


def test_pictures_of_any_size_and_kind(place):
    found = load(place, method="energy")
    images, _ = new_images(1)
    grey = [image[0] for image in images]
    same = found.predict(images)
    assert found.predict(grey).equals(same)
    assert found.predict([Image.fromarray(g) for g in grey]).equals(same)
    assert found.predict([np.stack([g] * 3, 2) for g in grey]).equals(same)
    assert found.predict(np.repeat(images, 3, axis=1)).equals(same)
    larger = [np.asarray(Image.fromarray(g).resize((96, 96), 0)) for g in grey]
    assert np.abs(found.faces(larger).astype(int) - images).max() < 60 and len(found.predict(larger)) == 7
    assert found.predict([]).empty
    for wrong in ([np.zeros((4, 4), float)], [np.zeros((4, 4, 2), np.uint8)], [np.zeros((0, 4), np.uint8)]):
        with pytest.raises(UserError, match="image 0 is .* expected a picture, or uint8"):
            found.predict(wrong)


@pytest.mark.parametrize("method", SCORES)
def test_equal_ids_are_images_of_their_own(place, method):
    found, (images, _) = load(place, method=method, rule="known_95"), new_images(1)
    expected = found.predict(images)
    table = found.predict(images, ids=["a"] * len(images))
    assert (table.index == "a").all() and table["open_score"].tolist() == expected["open_score"].tolist()


def test_a_single_picture_or_wrong_ids_are_one_sentence(place):
    found = load(place, method="energy")
    images, _ = new_images(1)
    single = np.stack([images[0, 0]] * 3, 2)
    for wrong in (single, images[0, 0], Image.fromarray(single), None, 5, torch.from_numpy(single)):
        with pytest.raises(UserError, match=r"^images is .*; expected a list of pictures \(\[image\] for a single one"):
            found.predict(wrong)
    assert len(found.predict([single])) == 1 and len(found.predict(iter([single, single]))) == 2
    assert len(found.predict(np.stack([single, single]))) == 2
    with pytest.raises(UserError, match="ids has 6 entries for 7 images"):
        found.predict(images, ids=list("abcdef"))
    with pytest.raises(UserError, match="ids is of type int; expected a list of 7"):
        found.predict(images, ids=7)
    assert found.predict(images, pd.Index(list("abcdefg"), name="photo")).index.name == "photo"


def test_deep_transparent_and_odd_pictures(place):
    found = load(place, method="energy")
    deep = Image.fromarray(np.full((32, 32), 30_000, np.uint16))
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert found.faces([deep, clear])[:, 0, 0, 0].tolist() == [117, 255]
    for wrong in (Image.new("F", (8, 8)), [[1], [1, 2]]):
        with pytest.raises(UserError, match="image 0 is not readable as a picture"):
            found.faces([wrong])


def test_a_threshold_of_the_run_needs_no_dataset(place, tmp_path, monkeypatch):
    """The run's record, but for the tiny dataset's name: a folder of one's own, which has moved."""
    expected = load(place)
    root = shutil.copytree(place.folder.root, tmp_path / "run")
    settings = tmp_path / "gone_faces.yaml"
    settings.write_text("reader: folder\nroot: /nowhere\nimage_size: 32\n")
    path = root / "closed_set" / "run.json"
    record = json.loads(path.read_text()) | {"source": {"dataset": str(settings), "data_root": ""}}
    path.write_text(json.dumps(record))
    monkeypatch.setattr(protocol, "load_dataset", load_dataset)
    found = OpenSetDetector.load(root, device=CPU)
    assert found.use == expected.use
    with pytest.raises(UserError, match="there is no such folder"):
        OpenSetDetector.load(root, rule="known_95", device=CPU)


def test_a_threshold_from_other_images_than_f_closes_is_refused(place, monkeypatch):
    other = tiny_dataset({"train": 12, "valid": 8, "test": 8}, seed=3)
    monkeypatch.setattr(protocol, "load_dataset", lambda *_, **__: other)
    with pytest.raises(UserError, match="no longer those that f_close was trained on"):
        load(place, rule="known_95")
    fewer = tiny_dataset({"train": 12, "valid": 8, "test": 8}, BASIC[:5])
    monkeypatch.setattr(protocol, "load_dataset", lambda *_, **__: fewer)
    with pytest.raises(UserError, match="but the known classes are"):
        load(place, rule="known_95")


@pytest.mark.parametrize("name", ["synthetic", "ferplus", "rafdb", "rafdb_compound", "affectnet", "folder"])
def test_the_shape_of_a_run_s_faces_is_that_of_its_dataset(tmp_path, name):
    if name == "folder":
        make_labelled(tmp_path, {"a": ("anger", 6), "b": ("fear", 6)}, sizes=(40,))
        (tmp_path / "mine.yaml").write_text(f"reader: folder\nroot: {tmp_path}\ncolour: true\n")
        root, name = "", str(tmp_path / "mine.yaml")
    else:
        writer = getattr(trees, {"rafdb_compound": "write_rafdb_both"}.get(name, f"write_{name}"), None)
        root = str(writer(tmp_path / name)) if writer else ""
    shape = list_dataset(name, "smoke", root).shape
    assert face_shape({"dataset": name, "preset": "smoke"}) == shape


def test_what_cannot_be_loaded_is_said(place, tmp_path):
    with pytest.raises(UserError, match=r"neither a saved detector nor .* choose one of tiny/smoke/fear/seed0"):
        OpenSetDetector.load("tiny/smoke/fear/seed9", device=CPU)
    assert OpenSetDetector.load("tiny/smoke/fear/seed0", device=CPU).use.run["seed"] == 0
    with pytest.raises(UserError, match="unknown score for new images 'enrgy'; did you mean 'energy'"):
        load(place, method="enrgy")
    with pytest.raises(UserError, match="rule open_share goes with pool_novelty only"):
        load(place, method="msp", rule="open_share")
    with pytest.raises(UserError, match="unknown rule 'known'; did you mean 'known_95'"):
        load(place, rule="known")
    save_tensors(tmp_path / "other.safetensors", {})
    with pytest.raises(UserError, match="no detector saved by this workbook"):
        OpenSetDetector.load(tmp_path / "other.safetensors", device=CPU)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="no readable safetensors file"):
        OpenSetDetector.load(tmp_path / "torn.safetensors", device=CPU)
    saved = load(place).save(tmp_path / "detector.safetensors")
    with pytest.raises(UserError, match="a saved detector keeps its method"):
        OpenSetDetector.load(saved, method="msp", device=CPU)
    tensors, header = load_tensors(saved)
    del header["use"]["threshold"]
    save_tensors(saved, tensors, **header)
    with pytest.raises(UserError, match="parts of the detector are missing"):
        OpenSetDetector.load(saved, device=CPU)


def test_a_run_without_pool_novelty_gives_energy(place, monkeypatch):
    monkeypatch.setattr(runs, "is_done", lambda folder: False)
    assert load(place).use.method == "energy"
    whole = place.dataset
    rest = (whole.table["split"] != "valid").to_numpy()
    dataset = replace(whole, table=whole.table[rest], images=whole.images[rest])
    monkeypatch.setattr(protocol, "load_dataset", lambda *_, **__: dataset)
    with pytest.raises(UserError, match="no known validation image to choose a threshold on"):
        load(place)


def test_the_package_stays_light():
    code = "import sys, fer_openset; print('torch' in sys.modules, 'OpenSetDetector' in dir(fer_openset))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'Detector'"):
        fer_openset.Detector  # noqa: B018
