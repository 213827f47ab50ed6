"""The network, its class activation maps and their consistency under a mirror."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fer_openset.backbones import FaceNet, attention_maps, copy_known, flip_consistency, new_net
from fer_openset.errors import UserError


@pytest.fixture(scope="module")
def net():
    return new_net("resnet18", 5, seed=0, zero_head=False).eval()


def pictures(n=2, channels=1, size=64, seed=0):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_maps_equal_plain_loops():
    features, weight = torch.randn(2, 6, 3, 4), torch.randn(5, 6)
    maps = attention_maps(features, weight)
    assert maps.shape == (2, 5, 3, 4)
    for n in range(2):
        for k in range(5):
            for h in range(3):
                for w in range(4):
                    expected = sum(float(weight[k, c]) * float(features[n, c, h, w]) for c in range(6))
                    assert float(maps[n, k, h, w]) == pytest.approx(expected, abs=1e-5)


def test_mean_of_the_maps_plus_bias_is_the_logit(net):
    x = pictures()
    features = net.feature_map(x)
    assert features.shape == (2, 512, 2, 2)
    maps = attention_maps(features, net.head.weight)
    torch.testing.assert_close(maps.sum((2, 3)) / 4 + net.head.bias, net(x), atol=1e-4, rtol=1e-4)


def test_maps_teach_the_features_but_not_the_head(net):
    features = torch.randn(2, 512, 2, 2, requires_grad=True)
    net.zero_grad(set_to_none=True)
    attention_maps(features, net.head.weight).square().sum().backward()
    assert net.head.weight.grad is None and features.grad.abs().sum() > 0


def test_consistency_is_the_mean_square_of_the_difference_to_the_mirrored_map():
    a, b = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    total = sum(
        (float(a[n, k, h, w]) - float(b[n, k, h, 4 - w])) ** 2
        for n in range(2) for k in range(3) for h in range(4) for w in range(5)
    )  # fmt: skip
    assert float(flip_consistency(a, b)) == pytest.approx(total / 120, rel=1e-5)
    assert float(flip_consistency(a, a.flip(3))) == 0.0
    symmetric = a + a.flip(3)
    assert float(flip_consistency(symmetric, symmetric)) == 0.0


def mirror_blind(net):
    """Make every kernel its own mirror image: the network then commutes with flips of odd-sized images."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(3)) / 2)
    return net


def test_a_network_that_commutes_with_flips_is_consistent_and_a_usual_one_is_not():
    x = pictures(size=65)
    for symmetric in (True, False):
        net = new_net("resnet18", 4, seed=1, zero_head=False).eval()
        if symmetric:
            mirror_blind(net)
        with torch.no_grad():
            maps, mirrored = (attention_maps(net.feature_map(v), net.head.weight) for v in (x, x.flip(3)))
        assert maps.shape[-1] == 3
        loss = float(flip_consistency(maps, mirrored) / maps.square().mean())
        assert loss < 1e-8 if symmetric else loss > 1e-4
        # Of a symmetric image the two views are one, and only the symmetry of its map is left to ask for.
        image = x + x.flip(3)
        with torch.no_grad():
            own = attention_maps(net.feature_map(image), net.head.weight)
        assert torch.allclose(own, own.flip(3), atol=1e-4) == symmetric


@pytest.mark.parametrize("train", [False, True])
def test_a_grey_image_is_its_threefold_copy(net, train):
    x = pictures()
    net.train(train)
    with torch.no_grad():
        torch.testing.assert_close(net.feature_map(x), net.feature_map(x.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)
    net.eval()


def test_the_grey_path_teaches_the_first_layer():
    net = new_net("resnet18", 3, seed=0, zero_head=False)
    net(pictures(4, size=32)).square().sum().backward()
    assert net.body.conv1.weight.grad.abs().sum() > 0


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = new_net("resnet18", 4, seed=2, zero_head=False).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(12)
    again, other = (new_net("resnet18", 4, seed, zero_head=False).state_dict() for seed in (2, 3))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["body.conv1.weight"], other["body.conv1.weight"])


def test_a_zero_head_starts_undecided():
    net = new_net("resnet18", 4, seed=0).eval()
    with torch.no_grad():
        assert net(pictures()).abs().max() == 0


def test_heads_and_backbones():
    assert FaceNet("resnet50", 7).head.in_features == 2048
    assert isinstance(FaceNet("resnet18", 7).body.fc, nn.Identity)
    with pytest.raises(UserError, match=r"unknown backbone 'resnet-18'; did you mean 'resnet18'\?"):
        new_net("resnet-18", 7, 0)


def test_logits_keep_their_digits_under_autocast(net):
    """bf16 has 8 significant bits: logits in it would make many images tie, and a tie is half an error."""
    features = torch.randn(1000, 512, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = F.linear(features.mean((2, 3)), net.head.weight, net.head.bias)
        logits = net.classify(features)
        assert net(pictures()).dtype == torch.float32
    assert rough.dtype == torch.bfloat16 and rough[:, 0].unique().numel() < 800
    assert logits.dtype == torch.float32 and logits[:, 0].unique().numel() > 990
    torch.testing.assert_close(logits, rough.float(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_a_pass_can_be_cut_after_any_stage(backbone):
    net, x = new_net(backbone, 2, seed=0).eval(), pictures(size=64)
    whole = net.feature_map(x)
    for stage, size in ((1, 16), (2, 8), (3, 4), (4, 2)):
        features = net.until(x, stage)
        assert features.shape[2:] == (size, size)
        assert torch.equal(net.since(features, stage), whole)


def test_a_wider_network_takes_body_and_known_rows_of_a_narrower_one():
    known, wide = new_net("resnet18", 3, 1, zero_head=False), new_net("resnet18", 5, 2, zero_head=False)
    own = wide.head.weight[3:].clone()
    copy_known(wide, known.state_dict(), "weights", "resnet18")
    assert torch.equal(wide.head.weight[3:], own)
    x = pictures()
    torch.testing.assert_close(wide.eval()(x)[:, :3], known.eval()(x))


@pytest.mark.parametrize(("n_classes", "backbone"), [(3, "resnet50"), (6, "resnet18")])
def test_known_rows_that_do_not_fit_are_named(n_classes, backbone):
    other = new_net(backbone, n_classes, 0).state_dict()
    with pytest.raises(UserError, match="the weights of f_close do not fit resnet18"):
        copy_known(new_net("resnet18", 5, 0), other, "the weights of f_close", "resnet18")
