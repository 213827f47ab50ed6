"""Small made-up data and a small network, so that tests of the training code take seconds.

Every class has its own brightness and stripes; an image is its class's pattern plus noise. Nothing here is a face.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fer_openset.backbones import FaceNet
from fer_openset.closed_set import ClosedModel
from fer_openset.datasets import Dataset
from fer_openset.device import Device
from fer_openset.labels import BASIC
from fer_openset.methods.task import Task

# Plain float32 on the CPU wherever the tests run: equal runs give equal bits.
CPU = Device(torch.device("cpu"), None, "cpu")
HAS_BF16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def tiny_table(counts, classes=BASIC):
    """counts: {split: images of each class}. Ids carry their split and number; classes alternate within a split."""
    rows = [
        (f"{split}_{i:04d}", classes[i % len(classes)], split)
        for split, each in counts.items()
        for i in range(each * len(classes))
    ]
    return pd.DataFrame(rows, columns=["sample_id", "label", "split"]).set_index("sample_id")


def tiny_images(labels, classes, size=32, channels=1, noise=25.0, seed=0):
    """uint8 (N, channels, size, size): each class has its own brightness and stripes, each image its own noise."""
    rng = np.random.default_rng(seed)
    k = np.arange(len(classes))[:, None]
    stripes = np.sign(np.sin(2 * np.pi * (k + 0.5) * (np.arange(size) + 0.5) / size))  # rows: a mirror changes nothing
    level = 60 + 135 * k / (len(classes) - 1)
    numbers = pd.Index(classes).get_indexer(labels)
    images = (level + 40 * stripes)[numbers][:, None, :, None] + rng.normal(
        0, noise, (len(numbers), channels, size, size)
    )
    return images.clip(0, 255).astype(np.uint8)


def tiny_dataset(counts=None, classes=BASIC, **images):
    table = tiny_table(counts or {"train": 6, "valid": 2, "test": 4}, classes)
    return Dataset("tiny", tuple(classes), table, tiny_images(table["label"], classes, **images))


def shuffled(dataset, seed=0):
    """The same samples in another row order; each image stays with its id."""
    order = np.random.default_rng(seed).permutation(len(dataset.table))
    return Dataset(dataset.name, dataset.classes, dataset.table.iloc[order], dataset.images[order])


class SmallNet(FaceNet):
    """The interface of FaceNet with a body of two convolutions: 32 px give 8 x 8 attention maps."""

    def __init__(self, n_classes, zero_head=True):
        nn.Module.__init__(self)
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(32, n_classes)
        if zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def until(self, x, stage):
        """The first convolution is stage 1, the second is stages 2, 3 and 4."""
        return self.body[:3](x) if stage == 1 else self.body(x)

    def since(self, features, stage, last=4):
        return self.body[3:](features) if stage == 1 < last else features


def small_net(backbone, n_classes, seed, zero_head=True):
    """Stands in for `backbones.new_net`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallNet(n_classes, zero_head)


class LateNet(SmallNet):
    """The same, but its first convolution is stages 1 to 3: a cut before the last stage is a cut between the two."""

    def until(self, x, stage):
        return super().until(x, 1 if stage < 4 else 4)

    def since(self, features, stage, last=4):
        return features if stage == 4 or last < 4 else super().since(features, 1)


def late_net(backbone, n_classes, seed, zero_head=True):
    """Stands in for `backbones.new_net` where stage 3 matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LateNet(n_classes, zero_head)


def trained_like(backbone="resnet18"):
    """A whole network in eval mode, channels last, whose batch norms are not the identity: as after a training."""
    torch.manual_seed(0)
    net = FaceNet(backbone, 6, zero_head=False).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.to(memory_format=torch.channels_last)


def task_of(dataset, ids, pseudo, classes, folder, seed=0, alignment="aligned", f_close=None):
    """A detection task whose f_close says `pseudo` (class numbers) with certainty."""
    logits = pd.DataFrame(np.eye(len(classes), dtype="float32")[pseudo] * 5, index=ids, columns=list(classes))
    f_close = f_close or ClosedModel(small_net("small", len(classes), 7), tuple(classes), 32, "small")
    return Task(dataset, tuple(classes), pd.DataFrame(), pd.DataFrame(), logits, f_close, CPU, seed, alignment, folder)


def open_set_task(folder, dataset, known, seed=0):
    """A detection task on a whole dataset: classes other than `known` are open, f_close is untrained and knows nothing.

    Known images of the splits train and valid are the task's, the split test is its pool. Returns: (task, who is open).
    """

    def known_part(split):
        labels = dataset.table["label"][dataset.table["split"] == split]
        targets = pd.DataFrame({"target": pd.Index(known).get_indexer(labels)}, index=labels.index)
        return targets[targets["target"] >= 0]

    pool = dataset.table["label"][dataset.table["split"] == "test"]
    logits = pd.DataFrame(np.zeros((len(pool), len(known)), "float32"), index=pool.index, columns=list(known))
    f_close = ClosedModel(small_net("small", len(known), 7), tuple(known), dataset.images.shape[-1], "small")
    task = Task(dataset, tuple(known), known_part("train"), known_part("valid"), logits, f_close, CPU, seed, "aligned",
                folder)  # fmt: skip
    return task, ~pool.isin(known).to_numpy()


class Killed(Exception):
    """Stands in for a killed process."""


def killed_at_call(number, monkeypatch, module, name, run):
    """Do `run()` and have call `number` of `module.name` raise, as if the process were killed there."""
    calls, original = [], getattr(module, name)

    def dies(*args):
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        with pytest.raises(Killed):
            run()
