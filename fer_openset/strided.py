"""Convolutions of stride 2 on small maps as matrix products, float32 on a CPU; the same numbers to rounding.

Where the library's kernels are slow (milliseconds, the library's and ours: two AVX2 cores, batch 128, forward and both
gradients, `python -m benchmarks.convolutions`):
- A 1 x 1 convolution reads one pixel in four: one product over these. The library's weight gradient is slow on maps of
  an odd size (256 channels, 3 x 3 pixels: 11.5 and 2.5).
- A 3 x 3 convolution to 2 x 2 pixels lets 20 (from 3 x 3 pixels) or 11 (from 4 x 4) of its 36 taps fall on padding. A
  product for each output pixel and row of taps leaves them out, and reads maps and weights where they lie (31.3 and
  10.8; 36.9 and 16.6).
"""

import torch
from torch import nn

LARGEST_1X1 = 16  # pixels a side: measured, on larger maps the library is as fast
OUTPUT_3X3, FEWEST_3X3 = 2, 8  # pixels a side, images: measured, with more pixels or fewer images the library wins


class Conv1x1(nn.Conv2d):
    """A 1 x 1 convolution without bias; same weights, same names and same result as `nn.Conv2d`.

    Shapes: x (N, C, H, W) -> (N, D, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels, out_channels, stride):
        super().__init__(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x):
        small = self.stride[0] == 2 and max(x.shape[2:]) <= LARGEST_1X1
        if small and _plain(x, self.weight):
            return _OnePixelInFour.apply(x, self.weight)
        return super().forward(x)


def fits(x, weight):
    """Whether `convolve` is the faster way for a 3 x 3 convolution of stride 2 and padding 1 over x (N, C, S, S)."""
    return len(x) >= FEWEST_3X3 and -(-x.shape[2] // 2) == OUTPUT_3X3 and _plain(x, weight)


def convolve(x, weight):
    """A 3 x 3 convolution with stride 2 and padding 1, with gradients. Call it where `fits` says so.

    Shapes: x (N, C, S, S) with S = 3 or 4, weight (D, C, 3, 3), both float32 -> (N, D, 2, 2), channels last.
    """
    return _RowsOfTaps.apply(x, weight)


def _plain(x, weight):
    """Float32 on a CPU, and no graph for one image is being drawn (see `traced`)."""
    autocast = torch.is_autocast_enabled("cpu")
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not autocast
        and not torch.jit.is_tracing()
    )


class _OnePixelInFour(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        read = x[:, :, ::2, ::2].permute(0, 2, 3, 1)
        rows = read.flatten(0, 2)
        ctx.save_for_backward(rows, weight)
        ctx.shape = x.shape
        return (rows @ weight.flatten(1).t()).view(*read.shape[:3], -1).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        rows, weight = ctx.saved_tensors
        read = grad.permute(0, 2, 3, 1)
        g, grad_x, grad_weight = read.flatten(0, 2), None, None
        if ctx.needs_input_grad[0]:
            grad_x = _zeros(ctx.shape)
            grad_x[:, :, ::2, ::2] = (g @ weight.flatten(1)).view(*read.shape[:3], -1).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            grad_weight = (g.t() @ rows).view_as(weight)
        return grad_x, grad_weight


class _RowsOfTaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        x, weight = (part.contiguous(memory_format=torch.channels_last) for part in (x, weight))
        ctx.save_for_backward(x, weight)
        y = _zeros((len(x), len(weight), OUTPUT_3X3, OUTPUT_3X3))
        for pixel, taps, out in _views(x, weight, y):
            out.addmm_(pixel, taps.t())
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x, grad_weight = (
            _zeros(part.shape) if asked else None for part, asked in zip((x, weight), ctx.needs_input_grad, strict=True)
        )
        if grad_x is not None:
            for pixels, taps, out in _views(grad_x, weight, grad):
                pixels.addmm_(out, taps)
        if grad_weight is not None:
            for pixels, taps, out in _views(x, grad_weight, grad):
                taps.addmm_(out.t(), pixels)
        return grad_x, grad_weight


def _zeros(shape):
    return torch.empty(shape, memory_format=torch.channels_last).zero_()


def _views(x, weight, y):
    """For each output pixel and row of taps that meets the map: pixels (N, w*C), taps (D, w*C) and output (N, D), all
    views of channels-last tensors; w taps of the row meet the map."""
    x, weight, y = (part.permute(0, 2, 3, 1) for part in (x, weight, y))
    meeting = [_meeting(out, x.shape[1]) for out in range(OUTPUT_3X3)]
    for i, (rows, tap_rows) in enumerate(meeting):
        for j, (columns, tap_columns) in enumerate(meeting):
            for row, tap_row in zip(rows, tap_rows, strict=True):
                pixels = x[:, row, columns.start : columns.stop].view(len(x), -1)
                taps = weight[:, tap_row, tap_columns.start : tap_columns.stop].view(len(weight), -1)
                yield pixels, taps, y[:, i, j]


def _meeting(out, size):
    """The pixels that an output pixel reads in one direction, and the taps that it reads them with: two ranges."""
    first = 2 * out - 1
    pixels = range(max(first, 0), min(first + 3, size))
    return pixels, range(pixels.start - first, pixels.stop - first)
