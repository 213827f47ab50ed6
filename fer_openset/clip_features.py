"""Features of a CLIP image tower (Radford et al. 2021), for Fig. 1, where a file with its weights is at hand.

The environment variable FER_OPENSET_CLIP names that file, as timm keeps it, for instance
`vit_base_patch32_clip_224.openai.safetensors`; what stands before the first dot is timm's name of the network. Nothing
is ever downloaded: without the variable, Fig. 1 shows the closed model's features and says so.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fer_openset.augment import to_float
from fer_openset.backbones import copy_weights
from fer_openset.timm_body import timm_library
from fer_openset.weight_files import read_weights, sha256

VARIABLE = "FER_OPENSET_CLIP"
USUAL = "vit_base_patch32_clip_224"  # of a file that is called something else


def clip_tower(device):
    """The image tower with its weights, and what it is, `NAME, sha256 ...`; None without FER_OPENSET_CLIP.

    Raises: UserError when timm is missing, or the file is missing, damaged or of another network.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    timm, (tensors, _) = timm_library(), read_weights(path)
    name = Path(path).name.partition(".")[0]
    name = name if timm.is_model(name) else USUAL
    outputs = len(tensors["head.weight"]) if "head.weight" in tensors else 0  # CLIP's projection, where it is kept
    net = timm.create_model(name, pretrained=False, num_classes=outputs)
    if outputs:  # CLIP's projection has no bias, timm's head has one
        tensors.setdefault("head.bias", torch.zeros(outputs))
    copy_weights(net, tensors, f"{path}: the weights", name)
    return device.place(net.eval()), f"{name}, sha256 {sha256(path)[:12]}"


def clip_features(net, images, device, batch=64):
    """Features of uint8 images (n, 1 or 3, H, W): float32 (n, D).

    Source: size, mean and spread are those that timm states for the network; bicubic resize.
    """
    given = net.default_cfg
    mean, std = (torch.tensor(given[key], device=device.torch_device).view(1, 3, 1, 1) for key in ("mean", "std"))
    size, out = given["input_size"][-2:], []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            some = torch.from_numpy(np.ascontiguousarray(images[start : start + batch]))
            x = to_float(some, device.torch_device) / 255
            x = F.interpolate(x, size=size, mode="bicubic", antialias=x.shape[-1] > size[-1]).clamp(0, 1)
            out.append(net((x.expand(-1, 3, -1, -1) - mean) / std).float().cpu())
    return torch.cat(out).numpy()
