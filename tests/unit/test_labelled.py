"""A labelled dataset of one's own: its three forms, its splits, its odd names, and one sentence for each mistake."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from tiny import small_net

from fer_openset import closed_set, datasets, pipeline
from fer_openset.datasets import classes_of, load_dataset
from fer_openset.datasets.example_photos import make_labelled
from fer_openset.datasets.labelled import draw_splits
from fer_openset.errors import UserError
from fer_openset.methods import pool_novelty
from fer_openset.settings import DetectionParameters
from workflow.grid import load_grid

COUNTS = {"very happy": 20, "böse": 12, "Öde": 30, "huh": 2}  # unequal, two images in one class
SIZES = ((30, 40), (64, 64), (50, 20))


def write_images(root, counts=COUNTS, prefix=""):
    rng = np.random.default_rng(0)
    for k, (label, n) in enumerate(counts.items()):
        (root / prefix / label).mkdir(parents=True)
        for i in range(n):
            width, height = SIZES[i % 3]
            pixels = rng.integers(0, 40, (height, width), dtype=np.uint8) + 50 * k
            image = Image.fromarray(pixels) if i % 4 else Image.fromarray(np.stack([pixels] * 3, 2))
            image.save(root / prefix / label / f"{i:02d}.{'png' if i % 2 else 'jpg'}")


@pytest.fixture
def mine(workplace, tmp_path):
    """Write a settings file beside data/faces; returns its path."""
    root = workplace.data / "faces"
    root.mkdir(parents=True)

    def mine(**values):
        path = tmp_path / "odd_names.yaml"
        path.write_text(yaml.safe_dump({"reader": "folder", "root": "faces", **values}, allow_unicode=True))
        return str(path)

    mine.root = root
    return mine


def counts_of(dataset):
    return dataset.table.groupby(["label", "split"]).size().unstack(fill_value=0)


def test_class_folders_become_a_dataset_with_stratified_splits(mine):
    write_images(mine.root)
    dataset = load_dataset(mine(), "smoke")
    assert dataset.name == "odd_names"
    assert dataset.classes == tuple(sorted(COUNTS)) and dataset.images.shape == (64, 1, 32, 32)
    found = counts_of(dataset)
    assert found.sum(axis=1).to_dict() == COUNTS
    assert found.loc["Öde"].to_dict() == {"test": 6, "train": 21, "valid": 3}
    assert found.loc["huh"].to_dict() == {"test": 1, "train": 1, "valid": 0}
    brightness = dataset.images.mean(axis=(1, 2, 3))
    for k, label in enumerate(COUNTS):  # each image stayed with its label
        assert np.abs(brightness[dataset.table["label"] == label] - 50 * k - 20).max() < 15
    assert dataset.table.index.isin(["very happy/00.jpg", "huh/01.png"]).sum() == 2


def test_linked_folders_are_followed_and_loops_are_not(mine, tmp_path):
    write_images(mine.root)
    before = set(load_dataset(mine(), "smoke").table.index)
    write_images(tmp_path / "elsewhere", {"a": 4})
    (mine.root / "huh" / "more").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "elsewhere" / "a" / "again").symlink_to(mine.root / "huh")
    found = load_dataset(mine(), "smoke").table
    assert set(found.index) - before == {f"huh/more/{i:02d}.{'png' if i % 2 else 'jpg'}" for i in range(4)}
    assert set(found.loc[sorted(set(found.index) - before), "label"]) == {"huh"}


def test_links_to_what_has_a_label_already_are_passed_over(mine):
    write_images(mine.root)
    before = load_dataset(mine(), "smoke").table
    (mine.root / "huh" / "another class").symlink_to(mine.root / "very happy")
    (mine.root / "huh" / "all").symlink_to(mine.root)
    (mine.root / "huh" / "above").symlink_to(mine.root.parent)
    pd.testing.assert_frame_equal(load_dataset(mine(), "smoke").table, before)


def test_a_folder_that_cannot_be_read_is_one_sentence(mine, monkeypatch):
    write_images(mine.root)
    (mine.root / "huh" / "closed").mkdir()
    read = Path.iterdir

    def refused(folder):  # root may read everything, so permissions alone would not do
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return read(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match=r"closed: cannot be read \(Permission denied\); check its permissions"):
        load_dataset(mine(), "smoke")


def test_a_name_that_is_not_utf8_is_one_sentence(mine):
    write_images(mine.root)
    (mine.root / "huh" / "00.jpg").rename(os.fsdecode(os.fsencode(mine.root / "huh") + b"/\xff.jpg"))
    with pytest.raises(UserError, match="holds a file whose name is not UTF-8 .*rename it"):
        load_dataset(mine(), "smoke")


def test_splits_depend_on_seed_and_path_alone():
    settings = type("Settings", (), {"test_share": 0.2, "valid_share": 0.1, "split_seed": 0})
    table = pd.DataFrame({"path": [f"a/{i}.png" for i in range(50)], "label": "a", "split": ""})
    first = draw_splits(table, settings).set_axis(table["path"])
    shuffled = table.sample(frac=1, random_state=1).reset_index(drop=True)
    assert draw_splits(shuffled, settings).set_axis(shuffled["path"])[first.index].equals(first)
    more = pd.concat([table, table.iloc[:5].assign(path=[f"a/new{i}.png" for i in range(5)])], ignore_index=True)
    assert (draw_splits(more, settings)[:50].to_numpy() == first.to_numpy()).mean() > 0.8
    settings.split_seed = 1
    assert not draw_splits(table, settings).set_axis(table["path"]).equals(first)


@pytest.mark.parametrize("n", [5, 6, 7, 20])
def test_a_class_keeps_a_training_image_whatever_the_shares(n):
    settings = type("Settings", (), {"test_share": 0.5, "valid_share": 0.5, "split_seed": 0})
    table = pd.DataFrame({"path": [f"a/{i}.png" for i in range(n)], "label": "a", "split": ""})
    counts = draw_splits(table, settings).value_counts()
    assert counts["train"] >= 1 and counts["test"] == round(n / 2) and counts["valid"] >= 1


def test_split_folders_are_kept_and_a_missing_split_is_drawn(mine):
    write_images(mine.root, {"a": 20, "b": 10}, "train")
    write_images(mine.root, {"a": 4, "b": 3}, "Testing")
    found = counts_of(load_dataset(mine(), "smoke"))
    assert found.loc["a"].to_dict() == {"test": 4, "train": 18, "valid": 2}
    assert found.loc["b"].to_dict() == {"test": 3, "train": 9, "valid": 1}
    assert counts_of(load_dataset(mine(valid_share=0.0), "smoke")).loc["a"].to_dict() == {"test": 4, "train": 20}


def write_csv(mine, *rows, header="path,label,split"):
    (mine.root / "labels.csv").write_text("\n".join([header, *rows]), encoding="utf-8-sig")
    return mine(labels="labels.csv")


def test_a_csv_names_images_labels_and_splits(mine):
    write_images(mine.root, {"x": 6})
    rows = [f"x/{i:02d}.{'png' if i % 2 else 'jpg'}" for i in range(6)]
    labels = ["one", "two", "one", "two", "one", "two"]
    splits = ["train", "train", "val", "valid", "test", "testing"]
    lines = [", ".join(row) for row in zip(rows, labels, splits, strict=True)]
    table = load_dataset(write_csv(mine, *lines, ""), "smoke").table
    assert table["label"].to_dict() == dict(zip(rows, labels, strict=True))
    assert table["split"].value_counts().to_dict() == {"train": 2, "valid": 2, "test": 2}
    drawn = load_dataset(write_csv(mine, *[line.rpartition(",")[0] for line in lines], header="path,label"), "smoke")
    assert set(drawn.table["split"]) == {"train", "test"}


def test_colour_size_order_and_choice_of_classes(mine):
    write_images(mine.root)
    dataset = load_dataset(mine(classes=["Öde", "böse"], colour=True, image_size=40), "cpu")
    assert dataset.classes == ("Öde", "böse") and dataset.images.shape == (42, 3, 40, 40)
    assert classes_of(mine(classes=["Öde", "böse"]), "smoke", "böse") == ("Öde", "böse")


def test_another_reader_may_have_a_file_of_ones_own(workplace, tmp_path):
    (tmp_path / "few.yaml").write_text("reader: synthetic\nimage_size: 24\npresets: {smoke: {n_train: 70}}\n")
    dataset = load_dataset(str(tmp_path / "few.yaml"), "smoke")
    assert dataset.name == "few" and dataset.images.shape == (70 + 42 + 84, 1, 24, 24)


def test_the_pipeline_runs_on_it(mine, monkeypatch):
    """Odd names, sizes and counts through f_close, pseudo labels and two methods; the two-image class open or known."""
    make_labelled(mine.root, {"very happy": ("happiness", 14), "böse": ("anger", 9), "huh": ("surprise", 2)})
    for module in (closed_set, pool_novelty):
        monkeypatch.setattr(module, "new_net", small_net)
    given = {"dataset": mine(), "preset": "smoke", "method": "msp+pool_novelty"}
    for open_classes, n_open in (("huh", 2), ("böse", 7 + 2)):
        step = pipeline.open_step(DetectionParameters.build({**given, "open_classes": open_classes}, "p"))
        assert step.folder.root.parts[-4:] == ("odd_names", "smoke", open_classes, "seed0")
        for detection in pipeline.detect(step, pipeline.need_tasks(step)).values():
            row = pipeline.save_scores(step, detection, pipeline.evaluate(step, detection))
            assert row["dataset"] == "odd_names" and row["open_classes"] == open_classes and 0 <= row["auroc"] <= 1
            assert row["n_open"] == n_open - (open_classes == "böse")
    names = {p.name for p in (step.folder.pseudo_labels / "authors_format_aligned").iterdir()}
    assert "predicted_labels_openböse.txt" in names


def test_a_grid_takes_it_by_its_path(mine, tmp_path, workplace):
    write_images(mine.root)
    grid = {"datasets": [mine()], "preset": "smoke", "open_classes": ["huh + very happy"], "methods": ["msp"]}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(grid))
    first, *_, last = load_grid(path).jobs()
    assert last.parameters()["dataset"] == mine() and last.parameters()["open_classes"] == "huh+very happy"
    assert first.records[0].parent == workplace.results / "runs/odd_names/smoke/huh+very happy/seed0/closed_set"
    before = first.fingerprint()
    mine(image_size=40)
    assert first.fingerprint() != before
    path.write_text(yaml.safe_dump({**grid, "open_classes": ["very hapy"]}))
    with pytest.raises(UserError, match=r"odd_names.yaml: unknown class 'very hapy'; did you mean 'very happy'\?"):
        load_grid(path)


@pytest.mark.parametrize(
    ("lines", "header", "words"),
    [
        (["x/00.jpg,a"], "file,label", "no column path; expected path,label or path,label,split at its top"),
        (["x/00.jpg,"], "path,label", "line 2 has no label"),
        (["x/00.jpg,a", ",b"], "path,label", "line 3 has no path"),
        (["../secret.png,a"], "path,label", "the entry '../secret.png' is no path under this folder"),
        (["/etc/passwd,a"], "path,label", "the entry '/etc/passwd' is no path under this folder"),
        (["x/00.jpg,a,dev"], "path,label,split", "line 2 has the split 'dev'; expected train, valid or test"),
        (["x/00.jpg,a", "x/00.jpg,b"], "path,label", "line 3 names x/00.jpg a second time; keep one"),
        (["x/77.jpg,a"], "path,label", "line 2 names x/77.jpg, which is not in "),
        (["x/00.jpg,a/b"], "path,label", "the class name 'a/b' cannot be used in file names"),
        (["x/00.jpg,a,b,c,d"], "path,label", "not readable as CSV"),
    ],
)
def test_a_csv_that_is_wrong(mine, lines, header, words):
    write_images(mine.root, {"x": 2})
    with pytest.raises(UserError) as error:
        load_dataset(write_csv(mine, *lines, header=header), "smoke")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"root": "nowhere"}, "nowhere: there is no such folder; put your faces there"),
        ({"root": ""}, "names no folder; write it as root in its settings"),
        ({"labels": "none.csv"}, "none.csv: there is no such file; expected lines of path,label"),
        ({"classes": ["boese"]}, "'boese'; did you mean 'böse'?"),
        ({"classes": ["huh", "huh"]}, "classes lists a class twice"),
        ({"colours": True}, "odd_names.yaml: unknown key 'colours'; did you mean 'colour'?"),
        ({"reader": "folders"}, "unknown reader in odd_names.yaml 'folders'; did you mean 'folder'?"),
        ({"test_share": 0.9}, "odd_names.yaml: test_share = 0.9"),
    ],
)
def test_settings_that_are_wrong(mine, values, words):
    write_images(mine.root)
    with pytest.raises(UserError) as error:
        load_dataset(mine(**values), "smoke")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_too_little_to_work_with_is_said(mine):
    with pytest.raises(UserError, match="no image in a class's folder there; expected faces/CLASS/image.jpg"):
        load_dataset(mine(), "smoke")
    write_images(mine.root, {"a": 4, "b": 1, "c+d": 2})
    with pytest.raises(UserError, match=r"the class name 'c\+d' cannot be used"):
        load_dataset(mine(), "smoke")
    for file in [*(mine.root / "c+d").iterdir()]:
        file.unlink()
    given = {"dataset": mine(), "open_classes": "a", "preset": "smoke", "method": "msp"}
    with pytest.raises(UserError, match="open_classes a leaves 1 of 2 classes known; at least two must stay"):
        pipeline.open_step(DetectionParameters.build(given, "p"))
    (mine.root / "a" / "00.jpg").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"a/00.jpg: not readable as an image \(none of JPEG"):
        load_dataset(mine(), "smoke")


def test_names_of_settings_files(tmp_path, workplace):
    with pytest.raises(UserError, match="unknown dataset 'my_face'.*Choose from: .*folder"):
        load_dataset("my_face", "smoke")
    with pytest.raises(UserError, match="none.yaml: there is no such file; expected the settings of a dataset"):
        load_dataset(str(tmp_path / "none.yaml"), "smoke")
    for name, words in (("my faces.yaml", "letters, digits"), ("ferplus.yaml", "give the file another name")):
        (tmp_path / name).write_text("reader: folder\n")
        with pytest.raises(UserError, match=words):
            load_dataset(str(tmp_path / name), "smoke")
    assert datasets.dataset_name("ferplus") == "ferplus"
