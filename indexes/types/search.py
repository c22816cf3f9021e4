"""What a search asks for, and what it finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from indexes.types.documents import Mark, Position
from indexes.types.specs import FloatVector, IdArray

Mode = Literal["hybrid", "dense", "lexical"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`key op value` over a document's fields; see `indexes.filters` for keys and operators."""

    key: str
    op: str
    value: str | int | float | bool | tuple[str | int | float | bool, ...]


@dataclass(frozen=True, slots=True)
class Junction:
    """All (`and`) or any (`or`) of the terms. An empty `and` is everything, an empty `or` nothing."""

    op: Literal["and", "or"]
    terms: tuple["Filter", ...]


Filter = Comparison | Junction


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest vectors to one query, best first; ties by id. At most `k`, fewer where fewer exist."""

    ids: IdArray
    scores: FloatVector
    """Cosine (inner product of unit vectors)."""


@dataclass(frozen=True, slots=True)
class LegScore:
    """What one leg of the search said of a hit."""

    rank: int
    """1-based."""
    score: float
    """Cosine for the dense leg, BM25 (higher is better) for the lexical one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Another place where the same passage stands."""

    document_id: str
    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that answers a query, with all that a citation needs."""

    rank: int
    """1-based."""
    score: float
    document_id: str
    version: int
    path: str
    title: str
    heading_path: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str
    dense: LegScore | None
    lexical: LegScore | None
    also: tuple[Place, ...]
    marks: tuple[Mark, ...] = ()
    """Those that hold for [start, end); the first may begin before it."""
    tokens: int | None = None
    """Of `text` (cl100k_base), as counted when it was cut; None where that is not known."""

    def position_at(self, offset: int) -> Position | None:
        """Return where the text at `offset` stands in its file; None where the format has no positions."""
        mark = self._mark_at(offset)
        return mark.position or None if mark else None

    def heading_path_at(self, offset: int) -> tuple[str, ...]:
        """Return the headings above the text at `offset`: more of them than all of the passage shares."""
        mark = self._mark_at(offset)
        return mark.heading_path if mark else self.heading_path

    def _mark_at(self, offset: int) -> Mark | None:
        return next((mark for mark in reversed(self.marks) if mark.start <= offset), None)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits of one snapshot."""

    hits: tuple[Hit, ...]
    generation: int
    term_weights: Mapping[str, float]
    """Inverse document frequency of the query's words in this collection (see `indexes.lexical.words`)."""
