"""Reciprocal rank fusion against its formula."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.fusion import reciprocal_rank

RANKINGS = st.lists(st.lists(st.integers(0, 12), unique=True, max_size=10), max_size=4)


def test_the_formula_by_hand():
    """Two rankings give 1/61 + 1/62 and so on, best first."""
    fused = reciprocal_rank([["a", "b", "c"], ["b", "d"]])
    assert [item for item, _ in fused] == ["b", "a", "d", "c"]
    assert [score for _, score in fused] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63], abs=1e-15)


def test_weights_and_constant():
    """A leg counts by its weight; one of weight 0 brings nothing, not even its items."""
    assert reciprocal_rank([["a"], ["b"]], [1.0, 2.0], constant=0) == [("b", 2.0), ("a", 1.0)]
    assert reciprocal_rank([["a"], ["b"]], [0.0, 0.5]) == [("b", 0.5 / 61)]


def test_ties_are_ordered_by_best_rank_then_by_leg():
    """Items of equal score come in the order of their best rank, and then of the legs."""
    assert [item for item, _ in reciprocal_rank([["x"], ["y"], ["z"]])] == ["x", "y", "z"]
    assert [item for item, _ in reciprocal_rank([["p", "q"], ["q", "p"]])] == ["p", "q"]
    assert reciprocal_rank([["f", "x"], ["y"]], [62.0, 61.0])[1:] == [("y", 1.0), ("x", 1.0)]


def test_an_item_named_twice_by_a_leg_counts_once():
    """Only the first place of an item in a leg counts, and those after it move up."""
    assert reciprocal_rank([["a", "a", "b"]]) == reciprocal_rank([["a", "b"]])


def test_nothing_in_nothing_out():
    """No legs, or empty ones, fuse to nothing."""
    assert reciprocal_rank([]) == []
    assert reciprocal_rank([[], []]) == []


@pytest.mark.parametrize(
    ("weights", "constant"),
    [
        ([1.0], 60),
        ([1.0, -0.1], 60),
        ([1.0, float("nan")], 60),
        ([float("inf"), 1.0], 60),
        (None, -1),
        (None, float("nan")),
    ],
)
def test_senseless_weights_are_refused(weights, constant):
    """Weights must be one per leg, finite and not negative; the constant must not be negative."""
    with pytest.raises(ValueError, match=r"weights|constant"):
        reciprocal_rank([["a"], ["b"]], weights, constant)


@given(legs=RANKINGS, weights=st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_any_rankings_follow_the_formula(legs, weights):
    """Every item of any leg appears once, with the exact sum of its shares, in falling order."""
    fused = reciprocal_rank(legs, [float(weight) for weight in weights[: len(legs)]])
    exact: dict[int, Fraction] = {}
    for leg, weight in zip(legs, weights, strict=False):
        for rank, item in enumerate(leg, start=1):
            exact[item] = exact.get(item, Fraction(0)) + Fraction(weight, 60 + rank)
    assert {item: pytest.approx(float(score), rel=1e-14) for item, score in exact.items()} == dict(fused)
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)


@given(legs=RANKINGS, order=st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order_of_the_legs(legs, order):
    """Legs given in another order give the same scores, to the last bit."""
    shuffled = list(legs)
    order.shuffle(shuffled)
    assert dict(reciprocal_rank(legs)) == dict(reciprocal_rank(shuffled))
