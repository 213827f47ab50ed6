"""Pretraining at home: weights for those who cannot get the face-pretrained files, from images that one has.

`contrast` needs no labels: two views of one image should be alike and unlike all others (SimCLR, Chen et al. 2020).
What may be looked at: the known training images of a dataset; with `known+pool` the pool too, without its labels (it
holds the test images: every later result is then transductive, and says so); or any folder of faces.
"""

import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from fer_openset import runs
from fer_openset.augment import AugmentSettings, Share, SizeSettings, to_float, train_view
from fer_openset.backbones import new_net
from fer_openset.checkpoint import save_tensors
from fer_openset.closed_set import batch_of, data_digest
from fer_openset.datasets import Dataset
from fer_openset.datasets.folder import read_folder
from fer_openset.datasets.store import open_store
from fer_openset.device import pick_device
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed
from fer_openset.pipeline import open_step
from fer_openset.pretrained import KNOWN_ONLY, WITH_POOL
from fer_openset.settings import ROOT, RunParameters, load

PARAMS = ROOT / "params" / "pretraining.yaml"
WEIGHTS = "body.safetensors"
FOLDER = "folder"  # what the images were, when they are no dataset's


class PretrainingSettings(OptimSettings, AugmentSettings, SizeSettings):
    """Recipe of the pretraining; origins of the values stand in params/pretraining.yaml.

    light: the most by which brightness and contrast of a view change, as a share. projection: outputs of the small
    network between body and loss, which is thrown away.
    """

    backbone: str = "resnet18"
    objective: Literal["contrast", "labels"]
    images: Literal[KNOWN_ONLY, WITH_POOL]
    temperature: float = Field(gt=0)
    projection: int = Field(ge=2)
    light: Share = 0.0


def pretraining_settings(preset, overrides=None):
    """Settings for a preset. Raises: UserError for a combination that would need labels it must not see."""
    settings = load(PretrainingSettings, PARAMS, preset, overrides)
    if settings.objective == "labels" and settings.images != KNOWN_ONLY:
        raise UserError("pretraining: objective: labels would read the pool's labels; use images: known, or contrast.")
    return settings


def pretrain_on_dataset(parameters: RunParameters, settings):
    """Pretrain on the known training images of a run (and its pool, if `settings.images` says so).

    Returns: the path of the weights, `pretraining/body.safetensors` in the run's folder.
    """
    step = open_step(parameters)
    ids = step.protocol.train.index
    targets = np.full(len(step.dataset.table), -1)
    targets[step.dataset.rows(ids)] = step.protocol.train["target"]
    if settings.images == WITH_POOL:
        ids = ids.union(step.protocol.pool.index, sort=False)
        print("the pool's images are used, unlabelled: what starts from these weights is transductive", flush=True)
    origin = {"dataset": step.dataset.name, "source": step.dataset.source, "open": step.protocol.name,
              "classes": list(step.protocol.known_classes), "images": settings.images}  # fmt: skip
    return _pretrain(step.dataset, step.dataset.rows(ids), targets, settings, step.device, parameters.seed,
                     step.folder.pretraining, origin)  # fmt: skip


def pretrain_on_folder(root, preset, settings, seed):
    """Pretrain on every picture under `root`. That none of a later test set is among them is the caller's care.

    Returns: the path of the weights. Raises: UserError for the objective `labels`, an empty folder, a broken picture.
    """
    if settings.objective == "labels":
        raise UserError(f"{root}: a folder of faces has no labels; use objective: contrast.")
    device = pick_device()
    listing = read_folder(root, settings.image_size)
    dataset = Dataset(listing.name, listing.classes, listing.table, open_store(listing))
    print(f"{root}: {len(dataset.table):,} pictures; {device.name}", flush=True)
    folder = runs.RunFolder(listing.name, preset, Path(root).resolve().name, seed).pretraining
    rows = np.arange(len(dataset.table))
    return _pretrain(dataset, rows, None, settings, device, seed, folder, {"dataset": FOLDER, "images": FOLDER})


def _pretrain(dataset, rows, targets, settings, device, seed, folder, origin):
    if len(rows) < 2:
        raise UserError(f"{dataset.name}: {len(rows)} images to pretrain on; expected at least two.")
    net = device.place(_network(settings, targets, seed))

    def loss_of(net, batch, generator, epoch):
        images, size = batch_of(dataset, batch), settings.size_at(epoch)
        views = [random_view(images, size, settings, device.torch_device, generator) for _ in range(2)]
        if settings.objective == "labels":
            with device.autocast():
                logits = net(views[0])
            return F.cross_entropy(logits, torch.from_numpy(targets[batch]).to(logits.device))
        with device.autocast():
            z = net(torch.cat(views))
        return contrast(z, settings.temperature)

    identity = {**origin, "data": data_digest(dataset, rows)}
    identity |= {} if targets is None else {"targets": zlib.crc32(targets[rows])}
    history = fit([Learner("body", net, make_optimizer(net, settings))], loss_of, lambda epoch: {"body": rows},
                  settings, device, seed, folder, f"pretraining on {dataset.name}", identity)  # fmt: skip
    body = {name: tensor for name, tensor in net.state_dict().items() if name.startswith("body.")}
    path = Path(folder) / WEIGHTS
    save_tensors(path, body, backbone=settings.backbone, seed=seed, n_images=len(rows), **origin)
    runs.save_record(folder, runs.provenance({"pretraining": settings}, seed=seed, device=device.name, **origin,
                                             n_images=len(rows), history=history.to_dict("records")[-1]))  # fmt: skip
    return path


def _network(settings, targets, seed):
    """A body with a head for its objective: class logits, or SimCLR's projection of two layers."""
    if settings.objective == "labels":
        return new_net(settings.backbone, int(targets.max()) + 1, stream_seed(seed, "pretraining"))
    net = new_net(settings.backbone, settings.projection, stream_seed(seed, "pretraining"), zero_head=False)
    width = net.head.in_features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "projection"))
        net.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, settings.projection))
    return net


def random_view(images, size, settings, device, generator):
    """The training view after a random change of light, which each image draws for itself.

    Shapes: images (n, C, H, W) uint8 -> (n, C, size, size) float32, normalised.
    """
    x = to_float(images, device)
    if settings.light:
        draw = torch.rand(2, len(x), 1, 1, 1, generator=generator, device=x.device) * 2 - 1
        middle = x.mean((1, 2, 3), keepdim=True)
        x = (x - middle) * (1 + settings.light * draw[0]) + middle * (1 + settings.light * draw[1])
    return train_view(x.clamp(0, 255), size, settings, device, generator)


def contrast(z, temperature):
    """NT-Xent: among all other views of the batch, each view should find the other one of its image.

    Shapes: z (2n, D), view i and view n + i are of one image -> scalar >= 0, log(2n - 1) for vectors that say nothing.
    Source: Chen, Kornblith, Norouzi and Hinton (2020), Eq. 1.
    """
    z = F.normalize(z.float(), dim=1)
    likeness = z @ z.t() / temperature
    likeness = likeness.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(likeness, torch.arange(len(z), device=z.device).roll(len(z) // 2))
