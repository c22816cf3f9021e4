"""What an approximate index finds out about itself while it is built: how far it must look to miss nothing.

A sample of the rows is set aside and turned into queries; their exact neighbours are gathered while the rows stream by;
then a ladder of settings is climbed up to the first rung that finds enough of them. Pure: numpy alone, seeded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from indexes.errors import InvalidVectors
from indexes.exact_index import SCORE_NOISE
from indexes.types import FloatMatrix, FloatVector, IdArray
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
_WIDER: Final = 4
"""Times more candidates that the last setting is given, again and again."""
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


def expected_loss(margins: FloatVector, noise: float) -> float:
    """Return the share of rows that are estimated too low to be seen, `margins` (n,) below their true scores.

    For normal errors: the mean of the normal distribution's tail, to within 2e-4 (Page, "Approximations to the
    cumulative normal function", Applied Statistics 26, 1977).
    """
    z = np.clip(margins.astype(np.float64) / noise, -8, 8)
    return float((1 / (1 + np.exp(1.5976 * z + 0.07056 * z**3))).mean())


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
    """What reaches a target at one of `DEPTHS`."""

    setting: int
    candidates: int


def climbed(
    settings: Sequence[int],
    search: Callable[[int, int], IdArray],
    truth: Truth,
    cost: Callable[[Rung], float],
    rows: int,
    most: int,
) -> tuple[Rung, ...]:
    """Return for each of `DEPTHS` the cheapest setting that reaches its target, with its number of candidates.

    `search(setting, n)` gives the ids of the n best candidates of every query; `cost` is what such a search costs, in
    any unit. Settings are given cheapest first; once one reached the target, only the next is tried too: it may need
    fewer candidates. Where none reaches it with `most` candidates, the last one is given more, and at last all `rows`:
    correct goes before fast.
    """

    @cache
    def ranks(setting: int, count: int) -> Ranks:
        return truth.ranked(search(setting, count))

    def cheapest(depth: int, target: float) -> Rung:
        best: Rung | None = None
        for setting in settings:
            found = ranks(setting, min(most, rows)).candidates(depth, target, min(most, rows))
            if best is not None:
                return best if found is None else min(best, Rung(setting, found), key=cost)
            if found is not None:
                best = Rung(setting, found)
        return best or deepest(depth, target)

    def deepest(depth: int, target: float) -> Rung:
        wider = _WIDER * most
        while wider * _WIDER < rows:
            found = ranks(settings[-1], wider).candidates(depth, target, wider)
            if found is not None:
                return Rung(settings[-1], found)
            wider *= _WIDER
        return Rung(settings[-1], rows)

    return tuple(cheapest(depth, target) for depth, target in zip(DEPTHS, TARGETS, strict=True))
