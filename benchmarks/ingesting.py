"""The ingest as a whole process, against the OpenAI stand-in at 0 ms: documents, unchanged files, start-up.

`python -m benchmarks.ingesting` prints wall and CPU seconds of each process, best of REPEATS, beside its limit and a
peer in the same run. Limits: reading and tokenising the same files, looking at every file once, an interpreter with
numpy. Peer: `benchmarks.ingest_sketch`, which guarantees nothing. The stand-in's own CPU is in the wall times of both.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import corpus
from tests.e2e.processes import ROOT, environment
from tests.openai_fake import DEFAULT_KEY, spawned

REPEATS = 3
DOCUMENTS = (75, 300, 1200)
PLAIN = 300
"""Documents that are indexed once more as plain text: without headings they are cut into fewer chunks."""
GOALS = dict.fromkeys(((300, ".md"), (300, ".txt")), " (goal: 2 s, 6 requests)")
UNCHANGED = (1_000, 10_000, 30_000)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a process, and what it printed."""

    wall: float
    cpu: float
    printed: str = ""

    def beside(self, other: "Cost") -> str:
        """Return the row of a table: seconds, and how many times those of `other`."""
        ratios = f"{self.wall / other.wall:7.1f} x {self.cpu / other.cpu:7.1f} x"
        return f"{self.wall:8.2f} {self.cpu:8.2f}   {ratios}"


def main() -> None:
    """Print the tables."""
    print(f"best of {REPEATS}; seconds of wall and CPU of whole processes")
    with tempfile.TemporaryDirectory() as base, spawned() as base_url:
        given = {"OPENAI_API_KEY": DEFAULT_KEY, "OPENAI_BASE_URL": base_url, "RAGSVC_CHAT_DIALECT": "openai"}
        documents(Path(base), given)
        unchanged(Path(base), given)
        starting(Path(base))


def documents(base: Path, given: dict[str, str]) -> None:
    """Print the cost of a first index by the number of documents."""
    print("\nfirst index                      wall      cpu   beside reading and tokenising (wall, cpu)")
    for number, suffix in (*((each, ".md") for each in DOCUMENTS), (PLAIN, ".txt")):
        folder = base / f"documents-{number}{suffix}"
        written = [path.rename(path.with_suffix(suffix)) for path in corpus.write(folder, number)]
        size = sum(path.stat().st_size for path in written)
        limit = best([sys.executable, "-c", _TOKENISE, str(folder)], {})
        ours = best(ragsvc("index", str(folder), "--json"), given, data=base / "data")
        done = json.loads(ours.printed)
        database = base / "sketch.db"
        peer = best(
            [
                sys.executable,
                "-m",
                "benchmarks.ingest_sketch",
                str(folder),
                str(database),
                given["OPENAI_BASE_URL"],
                DEFAULT_KEY,
            ],
            {},
            before=lambda database=database: database.unlink(missing_ok=True),  # type: ignore[misc]
        )
        sketched = json.loads(peer.printed)
        chunks = f"{done['plan']['chunks']:,} chunks"
        print(f"{number:,} {suffix} documents, {size / 1e6:.1f} MB, {chunks}{GOALS.get((number, suffix), '')}")
        print(f"  ragsvc index               {ours.beside(limit)}   {done['requests']} requests")
        print(f"    of it applying           {done['seconds']:8.2f}")
        print(f"  bare sketch                {peer.beside(limit)}   {sketched['requests']} requests")
        print(f"  reading and tokenising     {limit.beside(limit)}")


def unchanged(base: Path, given: dict[str, str]) -> None:
    """Print the cost of an index that finds nothing to do, by the number of files."""
    print("\nindex with nothing changed       wall      cpu   beside looking at every file (wall, cpu)")
    for number in UNCHANGED:
        folder, data = base / f"unchanged-{number}", base / f"unchanged-data-{number}"
        for n in range(number):
            path = folder / f"part-{n // 200}" / f"note-{n}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# Note {n % 100}\n\nThis note tells of subject {n % 100}.\n", encoding="utf-8")
            os.utime(path, (1_600_000_000, 1_600_000_000))
        run(ragsvc("index", str(folder), "--json"), given, data)
        limit = best([sys.executable, "-c", _LOOK, str(folder)], {})
        ours = best(ragsvc("index", str(folder), "--json"), given, data=data, keep=True)
        done = json.loads(ours.printed)
        assert (done["plan"]["unchanged"], done["requests"]) == (number, 0), done
        print(f"  {number:>6,} files               {ours.beside(limit)}{'   goal: 2 s' if number == 10_000 else ''}")
        shutil.rmtree(folder)
        shutil.rmtree(data)


def starting(base: Path) -> None:
    """Print the cost of commands on a small local collection."""
    print("\nstart-up                         wall      cpu   beside an interpreter with numpy (wall, cpu)")
    folder, data = base / "small", base / "small-data"
    corpus.write(folder, 3)
    local = {"RAGSVC_PROVIDER": "local"}
    run(ragsvc("index", str(folder), "--json"), local, data)
    limit = best([sys.executable, "-c", "import numpy"], {})
    rows: dict[str, Sequence[str]] = {
        "ragsvc --version": ("--version",),
        "ragsvc status": ("status", "--json"),
        "ragsvc search, lexical": ("search", "query parameter", "--mode", "lexical"),
        "ragsvc search, hybrid, local": ("search", "query parameter"),
        "ragsvc index, nothing changed": ("index", str(folder), "--json"),
    }
    for name, arguments in rows.items():
        print(f"  {name:30}{best(ragsvc(*arguments), local, data=data, keep=True).beside(limit)}")


def ragsvc(*arguments: str) -> list[str]:
    """Return the command."""
    return [sys.executable, "-m", "ragsvc", *arguments]


def best(
    command: Sequence[str],
    settings: dict[str, str],
    *,
    data: Path = ROOT / "nowhere",
    keep: bool = False,
    before: Callable[[], Any] = lambda: None,
) -> Cost:
    """Run a command a few times, with a new data directory each time unless `keep`; return the least of each."""
    costs = []
    for _ in range(REPEATS):
        before()
        costs.append(run(command, settings, data))
        if not keep:
            shutil.rmtree(data, ignore_errors=True)
    return Cost(min(cost.wall for cost in costs), min(cost.cpu for cost in costs), costs[-1].printed)


def run(command: Sequence[str], settings: dict[str, str], data: Path) -> Cost:
    """Run a command to its end. Raises CalledProcessError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(data, PYTHONPATH=str(ROOT), **settings),
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout)


_TOKENISE = """
import pathlib, sys
from ingest import tokens
encode = tokens.encoding().encode_ordinary
print(sum(len(encode(path.read_text("utf-8"))) for path in pathlib.Path(sys.argv[1]).rglob("*.*")))
"""
_LOOK = """
import os, sys
print(sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(sys.argv[1]) for name in names))
"""

if __name__ == "__main__":
    main()
