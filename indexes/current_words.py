"""What searches read of the index of words: it is loaded beside them, and what is newer comes in as it is seen.

Until it is loaded, and wherever it is missing, damaged or behind, there is none, and FTS5 answers.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from indexes import store_vectors, store_word_indexes, word_index
from indexes.background import Background
from indexes.errors import IndexesError, StoreDamaged
from indexes.store import Connection, Store
from indexes.store_vectors import Head
from indexes.store_word_indexes import ListedWords
from indexes.store_words import WordLines
from indexes.word_index import WordReader, WordsInMemory
from indexes.word_indexes import DUE_ROWS, WordIndexes

_OVERDUE: Final = 4
"""Times the chunks that make an extension due: what no run added by then is added by who searches, beside that."""
_HELD: Final = 8
"""Times that, some 80 MB: what is newer is not held in memory, and FTS5 answers till the index is extended."""
_AT_ONCE: Final = 1_000
"""Most new chunks that a search itself takes into memory, 0.1 ms each; more are taken beside the searches."""

log = logging.getLogger("indexes")


@dataclass(frozen=True, slots=True)
class WordSnapshot:
    """All chunks of a ChunkSpec up to `last_id` that a transaction sees whose `Head.changes` is no less than here."""

    listed: ListedWords
    readers: tuple[WordReader, ...]
    """Of the index, then of what is newer, if there is any."""
    last_id: int
    changes: int
    newer: WordsInMemory
    lines: WordLines

    def holding(self, words: Sequence[str]) -> int:
        """Return how many chunks hold a word, or several as a phrase; those counted that were removed since."""
        return sum(reader.holding(words) for reader in self.readers)

    @property
    def rows(self) -> int:
        """Chunks in it, removed ones included."""
        return sum(reader.rows for reader in self.readers)


class CurrentWords:
    """The index of words that the searches of one collection use. Safe from many threads."""

    def __init__(self, store: Store, indexes: WordIndexes) -> None:
        self._store, self._indexes = store, indexes
        self._snapshot: WordSnapshot | None = None
        self._replacing = threading.Lock()
        """Held by who takes new chunks into the memory of the snapshot, or puts another one in its place."""
        self._damaged: set[str] = set()
        self._background = Background(self._renew)

    def close(self) -> None:
        """Break off a build of this process; what it wrote is removed by the next."""
        self._indexes.break_off()
        self._background.close()

    def settle(self, seconds: float) -> bool:
        """Wait until nothing is being built or loaded, at most so long; say whether that was reached."""
        return self._background.settle(seconds)

    def serving(self, connection: Connection, head: Head) -> WordSnapshot | None:
        """Return what holds all chunks that a transaction with this head sees, None where FTS5 must answer."""
        if not word_index.is_installed():
            return None
        snapshot, folder = self._snapshot, store_word_indexes.folder_of(connection, head.chunk_spec_id)
        if folder is None:
            self._snapshot = None
            if self._indexes.is_wanted(connection, head):
                self._background.wake()
            return None
        if snapshot is None or snapshot.listed.folder != folder:
            self._background.wake()
        if snapshot is None or snapshot.listed.chunk_spec_id != head.chunk_spec_id:
            return None
        last = store_word_indexes.last_chunk_id(connection)
        if last > snapshot.last_id:
            snapshot = self._extended_now(connection, head, snapshot, last)
        return snapshot if snapshot is not None and snapshot.changes <= head.changes else None

    def report(self, error: StoreDamaged) -> None:
        """Take note that a search could not read what is loaded: it is built anew, and FTS5 answers meanwhile."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            log.warning("the index of words can't be used (%s): full text answers, and it is built anew", error)
            self._damaged.add(snapshot.listed.folder)
            self._background.wake()

    def let_go(self) -> None:
        """Give up what is listed no more: else purged words stay in memory, and in open files, till the next search."""
        if self._snapshot is not None:
            with self._replacing, self._store.read() as connection:
                snapshot = self._snapshot
                if snapshot is not None and snapshot.listed.folder not in store_word_indexes.folders(connection):
                    self._snapshot = None

    def erase(self) -> None:
        """Throw all indexes away, and what is in memory. Raises StoreBusy as `WordIndexes.erase`."""
        self._indexes.erase()
        self.let_go()

    def remove_unlisted(self) -> int:
        """Remove what killed builds left, as `WordIndexes.remove_unlisted`."""
        return self._indexes.remove_unlisted()

    def _extended_now(
        self, connection: Connection, head: Head, snapshot: WordSnapshot, last: int
    ) -> WordSnapshot | None:
        if last - snapshot.listed.last_id > _OVERDUE * DUE_ROWS or last - snapshot.last_id > _AT_ONCE:
            self._background.wake()
        if last - snapshot.last_id > _AT_ONCE or _is_too_far(snapshot, last):
            return None
        if not self._replacing.acquire(blocking=False):
            return None
        try:
            if self._snapshot is not snapshot:
                return None
            self._snapshot = snapshot = self._extended(connection, head, snapshot, last)
        except StoreDamaged as error:
            log.warning("new words can't be taken up (%s): full text answers", error)
            return None
        finally:
            self._replacing.release()
        return snapshot

    def _extended(self, connection: Connection, head: Head, snapshot: WordSnapshot, last: int) -> WordSnapshot:
        """Return a snapshot with the chunks up to `last` that this transaction sees, for who is `_replacing`."""
        try:
            reader = snapshot.newer.extended(_newer_lines(connection, snapshot, last))
        except BaseException:
            self._snapshot = None  # what is in its memory may be more than it says; it is loaded again
            raise
        readers = (snapshot.readers[0], reader) if reader.rows else snapshot.readers[:1]
        return WordSnapshot(snapshot.listed, readers, last, head.changes, snapshot.newer, snapshot.lines)

    # Beside the searches

    def _renew(self) -> bool:
        """Load the index in service, built first where that is due; say whether there is nothing left to do."""
        return self._renewed() or (bool(self._damaged) and self._renewed())  # damage may show in loading it

    def _renewed(self) -> bool:
        damaged = frozenset(self._damaged)
        try:
            if self._indexes.build_if_due(_OVERDUE * DUE_ROWS, damaged):
                self._damaged -= damaged
        except IndexesError as error:
            log.warning("the index of words can't be built (%s); full text answers", error)
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            listed = store_word_indexes.listed(connection, head.chunk_spec_id)
            finished = not self._indexes.is_due(connection, head, _OVERDUE * DUE_ROWS, frozenset(self._damaged))
        if listed is None or listed.folder in self._damaged:
            return finished
        snapshot = self._snapshot
        if snapshot is None or snapshot.listed.folder != listed.folder:
            try:
                reader = self._indexes.loaded(listed)
            except (OSError, StoreDamaged) as error:
                log.warning("the index of words %s can't be used (%s): it is built anew", listed.folder, error)
                self._damaged.add(listed.folder)
                return False
            self._replace(WordSnapshot(listed, (reader,), listed.last_id, listed.changes, WordsInMemory(), WordLines()))
        else:
            self._replace(snapshot)
        return finished

    def _replace(self, snapshot: WordSnapshot) -> None:
        """Serve `snapshot`, or what searches made of it meanwhile, with all that is newer."""
        with self._replacing, self._store.read() as connection:
            current = self._snapshot
            if current is not None and current.listed.folder == snapshot.listed.folder:
                snapshot = current
            head, last = store_vectors.head(connection), store_word_indexes.last_chunk_id(connection)
            if store_word_indexes.folder_of(connection, head.chunk_spec_id) != snapshot.listed.folder:
                return  # it was purged, or replaced, while it was loaded
            if last > snapshot.last_id and not _is_too_far(snapshot, last):
                snapshot = self._extended(connection, head, snapshot, last)
            self._snapshot = snapshot


def _is_too_far(snapshot: WordSnapshot, last: int) -> bool:
    return last - snapshot.listed.last_id > _HELD * DUE_ROWS


def _newer_lines(connection: Connection, snapshot: WordSnapshot, last: int) -> Iterator[tuple[int, str]]:
    after = snapshot.last_id
    while rows := store_word_indexes.batch(connection, snapshot.listed.chunk_spec_id, after, last):
        yield from snapshot.lines.named(rows)
        after = rows[-1][0]
