"""What nothing uses any more: vectors, and files of killed runs.

A vector that no chunk uses is kept for a while, since its text may come back and would have to be paid for again. Safe
beside anything: each deletion asks again, in its own transaction, whether the vector is still unused, and a run that
had counted on it is told so when it applies its document (`ChangeSet.needs_vectors`).
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from indexes import publishing, store_documents, store_garbage
from indexes.current_words import CurrentWords
from indexes.failpoints import point
from indexes.generations import Segments
from indexes.store import Connection, Store, now
from indexes.store_errors import translated
from indexes.types import run_lock_name

_LOOKED_AT = 10_000
"""Vectors a transaction that reads: it holds back nobody, but the log grows while it lasts."""
_SWEPT = 500
"""Vectors a transaction that writes: 1.6 MB of 1,536 dimensions, some milliseconds."""
_DUE_HOURS = 24.0
_SPOOL_HOURS = 1.0
"""The name of a spool lasts for microseconds; one that is as old belonged to a process that was killed there."""


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What a collection of garbage found and did."""

    marked: int
    """Vectors found to be unreferenced that were not known as such."""
    forgotten: int
    """Vectors that are used again."""
    vectors: int
    """Vectors deleted."""
    waiting: int
    """Unreferenced vectors that are kept for now."""
    files: int
    """Files removed that nothing names."""
    runs: bool
    """A run was going on: nothing was deleted that it may rely on."""


class Garbage:
    """What one collection uses no more. Each call is safe beside anything."""

    def __init__(self, store: Store, segments: Segments, words: CurrentWords, folder: Path) -> None:
        self._store, self._segments, self._words, self._folder = store, segments, words, folder

    def collect(self, keep_days: float) -> GarbageReport:
        """Delete vectors that were unreferenced for `keep_days`, and files of killed runs and builds.

        What only generations needed that are kept no longer goes first, where a kill left some of it.

        While a run goes on vectors are only put down: it may rely on some, and would have to pay for them again.
        Raises StorageFull.
        """
        publishing.drop_retired(self._store)
        marked, forgotten = mark(self._store), _unmark(self._store)
        runs = run_goes_on(self._folder)
        vectors = 0 if runs else sweep(self._store, _stamp(datetime.now(UTC) - timedelta(days=keep_days)))
        point("garbage.files")
        files = self._segments.remove_unpublished() + self._words.remove_unlisted()
        files += 0 if runs else _remove_spools(self._folder)
        files += _remove_locks(self._store, self._folder)
        point("garbage.remember")
        with self._store.write() as connection:
            if not runs:
                store_garbage.set_collected(connection, now())
            store_garbage.trim_removed(connection)
            waiting = store_garbage.count_unreferenced(connection)
        return GarbageReport(marked, forgotten, vectors, waiting, files, runs)

    def collect_if_due(self, keep_days: float) -> GarbageReport | None:
        """Collect garbage unless that was done within a day: then nothing but one row is read, and None returned."""
        self._words.let_go()
        with self._store.read() as connection:
            last = store_garbage.collected_at(connection)
        if last is not None and last > _stamp(datetime.now(UTC) - timedelta(hours=_DUE_HOURS)):
            return None
        return self.collect(keep_days)


def run_goes_on(folder: Path) -> bool:
    """Whether a run of the collection holds its lock. Who starts one in this very moment waits for us a moment.

    Raises StorageFull where that can't be found out.
    """
    locks = folder / "locks"
    with translated(locks):
        for path in locks.glob("run-*.lock"):
            try:
                with FileLock(path, timeout=0, mode=0o600):
                    continue
            except Timeout:
                return True
    return False


def mark(store: Store) -> int:
    """Put down the vectors that no chunk uses, and since when; return how many were not."""
    marked, place = 0, store_garbage.FIRST_KEY
    while True:
        with store.read() as connection:
            found, following = store_garbage.unreferenced(connection, place, _LOOKED_AT)
        if found:
            point("garbage.mark")
            with store.write() as connection:
                marked += store_garbage.mark(connection, found)
        if following == place:
            return marked
        place = following


def _unmark(store: Store) -> int:
    forgotten, place = 0, 0
    while True:
        point("garbage.unmark")
        with store.write() as connection:
            count, following = store_garbage.unmark(connection, place, _LOOKED_AT)
        forgotten += count
        if following is None:
            return forgotten
        place = following


def sweep(
    store: Store, before: str, note: Callable[[Connection, tuple[tuple[int, int], ...]], None] | None = None
) -> int:
    """Delete in small transactions what was put down up to `before`; `note` is told each part inside its own."""
    swept = 0
    while True:
        point("garbage.sweep")
        with store.write() as connection:
            keys = store_garbage.sweep(connection, before, _SWEPT)
            if keys and note is not None:
                note(connection, keys)
            point("garbage.sweep.commit")
        swept += len(keys)
        if len(keys) < _SWEPT:
            return swept


def _remove_locks(store: Store, folder: Path) -> int:
    """Remove the lock files of sources that are gone; return how many.

    Safe because a lock is removed by who holds it alone, and because who then gets it on the removed file looks at the
    file's links, finds none, and takes the lock anew on a new file (`filelock` does; a test shows it).
    """
    removed, locks = 0, folder / "locks"
    with translated(locks):
        paths = list(locks.glob("run-*.lock"))
    for path in paths:
        with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=0, mode=0o600):
            with store.read() as connection:  # only now: a run puts down its source under its lock
                known = {run_lock_name(source.root) for source in store_documents.sources(connection)}
            if path.name not in known:
                point("garbage.lock")
                path.unlink()
                removed += 1
    return removed


def _remove_spools(folder: Path) -> int:
    removed, before, locks = 0, time.time() - _SPOOL_HOURS * 3600, folder / "locks"
    with translated(locks):
        for path in locks.glob("tmp*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
    return removed


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
