"""Waiting ends with the work's result, its error, the deadline or the client's leaving; the work has then ended."""

import asyncio

import pytest

from ragsvc.api.errors import ClientLeft
from ragsvc.api.waiting import while_there
from ragsvc.errors import UpstreamTimeout


class Client:
    """A client that stays until it is told to leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}


class Work:
    """Work that lasts, and takes a while to clean up."""

    ended = False

    async def __call__(self, seconds=60.0, result="done"):
        try:
            await asyncio.sleep(seconds)
            if isinstance(result, Exception):
                raise result
            return result
        finally:
            await asyncio.sleep(0.01)
            self.ended = True


def leaves_nothing(coroutine):
    """Run to the end and see that no task is left over."""

    async def checked():
        try:
            return await coroutine
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(checked())


def test_the_result_is_returned():
    """Work that ends in time is returned."""
    assert leaves_nothing(_wait(Work(), seconds=0.01)) == "done"


def test_the_works_error_is_raised():
    """Work that fails raises its own error."""
    with pytest.raises(KeyError):
        leaves_nothing(_wait(Work(), seconds=0.01, result=KeyError()))


def test_the_deadline_ends_the_work():
    """At the deadline the work is cancelled, its clean-up waited for."""
    work = Work()
    with pytest.raises(UpstreamTimeout):
        leaves_nothing(_wait(work, deadline=0.05))
    assert work.ended


def test_leaving_ends_the_work():
    """When the client leaves, the work is cancelled, its clean-up waited for."""
    work = Work()

    async def leave():
        client = Client()
        asyncio.get_running_loop().call_later(0.02, client.left.set)
        await while_there(work(), client.receive, seconds=60)

    with pytest.raises(ClientLeft):
        leaves_nothing(leave())
    assert work.ended


def test_cancelling_the_wait_ends_the_work():
    """A server that stops takes the work with it."""
    work = Work()

    async def stop():
        waiting = asyncio.create_task(_wait(work))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    leaves_nothing(stop())
    assert work.ended


def test_a_failing_heartbeat_ends_the_work():
    """A heartbeat that can't be sent is the end of the wait."""
    work = Work()

    async def beat():
        raise ConnectionError

    with pytest.raises(ConnectionError):
        leaves_nothing(_wait(work, beat=beat, every=0.01))
    assert work.ended


async def _wait(work, *, deadline=60.0, beat=None, every=15.0, **how):
    return await while_there(work(**how), Client().receive, seconds=deadline, beat=beat, every=every)
