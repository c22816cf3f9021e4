"""`service.db`: the collections of a data directory, its jobs, and the ledger of what was spent.

The SQL of the jobs stands in `job_store`, which works in the transactions of this store. Readers and the writer have a
connection each, so that a question never waits for a commit; another process's commits are seen by the next read.
"""

import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from indexes.errors import NO_STORAGE, StorageFull, StoreBusy, StoreDamaged
from indexes.store_files import erased_slack
from indexes.store_still import is_still
from ragsvc.errors import (
    BadRequest,
    CollectionBusy,
    CollectionExists,
    ConfigurationError,
    NoStorage,
    StorageBusy,
    StorageFailed,
    UnknownCollection,
)
from ragsvc.ledger import Dimension, LedgerBuffer, LedgerEntry, UsageRow
from ragsvc.service_file import connect, immediate, prepare, reading_still, require_current, translated

FILE_NAME = "service.db"
BUSY_SECONDS = 10.0

Connection = sqlite3.Connection
CollectionState = Literal["creating", "ready", "removing"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_COLLECTION = "SELECT id, name, state, created_at, iif(folder = '', id, folder) FROM collection"
_GROUPS: dict[Dimension, str] = {
    "day": "substr(at, 1, 10)",
    "purpose": "purpose",
    "role": "role",
    "model": "model",
    "provider": "provider",
    "collection": "collection",
}


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """A collection as it is listed."""

    id: str
    """Six characters of a-z and 0-9, a part of its documents' ids."""
    name: str
    state: CollectionState
    created_at: str
    """RFC 3339, UTC."""
    folder: str
    """Name below `collections`: its id, and with something behind it once a backup was restored."""


class ServiceStore:
    """One data directory's `service.db`. Safe for many threads and many processes."""

    def __init__(self, path: Path, busy_seconds: float = BUSY_SECONDS) -> None:
        """Use `open`: it makes and checks the file."""
        self.path = path
        self._busy_seconds = busy_seconds
        self.read_only = is_still(path)
        """Whether the file could only be read when it was opened: it stays so until it is opened again."""
        if not self.read_only:  # else each read has a connection of its own: see `indexes.store_still`
            self._read, self._write = connect(path, busy_seconds), connect(path, busy_seconds)
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._ledger = LedgerBuffer(self._append)

    @classmethod
    def open(cls, data_dir: Path, busy_seconds: float = BUSY_SECONDS) -> "ServiceStore":
        """Open the store of a data directory, made (folder 0700, file 0600) and migrated where that is needed.

        Where nothing can be written, a store of this release's schema is only read. Raises ConfigurationError for a
        folder that can't be used and for a store of another schema that can't be migrated, which stays as it is;
        NoStorage for a full disk, StorageFailed for a damaged file; StorageBusy when another process holds it for
        longer than the wait.
        """
        path = data_dir / FILE_NAME
        if is_still(path):
            require_current(path, busy_seconds)
            return cls(path, busy_seconds)
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(data_dir / "service.lock", timeout=busy_seconds, mode=0o600), translated(path):
                prepare(path, busy_seconds)
        except Timeout:
            raise StorageBusy(f"another process has held {path} for {busy_seconds:g} s: try again") from None
        except OSError as error:
            if error.errno in NO_STORAGE and path.exists():
                raise NoStorage(
                    f"the data directory can't be written: {error.strerror}: {error.filename}; make room, then repeat"
                ) from None
            raise ConfigurationError(
                f"the data directory can't be used: {error.strerror}: {error.filename}; change RAGSVC_DATA_DIR"
            ) from None
        with translated(path):
            return cls(path, busy_seconds)

    def close(self) -> None:
        """Commit what the ledger still holds, and close. Raises StorageFailed or StorageBusy if it can't be written."""
        try:
            self._ledger.close()
        finally:
            with self._reading, self._writing:
                if not self.read_only:
                    self._read.close()
                    self._write.close()

    def collections(self) -> tuple[CollectionRow, ...]:
        """Return all collections by name."""
        return tuple(CollectionRow(*row) for row in self.rows(f"{_COLLECTION} ORDER BY name"))

    def collection(self, name: str) -> CollectionRow | None:
        """Return a ready collection, None where there is none of that name."""
        rows = self.rows(f"{_COLLECTION} WHERE name = ? AND state = 'ready'", name)
        return CollectionRow(*rows[0]) if rows else None

    def collection_of_id(self, collection_id: str) -> CollectionRow | None:
        """Return a ready collection, None where there is none of that id."""
        rows = self.rows(f"{_COLLECTION} WHERE id = ? AND state = 'ready'", collection_id)
        return CollectionRow(*rows[0]) if rows else None

    def add_collection(self, collection_id: str, name: str, folder: str | None = None) -> None:
        """List a collection whose folder (None: its id) is complete: its row comes last.

        Raises BadRequest for a name that may not be, CollectionExists for one (or an id) that is taken.
        """
        check_name(name)
        with self.transaction() as connection:
            try:
                connection.execute(
                    "INSERT INTO collection (id, name, state, created_at, folder) VALUES (?, ?, 'ready', ?, ?)",
                    (collection_id, name, stamp(datetime.now(UTC)), folder or collection_id),
                )
            except sqlite3.IntegrityError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_CHECK:
                    raise BadRequest(f"{collection_id!r} is no id of a collection: six of a-z and 0-9") from None
                raise CollectionExists(f"there is a collection {name!r} already; take another name") from None

    def replace_collection(self, standing: CollectionRow, collection_id: str, folder: str) -> int:
        """Let a collection's row name another folder, and another id; return how many unfinished jobs went with it.

        Those are done anew, whole: what they had made visible stood in the folder that goes. Raises CollectionBusy
        where the row is not `standing` any more, or the id is another collection's.
        """
        with self.transaction() as connection:
            try:
                changed = connection.execute(
                    "UPDATE collection SET id = ?, folder = ?, created_at = ? WHERE name = ? AND id = ? AND folder = ?",
                    (collection_id, folder, stamp(datetime.now(UTC)), standing.name, standing.id, standing.folder),
                ).rowcount
            except sqlite3.IntegrityError:
                changed = 0
            if changed != 1:
                raise CollectionBusy(f"collection {standing.name} was changed meanwhile; repeat the command")
            jobs = connection.execute(
                """UPDATE job SET collection_id = ?, not_before = NULL
                   WHERE collection_id = ? AND state IN ('queued', 'running', 'waiting') RETURNING seq""",
                (collection_id, standing.id),
            ).fetchall()
            connection.executemany(
                """UPDATE job_file SET state = 'pending', document_id = NULL
                   WHERE job_seq = ? AND state IN ('applied', 'unchanged')""",
                jobs,
            )
        return len(jobs)

    def remove_collection(self, name: str, *, idle: bool = False) -> CollectionRow:
        """Take a collection from the list, before its folder goes, and return its row. Raises UnknownCollection.

        Its unfinished jobs are cancelled in the same transaction; with `idle` they are a CollectionBusy instead.
        """
        with self.transaction() as connection:
            found = connection.execute(f"{_COLLECTION} WHERE name = ?", (name,)).fetchone()
            if found is None:
                raise UnknownCollection(f"there is no collection {name!r}; `ragsvc collections list` shows them")
            row = found[:1]
            unfinished = connection.execute(
                "SELECT 1 FROM job WHERE collection_id = ? AND state IN ('queued', 'running', 'waiting') LIMIT 1", row
            )
            if idle and unfinished.fetchone():
                raise CollectionBusy(f"collection {name} has unfinished jobs; wait for their end, or cancel them")
            connection.execute("DELETE FROM collection WHERE id = ?", row)
            connection.execute(
                """UPDATE job_file SET state = 'cancelled' WHERE state = 'pending' AND job_seq IN
                   (SELECT seq FROM job WHERE collection_id = ? AND state IN ('queued', 'running', 'waiting'))""",
                row,
            )
            connection.execute(
                """UPDATE job SET state = 'cancelled', error_code = 'unknown_collection', finished_at = ?,
                       error = 'its collection was removed'
                   WHERE collection_id = ? AND state IN ('queued', 'running', 'waiting')""",
                (stamp(datetime.now(UTC)), row[0]),
            )
        return CollectionRow(*found)

    def record(self, entry: LedgerEntry) -> None:
        """Write a row of the ledger within 200 ms, together with its neighbours. Costs the caller an append.

        Where nothing can be written, nothing is: `/readyz` says so.
        """
        if not self.read_only:
            self._ledger.add(entry)

    def usage(self, since: datetime | None = None, group_by: Sequence[Dimension] = ("day",)) -> tuple[UsageRow, ...]:
        """Return sums over the ledger since a moment (with a time zone), in the order of the groups.

        Rows that this process still holds are committed first. An empty `group_by` gives one row, of everything.
        Raises BadRequest for a group that is not known.
        """
        unknown = [name for name in group_by if name not in _GROUPS]
        if unknown:
            raise BadRequest(f"usage can't be grouped by {', '.join(unknown)}; by {', '.join(_GROUPS)} it can")
        self._ledger.flush()
        columns = [_GROUPS[name] for name in group_by]
        grouped = f"GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else ""
        rows = self.rows(
            f"SELECT {''.join(f'{column}, ' for column in columns)}"  # noqa: S608 - columns of _GROUPS
            "count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), total(cost_usd), "
            f"count(*) - count(cost_usd) FROM ledger WHERE at >= ? {grouped}",
            "" if since is None else stamp(since),
        )
        width = len(columns)
        return tuple(UsageRow(dict(zip(group_by, row[:width], strict=True)), *row[width:]) for row in rows)

    def _append(self, entries: Sequence[LedgerEntry]) -> None:
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO ledger (at, purpose, role, model, provider, input_tokens, output_tokens, cost_usd, "
                "collection, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (stamp(entry.at), entry.purpose, entry.role, entry.model, entry.provider, entry.input_tokens,
                     entry.output_tokens, entry.cost_usd, entry.collection, entry.outcome)
                    for entry in entries
                ],
            )  # fmt: skip

    def erase_slack(self, wait_seconds: float) -> None:
        """Empty the log and zero what was deleted, wherever it stands in the file. Raises StorageBusy, StorageFailed.

        Rows that the ledger of this process still holds are committed first.
        """
        self._ledger.flush()
        try:
            erased_slack(self.path, wait_seconds)
        except StoreBusy as error:
            raise StorageBusy(str(error)) from error
        except StorageFull as error:
            raise NoStorage(str(error)) from error
        except StoreDamaged as error:
            raise StorageFailed(str(error)) from error

    def integrity(self) -> list[str]:
        """Return what is wrong with the file, at most 20 messages, and which rows name others that are gone."""
        rows = self.rows("PRAGMA integrity_check(20)")
        found = [str(row[0]) for row in rows if row[0] != "ok"]
        for table in ("job_file", "job_event"):
            [(lost,)] = self.rows(f"SELECT count(*) FROM {table} WHERE job_seq NOT IN (SELECT seq FROM job)")  # noqa: S608
            found += [f"{lost} rows of {table} belong to no job"] if lost else []
        return found

    def rows(self, statement: str, *values: str | int) -> list[tuple[Any, ...]]:
        """Return what a SELECT finds. Raises StorageBusy, StorageFailed."""
        if self.read_only:
            with reading_still(self.path, self._busy_seconds) as connection:
                return connection.execute(statement, values).fetchall()
        with self._reading, translated(self.path):
            return self._read.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection inside one transaction, durable when the block ends, undone by an exception."""
        if self.read_only:
            raise NoStorage(f"{self.path} can only be read: give this user the right to write it, then start again")
        with self._writing, translated(self.path), immediate(self._write) as connection:
            yield connection


def check_name(name: str) -> None:
    """Raise BadRequest unless `name` may be a collection's."""
    if _NAME.fullmatch(name) is None:
        raise BadRequest(
            f"{name!r} can't be a collection's name: 1 to 64 of a-z, 0-9, - and _, and the first is a letter or digit"
        )


def stamp(moment: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds: such texts sort as their times do."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
