"""The full-text tables, one for each ChunkSpec: `words_<id>`, row = chunk of a visible version.

They are contentless: a row is taken out again by the very values that went in, recomputed here from the stored text.
"""

import json
import threading
from collections.abc import Iterable, Sequence
from functools import cache

from indexes import lexical
from indexes.errors import StoreTooNew
from indexes.store import Connection, gathered, in_memory

_VERSION_KEY = "lexical_version"
_AVERAGES = 1
"""The row of an FTS5 table's data that bm25 reads its averages from. It begins with the number of rows, as a varint
("Averages Record" in SQLite's fts5_index.c); counting the rows themselves takes 5 ms at a million."""
_DROPPED = "dropped:"
"""Begins the `chunker` of a ChunkSpec whose table is gone and whose chunks are about to go."""


def create(connection: Connection, chunk_spec_id: int) -> None:
    """Make the table of a ChunkSpec, and its vocabulary, if they are not there."""
    table = _table(chunk_spec_id)
    tokenize = lexical.TOKENIZE.replace("'", "''")
    connection.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {table} USING fts5(body, exact, content = '', tokenize = '{tokenize}')"
    )
    connection.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS {table}_vocabulary USING fts5vocab({table}, row)")


def chunk_specs(connection: Connection) -> list[int]:
    """Return the ids of the ChunkSpecs that have a table."""
    rows = connection.execute("SELECT id, chunker FROM chunk_spec ORDER BY id")
    return [chunk_spec_id for chunk_spec_id, chunker in rows if not chunker.startswith(_DROPPED)]


def dropped(connection: Connection) -> list[int]:
    """Return the ids of the ChunkSpecs whose table was dropped and whose chunks are still there."""
    rows = connection.execute("SELECT id, chunker FROM chunk_spec ORDER BY id")
    return [chunk_spec_id for chunk_spec_id, chunker in rows if chunker.startswith(_DROPPED)]


def drop(connection: Connection, chunk_spec_id: int) -> None:
    """Drop the table of a ChunkSpec; asked for again, the spec is made anew, beside what is left of this one."""
    table = _table(chunk_spec_id)
    connection.execute(f"DROP TABLE IF EXISTS {table}_vocabulary")
    connection.execute(f"DROP TABLE IF EXISTS {table}")
    connection.execute(
        "UPDATE chunk_spec SET chunker = ? || id || ':' || chunker WHERE id = ?", (_DROPPED, chunk_spec_id)
    )


def add(connection: Connection, chunk_spec_id: int, slices: Iterable[tuple[int, str]]) -> None:
    """Put in (chunk id, its text with title and headings: `lexical.headed`)."""
    connection.executemany(
        f"INSERT INTO {_table(chunk_spec_id)} (rowid, body, exact) VALUES (?, ?, ?)",  # noqa: S608 - an integer
        ((chunk_id, *lexical.columns(text)) for chunk_id, text in slices),
    )


def remove(connection: Connection, chunk_spec_id: int, slices: Iterable[tuple[int, str]]) -> None:
    """Take out (chunk id, its text with title and headings). The text must be the one that was put in."""
    table = _table(chunk_spec_id)
    connection.executemany(
        f"INSERT INTO {table} ({table}, rowid, body, exact) VALUES ('delete', ?, ?, ?)",  # noqa: S608 - an integer
        ((chunk_id, *lexical.columns(text)) for chunk_id, text in slices),
    )


def merge_step(connection: Connection, chunk_spec_id: int, pages: int, *, first: bool) -> bool:
    """Merge about `pages` pages of the table's b-trees; say whether there is more to do.

    A word that was taken out stays in the older b-trees until they are merged with the newer one that says so. The
    `first` step puts all b-trees of this moment together, the others go on with them: FTS5's `optimize` in
    transactions of a bounded size, which b-trees that come meanwhile do not prolong ("FTS5", 6.8, the merge command).
    """
    before, table = connection.total_changes, _table(chunk_spec_id)
    connection.execute(
        f"INSERT INTO {table} ({table}, rank) VALUES ('merge', ?)",  # noqa: S608 - an integer
        (-pages if first else pages,),
    )
    return connection.total_changes - before >= 2  # one row is the command itself ("FTS5", 6.8)


def are_current(connection: Connection) -> bool:
    """Whether the tables were written by this release's `indexes.lexical`: else rows can't be taken out again."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_VERSION_KEY,)).fetchone()
    return row is not None and row[0] == lexical.VERSION


def require_current(connection: Connection) -> None:
    """Raise StoreTooNew where another release wrote the tables since this process opened them."""
    if not are_current(connection):
        raise StoreTooNew(
            "the words of this store were rebuilt by another release: restart this one's processes with it"
        )


def rebuild(connection: Connection) -> None:
    """Write all tables anew from the stored texts."""
    for chunk_spec_id in chunk_specs(connection):
        table = _table(chunk_spec_id)
        connection.execute(f"DROP TABLE IF EXISTS {table}_vocabulary")
        connection.execute(f"DROP TABLE IF EXISTS {table}")
        create(connection, chunk_spec_id)
        versions = connection.execute(
            """SELECT v.id, t.text FROM document_version v JOIN version_text t ON t.version_id = v.id
               WHERE v.state = 'live'"""
        )
        for version_id, text in versions:
            add(connection, chunk_spec_id, slices(connection, version_id, chunk_spec_id, text))
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_VERSION_KEY, lexical.VERSION))


def slices(connection: Connection, version_id: int, chunk_spec_id: int, text: str) -> list[tuple[int, str]]:
    """Return (chunk id, its slice of `text` with title and headings) for the chunks of a version.

    Cut here: SQL's substr ends at a NUL.
    """
    rows = connection.execute(
        """SELECT c.id, v.title, c.heading_path, c.start, c."end" FROM chunk c
           JOIN document_version v ON v.id = c.version_id WHERE c.version_id = ? AND c.chunk_spec_id = ?""",
        (version_id, chunk_spec_id),
    )
    return [
        (chunk_id, lexical.headed(title, json.loads(heading_path), text[start:end]))
        for chunk_id, title, heading_path, start, end in rows
    ]


def matches(
    connection: Connection, chunk_spec_id: int, expression: str, where: tuple[str, Sequence[object]], limit: int
) -> list[tuple[int, str, str, int, float]]:
    """Return (chunk id, text hash in hexadecimal, path, start, BM25) of up to `limit` visible chunks that match.

    Best first; higher is better. `expression` is one of `lexical.expression`; `where` is a condition over `d`, `v` and
    `s` and its values.
    """
    condition, values = where
    table = _table(chunk_spec_id)
    # CROSS JOIN keeps the full text outermost: its rows come sorted, so that only those asked for are looked up.
    found = gathered(
        connection,
        f"""SELECT json_group_array(json_array(id, hex(text_hash), path, start, -rank)) FROM (
            SELECT c.id, c.text_hash, d.path, c.start, {table}.rank FROM {table}
            CROSS JOIN chunk c ON c.id = {table}.rowid
            CROSS JOIN document_version v ON v.id = c.version_id AND v.state = 'live'
            CROSS JOIN document d ON d.id = v.document_id
            CROSS JOIN source s ON s.id = d.source_id
            WHERE {table} MATCH ? AND rank MATCH ? AND {condition} ORDER BY {table}.rank LIMIT ?)""",  # noqa: S608
        (expression, f"bm25({', '.join(map(str, lexical.COLUMN_WEIGHTS))})", *values, limit),
    )
    return [(chunk_id, text_hash, path, start, score) for chunk_id, text_hash, path, start, score in found]


def rows(connection: Connection, chunk_spec_id: int) -> int:
    """Return how many chunks are in the table: those in service under the ChunkSpec. Committed ones, in a reader."""
    row = connection.execute(
        f"SELECT block FROM {_table(chunk_spec_id)}_data WHERE id = ?",  # noqa: S608 - an integer
        (_AVERAGES,),
    ).fetchone()
    return _varint(row[0]) if row and row[0] else 0


def _varint(data: bytes) -> int:
    """Return the number that `data` begins with, in SQLite's form: 7 bits a byte, high bits first, 8 in the ninth."""
    value = 0
    for byte in data[:8]:
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value
    return value << 8 | data[8]


def chunks_with(connection: Connection, chunk_spec_id: int, terms: Sequence[str]) -> dict[str, int]:
    """Return how many chunks in service hold each term of the vocabulary (see `lexical.vocabulary_term`)."""
    found = gathered(
        connection,
        f"SELECT json_group_array(json_array(term, doc)) FROM {_table(chunk_spec_id)}_vocabulary "  # noqa: S608
        "WHERE term IN (SELECT value FROM json_each(?))",
        (json.dumps(list(terms)),),
    )
    return dict.fromkeys(terms, 0) | dict(found)


_stemming = threading.Lock()


def stems(words: Iterable[str]) -> dict[str, str]:
    """Return the term that `body` keeps for each of `words` (see `indexes.lexical`): FTS5's own stemmer is asked."""
    asked = list(dict.fromkeys(words))
    connection = _stemmer()
    with _stemming:
        connection.execute("BEGIN")
        try:
            connection.executemany("INSERT INTO stem (rowid, word) VALUES (?, ?)", enumerate(asked))
            found = dict(connection.execute("SELECT doc, term FROM stem_vocabulary").fetchall())
        finally:
            connection.execute("ROLLBACK")
    return {word: found[number] for number, word in enumerate(asked)}


@cache
def _stemmer() -> Connection:
    """Return a database in memory that is always empty: SQLite offers its stemmer only through a table."""
    connection = in_memory()
    tokenize = lexical.TOKENIZE.replace("'", "''")
    connection.execute(f"CREATE VIRTUAL TABLE stem USING fts5(word, content = '', tokenize = '{tokenize}')")
    connection.execute("CREATE VIRTUAL TABLE stem_vocabulary USING fts5vocab(stem, instance)")
    return connection


def _table(chunk_spec_id: int) -> str:
    return f"words_{chunk_spec_id:d}"
