"""Indexing against the OpenAI stand-in at 0 ms, each figure beside its limit in the same run.

`python -m benchmarks.main_job [FOLDER]` indexes FOLDER (default: docs_tree_en where it is, else the project's docs).
The limit is reading and tokenising the same files. What searching and asking cost is in `benchmarks.serving`.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ingest import tokens
from tests.e2e.processes import ROOT, Ragsvc
from tests.openai_fake import DEFAULT_KEY, spawned


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
    print(f"benchmark's own peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


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


def _default() -> Path:
    shared = ROOT.parent / "shared" / "data" / "docs_tree_en" / "files"
    return shared if shared.is_dir() else ROOT / "docs"


if __name__ == "__main__":
    main()
