"""Batched views on the device: every function takes a whole batch and decides for each image on its own.

Shapes: images are (N, C, H, W); uint8 from the store, float32 0..255 after `to_float`, normalised after `normalise`.
All randomness comes from the generator that is passed in, so that an epoch repeats exactly.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from fer_openset.settings import Settings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# One channel: the mean of the three, so that a grey image equals its three-fold copy up to the per-channel offsets.
GREY_MEAN, GREY_STD = (0.449,), (0.226,)

Chance = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class AugmentSettings(Settings):
    """What the training view does; probabilities are per image. Origins stand in the params files."""

    flip: Chance = 0.5
    noise: Chance = 0.0
    noise_variance: float = Field(30.0, ge=0)
    erase: Chance = 0.0
    erase_scale: Annotated[tuple[float, float], Field(strict=False)] = (0.02, 0.25)  # YAML has lists only
    rotate: float = Field(0.0, ge=0)
    zoom: Share = 0.0
    shift: Share = 0.0

    @field_validator("erase_scale")
    @classmethod
    def _scale_is_a_range(cls, value):
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("expected two shares of the area, 0 < smallest <= largest <= 1")
        return value


class SizeSettings(Settings):
    """Image size: the first `start_epochs` epochs see images of `start_size`, all that follow, and always the last one,
    of `image_size`.

    Small images are several times cheaper and teach most of what there is to learn early on.
    """

    image_size: int = Field(ge=1)
    start_size: int = Field(1, ge=1)
    start_epochs: int = Field(0, ge=0)

    def size_at(self, epoch):
        """Pixels a side in `epoch` (from 0)."""
        return self.start_size if epoch < self._small_epochs() else self.image_size

    def _small_epochs(self):
        """The last epoch sees the size that the network is used at, however few epochs a trial asks for."""
        epochs = getattr(self, "epochs", None)  # with OptimSettings
        return self.start_epochs if epochs is None else min(self.start_epochs, epochs - 1)


def to_float(images, device):
    """uint8 images to float32 0..255 on the device."""
    return images.to(device, non_blocking=True).float()


def normalise(x):
    """0..255 to zero mean and unit spread with ImageNet's statistics (their mean for grey images)."""
    mean, std = (GREY_MEAN, GREY_STD) if x.shape[1] == 1 else (IMAGENET_MEAN, IMAGENET_STD)
    mean = torch.tensor(mean, device=x.device).view(1, -1, 1, 1)
    std = torch.tensor(std, device=x.device).view(1, -1, 1, 1)
    return (x / 255 - mean) / std


def resize(x, size):
    """Bilinear resize to (size, size), antialiased only when it shrinks."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=size < x.shape[-1])


def _chance(x, p, generator):
    return torch.rand(len(x), generator=generator, device=x.device) < p


def gaussian_noise(x, p, variance, generator):
    """Add N(0, variance) on the 0..255 scale to each image with probability p, clipped to 0..255."""
    if p <= 0:
        return x
    noise = torch.randn(x.shape, generator=generator, device=x.device) * math.sqrt(variance)
    noisy = (x + noise).clamp(0, 255)
    return torch.where(_chance(x, p, generator).view(-1, 1, 1, 1), noisy, x)


def random_flip(x, p, generator):
    """Mirror each image left to right with probability p."""
    return torch.where(_chance(x, p, generator).view(-1, 1, 1, 1), x.flip(3), x) if p > 0 else x


def random_erase(x, p, scale, generator, ratio=(0.3, 3.3)):
    """Set one random rectangle of each image to 0 with probability p; each image draws its own rectangle.

    scale: range of the rectangle's share of the area; ratio: of its aspect, log-uniform. Source: Random Erasing
    (Zhong et al. 2020). Differs: a side longer than the image is cut to fit instead of drawn again.
    """
    if p <= 0:
        return x
    n, _, height, width = x.shape
    draw = torch.rand(5, n, generator=generator, device=x.device)
    area = (scale[0] + (scale[1] - scale[0]) * draw[0]) * height * width
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draw[1])
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top = (draw[2] * (height - tall + 1)).floor()
    left = (draw[3] * (width - wide + 1)).floor()
    rows = torch.arange(height, device=x.device).view(1, -1)
    columns = torch.arange(width, device=x.device).view(1, -1)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    hit = (draw[4] < p).view(-1, 1, 1) & in_rows[:, :, None] & in_columns[:, None, :]
    return x.masked_fill(hit[:, None], 0.0)


def random_affine(x, size, settings, generator):
    """Rotate (radians), zoom and shift (shares) each image on its own while resizing it to `size`; mirrored edges."""
    n = len(x)
    draw = torch.rand(4, n, generator=generator, device=x.device) * 2 - 1
    angle, zoom = draw[0] * settings.rotate, 1 + draw[1] * settings.zoom
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom * angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -zoom * angle.sin(), zoom * angle.sin()
    theta[:, :, 2] = draw[2:].T * 2 * settings.shift
    grid = F.affine_grid(theta, (n, x.shape[1], size, size), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def train_view(images, size, settings, device, generator):
    """The training view: noise on 0..255, geometry and resize, flip, normalise, erase (in the authors' order)."""
    x = gaussian_noise(to_float(images, device), settings.noise, settings.noise_variance, generator)
    if settings.rotate or settings.zoom or settings.shift:
        x = random_affine(x, size, settings, generator)
    else:
        x = resize(x, size)
    x = normalise(random_flip(x, settings.flip, generator))
    return random_erase(x, settings.erase, settings.erase_scale, generator)


def clean_view(images, size, device):
    """The evaluation view: resize and normalise, nothing random."""
    return normalise(resize(to_float(images, device), size))
