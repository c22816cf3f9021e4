"""What every kind that is kept in a file does with its candidates: they are scored from the exact vectors.

An index names rows that may be near, by whatever is fast; what is answered is judged here by `ExactRows` alone. So a
vector's score is the same in the delta and in every kind, and an approximate kind may miss a row, never misjudge it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from indexes.exact_index import contenders, nearest
from indexes.types import FloatMatrix, FloatVector, IdArray, Neighbours
from indexes.vector_index import Allowed, ExactRows, checked_queries

_ROWS_AT_ONCE: Final = 2048
"""Exact vectors held at once: 12 MB of 1,536 dimensions."""
_MORE: Final = 4
"""Times more candidates are asked for when too few of them could be answered with."""

Mask = npt.NDArray[np.bool_]
"""Which positions (rows of the index, by rising id) may be found, shape (size,)."""


@dataclass(frozen=True, slots=True)
class Look:
    """How far a search for `k` rows looks."""

    k: int
    candidates: int
    """At most so many are wanted."""
    wider: int = 1
    """How many times as many as at first: more than 1 where those were not enough."""


class CandidateIndex(ABC):
    """Rows in the order of their ids, found by some index of candidates and scored by `rows`."""

    kind: ClassVar[str]

    def __init__(self, ids: IdArray, rows: ExactRows, settings: Mapping[str, int]) -> None:
        self._ids = ids
        self._rows = rows
        self._settings = dict(settings)
        first = int(ids[0]) if ids.size else 0
        self._run = slice(first, first + len(ids)) if ids.size and int(ids[-1]) - first + 1 == len(ids) else None

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self._ids)

    @property
    def dimensions(self) -> int:
        """Width of each vector."""
        return self._rows.dimensions

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last id; (0, -1) where there is none."""
        return (int(self._ids[0]), int(self._ids[-1])) if self._ids.size else (0, -1)

    @property
    def settings(self) -> Mapping[str, int]:
        """What it found out about itself when it was built."""
        return self._settings

    @abstractmethod
    def _first(self, k: int) -> int:
        """Return how many candidates are asked for at first."""

    @abstractmethod
    def _candidates(
        self, query: FloatVector, look: Look, allowed: Mask | None
    ) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """Return the positions that may be near, best first, with the index's own scores or distances."""

    @abstractmethod
    def _settled(self, worst: float, scores: FloatVector) -> bool:
        """Whether rows beyond the candidate with the `worst` estimate can't belong to the answer with these scores."""

    def _most(self, k: int) -> int:  # noqa: ARG002 - not for the exact
        """Return how many candidates are the most that are asked for, where there are k among them."""
        return self.size

    def search(self, queries: FloatMatrix, k: int, allowed: Allowed | None = None) -> list[Neighbours]:
        """Return the `k` nearest rows to each of `queries` (m, dimensions), among those `allowed` if given.

        Best first, equal scores by id. Raises InvalidVectors for queries of another width, not finite or not of unit
        length, and InvalidQuery for k < 1.
        """
        queries = checked_queries(queries, k, self.dimensions)
        mask = None if allowed is None else self._mask(allowed)
        available = self.size if mask is None else int(np.count_nonzero(mask))
        return [self._search(query, k, mask, available) for query in queries]

    def _mask(self, allowed: Allowed) -> Mask:
        """Return the bitmap by position. Ids without gaps, as those of most segments, cost no look-up."""
        if self._run is not None and len(allowed) >= self._run.stop:
            return allowed[self._run]
        mask = np.zeros(self.size, np.bool_)
        known = int(np.searchsorted(self._ids, len(allowed)))
        mask[:known] = allowed[self._ids[:known]]
        return mask

    def _search(self, query: FloatVector, k: int, mask: Mask | None, available: int) -> Neighbours:
        look = Look(k, max(k, self._first(k)))
        while look.candidates < available:
            estimates, positions = self._candidates(query, look, mask)
            found = scored(query, self._ids[positions], self._rows, k)
            enough = look.candidates >= self._most(k)
            if len(found.ids) >= k and (enough or self._settled(float(estimates[-1]), found.scores)):
                return found
            look = Look(k, look.candidates * _MORE, look.wider * _MORE)
        return scored(query, self._ids if mask is None else self._ids[mask], self._rows, k)


def scored(query: FloatVector, ids: IdArray, rows: ExactRows, k: int) -> Neighbours:
    """Return the `k` best of `ids` by their exact vectors; rows whose vector is gone are left out."""
    kept_ids, kept = [np.empty(0, np.int64)], [np.empty((0, rows.dimensions), np.float32)]
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        part = ids[start : start + _ROWS_AT_ONCE]
        vectors = rows.take(part)
        products = vectors @ query
        none = np.flatnonzero(products == 0)
        gone = none[~vectors[none].any(axis=1)]
        if gone.size:
            part, vectors, products = (np.delete(one, gone, axis=0) for one in (part, vectors, products))
        near = contenders(products, k)
        kept_ids.append(part[near])
        kept.append(vectors[near])
    if len(ids) <= _ROWS_AT_ONCE:
        return nearest(query, kept_ids[-1], kept[-1], k)
    return nearest(query, np.concatenate(kept_ids), np.concatenate(kept), k)
