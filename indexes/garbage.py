"""What nothing uses any more: vectors, files of killed runs; and the erasing of a document for good.

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

import numpy as np
from filelock import FileLock, Timeout

from indexes import publishing, store_changes, store_documents, store_garbage, store_vectors, store_words
from indexes.errors import RunGoesOn
from indexes.failpoints import point
from indexes.generations import Segments
from indexes.store import Connection, Store, now
from indexes.store_garbage import PendingPurge, PurgedRows
from indexes.types import IdArray, Segment, run_lock_name

_LOOKED_AT = 10_000
"""Vectors a transaction that reads: it holds back nobody, but the log grows while it lasts."""
_SWEPT = 500
"""Vectors a transaction that writes: 1.6 MB of 1,536 dimensions, some milliseconds."""
_MERGED_PAGES = 1_000
"""Of 4 KB, a transaction that merges words."""
_DUE_HOURS = 24.0
_SPOOL_HOURS = 1.0
"""The name of a spool lasts for microseconds; one that is as old belonged to a process that was killed there."""
_ALL = "9999"
"""Later than any time that is stored."""


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


def collect_if_due(store: Store, segments: Segments, folder: Path, keep_days: float) -> GarbageReport | None:
    """Collect garbage unless that was done within a day: then nothing but one row is read, and None returned."""
    with store.read() as connection:
        last = store_garbage.collected_at(connection)
    if last is not None and last > _stamp(datetime.now(UTC) - timedelta(hours=_DUE_HOURS)):
        return None
    return collect(store, segments, folder, keep_days)


def collect(store: Store, segments: Segments, folder: Path, keep_days: float) -> GarbageReport:
    """Delete vectors that were unreferenced for `keep_days`, and files of killed runs and builds.

    What only generations needed that are kept no longer goes first, where a kill left some of it.

    While a run goes on vectors are only put down: it may rely on some, and would have to pay for them again.
    """
    publishing.drop_retired(store)
    marked, forgotten = _mark(store), _unmark(store)
    runs = run_goes_on(folder)
    vectors = 0 if runs else _sweep(store, _stamp(datetime.now(UTC) - timedelta(days=keep_days)))
    point("garbage.files")
    files = segments.remove_unpublished() + (0 if runs else _remove_spools(folder)) + _remove_locks(store, folder)
    point("garbage.remember")
    with store.write() as connection:
        if not runs:
            store_garbage.set_collected(connection, now())
        store_garbage.trim_removed(connection)
        waiting = store_garbage.count_unreferenced(connection)
    return GarbageReport(marked, forgotten, vectors, waiting, files, runs)


def run_goes_on(folder: Path) -> bool:
    """Whether a run of the collection holds its lock. Who starts one in this very moment waits for us a moment."""
    for path in (folder / "locks").glob("run-*.lock"):
        try:
            with FileLock(path, timeout=0, mode=0o600):
                continue
        except Timeout:
            return True
    return False


def _mark(store: Store) -> int:
    marked, place = 0, (b"", 0)
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


def _sweep(
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
    removed = 0
    for path in (folder / "locks").glob("run-*.lock"):
        with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=0, mode=0o600):
            with store.read() as connection:  # only now: a run puts down its source under its lock
                known = {run_lock_name(source.root) for source in store_documents.sources(connection)}
            if path.name not in known:
                point("garbage.lock")
                path.unlink()
                removed += 1
    return removed


def _remove_spools(folder: Path) -> int:
    removed, before = 0, time.time() - _SPOOL_HOURS * 3600
    for path in (folder / "locks").glob("tmp*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
                removed += 1
    return removed


# Erasing for good


def begin_purge(connection: Connection, document_id: str) -> PurgedRows:
    """Remove all rows of a document and of its path, and put down what is left to do; one transaction.

    Of one that was removed before only that is put down. Raises NotFound where it never was here, or was purged.
    """
    removed = store_garbage.take_removed(connection, document_id)
    if removed is not None:
        store_garbage.remember_purge(connection, document_id, ())
        return removed
    purged = store_garbage.describe(connection, document_id)
    vectors = store_garbage.vectors_of(connection, document_id)
    store_changes.remove_document(connection, document_id)
    store_garbage.take_removed(connection, document_id)
    store_garbage.forget_path(connection, purged.source, purged.path)
    erased = store_garbage.delete_unreferenced(connection, vectors)
    store_garbage.remember_purge(connection, document_id, erased)
    return purged


def erase(store: Store, segments: Segments, folder: Path, document_id: str, wait_seconds: float) -> PendingPurge:
    """Erase from all files what a purge, earlier versions and ordinary removals left; repeatable.

    All vectors that no document uses go, too: which of them an earlier version had nobody knows. While a run goes on
    those stay that were never used, since they are what it pays for, and the purge is not over. Raises StoreBusy when a
    reader or a builder does not let it through within the wait; the same call goes on.
    """

    def note(connection: Connection, keys: tuple[tuple[int, int], ...]) -> None:
        store_garbage.remember_purge(connection, document_id, keys)

    point("purge.leftovers")
    if not run_goes_on(folder):
        _mark(store)
    _sweep(store, _ALL, note)
    _merge_words(store)
    with store.read() as connection:
        pending = {purge.document_id: purge for purge in store_garbage.pending_purges(connection)}
    _erase_vectors(store, segments)
    point("purge.slack")
    store.erase_slack(wait_seconds)
    return pending.get(document_id, PendingPurge(document_id, ()))


def _erase_vectors(store: Store, segments: Segments) -> None:
    """Take from the segments and the exact vectors what the store has no more, whoever deleted it and when.

    A segment knows how many vectors it had; one that lost some is built anew. Behind the last segment the exact vectors
    hold at most what a build that was killed had written.
    """
    with store.read() as connection:
        of_specs: dict[int, list[Segment]] = {}
        for head in store_vectors.heads(connection):
            listed = store_vectors.segments(connection, head.generation)
            of_specs.setdefault(head.embedding_spec_id, []).extend(listed)
        live = {spec_id: store_vectors.live_ids(connection, spec_id) for spec_id in of_specs}
        newest = store_vectors.last_vector_id(connection)
    for spec_id, all_listed in of_specs.items():
        dead = [_one_dead(segment, live[spec_id]) for segment in all_listed]
        behind = np.arange(max((segment.last_id for segment in all_listed), default=0) + 1, newest + 1)
        point("purge.segments")
        segments.erase(spec_id, np.concatenate([*dead, np.setdiff1d(behind, live[spec_id])]))


def _one_dead(segment: Segment, live: IdArray) -> IdArray:
    """Return an id of the segment's that is no vector's any more, none where it lost none: enough to have it built."""
    first, last = np.searchsorted(live, [segment.first_id, segment.last_id + 1])
    if segment.rows == last - first:
        return np.empty(0, np.int64)
    return np.setdiff1d(np.arange(segment.first_id, segment.last_id + 1), live[first:last])[:1]


def end_purge(store: Store, folder: Path, purge: PendingPurge) -> None:
    """Note that a purge is complete. Raises RunGoesOn where a run may still bring what belongs to it."""
    if run_goes_on(folder):
        raise RunGoesOn(
            "the document is erased, but a run goes on that may have read it before: when it has ended, repeat the "
            "command, or let the next index or server complete the purge"
        )
    point("purge.end")
    with store.write() as connection:
        store_garbage.end_purge(connection, purge)
    point("purge.ended")


def _merge_words(store: Store) -> None:
    """Merge each table of words into one b-tree: until then words that were taken out stand in the others."""
    with store.read() as connection:
        specs = store_words.chunk_specs(connection)
    for spec in specs:
        first = more = True
        while more:
            point("purge.words")
            with store.write() as connection:
                more = spec in store_words.chunk_specs(connection)  # a publication may have dropped it
                more = more and store_words.merge_step(connection, spec, _MERGED_PAGES, first=first)
            first = False


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
