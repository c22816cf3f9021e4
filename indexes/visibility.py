"""Which vectors a search may find: filters as bitmaps, remembered between searches.

A filter speaks of documents, an index knows vectors. Between them stand three columns with one row for each chunk of
the generation in service: its id, its version's and its vector's. They are read once and extended by what is new. So a
filter costs one scan of the documents and one pass over the columns, and the bitmap is kept for the next search.

That new rows are those with new ids holds because a version's chunks never change, and because what a chunk is embedded
by (`chunk_embedding`) is written with the chunk, or before the commit that puts its generation into service.

Nothing here decides what is shown: that is asked of SQLite in the search's own transaction. A bitmap may name vectors
that are gone, which costs a look; it never lacks one that its transaction sees, so a filtered search keeps its `k`.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from indexes import store_search, store_visibility, store_words
from indexes.store import Connection
from indexes.store_search import Condition
from indexes.store_vectors import Head
from indexes.types import IdArray
from indexes.vector_index import Allowed

KEPT_BITMAPS: Final = 16
"""Most filters that are remembered, the last ones asked for: one bit a vector each."""
BYTES_A_CHUNK: Final = 14
"""At most, with a vector for each chunk: 12 of columns and 2 of bitmaps, up to 4 billion ids. Twice as many in columns
beyond that, or just before removed chunks are dropped."""
_BULK: Final = 50_000
"""New rows from which reading everything anew is faster than looking each one up."""
_SLACK: Final = 10_000
"""Removed chunks that are never worth dropping."""

_Column = npt.NDArray[np.unsignedinteger]
_Key = tuple[int, int, int, int, int, bytes]


@dataclass(frozen=True, slots=True)
class Columns:
    """One row for each chunk of a ChunkSpec, rising by id. Never changed: extending makes another one."""

    chunks: _Column
    versions: _Column
    vectors: _Column
    """0 where there is none yet."""
    generation: int
    last_chunk: int
    last_vector: int
    """All rows up to these ids are in. Greater ids may be, too, in no order that counts."""
    as_of: int
    """`Head.changes` of the newest transaction that rows were read in."""
    dropped_at: int = 0
    """`Head.changes` when rows of removed versions were last dropped, or came and went unseen: an older transaction may
    still see those."""
    kept: int = 0
    """Rows that were left then."""

    def serves(self, head: Head) -> bool:
        """Whether nothing that a transaction with this head sees was dropped, or is of another generation."""
        return self.generation == head.generation and self.dropped_at <= head.changes

    def rows_of(self, versions: IdArray) -> npt.NDArray[np.bool_]:
        """Return which rows belong to one of `versions`."""
        last = max(int(versions.max(initial=0)), int(self.versions.max(initial=0)))
        chosen = np.zeros(last + 1, np.bool_)
        chosen[versions] = True
        rows: npt.NDArray[np.bool_] = chosen[self.versions]
        return rows


class Visibility:
    """What one collection's searches remember of its chunks and filters. Safe from many threads."""

    def __init__(self) -> None:
        self._columns: Columns | None = None
        self._reading = threading.Lock()
        self._guard = threading.Lock()
        self._bitmaps: OrderedDict[_Key, npt.NDArray[np.uint8]] = OrderedDict()
        self._missing: tuple[_Key, int] | None = None

    def allowed(self, connection: Connection, head: Head, where: Condition | None) -> Allowed:
        """Return a bitmap by id of the vectors of visible chunks, of those that a filter lets pass if one is given.

        Complete for the transaction that `head` was read in, which must be the one of `connection`.
        """
        key = _key(head, where)
        with self._guard:
            packed = self._bitmaps.get(key)
            if packed is not None:
                self._bitmaps.move_to_end(key)
        if packed is not None:
            return np.unpackbits(packed, count=head.last_vector_id + 1).view(np.bool_)
        columns = self._columns_for(connection, head)
        if not columns.serves(head):  # a search that began long ago: it sees chunks that are no longer kept here
            return store_search.allowed_vectors(connection, head, where or ("1", []))
        found = columns.vectors[columns.rows_of(store_visibility.live_versions(connection, where))]
        allowed = np.zeros(head.last_vector_id + 1, np.bool_)
        allowed[found[found <= head.last_vector_id]] = True
        allowed[0] = False
        with self._guard:
            self._bitmaps[key] = np.packbits(allowed)
            while len(self._bitmaps) > KEPT_BITMAPS:
                self._bitmaps.popitem(last=False)
        return allowed

    def missing(self, connection: Connection, head: Head) -> int:
        """Return how many visible chunks of the generation have no vector."""
        key = _key(head, None)
        known = self._missing
        if known is not None and known[0] == key:
            return known[1]
        columns = self._columns_for(connection, head)
        if not columns.serves(head):
            return store_search.missing_vectors(connection, head)
        rows = columns.rows_of(store_visibility.live_versions(connection))
        missing = int(np.count_nonzero(rows & ((columns.vectors == 0) | (columns.vectors > head.last_vector_id))))
        self._missing = key, missing
        return missing

    def load(self, connection: Connection, head: Head) -> None:
        """Read the columns now, so that no search waits for them."""
        self._columns_for(connection, head)

    def _columns_for(self, connection: Connection, head: Head) -> Columns:
        """Return columns with all that this transaction sees, unless they do not serve it."""
        with self._reading:
            columns = self._columns
            last = store_visibility.last_ids(connection)
            if columns is None or (columns.generation != head.generation):
                columns = _read(connection, head, last)
            # Transactions are ordered, and ids rise: one sees more than is here in both, or in neither.
            elif last > (columns.last_chunk, columns.last_vector):
                columns = _extended(columns, connection, head, last)
            self._columns = columns
            return columns


def _key(head: Head, where: Condition | None) -> _Key:
    # By `repr`: true and 1 are one key of a dictionary, and two values of a filter.
    digest = hashlib.sha256(repr(where).encode("utf-8", "surrogatepass")).digest()
    specs = (head.chunk_spec_id, head.embedding_spec_id)
    return head.generation, *specs, head.changes, head.last_vector_id, digest


def _read(connection: Connection, head: Head, last: tuple[int, int]) -> Columns:
    """Read all columns anew."""
    ids, versions = _joined(store_visibility.all_chunks(connection, head.chunk_spec_id))
    order = np.argsort(ids)
    chunks, vectors = ids[order], np.zeros(len(ids), np.uint32)
    for pairs in store_visibility.all_vectors(connection, head.embedding_spec_id):
        vectors = _with_vectors(chunks, vectors, pairs)
    return Columns(chunks, versions[order], vectors, head.generation, *last, head.changes, head.changes, len(chunks))


def _extended(columns: Columns, connection: Connection, head: Head, last: tuple[int, int]) -> Columns:
    """Return the columns with what is new up to the ids `last`, and without removed versions where they are many."""
    if last[0] - columns.last_chunk + last[1] - columns.last_vector > _BULK:
        return _read(connection, head, last)
    ids, versions = store_visibility.new_chunks(connection, head.chunk_spec_id, columns.last_chunk)
    order = np.argsort(ids)
    chunks = np.concatenate([columns.chunks, _narrow(ids[order])])
    vectors = np.concatenate([columns.vectors, np.zeros(len(ids), np.uint32)])
    for pairs in (
        store_visibility.vectors_of_new_chunks(connection, head.embedding_spec_id, columns.last_chunk),
        store_visibility.chunks_of_new_vectors(connection, head.embedding_spec_id, columns.last_vector),
    ):
        vectors = _with_vectors(chunks, vectors, pairs)
    extended = replace(
        columns,
        chunks=chunks,
        versions=np.concatenate([columns.versions, _narrow(versions[order])]),
        vectors=vectors,
        last_chunk=last[0],
        last_vector=last[1],
        as_of=head.changes,
        # Chunks that were written and removed between two looks are in neither.
        dropped_at=columns.dropped_at if head.changes <= columns.as_of + 1 else head.changes,
    )
    in_service = store_words.rows(connection, head.chunk_spec_id)
    if len(chunks) > 2 * max(in_service, columns.kept) + _SLACK:
        return _without_removed(extended, connection, head)
    return extended


def _without_removed(columns: Columns, connection: Connection, head: Head) -> Columns:
    """Return the columns without the chunks of versions that are gone; those that wait to be visible stay."""
    rows = columns.rows_of(store_visibility.versions(connection))
    return replace(
        columns,
        chunks=columns.chunks[rows],
        versions=columns.versions[rows],
        vectors=columns.vectors[rows],
        dropped_at=head.changes,
        kept=int(np.count_nonzero(rows)),
    )


def _with_vectors(chunks: _Column, vectors: _Column, pairs: tuple[IdArray, IdArray]) -> _Column:
    """Return `vectors` with those of `pairs` (chunk ids, vector ids) whose chunk is here; uses up what is given."""
    ids, values = pairs
    if not len(ids) or not len(chunks):
        return vectors
    asked, found = _narrow(ids), _narrow(values)
    places = np.minimum(np.searchsorted(chunks, asked), len(chunks) - 1)
    here = chunks[places] == asked
    vectors = vectors.astype(np.promote_types(vectors.dtype, found.dtype), copy=False)
    vectors[places[here]] = found[here]
    return vectors


def _joined(parts: Iterable[tuple[IdArray, IdArray]]) -> tuple[_Column, _Column]:
    """Return both columns in one piece each."""
    columns: tuple[list[_Column], list[_Column]] = ([], [])
    for pair in parts:
        for column, part in zip(columns, pair, strict=True):
            column.append(_narrow(part))
    one, other = (np.concatenate([np.empty(0, np.uint32), *column]) for column in columns)
    return one, other


def _narrow(ids: IdArray) -> _Column:
    """Return ids in 4 bytes each, in 8 where one of them needs it."""
    wide = int(ids.max(initial=0)) > np.iinfo(np.uint32).max
    return ids.astype(np.uint64 if wide else np.uint32)
