"""python -m benchmarks.profile [--size PX] [--batch N]: where the time of a training step of f_close goes.

The step is the `cpu` preset's: its views, ResNet-18, its loss and optimiser, on random grey images of 48 x 48.
"""

import argparse
import sys
import time

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.tables import markdown
from fer_openset.augment import train_view
from fer_openset.backbones import new_net
from fer_openset.closed_set import closed_set_settings
from fer_openset.device import pick_device
from fer_openset.fit import make_optimizer

STEPS, CLASSES = 10, 6


def training_step(size, batch):
    """A function that does one training step."""
    device, settings = pick_device(), closed_set_settings("cpu")
    net = device.place(new_net(settings.backbone, CLASSES, 0)).train()
    optimizer = make_optimizer(net, settings)
    images = torch.randint(0, 256, (batch, 1, 48, 48), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch,), device=device.torch_device)
    generator = device.generator(0)

    def step():
        x = train_view(images, size, settings, device.torch_device, generator)
        with device.autocast():
            logits = net(x)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing).backward()
        optimizer.step()

    return step


def measure(size, batch, steps=STEPS):
    """Images per second, and the share of each operation's own time: (float, {operation: share})."""
    step = training_step(size, batch)
    for _ in range(2):
        step()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    speed = steps * batch / (time.perf_counter() - begin)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            step()
    own = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    return speed, {key: value / sum(own.values()) for key, value in own.items()}


def main(arguments=None):
    """Print the speed and the operations that take at least 1 % of the time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="pixels a side; default: 64")
    parser.add_argument("--batch", type=int, default=128, help="images; default: 128")
    options = parser.parse_args(arguments)
    if min(options.size, options.batch) < 2:
        parser.error("--size and --batch: expected 2 or more")
    speed, shares = measure(options.size, options.batch)
    print(f"{speed:.0f} images/s at {options.size} px, batch {options.batch}\n")
    rows = [[key, f"{share:.1%}"] for key, share in sorted(shares.items(), key=lambda kv: -kv[1]) if share >= 0.01]
    print(markdown(["operation", "share"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
