"""How good a ranking is, query by query, and whether a difference is more than chance. Pure.

Documents are measured by ir-measures (MacAvaney, Macdonald and Ounis, "Streamlining evaluation with ir-measures", ECIR
2022), characters by span recall, precision and IoU as Smith and Troynikov have them ("Evaluating chunking strategies
for retrieval", Chroma technical report, 2024), over characters instead of tokens and with what two chunks share counted
once. All values are from 0 to 1; higher is better.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from ragsvc.errors import ConfigurationError

RANKING = ("nDCG@10", "R@10", "RR@10")
"""Measures over documents, by ir-measures' names."""
RESAMPLES = 10_000
_ROWS = 500
"""Resamples drawn at once: some megabytes."""
_SEED = 2024

Place = tuple[str, int, int]
"""(document, start, end): characters start to end of a text."""


@dataclass(frozen=True, slots=True)
class SpanScore:
    """What the passages shown for one query hold of its evidence."""

    recall: float
    """Evidence characters that the passages cover, of all evidence characters."""
    precision: float
    """Evidence characters among the characters of the passages."""
    iou: float
    """Evidence characters covered, of the characters of passages and evidence together."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float


def require_installed() -> None:
    """Raise ConfigurationError where ir-measures is not installed: it is an extra."""
    if find_spec("ir_measures") is None:
        raise ConfigurationError(
            "evaluate measures with ir-measures, which is not installed: run `make setup` in the project's folder, or "
            "install the package's extra `evaluate`"
        )


def rankings(qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return measure -> query -> value of `RANKING` for the queries of `qrels`.

    `run` has the documents found for each query, best first, each once; a query without any scores 0.
    """
    import ir_measures

    # Ranks as scores: every library then has the order that the service has, ties included.
    scored = {query: {doc: -float(rank) for rank, doc in enumerate(run.get(query, ()))} for query in qrels}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in RANKING}
    measures = [ir_measures.parse_measure(name) for name in RANKING]
    for metric in ir_measures.iter_calc(measures, qrels, scored):
        values[str(metric.measure)][metric.query_id] = float(metric.value)
    return values


def span_score(evidence: Iterable[Place], passages: Iterable[Place]) -> SpanScore:
    """Compare the characters of `passages` with those of `evidence`; characters named twice count once.

    Raises ValueError without evidence.
    """
    wanted, shown = _union(evidence), _union(passages)
    total, brought = _length(wanted), _length(shown)
    if not total:
        raise ValueError("a query without evidence has no span score")
    covered = _shared(wanted, shown)
    return SpanScore(covered / total, covered / brought if brought else 0.0, covered / (total + brought - covered))


def within(passages: Iterable[Place], characters: int) -> list[Place]:
    """Return the first passages that have `characters` characters in all; the last one is cut."""
    kept: list[Place] = []
    for document, start, end in passages:
        if characters <= 0:
            break
        kept.append((document, start, min(end, start + characters)))
        characters -= end - start
    return kept


def paired_interval(differences: Sequence[float]) -> Interval:
    """Return the mean of per-query differences and its 95 % percentile bootstrap interval, the same on every call.

    Queries are drawn with replacement, 10,000 times: Efron and Tibshirani, "An introduction to the bootstrap", 1993,
    chapter 13; for retrieval: Sakai, "Evaluating evaluation metrics based on the bootstrap", SIGIR 2006. Raises
    ValueError without differences.
    """
    values: npt.NDArray[np.float64] = np.asarray(differences, np.float64)
    if not values.size:
        raise ValueError("no query, no interval")
    random = np.random.default_rng(_SEED)
    shape = (_ROWS, values.size)
    means = [values[random.integers(values.size, size=shape)].mean(axis=1) for _ in range(RESAMPLES // _ROWS)]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Interval(float(values.mean()), float(low), float(high))


_Ranges = dict[str, list[tuple[int, int]]]


def _union(places: Iterable[Place]) -> _Ranges:
    """Return by document the ranges that cover the same characters, apart from each other and rising."""
    found: _Ranges = {}
    for document, start, end in sorted(places):
        ranges = found.setdefault(document, [])
        if ranges and start <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((start, end))
    return found


def _length(ranges: _Ranges) -> int:
    return sum(end - start for parts in ranges.values() for start, end in parts)


def _shared(one: _Ranges, other: _Ranges) -> int:
    return sum(
        max(0, min(end, its_end) - max(start, its_start))
        for document, parts in one.items()
        for start, end in parts
        for its_start, its_end in other.get(document, ())
    )
