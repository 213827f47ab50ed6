"""ResNet-18 and ResNet-50: the layers, names and initial weights of torchvision's, so that weights fit both ways.

Source: He, Zhang, Ren and Sun (2016); the stride of a bottleneck sits in its 3 x 3 convolution, as torchvision has it.
The layout `vggface2` is the one that the weights of VGGFace2 (Cao et al. 2018) were trained in, and He et al.'s own: no
padding in the max pooling (its last window is cut at the border instead) and the stride in a bottleneck's first 1 x 1
convolution. Names and shapes of the weights are the same in both, so a file fits either and computes something else.
Differs: the 1 x 1 and 3 x 3 convolutions are `Conv1x1` and `Conv3x3`, and grey images may take `grey`'s first one. Why
not torchvision's own: importing torchvision imports the compiler of torch, which is 40 % of what a notebook needs to
start, for networks that are never compiled.
"""

from torch import nn

from fer_openset import grey
from fer_openset.convolution import Conv3x3
from fer_openset.strided import Conv1x1


def _shortcut(inputs, outputs, stride):
    """Identity, or a 1 x 1 convolution where the shape changes."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(Conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs, width, stride, downsample, layout):
        super().__init__()
        self.conv1, self.bn1 = Conv3x3(inputs, width, stride), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = Conv3x3(width, width, 1), nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, inputs, width, stride, downsample, layout):
        super().__init__()
        first, second = (stride, 1) if layout == "vggface2" else (1, stride)
        self.conv1, self.bn1 = Conv1x1(inputs, width, first), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = Conv3x3(width, width, second), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = Conv1x1(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """Stem, four stages, average pooling and a linear layer.

    Shapes: x (N, C, H, W), C = 1 or 3 -> logits (N, n_classes).
    """

    def __init__(self, block, depths, layout, n_classes=1000):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        pooling = {"padding": 0, "ceil_mode": True} if layout == "vggface2" else {"padding": 1}
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, **pooling)
        inputs = 64
        for number, depth in enumerate(depths):
            width, blocks = 64 * 2**number, []
            for i in range(depth):
                stride = 2 if number and not i else 1
                # The shortcut before the block: the order in which torchvision draws its random weights.
                downsample = _shortcut(inputs, width * block.expansion, stride)
                blocks.append(block(inputs, width, stride, downsample, layout))
                inputs = width * block.expansion
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def until(self, x, stage):
        """Output of stage 1..4 (N, d, h, w)."""
        return self._stages(self.maxpool(self.relu(self.bn1(grey.first(x, self.conv1)))), 1, stage)

    def since(self, features, stage, last=4):
        """Output of stage `last` (N, D, h, w) from the output of stage 1..`last`."""
        return self._stages(features, stage + 1, last)

    def _stages(self, x, first, last):
        for number in range(first, last + 1):
            x = getattr(self, f"layer{number}")(x)
        return x

    def forward(self, x):
        return self.fc(self.until(x, 4).mean((2, 3)))


BACKBONES = {"resnet18": (Basic, (2, 2, 2, 2)), "resnet50": (Bottleneck, (3, 4, 6, 3))}
LAYOUTS = ("torchvision", "vggface2")


def resnet(name, layout="torchvision"):
    """A network with random weights from torch's global generator, by name, in one of the two layouts."""
    return ResNet(*BACKBONES[name], layout)
