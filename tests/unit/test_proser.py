"""PROSER on planted data: the dummy wins on mixtures and is second on known images; the bias keeps what it says."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import CPU, killed_at_call, late_net, open_set_task, shuffled, tiny_dataset

from fer_openset import metrics
from fer_openset.augment import clean_view
from fer_openset.backbones import new_net
from fer_openset.closed_set import batch_of
from fer_openset.device import Device
from fer_openset.errors import UserError
from fer_openset.methods import known_training, method_settings
from fer_openset.methods import proser as module
from fer_openset.methods.known_training import wider_learner
from fer_openset.methods.predictions import read_predictions
from fer_openset.methods.proser import (
    CALIBRATION,
    DECISIONS,
    MIX_AFTER,
    OPEN,
    ProserSettings,
    calibrate,
    calibration_split,
    dummy_lead,
    mix,
    mixture_loss,
    placeholder_loss,
    proser,
    with_dummy,
)
from fer_openset.methods.task import Task
from fer_openset.methods.two_norms import unrecorded

CLASSES, OPENED = ("fear", "disgust", "happiness", "anger"), "disgust"  # the open one lies between two known ones
KNOWN = tuple(name for name in CLASSES if name != OPENED)


def settings_of(**changes):
    given = dict(
        image_size=32, init="scratch", beta=1.0, data_weight=0.01, placeholder_weight=1.0, keep=0.95,
        held_out_one_in=10, lr=0.02, schedule="one_cycle", epochs=16, batch_size=16,
    )  # fmt: skip
    return ProserSettings(**given | changes)


def planted(folder, known=KNOWN, valid=10, seed=0):
    counts = {"train": 30, "test": 20} | ({"valid": valid} if valid else {})
    return open_set_task(folder, tiny_dataset(counts, CLASSES), known, seed)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(known_training, "new_net", late_net)


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("change", [{}, {"dummies": 3}, {"init": "f_close", "mirror": True}])
def test_images_of_an_unseen_class_get_the_high_scores(tmp_path, change):
    task, is_open = planted(tmp_path)
    scores = proser(task, settings_of(**change))
    assert scores.index.equals(task.pool_ids) and np.isfinite(scores).all() and scores.dtype == float
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.9


def logits_on_known_images(net, task):
    """K+1 logits of mixtures, half and half, of training images of two classes; and of the images themselves."""
    y = torch.tensor(task.train["target"].to_numpy())
    x = clean_view(batch_of(task.dataset, task.dataset.rows(task.train.index)), 32, CPU.torch_device)
    net.eval()
    with torch.no_grad():
        features = net.until(x, MIX_AFTER)
        other = torch.randperm(len(y), generator=generator())
        halves = ((features + features[other]) / 2)[y != y[other]]
        mixed, clean = (with_dummy(net.classify(net.since(f, MIX_AFTER)), 3) for f in (halves, features))
    return mixed, clean, y


def test_each_of_the_two_losses_does_what_it_is_for(tmp_path, monkeypatch):
    """The dummy wins on mixtures by the loss on mixtures, and is second on known images by the other loss."""
    nets = []
    monkeypatch.setattr(module, "wider_learner", lambda *a: nets.append(wider_learner(*a)) or nets[-1])
    found = {}
    for data, second in ((1.0, 1.0), (0.0, 1.0), (0.0, 0.0)):
        task, _ = planted(tmp_path / f"{data} {second}")
        proser(task, settings_of(data_weight=data, placeholder_weight=second))
        mixed, clean, y = logits_on_known_images(nets[-1].net, task)
        assert (clean[:, :3].argmax(1) == y).float().mean() > 0.95
        is_second = (clean.argsort(1)[:, -2] == 3).float().mean()
        won = [(dummy_lead(z) > 0).float().mean() for z in (mixed, clean)]
        found[data, second] = float(won[0]), float(won[1]), float(is_second)
    both, second_only, neither = found.values()
    assert both[0] > 0.9 and both[1] < 0.05 and both[2] > 0.95
    assert second_only[0] < 0.6 and second_only[2] > 0.95  # the mixtures are lost, not the second place
    assert neither[0] < 0.05 and neither[2] < 0.5


def test_only_the_largest_dummy_counts():
    z = torch.tensor([[1.0, 3.0, 0.5, 2.0], [0.0, -1.0, 4.0, 4.5]])
    assert with_dummy(z, 2).tolist() == [[1.0, 3.0, 2.0], [0.0, -1.0, 4.5]]
    assert dummy_lead(with_dummy(z, 2)).tolist() == [-1.0, 4.5]


@given(st.integers(0, 2**32))
def test_mixtures_share_one_draw_and_know_which_pairs_are_new(seed):
    rng = generator(seed)
    features, y = torch.rand(6, 2, 3, 3, generator=rng), torch.randint(0, 3, (6,), generator=rng)
    mixed, new = mix(features, y, 1.0, generator(seed))
    # Each mixture lies on the line from its image to one other, all at the same share.
    again = generator(seed)
    torch.randint(2**62, (), generator=again)
    other = torch.randperm(6, generator=again)
    assert new.tolist() == (y != y[other]).tolist()
    step, way = (mixed - features).flatten(), (features[other] - features).flatten()
    if float(way.square().sum()) > 1e-6:
        share = float(step @ way / (way @ way))
        assert -1e-4 <= share <= 1 + 1e-4
        torch.testing.assert_close(mixed, features + share * (features[other] - features), atol=1e-4, rtol=1e-3)


def test_shares_spread_as_beta_says():
    pairs = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    for beta, spread in ((1.0, 12**-0.5), (50.0, 0.05)):
        draws = torch.stack([mix(pairs, torch.tensor([0, 1]), beta, generator(seed))[0] for seed in range(300)])
        shares = draws[:, 0, 0, 0, 0]
        moved = shares[shares > 0]  # a permutation that leaves both in place mixes each with itself
        assert float(moved.mean()) == pytest.approx(0.5, abs=0.07)
        assert float(moved.std()) == pytest.approx(spread, rel=0.2)


def test_pairs_of_one_class_are_no_new_class():
    z, new = torch.randn(5, 4, generator=generator()), torch.tensor([True, False, True, False, True])
    expected = -np.mean([float(z[i].log_softmax(0)[3]) for i in (0, 2, 4)])
    assert float(mixture_loss(z, new)) == pytest.approx(expected, rel=1e-5)
    assert float(mixture_loss(z, torch.zeros(5, dtype=torch.bool))) == 0.0


def test_second_best_is_cross_entropy_among_the_others():
    z, y = torch.randn(4, 4, generator=generator()), torch.tensor([0, 1, 2, 0])
    others = [[k for k in range(4) if k != int(t)] for t in y]
    expected = -np.mean([float(z[i, keep].log_softmax(0)[2]) for i, keep in enumerate(others)])
    assert float(placeholder_loss(z, y)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    net = late_net("small", 4, 0, zero_head=False).train()
    x, y = torch.randn(8, 1, 32, 32, generator=generator()), torch.arange(8) % 3
    loss, parts = module._loss(net, x, y, 3, settings_of(data_weight=0.3, placeholder_weight=0.7), CPU, generator())
    expected = parts["loss_cls"] + 0.3 * parts["loss_data"] + 0.7 * parts["loss_second"]
    torch.testing.assert_close(loss, expected)
    again = late_net("small", 4, 0, zero_head=False).train()
    again.until(x[:4], 4)  # the first half passes first, and moves the statistics
    clean = again(x[4:])
    torch.testing.assert_close(parts["loss_cls"], F.cross_entropy(clean, y[4:]))


def statistics_after(x, y, **changes):
    """The running statistics once a new network has seen one batch."""
    net = late_net("small", 4, 0, zero_head=False).train()
    loss, parts = module._loss(net, x, y, 3, settings_of(**changes), CPU, generator())
    loss.backward()
    assert all(module.track_running_stats for module in net.modules() if hasattr(module, "track_running_stats"))
    assert all(p.grad is not None for p in net.parameters()) and float(parts["loss_data"].detach()) > 0
    return {name: value.clone() for name, value in net.named_buffers()}


def test_mixtures_leave_the_running_statistics_alone():
    x, y = torch.randn(24, 1, 32, 32, generator=generator()), torch.arange(24) % 3
    net = late_net("small", 4, 0, zero_head=False).train()
    net.until(x[:12], MIX_AFTER)  # images as far as they are mixed, then images alone
    net(x[12:])
    expected = dict(net.named_buffers())
    ours, authors = statistics_after(x, y), statistics_after(x, y, spare_statistics=False)
    assert all(torch.equal(ours[name], value) for name, value in expected.items())
    poisoned = {name for name in expected if not torch.equal(authors[name], expected[name])}
    assert poisoned == {f"body.4.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_unrecorded_passes_normalise_by_their_own_batch_and_evaluation_is_as_ever():
    norm, x = torch.nn.BatchNorm2d(3), 5 + 2 * torch.randn(16, 3, 4, 4, generator=generator())
    with unrecorded(norm), torch.no_grad():
        seen = norm.train()(x)
        told = norm.eval()(x)
    assert float(seen.mean().abs()) < 1e-5 and float(norm.running_mean.abs().sum()) == 0
    torch.testing.assert_close(told, x, rtol=1e-4, atol=1e-4)  # by the recorded statistics, still 0 and 1
    with pytest.raises(KeyError), unrecorded(norm):
        raise KeyError
    assert norm.track_running_stats


def test_a_real_network_takes_a_step_under_bf16():
    device = Device(torch.device("cpu"), torch.bfloat16, "cpu")
    net = device.place(new_net("resnet18", 4, 0, zero_head=False)).train()
    x, y = torch.randn(8, 1, 64, 64, generator=generator()), torch.arange(8) % 3
    loss, _ = module._loss(net, x, y, 3, settings_of(), device, generator())
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_images_are_mixed_after_the_third_stage(monkeypatch):
    mixed, mix_ = [], module.mix
    monkeypatch.setattr(module, "mix", lambda features, *rest: mixed.append(features.shape) or mix_(features, *rest))
    net = new_net("resnet18", 4, 0, zero_head=False).train()
    module._loss(net, torch.randn(8, 1, 64, 64, generator=generator()), torch.arange(8) % 3, 3, settings_of(), CPU,
                 generator())  # fmt: skip
    assert mixed == [(4, 256, 4, 4)]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.floats(0.05, 0.99))
def test_the_bias_keeps_the_asked_share_and_no_image_more_than_needed(leads, keep):
    leads = np.array(leads, float)
    bias = calibrate(leads, keep)
    kept = leads + bias <= 0
    assert kept.mean() >= keep - 1e-9 or kept.all()
    tighter = leads < -bias  # one step further down loses those at the bound
    assert tighter.sum() <= int(np.ceil(keep * (len(leads) - 1)))


def test_decisions_follow_the_calibrated_logits(tmp_path):
    task, is_open = planted(tmp_path)
    scores = proser(task, settings_of())
    found = json.loads((tmp_path / CALIBRATION).read_text())
    assert found["images"] == len(task.valid) == 30 and found["images_from"] == "known validation images"
    assert found["kept"] >= 0.95
    decided = pd.read_csv(tmp_path / DECISIONS, index_col="sample_id")["decision"]
    assert decided.index.equals(task.pool_ids) and set(decided) <= {*KNOWN, OPEN}
    assert ((decided == OPEN) == (scores + found["bias"] > 0)).all()
    labels = task.dataset.table.loc[task.pool_ids, "label"]
    told = decided[~is_open]
    assert (told == labels[~is_open])[told != OPEN].mean() > 0.95
    assert (decided[is_open] == OPEN).mean() > 0.8 and (told != OPEN).mean() > 0.7
    predicted = read_predictions(task)
    assert ((decided == OPEN) | (np.array(KNOWN)[predicted] == decided)).all()  # the same, but nobody is open
    assert (np.array(KNOWN)[predicted] == labels)[~is_open].mean() > 0.95


def test_validation_accuracy_is_told_after_each_epoch(tmp_path):
    task, _ = planted(tmp_path)
    proser(task, settings_of(mirror=True))
    told = pd.read_csv(tmp_path / "history.csv")["valid_accuracy"]
    assert len(told) == 16 and told.between(0, 1).all() and told.iloc[-1] > 0.95 > told.iloc[0]


def test_without_validation_images_some_training_images_are_kept_for_the_bias(tmp_path, capsys, monkeypatch):
    task, _ = planted(tmp_path, valid=0)
    trained = []
    original = module.fit_known
    monkeypatch.setattr(module, "fit_known", lambda *a: trained.append(a[-1]) or original(*a))
    scores = proser(task, settings_of(epochs=2))
    assert np.isfinite(scores).all()
    words = "one in 10 known training images, held out (there are no validation images)"
    assert words in capsys.readouterr().out
    found = json.loads((tmp_path / CALIBRATION).read_text())
    assert found["images"] == 9 and found["images_from"] == words
    _, held_out, _ = calibration_split(task, settings_of())
    assert not trained[0].index.intersection(held_out).size and len(trained[0]) + 9 == len(task.train)
    assert (task.train.loc[held_out, "target"].value_counts() == 3).all()
    backwards = Task(**{**vars(task), "train": task.train.iloc[::-1]})
    assert set(calibration_split(backwards, settings_of())[1]) == set(held_out)


def test_too_few_images_to_hold_any_out_is_said(tmp_path):
    task, _ = planted(tmp_path, valid=0)
    with pytest.raises(UserError, match="no known class has 31 training images to hold one out"):
        proser(task, settings_of(held_out_one_in=31))


def test_killed_and_resumed_gives_the_same_scores(tmp_path, monkeypatch):
    settings = settings_of(epochs=4)
    expected = proser(planted(tmp_path / "whole")[0], settings)
    cut, _ = planted(tmp_path / "cut")
    killed_at_call(13, monkeypatch, module, "_loss", lambda: proser(cut, settings))  # five steps an epoch
    pd.testing.assert_series_equal(proser(cut, settings), expected, check_exact=True)
    for name in (CALIBRATION, DECISIONS):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()


def test_neither_pseudo_labels_nor_the_order_of_rows_play_a_part(tmp_path):
    task, _ = planted(tmp_path / "a")
    expected = proser(task, settings_of(epochs=2))
    moved = shuffled(task.dataset)
    logits = (task.pool_logits + 5 * np.eye(3)[np.arange(80) % 3]).iloc[::-1]
    other = Task(**{**vars(task), "dataset": moved, "pool_logits": logits, "folder": tmp_path / "b"})
    scores = proser(other, settings_of(epochs=2))
    np.testing.assert_allclose(scores.loc[expected.index], expected, atol=1e-4)
    seeded = Task(**{**vars(task), "seed": 1, "folder": tmp_path / "c"})
    assert not np.allclose(proser(seeded, settings_of(epochs=2)), expected)


def test_one_known_class_is_refused(tmp_path):
    task, _ = planted(tmp_path, known=("fear",))
    with pytest.raises(UserError, match="proser: one known class leaves no two classes to mix"):
        proser(task, settings_of())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"init": "pretrained"}, "init = 'pretrained': input should be 'scratch' or 'f_close'"),
        ({"batch_size": 3}, "batch_size = 3"),
        ({"dummys": 2}, "dummies"),
        ({"keep": 1.0}, "keep = 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(override, words):
    with pytest.raises(UserError, match=words) as caught:
        method_settings("proser", "smoke", override)
    assert "\n" not in str(caught.value)
