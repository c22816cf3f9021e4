"""The jobs in `service.db`: all their SQL. Every change is one durable transaction."""

import json
import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ingest.types import Rejection
from ragsvc.errors import JobFinished, UnknownCollection, UnknownJob
from ragsvc.jobs import EventKind, FileState, Job, JobEvent, JobFile, JobKind, JobState, Metadata, NewFile
from ragsvc.service_store import Connection, ServiceStore, stamp

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 20
_UNFINISHED = "('queued', 'running', 'waiting')"
_JOB = """
    SELECT j.id, j.kind, j.collection_id, j.collection, j.state, j.details,
           (SELECT count(*) FROM job_file f WHERE f.job_seq = j.seq AND f.state <> 'pending'),
           (SELECT count(*) FROM job_file f WHERE f.job_seq = j.seq),
           j.inputs_done, j.inputs_total, j.tokens, j.cost_usd, j.error_code, j.error, j.attempts, j.cancel_requested,
           j.created_at, j.started_at, j.finished_at
    FROM job j
"""
_FILE = """
    SELECT path, content_hash, start, size, received_ns, state, reason, coalesce(detail, ''), document_id, deaths
    FROM job_file WHERE job_seq = (SELECT seq FROM job WHERE id = ?) ORDER BY number
"""


def new_job_id() -> str:
    """Return an id that no job has: it is a file's name as well, so it has nothing in it but a-z, 0-9 and `job_`."""
    return f"job_{''.join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))}"


class JobStore:
    """The jobs of a data directory. Safe for many threads and many processes; every call blocks."""

    def __init__(self, store: ServiceStore) -> None:
        """`store` is closed by who opened it."""
        self._store = store

    # Reading

    def job(self, job_id: str) -> Job:
        """Return one job. Raises UnknownJob."""
        rows = self._store.rows(f"{_JOB} WHERE j.id = ?", job_id)
        if not rows:
            raise UnknownJob("there is no such job; GET /jobs lists them")
        return _job(rows[0])

    def jobs(self, limit: int, after: str | None = None) -> tuple[tuple[Job, ...], str | None]:
        """Return up to `limit` jobs, newest first, older than the job `after`, and the cursor of the next page.

        Raises UnknownJob for a cursor that no job has.
        """
        where, values = "", list[str | int]()
        if after is not None:
            self.job(after)
            where, values = "WHERE j.seq < (SELECT seq FROM job WHERE id = ?)", [after]
        rows = self._store.rows(f"{_JOB} {where} ORDER BY j.seq DESC LIMIT ?", *values, limit + 1)
        found = tuple(_job(row) for row in rows[:limit])
        return found, found[-1].id if len(rows) > limit else None

    def files(self, job_id: str) -> tuple[JobFile, ...]:
        """Return the documents of a job in the order they came, empty for an unknown one."""
        return tuple(JobFile(*row) for row in self._store.rows(_FILE, job_id))

    def events(self, job_id: str) -> tuple[JobEvent, ...]:
        """Return the steps of a job, oldest first."""
        rows = self._store.rows(
            "SELECT at, kind, path, detail FROM job_event WHERE job_seq = (SELECT seq FROM job WHERE id = ?) "
            "ORDER BY id",
            job_id,
        )
        return tuple(JobEvent(*row) for row in rows)

    def unfinished(self) -> frozenset[str]:
        """Return the ids of the jobs that are not finished."""
        rows = self._store.rows(f"SELECT id FROM job WHERE state IN {_UNFINISHED}")  # noqa: S608 - a constant
        return frozenset(row[0] for row in rows)

    def waiting(self) -> tuple[Job, ...]:
        """Return the jobs that wait for an upstream, oldest first."""
        return tuple(_job(row) for row in self._store.rows(f"{_JOB} WHERE j.state = 'waiting' ORDER BY j.seq"))

    def spooled_bytes(self) -> int:
        """Return the bytes that unfinished jobs keep on the disk."""
        rows = self._store.rows(
            f"SELECT coalesce(sum(size), 0) FROM job_file WHERE job_seq IN (SELECT seq FROM job WHERE state IN "  # noqa: S608
            f"{_UNFINISHED})"
        )
        return int(rows[0][0])

    def due(self) -> tuple[str, ...]:
        """Return the ids of the collections whose oldest unfinished job may be worked on now."""
        rows = self._store.rows(
            f"SELECT collection_id FROM job WHERE seq IN (SELECT min(seq) FROM job WHERE state IN {_UNFINISHED} "  # noqa: S608
            "GROUP BY collection_id) AND (not_before IS NULL OR not_before <= ?) ORDER BY seq",
            _now(),
        )
        return tuple(row[0] for row in rows)

    def pending(self, job_id: str) -> frozenset[str]:
        """Return the paths of a job that are still to be decided: neither done nor removed before it came to them."""
        rows = self._store.rows(
            "SELECT path FROM job_file WHERE state = 'pending' AND job_seq = (SELECT seq FROM job WHERE id = ?)",
            job_id,
        )
        return frozenset(row[0] for row in rows)

    def cancel_requested(self, job_id: str) -> bool:
        """Whether somebody wants a job to stop; also when it is not there any more."""
        rows = self._store.rows("SELECT cancel_requested OR state = 'cancelled' FROM job WHERE id = ?", job_id)
        return not rows or bool(rows[0][0])

    def held_up(self, job_id: str, except_for: Sequence[str] = ()) -> bool:
        """Whether a job, or one of its collection before it, waits, for other reasons (codes) than those."""
        marks = ", ".join("?" * len(except_for))
        rows = self._store.rows(
            "SELECT 1 FROM job j JOIN job w ON w.collection_id = j.collection_id AND w.seq <= j.seq "  # noqa: S608 - marks
            f"WHERE j.id = ? AND w.state = 'waiting' AND w.error_code NOT IN ({marks})",
            job_id,
            *except_for,
        )
        return bool(rows)

    # From acceptance to the end

    def add_upload(self, job_id: str, collection_id: str, files: Sequence[NewFile], metadata: Metadata) -> Job:
        """Accept an upload whose bytes are durable: from here on it will be done. Raises UnknownCollection."""
        with self._store.transaction() as connection:
            row = connection.execute(
                "SELECT name FROM collection WHERE id = ? AND state = 'ready'", (collection_id,)
            ).fetchone()
            if row is None:
                raise UnknownCollection("the collection was removed while the upload came in")
            kind: JobKind = "upload"
            details = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
            seq = connection.execute(
                "INSERT INTO job (id, kind, collection_id, collection, state, details, created_at) "
                "VALUES (?, ?, ?, ?, 'queued', ?, ?) RETURNING seq",
                (job_id, kind, collection_id, row[0], details, _now()),
            ).fetchone()[0]
            connection.executemany(
                "INSERT INTO job_file (job_seq, number, path, content_hash, start, size, received_ns, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, 'pending')",
                (
                    (seq, number, file.path, file.content_hash, file.start, file.size, file.received_ns)
                    for number, file in enumerate(files, 1)
                ),
            )
            _event(connection, seq, "accepted", f"{len(files)} documents")
        return self.job(job_id)

    def claim(self, collection_id: str) -> Job | None:
        """Begin the oldest unfinished job of a collection, None where there is none that is due.

        For who holds the collection's job lock: a job that was `running` before belonged to a process that died.
        """
        with self._store.transaction() as connection:
            row = connection.execute(
                f"SELECT seq, id, state, not_before FROM job WHERE collection_id = ? AND state IN {_UNFINISHED} "  # noqa: S608
                "ORDER BY seq LIMIT 1",
                (collection_id,),
            ).fetchone()
            if row is None or (row[3] is not None and row[3] > _now()):
                return None
            seq, job_id, state, _ = row
            connection.execute(
                "UPDATE job SET state = 'running', attempts = attempts + 1, not_before = NULL, error_code = NULL, "
                "error = NULL, inputs_done = 0, inputs_total = 0, started_at = coalesce(started_at, ?) WHERE seq = ?",
                (_now(), seq),
            )
            _event(connection, seq, "started" if state == "queued" else "resumed")
        return self.job(job_id)

    def progress(self, job_id: str, inputs_done: int, inputs_total: int, tokens: int, cost_usd: float | None) -> None:
        """Note how far a running job is; `tokens` and `cost_usd` are added to what it had.

        A process that got as far as that is not held to have died of its documents.
        """
        with self._store.transaction() as connection:
            connection.execute(
                "UPDATE job SET inputs_done = ?, inputs_total = ?, tokens = tokens + ?, cost_usd = cost_usd + ?, "
                "attempts = iif(? > 0, 1, attempts) WHERE id = ?",
                (inputs_done, inputs_total, tokens, cost_usd, inputs_done, job_id),
            )

    def applied(self, job_id: str, documents: Mapping[str, str]) -> None:
        """Note that documents (path -> id) are visible."""
        self._decide(job_id, "applied", [(document, path) for path, document in documents.items()], "document_id")

    def unchanged(self, job_id: str, paths: Iterable[str]) -> None:
        """Note that what stands at these paths is what was uploaded."""
        self._decide(job_id, "unchanged", [(None, path) for path in paths], "document_id")

    def rejected(self, job_id: str, rejections: Sequence[Rejection]) -> None:
        """Note that documents can't be indexed, and why."""
        if not rejections:
            return
        with self._store.transaction() as connection:
            seq = _seq(connection, job_id)
            for rejection in rejections:
                changed = connection.execute(
                    "UPDATE job_file SET state = 'rejected', reason = ?, detail = ? "
                    "WHERE job_seq = ? AND path = ? AND state = 'pending'",
                    (rejection.reason, rejection.detail, seq, rejection.path),
                ).rowcount
                if changed:
                    said = f"{rejection.reason}: {rejection.detail}" if rejection.detail else rejection.reason
                    _event(connection, seq, "rejected", said, rejection.path)

    def _decide(self, job_id: str, state: FileState, values: list[tuple[str | None, str]], column: str) -> None:
        if not values:
            return
        with self._store.transaction() as connection:
            seq = _seq(connection, job_id)
            connection.executemany(
                f"UPDATE job_file SET state = '{state}', {column} = ? "  # noqa: S608 - names of our own
                f"WHERE job_seq = {seq} AND path = ? AND state = 'pending'",
                values,
            )
            # A process that got as far as that did not die of these documents.
            connection.execute("UPDATE job SET attempts = min(attempts, 1) WHERE seq = ?", (seq,))

    def put_back(self, job_id: str) -> None:
        """Let a running job be taken again later, by this process or another: it was stopped in order."""
        self._later(job_id, "queued", None, None, 0.0)

    def let_wait(self, job_id: str, code: str, error: str, seconds: float) -> None:
        """Let a running job wait for `seconds`, and say why."""
        self._later(job_id, "waiting", code, error, seconds)

    def _later(self, job_id: str, state: JobState, code: str | None, error: str | None, seconds: float) -> None:
        with self._store.transaction() as connection:
            changed = connection.execute(
                "UPDATE job SET state = ?, error_code = ?, error = ?, attempts = 0, not_before = ? "
                "WHERE id = ? AND state = 'running' RETURNING seq",
                (state, code, error, stamp(datetime.now(UTC) + timedelta(seconds=seconds)), job_id),
            ).fetchone()
            if changed and code is not None:
                _event(connection, changed[0], "waiting", code or "")

    def finish(self, job_id: str, state: JobState, code: str | None = None, error: str | None = None) -> None:
        """End a running job. What it has not decided is decided by its end."""
        with self._store.transaction() as connection:
            _finish(connection, job_id, state, code, error, "('running')")

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that nobody works on, or ask who does to stop it. Raises UnknownJob, JobFinished."""
        with self._store.transaction() as connection:
            row = connection.execute("SELECT state FROM job WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                raise UnknownJob("there is no such job; GET /jobs lists them")
            if row[0] == "running":
                connection.execute("UPDATE job SET cancel_requested = 1 WHERE id = ?", (job_id,))
            elif not _finish(connection, job_id, "cancelled", None, None, "('queued', 'waiting')"):
                raise JobFinished(f"the job is {row[0]}; there is nothing left to cancel")
        return self.job(job_id)

    def withdraw(self, collection_id: str, path: str | None = None, document_id: str | None = None) -> None:
        """Take a path (None: every path) out of all unfinished jobs: its document was removed after they came.

        They remember which document that was, so that a later purge of it erases what waits of it here.
        """
        chosen, values = ("AND path = ?", [path]) if path is not None else ("", [])
        with self._store.transaction() as connection:
            rows = connection.execute(
                "UPDATE job_file SET state = 'withdrawn', document_id = ? WHERE state = 'pending' "  # noqa: S608
                f"AND job_seq IN (SELECT seq FROM job WHERE collection_id = ? AND state IN {_UNFINISHED}) {chosen} "
                "RETURNING job_seq, path",
                (document_id, collection_id, *values),
            ).fetchall()
            for seq, withdrawn in rows:
                _event(connection, seq, "withdrawn", "its document was removed by hand", withdrawn)

    def bodies_of(self, collection_id: str, document_id: str, path: str | None) -> tuple[tuple[str, int, int], ...]:
        """Return (job id, start, size) of what unfinished jobs hold of a document, or of an uploaded `path`."""
        rows = self._store.rows(
            "SELECT j.id, f.start, f.size FROM job_file f JOIN job j ON j.seq = f.job_seq "  # noqa: S608 - a constant
            f"WHERE j.collection_id = ? AND j.state IN {_UNFINISHED} AND (f.document_id = ? OR f.path = ?)",
            collection_id,
            document_id,
            path or "",
        )
        return tuple((job_id, start, size) for job_id, start, size in rows)

    def strip(self, collection_id: str, document_id: str, path: str | None) -> None:
        """Remove every trace of a document, and of an uploaded `path`, from all jobs of a collection.

        A job that had nothing else loses its metadata, and is gone once it is finished; one that stays forgets the
        text of its error, which may name the path.
        """
        with self._store.transaction() as connection:
            files = connection.execute(
                "SELECT f.job_seq, f.number, f.path FROM job_file f JOIN job j ON j.seq = f.job_seq "
                "WHERE j.collection_id = ? AND (f.document_id = ? OR f.path = ?)",
                (collection_id, document_id, path or ""),
            ).fetchall()
            for seq, number, name in files:
                connection.execute("DELETE FROM job_file WHERE job_seq = ? AND number = ?", (seq, number))
                connection.execute("DELETE FROM job_event WHERE job_seq = ? AND path = ?", (seq, name))
                connection.execute("UPDATE job SET error = NULL WHERE seq = ?", (seq,))
                if connection.execute("SELECT 1 FROM job_file WHERE job_seq = ? LIMIT 1", (seq,)).fetchone():
                    continue
                connection.execute("UPDATE job SET details = '{}' WHERE seq = ?", (seq,))
                gone = connection.execute(
                    f"DELETE FROM job WHERE seq = ? AND state NOT IN {_UNFINISHED}",  # noqa: S608 - a constant
                    (seq,),
                )
                if gone.rowcount:
                    connection.execute("DELETE FROM job_event WHERE job_seq = ?", (seq,))

    def erase_slack(self, wait_seconds: float) -> None:
        """Erase from the file what was deleted from it. Raises StorageBusy, StorageFailed."""
        self._store.erase_slack(wait_seconds)

    def wake(self) -> None:
        """Let all waiting jobs be tried again: something may have changed."""
        with self._store.transaction() as connection:
            connection.execute("UPDATE job SET not_before = NULL WHERE state = 'waiting'")

    def forget(self, days: float, most: int) -> None:
        """Drop finished jobs older than `days`, and the oldest of those beyond the `most` newest."""
        before = stamp(datetime.now(UTC) - timedelta(days=days))
        with self._store.transaction() as connection:
            old = connection.execute(
                f"SELECT seq FROM job WHERE state NOT IN {_UNFINISHED} AND (finished_at < ? OR seq <= (SELECT seq "  # noqa: S608
                "FROM job ORDER BY seq DESC LIMIT 1 OFFSET ?))",
                (before, most),
            ).fetchall()
            for table, column in (("job_event", "job_seq"), ("job_file", "job_seq"), ("job", "seq")):
                connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", old)  # noqa: S608 - constants

    # Documents that kill their readers

    def reading(self, job_id: str, path: str) -> None:
        """Count a death for a document that is about to be read; `read` takes it back."""
        self._count_death(job_id, path, 1)

    def read(self, job_id: str, path: str) -> None:
        """Note that reading a document did not end the process."""
        self._count_death(job_id, path, -1)

    def _count_death(self, job_id: str, path: str, change: int) -> None:
        with self._store.transaction() as connection:
            connection.execute(
                "UPDATE job_file SET deaths = deaths + ? WHERE job_seq = ? AND path = ?",
                (change, _seq(connection, job_id), path),
            )


def _finish(
    connection: Connection, job_id: str, state: JobState, code: str | None, error: str | None, states: str
) -> bool:
    row = connection.execute(
        f"UPDATE job SET state = ?, error_code = ?, error = ?, attempts = 0, not_before = NULL, finished_at = ? "  # noqa: S608
        f"WHERE id = ? AND state IN {states} RETURNING seq",
        (state, code, error, _now(), job_id),
    ).fetchone()
    if row is None:
        return False
    connection.execute("UPDATE job_file SET state = 'cancelled' WHERE job_seq = ? AND state = 'pending'", row)
    _event(connection, row[0], _ENDS[state], code or "")
    return True


_ENDS: Mapping[JobState, EventKind] = {"done": "done", "failed": "failed", "cancelled": "cancelled"}


def _seq(connection: Connection, job_id: str) -> int:
    row = connection.execute("SELECT seq FROM job WHERE id = ?", (job_id,)).fetchone()
    return -1 if row is None else int(row[0])


def _event(connection: Connection, seq: int, kind: EventKind, detail: str = "", path: str | None = None) -> None:
    connection.execute(
        "INSERT INTO job_event (job_seq, at, kind, path, detail) VALUES (?, ?, ?, ?, ?)",
        (seq, _now(), kind, path, detail),
    )


def _job(row: tuple[Any, ...]) -> Job:
    return Job(
        id=row[0],
        kind=row[1],
        collection_id=row[2],
        collection=row[3],
        state=row[4],
        metadata=json.loads(row[5]),
        done=row[6],
        total=row[7],
        inputs_done=row[8],
        inputs_total=row[9],
        tokens=row[10],
        cost_usd=row[11],
        error_code=row[12],
        error=row[13],
        attempts=row[14],
        cancelling=bool(row[15]),
        created_at=row[16],
        started_at=row[17],
        finished_at=row[18],
    )


def _now() -> str:
    return stamp(datetime.now(UTC))
