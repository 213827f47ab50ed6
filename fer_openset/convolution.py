"""The 3 x 3 convolutions of a ResNet, faster on a CPU than the library's kernels.

The numbers are the same to rounding; `benchmarks/` measures the gain. Four cases, all from counting:
- On a map of 2 x 2 or 1 x 1 pixels most of the nine taps fall on padding. The convolution is one matrix product with
  4/9 or 1/9 of the multiplications.
- The weight gradient over few output pixels is one matrix product over (batch x pixels), where the library's kernel
  pads each tiny row on its own.
- With stride 1, a batch of larger maps needs a quarter of the multiplications: see `winograd`.
- With stride 2, to 2 x 2 pixels, the taps that fall on padding are left out: see `strided`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from fer_openset import strided, winograd

LARGEST_DENSE = 2  # pixels a side: from 3 on the product has no fewer multiplications than the convolution
LARGEST_GRADIENT = 4  # pixels a side of a stride-1 map: measured (bf16), on larger ones the library is as fast


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution, padding 1, no bias; same weights, same names and same result as `nn.Conv2d`.

    Shapes: x (N, C, H, W) -> (N, D, ceil(H / stride), ceil(W / stride)). For one image see `packed`, `traced`.
    """

    def __init__(self, in_channels, out_channels, stride):
        super().__init__(in_channels, out_channels, 3, stride, 1, bias=False)

    def forward(self, x):
        height, width = x.shape[2:]
        if x.device.type != "cpu" or height != width or torch.jit.is_tracing():  # tracing: see `traced`
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):  # as the library's own does; features fed into a stage come as float32
            x = x.to(torch.get_autocast_dtype("cpu"))
        stride = self.stride[0]
        if stride == 1 and winograd.fits(x, self.weight):
            return winograd.convolve(x, self.weight)
        if stride == 1 and height <= LARGEST_DENSE:
            return _Dense.apply(x, self.weight)
        if stride == 2 and strided.fits(x, self.weight):
            return strided.convolve(x, self.weight)
        if stride == 2 or height <= LARGEST_GRADIENT:
            return _ProductGradient.apply(x, self.weight, stride)
        return super().forward(x)


class _Dense(torch.autograd.Function):
    """The convolution of a map of S x S pixels, S <= 2, as a product of (N, S*S*C) and (S*S*C, S*S*D) matrices."""

    @staticmethod
    def forward(ctx, x, weight):
        n, _, size, _ = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n, -1)
        matrix = _spread(weight.to(x.dtype), size)
        ctx.save_for_backward(rows, matrix)
        ctx.shapes = x.shape, weight.shape
        return (rows @ matrix.t()).view(n, size, size, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad):
        rows, matrix = ctx.saved_tensors
        (n, channels, size, _), shape = ctx.shapes
        g = grad.permute(0, 2, 3, 1).reshape(n, -1)
        grad_x = (g @ matrix).view(n, size, size, channels).permute(0, 3, 1, 2) if ctx.needs_input_grad[0] else None
        return grad_x, _gather(g.t() @ rows, size, shape) if ctx.needs_input_grad[1] else None


def _taps(out_pixel, size):
    """Which of the three taps of an output pixel meet the input pixels 0..size-1, in their order."""
    return slice(1 - out_pixel, 1 - out_pixel + size)


def _spread(weight, size):
    """(D, C, 3, 3) -> (size*size*D, size*size*C): the row of output pixel p holds its tap at each input pixel."""
    d, c = weight.shape[:2]
    matrix = weight.new_empty(size, size, d, size, size, c)
    for y in range(size):
        for x in range(size):
            matrix[y, x] = weight.permute(0, 2, 3, 1)[:, _taps(y, size), _taps(x, size)]
    return matrix.view(size * size * d, size * size * c)


def _gather(grad, size, shape):
    """The adjoint of `_spread`, summed in float32."""
    d, c = shape[:2]
    blocks = grad.view(size, size, d, size, size, c)
    out = torch.zeros(d, 3, 3, c)
    for y in range(size):
        for x in range(size):
            out[:, _taps(y, size), _taps(x, size)] += blocks[y, x]
    return out.permute(0, 3, 1, 2)


class _ProductGradient(torch.autograd.Function):
    """The library's convolution and input gradient; the weight gradient as one product over batch and pixels."""

    @staticmethod
    def forward(ctx, x, weight, stride):
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight.to(x.dtype), None, stride, 1)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        s = ctx.stride
        grad_x = None
        if ctx.needs_input_grad[0]:
            sizes = ([s, s], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False])
            grad_x = torch.ops.aten.convolution_backward(grad, x, weight.to(x.dtype), None, *sizes)[0]
        return grad_x, _weight_gradient(grad, x, s) if ctx.needs_input_grad[1] else None, None


def _weight_gradient(grad, x, stride):
    """(N, D, h, w), (N, C, H, W) -> (D, C, 3, 3) float32."""
    height, width = grad.shape[2:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    taps = [
        padded[:, i : i + stride * height : stride, j : j + stride * width : stride] for i in range(3) for j in range(3)
    ]
    columns = torch.stack(taps, 3).flatten(0, 2).flatten(1)  # (N*h*w, 9*C)
    product = grad.permute(0, 2, 3, 1).flatten(0, 2).t() @ columns
    return product.view(-1, 3, 3, x.shape[1]).permute(0, 3, 1, 2).float()
