"""Backbones of timm (Wightman 2019), an optional library, behind the interface of our own."""

from torch import nn

from fer_openset.errors import UserError
from fer_openset.grey import three_channels

MISSING = "timm is not installed; install it with `pip install timm`, or choose resnet18 or resnet50 as the backbone."


def timm_library():
    """The library, imported when it is needed. Raises: UserError when it is not installed."""
    try:
        import timm
    except ImportError:
        raise UserError(MISSING) from None
    return timm


class TimmBody(nn.Module):
    """A timm network without its head. Shapes: x (N, C, H, W), C = 1 or 3 -> last feature map (N, D, h, w).

    Raises: UserError when timm is not installed or does not know the name.
    """

    def __init__(self, name):
        super().__init__()
        timm = timm_library()
        if not timm.is_model(name.partition(".")[0]):
            near = timm.list_models(f"*{name[:5]}*")[:3]
            raise UserError(f"timm knows no network {name!r}" + (f"; it has {', '.join(near)}." if near else "."))
        architecture = name.partition(".")[0]  # what follows the dot names weights
        try:  # a transformer over patches that takes images of any size
            self.net = timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
        except TypeError:
            self.net = timm.create_model(architecture, pretrained=False, num_classes=0)
        self.fc = nn.Linear(self.net.num_features, 1)  # says how wide the features are; the network's user replaces it

    def until(self, x, stage):
        """Output of stage 4, the last feature map; a transformer's tokens are put back where their patches were."""
        self._need_last(stage)
        maps = self.net.forward_features(three_channels(x))
        if maps.ndim == 3:
            tokens = maps[:, getattr(self.net, "num_prefix_tokens", 0) :].transpose(1, 2)
            rows, columns = self.net.patch_embed.dynamic_feat_size(x.shape[2:])
            return tokens.unflatten(2, (rows, columns))
        return maps.permute(0, 3, 1, 2) if getattr(self.net, "output_fmt", "NCHW") == "NHWC" else maps

    def since(self, features, stage, last=4):
        """The last feature map from itself. Raises: UserError for any other stage."""
        self._need_last(min(stage, last))
        return features

    def _need_last(self, stage):
        if stage != 4:
            raise UserError("this method works inside a ResNet's stages; choose the backbone resnet18 or resnet50.")
