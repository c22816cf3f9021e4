"""Waits for work on behalf of a client: for a bounded time, in bounded numbers, and only while the client is there."""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from litestar.types import Receive

from ragsvc.api.errors import ClientLeft
from ragsvc.errors import Overloaded, UpstreamTimeout

T = TypeVar("T")
Beat = Callable[[], Awaitable[None]]


async def while_there(
    work: Coroutine[Any, Any, T], receive: Receive, *, seconds: float, beat: Beat | None = None, every: float = 15.0
) -> T:
    """Return what `work` returns, or raise what it raises; `beat` is called each `every` seconds until then.

    Raises ClientLeft when the client goes, UpstreamTimeout after `seconds`. The work is then cancelled, and has ended
    when this returns. The request's body must have been read: the next that `receive` tells is that the client left.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    task = loop.create_task(work)
    left = loop.create_task(_left(receive))
    try:
        while True:
            rest = max(deadline - loop.time(), 0.0)
            await asyncio.wait({task, left}, timeout=min(rest, every), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if left.done():
                raise ClientLeft("the client closed the connection")
            if rest <= every:
                raise UpstreamTimeout(f"no answer within {seconds:g} seconds", retry_after=1.0)
            if beat is not None:
                await beat()
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Places:
    """So many at once, and no queue."""

    def __init__(self, most: int) -> None:
        """For one event loop."""
        self._free = most

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place. Raises Overloaded."""
        if self._free <= 0:
            raise Overloaded("too many uploads at once; try again in a moment")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Readers:
    """Threads for reads that block (SQLite, files), so that the event loop never does.

    At most `threads` reads run and `most` are under way or waiting; one more is Overloaded, at once.
    """

    def __init__(self, threads: int, most: int, seconds: float) -> None:
        """`seconds`: how long a caller waits for its read, queue included."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ragsvc-read")
        self._places = threading.Semaphore(most)
        self._seconds = seconds

    async def run(self, read: Callable[[], T]) -> T:
        """Return what `read` returns, called in a thread with this context. Raises Overloaded."""
        if not self._places.acquire(blocking=False):
            raise Overloaded("too many reads at once; try again in a moment")
        try:
            future = self._pool.submit(contextvars.copy_context().run, read)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())  # when the thread is free, not when we stop waiting
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Overloaded(f"the read was not done within {self._seconds:g} seconds; try again") from None

    async def close(self) -> None:
        """Drop what waits; let what runs end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
