"""The ResNets are torchvision's: names, initial weights, outputs, gradients; torchvision itself is not imported."""

import subprocess
import sys

import pytest
import torch
from torchvision import models

from fer_openset import kernels, strided
from fer_openset.resnet import BACKBONES, resnet


def pair(name):
    torch.manual_seed(3)
    ours = resnet(name)
    torch.manual_seed(3)
    return ours, getattr(models, name)(weights=None)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_seed_gives_torchvision_s_names_and_initial_weights(name):
    ours, theirs = (net.state_dict() for net in pair(name))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[k], v) for k, v in theirs.items())


@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize("name", BACKBONES)
def test_outputs_and_gradients_are_torchvision_s(name, size, monkeypatch):
    """With the library's convolutions: four images through a random network make much of any rounding."""
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(strided, "_plain", lambda x, weight: False)
    ours, theirs = pair(name)
    x = torch.randn(4, 3, size, size)
    for net in (ours, theirs):
        net(x).square().mean().backward()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)
    for (key, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine.grad - other.grad).norm() <= 1e-3 * other.grad.norm() + 1e-7, key


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_one_after_the_other_are_the_whole_pass(name):
    net, _ = pair(name)
    net.eval()
    x = torch.randn(2, 3, 64, 64)
    first = net.until(x, 1)
    second = net.since(first, 1, 2)
    assert torch.equal(second, net.until(x, 2)) and second.shape[1] == 2 * first.shape[1]
    assert torch.equal(net.since(second, 2), net.until(x, 4))
    assert torch.equal(net.since(second, 2, 2), second)


def test_starting_a_notebook_does_not_import_what_is_slow_and_not_needed():
    slow = "('torchvision', 'torch._dynamo', 'sklearn', 'scipy.stats')"
    code = f"import sys, fer_openset.pipeline, fer_openset.figures; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
