"""A ResNet compiled for one image at a time on a CPU in float32: oneDNN Graph, which comes with torch.

Called one by one, a convolution costs more than its own work: the library looks its kernel up anew, and batch norm, sum
and ReLU each go through memory once more. For one image that is nearly a quarter of the time (measured: three
ResNet-18, 64 px, float32, one core: 36.5 ms, compiled 28.3). The numbers stay the same to rounding.

TorchScript, which carries this, is deprecated; what is to follow it needs a C++ compiler on the machine.
"""

import warnings
from contextlib import contextmanager

import torch
from torch import nn

from fer_openset.resnet import ResNet

RUNS_TO_COMPILE = 3  # the first records the shapes, the second compiles


class Traced(nn.Module):
    """A network with fixed weights, for inference on a CPU; compiled at the first call and when the shape changes.

    net: a `FaceNet` in eval mode whose body is one of our ResNets.
    """

    def __init__(self, net):
        super().__init__()
        self.net = net.eval()
        self.shape, self.compiled = None, None

    def forward(self, x):
        if x.shape != self.shape:
            self.compiled, self.shape = _compile(self.net, x), x.shape
        return self.compiled(x)


def can_trace(net):
    """Whether `net` is one of our ResNets and this torch has the compiler."""
    known = isinstance(getattr(net, "body", None), ResNet)
    return known and torch.backends.mkldnn.is_available() and hasattr(torch.jit, "enable_onednn_fusion")


def _compile(net, x):
    with _fusing(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated: said above
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # what depends on the shape is for this shape only
        found = torch.jit.freeze(torch.jit.trace(net, x, check_trace=False))
        for _ in range(RUNS_TO_COMPILE):
            found(x)
    return found


@contextmanager
def _fusing():
    """The compiler switched on, and afterwards as it was: it is one switch for the whole process."""
    before = torch.jit.onednn_fusion_enabled()
    torch.jit.enable_onednn_fusion(True)
    try:
        yield
    finally:
        torch.jit.enable_onednn_fusion(before)
