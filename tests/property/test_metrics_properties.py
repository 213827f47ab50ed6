"""Metrics against scikit-learn and pytorch-ood on random pools with ties, and under changes that must not matter."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.metrics import OODMetrics, oscr_score
from sklearn import metrics as sk

from fer_openset import metrics

POOL_METRICS = (metrics.auroc, metrics.fpr_at_tpr95, metrics.fpr_at_tpr95_open, metrics.aupr_open, metrics.aupr_known)
quick = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def pools(draw):
    """(scores, is_open, correct): 2 to 60 images, both sides present, from all tied to all distinct."""
    n = draw(st.integers(2, 60))
    levels = draw(st.sampled_from([1, 2, 5, 20, 10**6]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    is_open = rng.random(n) < draw(st.sampled_from([0.05, 0.5, 0.95]))
    is_open[rng.choice(n, 2, replace=False)] = True, False
    # Whole steps of 1/8 are exact in floating point, so transformed scores keep their ties.
    return rng.integers(-levels, levels, n) / 8, is_open, rng.random(n) < 0.7


def pytorch_ood(scores, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its AUTC is undefined for equal scores; we have no such metric
        return OODMetrics().update(scores, labels).compute()


@quick
@given(pools())
def test_scikit_learn_agrees(pool):
    scores, is_open, _ = pool
    assert metrics.auroc(scores, is_open) == pytest.approx(sk.roc_auc_score(is_open, scores))
    assert metrics.aupr_open(scores, is_open) == pytest.approx(sk.average_precision_score(is_open, scores))
    assert metrics.aupr_known(scores, is_open) == pytest.approx(sk.average_precision_score(~is_open, -scores))
    for positive, sign in (("open", 1), ("known", -1)):
        truth = is_open if positive == "open" else ~is_open
        fpr, tpr = metrics.roc_curve(scores, is_open, positive)
        expected = sk.roc_curve(truth, sign * scores, drop_intermediate=False)[:2]
        np.testing.assert_allclose((fpr, tpr), expected)


@quick
@given(pools())
def test_fpr_is_read_off_scikit_learns_roc_curve(pool):
    scores, is_open, _ = pool
    fpr, tpr, _ = sk.roc_curve(~is_open, -scores, drop_intermediate=False)
    found = metrics.fpr_at_tpr95(scores, is_open)
    if 0.95 in tpr:  # a stretch along TPR 0.95: numpy.interp gives its end, we its start
        assert found == pytest.approx(fpr[tpr == 0.95].min())
    else:
        assert found == pytest.approx(np.interp(0.95, tpr, fpr))


@quick
@given(pools())
def test_pytorch_ood_agrees(pool):
    scores, is_open, correct = pool
    labels = torch.where(torch.tensor(is_open), -1, 3)  # below zero = open, the positive class there
    predictions = torch.where(torch.tensor(correct), 3, 4)
    tensor = torch.tensor(scores, dtype=torch.float64)
    theirs = pytorch_ood(tensor, labels)
    assert metrics.auroc(scores, is_open) == pytest.approx(theirs["AUROC"])
    assert metrics.fpr_at_tpr95_open(scores, is_open) == pytest.approx(theirs["FPR95TPR"])
    assert metrics.oscr(scores, is_open, correct) == pytest.approx(oscr_score(tensor, predictions, labels))


@quick
@given(pools())
def test_pytorch_ood_aupr_is_the_same_curve_joined_by_lines(pool):
    scores, is_open, _ = pool
    theirs = pytorch_ood(torch.tensor(scores), torch.where(torch.tensor(is_open), -1, 0))
    for key, truth, up in (("AUPR-OUT", is_open, scores), ("AUPR-IN", ~is_open, -scores)):
        precision, recall, _ = sk.precision_recall_curve(truth, up)
        ours = (metrics.aupr_open if key == "AUPR-OUT" else metrics.aupr_known)(scores, is_open)
        # A step takes the precision at its right end, a line the mean of both ends: they differ by half the steps' sum.
        half = np.sum(-np.diff(recall) * np.diff(precision)) / 2
        assert theirs[key] == pytest.approx(ours + half)


@quick
@given(pools(), st.sampled_from([np.exp, np.arctan, lambda s: 3 * s - 7, lambda s: s**3]))
def test_only_the_ranking_counts(pool, transform):
    scores, is_open, correct = pool
    ranks = np.unique(scores, return_inverse=True)[1] / 16  # small numbers: exp and arctan keep them apart
    for metric in POOL_METRICS:
        assert metric(scores, is_open) == metric(transform(ranks), is_open)
    assert metrics.oscr(scores, is_open, correct) == metrics.oscr(transform(ranks), is_open, correct)


@quick
@given(pools(), st.integers(0, 2**32 - 1))
def test_the_order_of_images_does_not_matter(pool, seed):
    order = np.random.default_rng(seed).permutation(len(pool[0]))
    assert metrics.evaluate(*pool, n=5) == metrics.evaluate(*(side[order] for side in pool), n=5)


@quick
@given(pools())
def test_symmetries(pool):
    scores, is_open, _ = pool
    value = metrics.auroc(scores, is_open)
    assert metrics.auroc(-scores, is_open) == pytest.approx(1 - value)
    assert metrics.auroc(scores, ~is_open) == pytest.approx(1 - value)
    assert metrics.auroc(-scores, ~is_open) == value  # AUROC does not depend on which side is positive
    assert metrics.aupr_known(scores, is_open) == pytest.approx(metrics.aupr_open(-scores, ~is_open))
    # With roles swapped the interpolated FPR lies on the same step as the field's, at or below its end.
    assert metrics.fpr_at_tpr95(-scores, ~is_open) <= metrics.fpr_at_tpr95_open(scores, is_open) + 1e-12


@quick
@given(pools())
def test_ranges(pool):
    scores, is_open, _ = pool
    found = metrics.evaluate(*pool, n=20)
    assert all(0 <= found[key] <= 1 for key in found if not key.startswith("n_"))
    assert found["auroc_lo"] <= found["auroc_hi"]
    assert found["oscr"] <= min(found["closed_accuracy"], found["auroc"]) + 1e-12
    # Cutting at whether f_close was right: with every known image right, OSCR is AUROC.
    assert metrics.oscr(scores, is_open, np.ones(len(scores), bool)) == pytest.approx(found["auroc"])
