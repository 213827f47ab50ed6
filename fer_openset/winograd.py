"""3 x 3 convolutions on a CPU with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3) and its like.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.3; the kernel is
`kernels/winograd.cpp`, which has forms for maps of 3, 6 and 2 pixels, too. The library's own kernels run near the
processor's peak, so less time means fewer multiplications. Measured (two AVX2 cores, float32, batch 128, forward and
both gradients): 2.4 times as fast on 64 channels of 16 x 16 pixels, 2.6 times on 128 of 8 x 8. The result differs from
the library's by rounding, up to 2e-5 of its length.

Under bf16 autocast the library's kernels are used. Its bf16 products are twice as fast as float32 ones, and bringing
maps into form costs the rest of what this saves (measured on AVX-512: no faster in a training step of any size).
"""

from contextlib import contextmanager

import torch

from fer_openset import kernels

BLOCK, BLOCK_OF_SMALL, GRADIENT_BLOCK = 24, 64, 192  # tiles at a time: measured, they stay in the cache
# Multiplications to save in a batch, for each pair of channels and each point of the form, and maps of 2 x 2 pixels to
# have: with fewer, bringing the weights into form costs more than it saves (measured; LARGE ones leave the cache).
FEWEST_SAVED, FEWEST_SAVED_IF_LARGE, FEWEST_SMALL = 45, 140, 8
LARGE = 512 * 512  # pairs of channels

TILES4, TILES3, MAP2 = range(3)  # the forms, as in winograd.cpp
POINTS = (36, 25, 9)
_kept = None  # while `same_weights` lasts: {address of a weight: {(form, turned): the weight in that form}}


def form_for(size):
    """The form with the fewest multiplications for maps of size x size pixels: (its number, how many they are).

    They are counted for an image and a pair of channels; the plain way takes 9 size^2.
    """
    if size == 2:
        return MAP2, POINTS[MAP2]
    found = {TILES4: POINTS[TILES4] * (-(-size // 4)) ** 2, TILES3: POINTS[TILES3] * (-(-size // 3)) ** 2}
    return min(found.items(), key=lambda item: item[1])


def fits(x, weight):
    """Whether `convolve` is the faster way for this input: enough square maps on the CPU, and the kernel is there."""
    n, channels, height, width = x.shape
    if x.device.type != "cpu" or height != width or height < 2 or not x.dtype == weight.dtype == torch.float32:
        return False
    (form, ours), direct = form_for(height), 9 * height**2
    fewest = FEWEST_SAVED if channels * weight.shape[0] < LARGE else FEWEST_SAVED_IF_LARGE
    if n < FEWEST_SMALL if form == MAP2 else n * (direct - ours) < fewest * POINTS[form]:
        return False
    kernel = kernels.library()
    return kernel is not None and channels % kernel.panel == 0 and weight.shape[0] % kernel.panel == 0


def convolve(x, weight):
    """A 3 x 3 convolution with stride 1 and padding 1, with gradients. Call it where `fits` says so.

    Shapes: x (N, C, S, S), weight (D, C, 3, 3), both float32 -> (N, D, S, S), channels last.
    """
    return _Convolution.apply(x, weight)


@contextmanager
def same_weights(net):
    """Inside, a weight of `net` is brought into form once, not in each pass: for steps that pass it more than once.

    No pass may follow a change of its weights inside: a fused optimiser leaves no mark that would tell. Memory, until
    the end: for each direction once to four times that of the weights.
    """
    global _kept
    before, _kept = _kept, {weight.data_ptr(): {} for weight in net.parameters()}
    try:
        yield
    finally:
        _kept = before


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        return forward(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = input_gradient(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, weight_gradient(x, grad) if ctx.needs_input_grad[1] else None


def forward(x, weight):
    """The convolution without a gradient; x channels last."""
    return _apply(x, weight, turned=False)


def input_gradient(grad, weight):
    """The gradient of x from that of the result, channels last: a convolution with the taps turned round."""
    return _apply(grad, weight, turned=True)


def _apply(x, weight, turned):
    """x (N, C, S, S) channels last, weight (D, C, 3, 3) -> (N, D, S, S); turned: from D to C channels."""
    kernel, threads = kernels.library(), torch.get_num_threads()
    (n, c, size, _), (outputs, inputs) = x.shape, weight.shape[:2]
    d, form = inputs if turned else outputs, form_for(size)[0]
    packed = _packed(weight, form, turned)
    y = torch.empty((n, d, size, size), memory_format=torch.channels_last)
    pointers = (x.data_ptr(), packed.data_ptr(), y.data_ptr())
    block = BLOCK_OF_SMALL if form == MAP2 else BLOCK
    kernels.need_memory(kernel.winograd_convolve(*pointers, form, n, size, c, d, block, threads))
    return y


def _packed(weight, form, turned):
    """The weight in its form, from `same_weights` where it is known there."""
    kept = (_kept or {}).get(weight.data_ptr(), {})  # a new one is thrown away: nothing is kept
    if (form, turned) not in kept:
        kernel, threads = kernels.library(), torch.get_num_threads()
        lying, (outputs, inputs) = weight.contiguous(memory_format=torch.channels_last), weight.shape[:2]
        packed = torch.empty(kernel.winograd_packed(form, *((outputs, inputs) if turned else (inputs, outputs))))
        kernel.winograd_pack(lying.data_ptr(), form, inputs, outputs, turned, packed.data_ptr(), threads)
        kept[form, turned] = packed
    return kept[form, turned]


def weight_gradient(x, grad):
    """The gradient of the weight: x (N, C, S, S), grad (N, D, S, S), both channels last -> (D, C, 3, 3), the same."""
    (n, c, size, _), d = x.shape, grad.shape[1]
    weight, form = torch.empty((d, c, 3, 3), memory_format=torch.channels_last), form_for(size)[0]
    pointers = (x.data_ptr(), grad.data_ptr(), weight.data_ptr())
    kernel, threads = kernels.library(), torch.get_num_threads()
    failed = kernel.winograd_weight_gradient(*pointers, form, n, size, c, d, GRADIENT_BLOCK, threads)
    kernels.need_memory(failed)
    return weight
