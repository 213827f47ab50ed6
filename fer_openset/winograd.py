"""3 x 3 convolutions on a CPU with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3).

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.3; the kernel is
`winograd.cpp`, which has a form for maps of 2 x 2 pixels, too. The library's own kernels run near the processor's peak,
so less time means fewer multiplications. Measured (two AVX2 cores, float32, batch 128, forward and both gradients): 2.5
times as fast on 64 channels of 16 x 16 pixels, 2.9 times on 128 of 8 x 8. The result differs from the library's by
rounding, up to 2e-5 of its length.

bf16 maps are multiplied in float32. A processor's vectors hold twice as many bf16 numbers, so where these are all that
multiplies in bf16 (AVX-512, no AMX), Winograd's saving is still the larger one on most maps. That is counted; no such
machine was at hand to measure it.

The kernel is compiled at its first use, in a second or two, and kept in the cache folder. Without a compiler, on other
processors and with FER_OPENSET_WINOGRAD=0 the library's kernels are used.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch

from fer_openset.atomic import atomic_path
from fer_openset.errors import UserError
from fer_openset.settings import cache_dir

SOURCE = Path(__file__).with_suffix(".cpp")
# By torch's name of what the processor has: how many floats a vector holds, and how to say so to the compiler.
FLAGS = {"AVX2": ("-DWINOGRAD_LANES=8", "-mavx2", "-mfma"), "AVX512": ("-DWINOGRAD_LANES=16", "-mavx512f", "-mfma")}
BLOCK, BLOCK_OF_SMALL, GRADIENT_BLOCK = 24, 64, 192  # tiles at a time: measured, they stay in the cache
# Multiplications to save in a batch, for each pair of an input and an output channel, and maps of 2 x 2 pixels to have:
# with fewer, bringing the weights into form costs more than it saves (measured).
FEWEST_SAVED, FEWEST_SMALL = 3300, 64
BF16_GAIN = 2.2  # how much faster products of bf16 vectors are than of float32 ones, measured


def fits(x, weight):
    """Whether `convolve` is the faster way for this input: enough square maps on the CPU, and the kernel is there."""
    n, channels, height, width = x.shape
    if x.device.type != "cpu" or height != width or height < 2 or weight.dtype != torch.float32:
        return False
    direct, ours = 9 * height**2, 36 * (-(-height // 4)) ** 2  # multiplications for an image and a pair of channels
    if n < FEWEST_SMALL if height == 2 else n * (direct - ours) < FEWEST_SAVED:
        return False
    if x.dtype == torch.bfloat16 and (height == 2 or ours * BF16_GAIN > 0.9 * direct or not bf16_pays()):
        return False
    kernel = library()
    serves = kernel is not None and x.dtype in kernel.convolve
    return serves and channels % kernel.panel == 0 and weight.shape[0] % kernel.panel == 0


def convolve(x, weight):
    """A 3 x 3 convolution with stride 1 and padding 1, with gradients. Call it where `fits` says so.

    Shapes: x (N, C, S, S) float32 or bfloat16, weight (D, C, 3, 3) float32 -> (N, D, S, S) of the type of x, channels
    last; the gradient of the weight is float32.
    """
    return _Convolution.apply(x, weight)


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
    return _apply(x, weight.permute(2, 3, 1, 0))


def input_gradient(grad, weight):
    """The gradient of x from that of the result, channels last: a convolution with the taps turned round."""
    return _apply(grad, weight.flip(2, 3).permute(2, 3, 0, 1))


def _apply(x, taps):
    """x (N, C, S, S) channels last, taps (3, 3, C, D) -> (N, D, S, S)."""
    kernel, threads = library(), torch.get_num_threads()
    (n, c, size, _), d, taps = x.shape, taps.shape[3], taps.contiguous()
    packed = torch.empty(kernel.winograd_packed(size, c, d))
    y = torch.empty((n, d, size, size), dtype=x.dtype, memory_format=torch.channels_last)
    kernel.winograd_taps(taps.data_ptr(), size, c, d, packed.data_ptr(), threads)
    pointers = (x.data_ptr(), packed.data_ptr(), y.data_ptr())
    block = BLOCK_OF_SMALL if size == 2 else BLOCK
    _need_memory(kernel.convolve[x.dtype](*pointers, n, size, c, d, block, threads))
    return y


def weight_gradient(x, grad):
    """The gradient of the weight: x (N, C, S, S), grad (N, D, S, S), both channels last -> (D, C, 3, 3)."""
    (n, c, size, _), d = x.shape, grad.shape[1]
    taps = torch.empty(3, 3, c, d)
    pointers = (x.data_ptr(), grad.data_ptr(), taps.data_ptr())
    threads = torch.get_num_threads()
    _need_memory(library().taps_gradient[x.dtype](*pointers, n, size, c, d, GRADIENT_BLOCK, threads))
    return taps.permute(3, 2, 0, 1)


def _need_memory(failed):
    if failed:
        raise MemoryError("no memory left for a convolution; close other programs or lower batch_size")


@cache
def bf16_pays():
    """Whether float32 products after Winograd beat this processor's bf16 products: not where it has AMX for these."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


@cache
def library():
    """The compiled kernel, or None where it cannot be had."""
    flags = FLAGS.get(torch.backends.cpu.get_cpu_capability())
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    linux = platform.system() == "Linux"  # elsewhere another OpenMP than torch's would be loaded
    if os.environ.get("FER_OPENSET_WINOGRAD") == "0" or not (flags and compiler and linux):
        return None
    path = _built(compiler, flags)
    return None if path is None else _loaded(path)


def _built(compiler, flags):
    """Path of the compiled kernel, or None if the compiler fails. It is named by what decides its content."""
    source = SOURCE.read_bytes()
    digest = hashlib.sha256(source + repr((flags, compiler, torch.__version__)).encode()).hexdigest()[:16]
    target = cache_dir() / f"winograd-{digest}.so"
    if target.exists():
        return target
    try:
        with atomic_path(target) as temporary:
            command = [compiler, "-O3", *flags, "-fopenmp", "-shared", "-fPIC", "-o", str(temporary), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
    except (subprocess.SubprocessError, OSError, UserError):
        return None
    return target


def _loaded(path):
    """The kernel's functions with their types, or None if it won't load.

    `panel`: how many channels it takes at a time; `convolve` and `taps_gradient` by the type of the maps.
    """
    try:
        kernel = ctypes.CDLL(str(path))
    except OSError:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    kernel.winograd_packed.argtypes, kernel.winograd_packed.restype = [number] * 3, ctypes.c_long
    kernel.winograd_taps.argtypes = [pointer, number, number, number, pointer, number]
    kernel.convolve = {
        torch.float32: kernel.winograd_convolve,
        torch.bfloat16: kernel.winograd_convolve_bf16,
    }
    kernel.taps_gradient = {
        torch.float32: kernel.winograd_taps_gradient,
        torch.bfloat16: kernel.winograd_taps_gradient_bf16,
    }
    for function in (*kernel.convolve.values(), *kernel.taps_gradient.values()):
        function.argtypes, function.restype = [pointer] * 3 + [number] * 6, number
    kernel.panel = kernel.winograd_panel()
    return kernel
