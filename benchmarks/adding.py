"""What a durable addition costs: one document of 100 chunks, with vectors, text and words, until a search finds it.

Beside it in the same run, the physical limit: two small appends to a file, each followed by fsync, since an addition is
two transactions (vectors on arrival, then the document). Vectors are drawn from the mixture of `benchmarks.vectors`.
The CPU time is that of the adding thread: it tells more than the clock where the machine has other work.
`python -m benchmarks.adding [--sizes N ...] [--words N ...]`.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.vectors import DIMENSIONS, Factors
from indexes.collection import Collection
from indexes.types import ChangeSet, Chunk, ChunkSpec, DocumentUpsert, EmbeddingSpec, FileStat, IndexSpec, text_hash

CHUNKS = 100
WORDS = 20_000
"""Size of the vocabulary that texts are drawn from, by Zipf's law."""


class Maker:
    """Makes documents that were never seen, as an ingest run hands them over."""

    def __init__(self, rows: int, words: int) -> None:
        self._drawn = np.random.default_rng(1)
        self._words = words
        self._mixture = Factors(rows)
        self._made = 0

    def document(self) -> tuple[DocumentUpsert, np.ndarray]:
        """Return a document of 100 chunks and their vectors (100, DIMENSIONS)."""
        self._made += 1
        ranks = np.minimum(self._drawn.zipf(1.3, (CHUNKS, self._words)), WORDS)
        pieces = [" ".join(f"w{rank}" for rank in row) + f" {self._made}.\n" for row in ranks.tolist()]
        ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        chunks = tuple(
            Chunk(n, end - len(piece), end, self._words, (), None, text_hash(piece), text_hash(f"t\n{piece}"))
            for n, (piece, end) in enumerate(zip(pieces, ends, strict=True))
        )
        text = "".join(pieces)
        document = DocumentUpsert(
            path=f"document-{self._made}",
            replaces=None,
            content_hash=text_hash(text),
            stat=FileStat(len(text), self._made, self._made, self._made),
            content_type="text/plain",
            title="",
            text=text,
            metadata={},
            reader="benchmark",
            chunks=chunks,
        )
        return document, self._mixture.draw(CHUNKS, self._drawn)


def add(collection: Collection, source_id: int, document: DocumentUpsert, vectors: np.ndarray) -> None:
    """What an ingest run does for one new document."""
    collection.add_vectors(collection.spec.embedding, [chunk.embedded_hash for chunk in document.chunks], vectors)
    report = collection.apply(ChangeSet(source_id, upserts=(document,)))
    assert not report.conflicts


def fsyncs(folder: Path, times: int) -> list[float]:
    """Return the seconds that two appends of 300 KB, each made durable, take."""
    seconds = []
    with (folder / "appended").open("ab", buffering=0) as file:
        for _ in range(times):
            started = time.perf_counter()
            for _ in range(2):
                file.write(bytes(300_000))
                os.fsync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return seconds


def measure(folder: Path, words: int, sizes: list[int], times: int) -> None:
    """Print a row for each size of the collection."""
    spec = IndexSpec(EmbeddingSpec("benchmark", DIMENSIONS), ChunkSpec())
    maker = Maker(max(sizes), words)
    with Collection.create(folder / "collection", "bench1", spec) as collection:
        source = collection.add_source("/benchmark", "folder").id
        for size in sizes:
            while collection.status().chunks < size:
                add(collection, source, *maker.document())
                collection.fold_if_due()
            collection.settle()
            added, found, busy = [], [], []
            for _ in range(times):
                document, vectors = maker.document()
                started, began = time.perf_counter(), time.thread_time()
                add(collection, source, document, vectors)
                added.append(time.perf_counter() - started)
                busy.append(time.thread_time() - began)
                (hit,) = collection.search("", vectors[7], 1, "dense").hits
                found.append(time.perf_counter() - started)
                assert hit.path == document.path
            limit = fsyncs(folder, times)
            p50, p90, cpu = statistics.median(added), statistics.quantiles(added, n=10)[-1], statistics.median(busy)
            print(
                f"{size:>8,} chunks, {words:>3} words each: added p50 {1e3 * p50:5.1f} ms, p90 {1e3 * p90:5.1f}, "
                f"CPU {1e3 * cpu:5.1f}; found {1e3 * statistics.median(found):6.1f} ms; "
                f"two fsyncs {1e3 * statistics.median(limit):5.1f} ms ({p50 / statistics.median(limit):.1f} x)"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, nargs="+", default=[20, 350])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--times", type=int, default=60)
    given = parser.parse_args()
    print(f"a durable addition of {CHUNKS} chunks at {DIMENSIONS} dimensions")
    for words in given.words:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), words, given.sizes, given.times)


if __name__ == "__main__":
    main()
