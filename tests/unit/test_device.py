"""What a device says of itself."""

import torch

from fer_openset import kernels, winograd
from fer_openset.device import Device


def test_the_arithmetic_is_named(monkeypatch):
    cpu, half = Device(torch.device("cpu"), None, "cpu"), Device(torch.device("cpu"), torch.bfloat16, "cpu")
    gpu = Device(torch.device("cuda"), torch.bfloat16, "a GPU")
    monkeypatch.setattr(kernels, "library", lambda: object())
    monkeypatch.setattr(winograd, "bf16_pays", lambda: False)
    assert [d.arithmetic for d in (cpu, half, gpu)] == ["float32, Winograd's convolutions", "bfloat16", "bfloat16"]
    monkeypatch.setattr(winograd, "bf16_pays", lambda: True)
    assert [d.arithmetic for d in (half, gpu)] == ["bfloat16, Winograd's convolutions", "bfloat16"]
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert [d.arithmetic for d in (cpu, half)] == ["float32", "bfloat16"]


def test_a_processor_scores_no_more_than_it_gains_from_at_once():
    cpu, gpu = Device(torch.device("cpu"), None, "cpu"), Device(torch.device("cuda"), None, "a GPU")
    assert [cpu.at_once(n) for n in (1, 256, 512)] == [1, 256, 256]
    assert gpu.at_once(512) == 512
