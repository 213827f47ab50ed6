"""A small generator and discriminator in the manner of DCGAN (Radford, Metz and Chintala 2016).

Strided convolutions instead of pooling, batch normalisation in all layers but the outermost, ReLU in the generator,
leaky ReLU in the discriminator, weights from N(0, 0.02).
"""

import math

import torch
from torch import nn

from fer_openset.fused import contiguous_views, lend_gradients


def _widths(size, width):
    """Channels from the outermost layer inwards, one for each halving down to 4 x 4 pixels."""
    return [width * 2**i for i in range(int(math.log2(size // 4)))]


class Generator(nn.Module):
    """Noise to images. Shapes: z (N, noise_size) -> (N, channels, size, size) float32. Range: 0..255.

    size: a power of two from 8. Differs: a sigmoid where DCGAN has tanh, for images are 0..255 here.
    """

    def __init__(self, size, channels, width, noise_size):
        super().__init__()
        inner = _widths(size, width)[::-1]
        layers = [nn.ConvTranspose2d(noise_size, inner[0], 4, 1, 0, bias=False)]
        for before, after in zip(inner, [*inner[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        self.body = nn.Sequential(*layers)
        _initialise(self)

    def forward(self, z):
        return 255 * self.body(z[:, :, None, None]).float().sigmoid()


class Discriminator(nn.Module):
    """Normalised images to logits of "real". Shapes: x (N, channels, size, size) -> (N,) float32."""

    def __init__(self, size, channels, width):
        super().__init__()
        inner = _widths(size, width)
        layers = []
        for number, after in enumerate(inner):
            layers += [nn.Conv2d(inner[number - 1] if number else channels, after, 4, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(after)] if number else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.body = nn.Sequential(*layers, nn.Conv2d(inner[-1], 1, 4, 1, 0, bias=False))
        _initialise(self)

    def forward(self, x):
        return self.body(x).float().flatten()


def _initialise(net):
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


def new_gan(size, channels, width, noise_size, seed):
    """A generator and a discriminator whose initial weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(size, channels, width, noise_size), Discriminator(size, channels, width)


def gan_optimizer(net, lr, beta1):
    """Adam as DCGAN uses it: its own rate, a short memory of the gradient, no decay."""
    views = contiguous_views(net)
    return lend_gradients(torch.optim.Adam(views.values(), lr=lr, betas=(beta1, 0.999), fused=True), net, views)
