"""The main job against the OpenAI stand-in at 0 ms, each figure beside its limit in the same run.

`python -m benchmarks.main_job [FOLDER]` indexes FOLDER (default: docs_tree_en where it is, else the project's docs),
then searches and asks over HTTP. Limits: reading and tokenising the same files; an empty route of the same server; the
SDK's own calls to the same stand-in, one after another.
"""

import asyncio
import http.client
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import openai

from ingest import tokens
from tests.e2e.processes import ROOT, Ragsvc
from tests.openai_fake import DEFAULT_KEY, spawned

QUESTIONS = ["How do I declare a query parameter?", "What is dependency injection?", "How are background tasks run?"]
ROUNDS = 200


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else _default()
    files = [path for path in folder.rglob("*") if path.is_file()]
    with tempfile.TemporaryDirectory() as data, spawned() as base_url:
        settings = {"OPENAI_API_KEY": DEFAULT_KEY, "OPENAI_BASE_URL": base_url, "RAGSVC_CHAT_DIALECT": "openai"}
        ragsvc = Ragsvc(Path(data), settings)
        began = time.perf_counter()
        done = ragsvc.index(folder)
        whole = time.perf_counter() - began
        bare, counted = _bare(files)
        again = _timed(lambda: ragsvc.index(folder), 1)
        print(f"{len(files)} files, {counted:,} tokens, {done['plan']['chunks']:,} chunks, {done['requests']} requests")
        print("index                      seconds   files/s   tokens/s   beside reading and tokenising")
        rows = {"applying (embed, store)": done["seconds"], "whole process": whole, "reading and tokenising": bare}
        for name, seconds in rows.items():
            rates = f"{seconds:8.2f} {len(files) / seconds:9.0f} {counted / seconds:10,.0f}"
            print(f"  {name:24} {rates} {seconds / bare:11.1f} x")
        print(f"  {'unchanged, again':24} {again:8.2f}")
        with ragsvc.serve() as server:
            _requests(server, base_url)
            print(f"server memory: {_rss(server.process.pid):.0f} MB resident, {_peak(server.process.pid):.0f} MB peak")
    print(f"benchmark's own peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def _requests(server: object, base_url: str) -> None:
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def send(method: str, path: str, body: object = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 200, reply.status

    rows = {
        "GET /healthz": lambda _: send("GET", "/healthz"),
        "POST /search lexical": lambda question: send("POST", "/search", {"query": question, "mode": "lexical"}),
        "POST /search hybrid": lambda question: send("POST", "/search", {"query": question}),
        "POST /ask": lambda question: send("POST", "/ask", {"question": question}),
    }
    bare = _sdk(base_url)
    print("one client, ms               p50      p99    beside the SDK's calls")
    for name, call in rows.items():
        for question in QUESTIONS:
            call(question)
        taken = [_timed(lambda call=call, n=n: call(QUESTIONS[n % len(QUESTIONS)]), 1) * 1000 for n in range(ROUNDS)]
        limit = {"POST /search hybrid": bare["embedding"], "POST /ask": sum(bare.values())}.get(name)
        ratio = "" if limit is None else f"{statistics.median(taken) / limit:8.1f} x of {limit:.1f}"
        print(f"  {name:22} {statistics.median(taken):8.1f} {sorted(taken)[int(ROUNDS * 0.99)]:8.1f}   {ratio}")
    connection.close()


def _sdk(base_url: str) -> dict[str, float]:
    """Medians, in ms, of the upstream calls that one ask needs, made by the SDK alone; moderation is called twice."""

    async def run() -> dict[str, float]:
        client = openai.AsyncOpenAI(api_key=DEFAULT_KEY, base_url=base_url, max_retries=0)
        message = [{"role": "user", "content": "[1] One passage.\n\nQuestion: which?"}]
        calls = {
            "embedding": lambda: client.embeddings.create(model="text-embedding-3-small", input=QUESTIONS[0]),
            "chat": lambda: client.chat.completions.create(model="gpt-6-luna", messages=message),
            "moderation of the question": lambda: client.moderations.create(input=QUESTIONS[0]),
            "moderation of the answer": lambda: client.moderations.create(input=QUESTIONS[:2]),
        }
        medians = {}
        for name, call in calls.items():
            taken = []
            for _ in range(100):
                began = time.perf_counter()
                await call()
                taken.append((time.perf_counter() - began) * 1000)
            medians[name] = statistics.median(taken)
        await client.close()
        return medians

    return asyncio.run(run())


def _bare(files: list[Path]) -> tuple[float, int]:
    tokens.encoding()
    began = time.perf_counter()
    counted = sum(tokens.count(path.read_text(encoding="utf-8", errors="replace")) for path in files)
    return time.perf_counter() - began, counted


def _timed(call: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def _rss(pid: int) -> float:
    return _status(pid, "VmRSS") / 1024


def _peak(pid: int) -> float:
    return _status(pid, "VmHWM") / 1024


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _default() -> Path:
    shared = ROOT.parent / "shared" / "data" / "docs_tree_en" / "files"
    return shared if shared.is_dir() else ROOT / "docs"


if __name__ == "__main__":
    main()
