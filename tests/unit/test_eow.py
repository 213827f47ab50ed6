"""EOW on planted data: samples go downhill in energy, training calls them class K+1, statistics never see them."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rounding import needs_kernel, packs
from tiny import CPU, killed_at_call, late_net, open_set_task, shuffled, tiny_dataset

from fer_openset import metrics
from fer_openset.backbones import new_net
from fer_openset.checkpoint import load_tensors
from fer_openset.closed_set import ClosedModel
from fer_openset.device import Device
from fer_openset.errors import UserError
from fer_openset.methods import eow as module
from fer_openset.methods import known_training, method_settings
from fer_openset.methods.eow import BOTH_SCORES, EowSettings, draw_samples, eow, langevin, log_extra, open_scores
from fer_openset.methods.known_training import clean_logits, wider_learner
from fer_openset.methods.predictions import read_predictions
from fer_openset.methods.task import Task

CLASSES, OPEN = ("fear", "disgust", "happiness", "anger"), "happiness"  # the open one lies between two known ones
KNOWN = tuple(name for name in CLASSES if name != OPEN)


def settings_of(**changes):
    given = dict(
        image_size=32, init="scratch", ebm_weight=0.1, ebm_from=1, input_noise=0.01, sgld_samples=8, sgld_steps=5,
        sgld_rate=1.0, sgld_noise=0.001, buffer=40, restart=0.05, start_range=0.1, lr=0.01, weight_decay=0.0, epochs=5,
        batch_size=16,
    )  # fmt: skip
    return EowSettings(**given | changes)


def planted(folder, dataset=None, known=KNOWN, seed=0):
    dataset = dataset or tiny_dataset({"train": 30, "test": 20}, CLASSES)
    return open_set_task(folder, dataset, known, seed)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(known_training, "new_net", late_net)


@pytest.fixture
def toy():
    """A network that has been trained for nothing, features, images and labels."""
    net = late_net("small", 4, 0, zero_head=False).train()
    generator = torch.Generator().manual_seed(1)
    buffer = torch.rand(40, 16, 16, 16, generator=generator)
    x, y = torch.randn(8, 1, 32, 32, generator=generator), torch.arange(8) % 3
    return SimpleNamespace(net=net, buffer=buffer, x=x, y=y)


def generator():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("change", [{}, {"score": "extra_class"}, {"mirror": True}])
def test_images_of_an_unseen_class_get_the_high_scores(tmp_path, change):
    task, is_open = planted(tmp_path)
    scores = eow(task, settings_of(**change))
    assert scores.index.equals(task.pool_ids) and scores.between(0, 1).all() and scores.dtype == float
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.95
    both = pd.read_csv(tmp_path / BOTH_SCORES, index_col="sample_id")
    assert list(both) == ["one_minus_max", "extra_class"]
    np.testing.assert_allclose(both.loc[scores.index, change.get("score", "one_minus_max")], scores)


def test_what_the_classifier_predicts_is_left_for_the_metrics(tmp_path):
    task, is_open = planted(tmp_path, tiny_dataset({"train": 30, "valid": 5, "test": 20}, CLASSES))
    eow(task, settings_of(mirror=True))
    labels = task.dataset.table.loc[task.pool_ids, "label"].to_numpy()
    assert (np.array(KNOWN)[read_predictions(task)] == labels)[~is_open].mean() > 0.95
    told = pd.read_csv(tmp_path / "history.csv")["valid_accuracy"]
    assert len(told) == 5 and told.iloc[-1] > 0.95


def test_training_calls_the_samples_class_k_plus_1_and_only_training_on_them_does(tmp_path, monkeypatch):
    nets = []
    monkeypatch.setattr(module, "wider_learner", lambda *a: nets.append(wider_learner(*a)) or nets[-1])
    found = {}
    for weight in (1.0, 1e-6):
        task, _ = planted(tmp_path / str(weight))
        settings = settings_of(ebm_weight=weight, ebm_from=0, epochs=8)
        eow(task, settings)
        net = nets[-1].net.eval()
        buffer = load_tensors(task.folder / "checkpoint.safetensors")[0]["extra/buffer"]
        with torch.no_grad():
            of_samples = log_extra(net, buffer, CPU).exp().mean()
        of_known = open_scores(clean_logits(net, task, settings, task.train.index))["extra_class"].mean()
        found[weight] = float(of_samples), float(of_known)
    assert found[1.0][0] > 0.7 and found[1.0][1] < 0.4
    assert found[1e-6][0] < 0.05


def test_langevin_steps_go_downhill_in_energy_and_stay_at_0_or_more(toy):
    net, start = toy.net.eval(), toy.buffer
    end = langevin(net, start, settings_of(sgld_steps=20), CPU, generator())
    assert end.shape == start.shape and (end >= 0).all() and not end.requires_grad and not torch.equal(end, start)
    with torch.no_grad():
        assert (log_extra(net, end, CPU) < log_extra(net, start, CPU)).all()
    assert torch.equal(start, toy.buffer)


def test_one_langevin_step_is_the_formula(toy):
    net, rate = toy.net.eval(), 3.0
    z = toy.buffer.clone().requires_grad_()
    (-log_extra(net, z, CPU).sum()).backward()
    noise = torch.randn(z.shape, generator=generator())
    expected = (z.detach() + rate * z.grad + 0.5 * noise).clamp(min=0)
    got = langevin(net, toy.buffer, settings_of(sgld_steps=1, sgld_rate=rate, sgld_noise=0.5), CPU, generator())
    torch.testing.assert_close(got, expected)


def test_a_real_network_is_sampled_under_bf16_as_it_is_trained():
    device = Device(torch.device("cpu"), torch.bfloat16, "cpu")
    net = device.place(new_net("resnet18", 4, 0, zero_head=False)).eval()
    start = torch.rand(3, 256, 4, 4, generator=generator())
    end = langevin(net, start, settings_of(sgld_steps=3), device, generator())
    assert end.dtype == torch.float32 and end.shape == start.shape
    with torch.no_grad():
        assert (log_extra(net, end, device) < log_extra(net, start, device)).all()


def statistics(net):
    return {name: value.clone() for name, value in net.named_buffers()}


def test_samples_leave_the_batch_statistics_alone(toy):
    """The loss with samples moves the statistics exactly as the loss without them: by the images alone."""
    other = late_net("small", 4, 0, zero_head=False).train()
    with_samples, parts = module._loss(toy.net, toy.x, toy.y, toy.buffer, settings_of(), CPU, generator())
    module._loss(other, toy.x, toy.y, None, settings_of(), CPU, generator())
    moved = statistics(toy.net)
    assert all(torch.equal(moved[k], v) for k, v in statistics(other).items())
    assert not torch.equal(moved["body.1.running_mean"], torch.zeros(16))  # the images did move them
    assert float(parts["loss_ebm"].detach()) > 0
    with_samples.backward()  # nothing it needs was changed in place


def test_the_test_above_would_see_poisoned_statistics(toy):
    samples = draw_samples(toy.net, toy.buffer, settings_of(), CPU, generator())
    before = statistics(toy.net)
    log_extra(toy.net, samples, CPU)  # in training mode, as the authors feed them
    assert any(not torch.equal(before[k], v) for k, v in statistics(toy.net).items())


def test_drawing_samples_changes_nothing_of_the_network(toy):
    toy.net.body[0].weight.requires_grad_(False)  # one that is not taught, and must not be afterwards
    state = {k: v.clone() for k, v in toy.net.state_dict().items()}
    draw_samples(toy.net, toy.buffer, settings_of(), CPU, generator())
    assert all(torch.equal(state[k], v) for k, v in toy.net.state_dict().items())
    assert toy.net.training and all(p.grad is None for p in toy.net.parameters())
    assert [p.requires_grad for p in toy.net.parameters()] == [False] + [True] * 7


def test_the_loss_on_samples_teaches_the_last_stage_and_the_head_only(toy):
    plain = settings_of(input_noise=0.0)
    gradients = []
    for buffer in (None, toy.buffer.clone()):
        toy.net.zero_grad()
        net = late_net("small", 4, 0, zero_head=False).train()
        loss, _ = module._loss(net, toy.x, toy.y, buffer, plain, CPU, generator())
        loss.backward()
        gradients.append({k: p.grad for k, p in net.named_parameters()})
    without, with_samples = gradients
    same = {k for k in without if torch.equal(without[k], with_samples[k])}
    assert same == {"body.0.weight", "body.1.weight", "body.1.bias"}


def test_chains_go_on_in_the_buffer(toy):
    before = toy.buffer.clone()
    samples = draw_samples(toy.net, toy.buffer, settings_of(restart=0.0), CPU, generator())
    changed = (toy.buffer != before).flatten(1).any(1)
    assert changed.sum() == len(samples) == 8
    assert {tuple(v.flatten().tolist()) for v in toy.buffer[changed]} == {tuple(v.flatten().tolist()) for v in samples}


def test_restarted_chains_forget_the_buffer(toy):
    still = settings_of(restart=1.0, sgld_steps=1, sgld_rate=1e-9, sgld_noise=0.0, start_range=0.1)
    samples = draw_samples(toy.net, toy.buffer, still, CPU, generator())
    assert (samples <= 0.1).all() and (samples < 1e-6).float().mean() == pytest.approx(0.5, abs=0.02)


def test_no_sample_is_drawn_before_its_epoch(tmp_path, monkeypatch):
    task, _ = planted(tmp_path)
    drawn = []
    original = module.draw_samples
    monkeypatch.setattr(module, "draw_samples", lambda *a: drawn.append(1) or original(*a))
    eow(task, settings_of(epochs=3, ebm_from=2))
    assert len(drawn) == 90 // 16
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["loss_ebm"].isna().tolist() == [True, True, False] and history["loss_cls"].notna().all()


@given(st.lists(st.lists(st.floats(-30, 30), min_size=4, max_size=4), min_size=1, max_size=8))
def test_scores_are_their_formulas(logits):
    z = np.array(logits)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    scores = open_scores(torch.from_numpy(z))
    np.testing.assert_allclose(scores["one_minus_max"], 1 - p[:, :3].max(1), atol=1e-12)
    np.testing.assert_allclose(scores["extra_class"], p[:, 3], atol=1e-12)


def test_very_certain_images_do_not_tie():
    z = torch.tensor([[60.0, 0, 0, 0], [61.0, 0, 0, 0]])
    first, second = open_scores(z)["one_minus_max"]
    assert 0 < second < first < 1e-20


def test_a_start_from_f_close_keeps_its_answers(tmp_path):
    task, _ = planted(tmp_path)
    torch.nn.init.normal_(task.f_close.net.head.weight)
    settings = settings_of(init="f_close")
    net = wider_learner("eow", task, settings, 1).net
    ours = clean_logits(net, task, settings, task.pool_ids)
    theirs = clean_logits(task.f_close.net, task, settings, task.pool_ids)
    assert ours.shape == (80, 4)
    torch.testing.assert_close(ours[:, :3], theirs, rtol=1e-4, atol=1e-4)
    assert np.isfinite(eow(task, settings)).all()


def test_killed_and_resumed_gives_the_same_scores_and_the_same_buffer(tmp_path, monkeypatch):
    settings = settings_of(epochs=4)
    expected = eow(planted(tmp_path / "whole")[0], settings)
    cut, _ = planted(tmp_path / "cut")
    # In the third epoch, the second with samples: five steps an epoch.
    killed_at_call(13, monkeypatch, module, "_loss", lambda: eow(cut, settings))
    pd.testing.assert_series_equal(eow(cut, settings), expected, check_exact=True)
    whole, again = (load_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "cut"))
    assert whole.keys() == again.keys() and all(torch.equal(whole[k], again[k]) for k in whole)
    assert whole["extra/buffer"].shape == (40, 16, 16, 16)


def test_neither_pseudo_labels_nor_the_order_of_rows_play_a_part(tmp_path):
    task, _ = planted(tmp_path / "a")
    expected = eow(task, settings_of(epochs=2))
    moved = shuffled(task.dataset)
    logits = (task.pool_logits + 5 * np.eye(3)[np.arange(80) % 3]).iloc[::-1]
    other = Task(**{**vars(task), "dataset": moved, "pool_logits": logits, "folder": tmp_path / "b"})
    scores = eow(other, settings_of(epochs=2))
    np.testing.assert_allclose(scores.loc[expected.index], expected, rtol=1e-5)
    seeded = Task(**{**vars(task), "seed": 1, "folder": tmp_path / "c"})
    assert not np.allclose(eow(seeded, settings_of(epochs=2)), expected)


def test_one_known_class_against_samples_is_enough(tmp_path):
    task, _ = planted(tmp_path, known=("fear",))
    scores = eow(task, settings_of(epochs=2))
    assert np.isfinite(scores).all() and scores.between(0, 1).all()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"init": "imagenet"}, "init = 'imagenet': input should be 'scratch' or 'f_close'"),
        ({"ebm_from": 9}, "expected ebm_from below epochs"),
        ({"sgld_samples": 101}, "expected sgld_samples of at most buffer"),
        ({"sgld_step": 3}, "sgld_steps"),
        ({"restart": 1.5}, "restart = 1.5"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(override, words):
    with pytest.raises(UserError, match=words) as caught:
        method_settings("eow", "smoke", override)
    assert "\n" not in str(caught.value)


def test_an_f_close_of_another_backbone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(known_training, "new_net", new_net)
    task, _ = planted(tmp_path)
    f_close = ClosedModel(new_net("resnet18", 3, 0), KNOWN, 32, "resnet18")
    task = Task(**{**vars(task), "f_close": f_close})
    with pytest.raises(UserError, match="eow: the weights of f_close do not fit resnet50"):
        eow(task, settings_of(init="f_close", backbone="resnet50"))


@needs_kernel
def test_a_chain_brings_each_weight_into_form_once_for_each_direction(monkeypatch):
    net, settings = CPU.place(new_net("resnet18", 4, 0, zero_head=False)).train(), settings_of(sgld_steps=3)
    done, chains = packs(monkeypatch), []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(module, "same_weights", lambda net: nullcontext())
        buffer = torch.rand(40, 256, 3, 3, generator=generator())
        chains.append((draw_samples(net, buffer, settings, CPU, generator()), len(done)))
    (ours, n), (plain, both) = chains
    assert torch.equal(ours, plain) and 0 < n == (both - n) / 3
