"""The governor's seam: what is repeated, how often, after how long; with a clock that is told what time it is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.types import EmbeddingSpec
from ragsvc import errors
from ragsvc.governor import (
    FIRST_WAIT,
    LANES,
    LONGEST_WAIT,
    GovernedChat,
    GovernedEmbedder,
    GovernedModerator,
    Governor,
    Lane,
)
from ragsvc.providers.openai import OpenAIProvider
from ragsvc.types import Message, Prompt
from tests.openai_fake import OpenAIFake

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ProviderError)]


class Time:
    """A clock that only sleeping moves, and a record of the sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, list[float]()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Upstream:
    """An operation that raises what it was given, one at a time, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.calls = list(failures), 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def governor(time: Time, uniform: float = 0.5, **lanes: Lane) -> Governor:
    return Governor({**LANES, **lanes}, clock=time.clock, sleep=time.sleep, uniform=lambda: uniform)


def call(governed: Governor, operation: Callable[[], Awaitable[Any]], purpose: Any = "ingest") -> Any:
    return asyncio.run(governed.call("embedding", purpose, operation))


@pytest.mark.parametrize("kind", ERRORS)
def test_only_what_may_heal_is_repeated(kind: type[errors.ProviderError]) -> None:
    """An ask is tried twice, an ingest six times, a malformed reply twice; quota, key and refusals exactly once."""
    for purpose, most in (("ask", 2), ("ingest", 6)):
        upstream = Upstream(*(kind("x") for _ in range(20)))
        with pytest.raises(kind):
            call(governor(Time()), upstream, purpose)
        expected = 1 if not kind.retryable else min(most, 2) if kind is errors.UpstreamMalformed else most
        assert upstream.calls == expected


def test_the_answer_after_failures() -> None:
    """Failures that heal within the tries are not seen by the caller."""
    upstream = Upstream(errors.UpstreamFailed("x"), errors.Unreachable("x"), errors.UpstreamMalformed("x"))
    assert call(governor(Time()), upstream) == "answer"
    assert upstream.calls == 4


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 5))
def test_waits_are_full_jitter(uniform: float, failures: int) -> None:
    """The n-th wait lies between 0 and the doubled bound, at the place that the random number says."""
    time = Time()
    call(governor(time, uniform), Upstream(*(errors.UpstreamFailed("x") for _ in range(failures))))
    assert time.slept == [uniform * min(LONGEST_WAIT, FIRST_WAIT * 2**n) for n in range(failures)]


def test_a_retry_after_is_the_least_wait() -> None:
    """What the upstream asks for is waited, and a little more; beyond 120 s the error is raised at once."""
    time = Time()
    call(governor(time), Upstream(errors.RateLimited("x", retry_after=7.0), errors.UpstreamFailed("x", retry_after=3)))
    assert sum(time.slept) >= 10.0
    upstream = Upstream(errors.RateLimited("x", retry_after=120.5))
    with pytest.raises(errors.RateLimited):
        call(governor(Time()), upstream)
    assert upstream.calls == 1


def test_an_ask_does_not_wait_beyond_its_end() -> None:
    """A wait that the lane's time does not hold is not begun."""
    time = Time()
    upstream = Upstream(errors.RateLimited("x", retry_after=31.0))
    with pytest.raises(errors.RateLimited):
        call(governor(time), upstream, "ask")
    assert (upstream.calls, time.slept) == (1, [])


def test_a_rate_limit_holds_back_the_role() -> None:
    """After a 429 other calls of the role wait too, or are told how long; other roles go on."""
    time = Time()
    governed = governor(time, ask=Lane(tries=1, seconds=30.0, concurrency=8))

    async def story() -> None:
        with pytest.raises(errors.RateLimited):
            await governed.call("embedding", "ask", Upstream(errors.RateLimited("x", retry_after=60.0)))
        untouched = Upstream()
        with pytest.raises(errors.RateLimited) as caught:
            await governed.call("embedding", "ask", untouched)
        assert (untouched.calls, caught.value.retry_after, time.slept) == (0, 60.0, [])
        assert await governed.call("chat", "ask", Upstream()) == "answer"
        assert time.slept == []
        assert await governed.call("embedding", "ingest", Upstream()) == "answer"
        assert time.slept == [60.0]

    asyncio.run(story())


def test_an_operation_that_hangs_ends_with_the_lane() -> None:
    """The lane's time cuts off a call that does not come back; the operation is cancelled."""
    cancelled = []

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(errors.UpstreamTimeout):
        call(governor(Time(), ask=Lane(tries=2, seconds=0.05, concurrency=1)), hangs, "ask")
    assert cancelled == [True]


def test_a_timeout_of_the_operation_is_its_own() -> None:
    """A TimeoutError that is not the lane's passes through unchanged."""
    with pytest.raises(TimeoutError):
        call(governor(Time()), Upstream(TimeoutError()), "ask")


@given(st.integers(1, 5), st.integers(1, 20))
def test_no_more_at_once_than_the_lane_holds(concurrency: int, calls: int) -> None:
    """At most `concurrency` operations of a role and purpose run at once, and all of them run."""
    running = most = 0

    async def operation() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async def story() -> None:
        governed = governor(Time(), ingest=Lane(tries=1, seconds=None, concurrency=concurrency))
        await asyncio.gather(*(governed.call("embedding", "ingest", operation) for _ in range(calls)))

    asyncio.run(story())
    assert most == min(concurrency, calls)


def test_a_full_ingest_does_not_hold_up_an_ask() -> None:
    """Each purpose has its own slots."""

    async def story() -> None:
        governed = governor(Time(), ingest=Lane(tries=1, seconds=None, concurrency=1))
        held = asyncio.create_task(governed.call("embedding", "ingest", asyncio.Event().wait))
        await asyncio.sleep(0)
        assert await governed.call("embedding", "ask", Upstream()) == "answer"
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held

    asyncio.run(story())


def test_a_cancelled_call_gives_its_slot_back() -> None:
    """Cancelling neither repeats the operation nor keeps the slot."""

    async def story() -> None:
        governed = governor(Time(), ask=Lane(tries=2, seconds=30.0, concurrency=1))
        held = asyncio.create_task(governed.call("chat", "ask", asyncio.Event().wait))
        await asyncio.sleep(0)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        assert await governed.call("chat", "ask", Upstream()) == "answer"

    asyncio.run(story())


def test_the_wrappers_repeat_real_requests() -> None:
    """Around the real provider each wrapper heals a failure of its endpoint, and an empty account is asked once."""
    prompt = Prompt("Why?", (), (Message("user", "Why?"),), tokens=3)
    spec = EmbeddingSpec("text-embedding-3-small", 64)

    async def story(fake: OpenAIFake) -> None:
        provider, governed = OpenAIProvider(), governor(Time())
        embedder = GovernedEmbedder(provider.embedder(spec, fake.base_url, fake.key), governed, "ask")
        chat = GovernedChat(provider.chat("gpt-6-luna", fake.base_url, fake.key, "openai"), governed)
        moderator = GovernedModerator(provider.moderator("omni-moderation-latest", fake.base_url, fake.key), governed)
        for endpoint in (fake.embeddings, fake.chat, fake.moderations):
            endpoint.fail(503)
        assert (await embedder.embed_documents(["a", "b"])).vectors.shape == (2, 64)
        assert (await embedder.embed_query("a")).vectors.shape == (1, 64)
        assert (await chat.complete(prompt, 100)).finish_reason == "stop"
        assert len((await moderator.check(["a", "b"])).verdicts) == 2
        assert [entry.status for entry in fake.journal] == [503, 200, 200, 503, 200, 503, 200]
        assert (embedder.spec, chat.model, moderator.model) == (spec, "gpt-6-luna", "omni-moderation-latest")
        assert (embedder.limits.inputs, chat.provider, embedder.speaks("文")) == (2048, "openai", True)
        fake.forget()
        fake.embeddings.quota(times=5)
        with pytest.raises(errors.QuotaExhausted):
            await embedder.embed_query("a")
        assert len(fake.journal) == 1
        await provider.aclose()

    with OpenAIFake() as fake:
        asyncio.run(story(fake))
