"""Tensors on disk: what was saved comes back, and nothing else is believed."""

import errno
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fer_openset import checkpoint
from fer_openset.checkpoint import flatten_optimizer, load_tensors, restore_optimizer, save_tensors
from fer_openset.errors import UserError


def test_tensors_and_header_come_back(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b/c": torch.tensor(7), "d": torch.ones(2, dtype=torch.bfloat16)}
    header = {"history": [{"loss": 0.1 + 0.2}], "classes": ["fear"], "none": None}
    save_tensors(tmp_path / "x.safetensors", tensors, **header)
    back, head = load_tensors(tmp_path / "x.safetensors")
    assert head == header and set(back) == set(tensors)
    assert all(torch.equal(back[k], tensors[k]) and back[k].dtype == tensors[k].dtype for k in tensors)


def test_what_we_write_is_what_the_library_reads_and_writes(tmp_path):
    """Our own writer against safetensors itself: every type, empty and scalar tensors, any layout."""
    types = (
        torch.float64,
        torch.int64,
        torch.float32,
        torch.int32,
        torch.bfloat16,
        torch.float16,
        torch.uint8,
        torch.bool,
    )
    tensors = {str(t): (torch.randn(3, 5) * 3).to(t) for t in types}
    tensors |= {"empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5), "last": torch.randn(2, 3, 4, 4)}
    tensors["channels last"] = tensors["last"].contiguous(memory_format=torch.channels_last)
    save_tensors(tmp_path / "ours.safetensors", tensors)
    back = load_file(tmp_path / "ours.safetensors")
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in tensors.items())
    save_file(back, tmp_path / "theirs.safetensors", metadata={"header": "{}"})
    sizes = [(tmp_path / f"{who}.safetensors").stat().st_size for who in ("ours", "theirs")]
    assert abs(sizes[0] - sizes[1]) < 8 * len(tensors) + 64  # spaces in the header


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    shared = torch.arange(6.0)
    save_tensors(tmp_path / "x.safetensors", {"a": shared, "b": shared[2:]})
    back, _ = load_tensors(tmp_path / "x.safetensors")
    assert back["b"].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("content", [b"", b"junk" * 100, pickle.dumps({"a": 1}), b"PK\x03\x04", b"\xff" * 64])
def test_a_file_of_another_kind_is_one_sentence(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="no readable safetensors file") as caught:
        load_tensors(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused(tmp_path):
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1000)})
    whole = (tmp_path / "x.safetensors").read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 20):
        (tmp_path / "x.safetensors").write_bytes(whole[:size])
        with pytest.raises(UserError, match="no readable safetensors file"):
            load_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("header", ["not json", "[1, 2]", "3"])
def test_a_foreign_header_is_refused(tmp_path, header):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"header": header})
    with pytest.raises(UserError, match="no readable safetensors file"):
        load_tensors(tmp_path / "x.safetensors")


def test_a_file_without_a_header_has_an_empty_one(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    assert load_tensors(tmp_path / "x.safetensors")[1] == {}


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load_tensors(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no readable safetensors file"):
        load_tensors(tmp_path)


def test_full_disk_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.zeros(3)}, epoch=1)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_bytes", full)
        with pytest.raises(UserError, match="the disk is full"):
            save_tensors(path, {"a": torch.ones(3)}, epoch=2)
    assert load_tensors(path)[1] == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_really_full_disk_is_one_sentence(tmp_path, monkeypatch):
    """The same with a write that the kernel refuses, so that no library hides the error in one of its own."""

    opened = Path.open
    refused = lambda path, mode="r", **more: opened(Path("/dev/full") if mode == "wb" else path, mode, **more)  # noqa: E731
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match="the disk is full"):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(3)})
    assert list(tmp_path.iterdir()) == []


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
}


def steps(weights, optimizer, n):
    for i in range(n):
        optimizer.zero_grad(set_to_none=True)
        (weights.sin() * (i + 1)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_goes_on_where_it_was(tmp_path, kind):
    whole = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    first = OPTIMIZERS[kind]([whole])
    steps(whole, first, 3)
    save_tensors(tmp_path / "o.safetensors", flatten_optimizer(first))
    copy = whole.detach().clone().requires_grad_()
    second = OPTIMIZERS[kind]([copy])
    restore_optimizer(second, load_tensors(tmp_path / "o.safetensors")[0])
    steps(whole, first, 2)
    steps(copy, second, 2)
    assert torch.equal(whole, copy)
