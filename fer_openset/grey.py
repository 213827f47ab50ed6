"""The first convolution of a ResNet over grey images, on a CPU: one channel's multiplications instead of three's.

A grey image in a network for colours is three equal channels, so the convolution is that of one channel with the sum of
the three channels' taps, and each of these gets the same gradient. The kernel is `kernels/grey.cpp`; the library's own
is slower with one channel than with three. Measured (two AVX2 cores, float32, 128 images of 64 pixels a side, forward
and weight gradient): 13 ms instead of 34.
"""

import torch

from fer_openset import kernels

SHAPE = {"kernel_size": (7, 7), "stride": (2, 2), "padding": (3, 3)}


def three_channels(x):
    """A grey image as three equal channels, channels last; a colour image as it is. Shapes: (N, 1 or 3, H, W)."""
    return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last) if x.shape[1] == 1 else x


def fits(x, conv):
    """Whether `convolve` serves for this input (N, 1, S, S) of a first convolution `conv`."""
    if x.device.type != "cpu" or x.shape[1] != 1 or x.shape[2] != x.shape[3] or x.dtype != torch.float32:
        return False
    if torch.jit.is_tracing() or torch.is_autocast_enabled("cpu") or x.requires_grad:
        return False
    if not isinstance(conv, torch.nn.Conv2d) or conv.bias is not None or conv.weight.dtype != torch.float32:
        return False
    kernel = kernels.library()
    shape = all(getattr(conv, name) == value for name, value in SHAPE.items())
    return kernel is not None and shape and conv.out_channels % kernel.panel == 0


def convolve(x, weight):
    """The convolution with three equal channels, with the gradient of the weight. Call it where `fits` says so.

    Shapes: x (N, 1, S, S), weight (D, 3, 7, 7) -> (N, D, ceil(S / 2), ceil(S / 2)), float32, channels last.
    """
    return _Convolution.apply(x, weight)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.channels = weight.shape[1]
        taps = weight.sum(1).flatten(1).t().contiguous()  # (49, D)
        (n, _, size, _), d, out = x.shape, taps.shape[1], -(-x.shape[2] // 2)
        y = torch.empty((n, d, out, out), memory_format=torch.channels_last)
        _call("grey_convolve", x, taps, y, n, size, d)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        taps = torch.empty(49, grad.shape[1])
        _call("grey_gradient", x, grad, taps, len(x), x.shape[2], grad.shape[1])
        one = taps.t().view(-1, 1, 7, 7)
        return None, one.expand(-1, ctx.channels, -1, -1).contiguous(memory_format=torch.channels_last)


def _call(name, first, second, result, *numbers):
    pointers = (tensor.data_ptr() for tensor in (first, second, result))
    kernels.need_memory(getattr(kernels.library(), name)(*pointers, *numbers, torch.get_num_threads()))
