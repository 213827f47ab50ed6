"""Batch normalisation of what is no photograph: the statistics that real images are scored with must not see it.

Fakes have other statistics than photographs. Normalised with the same running means they would spoil the ones that
real images are scored with. So every BatchNorm2d gets a twin for them (`split_norms`; Xie et al. 2020, as DIAS uses
it), or they pass with statistics of their own that are recorded nowhere (`unrecorded`).
"""

import copy
from contextlib import contextmanager

import torch.nn.functional as F
from torch import nn

from fer_openset.labels import check_name

REAL, FAKE, BORROWED = "real", "fake", "borrowed"


class TwoNorms(nn.Module):
    """A BatchNorm2d and its copy; which of them normalises is set for a whole network by `norms`.

    `borrowed`: scale and shift of the real set with the batch's own statistics, which are recorded nowhere.
    Shapes: x (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, norm):
        super().__init__()
        self.real, self.fake = norm, copy.deepcopy(norm)
        self.used = REAL

    def forward(self, x):
        if self.used == BORROWED:
            return F.batch_norm(x, None, None, self.real.weight, self.real.bias, training=True, eps=self.real.eps)
        return self.real(x) if self.used == REAL else self.fake(x)


def split_norms(net):
    """Give every BatchNorm2d of `net` a twin, in place; both sets start equal, and the real set is in use."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, TwoNorms(child))
    return net


@contextmanager
def unrecorded(net):
    """Within it a network in training mode normalises by the batch's own statistics and records them nowhere.

    For plain BatchNorm2d layers what `borrowed` is for twins; in evaluation mode it changes nothing.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def norms(net, which):
    """Within it `net` normalises with this set: `real`, `fake` or `borrowed`. Raises: UserError for another name."""
    check_name(which, (REAL, FAKE, BORROWED), "set of norms")
    twins = [module for module in net.modules() if isinstance(module, TwoNorms)]
    before = [twin.used for twin in twins]
    try:
        for twin in twins:
            twin.used = which
        yield
    finally:
        for twin, used in zip(twins, before, strict=True):
            twin.used = used
