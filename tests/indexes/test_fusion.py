"""The weighted mean of stretched scores against its formula."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.fusion import weighted_mean

RANKINGS = st.lists(
    st.dictionaries(st.integers(0, 12), st.integers(-50, 50), max_size=10).map(
        lambda scores: sorted(scores.items(), key=lambda pair: -pair[1])
    ),
    max_size=4,
)


def test_the_formula_by_hand():
    """The first of a leg gives 1, the last 0, the others their share of the way; an absent item 0; then the mean."""
    fused = weighted_mean([[("a", 9.0), ("b", 8.0), ("c", 5.0)], [("b", 0.5), ("d", 0.1)]])
    assert [item for item, _ in fused] == ["b", "a", "d", "c"]
    assert [score for _, score in fused] == pytest.approx([(0.75 + 1) / 2, 0.5, 0.0, 0.0], abs=1e-15)


def test_weights():
    """A leg counts by its weight of all weights; one of weight 0 brings nothing, not even its items."""
    assert weighted_mean([[("a", 1)], [("b", 1)]], [1.0, 3.0]) == [("b", 0.75), ("a", 0.25)]
    assert weighted_mean([[("a", 2)], [("b", 7), ("c", 5)]], [0.0, 0.5]) == [("b", 1.0), ("c", 0.0)]
    assert weighted_mean([[("a", 2)]], [0.0]) == []


def test_a_leg_without_differences_gives_each_its_whole_vote():
    """One item alone, or several of the same score, are all the leg's best."""
    assert weighted_mean([[("a", 0.2), ("b", 0.2)], [("b", 3.0), ("a", 1.0)]]) == [("b", 1.0), ("a", 0.5)]


def test_scale_and_origin_of_a_leg_do_not_matter():
    """Scores times ten less a hundred give the same."""
    legs = [[("a", 4.0), ("b", 3.0), ("c", 0.0)], [("c", 2.0), ("a", 1.0), ("d", 0.0)]]
    moved = [[(item, score * 10 - 100) for item, score in legs[0]], legs[1]]
    assert weighted_mean(moved) == weighted_mean(legs)


def test_ties_are_ordered_by_best_rank_then_by_leg():
    """Items of equal score come in the order of their best rank, and then of the legs."""
    assert [item for item, _ in weighted_mean([[("x", 1)], [("y", 1)], [("z", 1)]])] == ["x", "y", "z"]
    assert [item for item, _ in weighted_mean([[("p", 2), ("q", 1)], [("q", 2), ("p", 1)]])] == ["p", "q"]
    assert [item for item, _ in weighted_mean([[("f", 2), ("x", 0)], [("y", 3), ("z", 1), ("w", 1)]])][2:] == [
        "x",
        "z",
        "w",
    ]


def test_an_item_named_twice_by_a_leg_counts_once():
    """Only the first place of an item in a leg counts."""
    assert weighted_mean([[("a", 3), ("a", 2), ("b", 1)]]) == weighted_mean([[("a", 3), ("b", 1)]])


def test_nothing_in_nothing_out():
    """No legs, or empty ones, fuse to nothing; an empty leg's vote is lost."""
    assert weighted_mean([]) == []
    assert weighted_mean([[], []]) == []
    assert weighted_mean([[], [("a", 1)]]) == [("a", 0.5)]


@pytest.mark.parametrize("weights", [[1.0], [1.0, -0.1], [1.0, float("nan")], [float("inf"), 1.0]])
def test_senseless_weights_are_refused(weights):
    """Weights must be one per leg, finite and not negative."""
    with pytest.raises(ValueError, match="weights"):
        weighted_mean([[("a", 1)], [("b", 1)]], weights)


@pytest.mark.parametrize("scores", [(1.0, 2.0), (float("nan"), 1.0), (1.0, float("-inf"))])
def test_senseless_scores_are_refused(scores):
    """A ranking is best first, with finite scores."""
    with pytest.raises(ValueError, match="scores"):
        weighted_mean([list(zip("ab", scores, strict=True))])


@given(legs=RANKINGS, weights=st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_any_rankings_follow_the_formula(legs, weights):
    """Every item of any leg appears once, with the exact mean of its shares, in falling order."""
    used = weights[: len(legs)]
    fused = weighted_mean(legs, [float(weight) for weight in used])
    exact: dict[int, Fraction] = {}
    for leg, weight in zip(legs, used, strict=True):
        best, last = (leg[0][1], leg[-1][1]) if leg else (0, 0)
        for item, score in leg:
            share = Fraction(score - last, best - last) if best > last else Fraction(1)
            exact[item] = exact.get(item, Fraction(0)) + Fraction(weight, sum(used)) * share
    assert {item: pytest.approx(float(score), abs=1e-14) for item, score in exact.items()} == dict(fused)
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)


@given(legs=RANKINGS, order=st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order_of_the_legs(legs, order):
    """Legs given in another order give the same scores, to the last bit."""
    shuffled = list(legs)
    order.shuffle(shuffled)
    assert dict(weighted_mean(legs)) == dict(weighted_mean(shuffled))
