"""The first convolution over grey images is the library's over three equal channels, to rounding."""

import pytest
import torch
import torch.nn.functional as F
from rounding import needs_kernel, off_by, same_bits
from torch import nn

from fer_openset import grey, kernels
from fer_openset.backbones import new_net

pytestmark = needs_kernel


def first(outputs=64):
    torch.manual_seed(0)
    return nn.Conv2d(3, outputs, 7, 2, 3, bias=False).to(memory_format=torch.channels_last)


def plain(x, weight):
    return F.conv2d(x.expand(-1, 3, -1, -1), weight, None, 2, 3)


@pytest.mark.parametrize(("n", "size"), [(1, 48), (17, 9), (8, 1), (9, 64), (3, 113), (64, 32)])
@pytest.mark.parametrize("outputs", [32, 64])
def test_output_and_gradient_are_those_of_double_precision(n, size, outputs):
    x, conv = torch.randn(n, 1, size, size), first(outputs)
    assert grey.fits(x, conv)
    y = grey.convolve(x, conv.weight)
    exact_weight = conv.weight.detach().double().requires_grad_()
    exact = plain(x.double(), exact_weight)
    grad = torch.randn(y.shape)
    (mine,) = torch.autograd.grad(y, conv.weight, grad)
    (right,) = torch.autograd.grad(exact, exact_weight, grad.double())
    assert y.shape == exact.shape and y.is_contiguous(memory_format=torch.channels_last)
    assert off_by(y.detach(), exact.detach()) < 1e-6 and off_by(mine, right) < 5e-6


def test_the_same_bits_whatever_the_number_of_threads():
    x, conv, grad = torch.randn(50, 1, 20, 20), first(), torch.randn(50, 64, 10, 10)

    def passes():
        y = grey.convolve(x, conv.weight)
        return y.detach(), *torch.autograd.grad(y, conv.weight, grad)

    assert same_bits(passes, (1, 2, 5))


def test_any_layout_of_images_and_gradients():
    conv = first()
    x = torch.randn(4, 3, 30, 20)[:, 1:2, :20].transpose(2, 3)
    y = grey.convolve(x, conv.weight)
    grad = torch.randn(4, 10, 10, 64).permute(0, 3, 2, 1)
    torch.testing.assert_close(y, plain(x, conv.weight), atol=1e-5, rtol=1e-5)
    (mine,) = torch.autograd.grad(y, conv.weight, grad)
    (right,) = torch.autograd.grad(plain(x, conv.weight), conv.weight, grad)
    torch.testing.assert_close(mine, right, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("case", ["colour", "oblong", "double", "gradient", "taps", "autocast", "channels"])
def test_what_it_does_not_do_is_left_to_the_library(case):
    x, conv = torch.randn(2, 1, 16, 16), first(40 if case == "channels" else 64)
    if case == "taps":
        conv = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    x = {"colour": x.expand(-1, 3, -1, -1), "oblong": x[..., :8], "double": x.double()}.get(case, x)
    x.requires_grad_(case == "gradient")
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        assert not grey.fits(x, conv)


def test_a_network_takes_this_way_for_grey_images_and_gives_what_it_gives_for_three_channels(monkeypatch):
    used, real = [], grey.convolve
    monkeypatch.setattr(grey, "convolve", lambda *found: used.append(1) or real(*found))
    net, x = new_net("resnet18", 4, 0, zero_head=False).eval(), torch.rand(3, 1, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(x.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)
    assert used == [1]
    image = x.clone().requires_grad_()
    net(image).sum().backward()
    assert used == [1] and image.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [48, 33])
def test_in_bf16_the_library_gets_one_channel_and_each_of_three_its_gradient(size):
    x, conv = torch.randn(9, 1, size, size), first()
    with torch.autocast("cpu", torch.bfloat16):
        y, three = grey.first(x, conv), conv(grey.three_channels(x))
    assert y.dtype == torch.bfloat16 and y.shape == three.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    exact_weight = conv.weight.detach().double().requires_grad_()
    exact = plain(x.double(), exact_weight)
    grad = torch.randn(y.shape)
    (mine,) = torch.autograd.grad(y, conv.weight, grad.bfloat16())
    (right,) = torch.autograd.grad(exact, exact_weight, grad.double())
    assert off_by(y.detach().double(), exact.detach()) < 5e-3 and off_by(mine.double(), right) < 5e-3
    assert torch.equal(mine[:, 0], mine[:, 1]) and torch.equal(mine[:, 0], mine[:, 2])


@pytest.mark.parametrize("case", ["colour", "bias"])
def test_in_bf16_what_is_not_grey_or_has_a_bias_goes_through_the_module(case):
    conv = nn.Conv2d(3, 8, 7, 2, 3, bias=case == "bias")
    x, called = torch.randn(2, 3 if case == "colour" else 1, 16, 16), []
    conv.register_forward_hook(lambda *_: called.append(1))
    with torch.autocast("cpu", torch.bfloat16):
        grey.first(x, conv)
    assert called == [1]


def test_without_memory_it_says_so(monkeypatch):
    class Full:
        grey_convolve = staticmethod(lambda *_: 1)

    monkeypatch.setattr(kernels, "library", lambda: Full)
    with pytest.raises(MemoryError, match="batch_size"):
        grey.convolve(torch.randn(2, 1, 16, 16), first().weight)
