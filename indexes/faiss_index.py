"""The FAISS kinds of index: metric, `-1` padding, selectors and file format of FAISS end here.

FAISS has no type stubs, so `Any` stands for its objects; it does not leave this file. It checks little of what it is
given (it takes NaN, negative and repeated ids), so all is checked before it gets it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from indexes.errors import StoreDamaged
from indexes.exact_index import SCORE_NOISE, contenders, nearest
from indexes.types import FloatMatrix, FloatVector, IdArray, Neighbours
from indexes.vector_index import Allowed, BuildRows, ExactRows, SegmentIndex, checked_queries, checked_rows, positions

_SPARE: Final = 16
"""Rows fetched beyond k, so that ties at the border are seen without a second search."""
_FEW: Final = 256
"""Allowed rows that are scored one by one: a search under a selector still walks over all the others."""


def _faiss() -> Any:
    """Return the library: it takes 0.15 s to import, and a collection without segments never needs it."""
    import faiss

    return faiss


class _FaissIndex(ABC):
    """An IndexIDMap2 over an index that FAISS searches whole. Satisfies `indexes.vector_index.VectorIndex`.

    FAISS finds the candidates; they are scored like `ExactIndex` scores, from the vectors as FAISS keeps them, so that
    ties are by id and a score does not depend on the size of the batch. Rows lie in the order of their ids.
    """

    kind: ClassVar[str]

    def __init__(self, mapped: Any, ids: IdArray) -> None:
        self._mapped = mapped  # owns the inner index: without it, that one's memory is gone
        self._inner = _faiss().downcast_index(mapped.index)
        self._ids = ids

    @staticmethod
    @abstractmethod
    def _empty(dimensions: int) -> Any:
        """Return the inner index without rows."""

    @staticmethod
    def _rounded(vectors: FloatMatrix) -> FloatMatrix:
        """Return what the inner index shall keep of `vectors`."""
        return vectors

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self._ids)

    @property
    def dimensions(self) -> int:
        """Width of each vector."""
        return int(self._inner.d)

    @classmethod
    def build(cls, rows: BuildRows) -> Self:
        """Index rows of unit length under distinct, non-negative, rising ids.

        Raises InvalidVectors for rows that are not finite, not of unit length within 1e-2, or not one per id.
        """
        mapped = _faiss().IndexIDMap2(cls._empty(rows.dimensions))
        all_ids = [np.empty(0, np.int64)]
        for batch in rows.batches():
            ids, vectors = checked_rows(*batch)
            mapped.add_with_ids(cls._rounded(vectors), ids)
            all_ids.append(ids)
        return cls(mapped, np.concatenate(all_ids))

    @property
    def settings(self) -> Mapping[str, int]:
        """Nothing: every row is compared."""
        return {}

    def search(self, queries: FloatMatrix, k: int, allowed: Allowed | None = None) -> list[Neighbours]:
        """Return the `k` nearest rows to each of `queries` (m, dimensions), among those `allowed` if given.

        Best first, equal scores by id. Raises InvalidVectors for queries of another width, not finite or not of unit
        length, and InvalidQuery for k < 1.
        """
        queries = checked_queries(queries, k, self.dimensions)
        here = None
        if allowed is not None:
            here = np.zeros(self.size, np.bool_)
            here[positions(self._ids, allowed)] = True
        available = self.size if here is None else int(np.count_nonzero(here))
        if here is not None and available <= _FEW:
            few = np.flatnonzero(here)
            ids, vectors = self._ids[few], self._inner.reconstruct_batch(few)
            return [nearest(query, ids, vectors, k) for query in queries]
        if not available or not len(queries):
            return [Neighbours(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        fetch = min(available, k + _SPARE)
        scores, rows = self._fetch(queries, fetch, here)
        return [
            self._settled(query, k, available, here, found, at)
            for query, found, at in zip(queries, scores, rows, strict=True)
        ]

    def _fetch(
        self, queries: FloatMatrix, count: int, here: npt.NDArray[np.bool_] | None
    ) -> tuple[FloatMatrix, npt.NDArray[np.int64]]:
        """Return FAISS's scores and rows (m, count), best first; `count` rows exist, so none is padding."""
        parameters = None
        if here is not None:
            # FAISS keeps bare pointers to these, so they are held here until the search returns.
            bits = np.packbits(here, bitorder="little")
            faiss = _faiss()
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
            parameters = faiss.SearchParameters()
            parameters.sel = selector
        scores, rows = self._inner.search(queries, count, params=parameters)
        return scores, rows

    def _settled(
        self,
        query: FloatVector,
        k: int,
        available: int,
        here: npt.NDArray[np.bool_] | None,
        scores: FloatVector,
        rows: npt.NDArray[np.int64],
    ) -> Neighbours:
        """Return the `k` best, fetching more while what lies beyond the border may belong to them."""
        while len(rows) < available and scores[-1] >= scores[k - 1] - 2 * SCORE_NOISE:
            more_scores, more_rows = self._fetch(query[None, :], min(available, 2 * len(rows)), here)
            scores, rows = more_scores[0], more_rows[0]
        near = rows[contenders(scores, k)]
        return nearest(query, self._ids[near], self._inner.reconstruct_batch(near), k)

    def save(self, path: Path) -> None:
        """Write one file. It is not durable until the caller has fsynced it. Raises OSError if it cannot be written."""
        try:
            _faiss().write_index(self._mapped, str(path))
        except RuntimeError as error:
            raise OSError(f"FAISS could not write {path}: {error}") from error

    @classmethod
    def load(cls, path: Path, rows: ExactRows, settings: Mapping[str, int]) -> Self:  # noqa: ARG003 - it has its own
        """Read what `save` wrote. The caller has verified the checksum: FAISS has none of its own.

        Raises FileNotFoundError, and StoreDamaged for a file that holds anything else.
        """
        path.stat()
        faiss = _faiss()
        try:
            mapped = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise StoreDamaged(f"{path.name} is not an index that FAISS can read: {error}") from error
        if type(mapped) is not faiss.IndexIDMap2 or not cls._is_mine(faiss.downcast_index(mapped.index)):
            raise StoreDamaged(f"{path.name} does not hold an index of kind {cls.kind}")
        ids = faiss.vector_to_array(mapped.id_map)
        # Rows in the order of distinct ids are what `build` writes; nothing else is answered from.
        if len(ids) != mapped.index.ntotal or (ids.size and ids[0] < 0) or not (np.diff(ids) > 0).all():
            raise StoreDamaged(f"{path.name} has ids that no index was built with")
        return cls(mapped, ids)

    @classmethod
    def _is_mine(cls, inner: Any) -> bool:
        """Whether `inner` is of this kind."""
        expected = cls._empty(int(inner.d))
        return type(inner) is type(expected) and inner.metric_type == expected.metric_type


class FaissFlat(_FaissIndex):
    """Float32 rows: 4 bytes a number, and every answer of the exact index."""

    kind = "flat"

    @staticmethod
    def _empty(dimensions: int) -> Any:
        return _faiss().IndexFlatIP(dimensions)


class FaissFloat16(_FaissIndex):
    """Float16 rows: half the memory. Scores are those of the rounded rows; rows of a store are rounded already."""

    kind = "float16"

    @staticmethod
    def _empty(dimensions: int) -> Any:
        faiss = _faiss()
        return faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)

    @staticmethod
    def _rounded(vectors: FloatMatrix) -> FloatMatrix:
        # Half to even, like numpy and so like the store; FAISS alone would round halves up.
        return vectors.astype(np.float16).astype(np.float32)

    @classmethod
    def _is_mine(cls, inner: Any) -> bool:
        return super()._is_mine(inner) and inner.sq.qtype == _faiss().ScalarQuantizer.QT_fp16


KINDS: Final[dict[str, type[SegmentIndex]]] = {
    FaissFlat.kind: FaissFlat,
    FaissFloat16.kind: FaissFloat16,
}
"""Every kind of index by the name that a segment's row keeps."""


def kind_for(rows: int, dimensions: int) -> str:  # noqa: ARG001 - one kind so far
    """Return the kind of a new index of so many rows."""
    return FaissFlat.kind
