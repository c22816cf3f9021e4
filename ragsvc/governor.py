"""The one place where paid calls are bounded and repeated: concurrency, retries, waits.

Full jitter as in Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). A `Retry-After` is a
minimum wait for every call of that role, not only for the one that was told.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from indexes.types import EmbeddingSpec
from ingest.protocols import Embedded, Embedder, RequestLimits
from ragsvc.errors import ProviderError, RateLimited, UpstreamMalformed, UpstreamTimeout
from ragsvc.protocols import ChatModel, Moderator
from ragsvc.types import ChatReply, Moderated, Prompt, Role

Purpose = Literal["ask", "ingest", "nightly"]
T = TypeVar("T")

MAX_RETRY_AFTER = 120.0
"""Seconds; who is told to wait longer is told so at once instead of waiting. The SDK draws the same line."""
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
"""Bounds of the jitter: the wait after failure n (from 0) is random in [0, min(LONGEST_WAIT, FIRST_WAIT * 2**n))."""


@dataclass(frozen=True, slots=True)
class Lane:
    """How calls for one purpose are treated."""

    tries: int
    seconds: float | None
    """For one call in all, waits and queueing included; None: no bound."""
    concurrency: int
    """Calls at once, per role."""


LANES: Mapping[Purpose, Lane] = {
    "ask": Lane(tries=2, seconds=30.0, concurrency=32),
    "ingest": Lane(tries=6, seconds=None, concurrency=4),
    "nightly": Lane(tries=6, seconds=None, concurrency=2),
}
"""Each purpose has its own slots, so that a long ingest never stands before an ask."""


class Governor:
    """Runs calls to providers; see the module. Belongs to one event loop."""

    def __init__(
        self,
        lanes: Mapping[Purpose, Lane] = LANES,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """`clock` in seconds; `uniform` in [0, 1)."""
        self._lanes, self._clock, self._sleep, self._uniform = lanes, clock, sleep, uniform
        self._slots: dict[tuple[Role, Purpose], asyncio.Semaphore] = {}
        self._paused_until: dict[Role, float] = {}

    async def call(self, role: Role, purpose: Purpose, operation: Callable[[], Awaitable[T]]) -> T:
        """Return what `operation` returns, repeated within the lane's tries and time where that may help.

        Repeated are errors that are `retryable`: a malformed reply once, never a quota, key or refused request. The
        last error is raised as it came; UpstreamTimeout when the lane's time is over first.
        """
        lane = self._lanes[purpose]
        ends = None if lane.seconds is None else self._clock() + lane.seconds
        slot = self._slots.setdefault((role, purpose), asyncio.Semaphore(lane.concurrency))
        limit = asyncio.timeout(lane.seconds)
        try:
            async with limit, slot:
                return await self._attempts(role, lane.tries, ends, operation)
        except TimeoutError:
            if not limit.expired():
                raise
            raise UpstreamTimeout(f"no answer to the {role} request in {lane.seconds} s; repeat in a while") from None

    async def _attempts(self, role: Role, tries: int, ends: float | None, operation: Callable[[], Awaitable[T]]) -> T:
        failed = malformed = 0
        while True:
            await self._wait_for_role(role, ends)
            try:
                return await operation()
            except ProviderError as error:
                wait = self._wait(failed, error)
                self._pause(role, error)
                failed += 1
                malformed += isinstance(error, UpstreamMalformed)
                if failed >= tries or malformed > 1 or not self._worth(error, wait, ends):
                    raise
            await self._sleep(wait)

    def _wait(self, attempt: int, error: ProviderError) -> float:
        """Seconds until the next try: full jitter, after what the upstream asked for."""
        jitter = self._uniform() * min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)
        return jitter + (error.retry_after or 0.0)

    def _worth(self, error: ProviderError, wait: float, ends: float | None) -> bool:
        if not error.retryable or (error.retry_after or 0.0) > MAX_RETRY_AFTER:
            return False
        return ends is None or self._clock() + wait < ends

    def _pause(self, role: Role, error: ProviderError) -> None:
        if isinstance(error, RateLimited) and error.retry_after:
            until = self._clock() + min(error.retry_after, MAX_RETRY_AFTER)
            self._paused_until[role] = max(until, self._paused_until.get(role, 0.0))

    async def _wait_for_role(self, role: Role, ends: float | None) -> None:
        """Wait while the upstream wants no request of this role; raise RateLimited where that outlasts the call."""
        while (left := self._paused_until.get(role, 0.0) - self._clock()) > 0:
            if ends is not None and self._clock() + left >= ends:
                raise RateLimited(
                    f"the upstream wants no {role} request for {left:.0f} s; repeat after that", retry_after=left
                )
            await self._sleep(left)


class GovernedEmbedder:
    """An Embedder whose requests go through a governor."""

    def __init__(self, inner: Embedder, governor: Governor, purpose: Purpose) -> None:
        """`purpose` chooses the lane."""
        self._inner, self._governor, self._purpose = inner, governor, purpose

    @property
    def spec(self) -> EmbeddingSpec:
        """What its vectors are made by."""
        return self._inner.spec

    @property
    def limits(self) -> RequestLimits:
        """What one call may carry."""
        return self._inner.limits

    def speaks(self, text: str) -> bool:
        """Whether the inner embedder knows the language of `text`; one that does not say knows all."""
        inner: Callable[[str], bool] | None = getattr(self._inner, "speaks", None)
        return inner is None or inner(text)

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed up to `limits.inputs` texts in one request."""
        return await self._governor.call("embedding", self._purpose, lambda: self._inner.embed_documents(texts))

    async def embed_query(self, text: str) -> Embedded:
        """Embed one query; shape (1, dimensions)."""
        return await self._governor.call("embedding", self._purpose, lambda: self._inner.embed_query(text))


class GovernedChat:
    """A ChatModel whose requests go through a governor."""

    def __init__(self, inner: ChatModel, governor: Governor, purpose: Purpose = "ask") -> None:
        """`purpose` chooses the lane."""
        self._inner, self._governor, self._purpose = inner, governor, purpose

    @property
    def model(self) -> str:
        """Name of the model, as configured."""
        return self._inner.model

    @property
    def provider(self) -> str:
        """`openai` or `local`."""
        return self._inner.provider

    async def complete(self, prompt: Prompt, max_tokens: int) -> ChatReply:
        """Answer the prompt with at most `max_tokens` tokens."""
        return await self._governor.call("chat", self._purpose, lambda: self._inner.complete(prompt, max_tokens))


class GovernedModerator:
    """A Moderator whose requests go through a governor."""

    def __init__(self, inner: Moderator, governor: Governor, purpose: Purpose = "ask") -> None:
        """`purpose` chooses the lane."""
        self._inner, self._governor, self._purpose = inner, governor, purpose

    @property
    def model(self) -> str:
        """Name of the model, as configured."""
        return self._inner.model

    async def check(self, texts: Sequence[str]) -> Moderated:
        """Judge each text; one verdict per text, in order."""
        return await self._governor.call("moderation", self._purpose, lambda: self._inner.check(texts))
