"""pool_novelty on planted data: novel images are found, no network scores what it saw, no label of the pool is read."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import killed_at_call, open_set_task, shuffled, small_net, tiny_dataset

from fer_openset import metrics, runs
from fer_openset.datasets import Dataset
from fer_openset.errors import UserError
from fer_openset.fit import training_seconds
from fer_openset.methods import pool_novelty as module
from fer_openset.methods.folds import Fold, check_unseen, fold_of
from fer_openset.methods.pool_novelty import (
    SHARE_SCORES,
    PoolNoveltySettings,
    oracle,
    pool_novelty,
    pool_novelty_online,
)
from fer_openset.methods.pool_sampling import FEWEST, chance_open, draw_open
from fer_openset.methods.task import Task
from fer_openset.open_fraction import estimate_open_fraction

KNOWN, OPEN = ("fear", "disgust", "happiness"), "anger"


def settings_of(**changes):
    given = dict(
        image_size=32, init="scratch", folds=2, repeats=1, rounds=1, known_per_pool=2.0, average_from=1, lr=0.02,
        epochs=3, batch_size=16,
    )  # fmt: skip
    return PoolNoveltySettings(**given | changes)


def planted(folder, dataset=None, seed=0):
    """Known training images of three classes, a pool with a fourth. Returns: (task, who is open)."""
    dataset = dataset or tiny_dataset({"train": 30, "test": 20}, (*KNOWN, OPEN))
    return open_set_task(folder, dataset, KNOWN, seed)


def share_scores(folder):
    return pd.read_csv(folder / SHARE_SCORES, index_col=["part", "sample_id"])["open_score"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "new_net", small_net)


@pytest.mark.parametrize(
    "change", [{}, {"init": "f_close"}, {"consistency_weight": 5.0}, {"mirror": False}, {"repeats": 2, "folds": 3}]
)
def test_images_of_an_unseen_class_get_the_high_scores(tmp_path, change):
    task, is_open = planted(tmp_path)
    scores = pool_novelty(task, settings_of(**{"epochs": 8, "average_from": 4, "lr": 0.05} | change))
    assert scores.index.equals(task.pool_ids) and np.isfinite(scores).all()
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.95


def test_held_out_known_images_score_like_the_known_ones_of_the_pool(tmp_path):
    task, is_open = planted(tmp_path)
    scores = pool_novelty(task, settings_of(folds=3))
    known = share_scores(tmp_path).loc["known"]
    assert set(known.index) <= set(task.train.index) and 0 < len(known) <= len(task.pool_ids)
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.95
    assert metrics.auroc(np.r_[known, scores[is_open]], np.r_[np.zeros(len(known)), np.ones(is_open.sum())]) > 0.95


def test_with_nothing_new_in_the_pool_pool_and_known_images_cannot_be_told_apart(tmp_path):
    """The cross-fit at work: networks that scored what they trained on would tell them apart by heart."""
    dataset = tiny_dataset({"train": 40, "test": 40}, KNOWN)
    task, _ = planted(tmp_path, dataset)
    scores = pool_novelty(task, settings_of(epochs=12, average_from=8))
    known = share_scores(tmp_path).loc["known"]
    together = metrics.auroc(np.r_[known, scores], np.r_[np.zeros(len(known)), np.ones(len(scores))])
    assert 0.35 < together < 0.65


@pytest.mark.parametrize("leak", ["pool", "known"])
def test_a_planted_leak_is_caught(tmp_path, monkeypatch, leak):
    task, _ = planted(tmp_path)
    original = Fold.__init__

    def leaky(self, *args):
        original(self, *args)
        name = {"pool": "scored_pool", "known": "scored_known"}[leak]
        setattr(self, leak, np.append(getattr(self, leak), getattr(self, name)[:1]))
        self.drawn = len(self.known)

    monkeypatch.setattr(Fold, "__init__", leaky)
    with pytest.raises(AssertionError, match="1 images would be scored by a network that trained on them"):
        pool_novelty(task, settings_of())


def test_check_unseen_tells_how_many():
    check_unseen(np.array([1, 2]), np.array([3]))
    with pytest.raises(AssertionError, match="2 images"):
        check_unseen(np.array([1, 2, 3]), np.array([3, 2]))


def test_every_pool_image_is_scored_by_each_repeat_once(tmp_path):
    task, _ = planted(tmp_path)
    settings = settings_of(folds=3, repeats=2)
    for repeat in range(2):
        folds = [Fold(task, settings, repeat, number) for number in range(3)]
        assert (np.sum([f.pool_out for f in folds], axis=0) == 1).all()
        assert (np.sum([f.known_out for f in folds], axis=0) <= 1).all()
    first, second = (Fold(task, settings, repeat, 0) for repeat in range(2))
    assert not np.array_equal(first.pool_out, second.pool_out)


def test_folds_go_by_sample_id_not_by_place():
    ids = pd.Index([f"image {i}" for i in range(101)])
    folds = pd.Series(fold_of(ids, 4, 0, "pool"), index=ids)
    back = ids[::-1]
    assert folds.equals(pd.Series(fold_of(back, 4, 0, "pool"), index=back).loc[ids])
    counts = folds.value_counts()
    assert counts.max() - counts.min() <= 1 and len(counts) == 4
    assert not folds.equals(pd.Series(fold_of(ids, 4, 1, "pool"), index=ids))


def test_what_belongs_together_shares_a_fold():
    ids = [f"image {i}" for i in range(60)]
    groups = [max(0, i - 40) if i % 2 else i for i in range(60)]
    folds = fold_of(ids, 3, 0, "pool", groups=groups)
    assert pd.Series(folds).groupby(groups).nunique().eq(1).all() and max(pd.Series(groups).value_counts()) > 10
    assert np.bincount(folds).min() >= 15  # the large group goes as a whole
    alone = np.array([groups.count(g) == 1 for g in groups])
    given = {g: 2 for g in groups}
    assert (fold_of(ids, 3, 0, "pool", groups=groups, given=given) == 2).all() and alone.any()
    assert np.array_equal(fold_of(ids, 3, 0, "pool", groups=range(60)), fold_of(ids, 3, 0, "pool"))


def test_copies_of_a_picture_are_never_trained_on_and_scored(tmp_path):
    """FER2013 holds the same picture under several ids, within the pool and in pool and training images."""
    dataset = tiny_dataset({"train": 30, "test": 20}, (*KNOWN, OPEN))
    task, _ = planted(tmp_path, dataset)
    pool, known = dataset.rows(task.pool_ids), dataset.rows(task.train.index)
    images = dataset.images.copy()
    images[pool[1::2]] = images[pool[: 2 * len(pool[1::2]) : 2]]  # pairs
    images[known[:20]] = images[pool[:20]]
    task = Task(**{**vars(task), "dataset": Dataset("tiny", dataset.classes, dataset.table, images)})
    pixels = images.reshape(len(images), -1)
    for number in range(2):
        fold = Fold(task, settings_of(), 0, number)
        scored = {p.tobytes() for p in pixels[np.concatenate([fold.scored_pool, fold.scored_known])]}
        assert scored and not scored & {p.tobytes() for p in pixels[fold.rows(0, 0, fold.pool)]}
        assert not scored & {p.tobytes() for p in pixels[fold.known]}


def test_pseudo_labels_and_true_labels_of_the_pool_play_no_part(tmp_path):
    task, _ = planted(tmp_path / "a")
    expected = pool_novelty(task, settings_of())
    table = task.dataset.table.assign(label="unknown to the method")
    blind = Dataset(task.dataset.name, task.dataset.classes, table, task.dataset.images)
    logits = task.pool_logits + 5 * np.eye(3)[np.arange(len(task.pool_logits)) % 3]
    again = Task(**{**vars(task), "dataset": blind, "pool_logits": logits, "folder": tmp_path / "b"})
    assert pool_novelty(again, settings_of()).equals(expected)
    other = Task(**{**vars(task), "seed": 1, "folder": tmp_path / "c"})
    assert not np.allclose(pool_novelty(other, settings_of()), expected)


def test_fewer_known_images_are_drawn_anew_each_epoch(tmp_path):
    task, _ = planted(tmp_path)
    fold = Fold(task, settings_of(known_per_pool=0.5), 0, 0)
    first, second = (set(fold.rows(0, epoch, fold.pool)) - set(fold.pool) for epoch in (0, 1))
    assert len(first) == len(second) == 20 and first != second
    assert Fold(task, settings_of(known_per_pool=50.0), 0, 0).drawn == len(fold.known) == 50  # all but the 40 scored


def test_known_images_that_are_not_scored_are_trained_on(tmp_path):
    """A pool of 40 holds out no more than 20 known images a fold; the other 70 teach both networks."""
    dataset = tiny_dataset({"train": 30, "test": 10}, (*KNOWN, OPEN))
    task, _ = planted(tmp_path, dataset)
    known = set(dataset.rows(task.train.index))
    for number in range(2):
        fold = Fold(task, settings_of(), 0, number)
        assert len(fold.scored_known) == len(fold.scored_pool) == 20 and len(known) == 90
        assert set(fold.known) == known - set(fold.scored_known)


def test_held_out_known_images_are_of_all_classes_however_the_dataset_lies(tmp_path):
    """Folders of images are read class by class: the first images of a fold are all of the first class."""
    dataset = tiny_dataset({"train": 60, "test": 10}, (*KNOWN, OPEN))
    order = np.argsort(dataset.table["label"].to_numpy(), kind="stable")
    lying = Dataset("tiny", dataset.classes, dataset.table.iloc[order], dataset.images[order])
    task, _ = planted(tmp_path, lying)
    fold, same = Fold(task, settings_of(), 0, 0), Fold(planted(tmp_path, dataset)[0], settings_of(), 0, 0)
    assert lying.table["label"].iloc[fold.scored_known].nunique() == len(KNOWN)
    assert set(lying.table.index[fold.scored_known]) == set(dataset.table.index[same.scored_known])


def test_the_oracle_learns_from_the_true_labels_and_only_it_gets_them(tmp_path):
    dataset = tiny_dataset({"train": 30, "test": 20}, (*KNOWN, OPEN), noise=60.0)
    task, is_open = planted(tmp_path, dataset)
    with pytest.raises(UserError, match="oracle: this task holds no true labels"):
        oracle(task, settings_of())
    true = pd.Index(KNOWN).get_indexer(dataset.table.loc[task.pool_ids, "label"])
    told = Task(**{**vars(task), "oracle_targets": true, "folder": tmp_path / "oracle"})
    best = metrics.auroc(oracle(told, settings_of(epochs=6)).to_numpy(), is_open)
    assert best > 0.9
    swapped = Task(**{**vars(task), "oracle_targets": np.roll(true, 1), "folder": tmp_path / "swapped"})
    assert metrics.auroc(oracle(swapped, settings_of(epochs=6)).to_numpy(), is_open) < best


def test_online_every_image_is_scored_by_networks_of_the_other_half(tmp_path, monkeypatch):
    task, is_open = planted(tmp_path)
    seen = []
    original = Fold.rows
    monkeypatch.setattr(Fold, "rows", lambda self, *a: seen.append((self.name, self)) or original(self, *a))
    scores = pool_novelty_online(task, settings_of(repeats=2, folds=5))
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.95
    folds = dict(seen)
    assert sorted(folds) == ["r0f0", "r0f1", "r1f0", "r1f1"]
    assert np.array_equal(folds["r0f0"].pool_out, folds["r1f0"].pool_out)  # one split: the halves never mix
    assert (folds["r0f0"].pool_out ^ folds["r0f1"].pool_out).all()


@pytest.mark.parametrize(("rounds", "call"), [(1, 40), (2, 40), (2, 64)])
def test_killed_and_resumed_gives_the_same_scores(tmp_path, monkeypatch, rounds, call):
    settings = settings_of(epochs=4, rounds=rounds)
    task, _ = planted(tmp_path / "whole")
    expected = pool_novelty(task, settings)
    cut = Task(**{**vars(task), "folder": tmp_path / "cut"})
    # In the third epoch of the first round (seven steps a network and epoch), or in the second round.
    killed_at_call(call, monkeypatch, module, "_loss", lambda: pool_novelty(cut, settings))
    pd.testing.assert_series_equal(pool_novelty(cut, settings), expected, check_exact=True)
    whole, again = (pd.read_csv(tmp_path / name / SHARE_SCORES) for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(whole, again)


def test_the_order_of_the_rows_of_the_dataset_changes_no_fold(tmp_path):
    task, _ = planted(tmp_path)
    moved, _ = planted(tmp_path, shuffled(task.dataset))
    for number in range(2):
        a, b = (Fold(t, settings_of(), 0, number) for t in (task, moved))
        assert set(task.pool_ids[a.pool_out]) == set(moved.pool_ids[b.pool_out])


def test_scores_are_float64(tmp_path):
    assert pool_novelty(planted(tmp_path)[0], settings_of(epochs=2)).dtype == torch.zeros(1).double().numpy().dtype


def rare(folder, n=32):
    """n open images among 120 known ones. Returns: (task, who is open)."""
    dataset = tiny_dataset({"train": 60, "test": 40}, (*KNOWN, OPEN))
    number = dataset.table.groupby(["split", "label"]).cumcount()
    keep = np.flatnonzero((dataset.table["label"] != OPEN) | (dataset.table["split"] == "train") | (number < n))
    task, is_open = planted(folder, Dataset("tiny", dataset.classes, dataset.table.iloc[keep], dataset.images[keep]))
    assert is_open.sum() == n and len(is_open) == 120 + n
    return task, is_open


def test_a_further_round_draws_what_the_first_took_for_open(tmp_path, monkeypatch, capsys):
    task, is_open = rare(tmp_path)
    drawn, original = [], module.draw_open
    monkeypatch.setattr(module, "draw_open", lambda *args: drawn.append((args[0], original(*args))) or drawn[-1][1])
    scores = pool_novelty(task, settings_of(epochs=8, rounds=2, average_from=6))
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.95
    assert "what the next round will draw" in capsys.readouterr().out
    assert len(drawn) == 2 * 8
    open_rows = task.dataset.rows(task.pool_ids[is_open])
    for fold, rows in drawn:
        assert set(rows) <= set(fold.pool) and len(rows) == round(fold.drawn / 3)  # more than look open
        assert np.isin(rows, open_rows).mean() > 2 * 32 / 152
    assert (tmp_path / "round1" / "history.csv").exists() and (tmp_path / "history.csv").exists()


def test_as_many_are_drawn_as_are_expected_to_be_open_where_these_are_many(tmp_path):
    task, _ = planted(tmp_path)
    fold, ids = Fold(task, settings_of(), 0, 0), task.pool_ids
    here = np.isin(task.dataset.rows(ids), fold.pool)
    for share in (0.0, 0.1, 0.9):
        chance = pd.Series(share, index=ids)
        expected = max(round(share * here.sum()), round(fold.drawn / 3), FEWEST)
        assert len(draw_open(fold, task, chance, 0, 0)) == expected
    assert expected == round(0.9 * here.sum()) > round(fold.drawn / 3)


def test_scores_are_the_mean_over_the_rounds_from_the_second_on(tmp_path, monkeypatch):
    task, is_open = rare(tmp_path)
    found, original = [], module.cross_fitted
    monkeypatch.setattr(module, "cross_fitted", lambda *a, **k: found.append(original(*a, **k)) or found[-1])
    scores = pool_novelty(task, settings_of(epochs=4, rounds=3, average_from=2))
    second, third = found[1][0], found[2][0]
    pd.testing.assert_series_equal(scores, (second + third) / 2)
    assert second.corr(third) < 0.99999 and metrics.auroc(scores.to_numpy(), is_open) > 0.9


def test_oracle_never_draws_by_chance(tmp_path, monkeypatch):
    task, is_open = planted(tmp_path)
    true = np.where(is_open, -1, pd.Index(KNOWN).get_indexer(task.dataset.table["label"].loc[task.pool_ids]))
    monkeypatch.setattr(module, "draw_open", None)
    told = Task(**{**vars(task), "oracle_targets": true})
    assert metrics.auroc(oracle(told, settings_of(rounds=3, epochs=6, average_from=3)).to_numpy(), is_open) > 0.95


def test_the_open_share_comes_from_the_first_round(tmp_path):
    rounds = settings_of(epochs=8, rounds=2, average_from=6)
    task, _ = rare(tmp_path / "two")
    final = pool_novelty(task, rounds)
    once = pool_novelty(Task(**{**vars(task), "folder": tmp_path / "one"}), rounds.model_copy(update={"rounds": 1}))
    two, one = (share_scores(tmp_path / name) for name in ("two", "one"))
    pd.testing.assert_series_equal(two, one)
    assert np.allclose(one.loc["pool"], once) and not np.allclose(final, once)


def test_with_too_few_open_images_the_first_round_is_the_last(tmp_path, capsys, monkeypatch):
    task, _ = planted(tmp_path / "a", tiny_dataset({"train": 40, "test": 40}, KNOWN))
    settings = settings_of(epochs=6, average_from=4)
    expected = pool_novelty(task, settings)
    again = Task(**{**vars(task), "folder": tmp_path / "b"})
    found = pool_novelty(again, settings.model_copy(update={"rounds": 3}))
    assert "too few for another round" in capsys.readouterr().out
    pd.testing.assert_series_equal(found, expected, check_exact=True)
    assert (tmp_path / "b" / "checkpoint.safetensors").exists()
    assert training_seconds(tmp_path / "b") == training_seconds(tmp_path / "b" / "round1") > 0
    monkeypatch.setattr(runs, "forget", lambda folder: pytest.fail(f"trained again in {folder}"))
    repeated = pool_novelty(again, settings.model_copy(update={"rounds": 3}))
    pd.testing.assert_series_equal(repeated, expected, check_exact=True)


def test_chances_follow_bayes_rule():
    rng = np.random.default_rng(0)
    known, share = pd.Series(rng.normal(0, 1, 20_000)), 0.1
    is_open = np.arange(20_000) < 2_000
    pool = pd.Series(np.where(is_open, rng.normal(3, 1, 20_000), rng.normal(0, 1, 20_000)))
    chance = chance_open(pool, known, share)
    assert chance.between(0, 1).all() and chance.mean() == pytest.approx(share, abs=0.02)
    assert (chance.iloc[np.argsort(pool)].diff().dropna() >= 0).all()
    ratio = np.exp(3 * pool - 4.5)  # of the two normal densities
    assert np.abs(chance - share * ratio / (share * ratio + 1 - share)).mean() < 0.02
    assert chance_open(pool, known, 15 / 20_000) is None


def test_online_rounds_never_look_at_the_other_half(tmp_path, monkeypatch):
    """What one half teaches does not change when the other half does."""
    task, is_open = planted(tmp_path, tiny_dataset({"train": 60, "test": 80}, (*KNOWN, OPEN)))
    seen, original = [], module.draw_open
    monkeypatch.setattr(module, "draw_open", lambda *args: seen.append(args[:3]) or original(*args))
    settings = settings_of(epochs=8, rounds=2, average_from=6)
    scores = pool_novelty_online(task, settings)
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.95
    fold, _, chance = next(x for x in seen if x[0].name == "r0f0")
    mine = task.dataset.table.index[fold.pool]
    assert set(chance.index) == set(task.pool_ids)
    half = Task(**{**vars(task), "pool_logits": task.pool_logits.loc[task.pool_ids.isin(mine)],
                   "folder": tmp_path / "alone"})  # fmt: skip
    first = pool_novelty(half, settings.model_copy(update={"rounds": 1}))
    known = share_scores(tmp_path / "alone").loc["known"]
    alone = chance_open(first, known, estimate_open_fraction(first, known, n_boot=0).value)
    pd.testing.assert_series_equal(chance.loc[alone.index], alone)


def test_known_images_are_drawn_in_the_mix_of_the_pool(tmp_path):
    """Label shift: no image of one known class in the pool, and half of another."""
    dataset = tiny_dataset({"train": 60, "test": 60}, (*KNOWN, OPEN))
    table = dataset.table
    number = table.groupby(["split", "label"]).cumcount()
    gone = (table["split"] == "test") & ((table["label"] == "fear") | (table["label"] == "disgust") & (number % 2 == 0))
    keep = np.flatnonzero(~gone)
    task, is_open = planted(tmp_path, Dataset("tiny", dataset.classes, table.iloc[keep], dataset.images[keep]))
    weights = []
    original = module.pool_mix_weights

    def spy(net, fold, *rest):
        found = original(net, fold, *rest)
        weights.append([found[rest[-1][fold.known] == k].sum() for k in range(3)])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "pool_mix_weights", spy)
        scores = pool_novelty(task, settings_of(epochs=6, mix_from=4, average_from=5))
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.95
    fear, disgust, happiness = np.mean(weights, axis=0)
    assert fear < 0.1 and disgust == pytest.approx(1 / 3, abs=0.12) and happiness == pytest.approx(2 / 3, abs=0.12)
