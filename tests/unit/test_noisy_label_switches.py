"""The controls of the paper's method: each switch does what it says, and the online form never scores what it saw."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_noisy_label import CLASSES, nets_at_start, planted, settings_of
from tiny import CPU, small_net, tiny_dataset

from fer_openset import metrics
from fer_openset.errors import UserError
from fer_openset.methods import noisy_label as module
from fer_openset.methods import noisy_label_online as online_module
from fer_openset.methods.noisy_label import noisy_label
from fer_openset.methods.noisy_label_online import halves, noisy_label_online
from fer_openset.methods.pool_novelty import Fold
from fer_openset.methods.pseudo_label_ce import pseudo_label_ce
from fer_openset.methods.selection import select_clean, select_clean_per_class


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "new_net", small_net)


def test_epoch_scores_are_those_of_shorter_runs(tmp_path):
    """What makes one long run a whole sweep over epochs: after e epochs it is where a run of e epochs ends."""
    task, _ = planted(tmp_path / "long")
    long = settings_of(epochs=4, cycle_length=2, keep_epochs=True)
    last = noisy_label(task, long)
    kept = pd.read_csv(tmp_path / "long" / module.EPOCH_SCORES, index_col="sample_id")
    assert list(kept.columns) == ["1", "2", "3", "4"] and kept.index.equals(task.pool_ids)
    np.testing.assert_allclose(kept["4"], last, rtol=1e-4)
    short = noisy_label(replace(task, folder=tmp_path / "short"), settings_of(epochs=2, cycle_length=2))
    np.testing.assert_allclose(kept["2"], short, rtol=1e-4)
    assert not np.allclose(kept["2"], kept["4"], rtol=1e-2)


# Two nets: passes after each of five epochs and at the end. Killed in the pass after the fourth, it repeats that epoch,
# whose choice then needs a pass of its own.
@pytest.mark.parametrize(("killed_in", "passes"), [(None, 2 * (5 + 1)), (7, 2 * (1 + 2 + 1))])
def test_scores_kept_after_an_epoch_choose_the_clean_images_of_the_next(tmp_path, monkeypatch, killed_in, passes):
    task, _ = planted(tmp_path / "kept")
    how = {"epochs": 5, "warmup_epochs": 2, "cycle_length": 2}
    plain = noisy_label(replace(task, folder=tmp_path / "plain"), settings_of(**how))
    seen, cross_entropies = [], module.cross_entropies

    def counted(*arguments):
        seen.append(arguments[0])
        if len(seen) == killed_in:
            raise KeyboardInterrupt
        return cross_entropies(*arguments)

    monkeypatch.setattr(module, "cross_entropies", counted)
    kept = settings_of(keep_epochs=True, **how)
    if killed_in:
        with pytest.raises(KeyboardInterrupt):
            noisy_label(task, kept)
        seen, killed_in = [], None
    pd.testing.assert_series_equal(noisy_label(task, kept), plain)
    assert len(seen) == passes


def test_taking_turns_one_net_trains_for_a_whole_cycle(tmp_path):
    task, _ = planted(tmp_path)
    noisy_label(task, settings_of(epochs=6, warmup_epochs=2, cycle_length=2, alternate="cycle", lr=0.02))
    history = pd.read_csv(tmp_path / "history.csv")
    who = history.groupby("epoch")["learner"].agg(" ".join)
    assert who.tolist() == ["f1 f2", "f1 f2", "f1", "f1", "f2", "f2"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epochs": 4, "warmup_epochs": 2}, "or f2 has no turn; there are 2 and 2 epochs, a cycle has 2"),
        ({"epochs": 6, "warmup_epochs": 1}, "a warm-up of whole cycles"),
        ({"epochs": 6, "warmup_epochs": 2, "cycle_training": False}, "set cycle_training: true"),
    ],
)
def test_turns_that_one_net_would_never_have_are_refused(changes, reason):
    given = settings_of().model_dump() | {"cycle_length": 2, "alternate": "cycle"} | changes
    with pytest.raises(UserError, match=reason):
        module.NoisyLabelSettings.build(given, "p")


def test_soft_labels_are_f_close_probabilities(tmp_path, monkeypatch):
    seen, rows, batch_of = [], [], module.batch_of
    monkeypatch.setattr(module, "_loss", lambda net, x, y, *rest: seen.append(y) or (net.head.weight**2).sum())
    monkeypatch.setattr(module, "batch_of", lambda dataset, batch: rows.append(batch) or batch_of(dataset, batch))
    task, _ = planted(tmp_path)
    logits = task.pool_logits + np.random.default_rng(0).normal(size=task.pool_logits.shape).astype("float32")
    task = replace(task, pool_logits=logits)
    noisy_label(task, settings_of(epochs=1, labels="soft", temperature=2.0, nets=1, cycle_training=False))
    ids = task.dataset.table.index[np.concatenate(rows[: len(seen)])]
    z = logits.loc[ids].to_numpy("float64") / 2
    assert sorted(ids) == sorted(task.pool_ids)
    np.testing.assert_allclose(torch.cat(seen).numpy(), np.exp(z) / np.exp(z).sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(("select_by", "asked"), [("pool", "select_clean"), ("class", "select_clean_per_class")])
def test_the_mixture_that_the_settings_name_chooses(tmp_path, monkeypatch, select_by, asked):
    called = []
    for name in ("select_clean", "select_clean_per_class"):
        keep_all = lambda values, *rest, name=name: called.append(name) or np.ones(len(values), bool)  # noqa: E731
        monkeypatch.setattr(module, name, keep_all)
    task, _ = planted(tmp_path)
    noisy_label(task, settings_of(epochs=2, warmup_epochs=1, cycle_length=1, select_by=select_by))
    assert called == [asked, asked]  # one choice a net, in the epoch after the warm-up


def test_epoch_scores_of_other_settings_do_not_stay(tmp_path):
    task, _ = planted(tmp_path)
    noisy_label(task, settings_of(epochs=1, warmup_epochs=0, keep_epochs=True))
    assert (tmp_path / module.EPOCH_SCORES).exists()
    noisy_label(task, settings_of(epochs=1, warmup_epochs=0))
    assert not (tmp_path / module.EPOCH_SCORES).exists()


def test_consistency_teaches_the_head_only_when_the_maps_are_attached():
    images = torch.from_numpy(tiny_dataset(classes=CLASSES).images[:6])
    for detached in (True, False):
        net = small_net("small", 4, 1, zero_head=False)
        recipe = settings_of(detach_cam=detached)
        _, parts = module._loss(net, images, torch.zeros(6, dtype=torch.long), recipe, CPU, torch.Generator())
        parts["loss_cons"].backward()
        assert (net.head.weight.grad is None) == detached


def test_one_mixture_a_class_spares_a_class_that_is_hard_as_a_whole():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [200, 200, 5])
    wrong = rng.random(405) < 0.25
    values = np.where(wrong, 2.0, 0.2) + 6.0 * (labels == 1) + rng.normal(0, 0.05, 405)
    kept = select_clean_per_class(values, 0.5, labels)
    mixed = labels < 2
    assert (select_clean(values, 0.5, labels) != ~wrong)[mixed].mean() > 0.1  # the hard class is judged as a whole
    assert (kept[mixed] == ~wrong[mixed]).all() and kept[~mixed].all()


def test_one_label_for_all_open_images_reads_the_truth(tmp_path):
    task, is_wrong = planted(tmp_path)
    truth = np.where(is_wrong, -1, task.pseudo_labels)
    labels = module.pseudo_labels_of(replace(task, oracle_targets=truth), settings_of(oracle_open_label="anger"))
    assert (labels.numpy()[is_wrong] == 3).all() and (labels.numpy() == task.pseudo_labels)[~is_wrong].all()
    with pytest.raises(UserError, match="which this task does not hold"):
        noisy_label(task, settings_of(oracle_open_label="anger"))
    with pytest.raises(UserError, match="did you mean 'anger'"):
        noisy_label(replace(task, oracle_targets=truth), settings_of(oracle_open_label="angr"))
    with pytest.raises(UserError, match="leave labels: soft out"):
        module.NoisyLabelSettings.build(settings_of().model_dump() | {"labels": "soft", "oracle_open_label": "x"}, "p")


# Online.


def with_own(task):
    return replace(task, own_logits=task.pool_logits)


def test_online_finds_wrong_labels_of_images_it_never_saw(tmp_path, monkeypatch):
    trained = []
    fit = module.fit

    def record(learners, loss_of, rows_of, *rest):
        return fit(learners, loss_of, lambda e: trained.append(rows_of(e)) or trained[-1], *rest)

    monkeypatch.setattr(module, "fit", record)
    task, is_wrong = planted(tmp_path, n=40)
    task = with_own(task)
    scores = noisy_label_online(task, settings_of(epochs=6, lr=0.02))
    assert scores.index.equals(task.pool_ids) and metrics.auroc(scores.to_numpy(), is_wrong) > 0.95
    rows, half = task.dataset.rows(task.pool_ids), halves(task)
    assert 0 < half.mean() < 1
    for i, chosen in enumerate(trained):  # six epochs without half 0, then six without half 1
        held_out = rows[half == i // 6]
        assert not set(np.concatenate(list(chosen.values()))) & set(held_out)


def test_online_halves_are_those_of_pool_novelty(tmp_path):
    task = planted(tmp_path)[0]
    recipe = type("S", (), {"folds": 2, "known_per_pool": 1.0})()
    train = pd.DataFrame({"target": 0}, index=task.dataset.table.index[:4])
    fold = Fold(replace(task, train=train), recipe, 0, 1, one_split=True)
    assert np.array_equal(fold.pool_out, halves(task) == 1)


def test_online_scores_against_the_label_of_the_image_itself(tmp_path, monkeypatch):
    """Scrambled pool labels teach the nets; an image that arrives has what f_close says about it."""
    asked = []
    monkeypatch.setattr(
        online_module, "cross_entropies", lambda net, t, s, rows, y, g: asked.append(y) or np.zeros(len(y))
    )
    monkeypatch.setattr(module, "fit", lambda *rest: None)
    task, _ = planted(tmp_path)
    own = task.pool_logits[task.pool_logits.columns[::-1]]  # other labels than the pool's
    noisy_label_online(replace(task, own_logits=own), settings_of())
    got, labels = torch.cat([asked[0], asked[2]]).numpy(), own.to_numpy().argmax(1)
    assert np.array_equal(got, np.concatenate([labels[halves(task) == h] for h in (0, 1)]))
    assert not np.array_equal(labels, task.pseudo_labels)


def test_online_refuses_what_it_cannot_do(tmp_path):
    task, _ = planted(tmp_path)
    with pytest.raises(UserError, match="set score: last"):
        noisy_label_online(with_own(task), settings_of(score="trajectory"))
    with pytest.raises(UserError, match="make it with make_task"):
        noisy_label_online(task, settings_of())


def test_online_starts_both_halves_alike(tmp_path, monkeypatch):
    task, _ = planted(tmp_path)
    whole = nets_at_start(task, settings_of(), monkeypatch)
    half = nets_at_start(online_module.without(with_own(task), 1), settings_of(), monkeypatch)
    assert all(torch.equal(whole[0][k], half[0][k]) for k in whole[0])


# The zero-training control.


def test_control_is_the_cross_entropy_of_f_close_itself(tmp_path):
    task, _ = planted(tmp_path)
    rng = np.random.default_rng(0)
    logits = task.pool_logits + rng.normal(0, 1, task.pool_logits.shape).astype("float32")
    aligned = pseudo_label_ce(replace(task, pool_logits=logits, own_logits=logits), None)
    p = np.exp(logits.to_numpy("float64"))
    confidence = (p / p.sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose(aligned, -np.log(confidence), rtol=1e-6)  # ranks like MSP


def test_control_gives_scrambled_labels_away(tmp_path):
    task, _ = planted(tmp_path, wrong=0.0)
    scrambled = task.pool_logits.copy()
    moved = np.arange(len(scrambled)) % 4 == 0
    scrambled.loc[moved] = np.roll(task.pool_logits.to_numpy()[moved], 1, axis=1)
    scores = pseudo_label_ce(replace(task, pool_logits=scrambled, own_logits=task.pool_logits), None)
    assert metrics.auroc(scores.to_numpy(), moved) == 1.0
    with pytest.raises(UserError, match="make it with make_task"):
        pseudo_label_ce(task, None)
