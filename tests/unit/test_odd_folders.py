"""Folders that are difficult to read: pipes, long names, links to nowhere. One sentence each, and never a hang."""

import os
import shutil
import threading
import time

import numpy as np
import pytest
import trees
from PIL import Image

from fer_openset.__main__ import main
from fer_openset.datasets import check, ferplus_pixels, image_files, list_dataset, pictures
from fer_openset.errors import UserError

LISTS = {
    "rafdb": "EmoLabel/list_patition_label.txt",
    "ferplus": "fer2013new.csv",
    "affectnet": "Manually_Annotated_file_lists/validation.csv",
}
WRITERS = {"rafdb": trees.write_rafdb, "ferplus": trees.write_ferplus, "affectnet": trees.write_affectnet_lists}
LONG = "a" * 400


def said(capsys, *arguments):
    status = main(["check-data", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


@pytest.mark.parametrize("name", LISTS)
def test_a_pipe_in_place_of_a_list_is_not_waited_for(name, tmp_path, capsys):
    root = WRITERS[name](tmp_path / name)
    (root / LISTS[name]).unlink()
    os.mkfifo(root / LISTS[name])
    status, _, lines = said(capsys, name, "--root", root)
    assert status == 2 and len(lines) == 1 and "not a file but a folder, pipe or broken link" in lines[0]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_is_missing_or_too_large(name, tmp_path, capsys, monkeypatch):
    root = WRITERS[name](tmp_path / name)
    monkeypatch.setattr(image_files, "MOST_LIST_BYTES", 10)
    assert "too large for a list" in said(capsys, name, "--root", root)[2][0]
    monkeypatch.undo()
    (root / LISTS[name]).unlink()
    status, _, lines = said(capsys, name, "--root", root)
    assert status == 2 and len(lines) == 1 and "there is no such file; " in lines[0]


@pytest.mark.parametrize("name", ["rafdb", "ferplus", "affectnet", "cifar10"])
@pytest.mark.parametrize("root", [LONG, "~nosuchuser/faces"])
def test_a_root_that_cannot_be(name, root, capsys):
    status, _, lines = said(capsys, name, "--root", root)
    assert status == 2 and len(lines) == 1 and "there is no such folder" in lines[0]


def test_a_settings_file_with_a_name_that_cannot_be(capsys):
    assert "there is no such file" in said(capsys, f"{LONG}.yaml")[2][0]


def test_long_names_in_affectnets_list(tmp_path, capsys):
    root = trees.write_affectnet_lists(tmp_path / "affectnet")
    path = root / "Manually_Annotated_file_lists" / "training.csv"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, LONG + "/" + first, *rest]))
    status, _, lines = said(capsys, "affectnet", "--root", root)
    assert status == 2 and len(lines) == 1 and "a name of more than 255 bytes" in lines[0]


@pytest.fixture
def labels(tmp_path):
    """A dataset of one's own with a CSV of these lines; returns its settings file."""
    root = tmp_path / "faces"
    root.mkdir()
    for i, name in enumerate([*(f"{c}{i}.png" for c in "ab" for i in range(8)), " lead.png"]):
        Image.fromarray(np.full((40, 40), 9 * i, np.uint8)).save(root / name)

    def labels(*lines):
        (root / "labels.csv").write_text("\n".join(["path,label", *lines]) + "\n")
        (tmp_path / "my_own.yaml").write_text(f"reader: folder\nroot: {root}\nlabels: labels.csv\n")
        return str(tmp_path / "my_own.yaml")

    return labels


ROWS = [f"{c}{i}.png,{c}" for c in "ab" for i in range(8)]


def test_a_leading_space_belongs_to_a_name(labels):
    assert " lead.png" in list_dataset(labels(*ROWS, " lead.png, a "), "smoke").table.index


@pytest.mark.parametrize(
    ("row", "words"),
    [("./a0.png,b", "names ./a0.png a second time"), (f"{LONG}.png,a", "more than 255 bytes"),
     (f"{LONG}/a.png,a", "more than 255 bytes"), (" ,a", "has no path")],
)  # fmt: skip
def test_rows_of_ones_own_list(labels, row, words):
    with pytest.raises(UserError, match=words):
        list_dataset(labels(*ROWS, row), "smoke")


def test_what_the_system_refuses_is_a_sentence(tmp_path, capsys, monkeypatch):
    root = trees.write_rafdb(tmp_path / "rafdb")

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fer_openset.datasets.rafdb.basic_folder", refused)
    status, _, lines = said(capsys, "rafdb", "--root", root)
    assert (status, lines) == (2, [f"{root}: cannot be read (Permission denied); check its name and permissions."])


def test_pictures_that_are_missing_are_counted_and_named(tmp_path, capsys):
    root = trees.write_rafdb(tmp_path / "rafdb")
    gone = sorted((root / "Image" / "aligned").iterdir())[:12]
    for path in gone:
        path.unlink()
    status, lines, problems = said(capsys, "rafdb", "--root", root)
    assert (status, lines) == (1, ["rafdb: 30 pictures in the folder, 42 in its list"])
    assert f"{gone[0]} (and 11 more): list_patition_label.txt lists this image but it is missing" in problems[0]
    assert problems[1:] == [*(f"  {path.name}" for path in gone[:10]), "  and 2 more"]


def test_a_fer2013_csv_that_does_not_pair_is_looked_through_once(tmp_path, capsys, monkeypatch):
    root = trees.write_ferplus(tmp_path / "ferplus")
    for folder in ferplus_pixels.FOLDERS.values():
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    passes, index = [], ferplus_pixels.Fer2013File._index
    monkeypatch.setattr(ferplus_pixels.Fer2013File, "_index", lambda self: passes.append(1) or index(self))
    status, lines, problems = said(capsys, "ferplus", "--root", root)
    assert status == 1 and len(passes) == 1 and "pixels: 48 x 48: " in "\n".join(lines)
    assert len([line for line in problems if "the two files pair row by row" in line]) == 1


def test_a_known_training_picture_among_the_compound_ones_is_found(tmp_path):
    root = trees.write_rafdb_both(tmp_path / "rafdb")
    known = root / "basic" / "Image" / "aligned" / "train_00001_aligned.jpg"
    shutil.copy(known, root / "compound" / "Image" / "aligned" / "train_00001_aligned.jpg")
    lines, problems = check.check_data("rafdb_compound", str(root))
    assert "the same pixels in two splits: 1 pictures" in lines[-1]
    assert "  train train_00001 = train compound compound_train_00001" in problems


def test_large_pictures_are_opened_one_at_a_time(tmp_path, monkeypatch):
    """A picture of 33 million pixels takes 400 MB while it is open: eight at once would take three gigabytes."""
    Image.new("RGB", (70, 70)).save(tmp_path / "a.png")
    at_once, most = [], []

    def slow(image):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.pop()
        return image

    monkeypatch.setattr(pictures, "eight_bits", slow)
    for limit, expected in ((70 * 70 - 1, {1}), (70 * 70, None)):
        monkeypatch.setattr(pictures, "LARGE_PIXELS", limit)
        most.clear()
        threads = [threading.Thread(target=pictures.read_picture, args=(tmp_path / "a.png", 3)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 4 and (set(most) == expected if expected else max(most) > 1)
