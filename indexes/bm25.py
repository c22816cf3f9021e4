"""BM25 as FTS5 computes it, from lines of words: what an index outside SQLite finds gets the score it would get there.

Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond", 2009, in the form of fts5Bm25Function
in SQLite's fts5_aux.c, with its constants. Pure.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_K1: Final = 1.2
_B: Final = 0.75
_LEAST_WEIGHT: Final = 1e-6
"""Of a term in half of all rows or more."""


@dataclass(frozen=True, slots=True)
class ScoredTerm:
    """A term of a query: a word, or several as a phrase, as they stand in lines of words."""

    words: tuple[str, ...]
    column_weight: float
    """What one occurrence counts, by the column it stands in."""
    weight: float
    """The inverse document frequency."""

    @property
    def usual(self) -> float:
        """What it gives a chunk of average length that holds it once."""
        return self.weight * _saturated(self.column_weight, 1.0)


def weight(holding: int, rows: int) -> float:
    """Return the inverse document frequency of a term that `holding` of `rows` chunks hold."""
    found = math.log((rows - holding + 0.5) / (holding + 0.5)) if holding <= rows else 0.0
    return found if found > 0 else _LEAST_WEIGHT


def score(terms: Sequence[ScoredTerm], line: str, average: float) -> float:
    """Return the score of a chunk by its line, words with two spaces between them; `average` is in words a chunk."""
    words = line.split("  ") if line else []
    counted, relative = Counter(words), len(words) / average
    total = 0.0
    for term in terms:
        found = counted[term.words[0]] if len(term.words) == 1 else _phrases(term.words, line)
        if found:
            total += term.weight * _saturated(term.column_weight * found, relative)
    return total


def _saturated(frequency: float, relative_length: float) -> float:
    return frequency * (_K1 + 1) / (frequency + _K1 * (1 - _B + _B * relative_length))


def _phrases(words: Sequence[str], line: str) -> int:
    return len(re.findall(f"(?= {re.escape('  '.join(words))} )", f" {line} "))  # they may overlap: 1.1 in 1.1.1
