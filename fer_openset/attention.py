"""Where a network looked: class activation maps laid over the faces at the right place."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from fer_openset.augment import clean_view
from fer_openset.backbones import attention_maps

BATCH = 128


def class_attention(net, faces, image_size, device):
    """Class activation map of each image's own predicted class, averaged over the image and its mirror image.

    Shapes: faces (N, C, H, W) uint8 -> (N, H, W) float32. Range: 0 (nothing speaks for the class) to 1 (the image's
    strongest place). Paper: Eq. 2, after CAM (Zhou et al. 2016). Differs: negative parts are cut off.
    """
    out, size = [np.empty((0, *faces.shape[2:]), np.float32)], faces.shape[2:]
    net.eval()
    with torch.inference_mode():
        for start in range(0, len(faces), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(faces[start : start + BATCH]))
            x = clean_view(batch, image_size, device.torch_device)
            features, mirrored = net.feature_map(x), net.feature_map(x.flip(3))
            best = (net.classify(features) + net.classify(mirrored)).argmax(1)
            one = [attention_maps(f, net.head.weight)[torch.arange(len(best)), best] for f in (features, mirrored)]
            maps = spread(one[0], image_size, size) + spread(one[1], image_size, size).flip(2)
            maps = maps.clamp(min=0)
            out.append((maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).cpu().numpy())
    return np.concatenate(out)


def spread(maps, image_size, size):
    """Maps of h x w cells over pictures: each cell's value stands where its receptive field is centred.

    Shapes: maps (N, h, w), of images of image_size pixels a side -> (N, *size). A strided convolution with symmetric
    padding centres cell i on pixel i * stride, not on the middle of the i-th part of the picture; with two cells a side
    the difference is a quarter of the face. Beyond the outer cells their value goes on; values between are linear.
    """
    grids = []
    for cells, pixels in zip(maps.shape[1:], size, strict=True):
        stride = 2 ** math.ceil(math.log2(image_size / cells)) if cells > 1 else 1
        at = (torch.arange(pixels, device=maps.device) + 0.5) * image_size / pixels - 0.5
        grids.append(2 * at / stride / max(cells - 1, 1) - 1)
    rows, columns = torch.meshgrid(*grids, indexing="ij")
    grid = torch.stack([columns, rows], dim=2).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
