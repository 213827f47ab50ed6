"""Damaged files of every kind: a right result or one clear sentence. The long run is `python -m tests.fuzz`."""

import os

import fuzz
import pytest

from fer_openset.errors import UserError
from fer_openset.settings import read_yaml


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, before = tmp_path_factory.mktemp("fuzz"), os.getcwd()
    os.chdir(path)
    yield path
    os.chdir(before)


@pytest.mark.parametrize("kind", fuzz.TARGETS)
def test_damaged_files_give_clear_errors_or_right_results(kind, folder):
    verdicts = fuzz.run(kind, 15, 1, folder)
    assert sum(verdicts.values()) >= 15


@pytest.mark.parametrize(("kind", "path"), fuzz.kept(), ids=lambda value: getattr(value, "name", value))
def test_what_once_failed_holds(kind, path, folder):
    fuzz.check(kind, path.read_bytes(), folder)


def test_the_check_itself_would_notice(folder, monkeypatch):
    """A reader that runs what it reads, lets errors through or says nothing clear does not pass."""

    def obeys(data, folder):  # fmt: skip
        exec(data)

    def lets_through(data, folder):
        raise KeyError(data)

    def unclear(data, folder):
        raise UserError("no\nsentence")

    for read, failure in ((obeys, "a payload was run"), (lets_through, "x"), (unclear, "no clear sentence")):
        monkeypatch.setitem(fuzz.TARGETS, "bad", (list, (), read))
        with pytest.raises((AssertionError, KeyError), match=failure):
            fuzz.check("bad", f"open({fuzz.TRACE!r}, 'w') # x".encode(), folder)
        fuzz.cleared(folder)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5000,
        "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
                                              for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)),
        "epochs: 2024-13-45", "epochs: 0x", "epochs: &e [*e]", "epochs: !!python/object/apply:os.system [touch trace]",
        "? [1, 2]\n: 3", "epochs: " + "9" * 5000, "epochs: !!binary x", "epochs: !!timestamp x",
    ],
)  # fmt: skip
def test_yaml_that_is_made_to_hurt_is_one_sentence(text, tmp_path):
    from fer_openset.closed_set import ClosedSetSettings
    from fer_openset.settings import load

    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(tmp_path / "x.yaml")
        load(ClosedSetSettings, tmp_path / "x.yaml", "smoke")
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000
