"""Three IndexSpecs that cut and embed the same documents differently, made without a chunker or a model."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from indexes.collection import Collection
from indexes.types import (
    Chunk,
    ChunkSpec,
    DocumentCut,
    EmbeddingSpec,
    FloatMatrix,
    FloatVector,
    IndexSpec,
    SearchResult,
    StoredDocument,
    text_hash,
)
from tests.indexes.corpus import SPEC, chunks_of, vector_of

PAIRS = IndexSpec(SPEC.embedding, ChunkSpec(64, 0))
"""Two lines a chunk, embedded as by SPEC."""
OTHER = IndexSpec(EmbeddingSpec("other-model", 8), ChunkSpec(64, 0))
"""Two lines a chunk, embedded otherwise."""
LINES = IndexSpec(OTHER.embedding, SPEC.chunks)
"""Cut as by SPEC, embedded as by OTHER."""


def hash_under(spec: IndexSpec, title: str, piece: str) -> bytes:
    """Return the hash of what is embedded for a piece; a model has a text of its own."""
    own = "" if spec.embedding == SPEC.embedding else f"{spec.embedding.model}\n"
    return text_hash(f"{own}{title}\n{piece}")


def cut(document: StoredDocument, spec: IndexSpec) -> DocumentCut:
    """Cut a stored document by a spec; chunks that it has are prepared as they are."""
    chunks = document.chunks
    if not chunks:
        pattern = r"[^\n]*\n|[^\n]+$" if spec.chunks == SPEC.chunks else r"[^\n]*\n?[^\n]*\n|[^\n]+$"
        pieces = [(m.start(), m.end()) for m in re.finditer(pattern, document.text) if m.group()]
        like = chunks_of(document.text, document.title)[0]
        chunks = tuple(
            replace(like, ordinal=n, start=start, end=end, text_hash=text_hash(document.text[start:end]))
            for n, (start, end) in enumerate(pieces)
        )
    prepared = tuple(
        replace(c, embedded_hash=hash_under(spec, document.title, document.text[c.start : c.end])) for c in chunks
    )
    return DocumentCut(document.document_id, document.version, prepared)


def chunks_under(spec: IndexSpec, text: str) -> tuple[Chunk, ...]:
    """Return the chunks of a text that nothing has cut before."""
    return cut(StoredDocument(0, "", 0, "", "", text, (), ()), spec).chunks


def cut_all(collection: Collection, spec: IndexSpec, *, embed: bool = True) -> int:
    """Cut what is not cut by a spec, with vectors or without; return how many documents."""
    after = documents = 0
    while page := collection.generations.uncut(spec, after):
        cuts = [cut(document, spec) for document in page]
        if embed:
            keys = sorted({chunk.embedded_hash for one in cuts for chunk in one.chunks})
            collection.add_vectors(spec.embedding, keys, vectors_under(spec, keys))
        documents += collection.generations.add_cuts(spec, cuts)
        after = page[-1].key
    return documents


def vectors_under(spec: IndexSpec, keys: Sequence[bytes]) -> FloatMatrix:
    return np.stack([vector_of(key) for key in keys])


def query_under(spec: IndexSpec, piece: str, title: str = "") -> FloatVector:
    """The vector that a chunk of this text has."""
    return vector_of(hash_under(spec, title, piece))


def go_to(collection: Collection, spec: IndexSpec, *, embed: bool = True) -> int:
    """Publish a spec with all that it needs."""
    cut_all(collection, spec, embed=embed)
    number = collection.generations.publish(spec)
    assert number is not None
    collection.generations.drop_retired()
    return number


def answers(collection: Collection, *pieces: str) -> list[SearchResult]:
    """Return what searches of every mode find under the spec in service; all that a user sees of it."""
    spec = collection.spec
    return [
        collection.search(piece, query_under(spec, piece), 50, mode)
        for piece in pieces
        for mode in ("hybrid", "dense", "lexical")
    ]
