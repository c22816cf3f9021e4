"""Work in a process of its own that is killed at its nth fail point, at its nth SQL statement, or when a test says.

The processes are forked from one that has nothing but imports behind it: a fork of the tests' own would take over locks
that their other threads hold.
"""

import atexit
import contextlib
import importlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path

from indexes import failpoints

_ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL


def killed_at_point(number: int, prefix: str, reached: list[str], work: str, *arguments: str) -> bool:
    """Kill `work` (`module:function`) at the nth fail point whose name begins so; say whether it came to it.

    `reached` is given the name of that point.
    """
    start(work, *arguments, point=number, prefix=prefix)
    code, name = ended()
    reached += [name] if name else []
    return _was_killed(code)


def killed_at_statement(number: int, work: str, *arguments: str) -> bool:
    """Kill `work` before its nth SQL statement; say whether it came to it."""
    start(work, *arguments, statement=number)
    return _was_killed(ended()[0])


def run_without_room(most_bytes: int, work: str, *arguments: str) -> None:
    """Run `work` where no file can grow beyond so many bytes; it must end in order."""
    start(work, *arguments, most_bytes=most_bytes)
    assert ended()[0] == 0


def start(work: str, *arguments: str, **limits: object) -> int:
    """Start `work`, one at a time, and return its process id; `ended` is to follow."""
    server = _server()
    server.stdin.write(f"{json.dumps({'work': work, 'arguments': arguments, **limits})}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def ended() -> tuple[int, str]:
    """Wait for the work that was started; return its exit code and the point that it was killed at."""
    code, name = json.loads(_server().stdout.readline())
    return code, name


def kill(process: int) -> None:
    """End work that was started and goes on."""
    os.kill(process, signal.SIGKILL)
    assert ended()[0] == KILLED, "the work had ended by itself"


def _was_killed(code: int) -> bool:
    assert code in (0, KILLED), "the work failed by itself; its error is on stderr"
    return code != 0


@cache
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.killing"],
        cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def end() -> None:
        server.stdin.close()
        server.wait()
        server.stdout.close()

    atexit.register(end)
    return server


def serve() -> None:
    """Fork a process for each line, and say its id, then how it ended."""
    for line in sys.stdin:
        order = json.loads(line)
        module, _, function = order.pop("work").partition(":")
        work = getattr(importlib.import_module(module), function)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            _work(order, work, writing)
        os.close(writing)
        _say(str(child))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        name = os.read(reading, 200).decode()
        os.close(reading)
        _say(json.dumps([code, name]))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _work(order: dict[str, object], work: object, writing: int) -> None:
    try:
        if order.get("point"):
            _die_at_point(order["point"], order["prefix"], writing)
        if order.get("statement"):
            _die_at_statement(order["statement"])
        if order.get("most_bytes"):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["most_bytes"],) * 2)
        work(*order["arguments"])
    except BaseException:  # noqa: BLE001 - the exit code tells of it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _die_at_point(number: int, prefix: str, writing: int) -> None:
    left = [number]

    def hook(name: str) -> None:
        left[0] -= name.startswith(prefix)
        if not left[0]:
            os.write(writing, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.install(hook)


def _die_at_statement(number: int) -> None:
    left, connect = [number], sqlite3.connect

    def count(_: str) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*arguments: object, **named: object) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.set_trace_callback(count)
        return connection

    sqlite3.connect = traced


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve()
