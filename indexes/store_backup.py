"""One collection in one file: written while others read and write, checked before it has its name, and put back.

The file is a store without its log, and behind its last page a seal: the checksum of all before it, since SQLite has
none (it reads as many pages as its header counts, and looks no further). What is derived (segments, exact vectors) is
not in it and is rebuilt.
"""

import glob
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from indexes.errors import Conflict, StorageFull, StoreDamaged, StoreNotFound, StoreTooNew
from indexes.failpoints import point
from indexes.migrations import APPLICATION_ID, SCHEMA_VERSION
from indexes.store import FILE_NAME, Connection, Store
from indexes.store_files import read_file, sync_folder

_ABANDONED_SECONDS = 600.0
"""An unfinished file that was not written to for so long belongs to a process that died."""
_SEAL = b"ragsvc backup 1\n"
"""Followed by the SHA-256 of everything before it."""
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size
_MAGIC = b"SQLite format 3\0"
_HELD = ("collection_id", "changes", "documents", "chunks", "vectors")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store holds, of one moment."""

    collection_id: str
    schema: int
    changes: int
    """Transactions that changed documents; 0 in a store of an earlier schema."""
    generation: int
    model: str
    dimensions: int
    documents: int
    chunks: int
    vectors: int


def write(store: Store, file: Path, *, overwrite: bool = False) -> Contents:
    """Write a backup of one moment to `file` (mode 0600), durable and checked, and return what is in it.

    Whatever happens, `file` is the old one or the new one, whole. Raises Conflict where there is one and not
    `overwrite`, StorageFull, and StoreDamaged for a store that can't be copied.
    """
    file = Path(os.path.realpath(file))
    if file.exists() and not overwrite:
        raise Conflict(f"{file} exists; take another name, or replace it with --overwrite")
    _remove_abandoned(file)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    found: Contents | None = None
    with _room(beside):
        try:
            found = _write(store, beside, file)
            point("backup.rename")
            beside.rename(file)
            point("backup.sync_folder")
            sync_folder(file.parent)
        except FileNotFoundError as error:
            raise StorageFull(f"{file} can't be written: there is no folder {file.parent}; make it") from error
        except KeyboardInterrupt:
            if found is None or beside.exists():
                raise
            sync_folder(file.parent)  # it has its name: it is written
        finally:
            for left in (beside, beside.with_name(f"{beside.name}-journal")):
                left.unlink(missing_ok=True)
    return found


def _write(store: Store, beside: Path, file: Path) -> Contents:
    point("backup.create")
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    before = _live(store)
    point("backup.copy")
    store.copy_to(beside)
    point("backup.seal")
    _seal(beside)
    point("backup.sync")
    _sync(beside)
    point("backup.verify")
    found = inspect(beside)
    _verify(found, before, _live(store), file)
    return found


def _verify(written: Contents, before: Contents, after: Contents, file: Path) -> None:
    """Refuse a copy that is not of a moment between `before` and `after`."""
    held = [tuple(getattr(each, name) for name in _HELD) for each in (before, written, after)]
    same_id = written.collection_id == before.collection_id
    in_between = before.changes <= written.changes <= after.changes
    if not same_id or not in_between or (held[0] == held[2] and held[1] != held[0]):
        raise StoreDamaged(f"the copy for {file} does not hold what the store does; check the disk and repeat")


def _seal(path: Path) -> None:
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(_SEAL + digest)


def _unsealed(file: BinaryIO) -> tuple[int, bytes | None]:
    """Return how many bytes are the store's, and their SHA-256 where the file has a seal: a bare store has none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SEAL_BYTES))
    seal = file.read()
    file.seek(0)
    if len(seal) == _SEAL_BYTES and seal.startswith(_SEAL):
        return size - _SEAL_BYTES, seal[len(_SEAL) :]
    return size, None


def _live(store: Store) -> Contents:
    with store.read() as connection:
        return contents(connection)


def inspect(file: Path) -> Contents:
    """Check that a file is a whole backup, without changing it, and return what is in it.

    Raises StoreNotFound, StoreTooNew, and StoreDamaged for another kind of file, a damaged one, or a live store.
    """
    if not file.is_file():
        raise StoreNotFound(f"there is no file {file}")
    if file.with_name(f"{file.name}-wal").exists():
        raise StoreDamaged(f"{file} is a store in use, not a backup: write one with `ragsvc backup FILE`")
    with file.open("rb") as start:
        if start.read(len(_MAGIC)) != _MAGIC:
            raise StoreDamaged(f"{file} is not a backup of a collection; nothing was changed")
    with read_file(file) as connection:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreDamaged(f"{file} is not a backup of a collection; nothing was changed")
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        if schema > SCHEMA_VERSION:
            raise StoreTooNew(f"{file} has schema {schema}, this release knows {SCHEMA_VERSION}: use a newer release")
        wrong = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if wrong != "ok":
            raise StoreDamaged(f"{file} is damaged ({wrong}); take another backup")
        return contents(connection)


def contents(connection: Connection) -> Contents:
    """Return what a store of any schema holds. Raises StoreDamaged where it was never completed."""
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    known = connection.execute("SELECT value FROM meta WHERE key = 'collection_id'").fetchone()
    serving = connection.execute(
        """SELECT g.number, e.model, e.dimensions FROM generation g JOIN embedding_spec e ON e.id = g.embedding_spec_id
           WHERE g.current = 1"""
    ).fetchone()
    if known is None or serving is None:
        raise StoreDamaged("the store was never completed: there is no collection in it")
    with_clock = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'clock'").fetchone() is not None
    changes = connection.execute("SELECT changes FROM clock").fetchone()[0] if with_clock else 0
    generation, model, dimensions = serving
    return Contents(known[0], schema, changes, generation, model, dimensions, *counts(connection))


def counts(connection: Connection) -> tuple[int, int, int]:
    """Return how many documents, chunks and vectors a store of any schema holds."""
    found: tuple[int, int, int] = connection.execute(
        "SELECT (SELECT count(*) FROM document), (SELECT count(*) FROM chunk), (SELECT count(*) FROM vector)"
    ).fetchone()
    return found


def install(file: Path, folder: Path, collection_id: str) -> None:
    """Put a backup into `folder`, migrated, its documents' ids those of `collection_id`: durable when this returns.

    The folder is new and nobody else's. Raises StorageFull, and StoreDamaged for a backup that is not whole.
    """
    path = folder / FILE_NAME
    with _room(path):
        point("restore.copy")
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with file.open("rb") as source, os.fdopen(descriptor, "wb") as target:
            _copy_store(source, target, file)
        point("restore.sync")
        _sync(path)
    with read_file(path) as connection:
        wrong = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if wrong != "ok" or connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
            raise StoreDamaged(f"{file} is damaged ({wrong}); take another backup")
    point("restore.migrate")
    store = Store.adopt(folder)
    try:
        with store.write() as connection:
            point("restore.rename_documents")
            _rename_documents(connection, collection_id)
            connection.execute("DELETE FROM segment")  # their files are not in a backup
    finally:
        store.close()
    point("restore.sync_folder")
    _sync(path)
    sync_folder(folder)
    sync_folder(folder.parent)


def _copy_store(source: BinaryIO, target: BinaryIO, file: Path) -> None:
    """Copy a backup without its seal. Raises StoreDamaged where the seal says that it is not what was written."""
    left, sealed = _unsealed(source)
    digest = hashlib.sha256()
    while piece := source.read(min(left, 1 << 20)):
        digest.update(piece)
        target.write(piece)
        left -= len(piece)
    if sealed is not None and digest.digest() != sealed:
        raise StoreDamaged(f"{file} is damaged: it is not what `ragsvc backup` wrote; take another backup")


def _rename_documents(connection: Connection, collection_id: str) -> None:
    """Give the collection another id, which stands in the ids of its documents, too; nothing where it is its own."""
    if contents(connection).collection_id == collection_id:
        return
    # Until the commit, rows may name documents by ids that are not there yet, or not any more.
    connection.execute("PRAGMA defer_foreign_keys = ON")
    tables = connection.execute(
        "SELECT s.name FROM sqlite_schema s JOIN pragma_table_info(s.name) c "
        "WHERE s.type = 'table' AND c.name = 'document_id'"
    ).fetchall()
    for table, column in (("document", "id"), *((name, "document_id") for (name,) in tables)):
        connection.execute(f"UPDATE {table} SET {column} = 'doc_' || ? || substr({column}, 11)", (collection_id,))  # noqa: S608 - names of ours
    connection.execute("UPDATE meta SET value = ? WHERE key = 'collection_id'", (collection_id,))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(file: Path) -> None:
    for left in file.parent.glob(f".{glob.escape(file.name)}.????????.tmp*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()


@contextmanager
def _room(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(f"{path} can't be written: {error.strerror or error}; nothing was changed") from error
