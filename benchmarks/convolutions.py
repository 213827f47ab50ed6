"""python -m benchmarks.convolutions [--batch N]: the library's convolutions and the workbook's, in milliseconds."""

import argparse
import sys
import time

import torch
import torch.nn.functional as F

from benchmarks.tables import markdown
from fer_openset import grey, kernels, strided, winograd
from fer_openset.convolution import Conv3x3
from fer_openset.device import pick_device

MAPS = ((64, 28), (64, 16), (64, 12), (128, 14), (128, 8), (128, 6), (256, 7), (256, 4), (256, 3), (512, 4), (512, 2))
STRIDED = (  # taps a side, channels, pixels a side; the first of one tap is larger than what is taken over
    (3, 256, 4), (3, 256, 3),
    (1, 64, 28), (1, 64, 16), (1, 64, 12), (1, 128, 8), (1, 128, 6), (1, 256, 7), (1, 256, 4), (1, 256, 3),
)  # fmt: skip
PASSES = ("forward", "input gradient", "weight gradient", "both gradients")
IMAGES = (112, 64, 48)  # pixels a side, for the first convolution
BACKWARD = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, transposed, output padding, groups


def fastest(work, seconds=0.3):
    """Milliseconds of the fastest run within `seconds` (three runs at least), after one that is not timed."""
    work()
    times, began = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def passes(channels, size, batch):
    """{pass: (the library's, ours)}: functions that do one pass of a convolution from as many channels to as many."""
    x, grad = (torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last) for _ in range(2))
    weight = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)

    def library(*wanted):
        return lambda: torch.ops.aten.convolution_backward(grad, x, weight, None, *BACKWARD, [*wanted, False])

    return {
        "forward": (lambda: F.conv2d(x, weight, None, 1, 1), lambda: winograd.forward(x, weight)),
        "input gradient": (library(True, False), lambda: winograd.input_gradient(grad, weight)),
        "weight gradient": (library(False, True), lambda: winograd.weight_gradient(x, grad)),
    }


def first_passes(size, batch):
    """The same for a ResNet's first convolution over grey images; the library's gets three equal channels."""
    grey_images = torch.randn(batch, 1, size, size)
    x = grey.three_channels(grey_images)
    weight = torch.randn(64, 3, 7, 7).to(memory_format=torch.channels_last).requires_grad_()
    fixed, y = weight.detach(), grey.convolve(grey_images, weight)
    grad = torch.randn(y.shape).to(memory_format=torch.channels_last)
    how = ([2, 2], [3, 3], [1, 1], False, [0, 0], 1, [False, True, False])
    return {
        "forward": (lambda: F.conv2d(x, fixed, None, 2, 3), lambda: grey.convolve(grey_images, fixed)),
        "weight gradient": (
            lambda: torch.ops.aten.convolution_backward(grad, x, fixed, None, *how),
            lambda: torch.autograd.grad(y, weight, grad, retain_graph=True),
        ),
    }


def strided_passes(taps, channels, size, batch):
    """The same for a convolution of stride 2 to twice as many channels."""
    out = -(-size // 2)
    x = torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last).requires_grad_()
    conv = strided.Conv1x1(channels, 2 * channels, 2) if taps == 1 else Conv3x3(channels, 2 * channels, 2)
    conv = conv.to(memory_format=torch.channels_last)
    weight, y = conv.weight, conv(x)
    grad = torch.randn(batch, 2 * channels, out, out).to(memory_format=torch.channels_last)
    how = ([2, 2], [taps // 2] * 2, *BACKWARD[2:], [True, True, False])
    fixed_x, fixed = x.detach(), weight.detach()
    return {
        "forward": (lambda: F.conv2d(fixed_x, fixed, None, 2, taps // 2), lambda: conv(fixed_x)),
        "both gradients": (
            lambda: torch.ops.aten.convolution_backward(grad, fixed_x, fixed, None, *how),
            lambda: torch.autograd.grad(y, (x, weight), grad, retain_graph=True),
        ),
    }


def main(arguments=None):
    """Print a row for each map of a ResNet-18 at 48, 64 and 112 px."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolutions", description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="images; default: 128")
    options = parser.parse_args(arguments)
    if options.batch < 1:
        parser.error("--batch: expected 1 or more")
    pick_device()  # for its number of threads
    if kernels.library() is None:
        print("no kernel here: it needs g++ and a processor with AVX2", file=sys.stderr)
        return 1
    print(f"float32, batch {options.batch}, {torch.get_num_threads()} threads; milliseconds, library and ours\n")
    rows = [_row(f"first, {size} x {size}", first_passes(size, options.batch)) for size in IMAGES]
    rows += [_row(f"{channels}, {size} x {size}", passes(channels, size, options.batch)) for channels, size in MAPS]
    rows += [
        _row(f"{channels} to {2 * channels}, {size} x {size}, stride 2, {taps} x {taps} taps",
             strided_passes(taps, channels, size, options.batch))
        for taps, channels, size in STRIDED
    ]  # fmt: skip
    print(markdown(["channels, map", *PASSES], rows))
    return 0


def _row(name, found):
    times = {key: f"{fastest(theirs):.1f}, {fastest(ours):.1f}" for key, (theirs, ours) in found.items()}
    return [name, *(times.get(key, "-") for key in PASSES)]


if __name__ == "__main__":
    sys.exit(main())
