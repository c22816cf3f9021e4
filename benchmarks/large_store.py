"""A collection of any number of chunks, written through the real tables: made words, Zipf's law, narrow vectors.

Words follow `1 / (rank + 2.7)` over a vocabulary of 200,000 (Mandelbrot's form of Zipf's law), so the most frequent
one stands in four of five chunks and half of the vocabulary in fewer than one of 10,000. Chunks are short, 60 words,
so that a million of them are written within minutes; a chunk of 512 tokens has five times as many words, of which half
are repeats. Vectors have 8 dimensions: nothing here depends on their width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexes.collection import Collection
from indexes.types import (
    ChangeSet,
    Chunk,
    ChunkSpec,
    DocumentUpsert,
    EmbeddingSpec,
    FileStat,
    IndexSpec,
    Source,
    text_hash,
)

VOCABULARY = 200_000
WORDS_A_CHUNK = 60
CHUNKS_A_DOCUMENT = 10
DOCUMENTS_A_CHANGE = 500
SPEC = IndexSpec(EmbeddingSpec("made", 8), ChunkSpec(128, 0))
NO_INDEX = 1 << 60
"""Words are searched by FTS5 alone, unless a benchmark opens the collection otherwise."""
FOLDERS = 100
"""Folders that the documents lie in, one after the other: a prefix of one lets 1 % pass."""

_SYLLABLES = [first + second for first in "bdfghklmnprstvwz" for second in "aeiou"]
_WEIGHTS = 1 / (np.arange(VOCABULARY) + 2.7)
_CUMULATED = np.cumsum(_WEIGHTS) / _WEIGHTS.sum()


def word(rank: int) -> str:
    """Return the word of a rank, 0 the most frequent: the more frequent, the shorter."""
    made, number = "", rank + len(_SYLLABLES)
    while number:
        number, digit = divmod(number, len(_SYLLABLES))
        made += _SYLLABLES[digit]
    return made


_WORDS = np.array([word(rank) for rank in range(VOCABULARY)], dtype=object)


def ranks(rng: np.random.Generator, count: int, rarest: int = 0) -> npt.NDArray[np.int64]:
    """Draw words by their frequency, of those alone that are rarer than the `rarest` most frequent ones."""
    least = _CUMULATED[rarest - 1] if rarest else 0.0
    drawn = np.searchsorted(_CUMULATED, least + (1 - least) * rng.random(count))
    return np.minimum(drawn, VOCABULARY - 1)


def open_store(folder: Path) -> tuple[Collection, Source]:
    """Open the collection in `folder`, made if there is none, and its one source."""
    if not (folder / "store.db").exists():
        Collection.create(folder, "made00", SPEC).close()
    collection = Collection.open(folder, word_rows=NO_INDEX)
    return collection, collection.add_source("/made", "folder")


def grow(collection: Collection, source: Source, chunks: int) -> None:
    """Write documents until the collection has `chunks` chunks."""
    written = collection.status().documents
    wanted = chunks // CHUNKS_A_DOCUMENT
    while written < wanted:
        count = min(DOCUMENTS_A_CHANGE, wanted - written)
        upserts = tuple(documents(written, count))
        keys = [chunk.embedded_hash for one in upserts for chunk in one.chunks]
        rng = np.random.default_rng(written)
        vectors = rng.normal(size=(len(keys), SPEC.embedding.dimensions))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        collection.add_vectors(SPEC.embedding, keys, vectors.astype(np.float32))
        collection.apply(ChangeSet(source.id, upserts=upserts))
        written += count


def documents(first: int, count: int) -> Iterator[DocumentUpsert]:
    """Yield documents by their number, the same ones at every run."""
    rng = np.random.default_rng([1, first])
    drawn = _WORDS[ranks(rng, count * CHUNKS_A_DOCUMENT * WORDS_A_CHUNK)].reshape(count, CHUNKS_A_DOCUMENT, -1)
    for number, pieces in enumerate(drawn.tolist(), start=first):
        # The number makes each text another one, whatever was drawn.
        slices = [f"{' '.join(piece)} n{number}x{ordinal}\n" for ordinal, piece in enumerate(pieces)]
        yield DocumentUpsert(
            path=f"part-{number % FOLDERS:03d}/document-{number:07d}.md",
            replaces=None,
            content_hash=text_hash(slices[0]),
            stat=FileStat(size=1, mtime_ns=number * 10**12, inode=number, scanned_ns=0),
            content_type="text/markdown",
            title="",
            text="".join(slices),
            metadata={"year": 1990 + number % 40, "draft": number % 200 == 0, "team": f"team-{number % 20}"},
            reader="made-1",
            chunks=tuple(_chunks(slices)),
        )


def _chunks(slices: list[str]) -> Iterator[Chunk]:
    start = 0
    for ordinal, piece in enumerate(slices):
        end = start + len(piece)
        key = text_hash(piece)
        yield Chunk(ordinal, start, end, WORDS_A_CHUNK, (), None, key, key)
        start = end
