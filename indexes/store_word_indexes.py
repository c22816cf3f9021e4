"""The statements on indexes of words outside SQLite: which there are, and what goes into them.

Each function runs in its caller's transaction. One index a ChunkSpec, derived from the chunks of visible versions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from indexes import lexical
from indexes.store import Connection, now

CHUNKS_A_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class ListedWords:
    """One index of words: what it covers, and what its files must be."""

    chunk_spec_id: int
    folder: str
    """Name of its folder below `words/`; a changed index has another one."""
    last_id: int
    """It holds every chunk of its ChunkSpec in service up to this id; newer ones have a higher id."""
    rows: int
    """Chunks in it, those included that were removed since."""
    changes: int
    """`Head.changes` when it was published: a transaction of before may see chunks that it lacks."""
    version: str
    """What wrote it: another `indexes.lexical` found other words."""
    files: Mapping[str, tuple[int, str]]
    """Size and SHA-256 of each file, by name."""


def listed(connection: Connection, chunk_spec_id: int) -> ListedWords | None:
    """Return the index of a ChunkSpec, None where there is none."""
    row = connection.execute(
        "SELECT folder, last_id, rows, changes, version, files FROM word_index WHERE chunk_spec_id = ?",
        (chunk_spec_id,),
    ).fetchone()
    if row is None:
        return None
    files = {name: (size, sha256) for name, (size, sha256) in json.loads(row[5]).items()}
    return ListedWords(chunk_spec_id, row[0], row[1], row[2], row[3], row[4], files)


def all_listed(connection: Connection) -> list[ListedWords]:
    """Return the indexes of all ChunkSpecs."""
    specs = connection.execute("SELECT chunk_spec_id FROM word_index ORDER BY chunk_spec_id").fetchall()
    return [one for (spec,) in specs if (one := listed(connection, spec)) is not None]


def folder_of(connection: Connection, chunk_spec_id: int) -> str | None:
    """Return the folder of the index of a ChunkSpec: what tells one from the next."""
    row = connection.execute("SELECT folder FROM word_index WHERE chunk_spec_id = ?", (chunk_spec_id,)).fetchone()
    return row[0] if row else None


def folders(connection: Connection) -> frozenset[str]:
    """Return the folders of all indexes."""
    return frozenset(folder for (folder,) in connection.execute("SELECT folder FROM word_index"))


def put(connection: Connection, index: ListedWords) -> None:
    """List an index, in the place of the one of its ChunkSpec."""
    connection.execute(
        """INSERT OR REPLACE INTO word_index (chunk_spec_id, folder, last_id, rows, changes, version, files, created_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            index.chunk_spec_id,
            index.folder,
            index.last_id,
            index.rows,
            index.changes,
            index.version,
            json.dumps({name: list(of) for name, of in index.files.items()}),
            now(),
        ),
    )


def remove(connection: Connection, folder: str | None = None) -> None:
    """Take an index off the list, all of them without a folder: the words come from the full-text tables again."""
    connection.execute("DELETE FROM word_index WHERE ?1 IS NULL OR folder = ?1", (folder,))


def drop_spec(connection: Connection, chunk_spec_id: int) -> None:
    """Take the index of a ChunkSpec off the list, whose words are dropped."""
    connection.execute("DELETE FROM word_index WHERE chunk_spec_id = ?", (chunk_spec_id,))


def last_chunk_id(connection: Connection) -> int:
    """Return the highest id that any chunk ever had, 0 for none."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunk'").fetchone()
    return row[0] if row else 0


def count_newer(connection: Connection, chunk_spec_id: int, after: int) -> int:
    """Return how many chunks of visible versions have an id above `after`."""
    row = connection.execute(
        """SELECT count(*) FROM chunk c JOIN document_version v ON v.id = c.version_id AND v.state = 'live'
           WHERE c.id > ? AND +c.chunk_spec_id = ?""",
        (after, chunk_spec_id),
    )
    count: int = row.fetchone()[0]
    return count


def batch(connection: Connection, chunk_spec_id: int, after: int, last: int) -> list[tuple[int, str]]:
    """Return (chunk id, its text with title and headings) of up to CHUNKS_A_BATCH chunks in service, rising by id.

    Those with `after` < id <= `last`. The list is empty at the end alone.
    """
    rows = connection.execute(
        """SELECT c.id, c.version_id, v.title, c.heading_path, c.start, c."end" FROM chunk c
           JOIN document_version v ON v.id = c.version_id AND v.state = 'live'
           WHERE c.id > ? AND c.id <= ? AND +c.chunk_spec_id = ? ORDER BY c.id LIMIT ?""",
        (after, last, chunk_spec_id, CHUNKS_A_BATCH),
    ).fetchall()
    found: list[tuple[int, str]] = []
    of, text = 0, ""
    for chunk_id, version_id, title, heading_path, start, end in rows:
        if version_id != of:
            stored = connection.execute("SELECT text FROM version_text WHERE version_id = ?", (version_id,)).fetchone()
            of, text = version_id, stored[0]
        found.append((chunk_id, lexical.headed(title, json.loads(heading_path), text[start:end])))
    return found
