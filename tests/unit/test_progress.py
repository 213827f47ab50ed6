"""Bars show where a person looks and nowhere else; what a batch logs stays plain lines."""

import io
import sys
from types import SimpleNamespace

import IPython
from test_fit import run, settings_of

from fer_openset import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Called in the test itself: pytest puts streams of its own in place after the fixtures."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


def kernel(metadata):
    return lambda: SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda channel: {"metadata": metadata}))


def test_who_looks(monkeypatch):
    terminal(monkeypatch)
    assert progress.watched()
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # a log beside a terminal
    assert not progress.watched()
    monkeypatch.setattr(IPython, "get_ipython", kernel({}))  # papermill, nbval, nbconvert
    assert not progress.watched()
    monkeypatch.setattr(IPython, "get_ipython", kernel({"cellId": "a"}))
    assert progress.watched()


def test_a_log_holds_the_lines_of_training_and_nothing_else(tmp_path, capsys):
    run(tmp_path, settings=settings_of(epochs=2))
    said = capsys.readouterr()
    assert said.err == "" and "\r" not in said.out
    assert [line.split(" loss")[0] for line in said.out.splitlines()] == [f"toy: epoch {n}/2 lr 0.01" for n in (1, 2)]


def test_in_a_terminal_training_has_one_bar_and_keeps_its_lines(tmp_path, monkeypatch):
    shown = terminal(monkeypatch)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    monkeypatch.setattr("fer_openset.fit.PROGRESS_SECONDS", -1)
    run(tmp_path, settings=settings_of(epochs=3))
    said = shown.getvalue()
    assert "toy   0%|" in said and "of 3 epochs" in said and "step 1 of" not in said
    assert [f"toy: epoch {n}/3 lr 0.01" in said for n in (1, 2, 3)] == [True] * 3


def test_a_bar_moves_by_parts_and_is_gone_afterwards(monkeypatch):
    shown = terminal(monkeypatch)
    with progress.bar("photos", 2, "photos", done=0.5) as advance:
        for _ in range(3):
            advance(0.5)
        advance(0)
    said = shown.getvalue()
    assert "photos  25%|" in said and said.rpartition("\r")[2].strip() == ""
