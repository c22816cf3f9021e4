"""Is a collection what it says it is? Looks at every row and file, changes nothing unless it is told to repair.

What is derived is repaired: words, SQLite's own indexes, segments, exact vectors; leftovers of killed runs go. What was
acknowledged (documents, texts, vectors) is never touched: where it is damaged, only a backup helps.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from indexes import publishing, store_backup, store_checks, store_rejections, store_search, store_vectors, store_words
from indexes.collection import Collection
from indexes.errors import StorageFull, StoreBusy, StoreDamaged, StoreError
from indexes.failpoints import point
from indexes.segment_files import SegmentFiles
from indexes.store import DatabaseError, Store
from indexes.types import Segment
from indexes.vector_map import Layout, remove
from indexes.word_indexes import WordIndexes

Level = Literal["problem", "repaired", "note"]
_BATCH = 200
_VECTORS = 5_000
_SHOWN = 20
"""Documents or vectors that are named singly; more are counted."""
_SPOOL_SECONDS = 3600.0
_FROM_BACKUP = "restore a backup: ragsvc restore FILE --replace"
_RIGHTS = "correct its owner and rights (chown, chmod), or check the disk; then repeat"
_REPAIR = "rebuild it: ragsvc doctor --repair"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, as one line: where, what, what to do."""

    level: Level
    """`problem`: inconsistent, and still so. `repaired`: it was, and is not any more. `note`: nothing is wrong."""
    kind: str
    """A word for programs."""
    where: str
    what: str
    todo: str = ""


def problem(kind: str, where: str, what: str, todo: str) -> Finding:
    """Return a finding that makes the check fail."""
    return Finding("problem", kind, where, what, todo)


def note(kind: str, where: str, what: str, todo: str = "") -> Finding:
    """Return a finding that is no inconsistency."""
    return Finding("note", kind, where, what, todo)


def check(folder: Path, *, repair: bool = False) -> list[Finding]:
    """Check the collection in `folder`, and with `repair` mend what can be. Others may read and write meanwhile.

    A store of an earlier release is migrated, as any opening does. Raises StoreBusy, StorageFull where a repair can't
    be done now.
    """
    try:
        store = Store.open(folder)
    except (StoreBusy, StorageFull):
        raise
    except StoreError as error:
        return [problem("store", "store.db", str(error), _FROM_BACKUP)]
    try:
        return list(_Check(store, folder, repair=repair).findings())
    finally:
        store.close()


class _Check:
    """One check of one open store."""

    def __init__(self, store: Store, folder: Path, *, repair: bool) -> None:
        self._store, self._folder, self._repair = store, folder, repair
        self._files, self._word_files = SegmentFiles(store, folder), WordIndexes(store, folder)

    def findings(self) -> Iterator[Finding]:
        """Yield what is found. A step that can't be done for damage is a finding itself."""
        steps: tuple[Callable[[], Iterable[Finding]], ...] = (
            *(self._file, self._rows, self._texts, self._words, self._vectors),
            *(self._segments, self._word_indexes, self._leftovers, self._retired, self._figures),
        )
        said = set[Finding]()
        for step in steps:
            try:
                for finding in step():
                    said.add(finding)
                    yield finding
            except (StoreBusy, StorageFull):
                raise
            except OSError as error:
                where = error.filename or str(self._folder)
                yield problem("file", str(where), f"it can't be read: {error.strerror}", _RIGHTS)
            except (StoreError, DatabaseError, ValueError) as error:
                kind = "integrity" if isinstance(error, StoreDamaged) else "store"
                damaged = problem(kind, "store.db", str(error), _FROM_BACKUP)
                if damaged not in said:
                    said.add(damaged)
                    yield damaged

    def _file(self) -> Iterator[Finding]:
        with self._store.read() as connection:
            wrong = store_checks.integrity(connection)
        if wrong and self._repair and all("index" in message for message in wrong):
            with suppress(StoreDamaged, DatabaseError):
                point("doctor.indexes")
                with self._store.write() as connection:
                    store_checks.rebuild_indexes(connection)
                with self._store.read() as connection:
                    still = store_checks.integrity(connection)
                if not still:
                    yield Finding("repaired", "index", "store.db", f"{wrong[0]}: its indexes were rebuilt")
                wrong = still
        for message in wrong:
            yield problem("integrity", "store.db", message, f"ragsvc doctor --repair may help, else {_FROM_BACKUP}")

    def _rows(self) -> Iterator[Finding]:
        with self._store.read() as connection:
            for table, count in store_checks.dangling(connection).items():
                yield problem("reference", table, f"{count} rows name something that is not there", _FROM_BACKUP)
            serving = store_checks.current_generations(connection)
            if serving != 1:
                yield problem("generation", "generation", f"{serving} generations are in service, not 1", _FROM_BACKUP)
            if store_vectors.collection_id(connection) is None:
                yield problem("store", "store.db", "it does not know its collection", _FROM_BACKUP)
            wrong = store_checks.without_one_live_version(connection)
            broken = store_checks.broken_json(connection) + store_checks.unreadable_headings(connection)
        for document_id, path, live in wrong[:_SHOWN]:
            what = f"it has {live} visible versions with a text, not 1"
            yield problem("version", f"{path} ({document_id})", what, _FROM_BACKUP)
        yield from _more("version", "documents", wrong)
        if broken:
            yield problem("fields", "store.db", f"{broken} fields are no JSON", _FROM_BACKUP)

    def _texts(self) -> Iterator[Finding]:
        """Compare chunks with the texts they are slices of, a few documents in each transaction."""
        after, found = 0, list[store_checks.CheckedVersion]()
        while True:
            with self._store.read() as connection:
                serving = store_vectors.head(connection).chunk_spec_id
                ids = store_checks.versions_after(connection, after, _BATCH)
                for version_id in ids:
                    wrong = store_checks.wrong_version(connection, version_id, serving)
                    found += [wrong] if wrong else []
            if not ids:
                break
            after = ids[-1]
        for each in found[:_SHOWN]:
            todo = (
                f"ragsvc documents remove {each.document_id}, then index it again (its vectors stay), or {_FROM_BACKUP}"
            )
            yield problem("chunk", f"{each.path} ({each.document_id})", each.wrong, todo)
        yield from _more("chunk", "documents", found)

    def _words(self) -> Iterator[Finding]:
        with self._store.read() as connection:
            specs, current = store_words.chunk_specs(connection), store_words.are_current(connection)
        if not current:
            yield note("words", "full text", "another release wrote it; the next opening writes it anew", _REPAIR)
            return
        wrong = next(filter(None, map(self._wrong_words, specs)), "")
        if wrong and not self._repair:
            yield problem("words", "full text", wrong, _REPAIR)
        elif wrong:
            point("doctor.words")
            with self._store.write() as connection:
                store_words.rebuild(connection)
            yield Finding("repaired", "words", "full text", f"{wrong}: rebuilt from the texts")

    def _wrong_words(self, chunk_spec_id: int) -> str:
        try:
            if self._repair:
                with self._store.write() as connection:
                    store_checks.check_words(connection, chunk_spec_id)
            with self._store.read() as connection:
                return store_checks.wrong_words(connection, chunk_spec_id)
        except (StoreDamaged, DatabaseError, ValueError) as error:
            with self._store.read() as connection:
                dropped = chunk_spec_id not in store_words.chunk_specs(connection)
            return "" if dropped else f"they can't be read ({error})"

    def _vectors(self) -> Iterator[Finding]:
        after, wrong = 0, list[int]()
        while True:
            with self._store.read() as connection:
                rows = store_checks.vectors_after(connection, after, _VECTORS)
            if not rows:
                break
            wrong += store_checks.wrong_vectors(rows)
            after = rows[-1][0]
        for vector_id in wrong[:_SHOWN]:
            what = "it is not finite, not of unit length, not of its model's width, or not found by its text"
            yield problem("vector", f"vector {vector_id}", what, _FROM_BACKUP)
        yield from _more("vector", "vectors", wrong)

    def _segments(self) -> Iterator[Finding]:
        """Compare files with what their rows say. A row that is gone meanwhile was replaced by a fold."""
        wrong = self._wrong_segments()
        if wrong and self._repair:
            yield from self._rebuilt(wrong)
            return
        for file, why in wrong.items():
            yield problem("segment", f"segments/{file}", why, f"{_REPAIR}; till then its rows come from the store")

    def _rebuilt(self, wrong: dict[str, str]) -> Iterator[Finding]:
        point("doctor.segments")
        with self._store.write() as connection:
            last, head = store_vectors.last_vector_id(connection), store_vectors.head(connection)
            for segment in store_vectors.segments(connection, head.generation):
                if not 0 < segment.first_id <= segment.last_id <= last:
                    store_checks.drop_segments(connection, head.generation, segment.ordinal)
        with Collection.open(self._folder) as collection:
            if collection.rebuild_segments(frozenset(wrong)):
                collection.rebuild_segments(frozenset())  # the files that were replaced go
            collection.fold_if_due()
        left = self._wrong_segments()
        for file, why in wrong.items():
            if file in left:
                yield problem("segment", f"segments/{file}", why, "somebody is building; repeat the command later")
            else:
                yield Finding("repaired", "segment", f"segments/{file}", f"{why}: rebuilt from the store")

    def _wrong_segments(self) -> dict[str, str]:
        """Return what is wrong with the segments in service, by file; a kept generation's are checked by a rollback."""
        found = {segment.file: why for segment in self._named() if (why := self._wrong_segment(segment))}
        known = {segment.file for segment in self._named()} if found else set[str]()
        return {file: why for file, why in found.items() if file in known}

    def _named(self) -> tuple[Segment, ...]:
        with self._store.read() as connection:
            return store_vectors.segments(connection, store_vectors.head(connection).generation)

    def _wrong_segment(self, segment: Segment) -> str:
        with self._store.read() as connection:
            head, last = store_vectors.head(connection), store_vectors.last_vector_id(connection)
            spec_id, first = head.embedding_spec_id, segment.first_id
            held = store_checks.vectors_between(connection, spec_id, first, segment.last_id)
        if not 0 < first <= segment.last_id <= last or held > segment.rows:
            return f"it says {segment.rows} vectors, {first} to {segment.last_id}; the store has {held} of {last}"
        try:
            self._files.require_whole(segment)
        except OSError as error:
            return f"it can't be read: {error.strerror}"
        except StoreDamaged as error:
            return str(error)
        layout = Layout(head.spec.embedding.dimensions, first, segment.last_id)
        damaged = self._files.rows(spec_id, layout, segment.checksums, _ignore).damaged()
        return f"{len(damaged)} of the {layout.blocks} blocks of its exact vectors are damaged" if len(damaged) else ""

    def _word_indexes(self) -> Iterator[Finding]:
        """Compare the files of indexes of words with their list. One that is damaged is thrown away, not mended."""
        left = self._word_files.leftovers()
        if left and self._repair:
            self._word_files.remove_unlisted()
        yield from (_leftover(f"words/{path.name}", repaired=self._repair) for path in left)
        for folder, why in self._word_files.wrong().items():
            if self._repair:
                self._word_files.drop(folder)
                yield Finding("repaired", "word-index", f"words/{folder}", f"{why}: removed; it is built when used")
            else:
                yield problem("word-index", f"words/{folder}", why, f"{_REPAIR}; till then full text answers")

    def _leftovers(self) -> Iterator[Finding]:
        """Look for files that nothing names, unless somebody is building one just now."""
        yield from self._spools()
        if not self._unnamed():
            return
        with suppress(Timeout), FileLock(self._files.locks / "build.lock", timeout=0, mode=0o600):
            left = self._unnamed()
            if self._repair:
                point("doctor.leftovers")
                for path in left:
                    remove(path)
            yield from (_leftover(f"{path.parent.name}/{path.name}", repaired=self._repair) for path in left)

    def _spools(self) -> Iterator[Finding]:
        """Look for what runs keep while they work, and that dies with them but for a moment at its making."""
        for path in self._files.locks.glob("tmp*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _SPOOL_SECONDS:
                    if self._repair:
                        path.unlink()
                    yield _leftover(f"locks/{path.name}", repaired=self._repair)

    def _unnamed(self) -> list[Path]:
        with self._store.read() as connection:
            files = store_vectors.segment_files(connection)
            maps = {self._files.map_path(one).name for one in store_vectors.served_embedding_specs(connection)}
        return sorted(
            path
            for folder, named in ((self._files.indexes, files), (self._files.vectors, maps))
            if folder.is_dir()
            for path in folder.iterdir()
            if path.name not in named
        )

    def _retired(self) -> Iterator[Finding]:
        """Look for what no kept generation needs, and a killed change of generations has not taken apart."""
        with self._store.read() as connection:
            left = len(store_words.dropped(connection))
        if left and self._repair:
            publishing.drop_retired(self._store)
            yield Finding("repaired", "leftover", "generations", "an old one was not taken apart: it is now")
        elif left:
            yield note("leftover", "generations", "an old one is not taken apart yet", _REPAIR)

    def _figures(self) -> Iterator[Finding]:
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            _, stale = store_search.document_counts(connection)
            missing = store_search.missing_vectors(connection, head)
            rejected = store_rejections.count(connection)
            count, size = store_checks.unreferenced(connection)
            purges = store_checks.pending_purges(connection)
            store_backup.contents(connection)
        if stale:
            yield note("stale", "documents", f"{stale} can't be read any more and keep their last text")
        if rejected:
            yield note("rejected", "documents", f"{rejected} files are rejected; ragsvc status counts them")
        if missing:
            yield note("missing", "vectors", f"{missing} chunks have none yet and are found by words", "ragsvc index")
        if count:
            yield note("unreferenced", "vectors", f"{count} serve no text now, {size:,} bytes; kept for its return")
        if purges:
            yield note("purge", "purge", f"{purges} purges are not finished", _REPAIR)


def _ignore() -> None:
    """What is damaged is asked for afterwards, all of it."""


def _leftover(where: str, *, repaired: bool) -> Finding:
    if repaired:
        return Finding("repaired", "leftover", where, "nothing needs it: removed")
    return note("leftover", where, "nothing needs it", "remove it: ragsvc doctor --repair")


def _more(kind: str, where: str, found: Sequence[object]) -> Iterator[Finding]:
    if len(found) > _SHOWN:
        yield problem(kind, where, f"{len(found) - _SHOWN} more", _FROM_BACKUP)
