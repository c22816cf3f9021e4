"""The schema of a collection's store, as ordered steps. Each step runs once, in one transaction with its number.

`PRAGMA user_version` is the number of the last step that ran. A released step is never edited: a new one is appended.
"""

import sqlite3
from collections.abc import Sequence

from indexes.failpoints import point

APPLICATION_ID = 0x72616773
"""`rags` in ASCII: marks a file as a collection's store (`PRAGMA application_id`)."""

_FIRST = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE source (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        root TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL CHECK (kind IN ('folder', 'file', 'upload')),
        created_at TEXT NOT NULL)""",
    """CREATE TABLE document (
        id TEXT PRIMARY KEY NOT NULL,
        source_id INTEGER NOT NULL REFERENCES source ON DELETE CASCADE,
        path TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('indexed', 'stale')),
        state_reason TEXT,
        UNIQUE (source_id, path))""",
    """CREATE TABLE document_version (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        document_id TEXT NOT NULL REFERENCES document ON DELETE CASCADE,
        number INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('live', 'staged')),
        content_hash BLOB NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        scanned_ns INTEGER NOT NULL,
        content_type TEXT NOT NULL,
        title TEXT NOT NULL,
        characters INTEGER NOT NULL,
        reader TEXT NOT NULL,
        created_at TEXT NOT NULL,
        metadata TEXT NOT NULL,
        UNIQUE (document_id, number))""",
    "CREATE UNIQUE INDEX one_live_version ON document_version (document_id) WHERE state = 'live'",
    # Apart from its version, so that a scan of the manifest does not page through the texts.
    """CREATE TABLE version_text (
        version_id INTEGER PRIMARY KEY REFERENCES document_version ON DELETE CASCADE,
        text TEXT NOT NULL)""",
    """CREATE TABLE removed_by_hand (
        source_id INTEGER NOT NULL REFERENCES source ON DELETE CASCADE,
        path TEXT NOT NULL,
        PRIMARY KEY (source_id, path)) WITHOUT ROWID""",
    """CREATE TABLE embedding_spec (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        model TEXT NOT NULL,
        dimensions INTEGER NOT NULL,
        template TEXT NOT NULL,
        input_limit INTEGER NOT NULL,
        UNIQUE (model, dimensions, template, input_limit))""",
    """CREATE TABLE chunk_spec (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tokens INTEGER NOT NULL,
        overlap INTEGER NOT NULL,
        chunker TEXT NOT NULL,
        UNIQUE (tokens, overlap, chunker))""",
    """CREATE TABLE chunk (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        version_id INTEGER NOT NULL REFERENCES document_version ON DELETE CASCADE,
        chunk_spec_id INTEGER NOT NULL REFERENCES chunk_spec,
        ordinal INTEGER NOT NULL,
        start INTEGER NOT NULL,
        "end" INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        page INTEGER,
        heading_path TEXT NOT NULL,
        text_hash BLOB NOT NULL,
        UNIQUE (version_id, chunk_spec_id, ordinal))""",
    "CREATE INDEX chunk_by_text ON chunk (text_hash, chunk_spec_id)",
    # A chunk and its vector meet by the hash of the embedded text: a vector serves many chunks, and one that arrives
    # after its chunks is joined to them by being there.
    """CREATE TABLE chunk_embedding (
        chunk_id INTEGER NOT NULL REFERENCES chunk ON DELETE CASCADE,
        embedding_spec_id INTEGER NOT NULL REFERENCES embedding_spec,
        embedded_hash BLOB NOT NULL,
        PRIMARY KEY (chunk_id, embedding_spec_id)) WITHOUT ROWID""",
    "CREATE INDEX chunk_by_embedded ON chunk_embedding (embedded_hash, embedding_spec_id)",
    """CREATE TABLE vector (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        embedding_spec_id INTEGER NOT NULL REFERENCES embedding_spec,
        text_hash BLOB NOT NULL CHECK (length(text_hash) = 32),
        created_at TEXT NOT NULL,
        vector BLOB NOT NULL,
        UNIQUE (text_hash, embedding_spec_id))""",
    """CREATE TABLE generation (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        embedding_spec_id INTEGER NOT NULL REFERENCES embedding_spec,
        chunk_spec_id INTEGER NOT NULL REFERENCES chunk_spec,
        created_at TEXT NOT NULL,
        current INTEGER NOT NULL CHECK (current IN (0, 1)),
        revision INTEGER NOT NULL DEFAULT 0)""",
    "CREATE UNIQUE INDEX one_current_generation ON generation (current) WHERE current = 1",
    """CREATE TABLE segment (
        generation INTEGER NOT NULL REFERENCES generation ON DELETE CASCADE,
        ordinal INTEGER NOT NULL,
        file TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        rows INTEGER NOT NULL,
        first_id INTEGER NOT NULL,
        last_id INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        PRIMARY KEY (generation, ordinal)) WITHOUT ROWID""",
)

_SECOND = (
    # Where a text stands, from `start` up to the next mark: in its file, in the file's own terms, and below headings.
    """CREATE TABLE mark (
        version_id INTEGER NOT NULL REFERENCES document_version ON DELETE CASCADE,
        start INTEGER NOT NULL,
        position TEXT NOT NULL,
        heading_path TEXT NOT NULL,
        PRIMARY KEY (version_id, start)) WITHOUT ROWID""",
    # Files that were read and refused, so that they are not read again before they or the readers change.
    """CREATE TABLE rejection (
        source_id INTEGER NOT NULL REFERENCES source ON DELETE CASCADE,
        path TEXT NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        scanned_ns INTEGER NOT NULL,
        readers TEXT NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        PRIMARY KEY (source_id, path)) WITHOUT ROWID""",
)

_THIRD = (
    # Segments are derived: those of the earlier kinds are dropped, and their vectors folded again.
    "DROP TABLE segment",
    # Generations of one embedding spec may share files. `settings` is JSON, what the index found out about itself;
    # `checksums` are those of the blocks of its range in the file of exact vectors (see `indexes.vector_map`).
    """CREATE TABLE segment (
        generation INTEGER NOT NULL REFERENCES generation ON DELETE CASCADE,
        ordinal INTEGER NOT NULL,
        file TEXT NOT NULL,
        kind TEXT NOT NULL,
        rows INTEGER NOT NULL,
        first_id INTEGER NOT NULL,
        last_id INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        settings TEXT NOT NULL,
        checksums BLOB NOT NULL,
        created_at TEXT NOT NULL,
        PRIMARY KEY (generation, ordinal)) WITHOUT ROWID""",
    # One number that grows with every change of documents: what was planned or cached before it can be told.
    "CREATE TABLE clock (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), changes INTEGER NOT NULL)",
    "INSERT INTO clock (only_row, changes) VALUES (1, 1)",
    "ALTER TABLE removed_by_hand ADD COLUMN changes INTEGER NOT NULL DEFAULT 0",
    # When a generation that was in service ceased to be; empty for the current one.
    "ALTER TABLE generation ADD COLUMN retired_at TEXT",
    # Hashes come in no order: each new one would go to a page of its own in a large index, and all these pages into
    # the log. So each index of hashes has a small part for the new ones, `filed` 0, and a fold moves them over to the
    # large one in their order (`indexes.store_filing`). Who looks for a hash looks in both: `filed IN (0, 1)`.
    "ALTER TABLE chunk ADD COLUMN filed INTEGER NOT NULL DEFAULT 1 CHECK (filed IN (0, 1))",
    "DROP INDEX chunk_by_text",
    "CREATE INDEX chunk_by_text ON chunk (filed, text_hash, chunk_spec_id)",
    "ALTER TABLE chunk_embedding ADD COLUMN filed INTEGER NOT NULL DEFAULT 1 CHECK (filed IN (0, 1))",
    "DROP INDEX chunk_by_embedded",
    "CREATE INDEX chunk_by_embedded ON chunk_embedding (filed, embedded_hash, embedding_spec_id)",
    # The keys of vectors stand apart, so that a vector is not written again when its key is filed. To be rid of the
    # index behind the earlier table's UNIQUE takes a new table.
    "ALTER TABLE vector RENAME TO earlier_vector",
    """CREATE TABLE vector (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        embedding_spec_id INTEGER NOT NULL REFERENCES embedding_spec,
        text_hash BLOB NOT NULL CHECK (length(text_hash) = 32),
        created_at TEXT NOT NULL,
        vector BLOB NOT NULL)""",
    """INSERT INTO vector SELECT id, embedding_spec_id, text_hash, created_at, vector FROM earlier_vector
       ORDER BY id""",
    "DELETE FROM sqlite_sequence WHERE name = 'vector'",
    "INSERT INTO sqlite_sequence (name, seq) SELECT 'vector', seq FROM sqlite_sequence WHERE name = 'earlier_vector'",
    "DROP TABLE earlier_vector",
    """CREATE TABLE vector_key (
        filed INTEGER NOT NULL CHECK (filed IN (0, 1)),
        text_hash BLOB NOT NULL,
        embedding_spec_id INTEGER NOT NULL,
        vector_id INTEGER NOT NULL,
        PRIMARY KEY (filed, text_hash, embedding_spec_id)) WITHOUT ROWID""",
    """INSERT INTO vector_key SELECT 1, text_hash, embedding_spec_id, id FROM vector
       ORDER BY text_hash, embedding_spec_id""",
    # A key without its vector would say that a text need not be embedded again.
    """CREATE TRIGGER vector_goes AFTER DELETE ON vector BEGIN
        DELETE FROM vector_key WHERE filed IN (0, 1)
        AND text_hash = old.text_hash AND embedding_spec_id = old.embedding_spec_id; END""",
    # The rows of one spec, in the order of their ids, without a look at those of another that lie between them.
    "CREATE INDEX vector_by_spec ON vector (embedding_spec_id)",
    # The sections a text was cut by, as JSON (`indexes.store_chunks.pack`), so that it can be cut otherwise without its
    # file; NULL where an earlier release stored the text.
    "ALTER TABLE version_text ADD COLUMN sections TEXT",
    # Since when a vector is of no use to any chunk, as the last collection of garbage saw it.
    """CREATE TABLE unreferenced_vector (
        vector_id INTEGER PRIMARY KEY REFERENCES vector ON DELETE CASCADE,
        since TEXT NOT NULL)""",
    # Purges whose traces in files are still to be erased; `vectors` is a JSON list of [embedding spec id, vector id].
    """CREATE TABLE purge (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        document_id TEXT NOT NULL,
        vectors TEXT NOT NULL,
        created_at TEXT NOT NULL)""",
    # Documents that were removed and not purged: traces of them may be left in files, and are erased by their id. The
    # place is that of a removal by hand, which stands in `removed_by_hand`, too; the others leave no name behind.
    """CREATE TABLE removed_document (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        document_id TEXT NOT NULL UNIQUE,
        source_id INTEGER,
        path TEXT)""",
)

STEPS: tuple[Sequence[str], ...] = (_FIRST, _SECOND, _THIRD)
SCHEMA_VERSION = len(STEPS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the store up to `SCHEMA_VERSION`. A kill in between leaves it whole, at some step."""
    for number, statements in enumerate(STEPS, start=1):
        _run(connection, number, statements)


def _run(connection: sqlite3.Connection, number: int, statements: Sequence[str]) -> None:
    point("migrate.begin")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read under the write lock: another process may have migrated while this one waited.
        if connection.execute("PRAGMA user_version").fetchone()[0] < number:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        point("migrate.commit")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
