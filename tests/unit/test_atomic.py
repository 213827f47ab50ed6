"""Files appear whole or not at all, whatever goes wrong while they are written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fer_openset import atomic
from fer_openset.errors import UserError


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def write_some(path):
    atomic.write_csv(path, pd.DataFrame({"a": [1, 2]}))


WRITERS = {
    "text": lambda path: atomic.write_text(path, "new"),
    "json": lambda path: atomic.write_json(path, {"new": 1}),
    "csv": write_some,
}


def test_writers_round_trip(tmp_path):
    atomic.write_text(tmp_path / "deep" / "a.txt", "häppy\n")
    atomic.write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": None})
    atomic.write_csv(
        tmp_path / "a.csv", pd.DataFrame({"x": [0.1, 0.25]}, index=["p", "q"]), index=True, index_label="id"
    )
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "häppy\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1, 2.5]}
    assert (tmp_path / "a.csv").read_text() == "id,x\np,0.1\nq,0.25\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.json", "deep"]


def test_json_refuses_what_it_would_have_to_turn_into_text(tmp_path):
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "a.json", {"n": np.int64(5)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failing_writer_leaves_what_was_there(tmp_path, old):
    target = tmp_path / "a.txt"
    if old:
        target.write_text(old)
    with pytest.raises(RuntimeError, match="half way"):
        with atomic.atomic_path(target) as path:
            path.write_text("half")
            raise RuntimeError("half way")
    assert [p.name for p in tmp_path.iterdir()] == (["a.txt"] if old else [])
    assert not old or target.read_text() == old


@pytest.mark.parametrize("kind", WRITERS)
def test_full_disk_while_writing_is_one_sentence(tmp_path, monkeypatch, kind):
    target = tmp_path / "out" / f"a.{kind}"
    target.parent.mkdir()
    target.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        patch.setattr(pd.DataFrame, "to_csv", full_disk)
        with pytest.raises(UserError, match="the disk is full") as caught:
            WRITERS[kind](target)
    assert str(target) in str(caught.value) and "\n" not in str(caught.value)
    assert target.read_text() == "old" and [p.name for p in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_when_finishing_leaves_nothing(tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full_disk)
        with pytest.raises(UserError, match="the disk is full"):
            atomic.write_text(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match="cannot be written"):
        atomic.write_text(tmp_path / "a.txt", "x")


def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path):
    (tmp_path / "results").write_text("a file")
    for target in (tmp_path / "results" / "a.txt", tmp_path / "results" / "deep" / "a.txt"):
        with pytest.raises(UserError, match="cannot be written"):
            atomic.write_text(target, "x")


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_or_nothing_as_target_is_one_sentence(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", "", "."):
        with pytest.raises(UserError, match=": a folder stands there; give the name of a file"):
            WRITERS[kind](target)
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


def test_a_name_too_long_or_a_place_that_takes_no_files_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be written"):
        atomic.write_text(tmp_path / ("x" * 300), "x")

    def nowhere(*args, **kwargs):  # as /proc says it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", nowhere)
    with pytest.raises(UserError, match="a.txt: its folder cannot be written"):
        atomic.write_text(tmp_path / "a.txt", "x")


def test_a_file_that_the_writer_misses_is_not_blamed_on_the_target(tmp_path):
    with pytest.raises(FileNotFoundError), atomic.atomic_path(tmp_path / "a.txt"):
        (tmp_path / "source").read_text()


def test_whether_a_target_can_be_written_is_known_before(tmp_path):
    atomic.need_writable(tmp_path / "deep" / "a.txt")
    assert [p.name for p in tmp_path.rglob("*")] == ["deep"]
    for wrong in ("", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(UserError):
            atomic.need_writable(wrong)


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="Input/output"):
        atomic.write_text(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_target_do_not_meet(tmp_path):
    target = tmp_path / "a.txt"
    with atomic.atomic_path(target) as first, atomic.atomic_path(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
        assert not target.exists()
    assert target.read_text() == "first"  # the outer block ends last
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_can_be_the_target(tmp_path):
    with atomic.atomic_path(tmp_path / "folder") as path:
        path.mkdir()
        (path / "inside").write_text("x")
    assert (tmp_path / "folder" / "inside").read_text() == "x"


def test_killed_while_writing_leaves_no_target(tmp_path):
    code = (
        "import os, signal, sys\nfrom fer_openset.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert not (tmp_path / "a.txt").exists()
