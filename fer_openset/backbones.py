"""Networks: a ResNet with a linear head whose weights also give the class activation maps."""

import torch
import torch.nn.functional as F
from torch import nn

from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.resnet import BACKBONES, resnet
from fer_openset.timm_body import TimmBody

TIMM = "timm:"
OTHER_LAYOUT = "@vggface2"
NAMES = (*BACKBONES, *(name + OTHER_LAYOUT for name in BACKBONES), TIMM + "NAME")


class FaceNet(nn.Module):
    """Backbone, average pooling and one linear layer.

    backbone: `resnet18` or `resnet50`, in torchvision's layout or with `@vggface2` in the other (see `resnet`), or
    `timm:NAME`.
    Shapes: x (N, C, H, W) with C = 1 or 3; feature map (N, D, h, w); logits (N, K).
    """

    def __init__(self, backbone, n_classes, zero_head=True):
        super().__init__()
        body = new_body(backbone)
        self.head = nn.Linear(body.fc.in_features, n_classes)
        if zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        body.fc = nn.Identity()
        self.body = body

    def until(self, x, stage):
        """Output of stage 1..4 (N, d, h, w): images in, the first stages only."""
        return self.body.until(x.contiguous(memory_format=torch.channels_last), stage)

    def since(self, features, stage, last=4):
        """The last convolution's output (N, D, h, w), or that of stage `last`, from the output of stage 1..4."""
        return self.body.since(features, stage, last)

    def feature_map(self, x):
        """The last convolution's output (N, D, h, w)."""
        return self.until(x, 4)

    def pooled(self, feature_map):
        """Average over space: (N, D) float32."""
        return feature_map.float().mean((2, 3))

    def classify(self, feature_map):
        """Logits (N, K), float32 also under autocast: a bf16 logit has 8 bits, and hundreds of images would tie."""
        with torch.autocast(feature_map.device.type, enabled=False):
            return self.head(self.pooled(feature_map))

    def forward(self, x):
        return self.classify(self.feature_map(x))


def new_body(backbone):
    """A backbone with random weights from torch's global generator. Raises: UserError for an unknown name."""
    if backbone.startswith(TIMM):
        return TimmBody(backbone.removeprefix(TIMM))
    name, layout, _ = check_name(backbone, NAMES, "backbone").partition(OTHER_LAYOUT)
    return resnet(name, layout.removeprefix("@") or "torchvision")


def layout_of(backbone, model, init="f_close"):
    """`backbone` in the layout of `model`, the backbone of f_close, if its weights are to go into it (`init`)."""
    same = init == "f_close" and model.partition("@")[0] == backbone.partition("@")[0]
    return model if same else backbone


def new_net(backbone, n_classes, seed, zero_head=True):
    """A network whose initial weights depend on `seed` alone; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FaceNet(backbone, n_classes, zero_head)


def copy_weights(net, tensors, source, backbone):
    """Load a whole state into `net`. Raises: UserError that names `source` and the weights that are missing, too many,
    of another shape or not finite; `net` is unchanged then.

    A missing `num_batches_tracked` is no fault: older files have none, and it decides nothing here.
    """
    own = net.state_dict()
    wanted = {name for name in own if name in tensors or not name.endswith("num_batches_tracked")}
    shapes = {name: f"{tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
              for name in sorted(wanted & set(tensors)) if tensors[name].shape != own[name].shape}  # fmt: skip
    faults = [("lacks", sorted(wanted - set(tensors))), ("has besides", sorted(set(tensors) - set(own))),
              ("has of another shape", [f"{name} {shape}" for name, shape in shapes.items()])]  # fmt: skip
    found = [f"it {what} {_first(names)}" for what, names in faults if names]
    if found:
        raise UserError(f"{source} do not fit {backbone}: {'; '.join(found)}.")
    broken = [name for name in sorted(tensors) if not torch.isfinite(tensors[name]).all()]
    if broken:
        raise UserError(f"{source} hold infinite numbers or NaN in {_first(broken)}; get them again.")
    net.load_state_dict(tensors, strict=False)


def _first(names, n=3):
    return ", ".join(name[:120] for name in names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def copy_known(net, tensors, source, backbone):
    """Load a state with fewer outputs: body and first rows of the head; the rows beyond them stay as they are.

    Raises: UserError (see `copy_weights`).
    """
    wider, own, n_known = dict(tensors), net.state_dict(), len(tensors["head.bias"])
    if tensors["head.weight"].shape[1] == own["head.weight"].shape[1]:  # if not, copy_weights says what does not fit
        for name in ("head.weight", "head.bias"):
            wider[name] = torch.cat([tensors[name].cpu(), own[name][n_known:].cpu()])
    copy_weights(net, wider, source, backbone)


def attention_maps(feature_map, head_weight, detach=True):
    """Class activation maps M[n,k,h,w] = sum_c W[k,c] F[n,c,h,w], W under stop-gradient (`detach`), no bias.

    Shapes: feature_map (N, D, h, w), head_weight (K, D) -> (N, K, h, w) float32.
    Paper: Eq. 2, after CAM (Zhou et al. 2016).
    """
    weight = head_weight.detach() if detach else head_weight
    return torch.einsum("kc,nchw->nkhw", weight.float(), feature_map.float())


def flip_consistency(maps, maps_of_flipped):
    """Mean squared difference of the maps of an image and the mirrored maps of its mirror image (a scalar >= 0).

    Paper: Eq. 2. Differs: a mean of squares as in the authors' code, not the text's L2 norm over N*K*H*W.
    """
    return F.mse_loss(maps, maps_of_flipped.flip(3))
