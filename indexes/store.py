"""A collection's SQLite database: its connections and transactions.

The statements are in the other `store_` rooms; each function there runs inside one transaction that `Store.read` or
`Store.write` opened. A connection is used by one thread at a time.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from indexes import store_still
from indexes.errors import StorageFull, StoreBusy, StoreClosed, StoreDamaged, StoreNotFound, StoreTooNew
from indexes.failpoints import point
from indexes.migrations import APPLICATION_ID, SCHEMA_VERSION, migrate
from indexes.store_errors import DAMAGED, REMEDY, translated, translation
from indexes.store_files import connect, erased_slack, file_bytes, header, identity, make_file, read_still, sync_folder

Connection = sqlite3.Connection
DatabaseError = sqlite3.Error
"""What stays of SQLite's errors: a statement that the file can't answer, a table of it being gone."""

FILE_NAME = "store.db"
PAGE_SIZE = 16_384
"""Bytes. A float16 vector of 1,536 takes 3.3 KB in such a page; at 4 KB pages one with float32 took 8.2 KB."""
MAX_IDLE = 4
"""Reading connections that are kept, as many as search at once: each keeps its cache. More are opened for a peak."""
BUSY_SECONDS = 10.0
_LEAST_PAUSE = 0.005
"""Seconds."""


def now() -> str:
    """Return the time as RFC 3339, UTC, as it is stored in every `created_at`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Store:
    """One open store. Safe for use from many threads: one writes at a time, each reader sees one snapshot."""

    def __init__(self, path: Path, busy_seconds: float = BUSY_SECONDS) -> None:
        """Use `create` or `open`: they check what is at `path`."""
        self.path = path
        self._busy_seconds = busy_seconds
        self._writing = threading.Lock()
        self._guard = threading.Lock()
        self._idle: list[Connection] = []
        self._writer: Connection | None = None
        self._written: tuple[int, int] | None = None
        self._closed = False
        self._still = store_still.is_still(path)

    @classmethod
    def create(cls, folder: Path, busy_seconds: float = BUSY_SECONDS) -> "Store":
        """Make an empty store in `folder` (mode 0700, file 0600), or open the one that an earlier try left there.

        Raises StoreDamaged where another kind of file is, else as `open` does.
        """
        path = folder / FILE_NAME
        with translated(path):
            make_file(path)
        application, version = header(path, busy_seconds)
        if application == APPLICATION_ID:
            return cls.open(folder, busy_seconds)
        store = cls(path, busy_seconds)
        with translated(path), store._connected() as connection:
            if application or version or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise StoreDamaged(f"{path} is a database of something else; it is left unchanged")
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            point("store.log")
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
            point("store.sync")
            sync_folder(folder)
            sync_folder(folder.parent)
        return store

    @classmethod
    def open(cls, folder: Path, busy_seconds: float = BUSY_SECONDS) -> "Store":
        """Open the store in `folder`, migrated to this release's schema.

        Where nothing can be written it is only read. Raises StoreNotFound, StoreTooNew (the file stays as it is, to the
        byte), StoreDamaged, and StorageFull where it can't be written and must be, or can't be opened.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            raise StoreNotFound(f"there is no collection in {folder}")
        application, version = header(path, busy_seconds)
        if application != APPLICATION_ID:
            raise StoreDamaged(f"{path} is not the store of a collection; restore it from a backup")
        if version > SCHEMA_VERSION:
            raise StoreTooNew(
                f"{path} has schema {version}, this release knows {SCHEMA_VERSION}: use the release that wrote it"
            )
        store = cls(path, busy_seconds)
        if version < SCHEMA_VERSION:
            with translated(path), store._connected() as connection:
                migrate(connection)
        return store

    @classmethod
    def adopt(cls, folder: Path, busy_seconds: float = BUSY_SECONDS) -> "Store":
        """Open the copy of a store that was put into `folder`, migrated, and give it a log. Raises as `open` does."""
        path = folder / FILE_NAME
        store = cls(path, busy_seconds)
        with translated(path), store._connected() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        return cls.open(folder, busy_seconds)

    def close(self) -> None:
        """Close all connections; those still in use are closed when their transaction ends."""
        with self._writing, self._guard:
            self._closed = True
            connections = [*self._idle, *([self._writer] if self._writer else [])]
            self._idle, self._writer = [], None
        for connection in connections:
            connection.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection inside one read transaction: everything read through it is of one moment."""
        if self._closed or not self.read_only:
            yield from self._read()
        else:
            with read_still(self.path, self._busy_seconds) as connection:
                yield connection

    @property
    def read_only(self) -> bool:
        """Whether the file, as it was when it was opened or last to be written, can only be read."""
        return self._still

    def _read(self) -> Iterator[Connection]:
        with translated(self.path):
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                self._give_back(connection)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give the writing connection inside one transaction, committed durably at the end, undone by an exception.

        Raises StoreBusy when another writer, here or in another process, holds the store for longer than the wait.
        """
        until = time.monotonic() + self._busy_seconds
        if not self._writing.acquire(timeout=self._busy_seconds):
            raise StoreBusy(f"another write to {self.path} took longer than {self._busy_seconds:g} s; try again")
        try:
            with translated(self.path):
                self._refuse_still()
                connection = self._writing_connection()
                # What was waited for a thread of ours is not waited for another process again.
                left = max(0, round(1000 * (until - time.monotonic())))
                connection.execute(f"PRAGMA busy_timeout = {left}")
                point("store.begin")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    self._check_schema(connection)
                    self._check_place()
                    yield connection
                    point("store.commit")
                    connection.execute("COMMIT")
                    point("store.committed")
                finally:
                    self._undo(connection)
        finally:
            self._writing.release()

    def _refuse_still(self) -> None:
        if self._still:
            self._still = store_still.is_still(self.path)
        if self._still:
            raise StorageFull(f"{self.path} can only be read: {REMEDY}")

    def _undo(self, connection: Connection) -> None:
        """Roll back what is not committed. A connection that can't is given up: closing it undoes the same."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer = None
            connection.close()

    def copy_to(self, target: Path) -> None:
        """Write a compact copy of one moment into `target`, an empty file, while others read and write.

        It is not durable until the caller has fsynced it. Raises StorageFull, StoreDamaged.
        """
        with translated(self.path):
            connection = self._connect(readonly=False)
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            raise translation(self.path if code in DAMAGED else target, error) from error
        finally:
            connection.close()

    def bytes_on_disk(self) -> int:
        """Return the size of the file and its log."""
        return file_bytes(self.path) + file_bytes(self.path.with_name(f"{FILE_NAME}-wal"))

    def erase_slack(self, wait_seconds: float) -> int:
        """Empty the log and zero every byte of the file that belongs to nothing; return how many were not zero.

        Others read and write meanwhile. Raises StoreBusy when a reader of an older state keeps the log for longer than
        the wait.
        """
        return erased_slack(self.path, wait_seconds)

    def _check_schema(self, connection: Connection) -> None:
        # A newer release may have migrated the file while this process had it open.
        if connection.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
            raise StoreTooNew(f"{self.path} was migrated by a newer release: restart this one's processes with it")

    def _check_place(self) -> None:
        # SQLite goes on writing to a file that was removed: what it said was kept would be gone.
        if identity(self.path) != self._written:
            raise StoreClosed(f"{self.path} was removed or replaced meanwhile: nothing was changed; repeat the request")

    def _connect(self, *, readonly: bool) -> Connection:
        return connect(self.path, self._busy_seconds, readonly=readonly)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        connection = self._connect(readonly=False)
        try:
            yield connection
        finally:
            connection.close()

    def _writing_connection(self) -> Connection:
        self._refuse_closed()
        if self._writer is None:
            self._written = identity(self.path)
            self._writer = self._connect(readonly=False)
            # What undoes a single statement: as a temporary file, made and unlinked by each, it is a part of what the
            # commit waits for.
            self._writer.execute("PRAGMA temp_store = MEMORY")
        return self._writer

    def _take(self) -> Connection:
        with self._guard:
            self._refuse_closed()
            if self._idle:
                return self._idle.pop()
        return self._connect(readonly=True)

    def _give_back(self, connection: Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            raise
        with self._guard:
            if not self._closed and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path} was closed: its collection was removed or replaced; repeat the request")


def give_way(began: float) -> None:
    """Wait as long as a transaction took that began then (`time.monotonic`), before the next one of a long series.

    Whoever waits for the lock looks for it now and then only: without it others might wait until the series ends.
    """
    time.sleep(max(_LEAST_PAUSE, time.monotonic() - began))


def gathered(connection: Connection, statement: str, values: Sequence[object] = ()) -> list[Any]:
    """Return the rows of a statement that gathers them itself, as the one value of `json_group_array`.

    A row that is fetched singly gives up the interpreter's lock and waits for it again: beside other threads that
    costs more than the search. Numbers with a fraction come back to 15 digits; blobs must be `hex`, and are texts.
    """
    rows: list[Any] = json.loads(connection.execute(statement, values).fetchone()[0])
    return rows


def in_memory() -> Connection:
    """Return a connection to an empty database in memory, for use by one thread at a time."""
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
