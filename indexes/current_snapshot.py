"""The snapshot that searches use, kept current: new rows come in as they are seen, new segments beside the searches."""

import logging
import threading

from indexes import snapshots, store_vectors
from indexes.background import Background
from indexes.errors import IndexesError
from indexes.generations import Segments
from indexes.segment_files import SegmentFiles
from indexes.snapshots import Snapshot
from indexes.store import Connection, Store
from indexes.store_vectors import Head
from indexes.visibility import Visibility

OVERDUE = 4
"""Times the limit of the delta: what no run folded by then is folded by whoever searches, beside the searches."""
HELD = 8
"""Times that limit, 0.5 GB of vectors: what is more is not loaded, and is read from the store at each search."""

log = logging.getLogger("indexes")


class CurrentSnapshot:
    """What the searches of one collection read. Safe from many threads."""

    def __init__(self, store: Store, files: SegmentFiles, segments: Segments, visibility: Visibility) -> None:
        """`visibility` is what these searches remember: it is loaded with the segments of another generation."""
        self._store, self._files, self._segments, self._visibility = store, files, segments, visibility
        self._snapshot: Snapshot | None = None
        self._damaged: set[str] = set()
        self._refreshing = threading.Lock()
        self._background = Background(self._renew)

    def covering(self, connection: Connection, head: Head) -> Snapshot:
        """Return what holds at least all that a transaction with this head sees. More than that does no harm.

        New rows are added here; another list of segments for the same rows, also that of another generation of the same
        embedding, is loaded by the background thread. The first load, and one for another embedding, are waited for:
        nothing in memory has a row of it, and to look through the store instead takes longer than to load them.
        """
        snapshot = self._snapshot
        if snapshot is not None and snapshots.covers(snapshot, head):
            return snapshot
        with self._refreshing:
            snapshot = self._snapshot
            if snapshot is None or not snapshots.serves(snapshot, head):
                loaded = self._loaded(connection, head, None)
                if snapshot is not None and snapshot.head.changes > head.changes:
                    # A search that began before the other embedding was published: the next ones need that.
                    return loaded
                snapshot = loaded
            elif not snapshots.covers(snapshot, head):
                snapshot = snapshots.extended(connection, head, snapshot)
            self._snapshot = snapshot
            return snapshot

    def wake_if_stale(self, head: Head) -> None:
        """Have it renewed beside the searches where there is something newer, or something to mend. Returns at once."""
        if self._is_stale(head):
            self._background.wake()

    def settle(self, seconds: float) -> bool:
        """Wait until new segments are loaded and damaged ones rebuilt, at most so long; say whether they are."""
        return self._background.settle(seconds)

    def close(self) -> None:
        """Let what has begun beside the searches end, and begin nothing more."""
        self._background.close()

    def _is_stale(self, head: Head) -> bool:
        snapshot = self._snapshot
        return bool(self._damaged) or (
            snapshot is not None and (not snapshots.is_of(snapshot, head) or self._is_overdue(snapshot))
        )

    def _is_overdue(self, snapshot: Snapshot) -> bool:
        most = OVERDUE * self._segments.most_rows(snapshot.head.spec.embedding)
        return bool(snapshot.unfolded) or snapshot.delta.size > most

    def _loaded(self, connection: Connection, head: Head, known: Snapshot | None) -> Snapshot:
        most = HELD * self._segments.most_rows(head.spec.embedding)
        return snapshots.load(connection, self._files, head, known, self._damaged.add, most)

    def _renew(self) -> bool:
        """Rebuild what is damaged, and load the segments in service; say whether there is nothing left to do.

        What others built is loaded also where this process can build nothing: its delta would grow and grow.
        """
        damaged, known = frozenset(self._damaged), self._snapshot
        overdue = known is not None and self._is_overdue(known)
        rebuilt = False
        try:
            rebuilt = not damaged or self._segments.rebuild(damaged)
            if overdue:
                self._segments.fold_if_due()
        except IndexesError as error:
            log.warning("segments can't be built (%s); searches go on with what there is", error)
        mended = damaged if rebuilt else frozenset()
        self._damaged -= mended
        known = self._snapshot
        if known is None:
            return rebuilt
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            if mended or overdue or not snapshots.is_of(known, head):
                same, before = snapshots.serves(known, head), self._damaged.copy()
                renewed = self._loaded(connection, head, snapshots.without(known, mended) if same else None)
                if known.head.generation != head.generation:
                    self._visibility.load(connection, head)
                # What is in memory has the same rows: it is not given up for files that can't be read just now.
                if not same or overdue or self._damaged <= before:
                    self._replace(known, renewed)
                    known = renewed
        return rebuilt and not self._damaged and not self._is_overdue(known)

    def _replace(self, known: Snapshot, renewed: Snapshot) -> None:
        """Serve `renewed`, unless searches went over to another embedding while it was loaded."""
        with self._refreshing:
            current = self._snapshot
            if current is None or any(snapshots.serves(current, one.head) for one in (known, renewed)):
                self._snapshot = renewed
