"""check-data: what it prints for a whole folder, and that it finds each thing that can be off."""

import shutil

import numpy as np
import pytest
import trees
from PIL import Image

from fer_openset.__main__ import main
from fer_openset.datasets import READERS, check, expected, list_dataset
from fer_openset.labels import BASIC, COMPOUND, OBJECTS

FACTS = {
    "train": dict.fromkeys(BASIC, 4),
    "test": {**dict.fromkeys(BASIC, 2), "fear": [1, 2]},
    "size": [100, 100],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return trees.write_rafdb(tmp_path_factory.mktemp("made") / "rafdb")


@pytest.fixture
def tree(made, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "expected", lambda name: FACTS)
    return shutil.copytree(made, tmp_path / "rafdb")


def run(capsys, name, root):
    status = main(["check-data", name, "--root", str(root)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def image(root, stem):
    return root / "Image" / "aligned" / f"{stem}_aligned.jpg"


def test_a_folder_as_published(tree, capsys):
    status, lines, problems = run(capsys, "rafdb", tree)
    assert status == 0 and problems == []
    assert lines[0] == "rafdb: 42 images" and lines[1].split() == ["class", "train", "valid", "test"]
    assert lines[2].split() == ["surprise", "4", "of", "4", "0", "2", "of", "2"]
    assert lines[3].split() == ["fear", "4", "of", "4", "0", "2", "of", "1", "or", "2"]
    assert lines[-2:] == ["pixels: 100 x 100: 42", "the same pixels in two splits: 0 pictures; again within a split: 0"]


def test_everything_that_is_off_is_listed(tree, capsys):
    names = (
        (tree / "EmoLabel" / "list_patition_label.txt").read_text().replace("train_00001.jpg 1", "train_00001.jpg 2")
    )
    (tree / "EmoLabel" / "list_patition_label.txt").write_text(names)
    image(tree, "train_00003").write_bytes(b"no picture")
    image(tree, "train_00004").write_bytes(image(tree, "train_00004").read_bytes()[:300])
    shutil.copy(image(tree, "train_00007"), image(tree, "test_0005"))
    shutil.copy(image(tree, "train_00008"), image(tree, "train_00009"))
    Image.new("RGB", (90, 100)).save(image(tree, "test_0002"))
    status, lines, problems = run(capsys, "rafdb", tree)
    assert status == 1
    assert lines[-1] == "the same pixels in two splits: 1 pictures; again within a split: 1"
    assert problems[:3] == ["train, surprise: 3 images, expected 4", "train, fear: 5 images, expected 4",
                            "1 pictures are not 100 x 100 pixels:"]  # fmt: skip
    assert problems[3] == f"  {image(tree, 'test_0002')}: 90 x 100 pixels"
    assert problems[4] == "2 pictures cannot be read:"
    assert [p.split(": ")[0] for p in problems[5:7]] == [f"  {image(tree, f'train_0000{i}')}" for i in (3, 4)]
    assert problems[7:] == [
        "1 pictures stand in more than one split, expected 0:",
        "  train train_00007 = test test_0005",
    ]


def test_long_lists_are_cut_and_published_copies_allowed(tree, capsys, monkeypatch):
    for i in range(1, 13):
        shutil.copy(image(tree, f"train_{i:05d}"), image(tree, f"test_{i:04d}"))
    status, _, problems = run(capsys, "rafdb", tree)
    assert status == 1 and len(problems) == 12 and problems[-1] == "  and 2 more"
    monkeypatch.setattr(check, "expected", lambda name: FACTS | {"copies": 12})
    status, lines, problems = run(capsys, "rafdb", tree)
    assert (status, problems) == (0, []) and "12 pictures (the published data has 12)" in lines[-1]


def test_a_folder_that_cannot_be_listed_is_one_sentence(tree, capsys):
    (tree / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg 9")
    status, lines, problems = run(capsys, "rafdb", tree)
    assert status == 2 and not lines and len(problems) == 1 and "has the class number '9'" in problems[0]
    assert run(capsys, "rafbd", tree)[2][0].startswith("unknown dataset 'rafbd'; did you mean 'rafdb'?")
    with pytest.raises(SystemExit):
        main(["check-data"])


@pytest.mark.parametrize(
    ("name", "layout", "options"),
    [("rafdb_compound", "rafdb", {}), ("affectnet", "affectnet", {}), ("cifar10", "cifar10", {}),
     ("ferplus", "ferplus", {"ambiguous": 0})],
)  # fmt: skip
def test_every_layout_is_read_and_compared_with_its_own_counts(name, layout, options, tmp_path, capsys):
    root = trees.WRITERS[layout](tmp_path / name, **options)
    status, lines, problems = run(capsys, name, root)
    assert status == 1 and lines[0].startswith(f"{name}: ") and len(problems) >= 14
    table = list_dataset(name, "paper", str(root)).table
    for split, counts in expected(name).items():
        if split in ("train", "test"):
            for label, count in counts.items():
                found = ((table["split"] == split) & (table["label"] == label)).sum()
                wanted = " or ".join(f"{c:,}" for c in count) if isinstance(count, list) else f"{count:,}"
                assert found and f"{split}, {label}: {found} images, expected {wanted}" in problems
    assert not any("cannot be read" in problem or "not 48" in problem for problem in problems)


def test_what_was_published_adds_up():
    totals = {"rafdb": (12271, 3068), "affectnet": (287651, 3999), "cifar10": (50000, 10000), "ferplus": (28224, 3519)}
    for name, (train, test) in totals.items():
        facts = expected(name)
        assert sum(facts["train"].values()) == train
        assert sum(c[0] if isinstance(c, list) else c for c in facts["test"].values()) == test
        assert set(facts["train"]) == set(facts["test"]) >= (set(OBJECTS) if name == "cifar10" else set(BASIC))
    both = expected("rafdb_compound")
    assert both["train"] == expected("rafdb")["train"] and both["all"] == {"compound": 3954} and len(COMPOUND) == 11
    assert expected("synthetic") == expected("folder") == {}
    assert set(totals) | {"rafdb_compound", "synthetic", "folder"} == set(READERS)


@pytest.mark.real_faces
def test_ferplus_is_as_published(ferplus_root):
    lines, problems = check.check_data("ferplus", str(ferplus_root))
    assert problems == [] and "548 pictures (the published data has 548)" in lines[-1]


def test_the_same_pixels_in_another_file_are_the_same_picture(tree):
    path = image(tree, "train_00005")
    Image.open(path).save(image(tree, "test_0005").with_suffix(".png"))
    image(tree, "test_0005").with_suffix(".png").rename(image(tree, "test_0005"))
    lines, problems = check.check_data("rafdb", str(tree))
    assert "in two splits: 1 pictures" in lines[-1] and np.any(["train train_00005 = test" in p for p in problems])
