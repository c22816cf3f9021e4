"""The kinds of index that are kept in files, by FAISS: its metrics, `-1` padding, selectors and file format end here.

FAISS has no type stubs, so `Any` stands for its objects; it does not leave this file. It checks little of what it is
given (it takes NaN, negative and repeated ids), so all is checked before it gets it. Its codes are numbered by the
rows' positions; ids stand beside them, once.
"""

import os
import struct
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from indexes import recall_check
from indexes.candidate_index import CandidateIndex, Look, Mask
from indexes.errors import StoreDamaged
from indexes.exact_index import SCORE_NOISE
from indexes.recall_check import DEPTHS, Rung, Truth, checked_batches
from indexes.types import FloatMatrix, FloatVector, IdArray
from indexes.vector_index import BuildRows, ExactRows, SegmentIndex

_ID: Final = np.dtype("<i8")
_TRAILER: Final = struct.Struct("<8sQ")
_MAGIC: Final = b"ragsvcid"
"""Behind FAISS's bytes stand the ids, this and their number. FAISS's own map of ids would hold them twice, or cost a
change of owner: SWIG (4.1) miscounts the references to its table of types then, and frees it after enough loads."""
_HALF_NOISE: Final = 2.0**-11 * 1.05 + 2 * SCORE_NOISE
"""How far the product of a vector rounded to float16 may stand from the true one: half an ulp of every number."""
_SPARE: Final = 16
"""Rows fetched beyond k by the exact kind, so that ties at the border are seen without a second search."""
_CENTRE_ROWS: Final = 4096
"""The mean of so many rows is the centre of the codes."""
_QUERY_BITS: Final = (2, 4, 8)
"""Bits that a query's numbers are rounded to: fewer are faster, and want more candidates."""
_MOST_CANDIDATES: Final = 1024
"""Sought for by the self-check at first."""
_LOSS: Final = 0.005
"""Share of an answer that may be expected beyond the candidates, whatever the query, the filter or the number of equal
rows. More of them are looked at where it is higher."""
_MOST_LOOKS: Final = 16
"""Times more candidates than at first that are asked for, at most, while they are not so sure."""
_NOISE_UNIT: Final = 1e-6
_CELL_ROWS: Final = 512
"""A centre takes as long to be compared as 15 codes, and a cell to be begun as long as 400."""
_MOST_CELLS: Final = 4096
_CELL_SAMPLE, _MOST_SAMPLE = 32, 65_536
"""Rows that each cell's centre is found by, and the most for all: 400 MB of 1,536 dimensions during a build."""
_ITERATIONS: Final = 6
"""Of k-means."""
_RARE: Final = 0.05
"""Below this share of allowed rows all cells are looked into: their codes are skipped faster than compared."""


def _faiss() -> Any:
    """Return the library: it takes 0.15 s to import, and a collection without segments never needs it."""
    import faiss

    return faiss


class _FaissIndex(CandidateIndex):
    """A `CandidateIndex` over one of FAISS's indexes, whose rows are numbered from 0. Satisfies `SegmentIndex`."""

    def __init__(self, inner: Any, ids: IdArray, rows: ExactRows, settings: Mapping[str, int]) -> None:
        super().__init__(ids, rows, settings)
        self._inner = inner

    @classmethod
    @abstractmethod
    def build(cls, rows: BuildRows) -> Self:
        """Index rows: see `SegmentIndex`."""

    @classmethod
    @abstractmethod
    def _is_mine(cls, inner: Any) -> bool:
        """Whether `inner`, of whatever type, is one that `build` makes."""

    @classmethod
    def _settings_read(cls, settings: Mapping[str, int], inner: Any) -> Mapping[str, int]:  # noqa: ARG003 - kinds differ
        """Return the settings of a kept index, or raise StoreDamaged where they are not its own."""
        return {}

    def _found(self, query: FloatVector, count: int, params: Any) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        scores, positions = self._inner.search(query[None, :], count, params=params)
        real = positions[0] >= 0
        return scores[0][real], positions[0][real]

    def save(self, path: Path) -> None:
        """Write one file. It is not durable until the caller has fsynced it. Raises OSError if it cannot be written."""
        try:
            _faiss().write_index(self._inner, str(path))
        except RuntimeError as error:
            raise OSError(f"FAISS could not write {path}: {error}") from error
        with path.open("ab") as file:
            file.write(self._ids.astype(_ID).tobytes() + _TRAILER.pack(_MAGIC, len(self._ids)))

    @classmethod
    def load(cls, path: Path, rows: ExactRows, settings: Mapping[str, int]) -> Self:
        """Read what `save` wrote. The caller has verified the checksum: FAISS has none of its own.

        Raises FileNotFoundError, and StoreDamaged for a file that holds anything else.
        """
        ids = _read_ids(path)
        faiss = _faiss()
        try:
            inner = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise StoreDamaged(f"{path.name} is not an index that FAISS can read: {error}") from error
        if not cls._is_mine(inner):
            raise StoreDamaged(f"{path.name} does not hold an index of kind {cls.kind}")
        if inner.d != rows.dimensions:
            raise StoreDamaged(f"{path.name} holds vectors of {inner.d} dimensions, not of {rows.dimensions}")
        # Rows in the order of distinct ids are what `build` writes; nothing else is answered from.
        if len(ids) != inner.ntotal or (ids.size and ids[0] < 0) or not (np.diff(ids) > 0).all():
            raise StoreDamaged(f"{path.name} has ids that no index was built with")
        return cls(inner, ids, rows, cls._settings_read(settings, inner))


def _read_ids(path: Path) -> IdArray:
    """Return the ids that stand behind FAISS's bytes, which does not look there."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - _TRAILER.size
        file.seek(max(0, end))
        trailer = file.read(_TRAILER.size)
        magic, count = _TRAILER.unpack(trailer) if len(trailer) == _TRAILER.size else (b"", 0)
        start = end - count * _ID.itemsize
        if magic != _MAGIC or start < 0:
            raise StoreDamaged(f"{path.name} does not end like an index")
        file.seek(start)
        return np.frombuffer(file.read(end - start), _ID).astype(np.int64)


def _selector(mask: Mask) -> tuple[Any, object]:
    """Return FAISS's selector, and what must live as long: it keeps a bare pointer."""
    faiss = _faiss()
    bits = np.packbits(mask, bitorder="little")
    return faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits)), bits


class Float16(_FaissIndex):
    """Every row compared, as float16 in memory: exact, for segments so small that nothing else pays."""

    kind = "float16"

    @classmethod
    def build(cls, rows: BuildRows) -> Self:
        """Index rows: see `SegmentIndex`."""
        faiss = _faiss()
        inner = faiss.IndexScalarQuantizer(rows.dimensions, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        all_ids = [np.empty(0, np.int64)]
        for ids, vectors in checked_batches(rows):
            inner.add(vectors)
            all_ids.append(ids)
        return cls(inner, np.concatenate(all_ids), rows, {})

    def _first(self, k: int) -> int:
        return k + _SPARE

    def _candidates(
        self, query: FloatVector, look: Look, allowed: Mask | None
    ) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        params = None
        if allowed is not None:
            params = _faiss().SearchParameters()
            params.sel, _kept = _selector(allowed)
        return self._found(query, look.candidates, params)

    def _settled(self, worst: float, scores: FloatVector) -> bool:
        return worst + _HALF_NOISE < float(scores[-1])

    @classmethod
    def _is_mine(cls, inner: Any) -> bool:
        faiss = _faiss()
        return (
            type(inner) is faiss.IndexScalarQuantizer
            and inner.metric_type == faiss.METRIC_INNER_PRODUCT
            and inner.sq.qtype == faiss.ScalarQuantizer.QT_fp16
            and inner.codes.size() == inner.ntotal * 2 * inner.d
        )


class RaBitQ(_FaissIndex):
    """One bit a number (RaBitQ, Gao and Long 2024), all codes compared, the best of them scored exactly.

    FAISS's plain form, not its FastScan: it takes selectors, and with queries of two bits it is about as fast.
    """

    kind = "rabitq"
    setting: ClassVar = "bits"
    """What the self-check finds out beside the number of candidates: here, the bits of a query's numbers."""

    @classmethod
    def build(cls, rows: BuildRows) -> Self:
        """Index rows: see `SegmentIndex`."""
        sample = recall_check.sampled(rows, max(_CENTRE_ROWS, cls._training_rows(rows.size)))
        inner = cls._trained(sample, rows)
        truth = Truth(recall_check.as_questions(sample))
        del sample
        all_ids, count = [np.empty(0, np.int64)], 0
        for ids, vectors in checked_batches(rows):
            inner.add(vectors)
            truth.add(ids, vectors)
            all_ids.append(ids)
            count += len(ids)
        index = cls(inner, np.concatenate(all_ids), rows, {})
        index._settings = index._checked(truth)
        return index

    @classmethod
    def _training_rows(cls, rows: int) -> int:  # noqa: ARG003 - cells depend on them
        return 0

    @classmethod
    def _trained(cls, sample: FloatMatrix, rows: BuildRows) -> Any:
        faiss = _faiss()
        inner = faiss.IndexRaBitQ(rows.dimensions, faiss.METRIC_L2)
        inner.train(sample if len(sample) else np.zeros((1, rows.dimensions), np.float32))
        return inner

    def _checked(self, truth: Truth) -> dict[str, int]:
        """Return the settings that the self-check found best."""
        noise: dict[int, float] = {}

        def search(setting: int, count: int) -> IdArray:
            params = self._params(setting, None)
            distances, positions = self._inner.search(truth.queries, max(1, count), params=params)
            ids: IdArray = np.where(positions >= 0, self._ids[positions] if self.size else -1, -1)
            noise[setting] = max(noise.get(setting, 0.0), truth.noise(ids, _as_cosines(distances)))
            return ids

        def cost(rung: Rung) -> float:
            return self._cost(rung.setting) + rung.candidates * _ROW_COST

        few, many = recall_check.climbed(self._ladder(), search, truth, cost, self.size, _MOST_CANDIDATES)
        return {
            self.setting: few.setting,
            f"{self.setting}_100": max(few.setting, many.setting),
            "candidates": max(1, few.candidates),
            "candidates_100": max(1, few.candidates, many.candidates),
            "noise": min(_MOST_NOISE, max(1, round(max(noise[few.setting], noise[many.setting]) / _NOISE_UNIT))),
        }

    def _ladder(self) -> Sequence[int]:
        """Return the values of the setting that the self-check tries, cheapest first."""
        return _QUERY_BITS

    def _cost(self, setting: int) -> float:
        """Return the nanoseconds in which the codes of 1,536 dimensions are compared."""
        return self.size * _code_cost(setting)

    def _params(self, setting: int, selector: Any) -> Any:
        params = _faiss().RaBitQSearchParameters()
        params.qb, params.centered, params.sel = setting, True, selector
        return params

    def _setting(self, k: int) -> int:
        return self._settings[self.setting if k <= min(DEPTHS) else f"{self.setting}_100"]

    def _first(self, k: int) -> int:
        (low, high), few, many = DEPTHS, self._settings["candidates"], self._settings["candidates_100"]
        return max(few, few + -(-(many - few) * (k - low) // (high - low)))

    def _most(self, k: int) -> int:
        return _MOST_LOOKS * max(k, self._first(k))

    def _settled(self, worst: float, scores: FloatVector) -> bool:
        border = 1 - worst / 2  # of unit vectors, the cosine at this squared distance
        return recall_check.expected_loss(scores - border, self._settings["noise"] * _NOISE_UNIT) <= _LOSS

    def _candidates(
        self, query: FloatVector, look: Look, allowed: Mask | None
    ) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        selector, _kept = (None, None) if allowed is None else _selector(allowed)
        return self._found(query, look.candidates, self._params(self._setting(look.k), selector))

    @classmethod
    def _is_mine(cls, inner: Any) -> bool:
        faiss = _faiss()
        return (
            type(inner) is faiss.IndexRaBitQ
            and inner.metric_type == faiss.METRIC_L2
            and _is_one_bit(inner)
            and inner.codes.size() == inner.ntotal * inner.code_size
        )

    @classmethod
    def _settings_read(cls, settings: Mapping[str, int], inner: Any) -> Mapping[str, int]:
        return _within(settings, {**_limits(inner), **dict.fromkeys(("bits", "bits_100"), max(_QUERY_BITS))})


_ROW_COST: Final = 2500.0
"""Nanoseconds that one candidate of 1,536 dimensions takes to be read, widened and scored: measured, as the next is."""


def _code_cost(bits: int) -> float:
    """Return the nanoseconds that one code of 1,536 bits takes to be compared. Both grow with the dimensions alike."""
    return 10.0 + 3.5 * bits


_MOST_NOISE: Final = 2_000_000
"""Of cosines, in units of `_NOISE_UNIT`: beyond it nothing is ever sure."""


def _as_cosines(distances: Any) -> Any:
    """Return the cosines of unit vectors at these squared distances."""
    return 1 - distances / 2


def _limits(inner: Any) -> dict[str, int]:
    rows = max(1, int(inner.ntotal))
    return {"candidates": rows, "candidates_100": rows, "noise": _MOST_NOISE}


def _is_one_bit(inner: Any) -> bool:
    return bool(inner.is_trained and inner.rabitq.nb_bits == 1 and inner.rabitq.d == inner.d)


def _within(settings: Mapping[str, int], most: Mapping[str, int]) -> Mapping[str, int]:
    for name, limit in most.items():
        value = settings.get(name)
        if type(value) is not int or not 1 <= value <= limit:
            raise StoreDamaged(f"an index's setting {name} is {value!r}, not a number from 1 to {limit}")
    return {name: settings[name] for name in most}


class CellRaBitQ(RaBitQ):
    """RaBitQ codes in cells around the centres of k-means: only the cells nearest to a query are looked into."""

    kind = "ivf-rabitq"
    setting: ClassVar = "cells"

    @classmethod
    def _training_rows(cls, rows: int) -> int:
        return min(_MOST_SAMPLE, _CELL_SAMPLE * _cells(rows))

    @classmethod
    def _trained(cls, sample: FloatMatrix, rows: BuildRows) -> Any:
        faiss = _faiss()
        cells, width = min(_cells(rows.size), max(1, len(sample))), rows.dimensions
        sample = sample if len(sample) else np.zeros((1, width), np.float32)
        centres = faiss.IndexFlatL2(width)
        clustering = faiss.Clustering(width, cells)
        clustering.niter, clustering.min_points_per_centroid = _ITERATIONS, 1
        clustering.max_points_per_centroid = _CELL_SAMPLE
        clustering.train(sample, centres)
        inner = faiss.IndexIVFRaBitQ(centres, width, cells, faiss.METRIC_L2)
        inner.train(sample[:_CENTRE_ROWS])
        return inner

    def _ladder(self) -> Sequence[int]:
        cells = int(self._inner.nlist)
        return [rung for rung in recall_check.rungs(2, cells) if rung <= cells]

    def _cost(self, setting: int) -> float:
        compared = self.size * setting // int(self._inner.nlist)
        return compared * _code_cost(_CELL_BITS) + setting * _CELL_COST

    def _params(self, setting: int, selector: Any) -> Any:
        params = _faiss().IVFRaBitQSearchParameters()
        params.nprobe, params.qb, params.centered, params.sel = setting, _CELL_BITS, True, selector
        return params

    def _candidates(
        self, query: FloatVector, look: Look, allowed: Mask | None
    ) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        every = int(self._inner.nlist)
        probed = min(every, look.wider * self._setting(look.k))
        selector, _kept = (None, None) if allowed is None else _selector(allowed)
        if allowed is not None:
            share = np.count_nonzero(allowed) / len(allowed)
            probed = every if share < _RARE else min(every, int(np.ceil(probed / share)))
        found = self._found(query, look.candidates, self._params(probed, selector))
        if len(found[1]) < look.candidates and probed < every:
            return self._found(query, look.candidates, self._params(every, selector))
        return found

    @classmethod
    def _is_mine(cls, inner: Any) -> bool:
        faiss = _faiss()
        if type(inner) is not faiss.IndexIVFRaBitQ or inner.metric_type != faiss.METRIC_L2 or not _is_one_bit(inner):
            return False
        centres = faiss.downcast_index(inner.quantizer)
        return (
            type(centres) is faiss.IndexFlatL2
            and centres.ntotal == inner.nlist
            and centres.d == inner.d
            and bool(inner.by_residual)
            and _numbered(inner)
        )

    @classmethod
    def _settings_read(cls, settings: Mapping[str, int], inner: Any) -> Mapping[str, int]:
        return _within(settings, {**_limits(inner), **dict.fromkeys(("cells", "cells_100"), int(inner.nlist))})


_CELL_BITS: Final = 2
"""Bits of a query among cells: with 4, a search of equal recall wants as many cells, and each costs a sixth more."""
_CELL_COST: Final = 7_500.0
"""Nanoseconds that the query's own code for one cell takes, measured as `_code_cost`."""


def _cells(rows: int) -> int:
    """Return how many cells so many rows are put into: a power of two, some `_CELL_ROWS` in each."""
    return int(min(_MOST_CELLS, max(1, 2 ** round(np.log2(max(1, rows / _CELL_ROWS))))))


def _numbered(inner: Any) -> bool:
    """Whether the cells hold every position from 0 once."""
    faiss = _faiss()
    lists = inner.invlists
    if lists.nlist != inner.nlist or lists.code_size != inner.code_size:
        return False
    seen = np.zeros(inner.ntotal, np.bool_)
    total = 0
    for cell in range(inner.nlist):
        size = lists.list_size(cell)
        total += size
        if size:
            held = faiss.rev_swig_ptr(lists.get_ids(cell), size)
            if held.min() < 0 or held.max() >= len(seen):
                return False
            seen[held] = True
    return total == len(seen) and bool(seen.all())


KINDS: Final[dict[str, type[SegmentIndex]]] = {one.kind: one for one in (Float16, RaBitQ, CellRaBitQ)}
"""Every kind of index by the name that a segment's row keeps."""

_EXACT_NUMBERS: Final = 1_500_000
"""Rows times dimensions up to which comparing all, 3 MB, ought to be as fast as codes and their candidates."""
_FLAT_ROWS: Final = 150_000
"""Rows up to which all codes are compared, some 2.5 ms at 17 ns each: an estimate, cells were measured at 100,000."""


def kind_for(rows: int, dimensions: int) -> str:
    """Return the kind for so many rows."""
    if rows * dimensions <= _EXACT_NUMBERS:
        return Float16.kind
    return RaBitQ.kind if rows <= _FLAT_ROWS else CellRaBitQ.kind
