"""The first convolution of a ResNet over grey images, on a CPU: one channel's multiplications instead of three's.

A grey image in a network for colours is three equal channels, so the convolution is that of one channel with the sum of
the three channels' taps, and each of these gets the same gradient. In float32 the library is slower with one channel
than with three, so that there is a kernel, `kernels/grey.cpp`; in bf16 it is faster. Measured (two cores, 128 images of
64 pixels a side, forward and weight gradient): float32, AVX2, 13 ms instead of 34; bf16, Zen 5, 4.1 instead of 8.1.
"""

import torch
import torch.nn.functional as F

from fer_openset import kernels

SHAPE = {"kernel_size": (7, 7), "stride": (2, 2), "padding": (3, 3)}


def first(x, conv):
    """What the first convolution `conv` gives for grey or colour images. Shapes: x (N, 1 or 3, H, W)."""
    if fits(x, conv):
        return convolve(x, conv.weight)
    if _in_bf16(x, conv):
        x = x[:, 0].unsqueeze(-1).permute(0, 3, 1, 2)  # channels last, which one channel does not say by itself
        return F.conv2d(x, conv.weight.sum(1, keepdim=True), None, conv.stride, conv.padding)
    return conv(three_channels(x))


def _in_bf16(x, conv):
    """Whether x is grey and `conv` the library's, in bf16 on a CPU."""
    plain = isinstance(conv, torch.nn.Conv2d) and conv.bias is None
    return plain and x.shape[1] == 1 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")


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
