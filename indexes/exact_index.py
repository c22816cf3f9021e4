"""Brute force over numpy arrays: the reference that every other index is compared with, and the delta."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Self

import numpy as np
import numpy.typing as npt

from indexes.errors import InvalidVectors
from indexes.types import FloatMatrix, FloatVector, IdArray, Neighbours
from indexes.vector_index import Allowed, checked_queries, checked_rows, positions

SCORE_NOISE = 1e-5
"""How far float32 products of unit vectors may stand from the true cosine.

Random rounding adds about sqrt(dimensions) * 2**-24, 3.3e-6 at 3,072; the sum of a whole matrix product also depends on
where in the matrix a row stands. What lies this near to the k-th score is scored again, exactly.
"""
_PRODUCT_CELLS = 1 << 22
"""Scores held at once, 16 MB of float32: bounds memory when many queries meet many rows."""
_SMALLEST_BUFFER = 64


@dataclass(slots=True)
class _Buffer:
    """Rows that several indexes share; each sees only the first ones, as many as it has."""

    ids: IdArray
    vectors: FloatMatrix
    used: int
    lock: Lock = field(default_factory=Lock)


class ExactIndex:
    """Every row compared with the query. A `VectorIndex` that can be extended, and the rows that another is built from.

    Scores are computed in float64 and rounded once, so equal rows have equal scores wherever they stand.
    """

    kind = "exact"

    def __init__(self, buffer: _Buffer, size: int, highest_id: int) -> None:
        self._buffer = buffer
        self._size = size
        self._highest_id = highest_id

    @property
    def size(self) -> int:
        """Number of rows."""
        return self._size

    @property
    def dimensions(self) -> int:
        """Width of each vector."""
        return int(self._buffer.vectors.shape[1])

    @property
    def ids(self) -> IdArray:
        """The ids of the rows, shape (size,), in the order in which they came; not to be written to."""
        return self._buffer.ids[: self._size]

    @property
    def vectors(self) -> FloatMatrix:
        """The rows, shape (size, dimensions), in the order of `ids`; not to be written to."""
        return self._buffer.vectors[: self._size]

    @classmethod
    def empty(cls, dimensions: int, room: int = 0) -> Self:
        """Return an index without rows, to be extended: by `room` rows before it needs other memory."""
        return cls(_Buffer(np.empty(room, np.int64), np.empty((room, dimensions), np.float32), 0), 0, -1)

    @classmethod
    def build(cls, ids: IdArray, vectors: FloatMatrix) -> Self:
        """Index `vectors` (n, dimensions) of unit length under distinct, non-negative `ids` (n,); both are copied.

        Raises InvalidVectors for rows that are not finite, not of unit length within 1e-2, or not one per id.
        """
        ids, vectors = checked_rows(ids, vectors)
        return cls(_Buffer(ids.copy(), vectors.copy(), len(ids)), len(ids), int(ids.max(initial=-1)))

    def extended(self, ids: IdArray, vectors: FloatMatrix) -> Self:
        """Return an index with these rows after its own; this one stays as it is.

        Costs in proportion to the new rows, on average: the two share their memory. Extending an index a second time
        copies it, because the room behind its rows is taken. Safe from many threads. Raises InvalidVectors as `build`
        does, for another width, and for an id that is already here.
        """
        ids, vectors = checked_rows(ids, vectors)
        if vectors.shape[1] != self.dimensions:
            raise InvalidVectors(f"vectors of {vectors.shape[1]} dimensions in an index of {self.dimensions}")
        # Ids mostly grow, and then the highest one shows that none is here already, without a look at the others.
        if ids.size and int(ids.min()) <= self._highest_id and np.isin(ids, self.ids).any():
            raise InvalidVectors("an id is already in the index")
        total = self._size + len(ids)
        with self._buffer.lock:
            buffer = self._buffer
            if buffer.used != self._size or total > len(buffer.ids):
                buffer = self._copied(total)
            buffer.ids[self._size : total] = ids
            buffer.vectors[self._size : total] = vectors
            buffer.used = total
        return type(self)(buffer, total, max(self._highest_id, int(ids.max(initial=-1))))

    def _copied(self, rows: int) -> _Buffer:
        """Return a buffer of its own with these rows and room for twice `rows`."""
        capacity = max(_SMALLEST_BUFFER, 2 * rows)
        ids, vectors = np.empty(capacity, np.int64), np.empty((capacity, self.dimensions), np.float32)
        ids[: self._size], vectors[: self._size] = self.ids, self.vectors
        return _Buffer(ids, vectors, self._size)

    def search(self, queries: FloatMatrix, k: int, allowed: Allowed | None = None) -> list[Neighbours]:
        """Return the `k` nearest rows to each of `queries` (m, dimensions), among those `allowed` if given.

        Best first, equal scores by id. Raises InvalidVectors for queries of another width, not finite or not of unit
        length, and InvalidQuery for k < 1.
        """
        queries = checked_queries(queries, k, self.dimensions)
        ids, vectors = self.ids, self.vectors
        here = np.arange(len(ids)) if allowed is None else positions(ids, allowed)
        # A copy of few rows is cheaper than a product with all; of many rows it is not.
        if len(here) < len(ids) // 4:
            ids, vectors, here = ids[here], vectors[here], np.arange(len(here))
        step = max(1, _PRODUCT_CELLS // max(1, len(ids)))
        found: list[Neighbours] = []
        for start in range(0, len(queries), step):
            batch = queries[start : start + step]
            products = batch @ vectors.T
            for query, scores in zip(batch, products if len(here) == len(ids) else products[:, here], strict=True):
                near = here[contenders(scores, k)]
                found.append(nearest(query, ids[near], vectors[near], k))
        return found

    def take(self, ids: IdArray) -> FloatMatrix:
        """Return the vectors of `ids`, each of them one of its own, in their order: see `ExactRows`."""
        order = np.argsort(self.ids)
        return self.vectors[order[np.searchsorted(self.ids, ids, sorter=order)]]

    def batches(self) -> Iterator[tuple[IdArray, FloatMatrix]]:
        """Yield all rows by rising id, in one batch: see `BuildRows`."""
        order = np.argsort(self.ids)
        yield self.ids[order], self.vectors[order]


def contenders(scores: FloatVector, k: int) -> npt.NDArray[np.intp]:
    """Return the positions of all scores that may belong to the `k` best, noise considered. Unordered."""
    if len(scores) <= k:
        return np.arange(len(scores))
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= kth - 2 * SCORE_NOISE)


def nearest(query: FloatVector, ids: IdArray, vectors: FloatMatrix, k: int) -> Neighbours:
    """Return the `k` best of the rows `vectors` (n, dimensions) under `ids` (n,), scored in float64, ties by id."""
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)
    order = np.lexsort((ids, -scores))[:k]
    return Neighbours(ids[order], scores[order])
