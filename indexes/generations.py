"""Segments: how vectors become files and searchable snapshots.

SQLite holds every vector; a segment is a derived file that serves a range of their ids, and the delta serves the newer
ones. A file is written beside, made durable, checksummed, loaded back, tried, renamed, and published by one
transaction; a file that is damaged or gone costs speed, never an answer. One builder at a time, by `locks/build.lock`.
"""

import hashlib
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from indexes import store_vectors
from indexes.errors import IndexesError, StorageFull, StoreDamaged
from indexes.exact_index import ExactIndex
from indexes.failpoints import point
from indexes.store import Connection, Store, file_bytes, sync_folder
from indexes.store_vectors import Head
from indexes.types import FloatMatrix, FloatVector, IdArray, Segment
from indexes.vector_index import Allowed, SegmentIndex, VectorIndex

MAX_SEGMENTS = 8
TIER_FACTOR = 4
"""Four segments of one size become one of the next: a row is rewritten about log4(rows / delta) times."""
_TRIALS = 5
_TRIAL_SCORE = 0.99
"""A vector must find itself, or its equal, at least this near; even a compressed kind keeps that."""

log = logging.getLogger("indexes")


def kinds() -> dict[str, type[SegmentIndex]]:
    """Return every kind of index by the name that a segment's row keeps.

    FAISS is loaded by the first call: 13 MB that a collection without segments, below the limit of the delta, can save.
    """
    from indexes.faiss_index import KINDS

    return KINDS


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a search reads: immutable, and complete for all vectors up to `head.last_vector_id`."""

    head: Head
    segments: tuple[Segment, ...]
    indexes: tuple[VectorIndex, ...]
    """One for each segment, in their order."""
    delta: ExactIndex
    damaged: frozenset[str]
    """Files that could not be used: their rows are served exactly, from the store."""

    def covers(self, head: Head) -> bool:
        """Whether nothing that a transaction with this head sees is missing here. More than it sees does no harm."""
        return (
            self.head.generation == head.generation
            and self.head.revision >= head.revision
            and self.head.last_vector_id >= head.last_vector_id
        )

    def nearest(self, query: FloatVector, k: int, allowed: Allowed | None = None) -> dict[int, float]:
        """Return ids and cosines of the `k` nearest vectors, best first, ties by id; fewer where there are fewer."""
        found = [index.search(query[None, :], k, allowed)[0] for index in (*self.indexes, self.delta) if index.size]
        if not found:
            return {}
        ids = np.concatenate([neighbours.ids for neighbours in found])
        scores = np.concatenate([neighbours.scores for neighbours in found])
        order = np.lexsort((ids, -scores))[:k]
        return dict(zip(ids[order].tolist(), scores[order].tolist(), strict=True))


class Segments:
    """The segment files of one collection."""

    def __init__(self, store: Store, folder: Path, kind: str = "flat") -> None:
        """`folder` is the collection's; new files are of `kind`, one of `kinds()`."""
        self._store = store
        self._files = folder / "segments"
        self._lock_path = folder / "locks" / "build.lock"
        self._kind = kind
        self._removed = 0
        for made in (self._files, self._lock_path.parent):
            made.mkdir(exist_ok=True)
            made.chmod(0o700)

    def snapshot(self, connection: Connection, head: Head, previous: Snapshot | None) -> Snapshot:
        """Return a snapshot for `head`, taking over from `previous` what is still valid."""
        segments = store_vectors.segments(connection, head.generation)
        loaded: dict[str, VectorIndex] = {}
        damaged: set[str] = set()
        if previous is not None:
            loaded = {s.file: index for s, index in zip(previous.segments, previous.indexes, strict=True)}
        for segment in segments:
            if segment.file not in loaded:
                loaded[segment.file], whole = self._load_or_read(connection, head, segment)
                damaged |= set() if whole else {segment.file}
            elif previous is not None and segment.file in previous.damaged:
                damaged.add(segment.file)
        indexes = tuple(loaded[segment.file] for segment in segments)
        delta = self._delta(connection, head, segments, previous)
        return Snapshot(head, segments, indexes, delta, frozenset(damaged))

    def _delta(
        self, connection: Connection, head: Head, segments: Sequence[Segment], previous: Snapshot | None
    ) -> ExactIndex:
        dimensions, spec_id = head.spec.embedding.dimensions, head.embedding_spec_id
        first, delta = last_row(segments) + 1, None
        if previous is not None and previous.segments == segments and previous.head.generation == head.generation:
            first, delta = previous.head.last_vector_id + 1, previous.delta
        if delta is None:
            # All rows go into one piece of memory: pieces that are outgrown would stay with the process.
            delta = ExactIndex.empty(dimensions, room=2 * store_vectors.count_vectors(connection, spec_id, first - 1))
        for ids, vectors in store_vectors.vector_batches(connection, spec_id, dimensions, first, head.last_vector_id):
            delta = delta.extended(ids, vectors)
        return delta

    def _load_or_read(self, connection: Connection, head: Head, segment: Segment) -> tuple[VectorIndex, bool]:
        """Load a file, or serve its rows from the store; say whether the file was whole."""
        try:
            return self._load(segment, head.spec.embedding.dimensions), True
        except (OSError, IndexesError) as error:
            log.warning("segment %s can't be used (%s): its vectors are served from the store", segment.file, error)
        ids, vectors = self._rows(connection, head, segment.first_id, segment.last_id)
        return ExactIndex.build(ids, vectors), False

    def _load(self, segment: Segment, dimensions: int) -> VectorIndex:
        """Verify the checksum before any byte is parsed. Raises OSError or StoreDamaged."""
        path = self._files / segment.file
        if path.stat().st_size != segment.size or checksum(path) != segment.sha256:
            raise StoreDamaged("its checksum is another one")
        if segment.kind not in kinds():
            raise StoreDamaged(f"this release has no index of kind {segment.kind}")
        index: VectorIndex = kinds()[segment.kind].load(path, ExactIndex.empty(dimensions), segment.settings)
        if (index.size, index.dimensions) != (segment.rows, dimensions):
            raise StoreDamaged(f"it holds {index.size} rows of {index.dimensions} dimensions")
        return index

    def _rows(self, connection: Connection, head: Head, first: int, last: int) -> tuple[IdArray, FloatMatrix]:
        dimensions = head.spec.embedding.dimensions
        return store_vectors.read_vectors(connection, head.embedding_spec_id, dimensions, first, last)

    def fold(self) -> bool:
        """Make a segment of the delta's rows, merging smaller ones by size tiers; say whether there was one to make.

        False also when another process is building. Raises StorageFull; what was published stays as it was.
        """
        with self._building() as mine:
            if not mine:
                return False
            with self._store.read() as connection:
                head = store_vectors.head(connection)
                segments = store_vectors.segments(connection, head.generation)
                last = last_row(segments)
                rows = store_vectors.count_vectors(connection, head.embedding_spec_id, last)
            if not rows:
                return False
            kept = merge_from([*(segment.rows for segment in segments), rows])
            replaced = segments[kept:]
            first = replaced[0].first_id if replaced else last + 1
            self._publish(head, replaced, ordinal=_ordinal(segments[:kept]), first=first, last=head.last_vector_id)
            return True

    def rebuild(self, damaged: frozenset[str]) -> bool:
        """Build damaged files anew from the store; say whether nobody else was building."""
        with self._building() as mine:
            if not mine:
                return False
            with self._store.read() as connection:
                head = store_vectors.head(connection)
                current = store_vectors.segments(connection, head.generation)
            for segment in current:
                if segment.file in damaged:
                    self._publish(head, (segment,), segment.ordinal, segment.first_id, segment.last_id)
                    head = replace(head, revision=head.revision + 1)
                    log.warning("segment %s was rebuilt from the store", segment.file)
            return True

    def erase(self) -> bool:
        """Take from all files, of every generation, the vectors that the store has no more; repeatable.

        False when another process is building: then try again.
        """
        with self._building() as mine:
            if not mine:
                return False
            with self._store.read() as connection:
                heads = store_vectors.heads(connection)
            for head in heads:
                self._erase_in(head)
            self._remove_unpublished()
            return True

    def _erase_in(self, head: Head) -> None:
        with self._store.read() as connection:
            segments = store_vectors.segments(connection, head.generation)
            live = store_vectors.live_ids(connection, head.embedding_spec_id)
        for segment in segments:
            first, last = np.searchsorted(live, [segment.first_id, segment.last_id + 1])
            if segment.rows == last - first:
                continue
            point("segments.erase")
            self._publish(head, (segment,), segment.ordinal, segment.first_id, segment.last_id)
            head = replace(head, revision=head.revision + 1)

    def _publish(self, head: Head, replaced: Sequence[Segment], ordinal: int, first: int, last: int) -> None:
        with self._store.read() as connection:
            ids, vectors = self._rows(connection, head, first, last)
        new = self._write(ids, vectors, ordinal, first, last)
        with self._store.write() as connection:
            store_vectors.replace_segments(connection, head, replaced, new)

    def _write(self, ids: IdArray, vectors: FloatMatrix, ordinal: int, first: int, last: int) -> Segment:
        """Write a file beside, prove it, and give it its name. It is not in service yet."""
        name = f"{first}-{last}-{secrets.token_hex(4)}.{self._kind}"
        beside, path = self._files / f"{name}.tmp", self._files / name
        try:
            kind = kinds()[self._kind]
            rows = ExactIndex.build(ids, vectors)
            kind.build(rows).save(beside)
            descriptor = os.open(beside, os.O_RDWR)
            try:
                os.fchmod(descriptor, 0o600)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            size, digest = beside.stat().st_size, checksum(beside)
            segment = Segment(ordinal, name, self._kind, len(ids), first, last, digest, size)
            _try(kind.load(beside, rows, {}), ids, vectors)
            beside.rename(path)
            sync_folder(self._files)
        except OSError as error:
            raise StorageFull(f"{path} can't be written: {error}; make room, nothing was changed") from error
        finally:
            beside.unlink(missing_ok=True)
        return segment

    @contextmanager
    def _building(self) -> Iterator[bool]:
        """Hold the build lock if it is free, and say so. What killed builds left is removed first."""
        try:
            with FileLock(self._lock_path, timeout=0, mode=0o600):
                self._removed = self._remove_unpublished()
                yield True
        except Timeout:
            yield False

    def remove_unpublished(self) -> int | None:
        """Remove files that no generation names; return how many, None while another process is building."""
        with self._building() as mine:
            return self._removed if mine else None

    def _remove_unpublished(self) -> int:
        with self._store.read() as connection:
            published = store_vectors.segment_files(connection)
        removed = [path for path in self._files.iterdir() if path.name not in published]
        for path in removed:
            path.unlink(missing_ok=True)
        return len(removed)

    def bytes_on_disk(self) -> int:
        """Return the size of all segment files, 0 where the collection is being removed under us."""
        try:
            return sum(file_bytes(path) for path in self._files.iterdir())
        except FileNotFoundError:
            return 0


def last_row(segments: Sequence[Segment]) -> int:
    """Return the highest vector id that segments serve, 0 for none: the delta begins behind it."""
    return segments[-1].last_id if segments else 0


def _ordinal(kept: Sequence[Segment]) -> int:
    return kept[-1].ordinal + 1 if kept else 0


def merge_from(rows: Sequence[int]) -> int:
    """Return the position from which segments of these sizes (the new one last) become one.

    Size tiers, as in log-structured storage: what must be merged to stay within `MAX_SEGMENTS` is, and `TIER_FACTOR`
    segments no larger than the tier of what the last of them amounts to become one, again and again.
    """
    start = min(len(rows), MAX_SEGMENTS) - 1
    while True:
        tier = _tier(sum(rows[start:]))
        run = start
        while run and _tier(rows[run - 1]) <= tier:
            run -= 1
        if start - run < TIER_FACTOR - 1:
            return start
        start = run


def _tier(rows: int) -> int:
    """Return floor(log4(rows)), exactly."""
    return (rows.bit_length() - 1) // 2


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _try(index: VectorIndex, ids: IdArray, vectors: FloatMatrix) -> None:
    """Refuse a written file that does not find a few of its own rows."""
    if index.size != len(ids):
        raise StoreDamaged(f"a new segment holds {index.size} rows of {len(ids)}; check the disk")
    for row in np.linspace(0, len(ids) - 1, num=min(_TRIALS, len(ids)), dtype=np.int64):
        best = index.search(vectors[row : row + 1], 1)[0]
        if not len(best.ids) or best.scores[0] < _TRIAL_SCORE:
            raise StoreDamaged(f"a new segment does not find its own vector {ids[row]}; check the disk")
