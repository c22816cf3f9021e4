"""What an approximate index finds out about itself while it is built: how far it must look to miss nothing.

A sample of the rows is set aside and turned into queries; their exact neighbours are gathered while the rows stream by;
then a ladder of settings is climbed up to the first rung that finds enough of them. Pure: numpy alone, seeded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from indexes.errors import InvalidVectors
from indexes.exact_index import SCORE_NOISE
from indexes.types import FloatMatrix, IdArray
from indexes.vector_index import BuildRows, checked_rows

QUERIES: Final = 128
"""Of their 1,280 neighbours one may be missed."""
_MIXED: Final = 16
"""Times more rows than queries, whose differences make up the noise."""
DEPTHS: Final = (10, 100)
"""The numbers of hits for which the candidates are found out: an answer's, and a leg's of a hybrid search."""
TARGETS: Final = (0.999, 0.995)
"""Least recall of the sample at `DEPTHS`."""
_NEAREST_ROW: Final = (0.6, 0.9)
"""Cosines of queries to the rows they are made of: a question is about 0.4 to 0.7 from the passages that answer it."""
_SEED: Final = 20_261
_ABSENT: Final = np.iinfo(np.int64).max


def checked_batches(rows: BuildRows) -> Iterator[tuple[IdArray, FloatMatrix]]:
    """Yield the batches of `rows`, checked. Raises InvalidVectors for bad ones, and ids that do not rise."""
    last = -1
    for batch in rows.batches():
        ids, vectors = checked_rows(*batch)
        if ids.size:
            if int(ids[0]) <= last or not (np.diff(ids) > 0).all():
                raise InvalidVectors("the ids of an index's rows must rise")
            last = int(ids[-1])
            yield ids, vectors


def sampled(rows: BuildRows, count: int) -> FloatMatrix:
    """Return `count` of the rows (or all, where there are fewer), chosen evenly at random, in one pass over all."""
    chosen = np.random.default_rng(_SEED).permutation(rows.size)[:count]
    chosen.sort()
    found = np.zeros((len(chosen), rows.dimensions), np.float32)
    seen = taken = 0
    for ids, vectors in checked_batches(rows):
        end = int(np.searchsorted(chosen, seen + len(ids)))
        found[taken:end] = vectors[chosen[taken:end] - seen]
        seen, taken = seen + len(ids), end
    return found[:taken]


def as_questions(sample: FloatMatrix) -> FloatMatrix:
    """Return queries that are not among the rows: rows moved away from themselves, shape (<= QUERIES, dimensions).

    Half are moved as the rows differ from each other (noise of their covariance), half towards another row. Both are
    harder than questions were, on a mixture of Gaussians and on real texts: that is the margin of the check.
    """
    generator = np.random.default_rng(_SEED)
    rows = sample[generator.permutation(len(sample))[:QUERIES]]
    cosines = generator.uniform(*_NEAREST_ROW, size=(len(rows), 1)).astype(np.float32)
    towards = len(rows) // 2
    others = sample[generator.integers(0, max(1, len(sample)), towards)]
    near = sample[: len(rows) * _MIXED] - (sample.mean(axis=0) if len(sample) else 0)
    noise = generator.standard_normal((len(rows) - towards, len(near)), dtype=np.float32) @ near
    away = np.concatenate([others, noise])
    away -= (away * rows).sum(axis=1, keepdims=True) * rows
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    away = np.where(lengths > SCORE_NOISE, away / np.maximum(lengths, SCORE_NOISE), 0)
    queries = cosines * rows + np.sqrt(1 - cosines**2) * away
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    as_float: FloatMatrix = queries.astype(np.float32)
    return as_float


class Truth:
    """The exact neighbours of some queries, gathered batch by batch."""

    def __init__(self, queries: FloatMatrix) -> None:
        self.queries = queries
        shape = (len(queries), max(DEPTHS))
        self._ids = np.full(shape, -1, np.int64)
        self._scores = np.full(shape, -np.inf, np.float32)

    def add(self, ids: IdArray, vectors: FloatMatrix) -> None:
        """Compare the queries with rows that were not seen before."""
        products = self.queries @ vectors.T
        known = self._scores.shape[1]
        every = np.concatenate([self._scores, products], axis=1)
        best = np.argpartition(-every, known - 1, axis=1)[:, :known]
        all_ids = np.concatenate([self._ids, np.broadcast_to(ids, products.shape)], axis=1)
        self._ids = np.take_along_axis(all_ids, best, axis=1)
        self._scores = np.take_along_axis(every, best, axis=1)

    def noise(self, candidates: IdArray, estimates: FloatMatrix) -> float:
        """Return how far, as a root mean square, the estimates (queries, n) stand from the true neighbours' scores.

        Of those alone, since they were not chosen by their estimates: candidates are, and flatter them.
        """
        errors = [np.zeros(1)]
        for row, found in enumerate(candidates):
            _, true, named = np.intersect1d(self._ids[row], found[found >= 0], return_indices=True)
            errors.append(self._scores[row, true].astype(np.float64) - estimates[row][found >= 0][named])
        every = np.concatenate(errors)
        return float(np.sqrt((every**2).sum() / max(1, len(every) - 1)))

    def ranked(self, candidates: IdArray) -> "Ranks":
        """Return at which place among the `candidates` (queries, n), best first, each true neighbour stands."""
        order = np.argsort(-self._scores, axis=1, kind="stable")
        ids, scores = np.take_along_axis(self._ids, order, axis=1), np.take_along_axis(self._scores, order, axis=1)
        places = np.full(ids.shape, _ABSENT)
        for row, found in enumerate(candidates):
            by_id = np.argsort(found, kind="stable")
            at = by_id[np.minimum(np.searchsorted(found, ids[row], sorter=by_id), len(found) - 1)]
            places[row] = np.where((found[at] == ids[row]) & (ids[row] >= 0), at, _ABSENT)
        return Ranks(places, scores)


@dataclass(frozen=True, slots=True)
class Ranks:
    """At which places some search named the true neighbours."""

    places: npt.NDArray[np.int64]
    """Shape (queries, neighbours), nearest first; beyond all numbers where the search did not name one."""
    scores: FloatMatrix
    """Cosines of the true neighbours; minus infinity where there are no more rows."""

    def recall(self, depth: int, candidates: int) -> float:
        """Return the mean recall at `depth` where only the first `candidates` are scored.

        What is as near as the last neighbour counts like it: which of equal rows is found does not matter.
        """
        real = np.isfinite(self.scores)
        wanted = np.minimum(depth, real.sum(axis=1))
        if not len(wanted) or not wanted.all():
            return 1.0
        last = np.take_along_axis(self.scores, wanted[:, None] - 1, axis=1)
        found = ((self.places < candidates) & real & (self.scores >= last - SCORE_NOISE)).sum(axis=1)
        return float((np.minimum(found, wanted) / wanted).mean())

    def candidates(self, depth: int, target: float, most: int) -> int | None:
        """Return the smallest rung of the ladder up to `most` that reaches `target`, or None."""
        for rung in rungs(depth, most):
            if self.recall(depth, rung) >= target:
                return rung
        return None


def rungs(depth: int, most: int) -> Iterator[int]:
    """Yield numbers of candidates, each some 1.4 times the one before, from twice the depth; at last `most`."""
    rung, other = 2 * depth, 3 * depth
    while rung < most:
        yield rung
        rung, other = other, 2 * rung
    yield most


@dataclass(frozen=True, slots=True)
class Rung:
    """A setting that reached the targets."""

    setting: int
    candidates: tuple[int, ...]
    """For each of `DEPTHS`."""
    cost: float


def climbed(
    settings: Sequence[int],
    search: Callable[[int, int], IdArray],
    truth: Truth,
    cost: Callable[[int, int], float],
    rows: int,
    most: int,
) -> Rung:
    """Return the cheapest setting that reaches the targets, with its numbers of candidates.

    `search(setting, n)` gives the ids of the n best candidates of every query, `cost(setting, candidates)` what such a
    search costs at the first depth, in any unit. Settings are given cheapest first; once one reached the targets, only
    the next is tried too: it may need fewer candidates. Where none reaches them with `most` candidates, the last one
    is given more, and at last all `rows`: correct goes before fast.
    """
    best: Rung | None = None
    for setting in settings:
        ranks = truth.ranked(search(setting, min(most, rows)))
        found = _reached(ranks, min(most, rows))
        if found is None:
            if best is not None:
                break
            continue
        rung = Rung(setting, found, cost(setting, found[0]))
        if best is not None:
            return min(best, rung, key=lambda one: one.cost)
        best = rung
    while best is None:
        most = min(4 * most, rows)
        found = (most,) * len(DEPTHS) if 4 * most >= rows else _reached(truth.ranked(search(settings[-1], most)), most)
        if found is not None:
            every = (rows,) * len(DEPTHS) if 4 * most >= rows else found
            best = Rung(settings[-1], every, cost(settings[-1], every[0]))
    return best


def _reached(ranks: Ranks, most: int) -> tuple[int, ...] | None:
    found = [ranks.candidates(depth, target, most) for depth, target in zip(DEPTHS, TARGETS, strict=True)]
    kept = tuple(one for one in found if one is not None)
    return kept if len(kept) == len(DEPTHS) else None
