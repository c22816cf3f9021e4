"""The file `service.db`: made, migrated, opened; and the one place where its SQLite errors become the service's."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from indexes.errors import StorageFull, StoreBusy, StoreError
from indexes.failpoints import point
from indexes.store_files import make_database_file, patiently, read_still
from ragsvc.errors import ConfigurationError, NoStorage, StorageBusy, StorageFailed
from ragsvc.service_migrations import APPLICATION_ID, PAGE_SIZE, SCHEMA_VERSION, STEPS


def connect(path: Path, busy_seconds: float, mode: Literal["rw", "ro"] = "rw") -> sqlite3.Connection:
    """Return a connection to a file that is there, for use by one thread at a time."""
    # Where others have the file open, one that only looks does not even write to their shared memory.
    shared = "&readonly_shm=1" if mode == "ro" and path.with_name(f"{path.name}-shm").exists() else ""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}{shared}", uri=True, timeout=busy_seconds, isolation_level=None,
        check_same_thread=False,
    )  # fmt: skip
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def immediate(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One transaction, under the write lock from its start; undone by any exception."""
    if connection.in_transaction:  # a disk that failed let the last one not even be undone
        connection.execute("ROLLBACK")
    point("service.begin")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        point("service.commit")
        connection.execute("COMMIT")
        point("service.committed")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def prepare(path: Path, busy_seconds: float) -> None:
    """Make the file where there is none, refuse what is not ours or newer without a change, else migrate."""
    point("service.file")
    make_database_file(path)
    application, version = _marks(path, busy_seconds)
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} has schema {version}, this release knows {SCHEMA_VERSION}: use the release that wrote it"
        )
    if (application, version) == (APPLICATION_ID, SCHEMA_VERSION):
        return
    connection = connect(path, busy_seconds)
    try:
        if application == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise ConfigurationError(f"{path} is another program's database: change RAGSVC_DATA_DIR")
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        point("service.log")
        connection.execute("PRAGMA journal_mode = WAL")
        for number, statements in enumerate(STEPS[version:], start=version + 1):
            with immediate(connection):
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
    finally:
        connection.close()


def _marks(path: Path, busy_seconds: float) -> tuple[int, int]:
    """Return application id and schema version, through a connection that can't write if that will do."""
    try:
        application, version = patiently(lambda: _read_marks(path, busy_seconds, "ro"))
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        # A creation was killed before the file got its log; what it left half-written must be taken back to be read.
        application, version = _read_marks(path, busy_seconds, "rw")
    if application not in (0, APPLICATION_ID):
        raise ConfigurationError(f"{path} is another program's database: change RAGSVC_DATA_DIR")
    return application, version


def _read_marks(path: Path, busy_seconds: float, mode: Literal["rw", "ro"]) -> tuple[int, int]:
    with closing(connect(path, busy_seconds, mode)) as connection:
        return _marks_in(connection)


def _marks_in(connection: sqlite3.Connection) -> tuple[int, int]:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return application, connection.execute("PRAGMA user_version").fetchone()[0]


def require_current(path: Path, busy_seconds: float) -> None:
    """Raise ConfigurationError for a file that can only be read, and is not of this release's schema."""
    with reading_still(path, busy_seconds) as connection:
        found = _marks_in(connection)
    if found != (APPLICATION_ID, SCHEMA_VERSION):
        raise ConfigurationError(
            f"{path} can't be written and is of another schema than this release's: use the release that wrote it, or "
            "open it once where it can be written"
        )


@contextmanager
def reading_still(path: Path, busy_seconds: float) -> Iterator[sqlite3.Connection]:
    """Read a file that can't be written."""
    try:
        with read_still(path, busy_seconds) as connection:
            yield connection
    except StoreBusy as error:
        raise StorageBusy(str(error)) from None
    except StorageFull as error:
        raise NoStorage(str(error)) from None
    except StoreError as error:
        raise StorageFailed(str(error)) from None


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into the service's."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended codes carry the plain one in their low byte
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StorageBusy(f"another process held {path} for longer than the wait: try again") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StorageFailed(f"{path} is damaged ({error}): restore it from a backup") from error
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            raise NoStorage(
                f"{path} can't be used, and this step was undone ({error}): make room, check permissions and the limit "
                "of open files (ulimit -n), then repeat"
            ) from error
        raise StorageFailed(f"{path}: {error}") from error
