"""The statements that look for what should not be in a store. Each function runs in its caller's transaction.

They only read: full text is checked by its own `integrity-check` only where the caller may write (SQLite 3.40 has no
other way in), else by comparing what the tables say with what the texts say.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from indexes import store_words
from indexes.store import Connection, in_memory
from indexes.types import text_hash

_MESSAGES = 20
_LENGTH_TOLERANCE = 2e-2
"""Of a stored vector: the same as where they are read."""
_STORED = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class CheckedVersion:
    """What is wrong with one version of a document."""

    document_id: str
    path: str
    wrong: str


def integrity(connection: Connection) -> list[str]:
    """Return what SQLite finds wrong with the file, at most 20 messages."""
    rows = connection.execute(f"PRAGMA integrity_check({_MESSAGES})").fetchall()
    return [str(row[0]) for row in rows if row[0] != "ok"]


def rebuild_indexes(connection: Connection) -> None:
    """Write SQLite's own indexes anew from their tables."""
    connection.execute("REINDEX")


def dangling(connection: Connection) -> dict[str, int]:
    """Return how many rows of each table name a row that is not there."""
    found: dict[str, int] = {}
    for table, *_ in connection.execute("PRAGMA foreign_key_check"):
        found[table] = found.get(table, 0) + 1
    # No foreign key: it would look for the keys of a vector that goes by its id, and they are in the order of hashes.
    stray: int = connection.execute(
        """SELECT count(*) FROM vector_key k WHERE NOT EXISTS (
               SELECT 1 FROM vector v WHERE v.id = k.vector_id AND v.embedding_spec_id = k.embedding_spec_id)"""
    ).fetchone()[0]
    return found | {"vector_key": stray} if stray else found


def without_one_live_version(connection: Connection) -> list[tuple[str, str, int]]:
    """Return (id, path, live versions) of the documents that have not exactly one, with its text."""
    return connection.execute(
        """SELECT d.id, d.path, count(t.version_id) FROM document d
           LEFT JOIN document_version v ON v.document_id = d.id AND v.state = 'live'
           LEFT JOIN version_text t ON t.version_id = v.id GROUP BY d.id HAVING count(t.version_id) <> 1"""
    ).fetchall()


def current_generations(connection: Connection) -> int:
    """Return how many generations are in service: it must be one."""
    count: int = connection.execute("SELECT count(*) FROM generation WHERE current = 1").fetchone()[0]
    return count


def versions_after(connection: Connection, after: int, most: int) -> list[int]:
    """Return the ids of up to `most` versions above `after`, staged ones included, rising."""
    rows = connection.execute("SELECT id FROM document_version WHERE id > ? ORDER BY id LIMIT ?", (after, most))
    return [row[0] for row in rows]


def wrong_version(connection: Connection, version_id: int, chunk_spec_id: int) -> CheckedVersion | None:
    """Return what is wrong with the chunks of a version: slices of its text that cover it, under every ChunkSpec.

    None where nothing is, or it is not there any more.
    """
    row = connection.execute(
        """SELECT d.id, d.path, v.characters, t.text, v.state FROM document_version v
           JOIN document d ON d.id = v.document_id JOIN version_text t ON t.version_id = v.id WHERE v.id = ?""",
        (version_id,),
    ).fetchone()
    if row is None:
        return None
    document_id, path, characters, text, state = row
    if len(text) != characters:
        return CheckedVersion(document_id, path, f"its text has {len(text)} characters, not {characters}")
    by_spec: dict[int, list[tuple[int, int, int, bytes]]] = {}
    whole = store_words.chunk_specs(connection)  # of others the chunks are being taken away
    for spec, *chunk in connection.execute(
        'SELECT chunk_spec_id, ordinal, start, "end", text_hash FROM chunk WHERE version_id = ? ORDER BY ordinal',
        (version_id,),
    ):
        by_spec.setdefault(spec, []).append((*chunk,))
    if state == "live" and chunk_spec_id not in by_spec and text.strip():
        return CheckedVersion(document_id, path, "its text has no chunks: no search finds it")
    for spec, chunks in by_spec.items():
        wrong = _wrong_chunks(text, chunks) if spec in whole else ""
        if wrong:
            return CheckedVersion(document_id, path, wrong)
    return None


def _wrong_chunks(text: str, chunks: Sequence[tuple[int, int, int, bytes]]) -> str:
    covered = 0
    for place, (ordinal, start, end, kept) in enumerate(chunks):
        if ordinal != place:
            return f"chunk {place} of its text is missing"
        if not 0 <= start < end <= len(text) or text_hash(text[start:end]) != kept:
            return f"chunk {ordinal} is not the slice [{start}:{end}] of its text"
        if start > covered:
            return f"its chunks leave out [{covered}:{start}] of its text"
        covered = max(covered, end)
    return "" if covered == len(text) else f"its chunks leave out [{covered}:{len(text)}] of its text"


def check_words(connection: Connection, chunk_spec_id: int) -> None:
    """Let FTS5 check its own structure: an INSERT, so only in a write transaction. Raises StoreDamaged (translated)."""
    table = f"words_{chunk_spec_id:d}"
    connection.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")  # noqa: S608 - an integer


def wrong_words(connection: Connection, chunk_spec_id: int) -> str:
    """Return what is wrong between the words of a ChunkSpec and the visible chunks, "" for nothing.

    The rows must be those of the visible chunks, and the multiset of all their words that of the texts: both sides are
    added up as 64 bits of a hash of each term times its count, so that neither is ever held in memory.
    """
    table = f"words_{chunk_spec_id:d}"
    visible = """SELECT c.id FROM chunk c JOIN document_version v ON v.id = c.version_id
                 WHERE v.state = 'live' AND c.chunk_spec_id = ?"""
    rows = f"SELECT id FROM {table}_docsize"  # noqa: S608 - an integer
    missing, extra = (
        connection.execute(f"SELECT count(*) FROM ({one} EXCEPT {other})", (chunk_spec_id,)).fetchone()[0]  # noqa: S608
        for one, other in ((visible, rows), (rows, visible))
    )
    if missing or extra:
        return f"{missing} chunks have no words, and words of {extra} chunks are left that are not there"
    kept = _terms(connection, chunk_spec_id)
    wanted = sum(_terms_of(connection, chunk_spec_id)) % (1 << 64)
    return "" if kept % (1 << 64) == wanted else "they are not those of the texts"


def _terms_of(connection: Connection, chunk_spec_id: int) -> Iterator[int]:
    """Yield the sums over the words of all visible texts, as this release finds them."""
    versions = connection.execute(
        """SELECT v.id, t.text FROM document_version v JOIN version_text t ON t.version_id = v.id
           WHERE v.state = 'live' ORDER BY v.id"""
    )
    while batch := versions.fetchmany(_MESSAGES):
        with closing(in_memory()) as beside:
            store_words.create(beside, chunk_spec_id)
            for version_id, text in batch:
                slices = store_words.slices(connection, version_id, chunk_spec_id, text)
                store_words.add(beside, chunk_spec_id, slices)
            yield _terms(beside, chunk_spec_id)


def _terms(connection: Connection, chunk_spec_id: int) -> int:
    rows = connection.execute(f"SELECT term, doc, cnt FROM words_{chunk_spec_id:d}_vocabulary")  # noqa: S608
    return sum(_hashed(term) * (doc + (cnt << 16)) for term, doc, cnt in rows)


def _hashed(term: str) -> int:
    raw = term.encode("utf-8", "surrogateescape")
    return zlib.crc32(raw) << 32 | zlib.adler32(raw)


def vectors_after(connection: Connection, after: int, most: int) -> list[tuple[int, int, bytes, bool]]:
    """Return (id, dimensions of its spec, bytes, whether its text finds it) of vectors with an id above `after`.

    Up to `most` of them, by rising id.
    """
    return connection.execute(
        """SELECT v.id, e.dimensions, v.vector, EXISTS (
               SELECT 1 FROM vector_key k WHERE k.filed IN (0, 1) AND k.text_hash = v.text_hash
               AND k.embedding_spec_id = v.embedding_spec_id AND k.vector_id = v.id)
           FROM vector v JOIN embedding_spec e ON e.id = v.embedding_spec_id
           WHERE v.id > ? ORDER BY v.id LIMIT ?""",
        (after, most),
    ).fetchall()


def wrong_vectors(rows: Sequence[tuple[int, int, bytes, bool]]) -> list[int]:
    """Return the ids of vectors of another width than their spec's, not finite, not of unit length, or never found."""
    wrong = []
    for vector_id, dimensions, blob, found in rows:
        if not found or not isinstance(blob, bytes) or len(blob) != dimensions * _STORED.itemsize:
            wrong.append(vector_id)
            continue
        length = float(np.linalg.norm(np.frombuffer(blob, _STORED).astype(np.float32)))
        if not abs(length - 1) <= _LENGTH_TOLERANCE:
            wrong.append(vector_id)
    return wrong


def unreferenced(connection: Connection) -> tuple[int, int]:
    """Return number and bytes of the vectors that no chunk names, kept for when their text comes back."""
    row: tuple[int, int] = connection.execute(
        """SELECT count(*), coalesce(sum(length(v.vector)), 0) FROM vector v WHERE NOT EXISTS (
               SELECT 1 FROM chunk_embedding e
               WHERE e.filed IN (0, 1)
               AND e.embedded_hash = v.text_hash AND e.embedding_spec_id = v.embedding_spec_id)"""
    ).fetchone()
    return row


def vectors_between(connection: Connection, embedding_spec_id: int, first: int, last: int) -> int:
    """Return how many vectors of a spec have an id in the range."""
    count: int = connection.execute(
        "SELECT count(*) FROM vector WHERE id BETWEEN ? AND ? AND +embedding_spec_id = ?",
        (first, last, embedding_spec_id),
    ).fetchone()[0]
    return count


def drop_segments(connection: Connection, generation: int, ordinal: int) -> None:
    """Take a segment and all behind it from a generation: their vectors are in the delta until the next fold."""
    connection.execute("DELETE FROM segment WHERE generation = ? AND ordinal >= ?", (generation, ordinal))
    connection.execute("UPDATE generation SET revision = revision + 1 WHERE number = ?", (generation,))


def pending_purges(connection: Connection) -> int:
    """Return how many purges have not erased their traces in files yet."""
    count: int = connection.execute("SELECT count(*) FROM purge").fetchone()[0]
    return count


def broken_json(connection: Connection) -> int:
    """Return how many documents have metadata that is no JSON object."""
    count: int = connection.execute(
        "SELECT count(*) FROM document_version WHERE NOT json_valid(metadata) OR json_type(metadata) <> 'object'"
    ).fetchone()[0]
    return count


def unreadable_headings(connection: Connection) -> int:
    """Return how many chunks have a heading path that is no JSON list."""
    rows = connection.execute("SELECT DISTINCT heading_path FROM chunk").fetchall()
    return sum(not _is_list(row[0]) for row in rows)


def _is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False
