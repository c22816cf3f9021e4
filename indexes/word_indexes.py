"""Indexes of words outside SQLite as files: built beside the searches, checked, loaded, thrown away.

SQLite holds every word (`store_words`); what is here is derived and only faster. There is one index a ChunkSpec, in a
folder of its own below `words/`. A changed one is another folder, in which the files that stay are hard links; it is
written beside, made durable, checksummed, loaded back, renamed, and published by one transaction. Chunks that are newer
than it are in the memory of each process that searches. Where anything is missing, damaged or of another release,
FTS5 answers. One builder at a time, by `locks/words.lock`.
"""

import logging
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from indexes import lexical, store_garbage, store_vectors, store_word_indexes, store_words, word_files, word_index
from indexes.background import Background
from indexes.errors import Conflict, IndexesError, StorageFull, StoreBusy, StoreDamaged
from indexes.failpoints import point
from indexes.store import BUSY_SECONDS, Connection, Store
from indexes.store_files import file_bytes, sync_folder
from indexes.store_vectors import Head
from indexes.store_word_indexes import ListedWords
from indexes.word_index import WordReader, WordsInMemory

LEAST_ROWS: Final = 50_000
"""Chunks from which there is an index of words."""
_DUE_ROWS: Final = 10_000
"""Newer chunks from which the index is extended by who writes; by who searches, at `_OVERDUE` times as many."""
_OVERDUE: Final = 4
_AT_ONCE: Final = 1_000
"""Most new chunks that a search itself takes into memory, 0.1 ms each; more are taken beside the searches."""
_REMOVED: Final = 0.25
"""Share of removed chunks from which the index is built anew instead of extended."""
VERSION: Final = f"1 {lexical.VERSION}"

log = logging.getLogger("indexes")


@dataclass(frozen=True, slots=True)
class WordSnapshot:
    """All chunks of a ChunkSpec up to `last_id` that a transaction sees whose `Head.changes` is no less than here."""

    listed: ListedWords
    readers: tuple[WordReader, ...]
    last_id: int
    changes: int
    memory: WordsInMemory | None = None

    def holding(self, words: Sequence[str]) -> int:
        """Return how many chunks hold a word, or several as a phrase; those counted that were removed since."""
        return sum(reader.holding(words) for reader in self.readers)

    @property
    def rows(self) -> int:
        """Chunks in it, removed ones included."""
        return sum(reader.rows for reader in self.readers)


class WordIndexes:
    """The indexes of words of one collection. Safe from many threads."""

    def __init__(self, store: Store, folder: Path, least_rows: int = LEAST_ROWS) -> None:
        """There is an index from `least_rows` chunks on, where the extra is installed."""
        self._store, self._folder, self._least_rows = store, folder / "words", least_rows
        self._lock_path = folder / "locks" / "words.lock"
        self._lines = store_words.WordLines()  # used under `_extending` alone
        self._snapshot: WordSnapshot | None = None
        self._extending = threading.Lock()
        self._damaged: set[str] = set()
        self._closing = False
        self._background = Background(self._renew)

    def close(self) -> None:
        """Break off a build of this process; what it wrote is removed by the next."""
        self._closing = True
        self._background.close()

    def settle(self, seconds: float) -> bool:
        """Wait until nothing is being built or loaded, at most so long; say whether that was reached."""
        return self._background.settle(seconds)

    # For searches

    def serving(self, connection: Connection, head: Head) -> WordSnapshot | None:
        """Return what holds all chunks that a transaction with this head sees, None where FTS5 must answer."""
        if not word_index.is_installed():
            return None
        folder = store_word_indexes.folder_of(connection, head.chunk_spec_id)
        snapshot = self._snapshot
        if folder is None:
            self._snapshot = None
            if store_words.rows(connection, head.chunk_spec_id) >= self._least_rows:
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

    def _extended_now(
        self, connection: Connection, head: Head, snapshot: WordSnapshot, last: int
    ) -> WordSnapshot | None:
        held = snapshot.last_id - snapshot.listed.last_id
        if held > _OVERDUE * _DUE_ROWS:
            self._background.wake()
        if last - snapshot.last_id > _AT_ONCE or held > 2 * _OVERDUE * _DUE_ROWS:
            self._background.wake()
            return None
        if not self._extending.acquire(blocking=False):
            return None
        try:
            if self._snapshot is not snapshot:
                return None
            self._snapshot = snapshot = self._extended(connection, head, snapshot, last)
        except StoreDamaged as error:
            self.report(error)
            return None
        finally:
            self._extending.release()
        return snapshot

    def _extended(self, connection: Connection, head: Head, snapshot: WordSnapshot, last: int) -> WordSnapshot:
        """Return a snapshot with the chunks up to `last` that this transaction sees."""
        memory = snapshot.memory or WordsInMemory()
        lines = self._lines_of(connection, head.chunk_spec_id, snapshot.last_id, last)
        reader = memory.extended(lines)
        readers = (snapshot.readers[0], reader) if reader.rows else snapshot.readers[:1]
        return WordSnapshot(snapshot.listed, readers, last, head.changes, memory)

    def _lines_of(self, connection: Connection, chunk_spec_id: int, after: int, last: int) -> Iterator[tuple[int, str]]:
        while rows := store_word_indexes.batch(connection, chunk_spec_id, after, last):
            yield from _named(rows, self._lines)
            after = rows[-1][0]

    # Beside the searches

    def _renew(self) -> bool:
        """Load the index in service, built first where that is due; say whether there is nothing left to do."""
        return self._renewed() or (bool(self._damaged) and self._renewed())  # damage may show in loading it

    def _renewed(self) -> bool:
        try:
            self.build_if_due(_OVERDUE * _DUE_ROWS)
        except IndexesError as error:
            log.warning("the index of words can't be built (%s); full text answers", error)
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            listed = store_word_indexes.listed(connection, head.chunk_spec_id)
            due = self._is_due(connection, head, listed, _OVERDUE * _DUE_ROWS)
        if listed is None or listed.folder in self._damaged:
            return not due
        snapshot = self._snapshot
        if snapshot is None or snapshot.listed.folder != listed.folder:
            snapshot = self._loaded(listed)
            if snapshot is None:
                return False
        with self._store.read() as connection, self._extending:
            head, last = store_vectors.head(connection), store_word_indexes.last_chunk_id(connection)
            if head.chunk_spec_id == listed.chunk_spec_id and last > snapshot.last_id:
                snapshot = self._extended(connection, head, snapshot, last)
            self._snapshot = snapshot
        return not due

    def _loaded(self, listed: ListedWords) -> WordSnapshot | None:
        """Load an index once its checksums are right; what can't be used is to be built anew."""
        try:
            word_files.require_version(listed.version, VERSION)
            word_files.require_whole(self._folder / listed.folder, listed.files)
            reader = word_index.load(self._folder / listed.folder)
        except (OSError, StoreDamaged) as error:
            log.warning("the index of words %s can't be used (%s): it is built anew", listed.folder, error)
            self._damaged.add(listed.folder)
            return None
        return WordSnapshot(listed, (reader,), listed.last_id, listed.changes)

    def _is_due(self, connection: Connection, head: Head, listed: ListedWords | None, rows: int) -> bool:
        if not word_index.is_installed() or store_words.rows(connection, head.chunk_spec_id) < self._least_rows:
            return False
        if listed is None or listed.version != VERSION or listed.folder in self._damaged:
            return True
        return store_word_indexes.last_chunk_id(connection) - listed.last_id >= rows

    def build_if_due(self, rows: int = _DUE_ROWS) -> bool:
        """Build the index where there is none that can be used, or `rows` chunks are newer; say whether it was built.

        Raises StorageFull; what was published stays as it was.
        """
        if not word_index.is_installed() or self._store.read_only:
            return False
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            if not self._is_due(connection, head, store_word_indexes.listed(connection, head.chunk_spec_id), rows):
                return False
        return self.build()

    def build(self) -> bool:
        """Bring the index of the generation in service up to now; say whether nobody else was building.

        Raises StorageFull, and Conflict where a document is purged meanwhile: repeat it.
        """
        with self._building() as mine:
            if not mine:
                return False
            with self._store.read() as connection:
                head = store_vectors.head(connection)
                old = store_word_indexes.listed(connection, head.chunk_spec_id)
                last, purges = store_word_indexes.last_chunk_id(connection), store_garbage.last_purge(connection)
                old = old if old is not None and self._can_grow(connection, old) else None
            new = self._built(head, old, last, purges)
            point("words.publish")
            with self._store.write() as connection:
                if store_garbage.last_purge(connection) != purges:
                    raise Conflict("a document was purged while the index of words was built")
                if head.chunk_spec_id in store_words.chunk_specs(connection):
                    store_word_indexes.put(connection, replace(new, changes=store_vectors.head(connection).changes))
            point("words.published")
            self._damaged.clear()
            self._remove_unlisted()
            return True

    def _can_grow(self, connection: Connection, old: ListedWords) -> bool:
        """Whether an index is whole, of this release, and has few removed chunks."""
        if old.version != VERSION or old.folder in self._damaged:
            return False
        newer = store_word_indexes.count_newer(connection, old.chunk_spec_id, old.last_id)
        removed = old.rows - (store_words.rows(connection, old.chunk_spec_id) - newer)
        if removed > _REMOVED * old.rows:
            return False
        try:
            word_files.require_whole(self._folder / old.folder, old.files)
        except (OSError, StoreDamaged) as error:
            log.warning("the index of words %s is built anew: %s", old.folder, error)
            return False
        return True

    def _built(self, head: Head, old: ListedWords | None, last: int, purges: int) -> ListedWords:
        """Write an index beside and prove it: `old` with what is newer, or all chunks. It is not in service yet."""
        name = f"{head.chunk_spec_id}-{last}-{secrets.token_hex(4)}"
        beside, path = self._folder / f"{name}.tmp", self._folder / name
        try:
            point("words.begin")
            beside.mkdir(mode=0o700)
            if old is not None:
                word_files.link(self._folder / old.folder, beside, old.files)
            after = old.last_id if old is not None else 0
            point("words.save")
            added = word_index.add(beside, self._stored_lines(head.chunk_spec_id, after, last, purges))
            point("words.sync")
            files = word_files.made_durable(beside, {} if old is None else old.files)
            rows = added + (0 if old is None else old.rows)
            if word_index.load(beside).rows != rows:
                raise StorageFull(f"{beside} does not hold the {rows} chunks that were written; check the disk")
            point("words.rename")
            beside.rename(path)
            point("words.sync-folder")
            sync_folder(self._folder)
        except OSError as error:
            raise StorageFull(f"{path} can't be written: {error}; make room, nothing was changed") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return ListedWords(head.chunk_spec_id, name, last, rows, 0, VERSION, files)

    def _stored_lines(self, chunk_spec_id: int, after: int, last: int, purges: int) -> Iterator[tuple[int, str]]:
        """Yield (chunk id, line), each batch in a transaction of its own. Raises Conflict where a purge begins."""
        lines = store_words.WordLines()
        while True:
            with self._store.read() as connection:
                if self._closing or store_garbage.last_purge(connection) != purges:
                    raise Conflict("the collection is closed, or a document purged, while the index of words is built")
                rows = store_word_indexes.batch(connection, chunk_spec_id, after, last)
            if not rows:
                return
            point("words.batch")
            yield from _named(rows, lines)
            after = rows[-1][0]

    # Throwing away

    def erase(self) -> None:
        """Throw all indexes away, and what this process holds: they are built again from what the store has.

        Raises StoreBusy when another process builds for longer than the wait.
        """
        self._snapshot = None
        if not self._folder.exists():
            return
        with self._building(BUSY_SECONDS) as mine:
            if not mine:
                raise StoreBusy(f"another process is building words in {self._folder}; try again")
            point("words.unlist")
            with self._store.write() as connection:
                store_word_indexes.remove(connection)
            self._remove_unlisted()

    def wrong(self) -> dict[str, str]:
        """Return what is wrong with the files of the indexes, by folder. Reads all of them."""
        found = {}
        with self._store.read() as connection:
            for listed in store_word_indexes.all_listed(connection):
                try:
                    word_files.require_whole(self._folder / listed.folder, listed.files)
                except (OSError, StoreDamaged) as error:
                    found[listed.folder] = str(error)
        return found

    def drop(self, folder: str) -> None:
        """Take an index off the list, with its files: it is built again where it is of use."""
        point("words.unlist")
        with self._store.write() as connection:
            store_word_indexes.remove(connection, folder)
        self.remove_unlisted()

    def unlisted(self) -> list[Path]:
        """Return what no index has: left by builds that were killed, or of one that goes on."""
        if not self._folder.is_dir():
            return []
        with self._store.read() as connection:
            known = store_word_indexes.folders(connection)
        return sorted(path for path in self._folder.iterdir() if path.name not in known)

    def leftovers(self) -> list[Path]:
        """Return the folders that killed builds left: none while somebody builds."""
        if self.unlisted():
            with suppress(Timeout), FileLock(self._lock_path, timeout=0, mode=0o600):
                return self.unlisted()
        return []

    def remove_unlisted(self) -> int:
        """Remove folders that no index has; return how many, 0 while another process is building."""
        left = self.unlisted()
        if not left:
            return 0
        with self._building() as mine:
            return len(left) if mine else 0

    def _remove_unlisted(self) -> int:
        left = self.unlisted()
        for path in left:
            point("words.remove")
            shutil.rmtree(path)
        return len(left)

    def bytes_on_disk(self) -> int:
        """Return the size of all files, 0 where the collection is being removed under us."""
        try:
            return sum(file_bytes(path) for path in self._folder.rglob("*") if path.is_file())
        except FileNotFoundError:
            return 0

    @contextmanager
    def _building(self, seconds: float = 0) -> Iterator[bool]:
        """Hold the lock of builders if it is free within so long, and say so. What killed builds left goes first."""
        lock = FileLock(self._lock_path, timeout=seconds, mode=0o600)
        try:
            with suppress(Timeout):
                lock.acquire()
            if lock.is_locked:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._remove_unlisted()
            yield lock.is_locked
        except OSError as error:
            raise StorageFull(f"{self._folder} can't be written: {error}; make room, nothing was changed") from error
        finally:
            lock.release()


def _named(rows: Sequence[tuple[int, str]], lines: store_words.WordLines) -> Iterable[tuple[int, str]]:
    return zip((chunk_id for chunk_id, _ in rows), lines.lines(text for _, text in rows), strict=True)
