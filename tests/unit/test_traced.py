"""A network compiled for one image gives what it gave before."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from fer_openset import traced
from fer_openset.device import Device
from fer_openset.online import Detector
from fer_openset.traced import SideBySide, Traced, can_trace
from tests.tiny import trained_like

CPU = Device(torch.device("cpu"), None, "cpu")


needs_compiler = pytest.mark.skipif(
    not can_trace(trained_like()), reason="this torch has no compiler for one image at a time"
)


@needs_compiler
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet18@vggface2"])
def test_the_same_logits_for_each_shape_of_input_in_turn(backbone):
    net = trained_like(backbone)
    fast = Traced(copy.deepcopy(net))
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, 1, 64, 64), (2, 3, 48, 48), (1, 1, 40, 56), (1, 1, 64, 64)]
    for shape in [*shapes, (2, 1, 64, 64), (2, 1, 32, 32), (2, 1, 40, 56), (2, 1, 96, 96), (3, 1, 64, 64)]:
        for _ in range(2):  # the second call runs what the first compiled, on another image
            x = torch.randn(shape, generator=generator)
            with torch.inference_mode():
                torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_an_image_and_its_mirror_image_lie_side_by_side_without_seeing_each_other(size):
    stage, x = trained_like().body.layer4, torch.randn(2, 256, size, size)
    widths = []
    stage[1].register_forward_hook(lambda *_: widths.append("called"))
    stage[1].conv1.register_forward_hook(lambda _, given, __: widths.append(given[0].shape[3]))
    with torch.inference_mode():
        torch.testing.assert_close(SideBySide(stage)(x), stage(x), rtol=1e-4, atol=1e-4)
        assert widths[0] == 2 * ((size + 1) // 2) + 1  # both, and a column between
        widths.clear()
        SideBySide(stage)(x[:1])
    assert widths == [(size + 1) // 2, "called"]  # one image goes its usual way


@needs_compiler
def test_each_network_of_a_detector_gets_its_own_weights():
    one, other = trained_like(), trained_like()
    with torch.no_grad():
        other.head.bias.add_(torch.arange(6.0))
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 48), dtype=np.uint8)
    plain = Detector((one, other), 64, True, CPU).score(image)
    fast = Detector((Traced(copy.deepcopy(one)), Traced(copy.deepcopy(other))), 64, True, CPU).score(image)
    assert fast == pytest.approx(plain, abs=1e-4)
    assert fast != pytest.approx(Detector((one, one), 64, True, CPU).score(image), abs=1e-2)


@needs_compiler
@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="needs an x86 processor")
def test_the_whole_network_is_compiled():
    fast, x = Traced(trained_like()), torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        fast(x)
        fast(x)
        graph = str(torch.jit.last_executed_optimized_graph())
    assert "oneDNNFusionGroup" in graph
    assert "aten::batch_norm" not in graph  # in the weights of the convolution before it


@needs_compiler
@pytest.mark.parametrize("before", [False, True])
def test_the_switch_of_the_process_is_left_as_it_was_and_no_warning_comes(before):
    was = torch.jit.onednn_fusion_enabled()
    torch.jit.enable_onednn_fusion(before)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("error")
            Traced(trained_like())(torch.randn(1, 1, 32, 32))
        assert torch.jit.onednn_fusion_enabled() is before
        with pytest.raises(RuntimeError):
            Traced(trained_like())(torch.randn(1, 5, 32, 32))
        assert torch.jit.onednn_fusion_enabled() is before
    finally:
        torch.jit.enable_onednn_fusion(was)


def test_only_our_resnets_where_this_torch_has_the_compiler(monkeypatch):
    assert not can_trace(nn.Sequential(nn.Conv2d(3, 4, 3)))
    monkeypatch.delattr(traced.torch.jit, "enable_onednn_fusion", raising=False)
    assert not can_trace(trained_like())
