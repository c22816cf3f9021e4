"""Indexes of words outside SQLite as files: built, checked, loaded, thrown away.

SQLite holds every word (`store_words`); what is here is derived and only faster. There is one index a ChunkSpec, in a
folder of its own below `words/`. A changed one is another folder, in which the files that stay are hard links; it is
written beside, made durable, checksummed, loaded back, renamed, and published by one transaction. Chunks that are newer
than it are in the memory of each process that searches. Where anything is missing, damaged or of another release,
FTS5 answers. One builder at a time, by `locks/words.lock`.
"""

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from indexes import lexical, store_garbage, store_vectors, store_word_indexes, store_words, word_files, word_index
from indexes.errors import Conflict, StorageFull, StoreBusy, StoreDamaged
from indexes.failpoints import point
from indexes.store import BUSY_SECONDS, Connection, Store
from indexes.store_errors import translated
from indexes.store_files import file_bytes, sync_folder
from indexes.store_vectors import Head
from indexes.store_word_indexes import ListedWords
from indexes.store_words import WordLines
from indexes.word_index import WordReader

LEAST_ROWS: Final = 50_000
"""Chunks from which there is an index of words."""
DUE_ROWS: Final = 10_000
"""Newer chunks from which the index is extended by who writes."""
_REMOVED: Final = 0.25
"""Share of removed chunks from which the index is built anew instead of extended."""
VERSION: Final = f"1 {lexical.VERSION}"

log = logging.getLogger("indexes")


class WordIndexes:
    """Builds the indexes of words of one collection. No call of it belongs into the path of a request."""

    def __init__(self, store: Store, folder: Path, least_rows: int = LEAST_ROWS) -> None:
        """There is an index from `least_rows` chunks on, where the extra is installed."""
        self._store, self._folder, self._least_rows = store, folder / "words", least_rows
        self._lock_path = folder / "locks" / "words.lock"
        self._breaking_off = False

    def break_off(self) -> None:
        """Have the build of this process end without one, and every later one."""
        self._breaking_off = True

    def is_wanted(self, connection: Connection, head: Head) -> bool:
        """Whether the generation in service is to have an index."""
        return word_index.is_installed() and store_words.rows(connection, head.chunk_spec_id) >= self._least_rows

    def is_due(self, connection: Connection, head: Head, rows: int, damaged: frozenset[str]) -> bool:
        """Whether there is none that can be used, though there is to be one, or `rows` chunks are newer."""
        if not self.is_wanted(connection, head):
            return False
        listed = store_word_indexes.listed(connection, head.chunk_spec_id)
        if listed is None or listed.version != VERSION or listed.folder in damaged:
            return True
        return store_word_indexes.last_chunk_id(connection) - listed.last_id >= rows

    def loaded(self, listed: ListedWords) -> WordReader:
        """Load an index once its checksums are right. Raises OSError or StoreDamaged: then it is to be built anew."""
        if listed.version != VERSION:
            raise StoreDamaged("another release wrote it")
        word_files.require_whole(self._folder / listed.folder, listed.files)
        return word_index.load(self._folder / listed.folder)

    def build_if_due(self, rows: int = DUE_ROWS, damaged: frozenset[str] = frozenset()) -> bool:
        """Build the index where there is none that can be used, or `rows` chunks are newer; say whether it was built.

        Where others are in the way it was not: it is due again. Raises StorageFull; what was published stays as it was.
        """
        if self._store.read_only:
            return False
        with self._store.read() as connection:
            if not self.is_due(connection, store_vectors.head(connection), rows, damaged):
                return False
        try:
            return self.build(damaged)
        except (Conflict, StoreDamaged) as error:
            log.warning("the index of words is not built now (%s); full text answers", error)
            return False

    def build(self, damaged: frozenset[str] = frozenset()) -> bool:
        """Bring the index of the generation in service up to now; say whether nobody else was building.

        Folders that are known to be `damaged` are not built on. Raises StorageFull, and Conflict where a document is
        purged meanwhile: repeat it.
        """
        with self._building() as mine:
            if not mine:
                return False
            with self._store.read() as connection:
                head = store_vectors.head(connection)
                old = store_word_indexes.listed(connection, head.chunk_spec_id)
                last, purges = store_word_indexes.last_chunk_id(connection), store_garbage.last_purge(connection)
                if old is not None and (old.folder in damaged or not _may_grow(connection, old)):
                    old = None
            new = self._built(head, self._whole(old), last, purges)
            point("words.publish")
            with self._store.write() as connection:
                if store_garbage.last_purge(connection) != purges:
                    raise Conflict("a document was purged while the index of words was built")
                if head.chunk_spec_id in store_words.chunk_specs(connection):
                    store_word_indexes.put(connection, replace(new, changes=store_vectors.head(connection).changes))
                point("words.publish.commit")
            point("words.published")
            self._remove_unlisted()
            return True

    def _whole(self, old: ListedWords | None) -> ListedWords | None:
        """Return an index that can be built on, None where its files are not what they were."""
        if old is not None:
            try:
                word_files.require_whole(self._folder / old.folder, old.files)
            except (OSError, StoreDamaged) as error:
                log.warning("the index of words %s is built anew: %s", old.folder, error)
                return None
        return old

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
            _require_rows(beside, rows)
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
        lines = WordLines()
        while True:
            with self._store.read() as connection:
                if self._breaking_off or store_garbage.last_purge(connection) != purges:
                    raise Conflict("the collection is closed, or a document purged, while the index of words is built")
                rows = store_word_indexes.batch(connection, chunk_spec_id, after, last)
            if not rows:
                return
            point("words.batch")
            yield from lines.named(rows)
            after = rows[-1][0]

    # Throwing away

    def erase(self) -> None:
        """Throw all indexes away: they are built again from what the store has.

        Raises StoreBusy when another process builds for longer than the wait.
        """
        if not self._folder.exists():
            return
        with self._building(BUSY_SECONDS) as mine:
            if not mine:
                raise StoreBusy(f"another process is building words in {self._folder}; try again")
            point("words.unlist")
            with self._store.write() as connection:
                store_word_indexes.remove(connection)
                point("words.unlist.commit")
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
        with translated(self._folder):
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
        with translated(self._folder):
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


def _require_rows(folder: Path, rows: int) -> None:
    try:
        found = word_index.load(folder).rows
    except StoreDamaged as error:
        raise StorageFull(f"{folder} can't be read back: {error}; check the disk, nothing was changed") from error
    if found != rows:
        raise StorageFull(f"{folder} holds {found} of the {rows} chunks that were written; check the disk")


def _may_grow(connection: Connection, old: ListedWords) -> bool:
    """Whether an index is of this release, and few of its chunks were removed."""
    newer = store_word_indexes.count_newer(connection, old.chunk_spec_id, old.last_id)
    removed = old.rows - (store_words.rows(connection, old.chunk_spec_id) - newer)
    return old.version == VERSION and removed <= _REMOVED * old.rows
