"""What a search reads: the segments of a generation, and the delta of newer rows. Immutable, replaced as a whole."""

import logging
from collections.abc import Callable, Sequence
from collections.abc import Collection as Names
from dataclasses import dataclass, replace

import numpy as np

from indexes import store_vectors
from indexes.errors import IndexesError
from indexes.exact_index import ExactIndex
from indexes.segment_files import SegmentFiles, StreamedIndex, merged
from indexes.store import Connection
from indexes.store_vectors import Head
from indexes.types import FloatVector, Segment
from indexes.vector_index import Allowed, VectorIndex
from indexes.vector_map import Layout

log = logging.getLogger("indexes")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Complete for all vectors of an embedding spec up to `head.last_vector_id`, whatever generation they serve.

    Its segments are those of the list that `head.generation` had at `head.revision`.
    """

    head: Head
    segments: tuple[Segment, ...]
    indexes: tuple[VectorIndex, ...]
    """One for each segment, in their order."""
    delta: ExactIndex
    unfolded: tuple[VectorIndex, ...] = ()
    """Rows between both, read from the store at each search: too many to be held, until they are folded."""

    def nearest(self, query: FloatVector, k: int, allowed: Allowed | None = None) -> dict[int, float]:
        """Return ids and cosines of the `k` nearest vectors, best first, ties by id; fewer where there are fewer."""
        found = [index.search(query[None, :], k, allowed)[0] for index in self._all() if index.size]
        if not found:
            return {}
        best = merged(found, k) if len(found) > 1 else found[0]
        return dict(zip(best.ids.tolist(), best.scores.tolist(), strict=True))

    def _all(self) -> tuple[VectorIndex, ...]:
        return (*self.indexes, *self.unfolded, self.delta)


def load(
    connection: Connection,
    files: SegmentFiles,
    head: Head,
    known: Snapshot | None,
    on_damage: Callable[[str], None],
    most_rows: int,
) -> Snapshot:
    """Return a snapshot of `head`, which is of this transaction; segments that `known` has are not loaded again.

    Where more than `most_rows` are in no segment (an earlier release's were dropped, or nobody could build), they are
    not taken into memory.

    A segment that can't be used is served from the store, and `on_damage` is called with the name of its file; so it is
    when one turns out to be damaged later.
    """
    segments = store_vectors.segments(connection, head.generation)
    loaded: dict[str, VectorIndex] = {}
    if known is not None:
        loaded = {segment.file: index for segment, index in zip(known.segments, known.indexes, strict=True)}
    indexes = tuple(loaded.get(segment.file) or _loaded(files, head, segment, on_damage) for segment in segments)
    first, dimensions = last_row(segments) + 1, head.spec.embedding.dimensions
    rows = store_vectors.count_vectors(connection, head.embedding_spec_id, first - 1)
    if rows > most_rows:
        layout = Layout(dimensions, first, head.last_vector_id)
        unfolded = StreamedIndex(files, head.embedding_spec_id, layout, rows)
        return Snapshot(head, segments, indexes, ExactIndex.empty(dimensions), (unfolded,))
    # All rows go into one piece of memory: pieces that are outgrown would stay with the process.
    return Snapshot(
        head, segments, indexes, _with_rows(connection, head, ExactIndex.empty(dimensions, 2 * rows), first)
    )


def _loaded(files: SegmentFiles, head: Head, segment: Segment, on_damage: Callable[[str], None]) -> VectorIndex:
    dimensions, spec_id = head.spec.embedding.dimensions, head.embedding_spec_id

    def damaged() -> None:
        on_damage(segment.file)

    try:
        return files.load(spec_id, dimensions, segment, damaged)
    except (OSError, IndexesError) as error:
        log.warning("segment %s can't be used (%s): its vectors are served from the store", segment.file, error)
    damaged()
    return StreamedIndex(files, spec_id, Layout(dimensions, segment.first_id, segment.last_id), segment.rows)


def _with_rows(connection: Connection, head: Head, delta: ExactIndex, first: int) -> ExactIndex:
    dimensions, spec_id = head.spec.embedding.dimensions, head.embedding_spec_id
    for ids, vectors in store_vectors.vector_batches(connection, spec_id, dimensions, first, head.last_vector_id):
        delta = delta.extended(ids, vectors)
    return delta


def extended(connection: Connection, head: Head, known: Snapshot) -> Snapshot:
    """Return `known` with the rows that are newer, of the same embedding spec: it costs in proportion to them.

    Its segments stay, also where others have taken their place since, or another generation did: they hold the same
    rows.
    """
    delta = _with_rows(connection, head, known.delta, known.head.last_vector_id + 1)
    newest = replace(known.head, last_vector_id=head.last_vector_id, changes=head.changes)
    return replace(known, head=newest, delta=delta)


def covers(known: Snapshot, head: Head) -> bool:
    """Whether all rows that a transaction with this head sees are in."""
    return serves(known, head) and known.head.last_vector_id >= head.last_vector_id


def serves(known: Snapshot, head: Head) -> bool:
    """Whether the rows are those of the head's embedding spec: another way of cutting has them, too."""
    return known.head.embedding_spec_id == head.embedding_spec_id


def is_of(known: Snapshot, head: Head) -> bool:
    """Whether the segments are those of the head's list, or a newer one."""
    return known.head.generation == head.generation and known.head.revision >= head.revision


def without(known: Snapshot, files: Names[str]) -> Snapshot:
    """Return a snapshot that does not know these segments: the next `load` loads them anew."""
    kept = [pair for pair in zip(known.segments, known.indexes, strict=True) if pair[0].file not in files]
    return replace(known, segments=tuple(pair[0] for pair in kept), indexes=tuple(pair[1] for pair in kept))


def last_row(segments: Sequence[Segment]) -> int:
    """Return the highest vector id that segments serve, 0 for none: the delta begins behind it."""
    return segments[-1].last_id if segments else 0


def sample(rows: int, size: int) -> list[int]:
    """Return up to `size` positions spread evenly over `rows`, the first and the last among them."""
    places: list[int] = np.linspace(0, rows - 1, num=min(size, rows), dtype=np.int64).tolist()
    return places
