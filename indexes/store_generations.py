"""The statements that put generations in service, keep two old ones, and take apart what no kept one needs.

Each function runs in its caller's transaction.
"""

from datetime import datetime, timedelta

from indexes import store_vectors, store_word_indexes, store_words
from indexes.errors import NotFound
from indexes.store import Connection, now
from indexes.types import IndexSpec

KEPT = 2
"""Generations beside the one in service: those that were in service last before it."""
_PREPARED_KEY = "prepared_spec"
"""In `meta`: ids of the specs that documents are being cut by, for a generation that is not published yet."""
_CHUNKS_A_STEP = 5_000
_VERSIONS_A_STEP = 64


def spec_ids(connection: Connection, spec: IndexSpec) -> tuple[int, int]:
    """Return the ids of an IndexSpec's two parts, made if they are new."""
    embedding = store_vectors.embedding_spec_id(connection, spec.embedding)
    return embedding, store_vectors.chunk_spec_id(connection, spec.chunks)


def known_spec_ids(connection: Connection, spec: IndexSpec) -> tuple[int, int]:
    """Return the ids of an IndexSpec's two parts, -1 for one that the store never saw."""
    embedding = store_vectors.known_embedding_spec_id(connection, spec.embedding)
    chunks = store_vectors.known_chunk_spec_id(connection, spec.chunks)
    return -1 if embedding is None else embedding, -1 if chunks is None else chunks


def prepare(connection: Connection, ids: tuple[int, int]) -> None:
    """Note what documents are being cut by, so that it is not taken apart before it is published."""
    if connection.execute("SELECT 1 FROM generation WHERE embedding_spec_id = ? AND chunk_spec_id = ?", ids).fetchone():
        return
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_PREPARED_KEY, f"{ids[0]} {ids[1]}"))


def prepared(connection: Connection) -> tuple[int, int] | None:
    """Return the ids that were noted, None where no generation is being prepared."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_PREPARED_KEY,)).fetchone()
    if row is None:
        return None
    embedding, chunks = row[0].split()
    return int(embedding), int(chunks)


def publish(connection: Connection, spec: IndexSpec) -> int:
    """Make a new generation of `spec` the current one, drop those that are kept no longer, and return its number."""
    _retire(connection)
    number = store_vectors.insert_generation(connection, spec)
    connection.execute("DELETE FROM meta WHERE key = ?", (_PREPARED_KEY,))
    drop_old(connection)
    return number


def serve(connection: Connection, number: int) -> None:
    """Make a generation that is kept the current one again."""
    _retire(connection)
    connection.execute("UPDATE generation SET current = 0 WHERE current = 1")
    connection.execute(
        "UPDATE generation SET current = 1, retired_at = NULL, revision = revision + 1 WHERE number = ?", (number,)
    )
    # What was folded since serves it, too: else it would begin with all of that in its delta.
    store_vectors.inherit_segments(connection, number)


def _retire(connection: Connection) -> None:
    """Note that the current generation goes out of service, later than any other: clocks may be set back."""
    moment = now()
    last = connection.execute("SELECT max(retired_at) FROM generation").fetchone()[0]
    if last is not None and moment <= last:
        after = datetime.fromisoformat(last) + timedelta(milliseconds=1)
        moment = after.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    connection.execute("UPDATE generation SET retired_at = ? WHERE current = 1", (moment,))


def older(connection: Connection, current: int, number: int | None) -> int:
    """Return the kept generation that a rollback to `number` serves. Raises NotFound.

    By default the one that was in service last of those with a lower number: so repeating a rollback goes no way back.
    """
    rows = connection.execute("SELECT number FROM generation ORDER BY retired_at DESC, number DESC").fetchall()
    kept: list[int] = [row[0] for row in rows]
    if number is not None:
        if number not in kept:
            known = ", ".join(map(str, sorted(kept)))
            raise NotFound(f"generation {number} is not kept; there are {known}")
        return number
    found = next((number for number in kept if number < current), None)
    if found is None:
        newer = [number for number in sorted(kept) if number > current]
        hint = f"; for a newer one say which: {', '.join(map(str, newer))}" if newer else ""
        raise NotFound(f"generation {current} is in service, and no older one is kept{hint}")
    return found


def drop_old(connection: Connection) -> None:
    """Drop the generations beyond those that are kept; the next build removes the files of their segments."""
    connection.execute(
        """DELETE FROM generation WHERE current = 0 AND number NOT IN (
               SELECT number FROM generation WHERE current = 0 ORDER BY retired_at DESC, number DESC LIMIT ?)""",
        (KEPT,),
    )


def _needed(connection: Connection) -> tuple[frozenset[int], frozenset[int]]:
    """Return the EmbeddingSpecs and the ChunkSpecs of kept generations, and of the one that is being prepared."""
    pairs = connection.execute("SELECT embedding_spec_id, chunk_spec_id FROM generation").fetchall()
    if (coming := prepared(connection)) is not None:
        pairs.append(coming)
    return frozenset(embedding for embedding, _ in pairs), frozenset(chunks for _, chunks in pairs)


def drop_words(connection: Connection) -> bool:
    """Drop the words of one ChunkSpec that is not needed; say whether there was one."""
    _, needed = _needed(connection)
    unused = [known for known in store_words.chunk_specs(connection) if known not in needed]
    if unused:
        store_word_indexes.drop_spec(connection, unused[0])
        store_words.drop(connection, unused[0])
    return bool(unused)


def drop_chunks(connection: Connection, *, chunk_spec_id: int, after: int) -> int | None:
    """Drop some chunks behind the id `after` of a ChunkSpec whose words are dropped; with the last of them, the spec.

    Returns the id to go on behind, None at the end.
    """
    ids = connection.execute(
        "SELECT id FROM chunk WHERE chunk_spec_id = ? AND id > ? ORDER BY id LIMIT ?",
        (chunk_spec_id, after, _CHUNKS_A_STEP),
    ).fetchall()
    if not ids:
        connection.execute("DELETE FROM chunk_spec WHERE id = ?", (chunk_spec_id,))
        return None
    connection.execute(
        "DELETE FROM chunk WHERE chunk_spec_id = ? AND id BETWEEN ? AND ?", (chunk_spec_id, ids[0][0], ids[-1][0])
    )
    last: int = ids[-1][0]
    return last


def unneeded_embedding_specs(connection: Connection) -> list[int]:
    """Return the EmbeddingSpecs that chunks were prepared for, and that are not needed any more."""
    needed, _ = _needed(connection)
    rows = connection.execute("SELECT DISTINCT embedding_spec_id FROM chunk_embedding")
    return [row[0] for row in rows if row[0] not in needed]


def drop_embedded(connection: Connection, *, embedding_spec_id: int, after: int) -> int | None:
    """Drop the embedded hashes for an EmbeddingSpec that is not needed, of some versions behind the id `after`.

    Whole versions, so that each stands prepared for a spec or not at all. Returns the id to go on behind, None at the
    end. Vectors stay: they are found again by their texts until they are collected.
    """
    needed, _ = _needed(connection)
    if embedding_spec_id in needed:  # since a moment ago: it is being prepared again
        return None
    ids = connection.execute(
        "SELECT id FROM document_version WHERE id > ? ORDER BY id LIMIT ?", (after, _VERSIONS_A_STEP)
    ).fetchall()
    if not ids:
        return None
    connection.execute(
        """DELETE FROM chunk_embedding WHERE embedding_spec_id = ?
           AND chunk_id IN (SELECT id FROM chunk WHERE version_id BETWEEN ? AND ?)""",
        (embedding_spec_id, ids[0][0], ids[-1][0]),
    )
    last: int = ids[-1][0]
    return last
