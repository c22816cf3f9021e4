"""The seam to nearest-neighbour search: every kind of index answers like the exact one, in values.

Metric, `-1` padding and distance-to-score conversion end behind this Protocol: callers see ids and cosines.
"""

from pathlib import Path
from typing import Protocol, Self

from indexes.types import FloatMatrix, IdArray, Neighbours


class VectorIndex(Protocol):
    """An immutable set of (id, unit vector) rows that can be searched by cosine.

    Immutable on purpose: adding during a search crashes FAISS, so growth is another index (see `indexes.collection`).
    Safe for searches from many threads.
    """

    @property
    def kind(self) -> str:
        """Name by which `load` finds the class again, kept in the segment's row."""
        ...

    @property
    def size(self) -> int:
        """Number of rows."""
        ...

    @property
    def dimensions(self) -> int:
        """Width of each vector."""
        ...

    @classmethod
    def build(cls, ids: IdArray, vectors: FloatMatrix) -> Self:
        """Index `vectors` (n, dimensions) of unit length under distinct, non-negative `ids` (n,).

        Raises InvalidVectors for rows that are not finite, not of unit length within 1e-2, or not one per id.
        """
        ...

    def search(self, queries: FloatMatrix, k: int, allowed: IdArray | None = None) -> list[Neighbours]:
        """Return the `k` nearest rows to each of `queries` (m, dimensions), among `allowed` ids if given.

        `k` >= 1 may exceed the size; `allowed` may name ids that are not here, and may be empty.
        Raises InvalidVectors for queries of another width or with values that are not finite.
        """
        ...

    def save(self, path: Path) -> None:
        """Write one file. It is not durable until the caller has fsynced it."""
        ...

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. The caller has verified the checksum: FAISS has none of its own."""
        ...
