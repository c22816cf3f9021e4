"""A load generator, as a process of its own: one request after another on each of some connections.

`python -m benchmarks.load URL --clients 32 --seconds 5 < BODIES` sends the bodies (one JSON text a line, in turn, each
client beginning with another one) by POST, or GETs when there are none, and prints one JSON object. It ends after
`--seconds`, and at the first answer that is not 200. HTTP is spoken here, so that it costs a fraction of what it
measures: give it `/healthz` to see its own ceiling.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

ROOT = Path(__file__).resolve().parent.parent
_LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load; times in seconds, `cpu` is the generator's own."""

    requests: int
    seconds: float
    p50: float
    p99: float
    cpu: float
    bytes: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def load(url: str, bodies: Sequence[object] = (), *, clients: int = 1, seconds: float = 3.0) -> Load:
    """Run a load in a process of its own and return what came of it. Raises CalledProcessError where one failed."""
    command = [sys.executable, "-m", "benchmarks.load", url, "--clients", str(clients), "--seconds", str(seconds)]
    lines = "\n".join(map(json.dumps, bodies))
    done = subprocess.run(command, cwd=ROOT, input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load on {url} failed: {done.stderr}")
    return Load(**json.loads(done.stdout))


class _Client(asyncio.Protocol):
    """One connection: sends a request, waits for its answer, sends the next until the time is over."""

    def __init__(self, requests: Sequence[bytes], first: int, ends: float) -> None:
        self._requests, self._next, self._ends = requests, first, ends
        self._got = bytearray()
        self._needed = 0
        self.taken: list[float] = []
        self.bytes = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, which is no subclass
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._needed:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                self._fail(f"{head[:100]!r} {bytes(self._got[end:])[:400]!r}")
                return
            length = head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]
            self._needed = end + 4 + int(length)
        if len(self._got) < self._needed:
            return
        now = time.perf_counter()
        self.taken.append(now - self._sent)
        self.bytes += self._needed
        self._got.clear()
        self._needed = 0
        if now < self._ends:
            self._send()
        else:
            self._transport.close()

    def _fail(self, message: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(message))
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            unanswered = bool(self._got) or time.perf_counter() < self._ends
            self.done.set_exception(error or RuntimeError("cut off")) if unanswered else self.done.set_result(None)


async def _run(url: str, bodies: Sequence[str], clients: int, seconds: float) -> Load:
    parts = urlsplit(url)
    began = time.perf_counter()
    requests = [_request(parts.netloc, parts.path, body) for body in bodies or [""]]
    ends = began + seconds
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda n=n: _Client(requests, n, ends), parts.hostname, parts.port)  # type: ignore[misc]
        for n in range(clients)
    ]
    async with asyncio.timeout(seconds + _LONGEST_WAIT):
        await asyncio.gather(*(client.done for _, client in made))
    took = time.perf_counter() - began
    taken = sorted(each for _, client in made for each in client.taken)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    p99 = taken[min(len(taken) - 1, int(len(taken) * 0.99))]
    sent = sum(client.bytes for _, client in made)
    return Load(len(taken), took, statistics.median(taken), p99, usage.ru_utime + usage.ru_stime, sent)


def _request(host: str, path: str, body: str) -> bytes:
    if not body:
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    data = body.encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def main() -> None:
    """Read the bodies, run, print."""
    parser = argparse.ArgumentParser(description="A load generator; prints one JSON object")
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    bodies = [line for line in sys.stdin.read().splitlines() if line]
    found = uvloop.run(_run(given.url, bodies, given.clients, given.seconds))
    print(json.dumps({name: getattr(found, name) for name in Load.__dataclass_fields__}))


if __name__ == "__main__":
    main()
