"""The paper's method on planted data: wrong pseudo labels must be found, every switch must do what it says."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import CPU, killed_at_call, small_net, task_of, tiny_dataset

from fer_openset import metrics, pretrained
from fer_openset.augment import train_view
from fer_openset.backbones import attention_maps
from fer_openset.checkpoint import save_tensors
from fer_openset.closed_set import ClosedModel
from fer_openset.datasets import Dataset
from fer_openset.errors import UserError
from fer_openset.methods import noisy_label as module
from fer_openset.methods.noisy_label import NoisyLabelSettings, cross_entropies, noisy_label, select_clean

CLASSES = ("fear", "disgust", "happiness", "anger")


def settings_of(**changes):
    given = dict(
        image_size=32, init="scratch", lr=0.01, epochs=3, batch_size=16, warmup_epochs=1, consistency_weight=5.0,
        select_threshold=0.5, schedule="cycle", cycle_length=10, flip=0.0, noise=0.5, erase=0.5,
    )  # fmt: skip
    return NoisyLabelSettings(**given | changes)


def planted(folder, n=20, wrong=0.2, seed=0, **more):
    """A pool of n images a class whose pseudo labels are wrong for a share of them. Returns: (task, who is wrong)."""
    dataset = tiny_dataset({"train": 1, "test": n}, CLASSES)
    ids = dataset.table.index[dataset.table["split"] == "test"]
    pseudo = pd.Index(CLASSES).get_indexer(dataset.table.loc[ids, "label"])
    rng = np.random.default_rng(seed)
    is_wrong = np.zeros(len(ids), bool)
    is_wrong[rng.choice(len(ids), int(wrong * len(ids)), replace=False)] = True
    pseudo = np.where(is_wrong, (pseudo + rng.integers(1, 4, len(ids))) % 4, pseudo)
    return task_of(dataset, ids, pseudo, CLASSES, folder, **more), is_wrong


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "new_net", small_net)


def test_wrong_pseudo_labels_get_the_high_scores_with_the_real_network(tmp_path):
    task, is_wrong = planted(tmp_path, n=40)
    recipe = settings_of(backbone="resnet18", lr=1e-3, epochs=3, warmup_epochs=2, batch_size=32)
    scores = noisy_label(task, recipe)
    assert scores.index.equals(task.pool_ids) and (scores >= 0).all()
    assert metrics.auroc(scores.to_numpy(), is_wrong) > 0.9


SWITCHES = {
    "as in the paper": ({}, 0.95),
    "attention off": ({"attention": False}, 0.95),
    "cycle training off": ({"cycle_training": False}, 0.95),
    "learning-rate cycle off": ({"schedule": "constant"}, 0.95),
    "one net": ({"cycle_training": False, "nets": 1}, 0.95),
    "mean over epochs": ({"score": "trajectory"}, 0.8),  # the first epochs know nothing yet
    "noisy scores": ({"score_view": "noisy"}, 0.8),
    "noisy mean over epochs": ({"score": "trajectory", "score_view": "noisy"}, 0.75),
    "start from f_close": ({"init": "f_close"}, 0.9),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_works_and_changes_the_scores(tmp_path, small, name):
    switch, expected = SWITCHES[name]
    task, is_wrong = planted(tmp_path, n=30)
    scores = noisy_label(task, settings_of(epochs=6, lr=0.02, **switch))
    assert metrics.auroc(scores.to_numpy(), is_wrong) > expected
    if switch:
        other, _ = planted(tmp_path / "paper", n=30)
        assert not np.allclose(scores, noisy_label(other, settings_of(epochs=6, lr=0.02)))


def test_scores_are_the_mean_cross_entropy_of_both_nets(tmp_path, small, monkeypatch):
    learners = []
    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda nets, *args: learners.extend(nets) or fit(nets, *args))
    task, _ = planted(tmp_path)
    settings = settings_of()
    scores = noisy_label(task, settings)
    rows, y = task.dataset.rows(task.pool_ids), task.pseudo_labels
    each = [cross_entropies(x.net, task, settings, rows, torch.from_numpy(y)) for x in learners]
    assert len(each) == 2 and not np.allclose(*each)
    np.testing.assert_allclose(scores, (each[0] + each[1]) / 2)


def test_cross_entropy_by_hand_in_any_batches(tmp_path):
    task, _ = planted(tmp_path)
    net = small_net("small", 4, 1, zero_head=False)
    rows, y = task.dataset.rows(task.pool_ids), torch.from_numpy(task.pseudo_labels)
    z = module_logits(net, task, rows)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    expected = -np.log(p[np.arange(len(y)), y.numpy()])
    for size in (7, 512):
        got = cross_entropies(net, task, settings_of(eval_batch_size=size), rows, y)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert not net.training


def module_logits(net, task, rows):
    from fer_openset.closed_set import predict

    return predict(net, task.dataset, rows, 32, 64, CPU).astype("float64")


def test_loss_is_cross_entropy_plus_lambda_times_consistency(tmp_path):
    """Eq. 3 computed step by step on one batch; cross-entropy looks at the first view only."""
    task, _ = planted(tmp_path)
    settings = settings_of(consistency_weight=3.0, erase=1.0, noise=1.0)
    images = torch.from_numpy(task.dataset.images[:10])
    y = torch.arange(10) % 4
    net = small_net("small", 4, 1, zero_head=False).eval()
    loss, parts = module._loss(net, images, y, settings, CPU, torch.Generator().manual_seed(1))
    x = train_view(images, 32, settings, CPU.torch_device, torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = attention_maps(net.feature_map(x), net.head.weight)
        theirs = attention_maps(net.feature_map(torch.from_numpy(x.numpy()[..., ::-1].copy())), net.head.weight)
        cls = -torch.log_softmax(net(x), 1)[torch.arange(10), y].mean()
    cons = np.mean((ours.numpy() - theirs.numpy()[..., ::-1]) ** 2)
    assert cons > 0
    np.testing.assert_allclose(float(parts["loss_cls"].detach()), float(cls), rtol=1e-4)
    np.testing.assert_allclose(float(parts["loss_cons"].detach()), cons, rtol=1e-4)
    np.testing.assert_allclose(float(loss.detach()), float(cls) + 3 * cons, rtol=1e-4)
    alone = module._loss(net, images, y, settings_of(attention=False, erase=1.0, noise=1.0), CPU,
                         torch.Generator().manual_seed(1))  # fmt: skip
    np.testing.assert_allclose(float(alone.detach()), float(cls), rtol=1e-4)


def test_both_views_share_one_erased_image(monkeypatch):
    """The second view is the mirror of the same erased tensor, not a new draw."""
    seen = []
    net = small_net("small", 4, 1, zero_head=False)
    feature_map = net.feature_map
    monkeypatch.setattr(net, "feature_map", lambda x: seen.append(x) or feature_map(x))
    images = torch.from_numpy(tiny_dataset(classes=CLASSES).images[:6])
    module._loss(
        net, images, torch.zeros(6, dtype=torch.long), settings_of(erase=1.0), CPU, torch.Generator().manual_seed(0)
    )
    (views,) = seen
    assert len(views) == 12 and torch.equal(views[6:], views[:6].flip(3))


def test_consistency_does_not_teach_the_head_directly():
    net = small_net("small", 4, 1, zero_head=False)
    images = torch.from_numpy(tiny_dataset(classes=CLASSES).images[:6])
    _, parts = module._loss(net, images, torch.zeros(6, dtype=torch.long), settings_of(), CPU, torch.Generator())
    parts["loss_cons"].backward()
    assert net.head.weight.grad is None and net.body[0].weight.grad.abs().sum() > 0


# Selection.


def test_select_clean_keeps_the_low_mode():
    rng = np.random.default_rng(0)
    is_open = rng.random(500) < 0.3
    values = np.where(is_open, rng.normal(3, 0.3, 500), rng.normal(0.3, 0.1, 500)).clip(0)
    kept = select_clean(values, 0.5, np.arange(500) % 4)
    assert kept.dtype == bool and (kept == ~is_open).all()
    assert select_clean(values * 1000 + 7, 0.5, np.arange(500) % 4).tolist() == kept.tolist()


def test_a_higher_threshold_keeps_fewer():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.gamma(2, 0.3, 300), rng.gamma(6, 0.4, 300)])
    counts = [select_clean(values, t, np.zeros(600, int)).sum() for t in (0.2, 0.5, 0.8, 0.95)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


@pytest.mark.parametrize(
    ("values", "labels", "word"),
    [
        (np.r_[np.zeros(5), np.full(95, 9.0)], np.zeros(100), "5.0%"),  # hardly anything kept
        (np.r_[np.zeros(999), 9.0], np.zeros(1000), "99.9%"),  # all but nothing selected away
        (np.full(50, 0.7), np.zeros(50), "every image has the same loss"),
    ],
)
def test_a_degenerate_selection_keeps_all_and_says_so(values, labels, word, capsys):
    kept = select_clean(values + np.linspace(0, 1e-6, len(values)) * (np.ptp(values) > 0), 0.5, labels)
    assert kept.all() and len(kept) == len(values)
    out = capsys.readouterr().out
    assert word in out and "keeping all" in out


def test_a_class_that_would_lose_all_its_images_keeps_them():
    values = np.r_[np.zeros(60), np.full(30, 9.0), np.full(10, 9.0)] + np.linspace(0, 1e-3, 100)
    labels = np.r_[np.zeros(60), np.zeros(30), np.ones(10)]  # class 1 has high losses only; class 0 has both
    assert select_clean(values, 0.5, labels).tolist() == [True] * 60 + [False] * 30 + [True] * 10


def test_each_net_trains_on_the_others_selection(tmp_path, small, monkeypatch):
    """f1 finds the first part of the pool clean, f2 the last: then f1 must train on the last and f2 on the first."""
    task, _ = planted(tmp_path)
    n = len(task.pool_ids)
    low = {"f1": np.arange(n) < 0.6 * n, "f2": np.arange(n) >= 0.3 * n}
    names, asked = {}, []

    def losses(net, *args):
        asked.append(names[id(net)])
        return np.where(low[names[id(net)]], 0.1, 2.0) + np.linspace(0, 0.01, n)

    def check(learners, loss_of, rows_of, *args):
        names.update({id(x.net): x.name for x in learners})
        rows = task.dataset.rows(task.pool_ids)
        warm = rows_of(0)
        assert not asked and all(np.array_equal(warm[name], rows) for name in ("f1", "f2"))
        chosen = rows_of(1)
        assert asked == ["f1", "f2"]  # both looked at before either trains
        assert np.array_equal(chosen["f1"], rows[low["f2"]]) and np.array_equal(chosen["f2"], rows[low["f1"]])
        raise StopIteration

    monkeypatch.setattr(module, "cross_entropies", losses)
    monkeypatch.setattr(module, "fit", check)
    with pytest.raises(StopIteration):
        noisy_label(task, settings_of(warmup_epochs=1))


def test_history_shows_warm_up_and_selection(tmp_path, small):
    task, _ = planted(tmp_path, n=30)
    noisy_label(task, settings_of(epochs=5, lr=0.02, warmup_epochs=3))
    history = pd.read_csv(tmp_path / "history.csv")
    assert (history.loc[history["epoch"] <= 3, "n"] == 120).all()
    later = history.loc[history["epoch"] == 5, "n"]
    assert (later < 120).all() and (later > 60).all()
    assert {"loss", "loss_cls", "loss_cons", "lr"} <= set(history.columns)


def test_the_selected_are_the_rightly_labelled(tmp_path, small, monkeypatch):
    kept = []
    select = module.select_clean
    monkeypatch.setattr(module, "select_clean", lambda *args: kept.append(select(*args)) or kept[-1])
    task, is_wrong = planted(tmp_path, n=30)
    noisy_label(task, settings_of(epochs=9, lr=0.02, warmup_epochs=8))
    for one in kept[-2:]:
        assert one[~is_wrong].mean() > 0.9 and one[is_wrong].mean() < 0.1


# Start, randomness, resuming.


def nets_at_start(task, settings, monkeypatch):
    found = []

    def stop(learners, *args):
        found.extend(learners)
        raise StopIteration

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", stop)
        with pytest.raises(StopIteration):
            noisy_label(task, settings)
    return [x.net.state_dict() for x in found]


def test_from_scratch_both_bodies_are_equal_and_heads_differ(tmp_path, small, monkeypatch):
    f1, f2 = nets_at_start(planted(tmp_path)[0], settings_of(), monkeypatch)
    assert all(torch.equal(f1[k], f2[k]) for k in f1 if k.startswith("body."))
    assert not torch.equal(f1["head.weight"], f2["head.weight"]) and f1["head.weight"].abs().sum() > 0
    other, _ = nets_at_start(planted(tmp_path, seed=0)[0].__class__(**{**vars(planted(tmp_path)[0]), "seed": 5}),
                             settings_of(), monkeypatch)  # fmt: skip
    assert not torch.equal(f1["body.0.weight"], other["body.0.weight"])


def test_from_f_close_both_nets_are_f_close_and_f_close_stays_as_it_is(tmp_path, small, monkeypatch):
    f_close = ClosedModel(small_net("small", 4, 42, zero_head=False), CLASSES, 32, "small")
    before = {k: v.clone() for k, v in f_close.net.state_dict().items()}
    task, _ = planted(tmp_path, f_close=f_close)
    for net in nets_at_start(task, settings_of(init="f_close"), monkeypatch):
        assert all(torch.equal(net[k], before[k]) for k in before)
    noisy_label(task, settings_of(init="f_close", epochs=1, warmup_epochs=0))
    assert all(torch.equal(v, before[k]) for k, v in f_close.net.state_dict().items())


def test_pretrained_takes_the_body_and_a_fresh_head(tmp_path, small, monkeypatch):
    face = small_net("small", 10, 42, zero_head=False)  # ten classes of something else
    save_tensors(tmp_path / "face.safetensors", face.state_dict())
    monkeypatch.setattr(pretrained, "new_net", small_net)
    settings = settings_of(init="pretrained", weights=str(tmp_path / "face.safetensors"))
    f1, f2 = nets_at_start(planted(tmp_path)[0], settings, monkeypatch)
    assert all(torch.equal(f[k], v) for f in (f1, f2) for k, v in face.state_dict().items() if k.startswith("body."))
    assert f1["head.weight"].shape == (4, 32) and not torch.equal(f1["head.weight"], f2["head.weight"])


def test_pretrained_weights_that_cannot_be_used_are_one_sentence(tmp_path, monkeypatch):
    task, _ = planted(tmp_path)
    save_tensors(tmp_path / "small.safetensors", small_net("small", 4, 0).state_dict())  # not a ResNet-18
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for weights, word in (
        ("", "needs `weights`"),
        ("none.safetensors", "there is no such file"),
        ("junk.safetensors", "no readable weights"),
        ("small.safetensors", "do not fit resnet18"),
    ):
        path = str(tmp_path / weights) if weights else ""
        with pytest.raises(UserError, match=word) as caught:
            noisy_label(task, settings_of(init="pretrained", weights=path))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_an_f_close_of_another_backbone_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="the weights of f_close do not fit resnet18"):
        noisy_label(planted(tmp_path)[0], settings_of(init="f_close"))


def test_cycle_training_needs_two_nets(tmp_path):
    with pytest.raises(UserError, match="cycle_training needs nets = 2; set cycle_training: false"):
        noisy_label(planted(tmp_path)[0], settings_of(nets=1))


def test_the_same_seed_gives_the_same_scores_and_true_labels_play_no_part(tmp_path, small):
    task, _ = planted(tmp_path / "a")
    scores = noisy_label(task, settings_of())
    table = task.dataset.table.assign(label="unknown to the method")
    blind = Dataset(task.dataset.name, task.dataset.classes, table, task.dataset.images)
    again = noisy_label(type(task)(**{**vars(task), "dataset": blind, "folder": tmp_path / "b"}), settings_of())
    assert again.equals(scores)
    other = noisy_label(type(task)(**{**vars(task), "seed": 1, "folder": tmp_path / "c"}), settings_of())
    assert not np.allclose(other, scores)


@pytest.mark.parametrize("score", ["last", "trajectory"])
def test_killed_and_resumed_gives_the_same_scores(tmp_path, small, monkeypatch, score):
    settings = settings_of(epochs=4, score=score)
    task, _ = planted(tmp_path / "whole")
    expected = noisy_label(task, settings)
    cut = type(task)(**{**vars(task), "folder": tmp_path / "cut"})
    # In the third epoch: five steps a net and epoch at most.
    killed_at_call(23, monkeypatch, module, "_loss", lambda: noisy_label(cut, settings))
    pd.testing.assert_series_equal(noisy_label(cut, settings), expected, check_exact=True)


@pytest.mark.parametrize("what", ["pseudo labels", "alignment", "images", "settings"])
def test_a_checkpoint_of_another_task_is_not_resumed(tmp_path, small, capsys, what):
    task, _ = planted(tmp_path)
    settings = settings_of(epochs=1, warmup_epochs=0)
    noisy_label(task, settings)
    capsys.readouterr()
    noisy_label(task, settings)
    assert "resuming after epoch 1" in capsys.readouterr().out
    if what == "pseudo labels":
        task = planted(tmp_path, seed=1)[0]
    elif what == "alignment":
        task = planted(tmp_path, alignment="as_released")[0]
    elif what == "images":
        images = 255 - task.dataset.images
        task = type(task)(**{**vars(task), "dataset": Dataset("tiny", CLASSES, task.dataset.table, images)})
    else:
        settings = settings_of(epochs=1, warmup_epochs=0, consistency_weight=1.0)
    noisy_label(task, settings)
    assert "resuming" not in capsys.readouterr().out
