"""What machine this is, how fast it multiplies matrices, and how many operations a training step takes.

python -m benchmarks.hardware JSON prints all of it as one line of JSON; JSON: {"seconds", "side", "pairs"}.
"""

import json
import os
import platform
import re
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import reference
from fer_openset.device import pick_device
from workflow.batch import usable_cores
from workflow.orphans import die_with_parent


def describe():
    """Name, cores, threads, libraries; `bf16`: whether the hardware multiplies in it; `name`: for the file's name.

    Processors with and without bf16 can go by one name, so a file of the latter says so.
    """
    device = pick_device()
    gpu = torch.cuda.get_device_name() if device.torch_device.type == "cuda" else None
    cpu, cores = _cpu_name(), usable_cores()
    without = " float32" if device.amp is None else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "name": slug(f"{gpu or cpu} {cores} cores{without}"),
        "cpu": cpu,
        "gpu": gpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "bf16": device.amp == torch.bfloat16,
        "arithmetic": device.arithmetic,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def slug(name):
    """Lower-case letters and digits joined by `-`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_gflops(dtype, device, side, seconds):
    """Fastest of the products of two `side` x `side` matrices that fit into `seconds` (three at least).

    Each is done as a product and as a 1 x 1 convolution: on AMD processors torch's library for float32 products leaves
    half of the vector units idle, the one for convolutions does not.
    """
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    taps, pixels = a[:, :, None, None], b[None, :, :, None].to(memory_format=torch.channels_last)
    times, began = [], time.perf_counter()
    while len(times) < 6 or time.perf_counter() - began < seconds:
        for product in (lambda: a @ b, lambda: F.conv2d(pixels, taps)):
            start = time.perf_counter()
            product()
            if a.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times) / 1e9


def peaks(seconds, side=None):
    """Measured matrix-product peaks in GFLOP/s: {"bf16": None where the hardware has none, "fp32": ...}."""
    device = pick_device()
    side = side or (8192 if device.torch_device.type == "cuda" else 2048)
    measured = {"fp32": peak_gflops(torch.float32, device.torch_device, side, seconds), "bf16": None}
    if device.amp == torch.bfloat16:
        measured["bf16"] = peak_gflops(torch.bfloat16, device.torch_device, side, seconds)
    return measured


def flops_per_image(task, size, batch=2):
    """Operations (a multiplication and an addition are two) of one image's part of a step of the reference network.

    Training: forward and backward, both views of detection. Scoring: forward. Standard convolutions are counted,
    whatever the engine computes in their place. Counted on tensors without data, so any size costs milliseconds.
    """
    with torch.device("meta"):
        net = reference.Net()
        images, labels = torch.empty(batch, 3, size, size), torch.zeros(batch, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter:
        if task in reference.LOSSES:
            reference.LOSSES[task](net, images, labels).backward()
        else:
            with torch.no_grad():
                net.eval()(images)
    return counter.get_total_flops() / batch


def main(arguments):
    die_with_parent()
    wanted = json.loads(arguments[0])
    flops = {f"{task} {size}": flops_per_image(task, size) for task, size in wanted["pairs"]}
    measured = peaks(wanted["seconds"], wanted["side"])
    print(json.dumps({"hardware": describe(), "peak_gflops": measured, "flops_per_image": flops}))


if __name__ == "__main__":
    main(sys.argv[1:])
