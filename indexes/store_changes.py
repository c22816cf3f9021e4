"""The statements that change documents: one change set, one transaction. Each function runs in its caller's."""

import json
import secrets
import string
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from indexes import store_chunks, store_garbage, store_rejections, store_vectors, store_words
from indexes.errors import NotFound
from indexes.store import Connection, Store, now
from indexes.store_documents import removed_since, signed, source
from indexes.types import ApplyReport, ChangeSet, DocumentRename, DocumentUpsert, FileStat, Mark

_ID_ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Serving:
    """What new documents are written under: the collection's six characters and the specs in service."""

    collection_id: str
    embedding_spec_id: int
    chunk_spec_id: int


@contextmanager
def changing(store: Store) -> Iterator[Connection]:
    """Write where documents change: their words can be taken out only as they were put in."""
    with store.write() as connection:
        store_words.require_current(connection)
        store_vectors.tick(connection)
        yield connection


def require_storable(changes: ChangeSet) -> None:
    """Raise ValueError where a text holds a lone surrogate: the readers and the walk must not let one through."""
    for upsert in changes.upserts:
        for what in (upsert.path, upsert.title, upsert.text):
            if not what.isascii():
                what.encode()
        _require_marks(upsert)
        store_chunks.require_sections(upsert)
    for rename in changes.renames:
        rename.path.encode()
    for rejected in changes.rejections:
        f"{rejected.path}{rejected.reason}{rejected.detail}{rejected.readers}".encode()


def _require_marks(upsert: DocumentUpsert) -> None:
    """Raise ValueError where marks do not rise inside the text, or a position is not plain text and integers."""
    last = -1
    for mark in upsert.marks:
        if not last < mark.start < len(upsert.text):
            raise ValueError(f"marks must rise inside the text of {upsert.path}, one starts at {mark.start}")
        if not all(type(value) in (str, int) for value in mark.position.values()):
            raise ValueError(f"a position has texts and integers, not {dict(mark.position)!r}")
        for what in (*mark.position, *mark.position.values(), *mark.heading_path):
            if isinstance(what, str) and not what.isascii():
                what.encode()
        last = mark.start


def apply(connection: Connection, changes: ChangeSet, serving: Serving) -> ApplyReport:
    """Make the changes visible. Raises NotFound for an unknown source; conflicts are reported, not raised."""
    source_id = changes.source_id
    source(connection, source_id)
    for document_id in changes.removals:
        if _belongs(connection, source_id, document_id):
            remove_document(connection, document_id)
    # Looked at before anything is put at its path, which forgets the removal.
    paths = (*(rename.path for rename in changes.renames), *(upsert.path for upsert in changes.upserts))
    gone = {path for path in paths if removed_since(connection, source_id, path, changes.as_of)}
    conflicts = _rename(connection, source_id, changes.renames, gone)
    for document_id, stat in changes.restats:
        if _belongs(connection, source_id, document_id):
            _restat(connection, document_id, stat)
    connection.executemany(
        "UPDATE document SET state = 'stale', state_reason = ? WHERE id = ? AND source_id = ?",
        ((reason, document_id, source_id) for document_id, reason in changes.stale),
    )
    store_rejections.forget(connection, source_id, changes.forgotten)
    store_rejections.remember(connection, source_id, changes.rejections)
    applied: dict[str, str] = {}
    incomplete = _without_vectors(connection, changes, serving)
    for upsert in changes.upserts:
        if upsert.path in incomplete:
            continue
        document_id_or_none = None if upsert.path in gone else _upsert(connection, source_id, upsert, serving)
        if document_id_or_none is None:
            conflicts.append(upsert.path)
        else:
            applied[upsert.path] = document_id_or_none
    by_hand = tuple(path for path in conflicts if path in gone)
    return ApplyReport(applied, tuple(conflicts), by_hand, tuple(incomplete))


def _without_vectors(connection: Connection, changes: ChangeSet, serving: Serving) -> list[str]:
    """Return the paths of upserts that need vectors and lack one.

    Asked in the transaction that makes their chunks refer to them: from then on nobody deletes them.
    """
    if not changes.needs_vectors:
        return []
    hashes = {upsert.path: {chunk.embedded_hash for chunk in upsert.chunks} for upsert in changes.upserts}
    known = store_vectors.known_vectors(connection, serving.embedding_spec_id, list(set().union(*hashes.values())))
    return [path for path, wanted in hashes.items() if not wanted <= known]


def remove_document(connection: Connection, document_id: str) -> tuple[int, str]:
    """Remove a document with its versions, chunks and words, and return its source and path. Raises NotFound.

    Its vectors stay: they are known by their texts, and serve again where such a text comes back.
    """
    row = connection.execute("SELECT source_id, path FROM document WHERE id = ?", (document_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no document {document_id}")
    _drop_versions(connection, document_id)
    connection.execute("DELETE FROM document WHERE id = ?", (document_id,))
    store_garbage.remember_removed(connection, document_id)
    return row[0], row[1]


def remember_removal(connection: Connection, document_id: str, source_id: int, path: str) -> None:
    """Note that a path was removed by hand, and by which change, until it comes back. For who has ticked the clock."""
    store_garbage.remember_place(connection, document_id, source_id, path)
    connection.execute(
        """INSERT OR REPLACE INTO removed_by_hand (source_id, path, changes)
           VALUES (?, ?, (SELECT changes FROM clock))""",
        (source_id, path),
    )


def remove_source(connection: Connection, source_id: int) -> None:
    """Remove a source with all its documents. Raises NotFound."""
    source(connection, source_id)
    ids = connection.execute("SELECT id FROM document WHERE source_id = ?", (source_id,)).fetchall()
    for (document_id,) in ids:
        remove_document(connection, document_id)
    connection.execute("DELETE FROM source WHERE id = ?", (source_id,))


def _belongs(connection: Connection, source_id: int, document_id: str) -> bool:
    found = connection.execute("SELECT 1 FROM document WHERE id = ? AND source_id = ?", (document_id, source_id))
    return found.fetchone() is not None


def _drop_versions(connection: Connection, document_id: str) -> None:
    live = connection.execute(
        """SELECT v.id, t.text FROM document_version v JOIN version_text t ON t.version_id = v.id
           WHERE v.document_id = ? AND v.state = 'live'""",
        (document_id,),
    ).fetchone()
    if live is not None:
        version_id, text = live
        # Of every ChunkSpec: else its words would come back with a generation that is not in service now.
        for chunk_spec_id in store_words.chunk_specs(connection):
            slices = store_words.slices(connection, version_id, chunk_spec_id, text)
            store_words.remove(connection, chunk_spec_id, slices)
    store_garbage.suspect(connection, document_id)
    connection.execute("DELETE FROM document_version WHERE document_id = ?", (document_id,))


def _restat(connection: Connection, document_id: str, stat: FileStat) -> None:
    connection.execute(
        """UPDATE document_version SET size = ?, mtime_ns = ?, inode = ?, scanned_ns = ?
           WHERE document_id = ? AND state = 'live'""",
        (stat.size, stat.mtime_ns, signed(stat.inode), stat.scanned_ns, document_id),
    )
    connection.execute("UPDATE document SET state = 'indexed', state_reason = NULL WHERE id = ?", (document_id,))


def _rename(
    connection: Connection, source_id: int, renames: tuple[DocumentRename, ...], barred: Collection[str]
) -> list[str]:
    """Rename all that can be, none of them to a `barred` path, and return the target paths of the others."""
    wanted = {
        rename.document_id: rename.path
        for rename in renames
        if rename.path not in barred and _belongs(connection, source_id, rename.document_id)
    }
    holders = {path: _holder(connection, source_id, path) for path in wanted.values()}
    settled = settled_renames(wanted, {path: holder for path, holder in holders.items() if holder is not None})
    # Two steps, because names may swap. No relative path begins with "/".
    connection.executemany("UPDATE document SET path = '/' || id WHERE id = ?", ((key,) for key in settled))
    connection.executemany("UPDATE document SET path = ? WHERE id = ?", ((settled[key], key) for key in settled))
    _forget_paths(connection, source_id, tuple(settled.values()))
    conflicts = []
    for rename in renames:
        if settled.get(rename.document_id) == rename.path:
            _restat(connection, rename.document_id, rename.stat)
        else:
            conflicts.append(rename.path)
    return conflicts


def settled_renames(wanted: Mapping[str, str], holders: Mapping[str, str]) -> dict[str, str]:
    """Return those of the `wanted` renames (document -> path) that can happen together.

    `holders` says which document is at a path now. A rename fails when its target is held by a document that stays,
    or is wanted twice; then its own document stays too, which may fail another.
    """
    settled: dict[str, str] = {}
    for document, path in wanted.items():
        if path not in settled.values():
            settled[document] = path
    while True:
        stuck = [document for document, path in settled.items() if holders.get(path, document) not in settled]
        if not stuck:
            return settled
        for document in stuck:
            del settled[document]


def _holder(connection: Connection, source_id: int, path: str) -> str | None:
    row = connection.execute("SELECT id FROM document WHERE source_id = ? AND path = ?", (source_id, path)).fetchone()
    return row[0] if row else None


def _forget_paths(connection: Connection, source_id: int, paths: tuple[str, ...]) -> None:
    """Drop what was remembered of paths without a document: they have one now."""
    store_rejections.forget(connection, source_id, paths)
    connection.executemany(
        "DELETE FROM removed_by_hand WHERE source_id = ? AND path = ?", ((source_id, path) for path in paths)
    )


def _upsert(connection: Connection, source_id: int, upsert: DocumentUpsert, serving: Serving) -> str | None:
    """Return the document's id, or None where the collection holds something else than the plan saw."""
    row = connection.execute(
        """SELECT d.id, v.number FROM document d
           LEFT JOIN document_version v ON v.document_id = d.id AND v.state = 'live'
           WHERE d.source_id = ? AND d.path = ?""",
        (source_id, upsert.path),
    ).fetchone()
    document_id, number = row or (None, None)
    if upsert.replaces != ((document_id, number) if number is not None else None):
        return None
    if document_id is None:
        document_id = _new_document_id(serving.collection_id)
        connection.execute(
            "INSERT INTO document (id, source_id, path, state) VALUES (?, ?, ?, 'indexed')",
            (document_id, source_id, upsert.path),
        )
    else:
        connection.execute("UPDATE document SET state = 'indexed', state_reason = NULL WHERE id = ?", (document_id,))
        _drop_versions(connection, document_id)
    version_id = _insert_version(connection, document_id, (number or 0) + 1, upsert)
    spec_ids = (serving.embedding_spec_id, serving.chunk_spec_id)
    store_chunks.insert(connection, version_id, (upsert.title, upsert.text), upsert.chunks, spec_ids)
    _forget_paths(connection, source_id, (upsert.path,))
    return document_id


def _new_document_id(collection_id: str) -> str:
    return f"doc_{collection_id}{''.join(secrets.choice(_ID_ALPHABET) for _ in range(16))}"


def _insert_version(connection: Connection, document_id: str, number: int, upsert: DocumentUpsert) -> int:
    stat = upsert.stat
    # In SQLite a text of JSON ends at its first NUL: a filter would compare what stands before it.
    kept = {
        key: value.replace("\0", "\ufffd") if isinstance(value, str) else value
        for key, value in upsert.metadata.items()
    }
    metadata = json.dumps(kept, ensure_ascii=False, sort_keys=True, allow_nan=False)
    cursor = connection.execute(
        """INSERT INTO document_version (document_id, number, state, content_hash, size, mtime_ns, inode, scanned_ns,
                                         content_type, title, characters, reader, created_at, metadata)
           VALUES (?, ?, 'live', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            *(document_id, number, upsert.content_hash),
            *(stat.size, stat.mtime_ns, signed(stat.inode), stat.scanned_ns),
            *(upsert.content_type, upsert.title, len(upsert.text), upsert.reader, now(), metadata),
        ),
    )
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT that returned has one
    connection.execute(
        "INSERT INTO version_text (version_id, text, sections) VALUES (?, ?, ?)",
        (cursor.lastrowid, upsert.text, store_chunks.pack(upsert.sections)),
    )
    _insert_marks(connection, cursor.lastrowid, upsert.marks)
    return cursor.lastrowid


def _insert_marks(connection: Connection, version_id: int, marks: tuple[Mark, ...]) -> None:
    connection.executemany(
        "INSERT INTO mark (version_id, start, position, heading_path) VALUES (?, ?, ?, ?)",
        (
            (
                *(version_id, mark.start, json.dumps(mark.position, ensure_ascii=False)),
                json.dumps(mark.heading_path, ensure_ascii=False),
            )
            for mark in marks
        ),
    )
