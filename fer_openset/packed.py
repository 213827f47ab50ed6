"""Convolutions for a network that scores one image at a time on a CPU: the weights are laid out for the kernel once.

The library lays the weights out anew at every call. In a batch that is nothing; for one image it is nearly half of the
time (measured: ResNet-18, 64 px, bf16, one core: 8.0 ms, laid out once 4.6). The operators used here are those of
torch's own compiler for CPUs; the numbers stay the same. Our own ResNets in float32 are compiled whole: see `traced`.
"""

import torch
from torch import nn

from fer_openset.convolution import Conv3x3
from fer_openset.strided import Conv1x1


class PackedConv(nn.Module):
    """A convolution with fixed weights, for inference on a CPU; laid out at the first call of each input shape.

    conv: the `nn.Conv2d` to stand for, without bias. dtype: what it computes in.
    """

    def __init__(self, conv, dtype):
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().to(dtype), requires_grad=False)
        self.how = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.shape, self.packed = None, None

    def forward(self, x):
        if x.shape != self.shape:
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.how, list(x.shape))
            self.shape = x.shape
        x = x.to(self.weight.dtype)
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, None, *self.how, "none", [], "")


def can_pack():
    """Whether this torch has the operators: not on every processor, and they are not part of its promised interface."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def pack(net, dtype):
    """Put a `PackedConv` in the place of each convolution of `net`. Returns: `net`, changed.

    One with a bias stays, and one of a class that does more than convolve.
    """
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) in (nn.Conv2d, Conv1x1, Conv3x3) and child.bias is None and child.padding_mode == "zeros":
                setattr(parent, name, PackedConv(child, dtype))
    return net
