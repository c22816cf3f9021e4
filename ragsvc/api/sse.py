"""An answer as server-sent events (contract: meta, text*, citations, done; or blocked; or error).

The form is that of the HTML standard, 9.2: `event:` and `data:` lines, a blank line; a line that begins with a colon is
a comment. JSON has no raw line ends, so one `data:` line carries it whole.
"""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send

from ragsvc.answering import events
from ragsvc.api.errors import ClientLeft
from ragsvc.api.problems import log_problem, problem_of, request_id_of
from ragsvc.api.schemas import Problem
from ragsvc.api.waiting import while_there
from ragsvc.types import (
    Answer,
    AnswerEvent,
    BlockedEvent,
    CitationsEvent,
    DoneEvent,
    MetaEvent,
    TextEvent,
)

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": still working\n\n"
_NAMES: dict[type[AnswerEvent], str] = {
    MetaEvent: "meta",
    TextEvent: "text",
    CitationsEvent: "citations",
    DoneEvent: "done",
    BlockedEvent: "blocked",
}


def encoded(events: Iterable[AnswerEvent]) -> bytes:
    """Return events as they go over the wire, in the order given."""
    return b"".join(
        _event(_NAMES[type(event)], event.citations if isinstance(event, CitationsEvent) else event) for event in events
    )


def encoded_problem(problem: Problem) -> bytes:
    """Return the event that ends a stream whose work failed after its first byte."""
    return _event("error", {"problem": problem})


def _event(name: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


class AnswerStream:
    """An ASGI response that waits for a whole, moderated answer and sends its events.

    Nothing is sent while the answer comes within one heartbeat: until then a failure is an ordinary problem with its
    own status. After the first heartbeat it is an `error` event.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Answer]], *, seconds: float, heartbeat: float) -> None:
        """`seconds` is the deadline of the work, `heartbeat` the time between two comments."""
        self._work = work
        self._seconds = seconds
        self._heartbeat = heartbeat
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the work is cancelled when the client leaves."""

        async def beat() -> None:
            await self._send(send, HEARTBEAT, more=True)

        try:
            answer = await while_there(self._work(), receive, seconds=self._seconds, beat=beat, every=self._heartbeat)
            tail = encoded(events(answer))
        except Exception as error:
            if not self._started:
                raise
            if isinstance(error, ClientLeft):
                return
            problem, _ = problem_of(error, request_id_of(scope))
            log_problem(error, problem)
            tail = encoded_problem(problem)
        await self._send(send, tail, more=False)

    async def _send(self, send: Send, body: bytes, *, more: bool) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", MEDIA_TYPE.encode()), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": more})
