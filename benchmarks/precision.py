"""python -m benchmarks.precision [--seeds N] [--out FOLDER]: does bf16 give what float32 gives?

The same f_close (demo preset, synthetic faces, open = surprise) is trained at both precisions, once a seed; closed
accuracy and the AUROC of MSP are compared, and the gradients of one detection batch. Prints a table, writes
`precision.json`.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.tables import markdown
from fer_openset import atomic, metrics, runs
from fer_openset.backbones import new_net
from fer_openset.closed_set import batch_of, closed_set_settings, predict, train_closed_set
from fer_openset.datasets import load_dataset
from fer_openset.device import pick_device
from fer_openset.errors import UserError
from fer_openset.methods import method_settings
from fer_openset.methods.two_views import two_view_loss
from fer_openset.protocol import make_protocol
from fer_openset.settings import results_dir

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


def trained(dataset, protocol, device, seed, settings):
    """Closed accuracy and AUROC of MSP (larger = more open) of one training."""
    with tempfile.TemporaryDirectory() as folder:
        model, _ = train_closed_set(dataset, protocol, settings, device, seed, folder)
    rows = dataset.rows(protocol.pool.index)
    logits = predict(model.net, dataset, rows, model.image_size, settings.eval_batch_size, device, settings.mirror)
    is_open, targets = protocol.pool["is_open"].to_numpy(), protocol.pool_targets()
    msp = torch.from_numpy(logits).double().softmax(1).amax(1).numpy()
    return {"closed_accuracy": float((logits.argmax(1) == targets)[~is_open].mean()),
            "msp_auroc": metrics.auroc(-msp, is_open)}  # fmt: skip


def gradient_errors(dataset, protocol, device):
    """How far the bf16 gradient of a detection batch of 64 lies from the float32 one, and, as a measure for it, how far
    the float32 gradient of another batch lies: distances over all weights, relative to the float32 gradient.
    """
    settings = method_settings("noisy_label", "paper")
    rows = dataset.rows(protocol.pool.index)
    labels = torch.arange(64, device=device.torch_device) % len(protocol.known_classes)

    def gradient(amp, part):
        one = replace(device, amp=amp)
        net = one.place(new_net("resnet18", len(protocol.known_classes), 0, zero_head=False))
        weight, images = settings.consistency_weight, batch_of(dataset, part)
        loss, _ = two_view_loss(net, images, labels, 112, settings, one, one.generator(0), weight)
        loss.backward()
        return torch.cat([p.grad.float().flatten() for p in net.parameters()])

    exact = gradient(None, rows[:64])
    others = {"bf16": gradient(torch.bfloat16, rows[:64]), "another batch": gradient(None, rows[64:128])}
    return {name: float((other - exact).norm() / exact.norm()) for name, other in others.items()}


def compare(seeds, overrides=None):
    """Both precisions over `seeds` trainings. Returns: what the JSON holds."""
    device = pick_device()
    dataset = load_dataset("synthetic", "demo")
    protocol = make_protocol(dataset.table, dataset.classes, "surprise")
    settings = closed_set_settings("demo", overrides)
    values = {
        name: [trained(dataset, protocol, replace(device, amp=amp), seed, settings) for seed in range(seeds)]
        for name, amp in PRECISIONS.items()
    }
    return {"device": device.name, "commit": runs.commit(), "seeds": seeds, "runs": values,
            "gradient_errors": gradient_errors(dataset, protocol, device)}  # fmt: skip


def table(found):
    """Mean and standard deviation over seeds, a row a precision."""
    rows = []
    for name, one in found["runs"].items():
        cells = [np.array([run[key] for run in one]) for key in ("closed_accuracy", "msp_auroc")]
        rows.append([name, *(f"{c.mean():.3f} ± {c.std(ddof=1) if len(c) > 1 else 0:.3f}" for c in cells)])
    return markdown(["precision", "closed accuracy", "MSP AUROC"], rows)


def main(arguments=None):
    """Exit 0, or 2 with one sentence."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="trainings at each precision; default: 5")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the JSON goes; default: results/benchmarks")
    parser.add_argument("--overrides", default="{}", help="JSON: single settings of f_close to replace")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; expected 1 or more")
    try:
        found = compare(options.seeds, json.loads(options.overrides))
    except (UserError, json.JSONDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    print(table(found))
    errors = found["gradient_errors"]
    print(f"gradient of one detection batch, relative to float32's: bf16 is {errors['bf16']:.0%} away, "
          f"float32 on another batch {errors['another batch']:.0%}")  # fmt: skip
    atomic.write_json((options.out or results_dir() / "benchmarks") / "precision.json", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
