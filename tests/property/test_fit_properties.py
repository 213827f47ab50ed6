"""The training loop over random sizes, schedules and moments of death."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CPU
from torch import nn

from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, rate_at, stream_seed

X = torch.linspace(-1, 1, 40).reshape(40, 1)
optimizers = st.sampled_from(["adam", "adamw", "sgd"])
schedules = st.sampled_from(["constant", "exponential", "cycle", "steps", "one_cycle"])


def train(folder, recipe, n, loss_of=None, dies=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Linear(1, 2)
    learner = Learner("net", net, make_optimizer(net, recipe))

    def loss(net, rows, generator, epoch):
        return (net(X[rows]) + torch.randn(len(rows), 2, generator=generator)).square().mean()

    def after_epoch(epoch):
        if epoch == dies:
            raise KeyboardInterrupt
        return {}

    try:
        fit(
            [learner],
            loss_of or loss,
            lambda epoch: {"net": np.arange(n)},
            recipe,
            CPU,
            0,
            folder,
            "toy",
            None,
            after_epoch,
        )
    except KeyboardInterrupt:
        assert dies is not None
    return net.state_dict()


@settings(max_examples=15)
@given(optimizers, schedules, st.integers(1, 4), st.integers(1, 40), st.integers(1, 12), st.data())
def test_whenever_it_dies_the_resumed_run_is_the_undisturbed_one(optimizer, schedule, epochs, n, batch, data):
    recipe = OptimSettings(optimizer=optimizer, schedule=schedule, lr=0.05, epochs=epochs, batch_size=batch)
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder) / "whole", recipe, n)
        for _ in range(data.draw(st.integers(1, 2))):
            train(Path(folder) / "cut", recipe, n, dies=data.draw(st.integers(0, epochs - 1)))
        resumed = train(Path(folder) / "cut", recipe, n)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 3))
def test_an_epoch_visits_no_image_twice_and_drops_less_than_a_batch(n, batch, epochs):
    recipe = OptimSettings(lr=0.01, epochs=epochs, batch_size=batch)
    visits, sizes = Counter(), []

    def spy(net, rows, generator, epoch):
        visits.update(rows.tolist())
        sizes.append(len(rows))
        return net(X[rows]).square().mean()

    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), recipe, n, spy)
    assert set(visits) <= set(range(n)) and max(visits.values()) <= epochs
    assert set(sizes) == {min(batch, n)}
    left_out = n * epochs - sum(visits.values())
    assert left_out == epochs * (n % batch if n >= batch else 0)


@given(
    schedules,
    st.floats(1e-6, 1),
    st.floats(0.05, 1),
    st.integers(1, 20),
    st.floats(0, 0.99),
    st.integers(1, 60),
    st.data(),
)
def test_rates_stay_between_zero_and_the_given_one(schedule, lr, gamma, length, warmup, epochs, data):
    recipe = OptimSettings(
        schedule=schedule, lr=lr, gamma=gamma, cycle_length=length, milestones=[length], warmup=warmup, epochs=epochs,
        batch_size=1,
    )  # fmt: skip
    epoch = data.draw(st.integers(0, epochs - 1))
    share = data.draw(st.floats(0, 0.999))
    rate = rate_at(recipe, epoch, share)
    assert 0 < rate <= lr * (1 + 1e-9)
    if schedule == "cycle":
        assert rate == rate_at(recipe, epoch + length, share) and rate_at(recipe, epoch - epoch % length, share) == lr


@given(st.lists(st.one_of(st.integers(0, 2**31), st.text(max_size=8)), min_size=1, max_size=4))
def test_stream_seeds_fit_a_generator_and_repeat(parts):
    seed = stream_seed(*parts)
    assert 0 <= seed < 2**63 and seed == stream_seed(*parts) and seed != stream_seed(*parts, "more")
    torch.Generator().manual_seed(seed)
