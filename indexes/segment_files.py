"""The files of a collection's segments: where they lie, how they are checked, and what they are read into.

A segment has a file of its own, as its kind of index writes it, and a range of the file of exact vectors of its
embedding spec. Both are derived from the store, and neither is believed before its checksum was compared.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from indexes import store_vectors
from indexes.errors import NO_STORAGE, StorageFull, StoreDamaged
from indexes.exact_index import ExactIndex
from indexes.store import Store
from indexes.store_files import file_bytes
from indexes.types import FloatMatrix, IdArray, Neighbours, Segment
from indexes.vector_index import Allowed, SegmentIndex, checked_queries
from indexes.vector_map import HalfMatrix, Layout, MappedRows, VectorMap, units

_MODE = 0o700


def kinds() -> dict[str, type[SegmentIndex]]:
    """Return every kind of index by the name that a segment's row keeps.

    FAISS is loaded by the first call: 13 MB that a collection without segments, below the limit of the delta, can save.
    """
    from indexes.faiss_index import KINDS

    return KINDS


class SegmentFiles:
    """Paths and contents below one collection's folder."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self.indexes = folder / "segments"
        self.vectors = folder / "vectors"
        self.locks = folder / "locks"

    def make_folders(self) -> None:
        """Make the folders, for their owner alone. Raises StorageFull."""
        try:
            for made in (self.indexes, self.vectors, self.locks):
                made.mkdir(exist_ok=True)
                if made.stat().st_mode & 0o777 != _MODE:  # else nothing is asked that only the owner may do
                    made.chmod(_MODE)
        except OSError as error:
            if error.errno not in NO_STORAGE:
                raise
            raise StorageFull(
                f"the folders of a collection can't be made: {error}; make room, or correct their owner, then repeat"
            ) from error

    def map_path(self, spec_id: int) -> Path:
        """Return where the exact vectors of an embedding spec lie."""
        return self.vectors / f"{spec_id}.f16"

    def vector_map(self, spec_id: int, dimensions: int) -> VectorMap:
        """Return the file of exact vectors, to be written by a builder."""
        return VectorMap(self.map_path(spec_id), dimensions)

    def rows(
        self,
        spec_id: int,
        layout: Layout,
        checksums: bytes,
        on_damage: Callable[[], None],
        ids: IdArray | None = None,
    ) -> MappedRows:
        """Return the exact vectors of a segment's range; blocks that are damaged are read from the store instead."""

        def stored(wanted: IdArray) -> HalfMatrix:
            with self._store.read() as connection:
                return store_vectors.stored_rows(connection, layout.dimensions, wanted)

        return MappedRows(self.map_path(spec_id), layout, checksums, stored, on_damage, ids)

    def stored_batches(
        self, spec_id: int, dimensions: int, first: int, last: int
    ) -> Iterator[tuple[IdArray, HalfMatrix]]:
        """Yield the vectors of a range as the store keeps them, in a read transaction of their own."""
        with self._store.read() as connection:
            yield from store_vectors.stored_batches(connection, spec_id, dimensions, first, last)

    def load(self, spec_id: int, dimensions: int, segment: Segment, on_damage: Callable[[], None]) -> SegmentIndex:
        """Load a segment once its checksum is right. Raises OSError or StoreDamaged.

        `on_damage` is called now or at any later search when a block of its exact vectors turns out to be damaged.
        """
        self.require_whole(segment)
        if segment.kind not in kinds():
            raise StoreDamaged(f"this release has no index of kind {segment.kind}")
        layout = Layout(dimensions, segment.first_id, segment.last_id)
        rows = self.rows(spec_id, layout, segment.checksums, on_damage)
        index = kinds()[segment.kind].load(self.indexes / segment.file, rows, segment.settings)
        if (index.size, index.dimensions) != (segment.rows, dimensions):
            raise StoreDamaged(f"it holds {index.size} rows of {index.dimensions} dimensions")
        if index.size and not (segment.first_id <= index.span[0] and index.span[1] <= segment.last_id):
            raise StoreDamaged(f"it holds the rows {index.span[0]} to {index.span[1]}, which are another segment's")
        return index

    def require_whole(self, segment: Segment) -> None:
        """Compare size and checksum of a segment's own file with its row. Raises OSError or StoreDamaged."""
        path = self.indexes / segment.file
        if path.stat().st_size != segment.size or checksum(path) != segment.sha256:
            raise StoreDamaged("its checksum is another one")

    def bytes_on_disk(self) -> int:
        """Return the size of all files; a folder that can't be read, or is removed under us, counts nothing."""
        size = 0
        for folder in (self.indexes, self.vectors):
            with suppress(OSError):
                size += sum(file_bytes(path) for path in folder.iterdir())
        return size


class StreamedIndex:
    """A range searched row by row in the store: exact and slow, for as long as a segment's own files are damaged.

    Satisfies `indexes.vector_index.VectorIndex`; holds some MB at a time.
    """

    kind = "streamed"

    def __init__(self, files: SegmentFiles, spec_id: int, layout: Layout, size: int) -> None:
        self._files, self._spec_id, self._layout = files, spec_id, layout
        self.size, self.dimensions = size, layout.dimensions

    def search(self, queries: FloatMatrix, k: int, allowed: Allowed | None = None) -> list[Neighbours]:
        """Return the `k` nearest rows to each of `queries`, as `VectorIndex.search` does."""
        queries = checked_queries(queries, k, self.dimensions)
        best = [Neighbours(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        layout = self._layout
        batches = self._files.stored_batches(self._spec_id, layout.dimensions, layout.first, layout.last)
        for ids, stored in batches:
            found = ExactIndex.build(ids, units(stored)).search(queries, k, allowed)
            best = [merged((one, other), k) for one, other in zip(best, found, strict=True)]
        return best


def merged(found: Sequence[Neighbours], k: int) -> Neighbours:
    """Return the `k` best of several answers to one query, ties by id."""
    ids = np.concatenate([one.ids for one in found])
    scores = np.concatenate([one.scores for one in found])
    order = np.lexsort((ids, -scores))[:k]
    return Neighbours(ids[order], scores[order])


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
