"""The paper's training loss: classify one view, and keep the attention maps of it and its mirror image alike."""

import torch
import torch.nn.functional as F

from fer_openset.augment import train_view
from fer_openset.backbones import attention_maps, flip_consistency


def two_view_loss(net, images, y, size, settings, device, generator, weight, label_smoothing=0.0,
                  detach_head=True):  # fmt: skip
    """Eq. 3: cross-entropy on the training view plus `weight` times the consistency of its maps (Eq. 2).

    Shapes: images (n, C, H, W) uint8; y on the device, (n,) int64 or (n, K) probabilities. settings: AugmentSettings.
    weight None leaves the second view out; detach_head: the maps' weights are constants, as in the paper. Returns:
    (loss, its parts) or the cross-entropy alone. Differs: both views go through the network in one batch, so they share
    batch statistics.
    """
    x = train_view(images, size, settings, device.torch_device, generator)
    views = x if weight is None else torch.cat([x, x.flip(3)])
    with device.autocast():
        maps = net.feature_map(views)
        logits = net.classify(maps[: len(y)])
    loss_cls = F.cross_entropy(logits, y, label_smoothing=label_smoothing)
    if weight is None:
        return loss_cls
    attention, mirrored = attention_maps(maps, net.head.weight, detach_head).chunk(2)
    loss_cons = flip_consistency(attention, mirrored)
    return loss_cls + weight * loss_cons, {"loss_cls": loss_cls, "loss_cons": loss_cons}
