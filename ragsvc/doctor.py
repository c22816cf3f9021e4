"""Is a data directory what it says it is? `service.db`, its collections, and what killed runs left between them.

The collections are checked by `indexes.checking`, each by itself and without the library: one that is damaged must not
keep the others from being looked at.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from indexes import checking, store_backup
from indexes.checking import Finding, note, problem
from indexes.collection import Collection
from indexes.errors import IndexesError, RunGoesOn, StoreBusy, StoreError
from indexes.failpoints import point
from indexes.store import FILE_NAME as STORE_NAME
from indexes.store import PAGE_SIZE, DatabaseError, Store
from indexes.store_files import file_bytes, read_file
from ragsvc import purging
from ragsvc.errors import ConfigurationError, StorageBusy, StorageFailed, UnknownCollection
from ragsvc.inbox import Inbox
from ragsvc.job_store import JobStore
from ragsvc.library import DEFAULT, UNLISTED
from ragsvc.service_store import FILE_NAME, CollectionRow, ServiceStore

LEFTOVER_SECONDS = 600.0
"""A folder that no row names is a leftover when nobody holds a lock in it and it was not touched for so long: making a
collection takes a moment, and a restore holds its lock."""
ROOM_BYTES = 1 << 30
"""Less free than that, or than one of the stores takes, is said: a backup or a fold needs room for a copy."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one place."""

    place: str
    """`service.db`, or a collection's name."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Examination:
    """What a whole check found."""

    checked: tuple[Checked, ...]

    @property
    def consistent(self) -> bool:
        """Whether no inconsistency is left."""
        return not any(finding.level == "problem" for part in self.checked for finding in part.findings)


def examine(data_dir: Path, collection: str | None = None, *, repair: bool = False) -> Examination:
    """Check `service.db` and one collection, or all; with `repair` mend what is derived and remove leftovers.

    Raises UnknownCollection, and StoreBusy, StorageBusy or StorageFull where a repair can't be done now.
    """
    try:
        store = ServiceStore.open(data_dir)
    except (StorageFailed, ConfigurationError) as error:
        return Examination((Checked(FILE_NAME, (problem("service", FILE_NAME, str(error), _LOST),)),))
    try:
        return _Examiner(data_dir, store, repair=repair).examine(collection)
    finally:
        store.close()


_BRING_BACK = "ragsvc restore {} --collection NAME brings it back; then, or where it is to go, remove the folder"
_LOST = "put it back from a copy of the data directory, or move it away: collections come back with ragsvc restore"


class _Examiner:
    def __init__(self, data_dir: Path, store: ServiceStore, *, repair: bool) -> None:
        self._data_dir, self._store, self._repair = data_dir, store, repair
        self._folder = data_dir / "collections"
        self._jobs = JobStore(store)

    def examine(self, name: str | None) -> Examination:
        rows = [row for row in self._store.collections() if name in (None, row.name)]
        if name not in (None, DEFAULT) and not rows:
            raise UnknownCollection(f"there is no collection {name!r}; `ragsvc collections list` shows them")
        checked = [Checked(FILE_NAME, tuple(self._service()))]
        checked += [Checked(row.name, tuple(self._collection(row))) for row in rows]
        return Examination(tuple(checked))

    def _service(self) -> Iterator[Finding]:
        try:
            wrong = self._store.integrity()
        except StorageFailed as error:
            wrong = [str(error)]
        for message in wrong:
            yield problem("service", FILE_NAME, message, _LOST)
        if not wrong:
            yield from self._unlisted()
            yield from self._uploads()
        yield from self._room()

    def _collection(self, row: CollectionRow) -> Iterator[Finding]:
        folder = self._folder / row.folder
        if not (folder / "store.db").is_file():
            todo = f"ragsvc restore FILE --collection {row.name} --replace, or ragsvc collections remove {row.name}"
            yield problem("folder", f"collections/{row.folder}", "its store is gone", todo)
            return
        if self._repair:
            yield from self._purges(folder)
        for finding in checking.check(folder, repair=self._repair):
            if finding.level == "problem" and self._moved(row):
                return  # it was removed or replaced under us
            yield finding

    def _purges(self, folder: Path) -> Iterator[Finding]:
        """Complete the purges that were killed, or kept from their end by a run."""
        try:
            with Collection.open(folder) as collection:
                for purge in collection.purges.pending():
                    try:
                        purging.complete(collection, self._jobs, purge.document_id)
                    except (RunGoesOn, StoreBusy, StorageBusy) as error:
                        yield note("purge", purge.document_id, f"its purge can't be completed now: {error}")
                    else:
                        yield Finding("repaired", "purge", purge.document_id, "its purge is complete now")
        except (StoreError, DatabaseError, OSError):
            return  # the check says what is wrong

    def _moved(self, row: CollectionRow) -> bool:
        now = self._store.collection_of_id(row.id)
        return now is None or now.folder != row.folder

    def _unlisted(self) -> Iterator[Finding]:
        """Look for folders that no row names: of a creation, restore or removal that was killed."""
        if not self._folder.is_dir():
            return
        # Listed first, then looked up: a collection that is made meanwhile has its row, or is too young.
        folders = sorted(path for path in self._folder.iterdir() if path.is_dir())
        listed = {row.folder for row in self._store.collections()}
        for folder in folders:
            young = time.time() - _touched(folder) < LEFTOVER_SECONDS
            if folder.name in listed or (young and _has_log(folder)):
                continue
            where = f"collections/{folder.name}"
            with ExitStack() as held:
                if not _locked(folder, held):
                    continue
                if folder.name in {row.folder for row in self._store.collections()}:
                    continue
                if kept := _kept(folder):
                    todo = _BRING_BACK.format(folder / STORE_NAME)
                    yield problem("unlisted", where, f"no collection is there any more, but {kept}", todo)
                    continue
                if young:
                    continue
                if not self._repair:
                    yield note(
                        "leftover", where, "no collection is there any more", "remove it: ragsvc doctor --repair"
                    )
                    continue
                point("doctor.remove_folder")
                shutil.rmtree(folder, ignore_errors=True)
                yield Finding("repaired", "leftover", where, "no collection was there any more: removed")

    def _uploads(self) -> Iterator[Finding]:
        """Compare the bodies of accepted uploads with their jobs."""
        inbox = self._data_dir / "uploads"
        unfinished = self._jobs.unfinished()
        bodies = {path.name for path in inbox.iterdir() if path.suffix != ".lock"} if inbox.is_dir() else set[str]()
        for job_id in sorted(unfinished - bodies):
            if job_id in self._jobs.unfinished() and not (inbox / job_id).exists():
                todo = f"send its documents again; DELETE /jobs/{job_id} ends it"
                yield problem("upload", f"uploads/{job_id}", "the body of an accepted upload is gone", todo)
        for job_id in sorted(bodies - unfinished):
            if not _is_received(inbox / job_id) and job_id not in self._jobs.unfinished():
                yield note("leftover", f"uploads/{job_id}", "no job needs it", "a server or --repair removes it")
        if self._repair and inbox.is_dir():
            point("doctor.sweep")
            swept = Inbox(inbox, 0, lambda: 0).sweep(self._jobs.unfinished)
            if swept:
                yield Finding("repaired", "leftover", "uploads", f"{swept} bodies that no job needed were removed")
        for job in self._jobs.waiting():
            yield note("job", job.id, f"it waits: {job.error_code} ({job.error})", "mend that; it is tried again")

    def _room(self) -> Iterator[Finding]:
        free = shutil.disk_usage(self._data_dir).free
        sizes = [path.stat().st_size for path in self._folder.glob("*/store.db")] if self._folder.is_dir() else []
        if free < max([ROOM_BYTES, *sizes]):
            yield note("room", str(self._data_dir), f"{free:,} bytes are free", "make room: a copy of a store needs it")


def _kept(folder: Path) -> str:
    """Return what a folder that no row names holds and nobody asked to remove, "" for nothing that was acknowledged.

    Its row may be lost: `service.db` was, or an older one was put back.
    """
    path = folder / STORE_NAME
    if (folder / UNLISTED).exists() or file_bytes(path) == 0:
        return ""
    try:
        if _has_log(folder):
            Store.open(folder).close()  # which brings it into the file
        with read_file(path) as connection:
            documents, _, vectors = store_backup.counts(connection)
    except (IndexesError, DatabaseError, OSError) as error:
        # A creation that was killed had written no more than a page.
        return "" if file_bytes(path) <= PAGE_SIZE else f"it holds a store that can't be read ({error})"
    return f"it holds {documents:,} documents and {vectors:,} vectors" if documents or vectors else ""


def _has_log(folder: Path) -> bool:
    return (folder / f"{STORE_NAME}-wal").exists()


def _touched(folder: Path) -> float:
    """Return when something in a folder was last changed, seconds since 1970."""
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            return time.time()  # somebody is at work
    return max(times)


def _locked(folder: Path, held: ExitStack) -> bool:
    """Take every lock in a folder, and say whether all were free."""
    try:
        for path in (folder / "locks").glob("*.lock"):
            held.enter_context(FileLock(path, timeout=0, mode=0o600))
    except Timeout:
        return False
    return True


def _is_received(body: Path) -> bool:
    """Whether somebody is receiving a body just now: its lock is held. A lock that is not there is not made."""
    lock = body.with_name(f"{body.name}.lock")
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0, mode=0o600):
            return False
    except Timeout:
        return True


def lines(examination: Examination) -> Sequence[str]:
    """Return the findings as lines for people: level, where, what, what to do."""
    found = []
    for part in examination.checked:
        for finding in part.findings:
            todo = f" -> {finding.todo}" if finding.todo else ""
            found.append(f"{finding.level}: {part.place}: {finding.where}: {finding.what}{todo}")
    return found
