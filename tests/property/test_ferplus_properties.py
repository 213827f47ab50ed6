"""The majority vote, against the rule written out slowly."""

from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from fer_openset.datasets.ferplus import majority

ROW = st.lists(st.integers(0, 10), min_size=10, max_size=10).filter(any)
SHARES = st.integers(0, 20).map(lambda n: n / 20)


def reference(row, ties, share):
    leaders = [column for column, votes in enumerate(row) if votes == max(row)]
    if ties == "drop" and len(leaders) > 1:
        return -1
    # The share as a person writes it, 0.55, not the binary number beside it.
    return leaders[0] if Fraction(max(row), sum(row)) >= Fraction(str(share)) else -1


@example([[14, 11, *[0] * 8]], "first", 0.56)  # 0.56 * 25 is a little over 14 in floating point
@given(st.lists(ROW, min_size=1, max_size=20), st.sampled_from(["first", "drop"]), SHARES)
def test_majority_is_the_plain_rule(rows, ties, share):
    winner = majority(np.array(rows), ties, share)
    assert winner.tolist() == [reference(row, ties, share) for row in rows]
    assert winner.dtype == np.int64


@given(ROW, st.permutations(range(10)))
def test_without_a_tie_the_order_of_the_columns_does_not_matter(row, order):
    votes = np.array([row])
    winner, shuffled = majority(votes, "drop")[0], majority(votes[:, order], "drop")[0]
    assert (shuffled == -1 and winner == -1) or order[shuffled] == winner


@given(ROW, SHARES, SHARES)
def test_asking_for_more_agreement_only_leaves_rows_out(row, one, other):
    strict, lenient = (majority(np.array([row]), "first", share)[0] for share in (max(one, other), min(one, other)))
    assert strict in (-1, lenient)
    assert majority(np.array([row]), "first", 0.0)[0] == int(np.argmax(row))
