"""Backups of collections: where they may be written, and how one becomes a collection that is served again.

A restore fills a folder of its own. The collection's row in `service.db` is the commit point: before it nothing has
changed, after it the new folder is served, by a running server with its next request. What a kill leaves is a folder
that no row names; `doctor --repair` removes it.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from indexes import store_backup
from indexes.collection import Collection
from indexes.errors import Conflict, IndexesError, StorageFull, StoreDamaged, StoreTooNew
from indexes.failpoints import point
from indexes.store import Store
from indexes.store_backup import Contents
from indexes.store_files import sync_folder
from ragsvc.errors import BadRequest, CollectionExists
from ragsvc.job_runner import JOB_LOCK
from ragsvc.library import UNLISTED, Library, hold_locks, new_id, unlisting
from ragsvc.service_store import FILE_NAME, CollectionRow, ServiceStore, check_name
from ragsvc.upload_run import APPLY_LOCK

RESTORE_LOCK = "restore.lock"
"""Held in a folder while it is filled: it is not a leftover."""
_BUILD_LOCK = "build.lock"
_OWN, _SERVICE = ("collections", "uploads", "evaluations"), Path(FILE_NAME).stem
"""Below the data directory: folders whose files the service removes, and what its own files there are called."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    collection: str
    contents: Contents
    """Of the backup."""
    collection_id: str
    """Another one than the backup's where that is another collection's: then its documents have other ids, too."""
    replaced: bool
    """Whether a collection stood there that was not blank."""
    jobs: int
    """Accepted uploads of the replaced collection that were not finished: they go into the restored one."""

    @property
    def new_ids(self) -> bool:
        """Whether the documents have other ids than in the backup."""
        return self.collection_id != self.contents.collection_id


class Backups:
    """Writes and restores backups of a data directory's collections. Every call blocks."""

    def __init__(self, data_dir: Path, store: ServiceStore, library: Library, *, delta_rows: int) -> None:
        """`delta_rows` as the library opens collections with."""
        self._data_dir, self._folder = data_dir, data_dir / "collections"
        self._store, self._library, self._delta_rows = store, library, delta_rows

    def write(self, name: str, file: Path, *, overwrite: bool = False) -> Contents:
        """Write a backup of a collection. Raises UnknownCollection, BadRequest, Conflict, StorageFull."""
        file, home = file.resolve(), self._data_dir.resolve()
        if any(file.is_relative_to(home / own) for own in _OWN) or (file.parent == home and file.stem == _SERVICE):
            raise BadRequest(f"{file} is where the service keeps its own files; take another place")
        if file.is_dir():
            raise BadRequest(f"{file} is a folder; name the file in it")
        if file.exists() and not file.is_file():
            raise BadRequest(f"{file} is no regular file; take another name")
        return self._library.open(name).backup(file, overwrite=overwrite)

    def restore(self, file: Path, name: str, *, replace: bool = False) -> Restored:
        """Make a collection of a backup, whole or not at all; with `replace` in the place of the one of that name.

        A blank collection is replaced in any case. Raises CollectionExists, CollectionBusy while the standing one is
        written, StoreDamaged or StoreTooNew for the file, StorageFull. Ctrl-C after the commit takes nothing back: what
        stood there before may then be left, for `doctor --repair`.
        """
        check_name(name)
        contents = store_backup.inspect(file)
        standing = self._store.collection(name)
        replaced = self._require_replaceable(standing, replace=replace)
        collection_id = self._free_id(contents.collection_id, standing)
        folder = self._folder / f"{collection_id}-{secrets.token_hex(4)}"
        try:
            with self._filling(folder):
                store_backup.install(file, folder, collection_id)
                point("restore.open")
                with Collection.open(folder, delta_rows=self._delta_rows) as opened:
                    opened.fold_if_due()
                if standing is not None:
                    return self._replace(standing, contents, collection_id, folder, replace=replace)
                point("restore.list")
                self._store.add_collection(collection_id, name, folder.name)
                point("restore.listed")
        except KeyboardInterrupt:
            if folder.name not in {row.folder for row in self._store.collections()}:
                raise
        return Restored(name, contents, collection_id, replaced, jobs=0)

    def _require_replaceable(self, standing: CollectionRow | None, *, replace: bool) -> bool:
        """Return whether something stands there that is not blank. Raises CollectionExists where it must stay."""
        blank = standing is None or self._is_blank(standing)
        if standing is not None and not blank and not replace:
            raise CollectionExists(
                f"there is a collection {standing.name!r} with something in it: restore into another one "
                "(--collection NAME), or in its place with --replace"
            )
        return not blank

    def _is_blank(self, row: CollectionRow) -> bool:
        try:
            with Collection.open(self._folder / row.folder) as opened:
                return not opened.sources() and not opened.status().vectors
        except (IndexesError, OSError):
            return False  # damaged: whoever wants to restore in its place says so

    def _free_id(self, wanted: str, standing: CollectionRow | None) -> str:
        """Return the id that the backup has, or a new one where that is another collection's."""
        holder = self._store.collection_of_id(wanted)
        if holder is None or (standing is not None and holder.id == standing.id):
            return wanted
        return new_id()

    @contextmanager
    def _filling(self, folder: Path) -> Iterator[None]:
        """Make a folder and hold its lock; nothing of it stays where the block fails before a row names it."""
        try:
            point("restore.make_folder")
            locks = folder / "locks"
            locks.mkdir(mode=0o700, parents=True)
            folder.chmod(0o700)
            (folder / UNLISTED).touch(mode=0o600)
        except OSError as error:
            raise StorageFull(f"{folder} can't be made: {error.strerror}; nothing was changed") from error
        with FileLock(locks / RESTORE_LOCK, mode=0o600):
            try:
                yield
            except BaseException:
                if folder.name not in {row.folder for row in self._store.collections()}:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            finally:
                with suppress(OSError):
                    (folder / UNLISTED).unlink(missing_ok=True)

    def _replace(
        self, standing: CollectionRow, contents: Contents, collection_id: str, folder: Path, *, replace: bool
    ) -> Restored:
        old = self._folder / standing.folder
        with ExitStack() as held:
            point("restore.lock")
            if old.is_dir():
                (old / "locks").mkdir(mode=0o700, exist_ok=True)
                more = (JOB_LOCK, APPLY_LOCK, _BUILD_LOCK)
                hold_locks(old / "locks", standing.name, held, more=more)
            self._hold_writes(old, held)
            replaced = self._require_replaceable(standing, replace=replace)
            with unlisting(old):
                point("restore.commit")
                jobs = self._store.replace_collection(standing, collection_id, folder.name)
            point("restore.remove_old")
            # Under the store's write lock: a writer that waits for it finds the file gone and says so.
            for path in sorted(old.glob("store.db*")):
                path.unlink(missing_ok=True)
        point("restore.remove_folder")
        shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):
            sync_folder(self._folder)
        return Restored(standing.name, contents, collection_id, replaced, jobs)

    @staticmethod
    def _hold_writes(old: Path, held: ExitStack) -> None:
        """Keep everybody from writing to the standing store, where it can be opened. Raises StoreBusy."""
        try:
            store = Store.open(old)
        except Conflict:
            raise
        except (IndexesError, OSError):
            return  # damaged, gone, or a newer release's: it is replaced
        held.callback(store.close)
        with suppress(StoreTooNew, StoreDamaged):
            held.enter_context(store.write())
