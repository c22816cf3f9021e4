"""The one place where SQLite's errors, and those of its files, become ours."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.errors import NO_STORAGE, StorageFull, StoreBusy, StoreDamaged, StoreError

_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_UNREADABLE = "decode to UTF-8"
"""In the error, without a code, of Python's sqlite3 for bytes that are no text."""
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""Primary result codes of a database that was read and is none, or not whole."""
REMEDY = "make room, check permissions and the limit of open files (ulimit -n), then repeat"


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise SQLite's errors, and the system's that no storage means, as this package's; `path` is the database."""
    try:
        yield
    except sqlite3.Error as error:
        raise translation(path, error) from error
    except OSError as error:
        if error.errno not in NO_STORAGE:
            raise
        raise StorageFull(f"{path} can't be used: {error}; {REMEDY}") from error


def translation(path: Path, error: sqlite3.Error) -> Exception:
    """Map by SQLite's primary result code; a constraint or a misuse is a bug of ours and stays what it is."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _FULL:
        return StorageFull(f"{path} can't be written, and this step was undone: {error}; {REMEDY}")
    if code in _BUSY:
        return StoreBusy(f"another process is writing to {path} for long; try again")
    if code in DAMAGED or (not code and _UNREADABLE in str(error)):
        # SQLite says this of some reads that fail, too.
        return StoreDamaged(f"{path} is damaged, or its disk can't be read: {error}; check the disk, `ragsvc doctor`")
    if code == sqlite3.SQLITE_CANTOPEN:
        # SQLite says no more. A file that is there could not be opened, or its log could not be made.
        if path.exists():
            return StorageFull(f"{path} can't be opened: {error}; {REMEDY}")
        return StoreError(f"{path} is gone; restore it from a backup, or make the collection again")
    return error
