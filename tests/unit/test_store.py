"""The image store: decoded once, never half-finished, whoever builds it and whenever they are killed."""

import builtins
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fer_openset.datasets import Dataset, load_dataset, partial, store
from fer_openset.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (1, 4, 4)
# A builder as another process sees it: 40 rows in 8 slow chunks, each noted in a log.
BUILDER = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from fer_openset.datasets import store
from test_store import listing
store.CHUNK_BYTES = 80
def slowly(start, stop):
    with open({log!r}, "a") as log:
        log.write(f"{{start}}\\n")
    time.sleep({delay})
    return listing(40).decode(start, stop)
print(int(store.open_store(listing(40, decode=slowly), {cache!r}).sum()))
"""


def pixels(start, stop):
    return np.stack([np.full(SHAPE, i % 251, np.uint8) for i in range(start, stop)])


def listing(count=10, decode=pixels, shape=SHAPE, material="a", ids=None):
    index = pd.Index(ids or [f"s{i}" for i in range(count)], name="sample_id")
    table = pd.DataFrame({"label": ["fear"] * count, "split": ["train"] * count}, index=index)
    return store.Listing("made", table, ("fear", "anger"), {"material": material}, shape, decode)


def start_builder(cache, log, delay):
    code = BUILDER.format(root=str(ROOT), tests=str(Path(__file__).parent), log=str(log), delay=delay, cache=str(cache))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != ".lock")


def test_rows_keep_their_order_and_are_decoded_once_in_small_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK_BYTES", 3 * 16)
    asked = []

    def decode(start, stop):
        asked.append((start, stop))
        return pixels(start, stop)

    first = store.open_store(listing(decode=decode), tmp_path)
    again = store.open_store(listing(decode=decode), tmp_path)
    assert sorted(asked) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert first.shape == (10, 1, 4, 4) and first.dtype == np.uint8
    assert first[:, 0, 0, 0].tolist() == again[:, 0, 3, 3].tolist() == list(range(10))
    assert isinstance(first, np.memmap) and not first.flags.writeable


@pytest.mark.parametrize(
    "other", [{"material": "b"}, {"shape": (1, 2, 8)}, {"ids": [f"t{i}" for i in range(10)]}, {"count": 11}]
)
def test_whatever_decides_the_pixels_is_in_the_key(other):
    assert listing(**other).key != listing().key
    assert listing().key == listing().key


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: b"",
        lambda whole: whole[:40],
        lambda whole: b"PK\3\4" + whole[4:],
        lambda whole: whole.replace(b"(10, 1, 4, 4)", b"(10, 1, 2, 8)"),
    ],
)
def test_a_damaged_store_is_made_again(tmp_path, damage):
    store.open_store(listing(), tmp_path)
    path = tmp_path / listing().key / "images.npy"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    assert np.array_equal(store.open_store(listing(), tmp_path), pixels(0, 10))
    assert path.read_bytes() == whole


def test_a_failing_decode_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK_BYTES", 16)

    def decode(start, stop):
        if start == 5:
            raise UserError("picture 5 is broken")
        return pixels(start, stop)

    with pytest.raises(UserError, match="picture 5 is broken"):
        store.open_store(listing(decode=decode), tmp_path)
    assert files(tmp_path) == [listing().key]
    assert len(store.open_store(listing(), tmp_path)) == 10


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_said_in_one_sentence(tmp_path, monkeypatch):
    def full(path, mode="r", **options):
        return builtins.open("/dev/full" if mode == "wb" else path, mode, **options)

    monkeypatch.setattr(partial, "open", full, raising=False)
    with pytest.raises(UserError, match=r"images\.npy: the disk is full.*free some space"):
        store.open_store(listing(), tmp_path)
    monkeypatch.undo()
    assert files(tmp_path) == [listing().key]
    assert np.array_equal(store.open_store(listing(), tmp_path), pixels(0, 10))


def test_a_cache_folder_that_cannot_be_is_said_in_one_sentence(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(UserError, match="choose another cache folder"):
        store.open_store(listing(), tmp_path / "cache")


def test_progress_is_said_only_when_it_takes_long(tmp_path, monkeypatch, capsys):
    store.open_store(listing(), tmp_path)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(store, "QUIET_SECONDS", 0)
    store.open_store(listing(material="b"), tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("made: 10 of 10 images decoded") and said[-1].startswith("made: 10 images decoded in")


def test_two_processes_build_one_store_once(tmp_path):
    log = tmp_path / "log"
    builders = [start_builder(tmp_path / "cache", log, delay=0.1) for _ in range(2)]
    answers = [builder.communicate(timeout=60)[0].splitlines()[-1] for builder in builders]
    assert [b.returncode for b in builders] == [0, 0]
    assert answers == [str(int(pixels(0, 40).sum()))] * 2
    assert sorted(map(int, log.read_text().split())) == list(range(0, 40, 5))  # nobody decoded a chunk a second time
    assert files(tmp_path / "cache") == [listing(40).key, f"{listing(40).key}/images.npy"]


def test_a_build_that_was_killed_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    cache, log = tmp_path / "cache", tmp_path / "log"
    builder = start_builder(cache, log, delay=0.3)
    wait_for(lambda: log.exists() and len(log.read_text().split()) >= 3)
    # While it lives, another store's builder must not take its half-written file for rubbish.
    store.open_store(listing(material="other"), cache)
    folder = cache / listing(40).key
    assert {p.name for p in folder.glob(".images*")} == {".images.npy.partial", ".images.npy.partial.sums"}
    builder.kill()
    builder.communicate()
    assert not (folder / "images.npy").exists()

    store.open_store(listing(material="third"), cache)  # nor does a dead builder's beginning go at once
    monkeypatch.setattr(store, "CHUNK_BYTES", 80)
    asked = []

    def decode(start, stop):
        asked.append(start)
        return pixels(start, stop)

    assert np.array_equal(store.open_store(listing(40, decode), cache), pixels(0, 40))
    assert min(asked) >= 5 and "going on after" in capsys.readouterr().out
    assert files(folder) == ["images.npy"]


def begun(folder, chunks=4):
    """What a builder leaves that was killed after `chunks` of eight chunks of five rows."""

    def decode(start, stop):  # fmt: skip
        if start == 5 * chunks:
            raise KeyboardInterrupt
        return pixels(start, stop)

    with pytest.raises(KeyboardInterrupt):
        store.open_store(listing(40, decode), folder)
    return folder / listing(40).key / ".images.npy.partial"


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [
        (lambda data, sums: (data, sums), 20),
        (lambda data, sums: (data + b"half a chunk", sums), 20),
        (lambda data, sums: (data, sums + b"123 8"), 20),
        (lambda data, sums: (data[:-1], sums), 15),
        (lambda data, sums: (data, sums[:-3]), 15),
        (lambda data, sums: (data[:-60] + b"\0" + data[-59:], sums), 15),  # the last write never reached the disk
        (lambda data, sums: (b"?" + data[1:], sums), 0),
        (lambda data, sums: (b"", b""), 0),
        (lambda data, sums: (data, b"\xff\n" + sums), 0),
        (lambda data, sums: (data, b"0 99999999999999999999\n"), 0),
    ],
)
def test_of_a_beginning_only_what_is_whole_is_kept(tmp_path, monkeypatch, spoil, kept):
    monkeypatch.setattr(store, "CHUNK_BYTES", 80)
    monkeypatch.setattr(store, "thread_count", lambda: 1)
    path = begun(tmp_path)
    sums = path.with_name(path.name + ".sums")
    data, lines = spoil(path.read_bytes(), sums.read_bytes())
    path.write_bytes(data)
    sums.write_bytes(lines)
    asked = []

    def decode(start, stop):
        asked.append(start)
        return pixels(start, stop)

    assert np.array_equal(store.open_store(listing(40, decode), tmp_path), pixels(0, 40))
    assert min(asked) == kept


def test_without_locks_a_build_starts_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK_BYTES", 80)
    path = begun(tmp_path)
    monkeypatch.setattr(store, "fcntl", None)
    assert np.array_equal(store.open_store(listing(40), tmp_path), pixels(0, 40))
    assert path.exists()  # who knows whether its builder still lives


def test_what_killed_builders_left_goes_when_any_store_is_built(tmp_path):
    left = tmp_path / "0123" / ".images.npy.abc"
    left.mkdir(parents=True)
    (left / "images.npy").write_bytes(b"half")
    old, young = tmp_path / "45" / ".images.npy.partial", tmp_path / "67" / ".images.npy.partial"
    for path in (old, young):
        path.parent.mkdir()
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    store.open_store(listing(), tmp_path)
    assert not left.exists() and not old.exists() and young.exists()


def test_few_chunks_are_alive_at_one_time(tmp_path, monkeypatch):
    """However slow the disk: the decoders wait for the writer."""
    monkeypatch.setattr(store, "CHUNK_BYTES", 80)
    monkeypatch.setattr(store, "thread_count", lambda: 4)
    alive, most = [0], [0]

    class Chunk(np.ndarray):
        def __del__(self):
            alive[0] -= self.shape == (5, *SHAPE) and self.base is not None

    def decode(start, stop):
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return pixels(start, stop).view(Chunk)

    slow = partial.Partial.append
    monkeypatch.setattr(partial.Partial, "append", lambda self, chunk: (time.sleep(0.005), slow(self, chunk)))
    store.open_store(listing(400, decode), tmp_path)
    assert 2 <= most[0] <= 2 * 4 + 4


def test_ids_with_line_breaks_keep_apart(tmp_path):
    assert listing(2, ids=["a\nb", "c"]).key != listing(2, ids=["a", "b\nc"]).key
    assert listing(2, ids=["a\\nb", "c"]).key != listing(2, ids=["a\nb", "c"]).key
    with pytest.raises(UserError, match="not UTF-8; rename the file"):
        listing(1, ids=[os.fsdecode(b"\xff.png")])


def test_an_empty_listing_is_refused(tmp_path):
    with pytest.raises(UserError, match="made: no image is left to read"):
        store.open_store(listing(0), tmp_path)


def test_a_reader_that_breaks_its_promises_is_a_bug(tmp_path):
    with pytest.raises(ValueError, match="decode gave"):
        store.open_store(listing(decode=lambda start, stop: pixels(start, stop).astype(float)), tmp_path)
    with pytest.raises(ValueError, match="unique index"):
        listing(2, ids=["same", "same"])
    with pytest.raises(ValueError, match="shape"):
        listing(shape=(2, 4, 4))
    table = listing().table
    for column, value in (("label", "joy"), ("split", "dev")):
        with pytest.raises(ValueError, match="not declared"):
            store.Listing("made", table.assign(**{column: value}), ("fear",), {}, SHAPE, pixels)


def test_rows_finds_ids_in_the_order_asked():
    made = listing()
    dataset = Dataset("made", made.classes, made.table, pixels(0, 10))
    assert dataset.rows(["s7", "s0", "s7"]).tolist() == [7, 0, 7]
    assert dataset.rows([]).dtype == np.int64
    with pytest.raises(UserError, match="made: no sample 's11'"):
        dataset.rows(["s1", "s11"])


def test_an_unknown_dataset_gets_a_suggestion():
    with pytest.raises(UserError, match="unknown dataset 'ferpluss'; did you mean 'ferplus'"):
        load_dataset("ferpluss", "smoke")


def test_a_folder_for_a_dataset_that_reads_none_is_refused():
    with pytest.raises(UserError, match="synthetic reads no folder, but data_root is 'faces'"):
        load_dataset("synthetic", "smoke", root="faces")
