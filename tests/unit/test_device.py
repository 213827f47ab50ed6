"""What a device says of itself."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from fer_openset import kernels
from fer_openset.device import Device, give_back_memory


def test_the_arithmetic_is_named(monkeypatch):
    cpu, half = Device(torch.device("cpu"), None, "cpu"), Device(torch.device("cpu"), torch.bfloat16, "cpu")
    gpu = Device(torch.device("cuda"), torch.bfloat16, "a GPU")
    monkeypatch.setattr(kernels, "library", lambda: object())
    assert [d.arithmetic for d in (cpu, half, gpu)] == ["float32, Winograd's convolutions", "bfloat16", "bfloat16"]
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert [d.arithmetic for d in (cpu, half)] == ["float32", "bfloat16"]


def test_a_processor_scores_no_more_than_it_gains_from_at_once():
    cpu, gpu = Device(torch.device("cpu"), None, "cpu"), Device(torch.device("cuda"), None, "a GPU")
    assert [cpu.at_once(n) for n in (1, 256, 512)] == [1, 256, 256]
    assert gpu.at_once(512) == 512


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory can be handed back")
def test_freed_memory_goes_back_to_the_system():
    def held():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    blocks = [bytearray(b"x" * 100_000) for _ in range(2000)]
    kept = blocks[::10]  # between the holes
    del blocks
    before = held()
    give_back_memory()
    assert before - held() > 100 and len(kept) == 200
