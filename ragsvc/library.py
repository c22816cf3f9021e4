"""The collections of one data directory: by name, by document id; made and removed without half ones."""

import secrets
import shutil
import string
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from indexes.collection import Collection
from indexes.errors import NotFound, StorageFull, StoreError
from indexes.failpoints import point
from indexes.generations import AUTO
from indexes.types import IndexSpec
from indexes.word_indexes import LEAST_ROWS
from ragsvc.errors import CollectionBusy, CollectionExists, UnknownCollection
from ragsvc.service_store import CollectionRow, ServiceStore
from ragsvc.settings import LOCAL_MODEL

DEFAULT = "default"
UNSET_MODELS = (LOCAL_MODEL, "text-embedding-3-small")
"""What `default` is made with where no model is set: which of them, a key decides that may come later."""
_ID_ALPHABET = string.ascii_lowercase + string.digits
ID_LENGTH = 6
UNLISTED = "unlisted"
"""A file in a folder that no row names yet, or no more: so that one whose row was lost is not taken for a leftover."""
_DOCUMENT_PREFIX = "doc_"
_MOMENT = 1.0
"""Seconds that a removal waits for a lock: a server that has just done a job gives its lock back a moment later."""


class Library:
    """Opens each collection once and keeps it open. Safe for many threads."""

    def __init__(
        self,
        data_dir: Path,
        store: ServiceStore,
        new_spec: Callable[[], IndexSpec],
        *,
        delta_rows: int,
        index_kind: str = AUTO,
        word_rows: int = LEAST_ROWS,
    ) -> None:
        """`new_spec` returns what the default collection is made with when it is first opened."""
        self._folder = data_dir / "collections"
        self._store, self._new_spec = store, new_spec
        self._delta_rows, self._index_kind, self._word_rows = delta_rows, index_kind, word_rows
        self._open: dict[str, Collection] = {}  # by folder: after a restore the same name, or id, has another one
        self._guards: dict[str, threading.Lock] = {}
        """By folder: held while it is opened, or taken from the table. A few bytes stay for one that is gone."""
        self._lock = threading.Lock()
        """Of the two tables alone: opening and closing may be slow, and one collection must not hold up the others."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all collections; `default` always exists."""
        return tuple(sorted({DEFAULT, *(row.name for row in self._store.collections())}))

    def open(self, name: str) -> Collection:
        """Return a collection. Raises UnknownCollection.

        A `default` that nothing was ever put into is made anew where the settings have come to want another one.
        """
        row = self._store.collection(name)
        if name == DEFAULT and row is not None and row.folder not in self._open:
            row = self._renewed(row)
        if row is None:
            if name != DEFAULT:
                raise self._unknown(name)
            return self.create(DEFAULT, self._new_spec(), exist_ok=True)
        return self._opened(row)

    def require(self, name: str) -> None:
        """Raise UnknownCollection where there is none of that name, without opening it."""
        if self._store.collection(name) is None:
            raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownCollection:
        known = ", ".join(self.names())
        return UnknownCollection(
            f"there is no collection {name!r}; known: {known}. Make it: ragsvc collections create {name}"
        )

    def of_document(self, document_id: str) -> Collection:
        """Return the collection that a document id belongs to. Raises NotFound."""
        row = None
        if document_id.startswith(_DOCUMENT_PREFIX):
            row = self._store.collection_of_id(document_id.removeprefix(_DOCUMENT_PREFIX)[:ID_LENGTH])
        if row is None:
            raise NotFound(f"there is no document {document_id!r}")
        try:
            return self._opened(row)
        except UnknownCollection:
            raise NotFound(f"there is no document {document_id!r}") from None

    def of_id(self, collection_id: str) -> Collection:
        """Return a collection by its id. Raises UnknownCollection."""
        row = self._store.collection_of_id(collection_id)
        if row is None:
            raise UnknownCollection(f"there is no collection of the id {collection_id!r}; it was removed")
        return self._opened(row)

    def create(self, name: str, spec: IndexSpec, *, exist_ok: bool = False) -> Collection:
        """Make a collection: the store first, its row last; nothing stays of one that fails.

        Raises CollectionExists; StorageFull, NoStorage where there is no room for it.
        """
        point("library.create")
        folder = self._new_folder()
        collection_id = folder.name
        try:
            Collection.create(folder, collection_id, spec, delta_rows=self._delta_rows).close()
            point("library.list")
            self._store.add_collection(collection_id, name)
        except CollectionExists:
            shutil.rmtree(folder)
            if not exist_ok:
                raise
            return self.open(name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.of_id(collection_id)

    def _new_folder(self) -> Path:
        """Make a folder that is nobody else's, named by a new id, so that it may be removed again."""
        while True:
            folder = self._folder / new_id()
            try:
                folder.mkdir(mode=0o700, parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise StorageFull(f"{folder} can't be made: {error.strerror}; make room, then repeat") from error
            return folder

    def remove(self, name: str, *, idle: bool = False) -> None:
        """Remove a collection for good: its row first, its folder later.

        Raises UnknownCollection, and CollectionBusy while a run or a build of it goes on: what that paid for would be
        lost without a word. With `idle`, unfinished jobs keep it, too.
        """
        row = self._store.collection(name)
        with ExitStack() as held:
            if row is not None:
                hold_locks(self._folder / row.folder / "locks", name, held)
            with unlisting(self._folder / row.folder) if row is not None else nullcontext():
                point("library.unlist")
                row = self._store.remove_collection(name, idle=idle)
            self._close(row.folder)
            point("library.erase")
            shutil.rmtree(self._folder / row.folder, ignore_errors=True)
            point("library.erased")

    def locks(self, collection: Collection) -> Path:
        """Return the folder of a collection's lock files."""
        return collection.folder / "locks"

    def close(self) -> None:
        """Close every collection."""
        with self._lock:
            folders = list(self._guards)
        for folder in folders:
            self._close(folder)

    def _renewed(self, row: CollectionRow) -> CollectionRow | None:
        """Return the row of `default`, None where it was blank, made for other settings, and is removed."""
        opened, wanted = self._opened(row), self._new_spec()
        unset = opened.spec.chunks == wanted.chunks and opened.spec.embedding.model in UNSET_MODELS
        if not unset or opened.spec == wanted or opened.sources() or opened.status().vectors:
            return row
        try:
            self.remove(DEFAULT, idle=True)
        except CollectionBusy:
            return row  # something is about to be put into it
        return None

    def _opened(self, row: CollectionRow) -> Collection:
        while True:
            with self._lock:
                opened = self._open.get(row.folder)
                guard = self._guards.setdefault(row.folder, threading.Lock())
            if opened is not None:
                return opened
            self._close_gone()
            with guard:
                opened = self._open.get(row.folder)
                if opened is not None:
                    return opened
                try:
                    return self._newly_opened(row)
                except (StoreError, OSError):
                    found = self._store.collection_of_id(row.id)
                    if found is None:
                        raise UnknownCollection("the collection was removed a moment ago") from None
                    if found.folder == row.folder:
                        raise
            row = found  # it was replaced a moment ago

    def _newly_opened(self, row: CollectionRow) -> Collection:
        folder = self._folder / row.folder
        opened = Collection.open(folder, delta_rows=self._delta_rows, kind=self._index_kind, word_rows=self._word_rows)
        with suppress(OSError):  # of a removal that was killed before it began
            (folder / UNLISTED).unlink(missing_ok=True)
        with self._lock:
            self._open[row.folder] = opened
        return opened

    def _close_gone(self) -> None:
        """Close what was removed or replaced: its files take descriptors and disk for as long as they are open."""
        with self._lock:
            known = list(self._open)
        for folder in set(known) - {row.folder for row in self._store.collections()}:  # a row is older than an opening
            self._close(folder)

    def _close(self, folder: str) -> None:
        """Take a collection from the table, when an opening of it that is under way has ended, and close it."""
        with self._lock:
            guard = self._guards.get(folder)
        if guard is None:
            return
        with guard, self._lock:
            opened = self._open.pop(folder, None)
        if opened is not None:
            opened.close()


@contextmanager
def unlisting(folder: Path) -> Iterator[None]:
    """Mark a folder whose row is about to go in the block; not any more where the row stays for an error.

    An interrupt may come behind the commit, as a kill may: the mark stays, and does no harm where the row does.
    """
    mark = folder / UNLISTED
    with suppress(OSError):  # a full disk must not keep what takes room; then doctor asks
        mark.touch(mode=0o600)
    try:
        yield
    except Exception:
        with suppress(OSError):
            mark.unlink(missing_ok=True)
        raise


def new_id() -> str:
    """Return six characters for a collection, drawn from 2 billion."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(ID_LENGTH))


def hold_locks(locks: Path, name: str, held: ExitStack, *, more: Sequence[str] = ()) -> None:
    """Take every lock in the folder of a collection's locks, and those named `more`. Raises CollectionBusy."""
    for path in sorted({*locks.glob("*.lock"), *(locks / each for each in more)}):
        try:
            held.enter_context(FileLock(path, timeout=_MOMENT, mode=0o600))
        except Timeout:
            raise CollectionBusy(
                f"collection {name} is being written by another run; wait for it to end, then repeat the command"
            ) from None
