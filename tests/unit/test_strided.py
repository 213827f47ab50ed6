"""Convolutions of stride 2 as matrix products are the library's, to rounding, and used where they are faster."""

import pytest
import torch
import torch.nn.functional as F
from rounding import off_by, passes
from torch.utils._python_dispatch import TorchDispatchMode

from fer_openset import strided
from fer_openset.convolution import Conv3x3
from fer_openset.strided import Conv1x1


def problem(taps, size, n=8, c=5, d=7):
    """Random x, weight and gradient of the result."""
    out = -(-size // 2)
    return torch.randn(n, c, size, size), torch.randn(d, c, taps, taps), torch.randn(n, d, out, out)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [3, 4])
def test_three_by_three_to_two_pixels_is_the_library_s(size, layout):
    x, weight, grad = problem(3, size)
    assert strided.fits(x, weight)
    exact = passes(lambda x, w: F.conv2d(x, w, None, 2, 1), x.double(), weight.double(), grad.double())
    parts = (part.contiguous(memory_format=layout) for part in (x, weight, grad))
    for mine, theirs in zip(passes(strided.convolve, *parts), exact, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == torch.float32
        assert off_by(mine, theirs) < 1e-6


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 16])
def test_one_by_one_is_the_library_s(size, layout):
    x, weight, grad = problem(1, size)
    conv = Conv1x1(5, 7, 2)
    exact = passes(lambda x, w: F.conv2d(x, w, None, 2), x.double(), weight.double(), grad.double())
    parts = (part.contiguous(memory_format=layout) for part in (x, weight, grad))
    found = passes(lambda x, w: torch.func.functional_call(conv, {"weight": w}, (x,)), *parts)
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == torch.float32
        assert off_by(mine, theirs) < 1e-6


def test_a_number_that_is_none_stays_where_the_convolution_puts_it():
    for taps, size, convolve in ((3, 4, strided.convolve), (1, 4, strided._OnePixelInFour.apply)):
        x, weight, _ = problem(taps, size)
        x[0, 0, 0, 0] = float("nan")
        theirs = F.conv2d(x, weight, None, 2, taps // 2)
        assert torch.equal(convolve(x, weight).isnan(), theirs.isnan()) and theirs.isnan().any()


class Products(TorchDispatchMode):
    """Counts matrix products."""

    n = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        self.n += call.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        return call(*args, **(kwargs or {}))


@pytest.mark.parametrize(("taps", "products"), [(1, 1), (3, 8)])
def test_no_gradient_is_computed_that_nobody_asked_for(taps, products):
    """Autograd drops a gradient that nobody needs, so what arrives does not tell: count the products."""
    x, weight, grad = problem(taps, 3)
    function = strided._RowsOfTaps if taps == 3 else strided._OnePixelInFour
    for asked in ((True, False), (False, True), (True, True)):
        y = function.apply(
            *(part.clone().requires_grad_(wanted) for part, wanted in zip((x, weight), asked, strict=True))
        )
        with Products() as counted:
            y.backward(grad)
        assert counted.n == products * sum(asked)


def test_only_where_it_is_faster(monkeypatch):
    used = []
    monkeypatch.setattr(strided, "convolve", lambda x, w: used.append(tuple(x.shape)) or F.conv2d(x, w, None, 2, 1))
    conv, x = Conv3x3(5, 7, 2), torch.randn(8, 5, 4, 4)
    conv(x)
    assert used == [(8, 5, 4, 4)]
    for other in (x[:7], torch.randn(8, 5, 6, 6), x[:, :, :2, :2], x[:, :, :, :3]):
        assert conv(other).shape[2:] == (-(-other.shape[2] // 2), -(-other.shape[3] // 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    assert len(used) == 1


def test_one_by_one_leaves_the_rest_to_the_library(monkeypatch):
    used = []
    original = strided._OnePixelInFour.apply
    monkeypatch.setattr(strided._OnePixelInFour, "apply", lambda *given: used.append(given) or original(*given))
    conv, unstrided = Conv1x1(5, 7, 2), Conv1x1(5, 7, 1)
    conv(torch.randn(2, 5, 4, 4))
    assert len(used) == 1
    unstrided(torch.randn(2, 5, 4, 4)), conv(torch.randn(2, 5, 17, 17)), conv.double()(torch.randn(2, 5, 4, 4).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert conv.float()(torch.randn(2, 5, 4, 4)).dtype == torch.bfloat16
    assert len(used) == 1
