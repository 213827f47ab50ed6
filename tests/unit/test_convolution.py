"""The fast 3 x 3 convolutions are the library's, to rounding: outputs, both gradients, weights and names."""

import pytest
import torch
from torch import nn

from fer_openset.convolution import Conv3x3

MAPS = [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (3, 2), (4, 2), (7, 2)]  # pixels a side, stride


def pair(stride, dtype=torch.float32):
    """Ours and the library's convolution with the same weights."""
    ours = Conv3x3(5, 6, stride).to(dtype).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(5, 6, 3, stride, 1, bias=False).to(dtype).to(memory_format=torch.channels_last)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def passes(conv, x, g=None):
    """Output, gradient of the input, gradient of the weights."""
    x = x.clone().requires_grad_()
    y = conv(x)
    y.backward(torch.ones_like(y) if g is None else g)
    return y.detach(), x.grad, conv.weight.grad


@pytest.mark.parametrize(("size", "stride"), MAPS)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_same_outputs_and_gradients_in_float32(size, stride, layout):
    ours, plain = pair(stride)
    x = torch.randn(4, 5, size, size).contiguous(memory_format=layout)
    g = torch.randn(4, 6, -(-size // stride), -(-size // stride))
    for mine, theirs in zip(passes(ours, x, g), passes(plain, x, g), strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), MAPS)
def test_same_gradients_as_float32_to_bf16_rounding(size, stride):
    ours, plain = pair(stride)
    x, g = torch.randn(64, 5, size, size), torch.randn(64, 6, -(-size // stride), -(-size // stride)).bfloat16()
    exact = passes(plain, x.bfloat16().float(), g.float())
    with torch.autocast("cpu", torch.bfloat16):
        got = passes(ours, x.bfloat16(), g)
    assert got[0].dtype == torch.bfloat16 and got[2].dtype == torch.float32
    for mine, theirs in zip(got, exact, strict=True):
        assert (mine.float() - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize(("size", "stride"), MAPS)
def test_float32_maps_under_autocast_are_rounded_as_bf16_maps_are(size, stride):
    """Features that are fed into a stage come in float32. (The library's own bf16 gradients are no measure: wrong here
    at size 1, stride 2.)"""
    ours, plain = pair(stride)
    x = torch.randn(64, 5, size, size)
    exact = passes(plain, x)
    with torch.autocast("cpu", torch.bfloat16):
        got = passes(ours, x)
    assert [part.dtype for part in got] == [torch.bfloat16, torch.float32, torch.float32]
    for mine, theirs in zip(got, exact, strict=True):
        assert (mine.float() - theirs).norm() < 0.01 * theirs.norm()


def test_a_map_that_is_not_square_takes_the_library_s_way():
    ours, plain = pair(1)
    x = torch.randn(2, 5, 2, 3)
    torch.testing.assert_close(ours(x), plain(x))


def test_no_gradient_is_computed_that_nobody_asked_for():
    for stride, size in ((1, 2), (2, 4)):
        conv = Conv3x3(5, 6, stride)
        conv.weight.requires_grad_(False)
        x = torch.randn(2, 5, size, size, requires_grad=True)
        conv(x).sum().backward()
        assert x.grad is not None and conv.weight.grad is None
