"""The open fraction on planted scores: right, with an interval that covers, near 0 when nothing is open."""

import numpy as np
import pytest

from fer_openset.open_fraction import estimate_open_fraction, threshold_for


def planted(share, n=4000, apart=3.0, seed=0):
    """Pool and known scores, both normal; the open images lie `apart` standard deviations higher."""
    rng = np.random.default_rng(seed)
    n_open = round(share * n)
    return np.r_[rng.normal(0, 1, n - n_open), rng.normal(apart, 1, n_open)], rng.normal(0, 1, n)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.6])
def test_the_planted_share_comes_back(share):
    found = estimate_open_fraction(*planted(share))
    assert abs(found.value - share) < 0.03
    assert found.low <= found.value <= found.high and found.high - found.low < 0.15


def test_a_pool_without_open_images_says_so():
    found = estimate_open_fraction(*planted(0.0))
    assert found.value < 0.02


def test_nothing_but_open_images():
    found = estimate_open_fraction(*planted(1.0, apart=8.0))
    assert found.value > 0.98


def test_classes_that_overlap_give_less_never_more_than_there_is():
    """Where open images hide among the known ones the share cannot be told: the estimate is a lower one."""
    found = estimate_open_fraction(*planted(0.3, apart=1.0))
    assert 0.05 < found.value < 0.32


def test_the_order_and_the_scale_of_the_scores_make_no_difference():
    pool, known = planted(0.3)
    same = estimate_open_fraction(np.exp(pool[::-1]), np.exp(known[::-1]), n_boot=0)
    assert same.value == estimate_open_fraction(pool, known, n_boot=0).value


def test_the_threshold_flags_the_estimated_share():
    pool, known = planted(0.3)
    found = estimate_open_fraction(pool, known)
    assert abs((pool >= threshold_for(pool, found.value)).mean() - found.value) < 1e-3
    assert threshold_for(pool, 0.0) == np.inf and threshold_for(pool, 1.0) == pool.min()


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0], [np.inf]])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="pool scores"):
        estimate_open_fraction(bad, [0.0, 1.0])
    with pytest.raises(ValueError, match="known scores"):
        estimate_open_fraction([0.0, 1.0], bad)
