"""A network whose weights are laid out once gives what it gave before."""

import copy

import pytest
import torch
from torch import nn

from fer_openset import packed
from fer_openset.packed import PackedConv, can_pack, pack
from tests.tiny import HAS_BF16, trained_like

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch has no kernels with weights laid out beforehand")


def scored(net, x, amp=None):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp is not None):
        return net(x)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet18@vggface2"])
def test_the_same_logits_for_each_shape_of_input_in_turn(backbone):
    net = trained_like(backbone)
    fast = pack(copy.deepcopy(net), torch.float32)
    assert not any(isinstance(module, nn.Conv2d) for module in fast.modules())
    generator = torch.Generator().manual_seed(1)
    for shape in [(1, 1, 64, 64), (2, 3, 48, 48), (1, 1, 64, 64)]:
        x = torch.randn(shape, generator=generator)
        torch.testing.assert_close(scored(fast, x), scored(net, x), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not HAS_BF16, reason="this processor does not multiply in bf16")
def test_the_same_logits_in_bf16_under_autocast():
    net, x = trained_like(), torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    fast = scored(pack(copy.deepcopy(net), torch.bfloat16), x, torch.bfloat16)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, scored(net, x, torch.bfloat16), rtol=0.02, atol=0.02)


def test_a_convolution_with_a_bias_or_of_another_class_stays():
    class Scaled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Scaled(4, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = scored(net, x)
    pack(net, torch.float32)
    assert [type(module) for module in net] == [nn.Conv2d, Scaled, PackedConv]
    torch.testing.assert_close(scored(net, x), before, rtol=1e-4, atol=1e-5)


def test_without_the_operators_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(packed.torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack()
