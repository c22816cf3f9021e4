"""Erasing a document for good: its rows at once, then from the files of its collection what it left there.

Every step may be killed, and is repeated: what is still to be done stands in the store until it is.
"""

from pathlib import Path

import numpy as np

from indexes import store_changes, store_garbage, store_vectors, store_words
from indexes.current_words import CurrentWords
from indexes.errors import RunGoesOn
from indexes.failpoints import point
from indexes.garbage import mark, run_goes_on, sweep
from indexes.generations import Segments
from indexes.store import Connection, Store
from indexes.store_garbage import PendingPurge, PurgedRows
from indexes.types import IdArray, Segment

ERASE_SECONDS = 30.0
"""How long readers and builders may keep a purge from going on."""
_MERGED_PAGES = 1_000
"""Of 4 KB, a transaction that merges words."""
_ALL = "9999"
"""Later than any time that is stored."""


class Purges:
    """The purges of one collection: begun, pending, erased, ended."""

    def __init__(self, store: Store, segments: Segments, words: CurrentWords, folder: Path) -> None:
        self._store, self._segments, self._words, self._folder = store, segments, words, folder

    def begin(self, document_id: str) -> PurgedRows:
        """Remove a document with all its rows, for good; `erase` is to follow, also for one removed before.

        Raises NotFound where it never was here, or was purged.
        """
        point("purge.rows")
        with store_changes.changing(self._store) as connection:
            purged = _remove_rows(connection, document_id)
            point("purge.rows.commit")
        point("purge.rows.committed")
        return purged

    def was_removed(self, document_id: str) -> bool:
        """Whether a document was removed, and is not purged: something of it may be left in files."""
        with self._store.read() as connection:
            return store_garbage.was_removed(connection, document_id)

    def pending(self) -> tuple[PendingPurge, ...]:
        """Return the purges that are not complete: killed, or kept from the end by a run."""
        with self._store.read() as connection:
            return store_garbage.pending_purges(connection)

    def erase(self, document_id: str, wait_seconds: float = ERASE_SECONDS) -> PendingPurge:
        """Erase from all files what a purge, earlier versions and ordinary removals left; repeatable.

        All vectors that no document uses go, too: which of them an earlier version had nobody knows. While a run goes
        on those stay that were never used, since they are what it pays for, and the purge is not over. Raises StoreBusy
        when a reader or a builder does not let it through within the wait; the same call goes on.
        """

        def note(connection: Connection, keys: tuple[tuple[int, int], ...]) -> None:
            store_garbage.remember_purge(connection, document_id, keys)

        point("purge.leftovers")
        if not run_goes_on(self._folder):
            mark(self._store)
        sweep(self._store, _ALL, note)
        _merge_words(self._store)
        self._words.erase()
        with self._store.read() as connection:
            pending = {purge.document_id: purge for purge in store_garbage.pending_purges(connection)}
        point("purge.segments")
        self._segments.erase(_gone)
        point("purge.slack")
        self._store.erase_slack(wait_seconds)
        return pending.get(document_id, PendingPurge(document_id, ()))

    def end(self, purge: PendingPurge) -> None:
        """Note that a purge is complete. Raises RunGoesOn: then it is, when that run has ended and this is repeated."""
        if run_goes_on(self._folder):
            raise RunGoesOn(
                "the document is erased, but a run goes on that may have read it before: when it has ended, repeat the "
                "command, or let the next index or server complete the purge"
            )
        point("purge.end")
        with self._store.write() as connection:
            store_garbage.end_purge(connection, purge)
        point("purge.ended")


def _remove_rows(connection: Connection, document_id: str) -> PurgedRows:
    """Remove all rows of a document and of its path, and put down what is left to do.

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


def _gone(connection: Connection) -> dict[int, IdArray]:
    """Return by embedding spec what the files may hold and the store has no more, whoever deleted it and when.

    A segment knows how many vectors it had; one that lost some is built anew. Behind the last segment the exact vectors
    hold at most what a build that was killed had written.
    """
    of_specs: dict[int, list[Segment]] = {}
    for head in store_vectors.heads(connection):
        listed = store_vectors.segments(connection, head.generation)
        of_specs.setdefault(head.embedding_spec_id, []).extend(listed)
    newest, found = store_vectors.last_vector_id(connection), {}
    for spec_id, all_listed in of_specs.items():
        live = store_vectors.live_ids(connection, spec_id)
        dead = [_one_dead(segment, live) for segment in all_listed]
        behind = np.arange(max((segment.last_id for segment in all_listed), default=0) + 1, newest + 1)
        found[spec_id] = np.concatenate([*dead, np.setdiff1d(behind, live)])
    return found


def _one_dead(segment: Segment, live: IdArray) -> IdArray:
    """Return an id of the segment's that is no vector's any more, none where it lost none: enough to have it built."""
    first, last = np.searchsorted(live, [segment.first_id, segment.last_id + 1])
    if segment.rows == last - first:
        return np.empty(0, np.int64)
    return np.setdiff1d(np.arange(segment.first_id, segment.last_id + 1), live[first:last])[:1]
