"""Pretraining at home: it learns without labels, never looks at what is open, and other networks start from it."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import CPU, tiny_dataset

from fer_openset import pipeline, pretraining
from fer_openset.__main__ import main
from fer_openset.checkpoint import load_tensors
from fer_openset.datasets import store
from fer_openset.datasets.folder import read_folder
from fer_openset.errors import UserError
from fer_openset.pretrained import Place, StartSettings, pretrained_net, read_start
from fer_openset.pretraining import contrast, pretrain_on_dataset, pretraining_settings, random_view
from fer_openset.settings import RunParameters

RUN = RunParameters(dataset="tiny", open_classes="surprise", preset="smoke")


@pytest.fixture
def tiny(monkeypatch, workplace):
    """A step on tiny data whose images of the open class and of the pool are lost to who looks at them."""
    dataset = tiny_dataset({"train": 6, "valid": 2, "test": 4})
    monkeypatch.setattr(pipeline, "load_dataset", lambda *a, **k: dataset)
    monkeypatch.setattr(pipeline, "pick_device", lambda: CPU)
    return dataset


def seen_rows(monkeypatch):
    """Rows whose images are read from now on."""
    rows, original = set(), pretraining.batch_of

    def watched(dataset, batch):
        rows.update(int(row) for row in batch)
        return original(dataset, batch)

    monkeypatch.setattr(pretraining, "batch_of", watched)
    return rows


def test_contrast_equals_plain_loops():
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    unit = F.normalize(z.double(), dim=1)
    total = 0.0
    for i in range(6):
        other = (i + 3) % 6
        near = [math.exp(float(unit[i] @ unit[k]) / 0.3) for k in range(6)]
        total -= math.log(near[other] / (sum(near) - near[i]))
    assert float(contrast(z, 0.3)) == pytest.approx(total / 6, rel=1e-5)
    assert float(contrast(torch.ones(8, 4), 0.5)) == pytest.approx(math.log(7))
    pairs = torch.eye(4).repeat(2, 1)
    assert float(contrast(pairs, 0.05)) < 1e-6


def test_two_views_differ_and_light_changes_each_image_on_its_own():
    settings = pretraining_settings("smoke", {"erase": 0.0, "flip": 0.0, "rotate": 0.0, "zoom": 0.0, "shift": 0.0})
    grey = torch.full((64, 1, 32, 32), 100, dtype=torch.uint8)
    view = random_view(grey, 32, settings, torch.device("cpu"), torch.Generator().manual_seed(0))
    levels = view.mean((1, 2, 3)) * 0.226 * 255 + 0.449 * 255
    assert 60 <= levels.min() < 75 and 125 < levels.max() <= 140 and levels.unique().numel() == 64
    still = random_view(grey, 32, settings.model_copy(update={"light": 0.0}), torch.device("cpu"), torch.Generator())
    assert still.unique().numel() == 1


@pytest.mark.parametrize("objective", ["contrast", "labels"])
def test_only_known_training_images_are_looked_at(tiny, monkeypatch, objective):
    rows = seen_rows(monkeypatch)
    path = pretrain_on_dataset(RUN, pretraining_settings("smoke", {"objective": objective, "batch_size": 6}))
    table = tiny.table.iloc[sorted(rows)]
    assert set(table["split"]) == {"train"} and "surprise" not in set(table["label"]) and len(table) == 36
    tensors, header = load_tensors(path)
    assert all(name.startswith("body.") for name in tensors)
    expected = {"backbone": "resnet18", "dataset": "tiny", "open": "surprise", "images": "known", "n_images": 36}
    assert expected.items() <= header.items()
    record = json.loads(path.with_name("run.json").read_text())
    assert record["settings"]["pretraining"]["objective"] == objective and record["n_images"] == 36


def test_the_pool_is_used_when_asked_for_and_everything_says_so(tiny, monkeypatch, capsys):
    rows = seen_rows(monkeypatch)
    settings = pretraining_settings("smoke", {"images": "known+pool", "batch_size": 14})
    path = pretrain_on_dataset(RUN, settings)
    table = tiny.table.iloc[sorted(rows)]
    assert len(table[table["split"] == "test"]) == 28 and len(table) == 70 and "valid" not in set(table["split"])
    assert "the pool's images are used, unlabelled" in capsys.readouterr().out
    assert (
        read_start(StartSettings(init="pretrained", weights=str(path)), Place("tiny", "surprise", 0)).record[
            "trained_on"
        ]
        == "known+pool"
    )
    with pytest.raises(UserError, match="objective: labels would read the pool's labels"):
        pretraining_settings("smoke", {"images": "known+pool", "objective": "labels"})


def test_it_learns_without_labels(tiny):
    """After it, images of one class (a pattern that their noise hides from no view) lie together."""
    more = {"epochs": 6, "batch_size": 18, "erase": 0.0, "light": 0.0, "zoom": 0.0, "lr": 0.02}
    path = pretrain_on_dataset(RUN, pretraining_settings("smoke", more))
    history = json.loads(path.with_name("run.json").read_text())["history"]
    assert history["loss"] < 0.8 * math.log(2 * 18 - 1)


def test_what_starts_from_the_file_has_its_body_and_may_not_open_what_it_knew(tiny):
    path = pretrain_on_dataset(RUN, pretraining_settings("smoke", {"batch_size": 18}))
    settings = StartSettings(init="pretrained", weights=str(path))
    net, backbone = pretrained_net(settings, 6, 0, Place("tiny", "surprise", 0))
    tensors, _ = load_tensors(path)
    assert backbone == "resnet18" and all(torch.equal(net.state_dict()[k], v) for k, v in tensors.items())
    with pytest.raises(UserError, match="trained with fear among the known classes of tiny"):
        pretrained_net(settings, 6, 0, Place("tiny", "fear", 0))


def faces(root, count=5):
    names = [f"a b/gesicht_ä {i}.png" for i in range(count - 1)] + ["new\nline.JPG"]
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20), 40 * i, np.uint8)).save(root / name)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"")
    (root / "notes.txt").write_text("no picture")
    return sorted(names)


def test_a_folder_is_listed_by_relative_path(tmp_path):
    names = faces(tmp_path / "faces")
    listing = read_folder(tmp_path / "faces", 16)
    assert list(listing.table.index) == names and listing.shape == (3, 16, 16)
    images = store.open_store(listing, tmp_path / "cache")
    assert images[:, 0, 8, 8].tolist() == [0, 40, 80, 120, 160]
    key = listing.key
    Image.new("L", (9, 9)).save(tmp_path / "faces" / names[0])
    assert read_folder(tmp_path / "faces", 16).key != key
    for root, words in ((tmp_path / "none", "no such folder"), (tmp_path / "cache", "holds no picture")):
        with pytest.raises(UserError, match=words):
            read_folder(root, 16)
    Image.new("L", (9, 9)).save(tmp_path / "outside.png")
    (tmp_path / "faces" / "out.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(UserError, match="leads out of"):
        read_folder(tmp_path / "faces", 16)


def test_the_command_on_a_folder_and_on_a_dataset(tmp_path, workplace, capsys, monkeypatch):
    faces(tmp_path / "my faces", 6)
    command = ["pretrain", "--preset", "smoke", "--set", "image_size=24", "batch_size=6"]
    assert main([*command, "--folder", str(tmp_path / "my faces")]) == 0
    path = workplace.results / "runs" / "faces" / "smoke" / "my faces" / "seed0" / "pretraining" / "body.safetensors"
    assert f"weights in {path}; start from them" in capsys.readouterr().out
    assert load_tensors(path)[1]["images"] == "folder"
    few = {"n_train": 28, "n_valid": 14, "n_test": 14}
    original = pipeline.load_dataset
    monkeypatch.setattr(pipeline, "load_dataset", lambda *a, **k: original(*a, **k, overrides=few))
    assert main([*command, "--dataset", "synthetic", "--open-classes", "fear"]) == 0
    path = workplace.results / "runs/synthetic/smoke/fear/seed0/pretraining/body.safetensors"
    assert load_tensors(path)[1]["open"] == "fear"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name either --dataset with --open-classes, or --folder"),
        (["--dataset", "synthetic", "--folder", "x"], "name either --dataset"),
        (["--dataset", "synthetic"], "open_classes is empty"),
        (["--folder", "none"], "there is no such folder"),
        (["--folder", "none", "--set", "objective=labels"], "a folder of faces has no labels"),
        (["--folder", "none", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["--folder", "none", "--set", "epochs=[3"], "not readable; write --set epochs=3"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence(arguments, words, capsys, workplace):
    assert main(["pretrain", "--preset", "smoke", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
