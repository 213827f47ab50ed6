"""The one post-hoc score of the panel that needs the pool's images again: ODIN follows a gradient in the input."""

import copy

import torch
from pydantic import Field
from pytorch_ood.detector import ODIN

from fer_openset.augment import GREY_STD, IMAGENET_STD, clean_view
from fer_openset.closed_set import batch_of
from fer_openset.methods.posthoc import scored
from fer_openset.settings import Settings


class OdinSettings(Settings):
    """temperature of the softmax. eps: step on the 0..1 scale of the image. mirror: mean logits of an image and its
    mirror image, for twice the time. batch_size: images at a time."""

    temperature: float = Field(gt=0)
    eps: float = Field(ge=0)
    mirror: bool
    batch_size: int = Field(ge=1)


def odin(task, settings):
    """Minus the largest softmax probability at temperature T after a small step that raises it.

    Shapes: open_score (M,). Range: [-1, -1/K]. Direction: larger = more open. Source: Liang, Li and Srikant (2018),
    Eqs. 1 and 2; nothing is fitted. With `as_released` the image that is stepped and scored is the one whose outputs
    the scrambled order hands over. Differs: float32 even where f_close runs in bfloat16, for the step is smaller than
    what a bfloat16 can tell apart near 1. `mirror: false` looks at one view, also where the cached logits are means of
    two.
    """
    net = copy.deepcopy(task.f_close.net).eval().requires_grad_(False)  # the only gradient is the image's
    rows = task.dataset.rows(task.pool_sources)
    std = GREY_STD if task.dataset.images.shape[1] == 1 else IMAGENET_STD
    detector = ODIN(lambda x: _logits(net, x, settings.mirror), eps=settings.eps, temperature=settings.temperature,
                    norm_std=list(std))  # fmt: skip
    parts = []
    for start in range(0, len(rows), settings.batch_size):
        images = batch_of(task.dataset, rows[start : start + settings.batch_size])
        parts.append(detector.predict(clean_view(images, task.f_close.image_size, task.device.torch_device)).cpu())
    return scored(task, torch.cat(parts))


def _logits(net, x, mirror):
    # float64: at T = 1000 all probabilities are near 1/K, and float32 would make images tie.
    return ((net(x) + net(x.flip(3))) / 2 if mirror else net(x)).double()
