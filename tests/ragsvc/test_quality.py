"""What a search finds on real labelled sets: the floors that the defaults were chosen by (docs/quality.md)."""

import asyncio

import pytest

from indexes import pruning
from ragsvc.compose import House
from ragsvc.evaluation import LEGS, Evaluation, EvaluationRequest, Leg, evaluate
from ragsvc.settings import Settings
from tests.conftest import shared_data

DECIDING = {"scifact_train": "nDCG@10", "cmrc2018_trial": "nDCG@10", "chunkeval_spans": "span recall@5"}
"""The measure that counts, by set."""


def _evaluate(name: str, tmp_path, *legs: Leg) -> Evaluation:
    settings = Settings.model_validate({"data_dir": tmp_path, "provider": "local"})

    async def work() -> Evaluation:
        house = House(settings)
        try:
            found = await evaluate(EvaluationRequest(shared_data(name), legs=legs), settings, house.embedder_for)
        finally:
            await house.aclose()
        assert isinstance(found, Evaluation)
        return found

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("name", "measure", "floor"),
    [("chunkeval_spans", "span recall@5", 0.97), ("cmrc2018_trial", "nDCG@10", 0.98)],
)
def test_words_find_what_they_should(name, measure, floor, tmp_path):
    """The lexical leg alone: evidence in long documents, and Chinese questions."""
    assert _evaluate(name, tmp_path, "lexical").mean("lexical", measure) >= floor


def test_words_find_scientific_abstracts(tmp_path):
    """nDCG@10 of the lexical leg is above plain BM25's 0.693 over whole abstracts with stemming and titles."""
    assert _evaluate("scifact_train", tmp_path, "lexical").mean("lexical", "nDCG@10") >= 0.70


@pytest.mark.parametrize(
    ("name", "floor"),
    [("cmrc2018_trial", 0.98), pytest.param("scifact_train", 0.70, marks=pytest.mark.soak)],
)
def test_words_find_what_they_should_in_large_collections(name, floor, tmp_path, monkeypatch):
    """Searched as a collection of a million is, with the same share of the rows scored, the floors are the same."""
    names = ("SCORED_ROWS", "COUNTED_ROWS", "LEAST_ROWS")
    plan, shares = pruning.pruned, {name: getattr(pruning, name) / 1e6 for name in names}
    searched = []

    def pruned(terms, rows):
        for name, share in shares.items():
            monkeypatch.setattr(pruning, name, int(share * rows))
        searched.append(plan(terms, rows))
        return searched[-1]

    monkeypatch.setattr(pruning, "LARGE", 0)
    monkeypatch.setattr(pruning, "pruned", pruned)
    assert _evaluate(name, tmp_path, "lexical").mean("lexical", "nDCG@10") >= floor
    assert sum(" AND " in each.text for each in searched) > len(searched) / 3  # it was pruned


@pytest.mark.soak
@pytest.mark.parametrize("name", ["chunkeval_spans", "cmrc2018_trial"])
def test_hybrid_is_not_below_the_better_leg(name, tmp_path):
    """Hybrid less the better leg, in the measure that decides: the 95 % interval does not lie below 0."""
    _check(_evaluate(name, tmp_path, *LEGS), name)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_hybrid_is_above_both_legs_on_abstracts(tmp_path):
    """On scifact the interval lies above 0."""
    found = _evaluate("scifact_train", tmp_path, *LEGS)
    _check(found, "scifact_train")
    assert found.comparisons["nDCG@10"].difference.low > 0


def _check(found: Evaluation, name: str) -> None:
    compared = found.comparisons[DECIDING[name]]
    assert compared.difference.high >= 0
    if found.without_vote > found.queries * 0.9:
        assert (compared.better, compared.difference.mean) == ("lexical", 0)
