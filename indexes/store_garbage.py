"""The statements on vectors that no chunk uses any more, and on purges. Each function runs in its caller's transaction.

A vector is referenced when a chunk of any version, live or staged, under any ChunkSpec, is embedded by it.
`unreferenced_vector` holds those that a collection of garbage found unreferenced, and those whose chunks went: whoever
reads it asks again whether they are referenced, since a text may have come back.

CROSS JOIN keeps SQLite from beginning with all vectors, or all of their keys, which it takes for few.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from indexes.errors import NotFound
from indexes.store import Connection, now

VectorKey = tuple[int, int]
"""Embedding spec id, vector id: the row of a vector in a file of that spec."""
KeyPlace = tuple[int, bytes, int]
"""A place among the keys of vectors: filed or not, hash, embedding spec id."""
FIRST_KEY: KeyPlace = (0, b"", 0)
"""Before all of them."""

_REFERENCED = """EXISTS (SELECT 1 FROM chunk_embedding e
    WHERE e.filed IN (0, 1) AND e.embedded_hash = v.text_hash AND e.embedding_spec_id = v.embedding_spec_id)"""
_COLLECTED_KEY = "garbage_collected_at"
MOST_REMOVED = 100_000
"""Removed documents that are remembered by their ids: 5 MB."""


@dataclass(frozen=True, slots=True)
class PendingPurge:
    """A purge whose rows are gone, and whose traces in files are still to be erased."""

    document_id: str
    vectors: tuple[VectorKey, ...]


@dataclass(frozen=True, slots=True)
class PurgedRows:
    """What a document had."""

    source: str | None
    """Root of its source; None with the path where it was removed before, and not by hand."""
    path: str | None
    shared: int
    """Its passages that other documents hold, too."""


def suspect(connection: Connection, document_id: str) -> None:
    """Put down the vectors of a document whose versions are about to go: they may become unreferenced now.

    They are in use until then, so their time begins now, whatever was put down when they were unused before.
    """
    connection.execute(
        """INSERT OR REPLACE INTO unreferenced_vector (vector_id, since)
           SELECT v.vector_id, ? FROM document_version d CROSS JOIN chunk c ON c.version_id = d.id
           CROSS JOIN chunk_embedding e ON e.chunk_id = c.id
           CROSS JOIN vector_key v ON v.filed IN (0, 1)
               AND v.text_hash = e.embedded_hash AND v.embedding_spec_id = e.embedding_spec_id
           WHERE d.document_id = ?""",
        (now(), document_id),
    )


def unreferenced(connection: Connection, after: KeyPlace, limit: int) -> tuple[list[int], KeyPlace]:
    """Look at up to `limit` vectors behind a place, in the order of their hashes; return those that nothing uses.

    Also returns the place to go on from, the same one at the end. Both sides of the look-up are in that order. Those
    that are not filed come first: one that is filed on the way is looked at before or after, or twice.
    """
    rows = connection.execute(
        f"""SELECT v.vector_id, v.filed, v.text_hash, v.embedding_spec_id, {_REFERENCED} FROM vector_key v
            WHERE (v.filed, v.text_hash, v.embedding_spec_id) > (?, ?, ?)
            ORDER BY v.filed, v.text_hash, v.embedding_spec_id LIMIT ?""",  # noqa: S608 - a constant
        (*after, limit),
    ).fetchall()
    place = (rows[-1][1], rows[-1][2], rows[-1][3]) if rows else after
    return [row[0] for row in rows if not row[4]], place


def mark(connection: Connection, vector_ids: Sequence[int]) -> int:
    """Put down those of the vectors that are (still) unreferenced; return how many were not yet."""
    return connection.executemany(
        f"""INSERT OR IGNORE INTO unreferenced_vector (vector_id, since)
            SELECT v.id, ? FROM vector v WHERE v.id = ? AND NOT {_REFERENCED}""",  # noqa: S608 - a constant
        [(now(), vector_id) for vector_id in vector_ids],
    ).rowcount


def unmark(connection: Connection, after: int, limit: int) -> tuple[int, int | None]:
    """Forget those of up to `limit` vectors put down, behind a vector id, that are referenced (again).

    Returns how many, and the vector id to go on from, None at the end.
    """
    last = connection.execute(
        "SELECT max(vector_id), count(*) FROM (SELECT vector_id FROM unreferenced_vector WHERE vector_id > ? "
        "ORDER BY vector_id LIMIT ?)",
        (after, limit),
    ).fetchone()
    if last[0] is None:
        return 0, None
    forgotten = connection.execute(
        f"""DELETE FROM unreferenced_vector WHERE vector_id > ? AND vector_id <= ? AND EXISTS (
            SELECT 1 FROM vector v WHERE v.id = vector_id AND {_REFERENCED})""",  # noqa: S608 - a constant
        (after, last[0]),
    ).rowcount
    return forgotten, last[0] if last[1] == limit else None


def sweep(connection: Connection, before: str, limit: int) -> tuple[VectorKey, ...]:
    """Delete up to `limit` vectors that were put down up to a moment and are still unreferenced; return them."""
    found = connection.execute(
        f"""SELECT v.embedding_spec_id, v.id FROM unreferenced_vector u CROSS JOIN vector v ON v.id = u.vector_id
            WHERE u.since <= ? AND NOT {_REFERENCED} ORDER BY u.vector_id LIMIT ?""",  # noqa: S608 - a constant
        (before, limit),
    ).fetchall()
    _delete(connection, found)
    return tuple(found)


def count_unreferenced(connection: Connection) -> int:
    """Return how many vectors are put down and unreferenced."""
    count: int = connection.execute(
        f"""SELECT count(*) FROM unreferenced_vector u CROSS JOIN vector v ON v.id = u.vector_id
            WHERE NOT {_REFERENCED}"""  # noqa: S608 - a constant
    ).fetchone()[0]
    return count


def collected_at(connection: Connection) -> str | None:
    """Return when garbage was last collected."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_COLLECTED_KEY,)).fetchone()
    return row[0] if row else None


def set_collected(connection: Connection, at: str) -> None:
    """Remember when garbage was collected."""
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_COLLECTED_KEY, at))


# Purges


def describe(connection: Connection, document_id: str) -> PurgedRows:
    """Return what a document has before it goes. Raises NotFound."""
    row = connection.execute(
        "SELECT s.root, d.path FROM document d JOIN source s ON s.id = d.source_id WHERE d.id = ?", (document_id,)
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no document {document_id}")
    shared = connection.execute(
        """SELECT count(DISTINCT c.text_hash) FROM document_version d JOIN chunk c ON c.version_id = d.id
           WHERE d.document_id = :id AND EXISTS (
               SELECT 1 FROM chunk other JOIN document_version o ON o.id = other.version_id
               WHERE other.filed IN (0, 1) AND other.text_hash = c.text_hash AND o.document_id <> :id)""",
        {"id": document_id},
    ).fetchone()[0]
    return PurgedRows(row[0], row[1], shared)


def vectors_of(connection: Connection, document_id: str) -> tuple[VectorKey, ...]:
    """Return the vectors of all versions of a document."""
    rows = connection.execute(
        """SELECT DISTINCT v.embedding_spec_id, v.vector_id FROM document_version d
           CROSS JOIN chunk c ON c.version_id = d.id CROSS JOIN chunk_embedding e ON e.chunk_id = c.id
           CROSS JOIN vector_key v ON v.filed IN (0, 1)
               AND v.text_hash = e.embedded_hash AND v.embedding_spec_id = e.embedding_spec_id
           WHERE d.document_id = ?""",
        (document_id,),
    )
    return tuple(rows.fetchall())


def delete_unreferenced(connection: Connection, keys: Sequence[VectorKey]) -> tuple[VectorKey, ...]:
    """Delete those of the vectors that nothing uses; return them."""
    found = [
        key
        for key in keys
        if connection.execute(
            f"SELECT 1 FROM vector v WHERE v.id = ? AND NOT {_REFERENCED}",  # noqa: S608 - a constant
            (key[1],),
        ).fetchone()
    ]
    _delete(connection, found)
    return tuple(found)


def forget_path(connection: Connection, source: str | None, path: str | None) -> None:
    """Drop what is remembered of a path of the source with that root: that it was rejected, or removed by hand."""
    for table in ("rejection", "removed_by_hand"):
        connection.execute(
            f"DELETE FROM {table} WHERE path = ? AND source_id = (SELECT id FROM source WHERE root = ?)",  # noqa: S608
            (path, source),
        )


def remember_removed(connection: Connection, document_id: str) -> None:
    """Note that a document was removed: its traces in files can be erased by its id until that is done."""
    connection.execute("INSERT OR IGNORE INTO removed_document (document_id) VALUES (?)", (document_id,))


def remember_place(connection: Connection, document_id: str, source_id: int, path: str) -> None:
    """Note where a document was that was removed by hand: its purge forgets that, too."""
    connection.execute(
        "UPDATE removed_document SET source_id = ?, path = ? WHERE document_id = ?", (source_id, path, document_id)
    )


def was_removed(connection: Connection, document_id: str) -> bool:
    """Whether a document is known to have been removed, and was not purged since."""
    found = connection.execute("SELECT 1 FROM removed_document WHERE document_id = ?", (document_id,))
    return found.fetchone() is not None


def take_removed(connection: Connection, document_id: str) -> PurgedRows | None:
    """Forget that a document was removed, and where; return what is known of it, None for nothing.

    Where another one was removed from the same place since, the place stays: that one is not to come back.
    """
    row = connection.execute(
        """DELETE FROM removed_document WHERE document_id = ?
           RETURNING id, source_id, (SELECT root FROM source WHERE id = source_id), path""",
        (document_id,),
    ).fetchone()
    if row is None:
        return None
    removal, source_id, root, path = row
    since = connection.execute(
        "SELECT 1 FROM removed_document WHERE id > ? AND source_id = ? AND path = ?", (removal, source_id, path)
    )
    if since.fetchone() is None:
        forget_path(connection, root, path)
    return PurgedRows(root, path, shared=0)


def trim_removed(connection: Connection) -> None:
    """Forget the removals before the last `MOST_REMOVED`: what is left of those goes with any other purge."""
    connection.execute(
        "DELETE FROM removed_document WHERE id <= (SELECT max(id) FROM removed_document) - ?", (MOST_REMOVED,)
    )


def remember_purge(connection: Connection, document_id: str, vectors: Sequence[VectorKey]) -> None:
    """Put down what is to be erased from files. Several rows of one document add up."""
    connection.execute(
        "INSERT INTO purge (document_id, vectors, created_at) VALUES (?, ?, ?)",
        (document_id, json.dumps([list(key) for key in vectors]), now()),
    )


def pending_purges(connection: Connection) -> tuple[PendingPurge, ...]:
    """Return the purges that are not complete, oldest first."""
    found: dict[str, list[VectorKey]] = {}
    for document_id, vectors in connection.execute("SELECT document_id, vectors FROM purge ORDER BY id"):
        found.setdefault(document_id, []).extend((spec_id, vector_id) for spec_id, vector_id in json.loads(vectors))
    return tuple(PendingPurge(document_id, tuple(vectors)) for document_id, vectors in found.items())


def end_purge(connection: Connection, purge: PendingPurge) -> None:
    """Note that a purge is complete, unless more of it was put down meanwhile."""
    if purge in pending_purges(connection):
        connection.execute("DELETE FROM purge WHERE document_id = ?", (purge.document_id,))


def last_purge(connection: Connection) -> int:
    """Return the number of the last row that any purge put down, 0 for none: it never falls."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'purge'").fetchone()
    return row[0] if row else 0


def has_pending_purge(connection: Connection) -> bool:
    """Whether a purge is not complete."""
    return connection.execute("SELECT 1 FROM purge LIMIT 1").fetchone() is not None


def _delete(connection: Connection, keys: Sequence[VectorKey]) -> None:
    connection.executemany("DELETE FROM vector WHERE id = ?", [(vector_id,) for _, vector_id in keys])
