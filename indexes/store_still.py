"""Reading a SQLite file in WAL mode where nothing can be written: a read-only disk, or somebody else's folder.

SQLite reads such a file only if its -wal and -shm are there, or if it is told that the file is `immutable`
(https://www.sqlite.org/wal.html#read_only_databases). It is immutable as long as nobody has it open to write, and who
has keeps a -wal beside it; so each read looks before and after whether the file stood still.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_Stamp = tuple[int, int, int, bool]


class Moved(Exception):
    """The file was written while it was read."""


def is_still(path: Path) -> bool:
    """Whether this process can write neither the file nor beside it. Nor can root on a disk that is read-only."""
    return path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


@contextmanager
def read(path: Path, busy_seconds: float) -> Iterator[sqlite3.Connection]:
    """Give a connection inside one read transaction. Raises Moved at the end, and sqlite3.Error.

    A log that a killed process left is read with the file where its -shm is there, too; else SQLite refuses.
    """
    before = _stamp(path)
    with closing(_connect(path, busy_seconds, immutable=not before[-1])) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        yield connection
    if _stamp(path) != before:
        raise Moved


def _connect(path: Path, busy_seconds: float, *, immutable: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    return sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False)


def _stamp(path: Path) -> _Stamp:
    """Inode, size and time of the file, and whether it has a log with something in it."""
    found = path.stat()
    log = path.with_name(f"{path.name}-wal")
    return found.st_ino, found.st_size, found.st_mtime_ns, log.exists() and log.stat().st_size > 0
