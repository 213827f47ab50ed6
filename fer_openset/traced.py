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

from fer_openset.resnet import Basic, ResNet

LARGEST_MAP = 2  # pixels a side after the last stage: measured; on larger maps the time goes into multiplying
RUNS_TO_COMPILE = 3  # the first records the shapes, the second compiles


class SideBySide(nn.Module):
    """A ResNet-18's last stage for an image and its mirror image: the two lie beside each other as one wide image.

    There the weights are 9 MB a layer and the maps a few pixels: the time goes into reading weights, which the library
    reads again for each image. Columns of zeros between the two stand for the padding. Same numbers to rounding
    (measured: three ResNet-18, as above, one of them with the mirror image: 25.5 ms, side by side 24.3).

    stage: the `layer4` of a ResNet of Basic blocks.
    """

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, x):
        n, channels, height, width = x.shape
        small, gap = (width + 1) // 2, 2 + width % 2  # the second image begins at an even column: the stride is 2
        if n != 2 or small > LARGEST_MAP:
            return self.stage(x)
        start = (width + gap) // 2
        inside = x.new_ones(1, 1, 1, start + small)
        inside[..., small:start] = 0
        x = torch.cat([x[:1], x.new_zeros(1, channels, height, gap), x[1:]], 3)
        for block in self.stage:
            shortcut = x if block.downsample is None else block.downsample(x)
            x = block.relu(block.bn1(block.conv1(x))) * inside
            x = block.relu(block.bn2(block.conv2(x)) + shortcut) * inside
        return torch.cat([x[..., :small], x[..., start:]])


class Traced(nn.Module):
    """A network with fixed weights, for inference on a CPU; compiled at the first call and when the shape changes.

    net: a `FaceNet` in eval mode whose body is one of our ResNets; it is changed.
    """

    def __init__(self, net):
        super().__init__()
        self.net = net.eval()
        if isinstance(net.body.layer4[0], Basic):
            net.body.layer4 = SideBySide(net.body.layer4)
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
