"""Convolutions for a network that scores one image at a time on a CPU: the weights are laid out for the kernel once.

The library lays the weights out anew at every call. In a batch that is nothing; for one image it is nearly half of the
time (measured: ResNet-18, 64 px, bf16, one core: 8.0 ms, laid out once 4.6). In float32 the batch norm after a
convolution goes into its weights, which saves a sixth of what is left. The operators used here are those of torch's own
compiler for CPUs; the numbers stay the same to rounding.
"""

from itertools import zip_longest

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fer_openset.convolution import Conv3x3
from fer_openset.resnet import Basic, Bottleneck, ResNet

IN_ORDER = (ResNet, Basic, Bottleneck, nn.Sequential)  # a batch norm that stands after a convolution follows it


class PackedConv(nn.Module):
    """A convolution with fixed weights, for inference on a CPU; laid out anew when the input's shape changes.

    conv: the `nn.Conv2d` to stand for. dtype: what it computes in. Made for one use: not to be copied.
    """

    def __init__(self, conv, dtype):
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().to(dtype), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().to(dtype), requires_grad=False)
        self.how = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.shape, self.packed = None, None

    def forward(self, x):
        if x.shape != self.shape:
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.how, list(x.shape))
            self.shape = x.shape
        x = x.to(self.weight.dtype)
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *self.how, "none", [], "")


def can_pack():
    """Whether this torch has the operators: not on every processor, and they are not part of its promised interface."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def pack(net, dtype):
    """Put a `PackedConv` in the place of each convolution of a ResNet of ours. Returns: `net`, changed; in eval mode.

    In float32 it also does the work of the batch norm after it; a bf16 weight would be rounded anew by that.
    Any other network's convolutions stay: one with a bias, or of a class that does more than convolve.
    """
    for parent in list(net.modules()):
        children = dict(parent.named_children())
        for name, following in zip_longest(children, list(children)[1:]):
            conv, norm = children[name], children.get(following)
            plain = type(conv) in (nn.Conv2d, Conv3x3) and conv.padding_mode == "zeros"
            if not plain or conv.bias is not None or not isinstance(conv.padding, tuple):
                continue
            if dtype == torch.float32 and type(parent) in IN_ORDER and isinstance(norm, nn.BatchNorm2d):
                conv = fuse_conv_bn_eval(conv.eval(), norm.eval())
                setattr(parent, following, nn.Identity())
            setattr(parent, name, PackedConv(conv, dtype))
    return net
