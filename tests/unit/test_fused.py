"""Optimisers on views of channels-last weights: the same steps to the bit, on the network's own memory."""

import pytest
import torch
from torch import nn

from fer_openset.checkpoint import flatten_optimizer, restore_optimizer
from fer_openset.fit import OptimSettings, make_optimizer
from fer_openset.fused import contiguous_views

NAMES = ("sgd", "adam", "adamw")


def made(channels_last, seed=0):
    torch.manual_seed(seed)
    ends = [nn.Flatten(), nn.Linear(64, 3)]
    net = nn.Sequential(nn.Conv2d(5, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), *ends)
    return net.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def optimizer_of(net, name):
    return make_optimizer(net, OptimSettings(optimizer=name, lr=0.1, weight_decay=0.01, epochs=1, batch_size=1))


def give_gradients(net, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)  # contiguous, whatever the weight is


def learn(net, optimizer, steps):
    for step in steps:
        optimizer.zero_grad(set_to_none=True)
        assert all(weight.grad is None for weight in net.parameters())
        give_gradients(net, step)
        optimizer.step()


def weights_of(net):
    return [weight.detach().clone(memory_format=torch.contiguous_format) for weight in net.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_contiguous_weights_to_the_bit(name):
    found = []
    for channels_last in (True, False):
        net = made(channels_last)
        learn(net, optimizer_of(net, name), range(4))
        found.append(weights_of(net))
    assert not torch.equal(found[0][0], weights_of(made(False))[0])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_optimiser_goes_on_as_it_would_have(name):
    net = made(True)
    whole = optimizer_of(net, name)
    learn(net, whole, range(3))
    state = {name: tensor.clone() for name, tensor in flatten_optimizer(whole).items()}
    middle = weights_of(net)
    learn(net, whole, range(3, 5))
    other = made(True, seed=1)
    other.load_state_dict(dict(zip(dict(other.named_parameters()), middle, strict=True)), strict=False)
    again = optimizer_of(other, name)
    restore_optimizer(again, state)
    learn(other, again, range(3, 5))
    assert all(map(torch.equal, weights_of(net), weights_of(other)))


def test_only_channels_last_weights_are_seen_through_a_view():
    net = made(True)
    views = contiguous_views(net)
    assert [view is weight for weight, view in views.items()][:1] == [False]
    assert all(view.is_contiguous() and view.data_ptr() == weight.data_ptr() for weight, view in views.items())
    assert all(view is weight for weight, view in contiguous_views(made(False)).items())


def test_a_weight_without_a_gradient_stays():
    net = made(True)
    optimizer, before = optimizer_of(net, "sgd"), weights_of(net)
    optimizer.zero_grad()
    optimizer.step()
    assert all(map(torch.equal, before, weights_of(net)))


def test_a_network_moved_later_is_refused():
    net = made(True)
    optimizer = optimizer_of(net, "sgd")
    net.to(memory_format=torch.contiguous_format)
    give_gradients(net, 0)
    with pytest.raises(RuntimeError, match="moved after its optimiser"):
        optimizer.step()
