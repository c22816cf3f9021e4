"""The statements on stored texts that are cut or embedded again. Each function runs in its caller's transaction."""

from collections.abc import Sequence
from dataclasses import replace

from indexes import store_chunks, store_vectors
from indexes.store import Connection
from indexes.types import DocumentCut, StoredDocument

PAGE_DOCUMENTS = 64
PAGE_CHARACTERS = 4_000_000
"""A page of a listing ends with the document that reaches it: what is held at once stays small."""

SpecIds = tuple[int, int]
"""Ids of an EmbeddingSpec and a ChunkSpec; no row has the id of one that the store never saw."""

# A document is cut by a spec when its chunks are there, with the hashes of what is embedded for them: both come in one
# transaction, so that one chunk tells of all. An empty text has none.
_UNCUT = """v.state = 'live' AND v.characters > 0 AND NOT EXISTS (
    SELECT 1 FROM chunk c JOIN chunk_embedding e ON e.chunk_id = c.id AND e.embedding_spec_id = ?
    WHERE c.version_id = v.id AND c.chunk_spec_id = ?)"""

_UNEMBEDDED = """v.state = 'live' AND EXISTS (
    SELECT 1 FROM chunk c JOIN chunk_embedding e ON e.chunk_id = c.id AND e.embedding_spec_id = ?
    WHERE c.version_id = v.id AND c.chunk_spec_id = ? AND NOT EXISTS (
        SELECT 1 FROM vector_key r WHERE r.filed IN (0, 1)
        AND r.text_hash = e.embedded_hash AND r.embedding_spec_id = e.embedding_spec_id))"""

# In the order of the hashes, which is that of the keys of vectors, too: the walk stays on pages that lie side by side.
_ANY_UNEMBEDDED = """
    SELECT EXISTS (SELECT 1 FROM chunk_embedding e INDEXED BY chunk_by_embedded
        CROSS JOIN chunk c ON c.id = e.chunk_id AND c.chunk_spec_id = ?2
        CROSS JOIN document_version v ON v.id = c.version_id AND v.state = 'live'
        WHERE e.embedding_spec_id = ?1 AND NOT EXISTS (
            SELECT 1 FROM vector_key r WHERE r.filed IN (0, 1)
            AND r.text_hash = e.embedded_hash AND r.embedding_spec_id = e.embedding_spec_id)
        ORDER BY e.filed, e.embedded_hash)"""


def any_uncut(connection: Connection, spec_ids: SpecIds) -> bool:
    """Whether a visible document is not cut by a spec."""
    row = connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM document_version v WHERE {_UNCUT})",  # noqa: S608 - a constant
        spec_ids,
    ).fetchone()
    return bool(row[0])


def uncut(connection: Connection, spec_ids: SpecIds, after: int) -> tuple[StoredDocument, ...]:
    """Return visible documents that are not cut by a spec, a page of them, behind the key `after`.

    Their chunks are those under the ChunkSpec, where another EmbeddingSpec had the text cut by it before: they stay.
    """
    return _page(connection, _UNCUT, spec_ids, after)


def unembedded(connection: Connection, spec_ids: SpecIds, after: int) -> tuple[StoredDocument, ...]:
    """Return visible documents with chunks that have no vector, a page of them; their chunks are those."""
    if not connection.execute(_ANY_UNEMBEDDED, spec_ids).fetchone()[0]:
        return ()
    found = _page(connection, _UNEMBEDDED, spec_ids, after)
    known = _known(connection, spec_ids[0], found)
    return tuple(_without(document, known) for document in found)


def _page(connection: Connection, condition: str, spec_ids: SpecIds, after: int) -> tuple[StoredDocument, ...]:
    rows = connection.execute(
        f"""SELECT v.id, v.document_id, v.number, d.path, v.title, v.characters FROM document_version v
            JOIN document d ON d.id = v.document_id WHERE {condition} AND v.id > ? ORDER BY v.id LIMIT ?""",  # noqa: S608
        (*spec_ids, after, PAGE_DOCUMENTS),
    ).fetchall()
    found: list[StoredDocument] = []
    characters = 0
    for version_id, document_id, number, path, title, length in rows:
        if characters >= PAGE_CHARACTERS:
            break
        characters += length
        text, packed = connection.execute(
            "SELECT text, sections FROM version_text WHERE version_id = ?", (version_id,)
        ).fetchone()
        sections = store_chunks.sections(connection, version_id, packed)
        chunks = store_chunks.chunks(connection, version_id, spec_ids[1], spec_ids[0])
        found.append(StoredDocument(version_id, document_id, number, path, title, text, sections, chunks))
    return tuple(found)


def _known(connection: Connection, embedding_spec_id: int, documents: Sequence[StoredDocument]) -> frozenset[bytes]:
    hashes = [chunk.embedded_hash for document in documents for chunk in document.chunks]
    return store_vectors.known_vectors(connection, embedding_spec_id, hashes)


def _without(document: StoredDocument, known: frozenset[bytes]) -> StoredDocument:
    return replace(document, chunks=tuple(chunk for chunk in document.chunks if chunk.embedded_hash not in known))


def add_cut(connection: Connection, spec_ids: SpecIds, cut: DocumentCut) -> bool:
    """Store how a document is cut by a spec, unless its version changed or went meanwhile; say whether it did.

    Raises ValueError for other chunks than those that stand under the ChunkSpec already, and for none.
    """
    if not cut.chunks:
        raise ValueError(f"a text has a chunk at least: {cut.document_id}")
    row = connection.execute(
        """SELECT v.id, v.title, t.text FROM document_version v JOIN version_text t ON t.version_id = v.id
           WHERE v.document_id = ? AND v.number = ? AND v.state = 'live'""",
        (cut.document_id, cut.version),
    ).fetchone()
    if row is None:
        return False
    version_id, title, text = row
    embedding_spec_id, chunk_spec_id = spec_ids
    standing = connection.execute(
        'SELECT id, start, "end" FROM chunk WHERE version_id = ? AND chunk_spec_id = ? ORDER BY ordinal',
        (version_id, chunk_spec_id),
    ).fetchall()
    if not standing:
        store_chunks.insert(connection, version_id, (title, text), cut.chunks, spec_ids)
        return True
    if [(start, end) for _, start, end in standing] != [(chunk.start, chunk.end) for chunk in cut.chunks]:
        raise ValueError(f"version {cut.version} of {cut.document_id} stands cut otherwise by the same ChunkSpec")
    hashes = ((row[0], chunk.embedded_hash) for row, chunk in zip(standing, cut.chunks, strict=True))
    store_chunks.insert_embedded(connection, embedding_spec_id, hashes)
    return True
