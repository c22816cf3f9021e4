"""A piece of work in a process of its own that is killed at its nth fail point, or at its nth SQL statement."""

import os
import signal
import sqlite3
from collections.abc import Callable

from indexes import failpoints


def killed_at_point(number: int, work: Callable[[], object], prefix: str, reached: list[str]) -> bool:
    """Run `work` in a child that is killed at the nth fail point whose name begins so; say whether it came to it.

    `reached` is given the name of that point.
    """
    reading, writing = os.pipe()

    def prepare() -> None:
        left = [number]

        def hook(name: str) -> None:
            left[0] -= name.startswith(prefix)
            if not left[0]:
                os.write(writing, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)

        failpoints.install(hook)

    try:
        killed = _killed(prepare, work)
        os.close(writing)
        name = os.read(reading, 200).decode()
    finally:
        os.close(reading)
    if name:
        reached.append(name)
    return killed


def killed_at_statement(number: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that is killed before its nth SQL statement; say whether it came to it."""

    def prepare() -> None:
        left, connect = [number], sqlite3.connect

        def kill(_: str) -> None:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        def traced(*arguments: object, **named: object) -> sqlite3.Connection:
            connection = connect(*arguments, **named)  # type: ignore[call-overload]
            connection.set_trace_callback(kill)
            return connection

        sqlite3.connect = traced  # type: ignore[assignment]

    return _killed(prepare, work)


def _killed(prepare: Callable[[], None], work: Callable[[], object]) -> bool:
    child = os.fork()
    if not child:
        code = 1
        try:
            prepare()
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), "the work failed by itself"
    return status != 0
