"""Post-hoc scores that read the pool's logits alone: against plain numpy, and their direction."""

import numpy as np
import pandas as pd
import pytest
from tiny import task_of, tiny_dataset

from fer_openset.errors import UserError
from fer_openset.methods import METHODS, POSTHOC, method_settings, run_method
from fer_openset.methods.posthoc import EnergySettings, PosthocSettings, energy, maxlogit, msp

CLASSES = ("fear", "anger", "neutral")
UNFITTED = ("msp", "maxlogit", "energy", "entropy", "gen")
IDS = pd.Index([f"s{i}" for i in range(200)], name="sample_id")
Z = np.random.default_rng(0).normal(0, 4, (200, 3)).astype("float32")


def task_with(logits, ids=IDS):
    task = task_of(tiny_dataset(), ids, np.zeros(len(ids), int), CLASSES, folder="unused")
    frame = pd.DataFrame(logits, index=ids, columns=list(CLASSES))
    return type(task)(**{**vars(task), "pool_logits": frame})


def test_scores_equal_plain_numpy():
    z = Z.astype("float64")
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(msp(task_with(Z), PosthocSettings()), -p.max(1), rtol=1e-12)
    np.testing.assert_allclose(maxlogit(task_with(Z), PosthocSettings()), -z.max(1), rtol=1e-12)
    for t in (1.0, 2.5):
        expected = -t * np.log(np.exp(z / t).sum(1))
        np.testing.assert_allclose(energy(task_with(Z), EnergySettings(temperature=t)), expected, rtol=1e-12)


@pytest.mark.parametrize("method", UNFITTED)
def test_larger_means_more_open(method):
    task = task_with([[9.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.1, 0.0, 0.0]], pd.Index(["sure", "likely", "torn"]))
    scores = run_method(method, task, method_settings(method, "paper"))
    assert scores["sure"] < scores["likely"] < scores["torn"]
    assert scores.dtype == "float64" and scores.name == "open_score" and scores.index.equals(task.pool_ids)


def test_ranges():
    scores = msp(task_with(Z), PosthocSettings())
    assert scores.between(-1, -1 / 3).all()
    assert msp(task_with([[2.0, 2.0, 2.0]], IDS[:1]), PosthocSettings()).iloc[0] == pytest.approx(-1 / 3)


def test_confident_images_do_not_tie():
    """In float32 all of these probabilities are 1."""
    logits = np.zeros((10, 3), dtype="float32")
    logits[:, 0] = np.arange(20, 30)
    assert msp(task_with(logits, IDS[:10]), PosthocSettings()).nunique() == 10


@pytest.mark.parametrize("method", UNFITTED)
def test_scores_do_not_depend_on_the_order_of_the_pool(method):
    settings = method_settings(method, "paper")
    order = np.random.default_rng(1).permutation(200)
    plain = run_method(method, task_with(Z), settings)
    mixed = run_method(method, task_with(Z[order], IDS[order]), settings)
    np.testing.assert_allclose(mixed.loc[IDS], plain, rtol=1e-12)


def test_settings():
    assert set(UNFITTED) < set(POSTHOC) < set(METHODS)
    with pytest.raises(UserError, match="unknown key 'temperature'"):
        method_settings("msp", "paper", {"temperature": 2.0})
    with pytest.raises(UserError, match=r"temperature = 0.0"):
        method_settings("energy", "paper", {"temperature": 0.0})
