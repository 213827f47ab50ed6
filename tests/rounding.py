"""What the tests of the kernels share: where there are kernels, and how far a result lies from double precision."""

import pytest
import torch

from fer_openset import kernels

needs_kernel = pytest.mark.skipif(kernels.library() is None, reason="no compiler or another processor: no kernel")


def off_by(mine, exact):
    """Length of the difference as a share of the exact result's."""
    return float((mine.double() - exact).norm() / exact.norm())


def passes(convolve, x, weight, grad):
    """Output and both gradients."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = convolve(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), grad)


def same_bits(work, threads):
    """Whether `work()`, a tuple of tensors, is the same to the bit with each of these numbers of threads."""
    before, found = torch.get_num_threads(), []
    try:
        for count in threads:
            torch.set_num_threads(count)
            found.append(work())
    finally:
        torch.set_num_threads(before)
    return all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def packs(monkeypatch):
    """A list that grows by one at each weight brought into form."""
    done, pack = [], kernels.library().winograd_pack
    monkeypatch.setattr(kernels.library(), "winograd_pack", lambda *given: done.append(given) or pack(*given))
    return done
