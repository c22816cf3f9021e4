"""Segments: how vectors become files.

SQLite holds every vector; a segment is derived and serves a range of their ids, and the delta serves the newer ones.
Files are written beside, made durable, checksummed, loaded back, tried, renamed, and published by one transaction; a
file that is damaged or gone costs speed, never an answer. One builder at a time, by `locks/build.lock`.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Collection as Names
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from indexes import store_filing, store_vectors
from indexes.errors import Conflict, IndexesError, StorageFull, StoreBusy, StoreDamaged
from indexes.failpoints import point
from indexes.segment_files import SegmentFiles, checksum, kinds
from indexes.snapshots import last_row, sample
from indexes.store import BUSY_SECONDS, Connection, Store, give_way
from indexes.store_files import sync_folder
from indexes.store_vectors import Head
from indexes.tiers import merge_from
from indexes.types import EmbeddingSpec, IdArray, Segment
from indexes.vector_index import VectorIndex
from indexes.vector_map import Layout, MappedRows, remove

AUTO = "auto"
"""The kind of a new segment is chosen from its size."""
DELTA_ROWS = 10_000
DELTA_BYTES = 64 << 20
"""Of float32: whichever of the two limits is met first makes a fold due."""
_TRIALS = 5
_TRIAL_SCORE = 0.99
"""A vector must find itself, or its equal, at least this near: every kind scores exactly what it finds."""

log = logging.getLogger("indexes")


class Segments:
    """Builds the segments of one collection. No call of it belongs into the path of a request."""

    def __init__(self, store: Store, files: SegmentFiles, kind: str = AUTO, delta_rows: int = DELTA_ROWS) -> None:
        """New segments are of `kind`: one of `indexes.segment_files.kinds()`, or chosen from their size.

        A fold is due when the delta has `delta_rows`, or DELTA_BYTES of vectors.
        """
        self._store, self._files, self._kind, self._delta_rows = store, files, kind, delta_rows
        self._removed = 0

    def fold(self) -> bool:
        """Make a segment of the delta's rows, merging smaller ones by size tiers; say whether there was one to make.

        False also when another process is building. Raises StorageFull; what was published stays as it was.
        """
        with self._building() as mine:
            if not mine:
                return False
            head, segments = self._current()
            with self._store.read() as connection:
                last = last_row(segments)
                rows = store_vectors.count_vectors(connection, head.embedding_spec_id, last)
            if not rows:
                return False
            kept = merge_from([*(segment.rows for segment in segments), rows])
            self._replace(head, segments[:kept], segments[kept:])
            self._file_keys()
            return True

    def fold_if_due(self) -> bool:
        """Turn the delta into a segment when it has grown past its limit; say whether it did.

        Where others change the segments meanwhile, or write for long, it did not: it is due again, and nothing is lost.
        """
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            last = last_row(store_vectors.segments(connection, head.generation))
            limit = self.most_rows(head.spec.embedding)
            # Ids that went to other specs make this an upper bound; mostly it saves the counting.
            if head.last_vector_id - last < limit:
                return False
            if store_vectors.count_vectors(connection, head.embedding_spec_id, last) < limit:
                return False
        try:
            return self.fold()
        except Conflict as error:
            log.info("the delta was not folded (%s); it is tried again", error)
            return False

    def most_rows(self, spec: EmbeddingSpec) -> int:
        """Return how many rows the delta may have before it is folded."""
        return min(self._delta_rows, max(1, DELTA_BYTES // (4 * spec.dimensions)))

    def _file_keys(self) -> None:
        """File the keys of new rows, in short transactions; what a kill leaves, the next fold files."""
        for table, key in store_filing.KEYS:
            more = True
            while more:
                point("segment.file-keys")
                began = time.monotonic()
                with self._store.write() as connection:
                    more = store_filing.file_step(connection, table, key)
                if more:
                    give_way(began)

    def compact(self) -> bool:
        """Make one segment of all rows; say whether there were any, and nobody else was building."""
        with self._building() as mine:
            if not mine:
                return False
            head, segments = self._current()
            if not head.last_vector_id or (len(segments) == 1 and last_row(segments) == head.last_vector_id):
                return False
            self._replace(head, (), segments)
            return True

    def rebuild(self, damaged: Names[str]) -> bool:
        """Make the files of these segments whole again; say whether nobody else was building.

        Where only exact vectors are damaged they are mended in place; else the segment is built anew.
        """
        with self._building() as mine:
            if not mine:
                return False
            head, segments = self._current()
            for segment in segments:
                if segment.file in damaged and not self._mended(head, segment):
                    self._rewrite(head, segment)
                    log.warning("segment %s was rebuilt from the store", segment.file)
            return True

    @contextmanager
    def built_ahead(self, head: Head) -> Iterator[Segment]:
        """Build a segment of all rows up to `head` of an embedding spec that no generation serves yet.

        The block publishes it: its files are safe from other builders until it ends. Raises StoreBusy when another
        process builds for longer than the wait, StorageFull.
        """
        with self._building(BUSY_SECONDS) as mine:
            if not mine:
                raise StoreBusy(f"another process is building segments in {self._files.indexes}; try again")
            yield self._built(head, 0, 1, head.last_vector_id)

    def erase(self, gone: Callable[[Connection], Mapping[int, IdArray]]) -> None:
        """Erase vectors that the store holds no more from the files: their exact rows, and the segments that knew them.

        `gone` returns their ids by embedding spec. It is asked when nobody builds any more: a builder that had read
        them may publish them until then, also for a spec that was not served before. May be repeated. Raises StoreBusy
        when another process builds for longer than the wait, StorageFull.
        """
        with self._building(BUSY_SECONDS) as mine:
            if not mine:
                raise StoreBusy(f"another process is building segments in {self._files.indexes}; try again")
            with self._store.read() as connection:
                of_specs = gone(connection)
            for spec_id, ids in of_specs.items():
                self._erase(spec_id, ids)
            self._remove_unpublished()

    def remove_unpublished(self) -> int:
        """Remove files that no generation names; return how many, 0 while another process is building."""
        with self._building():
            return self._removed

    def _current(self) -> tuple[Head, tuple[Segment, ...]]:
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            return head, store_vectors.segments(connection, head.generation)

    def _erase(self, spec_id: int, ids: IdArray) -> None:
        with self._store.read() as connection:
            heads = [one for one in store_vectors.heads(connection) if one.embedding_spec_id == spec_id]
            lists = [store_vectors.segments(connection, one.generation) for one in heads]
        for segment in {segment.file: segment for listed in lists for segment in listed}.values():
            if ((ids >= segment.first_id) & (ids <= segment.last_id)).any():
                self._rewrite(heads[0], segment)
        if heads:
            exact = self._files.vector_map(spec_id, heads[0].spec.embedding.dimensions)
            with _storage(exact.path):
                exact.zero(ids)

    def _mended(self, head: Head, segment: Segment) -> bool:
        """Write the exact vectors of a segment where they differ from the store's; say whether all of it is whole."""
        _, checksums = self._write_rows(head, segment.first_id, segment.last_id)
        if checksums != segment.checksums or segment.kind not in kinds():
            return False
        try:
            self._files.load(head.embedding_spec_id, head.spec.embedding.dimensions, segment, _raise_damage)
        except (OSError, IndexesError):
            return False
        log.warning("the exact vectors of segment %s were mended from the store", segment.file)
        return True

    def _replace(self, head: Head, kept: Sequence[Segment], replaced: Sequence[Segment]) -> None:
        ordinal = kept[-1].ordinal + 1 if kept else 0
        new = self._built(head, ordinal, last_row(kept) + 1, head.last_vector_id)
        with self._publishing() as connection:
            store_vectors.replace_segments(connection, head, replaced, new)

    def _rewrite(self, head: Head, segment: Segment) -> None:
        """Build a segment anew, once for all generations that share it; `head` is one of its embedding spec."""
        new = self._built(head, segment.ordinal, segment.first_id, segment.last_id)
        with self._publishing() as connection:
            store_vectors.exchange_segment(connection, segment.file, new)

    @contextmanager
    def _publishing(self) -> Iterator[Connection]:
        point("segment.publish")
        with self._store.write() as connection:
            yield connection
        point("segment.published")

    def _built(self, head: Head, ordinal: int, first: int, last: int) -> Segment:
        """Write the files of a segment and prove them. It is not in service yet."""
        ids, checksums = self._write_rows(head, first, last)
        dimensions, spec_id = head.spec.embedding.dimensions, head.embedding_spec_id
        rows = self._files.rows(spec_id, Layout(dimensions, first, last), checksums, _raise_damage, ids)
        kind = _kind_for(len(ids), dimensions) if self._kind == AUTO else self._kind
        name = f"{first}-{last}-{secrets.token_hex(4)}.{kind}"
        segment = Segment(ordinal, name, kind, len(ids), first, last, "", 0, {}, checksums)
        with _storage(self._files.indexes / name):
            return self._written(segment, rows)

    def _written(self, segment: Segment, rows: MappedRows) -> Segment:
        path = self._files.indexes / segment.file
        beside = path.with_name(f"{path.name}.tmp")
        try:
            index = kinds()[segment.kind].build(rows)
            settings = dict(index.settings)
            point("segment.save")
            index.save(beside)
            del index
            point("segment.sync")
            _make_durable(beside)
            size, digest = beside.stat().st_size, checksum(beside)
            try:
                _try(kinds()[segment.kind].load(beside, rows, settings), rows)
            except StoreDamaged as error:  # FAISS does not say so where the last of its writes fails
                raise StorageFull(f"{path} can't be read back as it was written: {error}; check the disk") from error
            point("segment.rename")
            beside.rename(path)
            point("segment.sync-folder")
            sync_folder(self._files.indexes)
        finally:
            beside.unlink(missing_ok=True)
        return replace(segment, sha256=digest, size=size, settings=settings)

    def _write_rows(self, head: Head, first: int, last: int) -> tuple[IdArray, bytes]:
        """Bring the exact vectors of a range into their file; return their ids and the checksums of the blocks."""
        dimensions, spec_id = head.spec.embedding.dimensions, head.embedding_spec_id
        exact = self._files.vector_map(spec_id, dimensions)
        with _storage(exact.path):
            written = exact.write(first, last, partial(self._files.stored_batches, spec_id, dimensions))
            sync_folder(self._files.vectors)
        return written

    @contextmanager
    def _building(self, seconds: float = 0) -> Iterator[bool]:
        """Hold the build lock if it is free within so long, and say so. What killed builds left is removed first."""
        lock = FileLock(self._files.locks / "build.lock", timeout=seconds, mode=0o600)
        with _storage(self._files.locks), suppress(Timeout):
            self._files.make_folders()
            lock.acquire()
        try:
            with _storage(self._files.indexes):
                self._removed = self._remove_unpublished() if lock.is_locked else 0
            yield lock.is_locked
        finally:
            lock.release()

    def _remove_unpublished(self) -> int:
        removed = 0
        with self._store.read() as connection:
            files = store_vectors.segment_files(connection)
            maps = {self._files.map_path(one).name for one in store_vectors.served_embedding_specs(connection)}
        for folder, named in ((self._files.indexes, files), (self._files.vectors, maps)):
            for path in folder.iterdir():
                if path.name not in named:
                    point("segment.remove")
                    remove(path)
                    removed += 1
        return removed


def _kind_for(rows: int, dimensions: int) -> str:
    from indexes.faiss_index import kind_for

    return kind_for(rows, dimensions)


def _raise_damage() -> None:
    raise StorageFull(
        "the exact vectors just written can't be read back: check the disk and the limit of open files (ulimit -n)"
    )


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(
            f"{path} can't be written: {error}; make room, or correct owner and rights; nothing was changed"
        ) from error


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try(index: VectorIndex, rows: MappedRows) -> None:
    """Refuse a written file that does not find a few of its own rows."""
    if index.size != rows.size:
        raise StoreDamaged(f"a new segment holds {index.size} rows of {rows.size}; check the disk")
    for place in sample(rows.size, _TRIALS):
        row = rows.ids[place : place + 1]
        best = index.search(rows.take(row), 1)[0]
        if not len(best.ids) or best.scores[0] < _TRIAL_SCORE:
            raise StoreDamaged(f"a new segment does not find its own vector {row[0]}; check the disk")
