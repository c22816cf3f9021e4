"""A collection's SQLite file: its connections and transactions, and the one place where SQLite's errors become ours.

The statements are in `store_documents`, `store_vectors` and `store_search`; each function there runs inside one
transaction that `Store.read` or `Store.write` opened. A connection is used by one thread at a time.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from indexes import store_slack, store_still
from indexes.errors import (
    NO_STORAGE,
    StorageFull,
    StoreBusy,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreNotFound,
    StoreTooNew,
)
from indexes.failpoints import point
from indexes.migrations import APPLICATION_ID, SCHEMA_VERSION, migrate

Connection = sqlite3.Connection
DatabaseError = sqlite3.Error
"""What stays of SQLite's errors: a statement that the file can't answer, a table of it being gone."""

FILE_NAME = "store.db"
PAGE_SIZE = 16_384
"""Bytes. A float16 vector of 1,536 takes 3.3 KB in such a page; at 4 KB pages one with float32 took 8.2 KB."""
CACHE_KIB = 16_384
"""Of pages for each connection: SQLite's own 2 MB are 125 such pages."""
MAX_IDLE = 4
"""Reading connections that are kept, as many as search at once: each keeps its cache. More are opened for a peak."""
LOG_BYTES = 64 << 20
"""What the log is cut back to after a large transaction."""
BUSY_SECONDS = 10.0

_GLANCES, _GLANCE_SECONDS = 3, 0.02

_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_UNREADABLE = "decode to UTF-8"
"""In the error, without a code, of Python's sqlite3 for bytes that are no text."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


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
        with _translated(path):
            _make_file(path)
        application, version = _header(path)
        if application == APPLICATION_ID:
            return cls.open(folder, busy_seconds)
        store = cls(path, busy_seconds)
        with _translated(path), store._connected() as connection:
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
        application, version = _header(path)
        if application != APPLICATION_ID:
            raise StoreDamaged(f"{path} is not the store of a collection; restore it from a backup")
        if version > SCHEMA_VERSION:
            raise StoreTooNew(
                f"{path} has schema {version}, this release knows {SCHEMA_VERSION}: use the release that wrote it"
            )
        store = cls(path, busy_seconds)
        if version < SCHEMA_VERSION:
            with _translated(path), store._connected() as connection:
                migrate(connection)
        return store

    @classmethod
    def adopt(cls, folder: Path, busy_seconds: float = BUSY_SECONDS) -> "Store":
        """Open the copy of a store that was put into `folder`, migrated, and give it a log. Raises as `open` does."""
        path = folder / FILE_NAME
        store = cls(path, busy_seconds)
        with _translated(path), store._connected() as connection:
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
        with _translated(self.path):
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
            with _translated(self.path):
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
            raise StorageFull(f"{self.path} can only be read: {_REMEDY}")

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
        with _translated(self.path):
            connection = self._connect(readonly=False)
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            raise _translation(self.path if code in _DAMAGED else target, error) from error
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
        if _identity(self.path) != self._written:
            raise StoreClosed(f"{self.path} was removed or replaced meanwhile: nothing was changed; repeat the request")

    def _connect(self, *, readonly: bool) -> Connection:
        # Never made here: a file that was taken away would come back, empty.
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            _set_up(connection, readonly=readonly)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

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
            self._written = _identity(self.path)
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


def erased_slack(path: Path, wait_seconds: float) -> int:
    """Erase the slack of a SQLite file in WAL mode as `Store.erase_slack` does, with errors of this floor."""
    try:
        return store_slack.erase(path, wait_seconds)
    except store_slack.SlackBusy as error:
        raise StoreBusy(f"what was deleted can't be erased from the file yet, {error}; repeat the command") from error
    except store_slack.SlackDamaged as error:
        raise StoreDamaged(f"{error}; what was deleted can't be erased from it: `ragsvc doctor`") from error
    except store_slack.SlackFailed as error:
        raise StorageFull(f"{error}; make room or check permissions, then repeat the command") from error


def file_bytes(path: Path) -> int:
    """Return the size of a file, 0 where there is none: logs and old segments go at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of its name, None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a file's own fsync does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_file(path: Path) -> None:
    """Make an empty file in its folder, both for their owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    point("store.file")
    make_database_file(path)
    path.chmod(0o600)


def make_database_file(path: Path) -> None:
    """Make an empty file for SQLite where there is none, mode 0600, which SQLite gives to its -wal and -shm, too.

    One that is there is not opened: to close it would end all locks that this process has on it (POSIX), and another
    process would then take the log away under it.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask
    finally:
        os.close(descriptor)


def _set_up(connection: Connection, *, readonly: bool) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    if readonly:
        connection.execute("PRAGMA query_only = ON")
    else:
        # What is deleted is zeroed at once, whatever this SQLite was built with; `erase_slack` does the rest.
        connection.execute("PRAGMA secure_delete = ON")


@contextmanager
def read_file(path: Path) -> Iterator[Connection]:
    """Give a connection to a store that nobody writes, a backup: nothing is changed, no log is made beside it."""
    with _translated(path):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def memory() -> Iterator[Connection]:
    """Give a connection to a database that is nowhere but in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def _header(path: Path) -> tuple[int, int]:
    """Return application id and schema version, read-only: even a leftover log is not merged into the file."""
    if store_still.is_still(path):
        with read_still(path, BUSY_SECONDS) as connection:
            return _marks(connection)
    with _translated(path):
        try:
            return patiently(lambda: _marks_of(path, "ro", _shared(path)))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_PROTOCOL:
                return _marks_of(path, "ro")  # the shared memory is what a killed process left: it is made anew
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
        # A creation was killed before the file got its log; what it left half-written must be taken back to be read.
        return _marks_of(path, "rw")


def patiently(read: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Return what a connection reads that can't write, tried a few times: who closes the file last takes its log away.

    For a moment SQLite then finds neither a log nor the right to make one.
    """
    for _ in range(_GLANCES):
        with suppress(sqlite3.OperationalError):
            return read()
        time.sleep(_GLANCE_SECONDS)
    return read()


def _shared(path: Path) -> str:
    # Where others have the store open, not even their shared memory is written to.
    return "&readonly_shm=1" if path.with_name(f"{path.name}-shm").exists() else ""


def _marks_of(path: Path, mode: str, also: str = "") -> tuple[int, int]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}{also}", uri=True)
    try:
        return _marks(connection)
    finally:
        connection.close()


def _marks(connection: Connection) -> tuple[int, int]:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return application, connection.execute("PRAGMA user_version").fetchone()[0]


@contextmanager
def read_still(path: Path, busy_seconds: float) -> Iterator[Connection]:
    """Give a connection inside one read transaction on a file that can't be written (see `store_still`).

    Raises StoreBusy where it was written meanwhile, StorageFull, StoreDamaged.
    """
    try:
        with _translated(path), store_still.read(path, busy_seconds) as connection:
            yield connection
    except store_still.Moved:
        raise StoreBusy(f"{path} was written while it was read from a place that can't write it; try again") from None


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translation(path, error) from error
    except OSError as error:
        if error.errno not in NO_STORAGE:
            raise
        raise StorageFull(f"{path} can't be used: {error}; {_REMEDY}") from error


_REMEDY = "make room, check permissions and the limit of open files (ulimit -n), then repeat"


def _translation(path: Path, error: sqlite3.Error) -> Exception:
    """Map by SQLite's primary result code; a constraint or a misuse is a bug of ours and stays what it is."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _FULL:
        return StorageFull(f"{path} can't be written, and this step was undone: {error}; {_REMEDY}")
    if code in _BUSY:
        return StoreBusy(f"another process is writing to {path} for long; try again")
    if code in _DAMAGED or (not code and _UNREADABLE in str(error)):
        # SQLite says this of some reads that fail, too.
        return StoreDamaged(f"{path} is damaged, or its disk can't be read: {error}; check the disk, `ragsvc doctor`")
    if code == sqlite3.SQLITE_CANTOPEN:
        # SQLite says no more. A file that is there could not be opened, or its log could not be made.
        if path.exists():
            return StorageFull(f"{path} can't be opened: {error}; {_REMEDY}")
        return StoreError(f"{path} is gone; restore it from a backup, or make the collection again")
    return error
