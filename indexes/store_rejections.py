"""The statements on rejected files. Each function runs in its caller's transaction."""

from collections.abc import Iterable

from indexes.store import Connection
from indexes.store_documents import below, signed, unsigned
from indexes.types import FileStat, RejectedFile


def known(connection: Connection, source_id: int, under: str) -> dict[str, RejectedFile]:
    """Return the rejected files of a source, or of the folder `under` in it, by path."""
    where, values = below("path", under)
    rows = connection.execute(
        f"""SELECT path, reason, detail, readers, size, mtime_ns, inode, scanned_ns FROM rejection
            WHERE source_id = ? {where}""",  # noqa: S608 - constants
        (source_id, *values),
    )
    return {
        path: RejectedFile(path, reason, detail, FileStat(size, mtime_ns, unsigned(inode), scanned_ns), readers)
        for path, reason, detail, readers, size, mtime_ns, inode, scanned_ns in rows
    }


def remember(connection: Connection, source_id: int, rejections: Iterable[RejectedFile]) -> None:
    """Keep rejected files, each in place of what was known of its path."""
    connection.executemany(
        """INSERT OR REPLACE INTO rejection
               (source_id, path, reason, detail, readers, size, mtime_ns, inode, scanned_ns)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            (
                *(source_id, rejected.path, rejected.reason, rejected.detail, rejected.readers),
                *(rejected.stat.size, rejected.stat.mtime_ns, signed(rejected.stat.inode), rejected.stat.scanned_ns),
            )
            for rejected in rejections
        ),
    )


def forget(connection: Connection, source_id: int, paths: Iterable[str]) -> None:
    """Drop what is known of paths."""
    connection.executemany(
        "DELETE FROM rejection WHERE source_id = ? AND path = ?", ((source_id, path) for path in paths)
    )


def count(connection: Connection) -> int:
    """Return how many files of all sources are rejected."""
    number: int = connection.execute("SELECT count(*) FROM rejection").fetchone()[0]
    return number
