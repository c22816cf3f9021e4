"""From texts to stored vectors: batches within the provider's limits, several requests in flight, kept on arrival."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from indexes.types import EmbeddingSpec
from ingest.errors import InputRefused
from ingest.protocols import ChunkSink, Embedder, RequestLimits


@dataclass(frozen=True, slots=True)
class Pending:
    """A text whose vector is wanted and not yet known."""

    hash: bytes
    """`indexes.types.text_hash` of the text."""
    text: str
    tokens: int
    """Tokens (cl100k_base) of the text, as a sum of its parts: it may be a token off."""


Batch = tuple[Pending, ...]


class Batcher:
    """Collects texts into batches that keep all limits of a request at once: inputs and tokens."""

    def __init__(self, limits: RequestLimits, inputs: int) -> None:
        """`inputs` is the wanted size of a batch; the provider's limit goes before it."""
        self._inputs = min(inputs, limits.inputs)
        self._tokens = limits.tokens
        self._open: list[Pending] = []
        self._open_tokens = 0

    def add(self, item: Pending) -> Batch | None:
        """Take one text; return the batch that it closes, if any."""
        closed = None
        tokens = item.tokens + 1  # the sum of its parts may be one too low
        if self._open and self._open_tokens + tokens > self._tokens:
            closed = self.flush()
        self._open.append(item)
        self._open_tokens += tokens
        if closed is None and len(self._open) >= self._inputs:
            closed = self.flush()
        return closed

    def flush(self) -> Batch:
        """Return what is open, possibly nothing, and begin anew."""
        batch, self._open, self._open_tokens = tuple(self._open), [], 0
        return batch


def batches(items: Iterable[Pending], limits: RequestLimits, inputs: int) -> Iterator[Batch]:
    """Cut texts into batches, in order."""
    batcher = Batcher(limits, inputs)
    for item in items:
        if batch := batcher.add(item):
            yield batch
    if batch := batcher.flush():
        yield batch


class EmbeddingQueue:
    """Requests in flight, at most `concurrency`. A vector is durable before its text counts as known.

    After a failure nothing more is sent, but what is in flight is awaited and kept: it is paid for.
    """

    def __init__(
        self,
        embedder: Embedder,
        sink: ChunkSink,
        *,
        inputs: int,
        concurrency: int,
        on_stored: Callable[[int], None],
    ) -> None:
        """`on_stored` is told the number of texts after each stored batch."""
        self._embedder, self._sink, self._on_stored = embedder, sink, on_stored
        self._inputs = inputs
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self.outstanding: set[bytes] = set()
        """Hashes taken but not yet stored."""
        self.refused: set[bytes] = set()
        """Hashes of texts that the provider refuses; they stay outstanding."""
        self.requests = self.inputs = self.tokens = 0

    @property
    def spec(self) -> EmbeddingSpec:
        """What the vectors are made by."""
        return self._embedder.spec

    @cached_property
    def _batcher(self) -> Batcher:
        return Batcher(self._embedder.limits, self._inputs)  # an embedder may be costly to ask: not before it is needed

    async def put(self, item: Pending) -> None:
        """Take one text; wait while all slots are busy. Raises the first failure of an earlier batch."""
        self.outstanding.add(item.hash)
        if batch := self._batcher.add(item):
            await self._send(batch)

    async def flush(self) -> None:
        """Send what is open and wait for everything in flight. Raises the first failure."""
        if self._failure is None and "_batcher" in vars(self) and (batch := self._batcher.flush()):
            await self._send(batch)
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._raise_failure()

    async def settle(self) -> None:
        """Wait for what is in flight without raising, so that nothing paid for is lost."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Drop what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, batch: Batch) -> None:
        await self._slots.acquire()
        if self._failure is not None:
            self._slots.release()
            self._raise_failure()
        task = asyncio.create_task(self._embed(batch))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    async def _embed(self, batch: Batch) -> None:
        try:
            embedded = await self._embedder.embed_documents([item.text for item in batch])
        except InputRefused:
            if len(batch) == 1:
                self.refused.add(batch[0].hash)
                return
            middle = len(batch) // 2  # a request is refused as a whole: look for the text that it is refused for
            await self._embed(batch[:middle])
            await self._embed(batch[middle:])
            return
        hashes = [item.hash for item in batch]
        await asyncio.to_thread(self._sink.add_vectors, self.spec, hashes, embedded.vectors)
        self.outstanding.difference_update(hashes)
        self.requests += 1
        self.inputs += len(batch)
        self.tokens += embedded.tokens
        self._on_stored(len(batch))

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None and self._failure is None:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
