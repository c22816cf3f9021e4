"""The lexical leg by the size of a collection and the length of a query.

`python -m benchmarks.lexical [--chunks 10000 100000 1000000] [--folder FOLDER]` prints milliseconds of
`Collection.search` in the mode `lexical`, k = 10, by wall clock and by the CPU time of the thread that searches (which
other processes disturb less), and how many of the ten first passages are those of a search for all words, without
pruning: first by FTS5, then, where the extra `tantivy` is installed, by the index of words, which is built for it. Each
query is asked for the first time, but words that were counted for an earlier one are remembered. A folder keeps the
collection for the next run. Queries are words drawn by their frequency from all but the 30 most frequent ones: those
stand for the stop words, which a query drops.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import large_store
from indexes import pruning, word_index
from indexes.collection import Collection

QUERIES = 40
COMPARED = 10
"""Queries that are asked without pruning as well."""
LENGTHS = (1, 2, 4, 8, 16)
STOP_WORDS = 30
GOAL = "goal at a million: p50 100 ms with FTS5, 10 ms with tantivy"


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for chunks in sorted(asked.chunks):
            path = folder / "collection"
            collection, source = large_store.open_store(path)
            with collection:
                began = time.perf_counter()
                large_store.grow(collection, source, chunks)
                print(f"\n{chunks:,} chunks, written in {time.perf_counter() - began:.0f} s; ms; {GOAL}")
                table(collection)
            if word_index.is_installed():
                with_index(path)


def with_index(folder: Path) -> None:
    """Build the index of words, and print the table of the searches that use it."""
    began, spent = time.perf_counter(), time.process_time()
    with Collection.open(folder, word_rows=1) as collection:
        collection.fold_if_due()
        taken, cpu = time.perf_counter() - began, time.process_time() - spent
        began = time.perf_counter()
        collection.settle(600)
        loaded = time.perf_counter() - began
        size = sum(path.stat().st_size for path in (folder / "words").rglob("*") if path.is_file())
        print(f"tantivy: {size / 1e6:,.0f} MB, built in {taken:.0f} s ({cpu:.0f} s of CPU), loaded in {loaded:.1f} s")
        table(collection)


def table(collection: Collection) -> None:
    """Print the costs by the number of words."""
    print("  words   wall p50     p99    CPU p50     p99    all words: CPU p50     p99   of its first ten")
    collection.search("x", None, 1, "lexical")
    for length in LENGTHS:
        rng = np.random.default_rng(length)
        queries = [
            " ".join(large_store.word(rank) for rank in large_store.ranks(rng, length, STOP_WORDS).tolist())
            for _ in range(QUERIES)
        ]
        wall, cpu, found = measured(collection, queries)
        with everything(collection):
            _, whole, expected = measured(collection, queries[:COMPARED])
        shared = [len(one & other) / max(1, len(other)) for one, other in zip(found, expected, strict=False)]
        print(f"  {length:5}  {row(wall)} {row(cpu)}          {row(whole)}   {np.mean(shared):15.0%}")


def measured(collection: Collection, queries: list[str]) -> tuple[list[float], list[float], list[set[str]]]:
    """Return milliseconds by the wall and of the CPU, and the first ten passages, of each query."""
    wall, cpu, found = [], [], []
    for query in queries:
        began, spent = time.perf_counter(), time.thread_time()
        hits = collection.search(query, None, 10, "lexical").hits
        cpu.append(1e3 * (time.thread_time() - spent))
        wall.append(1e3 * (time.perf_counter() - began))
        found.append({f"{hit.document_id}{hit.start}" for hit in hits})
    return wall, cpu, found


def row(taken: list[float]) -> str:
    """Return median and 99th percentile."""
    return f"{np.median(taken):9.1f}{np.percentile(taken, 99):8.1f}"


@contextmanager
def everything(collection: Collection) -> Iterator[None]:
    """Search tables of any size for all words, by FTS5."""
    known, pruning.LARGE = pruning.LARGE, 1 << 60  # type: ignore[misc]
    words = collection._current_words  # noqa: SLF001
    serving, words.serving = words.serving, lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        pruning.LARGE, words.serving = known, serving  # type: ignore[misc, method-assign]


if __name__ == "__main__":
    main()
