"""Works on the jobs of a data directory, in a server: what was accepted is done, once, whoever dies meanwhile.

Each collection's jobs are driven by the one process that holds the collection's job lock; another server takes over
when the lock is free. A failure of an upstream lets a job wait and be tried again: after a growing while where the same
request may succeed later, else (no quota, no key) after PROBE_SECONDS or a restart, so that it is asked once and not
over and over.
"""

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from filelock import FileLock, Timeout

from indexes.errors import (
    NO_STORAGE,
    IndexesError,
    NotFound,
    SpecMismatch,
    StorageFull,
    StoreBusy,
    StoreClosed,
    StoreTooNew,
)
from ingest.errors import IngestError, RunLocked, SpecChanged, VocabularyError
from ragsvc.errors import NoStorage, RagsvcError, StorageBusy, StorageFailed, UnknownCollection, UploadLost
from ragsvc.job_store import JobStore
from ragsvc.jobs import Job
from ragsvc.upload_run import Stopped, in_thread

JOB_LOCK = "jobs.lock"
POLL_SECONDS = 1.0
"""Between two looks for what another process accepted, cancelled or left behind."""
FIRST_WAIT, LONGEST_WAIT = 5.0, 900.0
"""Seconds: the wait after failure n (from 0) of an upstream is FIRST_WAIT * 2**n, at most LONGEST_WAIT."""
PROBE_SECONDS = 900.0
MOST_AT_ONCE = 3
"""Collections that a process works on at once: what reads documents takes threads and memory that questions need."""
MAX_ATTEMPTS = 8
"""Begun and not ended in order: beyond the deaths that single documents are held responsible for."""
_TIDY_SECONDS = 600.0
_REST_SECONDS = 30.0
"""After a collection, or the list of jobs, could not be used at all."""
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (RunLocked, "run_locked"),
    (NotFound, "not_found"),
    (StoreClosed, "collection_changed"),
    (SpecMismatch, "spec_mismatch"),
    (SpecChanged, "spec_mismatch"),
    (StoreBusy, "store_busy"),
    (Timeout, "store_busy"),
    (StorageFull, "storage_full"),
    (StoreTooNew, "store_too_new"),
    (IndexesError, "store_unavailable"),
    (VocabularyError, "vocabulary"),
    (OSError, "storage_failed"),
)
_MOMENTARY = ("run_locked", "not_found", "spec_mismatch", "store_busy", "collection_changed")
"""What a job waits for that is over in a moment."""
_log = structlog.stdlib.get_logger("ragsvc.jobs")


class Run(Protocol):
    """One attempt at a job."""

    async def work(self) -> None:
        """Do it."""
        ...

    def stop(self) -> None:
        """Let it end at its next step."""
        ...

    def note_progress(self) -> None:
        """Write down how far it is. Blocks."""
        ...


class Workshop(Protocol):
    """What the runner needs to work on jobs. Every call blocks."""

    def locks(self, collection_id: str) -> Path:
        """Return a collection's folder of locks. Raises UnknownCollection."""
        ...

    def prepare(self, job: Job) -> Run:
        """Return an attempt at a job. Raises UnknownCollection, EmbeddingUnavailable."""
        ...

    def ended(self, job_id: str) -> None:
        """Remove what a job needed."""
        ...

    def tidy(self) -> None:
        """Remove leftovers."""
        ...


class JobRunner:
    """Drives jobs while it is started. `start` and `stop` it in one event loop."""

    def __init__(self, jobs: JobStore, workshop: Workshop) -> None:
        """Does nothing until it is started."""
        self._jobs, self._workshop = jobs, workshop
        self._wake = asyncio.Event()
        self._driving: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._working: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._failures: dict[str, int] = {}
        self._resting: dict[str, float] = {}
        self._changed = asyncio.Condition()
        self._turn = 0
        self._main: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Begin; what a dead process left behind goes on."""
        try:
            await in_thread(self._jobs.wake)
        except (StorageFailed, StorageBusy) as error:  # questions are answered all the same
            _log.warning("waiting jobs can't be woken", error=str(error))
        self._main = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """End; what is under way stops at its next step and goes on with the next start."""
        self._stopping = True
        if self._main is not None:
            self._main.cancel()
        for run, task in list(self._working.values()):
            _end(run, task)
        tasks = [task for task in (self._main, *self._driving.values()) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    async def cancelled(self, job_id: str) -> None:
        """Stop a job that this process works on; another process finds out by itself."""
        if job_id in self._working:
            _end(*self._working[job_id])
        await self._tell()

    async def settled(self, job_id: str) -> Job:
        """Return a job once it is finished, or an upstream lets it wait. Raises UnknownJob."""
        while True:
            turn = self._turn
            job = await in_thread(lambda: self._jobs.job(job_id))
            if job.finished or await in_thread(lambda: self._jobs.held_up(job_id, _MOMENTARY)):
                return job
            async with self._changed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._changed.wait_for(partial(self._turned_since, turn))

    def _turned_since(self, turn: int) -> bool:
        return self._turn != turn

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        tidy_at = loop.time()
        while True:
            self._wake.clear()
            try:
                if loop.time() >= tidy_at:
                    tidy_at = loop.time() + _TIDY_SECONDS
                    await in_thread(self._workshop.tidy)
                for collection_id in await in_thread(self._jobs.due):
                    if collection_id not in self._driving and self._resting.get(collection_id, 0.0) <= loop.time():
                        self._driving[collection_id] = asyncio.create_task(self._drive(collection_id))
            except (RagsvcError, IndexesError, OSError) as error:  # a store that is busy or full is looked at again
                _log.warning("jobs can't be looked for", error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()

    async def _drive(self, collection_id: str) -> None:
        """Work on a collection's jobs while this process may, there are any, and no other collection waits."""
        more = False
        try:
            async with self._places:
                more = await self._do_jobs(collection_id)
        except (RagsvcError, IndexesError, OSError) as error:
            _log.warning("jobs can't be worked on", collection=collection_id, error=str(error))
            self._resting[collection_id] = asyncio.get_running_loop().time() + _REST_SECONDS
        finally:
            del self._driving[collection_id]
            if more:
                self._wake.set()

    async def _do_jobs(self, collection_id: str) -> bool:
        """Return whether there may be more to do."""
        lock = await in_thread(lambda: self._taken(collection_id))
        if lock is None:
            return False
        try:
            while not self._stopping:
                job = await in_thread(lambda: self._jobs.claim(collection_id))
                if job is None:
                    break
                await self._work_on(job)
                await self._tell()
                if self._places.locked():  # others may be waiting for a place
                    return True
        finally:
            await in_thread(lock.release)
        return False

    def _taken(self, collection_id: str) -> FileLock | None:
        try:
            lock = FileLock(self._workshop.locks(collection_id) / JOB_LOCK, timeout=0, mode=0o600, thread_local=False)
            lock.acquire()
        except (Timeout, UnknownCollection):
            return None
        return lock

    async def _work_on(self, job: Job) -> None:
        try:
            if await in_thread(lambda: self._jobs.cancel_requested(job.id)):
                await in_thread(lambda: self._jobs.finish(job.id, "cancelled"))
            elif job.attempts > MAX_ATTEMPTS:
                said = f"processes ended {MAX_ATTEMPTS} times while they worked on it; send its documents again, singly"
                await in_thread(lambda: self._jobs.finish(job.id, "failed", "crash", said))
            else:
                await self._run(job)
                await in_thread(lambda: self._jobs.finish(job.id, "done"))
        except (Stopped, asyncio.CancelledError):
            await in_thread(lambda: self._stopped(job))
        except Exception as error:  # noqa: BLE001 - a job's failure is the job's, whatever it is
            await in_thread(partial(self._failed, job, error))
        await in_thread(lambda: self._cleared(job.id))

    async def _run(self, job: Job) -> None:
        run = await in_thread(lambda: self._workshop.prepare(job))
        if self._stopping:
            raise Stopped
        task = asyncio.create_task(run.work())
        self._working[job.id] = run, task
        watch = asyncio.create_task(self._watch(job, run, task))
        try:
            await task
        finally:
            del self._working[job.id]
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, job: Job, run: Run, task: asyncio.Task[None]) -> None:
        """Write progress, and see whether another process wants the job to stop."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await in_thread(run.note_progress)
                wanted = await in_thread(lambda: self._jobs.cancel_requested(job.id))
            except RagsvcError:
                continue
            if wanted:
                _end(run, task)
            await self._tell()

    def _cleared(self, job_id: str) -> None:
        if self._jobs.job(job_id).finished:
            self._failures.pop(job_id, None)
            self._workshop.ended(job_id)

    def _stopped(self, job: Job) -> None:
        if self._jobs.cancel_requested(job.id):
            self._jobs.finish(job.id, "cancelled")
        else:
            self._jobs.put_back(job.id)

    def _failed(self, job: Job, error: Exception) -> None:
        code = _code(error)
        if isinstance(error, UnknownCollection):
            self._jobs.finish(job.id, "cancelled", code, "its collection was removed")
        elif (seconds := self._worth_waiting(job, error)) is not None:
            _log.warning("a job waits", job=job.id, code=code, error=str(error), seconds=seconds)
            self._jobs.let_wait(job.id, code, str(error)[:500], seconds)
        else:
            _log.error("a job failed", job=job.id, code=code, exc_info=error)
            self._jobs.finish(job.id, "failed", code, str(error)[:500] if code != "internal" else "the log says why")

    def _worth_waiting(self, job: Job, error: Exception) -> float | None:
        """Return the seconds after which an attempt may succeed, None where none ever will: what was accepted stays."""
        if isinstance(error, UploadLost) or not isinstance(error, RagsvcError | IndexesError | IngestError | OSError):
            return None
        if isinstance(error, RunLocked | NotFound | StoreClosed | SpecMismatch | SpecChanged):
            # The source of uploads was removed under the run, or the collection was replaced, or went over to another
            # generation.
            return POLL_SECONDS
        soon = isinstance(error, StoreBusy | StorageBusy | NoStorage | OSError | StorageFull) or getattr(
            error, "retryable", False
        )
        if not soon:
            return PROBE_SECONDS
        failures = self._failures.get(job.id, 0)
        self._failures[job.id] = failures + 1
        told = getattr(error, "retry_after", None) or 0.0
        return max(told, min(FIRST_WAIT * 2.0**failures, LONGEST_WAIT))

    async def _tell(self) -> None:
        async with self._changed:
            self._turn += 1
            self._changed.notify_all()


def _end(run: Run, task: asyncio.Task[None]) -> None:
    """Stop an attempt. It is told once: another cancellation would cut its cleaning up short."""
    run.stop()
    if not task.cancelling():
        task.cancel()


def _code(error: Exception) -> str:
    """Return the problem code of an error, also of one of the floors below, which know nothing of codes."""
    if isinstance(error, RagsvcError):
        return error.code
    if isinstance(error, OSError) and error.errno in NO_STORAGE:
        return "storage_full"
    return next((code for kind, code in _CODES if isinstance(error, kind)), "internal")
