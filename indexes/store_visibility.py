"""The statements behind `indexes.visibility`: ids alone, read in bulk. Each function runs in its caller's transaction.

Chunks and vectors have ids that rise and are never given twice (AUTOINCREMENT), so what is new is what lies above the
last id that was seen, also where older rows were removed. A chunk's vector is known by its text, so a new vector may
belong to an old chunk and an old vector to a new chunk.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from indexes.store import Connection
from indexes.types import IdArray

_VERSIONS_A_STATEMENT: Final = 4_096
_ROWS_A_STATEMENT: Final = 32_768
"""About how many rows one statement returns: bounds what is held as JSON and as Python's integers, some MB."""
_BEYOND: Final = b"\xff" * 33
"""Above every hash: they have 32 bytes."""

Pairs = tuple[IdArray, IdArray]
"""Two columns of equal length."""


def last_ids(connection: Connection) -> tuple[int, int]:
    """Return the highest ids that chunks and vectors ever had, 0 for none: they never fall."""
    found = dict(connection.execute("SELECT name, seq FROM sqlite_sequence WHERE name IN ('chunk', 'vector')"))
    return found.get("chunk", 0), found.get("vector", 0)


def all_chunks(connection: Connection, chunk_spec_id: int) -> Iterator[Pairs]:
    """Yield (chunk ids, their versions' ids) of all chunks under a ChunkSpec, by version."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'document_version'").fetchone()
    for first in range(0, (row[0] if row else 0) + 1, _VERSIONS_A_STATEMENT):
        # The index behind UNIQUE (version_id, chunk_spec_id, ordinal) has all that is asked for: no row is read.
        yield _columns(
            connection,
            """SELECT json_group_array(id), json_group_array(version_id) FROM chunk
               WHERE version_id BETWEEN ? AND ? AND chunk_spec_id = ?""",
            (first, first + _VERSIONS_A_STATEMENT - 1, chunk_spec_id),
        )


def new_chunks(connection: Connection, chunk_spec_id: int, after: int) -> Pairs:
    """Return (chunk ids, their versions' ids) of the chunks under a ChunkSpec with an id above `after`."""
    return _columns(
        connection,
        "SELECT json_group_array(id), json_group_array(version_id) FROM chunk WHERE id > ? AND +chunk_spec_id = ?",
        (after, chunk_spec_id),
    )


def all_vectors(connection: Connection, embedding_spec_id: int) -> Iterator[Pairs]:
    """Yield (chunk ids, vector ids) of all chunks with a vector under an EmbeddingSpec."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'vector'").fetchone()
    parts = 1 + (row[0] if row else 0) // _ROWS_A_STATEMENT
    # Both sides in the order of their hashes, through indexes that hold all that is asked for: the walk stays on pages
    # that lie side by side, where one by the order of chunks would jump through both at every row.
    edges = [(part << 64) // parts for part in range(parts + 1)]
    # The plus keeps the range from being taken over to the other side, where SQLite prefers it to the equality.
    for low, high in itertools.pairwise(edges):
        yield _columns(
            connection,
            """SELECT json_group_array(e.chunk_id), json_group_array(r.vector_id) FROM vector_key r
               CROSS JOIN chunk_embedding e ON e.filed IN (0, 1)
                   AND e.embedded_hash = +r.text_hash AND e.embedding_spec_id = r.embedding_spec_id
               WHERE r.filed IN (0, 1) AND r.text_hash >= ? AND r.text_hash < ? AND r.embedding_spec_id = ?""",
            (_edge(low), _edge(high), embedding_spec_id),
        )


def _edge(value: int) -> bytes:
    return value.to_bytes(9, "big")[1:] if value < 1 << 64 else _BEYOND


def vectors_of_new_chunks(connection: Connection, embedding_spec_id: int, after: int) -> Pairs:
    """Return (chunk ids, vector ids) of the chunks with an id above `after` that have a vector."""
    return _columns(
        connection,
        """SELECT json_group_array(e.chunk_id), json_group_array(r.vector_id) FROM chunk_embedding e
           CROSS JOIN vector_key r ON r.filed IN (0, 1)
               AND r.text_hash = e.embedded_hash AND r.embedding_spec_id = e.embedding_spec_id
           WHERE e.chunk_id > ? AND e.embedding_spec_id = ?""",
        (after, embedding_spec_id),
    )


def chunks_of_new_vectors(connection: Connection, embedding_spec_id: int, after: int) -> Pairs:
    """Return (chunk ids, vector ids) of the chunks whose vector has an id above `after`."""
    return _columns(
        connection,
        """SELECT json_group_array(e.chunk_id), json_group_array(r.id) FROM vector r
           CROSS JOIN chunk_embedding e ON e.filed IN (0, 1)
               AND e.embedded_hash = r.text_hash AND e.embedding_spec_id = r.embedding_spec_id
           WHERE r.id > ? AND +r.embedding_spec_id = ?""",
        (after, embedding_spec_id),
    )


def live_versions(connection: Connection, where: tuple[str, Sequence[object]] | None = None) -> IdArray:
    """Return the ids of the visible versions, of those alone that a condition over `d`, `v` and `s` lets pass.

    One scan of the tables that the condition speaks of. Its text names columns alone: whatever a caller wrote is bound.
    """
    if where is None:
        return _ids(connection, "SELECT json_group_array(id) FROM document_version WHERE state = 'live'")
    sql, values = where
    # NOT INDEXED: by the index of the live ones, in the order of random ids, the rows take ten times as long.
    tables, of_versions = "document_version v NOT INDEXED", "v." in sql
    if "d." in sql or "s." in sql:
        tables, joined = (tables, "document d") if of_versions else ("document d", "document_version v")
        tables += f" CROSS JOIN {joined} ON d.id = v.document_id"
    if "s." in sql:
        tables += " CROSS JOIN source s ON s.id = d.source_id"
    return _ids(
        connection,
        f"SELECT json_group_array(v.id) FROM {tables} WHERE v.state = 'live' AND {sql}",  # noqa: S608 - constants
        values,
    )


def versions(connection: Connection) -> IdArray:
    """Return the ids of all versions, those that wait to become visible among them."""
    return _ids(connection, "SELECT json_group_array(id) FROM document_version")


def _ids(connection: Connection, statement: str, values: Sequence[object] = ()) -> IdArray:
    return np.array(json.loads(connection.execute(statement, values).fetchone()[0]), np.int64)


def _columns(connection: Connection, statement: str, values: Sequence[object]) -> Pairs:
    """Return the two columns that a statement gathers; see `indexes.store.gathered` for why it gathers them."""
    one, other = connection.execute(statement, values).fetchone()
    return np.array(json.loads(one), np.int64), np.array(json.loads(other), np.int64)
