"""The seam to nearest-neighbour search: every kind of index answers like the exact one, in values.

Metric, `-1` padding and distance-to-score conversion end behind this Protocol: callers see ids and cosines.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from indexes.errors import InvalidQuery, InvalidVectors
from indexes.types import FloatMatrix, IdArray, Neighbours

LENGTH_TOLERANCE: Final = 1e-2
"""How far from 1 a vector's length may be: rounding to float16 moves it by less than 1e-3."""


Allowed = npt.NDArray[np.bool_]
"""Which vectors may be found, as a bitmap: `allowed[id]`. An id beyond its end may not."""


class ExactRows(Protocol):
    """Unit vectors by id, exactly as the store keeps them: what the candidates of an index are scored by."""

    @property
    def dimensions(self) -> int:
        """Width of each vector."""
        ...

    def take(self, ids: IdArray) -> FloatMatrix:
        """Return the vectors of `ids` in their order, shape (len(ids), dimensions), float32.

        Unit length; all zero where a vector is gone. Safe from many threads. `ids` are ones that an index was built
        with.
        """
        ...


class BuildRows(ExactRows, Protocol):
    """All rows of a new index, to be read in one pass or several: never all in memory."""

    @property
    def size(self) -> int:
        """Number of rows."""
        ...

    def batches(self) -> Iterator[tuple[IdArray, FloatMatrix]]:
        """Yield ids (n,), rising over all batches, and their unit vectors (n, dimensions), some MB at a time."""
        ...


class VectorIndex(Protocol):
    """An immutable set of (id, unit vector) rows that can be searched by cosine.

    Immutable on purpose: adding during a search crashes FAISS, so growth is another index (see `indexes.collection`).
    Safe for searches from many threads.
    """

    @property
    def kind(self) -> str:
        """Name by which the class is found again, kept in the segment's row."""
        ...

    @property
    def size(self) -> int:
        """Number of rows."""
        ...

    @property
    def dimensions(self) -> int:
        """Width of each vector."""
        ...

    def search(self, queries: FloatMatrix, k: int, allowed: Allowed | None = None) -> list[Neighbours]:
        """Return the `k` nearest rows to each of `queries` (m, dimensions), among those `allowed` if given.

        `k` >= 1 may exceed the size; `allowed` may name ids that are not here, be shorter than the ids reach, and be
        empty. With fewer than `k` rows allowed, all of them are returned. Scores are exact cosines, whatever the kind:
        an approximate one may miss a row, never misjudge it. Raises InvalidVectors for queries of another width, with
        values that are not finite or not of unit length, and InvalidQuery for k < 1.
        """
        ...


class SegmentIndex(VectorIndex, Protocol):
    """An index that is kept in a file, beside the exact vectors it scores its candidates by."""

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last id; (0, -1) where there is none."""
        ...

    @property
    def settings(self) -> Mapping[str, int]:
        """What it found out about itself when it was built (candidates, cells to look into); kept with the segment."""
        ...

    @classmethod
    def build(cls, rows: BuildRows) -> Self:
        """Index rows under distinct, non-negative ids. Reads them in batches; raises InvalidVectors for bad ones.

        Its settings come from a check of its own recall against the exact answer, on a sample of the rows.
        """
        ...

    def save(self, path: Path) -> None:
        """Write one file. It is not durable until the caller has fsynced it. Raises OSError if it cannot be written."""
        ...

    @classmethod
    def load(cls, path: Path, rows: ExactRows, settings: Mapping[str, int]) -> Self:
        """Read what `save` wrote. The caller has verified the checksum: FAISS has none of its own.

        Raises FileNotFoundError, and StoreDamaged for a file that holds anything else.
        """
        ...


def positions(ids: IdArray, allowed: Allowed) -> npt.NDArray[np.intp]:
    """Return where in `ids` those stand that are allowed, rising."""
    known = np.flatnonzero(ids < len(allowed))
    return known[allowed[ids[known]]]


def checked_rows(ids: IdArray, vectors: FloatMatrix) -> tuple[IdArray, FloatMatrix]:
    """Return ids (n,) as int64 and vectors (n, dimensions) as float32, or raise InvalidVectors as `build` tells."""
    ids, vectors = np.asarray(ids), np.asarray(vectors)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise InvalidVectors("ids must be a row of integers")
    if vectors.ndim != 2 or len(vectors) != len(ids) or vectors.shape[1] < 1:
        raise InvalidVectors(f"{len(ids)} ids need a matrix of as many rows, not one of shape {vectors.shape}")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) > np.iinfo(np.int64).max):
        raise InvalidVectors("ids must be from 0 to 2**63 - 1")
    if len(np.unique(ids)) != len(ids):
        raise InvalidVectors("ids must be distinct")
    return ids.astype(np.int64, copy=False), checked_units(vectors, "row")


def checked_queries(queries: FloatMatrix, k: int, dimensions: int) -> FloatMatrix:
    """Return queries (m, dimensions) as float32, or raise InvalidVectors or InvalidQuery as `search` tells."""
    if k < 1:
        raise InvalidQuery(f"k must be at least 1, not {k}")
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.shape[1] != dimensions:
        raise InvalidVectors(f"queries of shape {queries.shape} in an index of {dimensions} dimensions")
    return checked_units(queries, "query")


def checked_units(vectors: FloatMatrix, name: str) -> FloatMatrix:
    """Return vectors as float32, or raise InvalidVectors, by `name`, where one is not finite or not of unit length."""
    if not np.issubdtype(vectors.dtype, np.floating):
        raise InvalidVectors(f"a {name} must be of floating point numbers, not {vectors.dtype}")
    # An overflow to infinity, on the way to float32 or in the square, is refused below like any other.
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= LENGTH_TOLERANCE))
    if wrong.size:
        raise InvalidVectors(f"{name} {wrong[0]} is not finite or not of unit length (length {lengths[wrong[0]]})")
    return vectors
