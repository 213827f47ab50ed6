"""The reference: the same work as a plain loop, the way such research code is usually written.

One image at a time is opened, transformed and collated by loader processes; float32, default memory layout,
torchvision's ResNet-18, torch's default Adam; the mirrored view is a second forward pass.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import models, transforms

from benchmarks import faces
from fer_openset.labels import BASIC

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CONSISTENCY_WEIGHT = 5
LEARNING_RATE = {"detection": 2e-4, "closed": 1e-3}
# Chances of each training view; they are those of the engine's `paper` preset.
NOISE = {"detection": 0.5, "closed": 0.25, "scoring": 0.0}
FLIP = {"detection": 0.0, "closed": 0.5, "scoring": 0.0}
ERASE = {"detection": 0.5, "closed": 0.5, "scoring": 0.0}


class Net(nn.Module):
    """torchvision's ResNet-18, which also returns its last feature map: (N, 512, h, w) and logits (N, 7)."""

    def __init__(self, resnet=None):
        super().__init__()
        resnet = resnet or models.resnet18(num_classes=len(BASIC))
        self.features = nn.Sequential(*list(resnet.children())[:-2])
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = resnet.fc

    def forward(self, x):
        maps = self.features(x)
        return maps, self.fc(self.pool(maps).flatten(1))


class FaceFiles(Dataset):
    """Image files with labels; `task` decides the transforms."""

    def __init__(self, paths, labels, task, size):
        self.paths, self.labels, self.noise = paths, labels, NOISE[task]
        steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        if FLIP[task]:
            steps.insert(1, transforms.RandomHorizontalFlip(FLIP[task]))
        if ERASE[task]:
            steps.append(transforms.RandomErasing(ERASE[task], scale=(0.02, 0.25)))
        self.transform = transforms.Compose(steps)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB")
        if random.random() < self.noise:
            image = add_noise(image)
        return self.transform(image), int(self.labels[index])


def add_noise(image, variance=30.0):
    """Gaussian noise on the 0..255 scale."""
    array = np.asarray(image, dtype=np.float64)
    array = array + np.random.default_rng().normal(0, variance**0.5, array.shape)
    return Image.fromarray(array.clip(0, 255).astype(np.uint8))


def attention(net, maps):
    """Class activation maps (N, K, h, w) under the detached weights of the last layer."""
    return torch.einsum("kc,nchw->nkhw", net.fc.weight.detach(), maps)


def detection_loss(net, images, labels):
    """Cross-entropy of the images, and 5 times the inconsistency of their maps with those of their mirror images."""
    maps, logits = net(images)
    mirrored_maps, _ = net(images.flip(3))
    consistency = F.mse_loss(attention(net, maps), attention(net, mirrored_maps).flip(3))
    return F.cross_entropy(logits, labels) + CONSISTENCY_WEIGHT * consistency


def closed_loss(net, images, labels):
    """Cross-entropy."""
    return F.cross_entropy(net(images)[1], labels)


LOSSES = {"detection": detection_loss, "closed": closed_loss}


def train(net, loader, loss_of, optimizer, device):
    """One epoch; returns the mean loss."""
    net.train()
    total = 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        loss = loss_of(net, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total) / len(loader)


def score(net, loader, device):
    """Class probabilities of every image: float32 array (n, 7)."""
    net.eval()
    out = []
    with torch.no_grad():
        for images, _ in loader:
            _, logits = net(images.to(device))
            out.append(F.softmax(logits, dim=1).cpu().numpy())
    return np.concatenate(out)


def run(workload, folder, watch):
    """Do the workload, with the watch on its timed pass. Returns: mean loss, or mean probability when it scores."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = Net().to(device)
    count = max(workload.images, workload.warm_up)
    data = FaceFiles(faces.files(folder, count), faces.labels(count), workload.task, workload.size)
    training = workload.task in LOSSES
    warm_up, timed = (
        DataLoader(Subset(data, range(n)), workload.batch, shuffle=training, drop_last=training,
                   num_workers=workload.workers, pin_memory=device.type == "cuda")
        for n in (workload.warm_up, workload.images)
    )  # fmt: skip
    if training:
        optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE[workload.task], weight_decay=1e-4)

        def work(loader):
            return train(net, loader, LOSSES[workload.task], optimizer, device)
    else:

        def work(loader):
            return float(score(net, loader, device).mean())

    work(warm_up)
    watch.start()
    result = work(timed)
    watch.stop()
    return result
