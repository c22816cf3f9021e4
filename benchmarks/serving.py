"""What `/search` and `/ask` cost, each beside its limits in the same run. Linux.

`python -m benchmarks.serving [--seconds S] [--documents N ...]` indexes the documents of `benchmarks.corpus` with the
stand-in for OpenAI (0 ms, a process of its own), serves them, and loads the server from a third process: one client,
then 32. The limits are an empty route of the same server, the SDK's own calls, and a bare sketch of the service
(`benchmarks.sketch`). Each load ends by itself. All processes share the machine's cores; the figure that does not
depend on that is the server's CPU for one request, which a busy neighbour on the same core still raises. Further
numbers of documents give the curve of a search's cost.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import openai

from benchmarks import corpus, processes
from benchmarks.load import Load, load
from benchmarks.processes import Spawned
from tests.e2e.processes import Ragsvc
from tests.openai_fake import DEFAULT_KEY

CLIENTS = 32
WARM_SECONDS = 0.5
SDK_CALLS = 200
SEARCHES = [{"query": question} for question in corpus.QUESTIONS]
WORDS = [{"query": question, "mode": "lexical"} for question in corpus.QUESTIONS]
QUESTIONS = [{"question": question} for question in corpus.QUESTIONS]


@dataclass(frozen=True, slots=True)
class Measured:
    """A load, and what one request of it cost the server and the stand-in, in ms of CPU."""

    load: Load
    server: float
    upstream: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--documents", type=int, nargs="+", default=[corpus.DOCUMENTS])
    given = parser.parse_args()
    with processes.module("tests.openai_fake", "--port", "0") as fake:
        limits = asyncio.run(_sdk(fake.url))
        for number, documents in enumerate(given.documents):
            with tempfile.TemporaryDirectory() as folder:
                _serve(Path(folder), documents, fake, given.seconds, None if number else limits)


def _serve(
    folder: Path, documents: int, fake: Spawned, seconds: float, limits: dict[str, tuple[float, float]] | None
) -> None:
    """Print the table of so many documents: the whole with `limits`, else the searches alone."""
    corpus.write(folder / "documents", documents)
    settings = {"OPENAI_API_KEY": DEFAULT_KEY, "OPENAI_BASE_URL": fake.url, "RAGSVC_CHAT_DIALECT": "openai"}
    ragsvc = Ragsvc(folder / "data", settings)
    done = ragsvc.index(folder / "documents")
    print(f"\n{documents:,} documents, {done['plan']['chunks']:,} chunks, {seconds:g} s a load")
    print(f"  {'':26} 1 client, ms    {CLIENTS} clients   CPU of one request, ms (1 | {CLIENTS} clients)")
    print(f"  {'':26}   p50     p99    requests/s   server          stand-in")
    with ragsvc.serve() as server:
        ours = Spawned(server.url, server.process.pid)
        begun = processes.memory(ours.pid)
        if limits is None:
            _row("/search lexical", ours, "/search", WORDS, fake, seconds)
            _row("/search hybrid", ours, "/search", SEARCHES, fake, seconds)
        else:
            _whole(folder / "documents", ours, fake, seconds, limits)
        _memory("ragsvc, started", begun)
        _memory("ragsvc, after the loads", processes.memory(ours.pid))


def _whole(
    documents: Path, ours: Spawned, fake: Spawned, seconds: float, limits: dict[str, tuple[float, float]]
) -> None:
    with processes.module("benchmarks.sketch", str(documents), fake.url, DEFAULT_KEY) as sketch:
        _row("bare route (/healthz)", ours, "/healthz", [], fake, seconds)
        _row("/search lexical", ours, "/search", WORDS, fake, seconds)
        hybrid = _row("/search hybrid", ours, "/search", SEARCHES, fake, seconds)
        _row("sketch: /search", sketch, "/search", SEARCHES, fake, seconds)
        answered = _row("/ask, both moderations", ours, "/ask", QUESTIONS, fake, seconds)
        _row("sketch: /ask", sketch, "/ask", QUESTIONS, fake, seconds)
        _memory("sketch, after the loads", processes.memory(sketch.pid))
    print("  the SDK's own calls, one after another, ms:  wall p50   CPU")
    for name, (wall, used) in limits.items():
        print(f"    {name:42} {wall:8.2f} {used:6.2f}")
    embedding, every = limits["embedding"], [sum(each) for each in zip(*limits.values(), strict=True)]
    print(f"    /search hybrid beside its one call: {_beside(hybrid, embedding)}")
    print(f"    /ask beside its {len(limits)} calls: {_beside(answered, every)}")


def _beside(measured: tuple[Measured, Measured], limit: object) -> str:
    wall, used = limit  # type: ignore[misc]
    alone, _ = measured
    return f"p50 {alone.load.p50 * 1000 / wall:.1f} x, CPU {alone.server / used:.1f} x"


def _row(
    name: str, server: Spawned, path: str, bodies: list[dict[str, str]], fake: Spawned, seconds: float
) -> tuple[Measured, Measured]:
    one, many = (_measured(server, path, bodies, fake, clients, seconds) for clients in (1, CLIENTS))
    print(
        f"  {name:26}{one.load.p50 * 1000:6.2f}  {one.load.p99 * 1000:6.1f}    {many.load.rate:8.0f}     "
        f"{one.server:5.2f} | {many.server:5.2f}   {one.upstream:5.2f} | {many.upstream:5.2f}",
        flush=True,
    )
    return one, many


def _measured(
    server: Spawned, path: str, bodies: list[dict[str, str]], fake: Spawned, clients: int, seconds: float
) -> Measured:
    url = server.url + path
    load(url, bodies, clients=clients, seconds=WARM_SECONDS)
    before = processes.cpu(server.pid), processes.cpu(fake.pid)
    found = load(url, bodies, clients=clients, seconds=seconds)
    after = processes.cpu(server.pid), processes.cpu(fake.pid)
    spent = [(late - early) * 1000 / found.requests for early, late in zip(before, after, strict=True)]
    return Measured(found, *spent)


def _memory(name: str, found: dict[str, float]) -> None:
    figures = ", ".join(f"{kind} {size:.0f}" for kind, size in found.items())
    print(f"  memory in MB, {name}: {figures}")


async def _sdk(base_url: str) -> dict[str, tuple[float, float]]:
    """Return the wall time (median) and CPU, in ms, of the upstream calls that one ask needs, by the SDK alone."""
    client = openai.AsyncOpenAI(api_key=DEFAULT_KEY, base_url=base_url, max_retries=0)
    passage = "One passage of some two thousand characters, as eight of them are sent with a question. " * 23
    message = [{"role": "user", "content": "\n\n".join([passage] * 8) + f"\n\nQuestion: {corpus.QUESTIONS[0]}"}]
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "embedding": lambda: client.embeddings.create(model="text-embedding-3-small", input=corpus.QUESTIONS[0]),
        "moderation of the question": lambda: client.moderations.create(input=[corpus.QUESTIONS[0]]),
        "chat": lambda: client.chat.completions.create(model="gpt-6-luna", messages=message),  # type: ignore[arg-type]
        "moderation of the answer": lambda: client.moderations.create(input=list(corpus.QUESTIONS[:2])),
    }
    found = {}
    for name, call in calls.items():
        await call()
        taken, used = [], time.process_time()
        for _ in range(SDK_CALLS):
            began = time.perf_counter()
            await call()
            taken.append((time.perf_counter() - began) * 1000)
        found[name] = statistics.median(taken), (time.process_time() - used) * 1000 / SDK_CALLS
    await client.close()
    return found


if __name__ == "__main__":
    main()
