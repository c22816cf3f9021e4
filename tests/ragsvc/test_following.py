"""What keeps `index --watch` from a round, and what it does then."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from ingest.errors import PathError, RunLocked, TooManyRemovals
from ingest.types import IngestPlan, Rejection
from ragsvc.errors import BudgetRefused, ConfigurationError, QuotaExhausted, UpstreamFailed
from ragsvc.following import Following
from ragsvc.indexing import IndexOutcome


def outcome(*added: str, rejected: tuple[str, ...] = ()) -> IndexOutcome:
    """Return what a round did."""
    rejections = tuple(Rejection(path, "damaged") for path in rejected)
    plan = IngestPlan("/docs", added, (), (), (), 0, rejections, len(added), 0, 0)
    return IndexOutcome("default", plan, "model", 0.0, None)


def follow(*rounds: IndexOutcome | Exception, moments: int | None = None) -> tuple[list[IndexOutcome], list[str]]:
    """Follow through rounds that end so, one look each; return the rounds told and the troubles told."""
    told: list[IndexOutcome] = []
    troubles: list[str] = []
    left = list(rounds)

    async def look() -> IndexOutcome:
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def times() -> AsyncIterator[None]:
        for _ in range(len(rounds) if moments is None else moments):
            yield

    following = Following(look, told.append, troubles.append, first_pause=0.001)
    asyncio.run(following.follow(times(), outcome("first")))
    assert not left
    return told, troubles


def test_only_rounds_with_news_are_told():
    """A round that changed nothing is silent; one that rejects something else than the last is not."""
    same, rejecting, new = outcome(), outcome(rejected=("x",)), outcome("a")
    assert follow(same, rejecting, rejecting, same, new, same)[0] == [rejecting, same, new]


@pytest.mark.parametrize("error", [PathError("it is gone"), TooManyRemovals("too many"), BudgetRefused("too dear")])
def test_a_folder_that_is_gone_or_empty_is_said_once_and_waited_for(error):
    """The trouble is told once while it lasts; each moment looks again; a trouble that comes back is told again."""
    told, troubles = follow(error, error, outcome("a"), error)
    assert [len(each.plan.added) for each in told] == [1]
    assert len(troubles) == 2
    assert str(error) in troubles[0]


@pytest.mark.parametrize("error", [UpstreamFailed("500", retry_after=0.001), RunLocked("another run")])
def test_what_passes_is_tried_again_without_another_change(error):
    """A provider that fails, or another run, is waited for within the same moment, and told once."""
    told, troubles = follow(error, error, error, outcome("a"), moments=1)
    assert len(told) == 1
    assert len(troubles) == 1


@pytest.mark.parametrize("error", [QuotaExhausted("no money"), ConfigurationError("another spec")])
def test_what_only_a_person_can_mend_ends_it(error):
    """An exhausted quota is asked for exactly once; settings do not mend themselves."""
    with pytest.raises(type(error)):
        follow(error)
