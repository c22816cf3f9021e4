"""The statements on specs, vectors, generations and segments. Each function runs in its caller's transaction.

A vector is stored as little-endian float16 and read back as float32, brought to unit length again.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexes import store_words
from indexes.errors import Conflict, StoreDamaged
from indexes.store import Connection, now
from indexes.types import ChunkSpec, EmbeddingSpec, FloatMatrix, FloatVector, Generation, IdArray, IndexSpec, Segment
from indexes.vector_map import HALF, HalfMatrix, units

_STORED_TOLERANCE = 2e-2
"""What is taken in is within 1e-2; rounding to float16 adds less than 1e-3."""
_HASHES_A_STATEMENT = 1_000
_ROWS_A_FETCH = 256
"""Bounds what is held beside the matrix that the rows go into: 0.8 MB of vectors of 1,536 dimensions."""

_COLLECTION_KEY = "collection_id"

_GENERATION = """
    SELECT g.number, g.revision, g.embedding_spec_id, g.chunk_spec_id, g.current, g.created_at,
           e.model, e.dimensions, e.template, e.input_limit, c.tokens, c.overlap, c.chunker, g.retired_at
    FROM generation g JOIN embedding_spec e ON e.id = g.embedding_spec_id JOIN chunk_spec c ON c.id = g.chunk_spec_id
"""


@dataclass(frozen=True, slots=True)
class Head:
    """What is in service at the moment of a transaction. `revision` grows whenever the segment list changes."""

    generation: int
    revision: int
    spec: IndexSpec
    embedding_spec_id: int
    chunk_spec_id: int
    last_vector_id: int
    """Highest id of any vector, of whatever spec: newer ones have a higher id."""
    changes: int
    """Grows with every transaction that changes documents."""


def collection_id(connection: Connection) -> str | None:
    """Return the collection's six characters, or None where its creation was interrupted."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_COLLECTION_KEY,)).fetchone()
    return row[0] if row else None


def set_collection_id(connection: Connection, collection: str) -> None:
    """Give a new store its collection's six characters: the last step of its creation."""
    connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (_COLLECTION_KEY, collection))


def head(connection: Connection) -> Head:
    """Return what is in service."""
    row = connection.execute(f"{_GENERATION} WHERE g.current = 1").fetchone()
    if row is None:
        raise StoreDamaged("the store has no current generation; restore it from a backup")
    return _head(connection, row)


def heads(connection: Connection) -> tuple[Head, ...]:
    """Return every generation as if it were in service, oldest first."""
    return tuple(_head(connection, row) for row in connection.execute(f"{_GENERATION} ORDER BY g.number").fetchall())


def _head(connection: Connection, row: Sequence[Any]) -> Head:
    last, changes = connection.execute("SELECT (SELECT max(id) FROM vector), changes FROM clock").fetchone()
    return Head(row[0], row[1], _spec(row), row[2], row[3], last or 0, changes)


def tick(connection: Connection) -> None:
    """Note that the transaction changes documents."""
    connection.execute("UPDATE clock SET changes = changes + 1")


def generations(connection: Connection) -> tuple[Generation, ...]:
    """Return all generations, oldest first."""
    rows = connection.execute(f"{_GENERATION} ORDER BY g.number").fetchall()
    return tuple(
        Generation(
            number=row[0],
            spec=_spec(row),
            segments=segments(connection, row[0]),
            current=bool(row[4]),
            created_at=row[5],
            retired_at=row[13],
            rows=count_vectors(connection, row[2]),
        )
        for row in rows
    )


def spec_of(connection: Connection, generation: int) -> IndexSpec:
    """Return the spec of a generation that is there."""
    return _spec(connection.execute(f"{_GENERATION} WHERE g.number = ?", (generation,)).fetchone())


def _spec(row: Sequence[object]) -> IndexSpec:
    return IndexSpec(EmbeddingSpec(*row[6:10]), ChunkSpec(*row[10:13]))  # type: ignore[arg-type]


def insert_generation(connection: Connection, spec: IndexSpec) -> int:
    """Make a generation of `spec` the current one, and return its number: one that was never used before."""
    embedding, chunks = embedding_spec_id(connection, spec.embedding), chunk_spec_id(connection, spec.chunks)
    connection.execute("UPDATE generation SET current = 0 WHERE current = 1")
    cursor = connection.execute(
        "INSERT INTO generation (embedding_spec_id, chunk_spec_id, created_at, current) VALUES (?, ?, ?, 1)",
        (embedding, chunks, now()),
    )
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT that returned has one
    inherit_segments(connection, cursor.lastrowid)
    return cursor.lastrowid


def inherit_segments(connection: Connection, number: int) -> None:
    """Give a generation the segments that go furthest of any of the same embedding spec, where they are not its own."""
    best = connection.execute(
        """SELECT other.number FROM generation new
           JOIN generation other ON other.embedding_spec_id = new.embedding_spec_id
           JOIN segment s ON s.generation = other.number
           WHERE new.number = ? GROUP BY other.number ORDER BY max(s.last_id) DESC, other.number = new.number DESC
           LIMIT 1""",
        (number,),
    ).fetchone()
    if best is None or best[0] == number:
        return
    connection.execute("DELETE FROM segment WHERE generation = ?", (number,))
    connection.execute(
        """INSERT INTO segment SELECT ?, ordinal, file, kind, rows, first_id, last_id, sha256, bytes, settings,
                                      checksums, created_at FROM segment WHERE generation = ?""",
        (number, best[0]),
    )


def embedding_spec_id(connection: Connection, spec: EmbeddingSpec) -> int:
    """Return the id of a spec, made if it is new."""
    known = known_embedding_spec_id(connection, spec)
    if known is not None:
        return known
    cursor = connection.execute(
        "INSERT INTO embedding_spec (model, dimensions, template, input_limit) VALUES (?, ?, ?, ?)",
        (spec.model, spec.dimensions, spec.template, spec.input_limit),
    )
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT that returned has one
    return cursor.lastrowid


def known_embedding_spec_id(connection: Connection, spec: EmbeddingSpec) -> int | None:
    """Return the id of a spec, or None where the store never saw it."""
    row = connection.execute(
        "SELECT id FROM embedding_spec WHERE model = ? AND dimensions = ? AND template = ? AND input_limit = ?",
        (spec.model, spec.dimensions, spec.template, spec.input_limit),
    ).fetchone()
    return row[0] if row else None


def chunk_spec_id(connection: Connection, spec: ChunkSpec) -> int:
    """Return the id of a spec, made with its full-text table if it is new."""
    values = (spec.tokens, spec.overlap, spec.chunker)
    connection.execute("INSERT OR IGNORE INTO chunk_spec (tokens, overlap, chunker) VALUES (?, ?, ?)", values)
    row = connection.execute("SELECT id FROM chunk_spec WHERE tokens = ? AND overlap = ? AND chunker = ?", values)
    found: int = row.fetchone()[0]
    store_words.create(connection, found)
    return found


def known_chunk_spec_id(connection: Connection, spec: ChunkSpec) -> int | None:
    """Return the id of a spec, or None where the store never saw it."""
    row = connection.execute(
        "SELECT id FROM chunk_spec WHERE tokens = ? AND overlap = ? AND chunker = ?",
        (spec.tokens, spec.overlap, spec.chunker),
    ).fetchone()
    return row[0] if row else None


def known_vectors(connection: Connection, spec_id: int, hashes: Sequence[bytes]) -> frozenset[bytes]:
    """Return those of `hashes` whose vector is stored."""
    found: set[bytes] = set()
    for start in range(0, len(hashes), _HASHES_A_STATEMENT):
        part = hashes[start : start + _HASHES_A_STATEMENT]
        marks = ",".join("?" * len(part))
        rows = connection.execute(
            f"""SELECT text_hash FROM vector_key
                WHERE filed IN (0, 1) AND text_hash IN ({marks}) AND embedding_spec_id = ?""",  # noqa: S608
            (*part, spec_id),
        )
        found.update(text_hash for (text_hash,) in rows)
    return frozenset(found)


def insert_vectors(connection: Connection, spec_id: int, hashes: Sequence[bytes], vectors: FloatMatrix) -> None:
    """Keep vectors (n, dimensions) under the hashes of their texts; known ones are left as they are."""
    stored, created_at = vectors.astype(HALF), now()
    known, last = known_vectors(connection, spec_id, hashes), last_vector_id(connection)
    rows: dict[bytes, HalfMatrix] = {}
    for text_hash, row in zip(hashes, stored, strict=True):
        if text_hash not in known:
            rows.setdefault(text_hash, row)
    connection.executemany(
        "INSERT INTO vector (embedding_spec_id, text_hash, created_at, vector) VALUES (?, ?, ?, ?)",
        ((spec_id, text_hash, created_at, row.data) for text_hash, row in rows.items()),
    )
    # By one statement: one for each costs as much again as the vectors do, a trigger twice that.
    connection.execute(
        """INSERT INTO vector_key (filed, text_hash, embedding_spec_id, vector_id)
           SELECT 0, text_hash, embedding_spec_id, id FROM vector WHERE id > ?""",
        (last,),
    )


def count_vectors(connection: Connection, spec_id: int, after: int = 0) -> int:
    """Return how many vectors of a spec have an id above `after`."""
    count: int = connection.execute(
        "SELECT count(*) FROM vector WHERE embedding_spec_id = ? AND id > ?", (spec_id, after)
    ).fetchone()[0]
    return count


def last_vector_id(connection: Connection) -> int:
    """Return the highest id that any vector ever had, 0 for none."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'vector'").fetchone()
    return row[0] if row else 0


def live_ids(connection: Connection, spec_id: int) -> IdArray:
    """Return the ids of all vectors of a spec, ascending. Reads an index, not the vectors."""
    rows = connection.execute("SELECT id FROM vector WHERE embedding_spec_id = ? ORDER BY id", (spec_id,))
    return np.fromiter((row[0] for row in rows), np.int64)


def read_vectors(
    connection: Connection, spec_id: int, dimensions: int, first: int, last: int
) -> tuple[IdArray, FloatMatrix]:
    """Return ids (n,) and unit vectors (n, dimensions), float32, of a spec with first <= id <= last, in their order."""
    batches = list(vector_batches(connection, spec_id, dimensions, first, last))
    if not batches:
        return np.empty(0, np.int64), np.empty((0, dimensions), np.float32)
    return np.concatenate([ids for ids, _ in batches]), np.concatenate([vectors for _, vectors in batches])


def vector_batches(
    connection: Connection, spec_id: int, dimensions: int, first: int, last: int
) -> Iterator[tuple[IdArray, FloatMatrix]]:
    """Yield what `read_vectors` returns, a few rows at a time; the pages that were read for it are not kept."""
    for ids, stored in stored_batches(connection, spec_id, dimensions, first, last):
        yield ids, units(stored)


def stored_batches(
    connection: Connection, spec_id: int, dimensions: int, first: int, last: int
) -> Iterator[tuple[IdArray, HalfMatrix]]:
    """Yield ids (n,), rising, and vectors (n, dimensions) as they are stored, a few rows at a time."""
    cursor = connection.execute(
        "SELECT id, vector FROM vector WHERE id BETWEEN ? AND ? AND embedding_spec_id = ? ORDER BY id",
        (first, last, spec_id),
    )
    many = False
    while rows := cursor.fetchmany(_ROWS_A_FETCH):
        ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
        yield ids, _checked(_stored([blob for _, blob in rows], dimensions))
        many = many or len(rows) == _ROWS_A_FETCH
    if many:
        connection.execute("PRAGMA shrink_memory")


def stored_rows(connection: Connection, dimensions: int, ids: IdArray) -> HalfMatrix:
    """Return the vectors of `ids` as they are stored, in their order; zero rows where one is gone."""
    found = np.zeros((len(ids), dimensions), HALF)
    places = {one: place for place, one in enumerate(ids.tolist())}
    rows = connection.execute(
        "SELECT r.id, r.vector FROM json_each(?) j CROSS JOIN vector r ON r.id = j.value", (json.dumps(ids.tolist()),)
    )
    for vector_id, blob in rows:
        found[places[vector_id]] = _stored([blob], dimensions)[0]
    return found


def vectors_of(
    connection: Connection, spec_id: int, dimensions: int, hashes: Sequence[bytes]
) -> dict[bytes, FloatVector]:
    """Return the unit vectors, float32, of those texts that have one under a spec, by the hashes of the texts."""
    found: dict[bytes, FloatVector] = {}
    for start in range(0, len(hashes), _HASHES_A_STATEMENT):
        part = hashes[start : start + _HASHES_A_STATEMENT]
        marks = ",".join("?" * len(part))
        rows = connection.execute(
            f"""SELECT k.text_hash, v.vector FROM vector_key k CROSS JOIN vector v ON v.id = k.vector_id
                WHERE k.filed IN (0, 1) AND k.text_hash IN ({marks}) AND k.embedding_spec_id = ?""",  # noqa: S608
            (*part, spec_id),
        ).fetchall()
        if rows:
            keys, blobs = zip(*rows, strict=True)
            found.update(zip(keys, _read(blobs, dimensions), strict=True))
    return found


def _read(blobs: Sequence[bytes], dimensions: int) -> FloatMatrix:
    return units(_checked(_stored(blobs, dimensions)))


def _stored(blobs: Sequence[bytes], dimensions: int) -> HalfMatrix:
    joined = b"".join(blobs)
    if len(joined) != len(blobs) * dimensions * HALF.itemsize:
        raise StoreDamaged(f"a stored vector has not {dimensions} dimensions; restore the store from a backup")
    return np.frombuffer(joined, HALF).reshape(len(blobs), dimensions)


def _checked(stored: HalfMatrix) -> HalfMatrix:
    norms = np.linalg.norm(stored.astype(np.float32), axis=1)
    if not (np.abs(norms - 1) <= _STORED_TOLERANCE).all():
        raise StoreDamaged("a stored vector is not of unit length; restore the store from a backup")
    return stored


def segments(connection: Connection, generation: int) -> tuple[Segment, ...]:
    """Return the segments of a generation, oldest rows first."""
    rows = connection.execute(
        """SELECT ordinal, file, kind, rows, first_id, last_id, sha256, bytes, settings, checksums FROM segment
           WHERE generation = ? ORDER BY ordinal""",
        (generation,),
    )
    return tuple(_segment(*row) for row in rows)


def _segment(*row: Any) -> Segment:
    fields = [*row[:8], json.loads(row[8]), row[9]]
    return Segment(*fields)


def segment_files(connection: Connection) -> frozenset[str]:
    """Return the files that any generation names."""
    return frozenset(file for (file,) in connection.execute("SELECT file FROM segment"))


def served_embedding_specs(connection: Connection) -> tuple[int, ...]:
    """Return the ids of the embedding specs of all generations that are kept."""
    return tuple(one for (one,) in connection.execute("SELECT DISTINCT embedding_spec_id FROM generation"))


def replace_segments(connection: Connection, of: Head, replaced: Sequence[Segment], new: Segment) -> None:
    """Publish `new` in the place of `replaced`. Raises Conflict when the list is not the one that `of` has seen."""
    changed = connection.execute(
        "UPDATE generation SET revision = revision + 1 WHERE number = ? AND revision = ?", (of.generation, of.revision)
    )
    if changed.rowcount != 1:
        raise Conflict("the segments changed while one was built; build again")
    connection.executemany(
        "DELETE FROM segment WHERE generation = ? AND ordinal = ?",
        ((of.generation, segment.ordinal) for segment in replaced),
    )
    values = (new.ordinal, new.file, new.kind, new.rows, new.first_id, new.last_id, new.sha256, new.size)
    connection.execute(
        """INSERT INTO segment (generation, ordinal, file, kind, rows, first_id, last_id, sha256, bytes, settings,
                                checksums, created_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (of.generation, *values, json.dumps(dict(new.settings)), new.checksums, now()),
    )


def exchange_segment(connection: Connection, file: str, new: Segment) -> None:
    """Put `new`, of the same ids, in the place of the segment with that file, in every generation that names it."""
    values = (new.file, new.kind, new.rows, new.sha256, new.size, json.dumps(dict(new.settings)), new.checksums, now())
    connection.execute(
        """UPDATE segment SET file = ?, kind = ?, rows = ?, sha256 = ?, bytes = ?, settings = ?, checksums = ?,
                              created_at = ? WHERE file = ?""",
        (*values, file),
    )
    connection.execute(
        "UPDATE generation SET revision = revision + 1 WHERE number IN (SELECT generation FROM segment WHERE file = ?)",
        (new.file,),
    )
