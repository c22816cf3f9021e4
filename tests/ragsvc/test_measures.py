"""Measures by value: against cases worked out by hand, sets of characters as the oracle, and ir-measures' own names."""

import importlib.machinery
import math
import statistics

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsvc import measures
from ragsvc.errors import ConfigurationError
from ragsvc.measures import paired_interval, rankings, span_score, within

PLACES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(1, 12)).map(lambda p: (p[0], p[1], p[1] + p[2])),
    max_size=6,
)


def test_rankings_by_hand():
    """One relevant document of two at rank 2; a query without hits; one whose documents come after the tenth."""
    qrels = {"q": {"a": 1, "b": 1, "c": 0}, "none": {"a": 1}, "late": {"z": 1}}
    run = {"q": ["c", "a"], "late": [f"d{n}" for n in range(10)] + ["z"]}
    values = rankings(qrels, run)
    assert values["R@10"] == {"q": 0.5, "none": 0.0, "late": 0.0}
    assert values["RR@10"] == {"q": 0.5, "none": 0.0, "late": 0.0}
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    assert values["nDCG@10"] == pytest.approx({"q": (1 / math.log2(3)) / ideal, "none": 0, "late": 0})


def test_grades_count_in_ndcg():
    """A document of grade 3 first is worth more than one of grade 1 first."""
    values = rankings({"x": {"a": 3, "b": 1}, "y": {"a": 3, "b": 1}}, {"x": ["a", "b"], "y": ["b", "a"]})["nDCG@10"]
    assert values["x"] == 1
    assert values["y"] == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_means_are_those_of_ir_measures():
    """The mean over the queries is ir-measures' own aggregate for the same run."""
    qrels = {f"q{n}": {f"d{n}": 1, f"d{n + 3}": 2} for n in range(20)}
    run = {f"q{n}": [f"d{(n * 7 + m * 5) % 23}" for m in range(15)] for n in range(20)}
    run = {query: list(dict.fromkeys(found)) for query, found in run.items()}
    scored = {query: {doc: 1 / (1 + rank) for rank, doc in enumerate(found)} for query, found in run.items()}
    chosen = [ir_measures.parse_measure(name) for name in measures.RANKING]
    theirs = {str(m): value for m, value in ir_measures.calc_aggregate(chosen, qrels, scored).items()}
    ours = {name: statistics.fmean(values.values()) for name, values in rankings(qrels, run).items()}
    assert ours == pytest.approx(theirs)


def test_equal_ranks_are_kept_in_the_order_given():
    """The first document is the first, whatever its name: no library's rule for ties gets a say."""
    for order in (["a", "z"], ["z", "a"]):
        values = rankings({"q": {"a": 1}}, {"q": order})["RR@10"]
        assert values["q"] == 1 / (1 + order.index("a"))


def test_span_score_by_hand():
    """Evidence 10..20 and 30..40; passages 15..35 and 50..60: 10 of 20 found, in 30 characters, 40 in all."""
    score = span_score([("d", 10, 20), ("d", 30, 40)], [("d", 15, 35), ("d", 50, 60)])
    assert (score.recall, score.precision, score.iou) == (0.5, 10 / 30, 10 / 40)


def test_what_two_passages_share_counts_once():
    """Overlapping passages are their union, and the same characters of another document are other characters."""
    score = span_score([("d", 0, 10)], [("d", 0, 8), ("d", 4, 10), ("e", 0, 10)])
    assert (score.recall, score.precision, score.iou) == (1.0, 0.5, 0.5)


def test_without_passages_nothing_is_found():
    """No passages score 0; no evidence can't be scored."""
    assert span_score([("d", 0, 10)], []) == measures.SpanScore(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="evidence"):
        span_score([], [("d", 0, 10)])


@given(evidence=PLACES.filter(bool), passages=PLACES)
def test_span_scores_are_those_of_sets_of_characters(evidence, passages):
    """The three measures agree with counting characters one by one."""
    wanted, shown = (
        {(d, at) for d, start, end in places for at in range(start, end)} for places in (evidence, passages)
    )
    score = span_score(evidence, passages)
    assert score.recall == pytest.approx(len(wanted & shown) / len(wanted))
    assert score.precision == pytest.approx(len(wanted & shown) / len(shown) if shown else 0)
    assert score.iou == pytest.approx(len(wanted & shown) / len(wanted | shown))


def test_passages_of_a_size_are_the_first_ones_and_a_piece():
    """Of three passages of ten characters, 25 characters are two and a half."""
    passages = [("a", 0, 10), ("b", 100, 110), ("a", 50, 60)]
    assert within(passages, 25) == [("a", 0, 10), ("b", 100, 110), ("a", 50, 55)]
    assert within(passages, 20) == passages[:2]
    assert within(passages, 0) == []


def test_an_interval_holds_the_mean_and_shrinks_with_the_queries():
    """Around the mean, as wide as the normal interval of the same standard error, and the same on every call."""
    values = [math.sin(n * n) for n in range(400)]
    interval = paired_interval(values)
    assert interval == paired_interval(values)
    assert interval.mean == pytest.approx(statistics.fmean(values))
    width = 2 * 1.96 * statistics.stdev(values) / math.sqrt(400)
    assert interval.high - interval.low == pytest.approx(width, rel=0.05)
    assert interval.low < interval.mean < interval.high


def test_a_difference_that_every_query_shows_is_certain():
    """Equal differences have an interval without width; no differences have none."""
    same = paired_interval([0.25] * 10)
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="interval"):
        paired_interval([])


def test_without_the_library_the_way_to_it_is_said(monkeypatch):
    """Where ir-measures is not installed, the message says what installs it."""
    find = importlib.machinery.PathFinder.find_spec
    monkeypatch.setattr(measures, "find_spec", lambda name: None if name == "ir_measures" else find(name))
    with pytest.raises(ConfigurationError, match="`make setup`"):
        measures.require_installed()
