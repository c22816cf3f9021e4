"""Small documents with chunks and vectors, made without a chunker or a model."""

import re

import numpy as np

from indexes.collection import Collection
from indexes.types import (
    ChangeSet,
    Chunk,
    ChunkSpec,
    DocumentUpsert,
    EmbeddingSpec,
    FileStat,
    FloatMatrix,
    FloatVector,
    IndexSpec,
    Source,
    text_hash,
)

EMBEDDING = EmbeddingSpec("test-model", 8)
SPEC = IndexSpec(EMBEDDING, ChunkSpec(16, 0))
WORDS = ("apple", "bread", "cloud", "drum", "eagle", "frost", "grape", "house", "iron", "jungl")
"""Words that stem to themselves, so that a plain containment test is the oracle of a lexical search."""
STAT = FileStat(size=10, mtime_ns=1_700_000_000_000_000_000, inode=7, scanned_ns=1_700_000_001_000_000_000)


def vector_of(key: bytes) -> FloatVector:
    """A unit vector that depends on the key alone; the model of these tests."""
    drawn = np.random.default_rng(int.from_bytes(key[:8], "big")).normal(size=EMBEDDING.dimensions)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def vectors_of(keys: list[bytes]) -> FloatMatrix:
    return np.stack([vector_of(key) for key in keys]) if keys else np.empty((0, EMBEDDING.dimensions), np.float32)


def embedded_hash(title: str, piece: str) -> bytes:
    return text_hash(f"{title}\n{piece}")


def query_vector(piece: str, title: str = "") -> FloatVector:
    """The vector that a chunk with this text has."""
    return vector_of(embedded_hash(title, piece))


def stored(vector: FloatVector) -> FloatVector:
    """What the store gives back for a vector: rounded to float16, of unit length again."""
    rounded = vector.astype(np.float16).astype(np.float32)
    return rounded / np.linalg.norm(rounded)


def chunks_of(text: str, title: str = "") -> tuple[Chunk, ...]:
    """One chunk for each line, newline included."""
    pieces = [(match.start(), match.end()) for match in re.finditer(r"[^\n]*\n|[^\n]+$", text)]
    return tuple(
        Chunk(
            ordinal=ordinal,
            start=start,
            end=end,
            tokens=end - start,
            heading_path=("Top", "Näher 🙂"),
            page=ordinal + 1,
            text_hash=text_hash(text[start:end]),
            embedded_hash=embedded_hash(title, text[start:end]),
        )
        for ordinal, (start, end) in enumerate(pieces)
    )


def upsert(path: str, text: str, replaces: tuple[str, int] | None = None, **fields: object) -> DocumentUpsert:
    title = str(fields.get("title", ""))
    values = {
        "content_hash": text_hash(text),
        "stat": STAT,
        "content_type": "text/plain",
        "title": title,
        "metadata": {},
        "reader": "plain-1",
        **fields,
    }
    if "chunks" not in fields:
        values["chunks"] = chunks_of(text, title)
    return DocumentUpsert(path=path, replaces=replaces, text=text, **values)


def embed(collection: Collection, *upserts: DocumentUpsert) -> None:
    """Store the vectors of these documents' chunks."""
    keys = sorted({chunk.embedded_hash for one in upserts for chunk in one.chunks})
    collection.add_vectors(EMBEDDING, keys, vectors_of(keys))


def put(collection: Collection, source: Source, *upserts: DocumentUpsert) -> dict[str, str]:
    """Embed and apply; every document must go in."""
    embed(collection, *upserts)
    report = collection.apply(ChangeSet(source.id, upserts=upserts))
    assert report.conflicts == ()
    return dict(report.documents)
