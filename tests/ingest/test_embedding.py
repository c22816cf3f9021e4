"""Batches keep every limit, and what was paid for is kept."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.types import EmbeddingSpec
from ingest.embedding import EmbeddingQueue, Pending, batches
from ingest.errors import InputRefused
from ingest.protocols import Embedded, RequestLimits

SPEC = EmbeddingSpec("test", 2)


def _pending(tokens: Sequence[int]) -> list[Pending]:
    return [Pending(f"{n:08}".encode(), f"text {n}", count) for n, count in enumerate(tokens)]


@given(st.lists(st.integers(1, 50)), st.integers(1, 9), st.integers(1, 9), st.integers(50, 200))
def test_batches_keep_all_limits_in_order(tokens, wanted, most, most_tokens):
    """Every batch keeps inputs and tokens, none is empty, and together they are the texts in order."""
    limits = RequestLimits(inputs=most, tokens_per_input=50, tokens=most_tokens)
    made = list(batches(_pending(tokens), limits, wanted))
    assert [item for batch in made for item in batch] == _pending(tokens)
    for batch in made:
        assert 0 < len(batch) <= min(wanted, most)
        assert sum(item.tokens for item in batch) <= most_tokens


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 9), st.integers(50, 200))
def test_batches_are_as_full_as_the_limits_let_them(tokens, inputs, most_tokens):
    """A batch ends only where the next text would break a limit."""
    made = list(batches(_pending(tokens), RequestLimits(tokens=most_tokens), inputs))
    for batch, following in pairwise(made):
        full = len(batch) == inputs
        assert full or sum(item.tokens + 1 for item in (*batch, following[0])) > most_tokens


class Sink:
    """Remembers what was stored."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []

    def add_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes], vectors: np.ndarray) -> None:
        assert spec == SPEC
        assert vectors.shape == (len(hashes), 2)
        self.stored.extend(hashes)


class Upstream:
    """An embedder that counts what is in flight and fails when told to."""

    spec = SPEC
    limits = RequestLimits()

    def __init__(self, failing: frozenset[int] = frozenset()) -> None:
        self.calls, self.in_flight, self.most, self.failing = 0, 0, 0, failing

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        self.calls += 1
        number = self.calls
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            for _ in range(number % 5):
                await asyncio.sleep(0)
        finally:
            self.in_flight -= 1
        if number in self.failing:
            raise ConnectionError(f"request {number}")
        return Embedded(np.ones((len(texts), 2), np.float32), 7)

    async def embed_query(self, text: str) -> Embedded:
        return await self.embed_documents([text])


async def _send_all(queue: EmbeddingQueue, items: Sequence[Pending]) -> None:
    for item in items:
        await queue.put(item)
    await queue.flush()


def _queue(upstream: Upstream, sink: Sink, told: list[int]) -> EmbeddingQueue:
    return EmbeddingQueue(upstream, sink, inputs=4, concurrency=3, on_stored=told.append)


def test_several_requests_are_in_flight_and_all_is_stored():
    """Requests overlap up to the concurrency; at the end every hash is stored once and nothing is outstanding."""
    upstream, sink, told = Upstream(), Sink(), []
    items = _pending([10] * 41)

    async def run() -> EmbeddingQueue:
        queue = _queue(upstream, sink, told)
        await _send_all(queue, items)
        return queue

    queue = asyncio.run(run())
    assert upstream.most == 3
    assert sorted(sink.stored) == sorted(item.hash for item in items)
    assert (queue.requests, queue.inputs, queue.tokens, queue.outstanding) == (11, 41, 77, set())
    assert sum(told) == 41


def test_after_a_failure_what_is_in_flight_is_kept_and_nothing_more_is_sent():
    """When one request fails the others in flight are stored, later texts are not sent, and the failure is raised."""
    upstream, sink = Upstream(frozenset({2})), Sink()
    items = _pending([10] * 400)

    async def run() -> EmbeddingQueue:
        queue = _queue(upstream, sink, [])
        with pytest.raises(ConnectionError, match="request 2"):
            await _send_all(queue, items)
        await queue.settle()
        return queue

    queue = asyncio.run(run())
    assert upstream.calls < 8
    assert len(sink.stored) == 4 * (upstream.calls - 1)
    assert queue.outstanding.isdisjoint(sink.stored)
    assert len(queue.outstanding) >= 4


def test_a_refused_text_is_found_and_the_others_are_stored():
    """A request that is refused as a whole is halved until the text that is refused stands alone; nothing is raised."""

    class Choosy(Upstream):
        async def embed_documents(self, texts: Sequence[str]) -> Embedded:
            if "text 5" in texts:
                raise InputRefused("too long")
            return await super().embed_documents(texts)

    sink, items = Sink(), _pending([10] * 13)

    async def run() -> EmbeddingQueue:
        queue = _queue(Choosy(), sink, [])
        await _send_all(queue, items)
        return queue

    queue = asyncio.run(run())
    assert queue.refused == queue.outstanding == {items[5].hash}
    assert sorted(sink.stored) == sorted(item.hash for item in items if item is not items[5])


def test_cancel_drops_what_is_in_flight():
    """Cancelling leaves no task behind, and nothing is stored afterwards."""

    class Slow(Upstream):
        async def embed_documents(self, texts: Sequence[str]) -> Embedded:
            await asyncio.sleep(3600)
            raise AssertionError

    sink = Sink()

    async def run() -> int:
        queue = _queue(Slow(), sink, [])
        for item in _pending([10] * 8):
            await queue.put(item)
        await asyncio.sleep(0)
        await queue.cancel()
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1
    assert sink.stored == []
