"""The files of SQLite databases: made, opened for one use or another, looked at, erased. Transactions are `store`'s."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from indexes import store_slack, store_still
from indexes.errors import StorageFull, StoreBusy, StoreDamaged
from indexes.failpoints import point
from indexes.store_errors import translated

CACHE_KIB = 16_384
"""Of pages for each connection: SQLite's own 2 MB are 125 such pages."""
LOG_BYTES = 64 << 20
"""What the log is cut back to after a large transaction."""

_GLANCES, _GLANCE_SECONDS = 3, 0.02


def make_file(path: Path) -> None:
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


def connect(path: Path, busy_seconds: float, *, readonly: bool) -> sqlite3.Connection:
    """Return a connection to a database that is there, set up as all of a store's are, outside a transaction."""
    # Never made here: a file that was taken away would come back, empty.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_seconds,
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


def _set_up(connection: sqlite3.Connection, *, readonly: bool) -> None:
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
def read_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to a store that nobody writes, a backup: nothing is changed, no log is made beside it."""
    with translated(path):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()


def header(path: Path, busy_seconds: float) -> tuple[int, int]:
    """Return application id and schema version, read-only: even a leftover log is not merged into the file."""
    if store_still.is_still(path):
        with read_still(path, busy_seconds) as connection:
            return _marks(connection)
    with translated(path):
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


def _marks(connection: sqlite3.Connection) -> tuple[int, int]:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return application, connection.execute("PRAGMA user_version").fetchone()[0]


@contextmanager
def read_still(path: Path, busy_seconds: float) -> Iterator[sqlite3.Connection]:
    """Give a connection inside one read transaction on a file that can't be written (see `store_still`).

    Raises StoreBusy where it was written meanwhile, StorageFull, StoreDamaged.
    """
    try:
        with translated(path), store_still.read(path, busy_seconds) as connection:
            yield connection
    except store_still.Moved:
        raise StoreBusy(f"{path} was written while it was read from a place that can't write it; try again") from None


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


def identity(path: Path) -> tuple[int, int] | None:
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
