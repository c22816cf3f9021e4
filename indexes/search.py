"""One search over one snapshot: two legs, fused, each passage once. Runs in its caller's read transaction."""

import math
from dataclasses import dataclass, field

import numpy as np

from indexes import lexical, pruning, store_search, store_words, word_search
from indexes.current_words import CurrentWords, WordSnapshot
from indexes.errors import InvalidQuery, StoreDamaged
from indexes.fusion import weighted_mean
from indexes.snapshots import Snapshot
from indexes.store import Connection
from indexes.store_search import Candidate, Condition
from indexes.store_vectors import Head
from indexes.types import Filter, FloatVector, Hit, LegScore, Mode, SearchResult
from indexes.visibility import Visibility
from indexes.vocabulary import Vocabulary

_MODES = ("hybrid", "dense", "lexical")
_LEAST_CANDIDATES = 100
"""Of each leg, where no more than half as many hits are asked for: so the first hits are the same for every such k."""
_CANDIDATES_PER_HIT = 2
_SPARE_VECTORS = 16
"""Asked for at first beyond what is wanted: a few texts that are gone, or stand twice, need no second look."""
_GROWTH = 4
"""How many times more rows are asked for when too few of the nearest vectors belong to visible passages."""
_UNIT_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked. `dense_weight` is the dense leg's vote in the fusion; at 0 its scores are shown, not counted."""

    text: str
    vector: FloatVector | None
    k: int
    mode: Mode
    where: Filter | None = None
    dense_weight: float = 1.0


def require_valid(query: Query, dimensions: int) -> None:
    """Raise InvalidQuery where mode, k, weight, text or vector make no sense."""
    if query.mode not in _MODES:
        raise InvalidQuery(f"mode must be one of {', '.join(_MODES)}, not {query.mode}")
    if query.k < 1:
        raise InvalidQuery(f"k must be at least 1, not {query.k}")
    if not (math.isfinite(query.dense_weight) and query.dense_weight >= 0):
        raise InvalidQuery("dense_weight must be finite and at least 0")
    try:
        query.text.encode()
    except UnicodeEncodeError as error:
        raise InvalidQuery("the query holds half of a surrogate pair") from error
    if query.mode == "lexical":
        return
    if query.vector is None:
        raise InvalidQuery(f"a {query.mode} search needs the query's vector")
    if query.vector.shape != (dimensions,):
        raise InvalidQuery(f"the query's vector has shape {query.vector.shape}, the collection's have ({dimensions},)")
    if not abs(float(np.linalg.norm(query.vector)) - 1) <= _UNIT_TOLERANCE:
        raise InvalidQuery("the query's vector must be finite and of unit length")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a collection's searches remember for one another."""

    words: CurrentWords
    visibility: Visibility = field(default_factory=Visibility)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)


def search(
    connection: Connection, snapshot: Snapshot, remembered: Remembered, head: Head, query: Query
) -> SearchResult:
    """Return the best `query.k` passages. `head` is of this transaction; `snapshot` covers it."""
    where = store_search.condition(query.where)
    dense = _dense_leg(connection, snapshot, remembered.visibility, head, query) if query.mode != "lexical" else []
    index = remembered.words.serving(connection, head)
    words = _lexical_leg(connection, remembered, index, head, query) if query.mode != "dense" else []
    ranked = _ranked(query, dense, words)[: query.k]
    hits = _hits(connection, head, ranked, where, (_scores(dense), _scores(words)))
    weights = _term_weights(connection, remembered.vocabulary, index, head, query.text)
    return SearchResult(hits, head.generation, weights)


def _hits(
    connection: Connection,
    head: Head,
    ranked: list[tuple[Candidate, float]],
    where: Condition,
    legs: tuple[dict[str, LegScore], dict[str, LegScore]],
) -> tuple[Hit, ...]:
    """Return what is shown of the passages."""
    shown = [candidate for candidate, _ in ranked]
    chunks = store_search.chunks(connection, [candidate.chunk_id for candidate in shown])
    places = store_search.other_places(connection, head, shown, where)
    dense, words = legs
    hits = []
    for rank, (candidate, score) in enumerate(ranked, start=1):
        chunk = chunks[candidate.chunk_id]
        hits.append(
            Hit(
                rank=rank,
                score=score,
                document_id=chunk.document_id,
                version=chunk.version,
                path=chunk.path,
                title=chunk.title,
                heading_path=chunk.heading_path,
                page=chunk.page,
                start=chunk.start,
                end=chunk.end,
                text=chunk.text,
                dense=dense.get(candidate.text_hash),
                lexical=words.get(candidate.text_hash),
                also=places.get(candidate.text_hash, ()),
                marks=chunk.marks,
                tokens=chunk.tokens,
            )
        )
    return tuple(hits)


def _wanted(query: Query) -> int:
    return max(_CANDIDATES_PER_HIT * query.k, _LEAST_CANDIDATES)


def _dense_leg(
    connection: Connection, snapshot: Snapshot, visibility: Visibility, head: Head, query: Query
) -> list[Candidate]:
    """Return passages by cosine. Asks for more rows until enough are alive: liveness is the store's to know.

    Fused ranks need the whole leg, or vectors of texts that are gone would push living passages out of it.
    """
    assert query.vector is not None  # noqa: S101 - required by require_valid
    where = store_search.condition(query.where)
    allowed = visibility.allowed(connection, head, where) if query.where is not None else None
    vector, wanted = np.ascontiguousarray(query.vector, np.float32), _wanted(query)
    needed = wanted if query.mode == "hybrid" else query.k
    asked = wanted + _SPARE_VECTORS
    while True:
        scores = snapshot.nearest(vector, asked, allowed)
        candidates = store_search.dense_candidates(connection, head, scores, where)
        if len(candidates) >= needed or len(scores) < asked:
            return candidates[:wanted]
        if allowed is None:  # those that are gone can be many, and lie together
            allowed = visibility.allowed(connection, head, None)
        asked *= _GROWTH


def _lexical_leg(
    connection: Connection, remembered: Remembered, index: WordSnapshot | None, head: Head, query: Query
) -> list[Candidate]:
    """Return passages by BM25, from the index of words where there is one and it is the faster way."""
    terms = lexical.terms(query.text)
    if not terms:
        return []
    if index is not None:
        try:
            where = store_search.condition(query.where)
            found = word_search.candidates(connection, remembered.vocabulary, head, index, terms, where, _wanted(query))
        except StoreDamaged as error:
            remembered.words.report(error)
            found = None
        if found is not None:
            return found
    return _full_text_leg(connection, remembered.vocabulary, head, query, terms)


def _full_text_leg(
    connection: Connection, vocabulary: Vocabulary, head: Head, query: Query, terms: list[lexical.Term]
) -> list[Candidate]:
    """Return passages by BM25 of FTS5: of any word in a small collection, of the telling ones in a large one."""
    rows = store_words.rows(connection, head.chunk_spec_id)
    held: list[int] = [0] * len(terms)
    if rows > pruning.LARGE:
        stems = store_words.stems(term.word for term in terms if term.word and not term.exact)
        named = [term.word if term.exact else stems.get(term.word, "") for term in terms]
        counts = vocabulary.counts(connection, head, [name for name in named if name])
        held = [counts[name] if name else 0 for name in named]
    counted = [(term.expression, count) for term, count in zip(terms, held, strict=True)]
    where = store_search.condition(query.where)
    expression, every = pruning.pruned(counted, rows), pruning.whole(counted)
    found = store_search.lexical_candidates(connection, head, expression, where, _wanted(query))
    if len(found) >= query.k or expression == every:
        return found
    # Where a filter leaves too few of the telling words' rows, or there are none, the others' must do.
    return store_search.lexical_candidates(connection, head, every, where, _wanted(query))


def _ranked(query: Query, dense: list[Candidate], words: list[Candidate]) -> list[tuple[Candidate, float]]:
    """Return passages with their scores, best first, ties by path and start. One leg alone keeps its own scores."""
    if query.mode != "hybrid":
        return [(candidate, candidate.score) for candidate in (*dense, *words)]
    legs = [[(candidate.text_hash, candidate.score) for candidate in leg] for leg in (dense, words)]
    fused = weighted_mean(legs, (query.dense_weight, 1.0))
    # The dense leg chooses the place that is shown, where it votes: it has read title and headings.
    shown = {candidate.text_hash: candidate for candidate in words}
    if query.dense_weight:
        shown |= {candidate.text_hash: candidate for candidate in dense}
    ranked = [(shown[text_hash], score) for text_hash, score in fused]
    return sorted(ranked, key=lambda pair: (-pair[1], pair[0].path, pair[0].start))


def _scores(leg: list[Candidate]) -> dict[str, LegScore]:
    return {candidate.text_hash: LegScore(rank, candidate.score) for rank, candidate in enumerate(leg, start=1)}


def _term_weights(
    connection: Connection, vocabulary: Vocabulary, index: WordSnapshot | None, head: Head, text: str
) -> dict[str, float]:
    """Return ln(1 + (N - df + 0.5) / (df + 0.5)) of the query's words, the inverse document frequency of BM25.

    N is the number of chunks in service, df that of those with the word (Robertson and Zaragoza, "The probabilistic
    relevance framework: BM25 and beyond", 2009; the 1 keeps it above 0).
    """
    terms = {word: lexical.vocabulary_term(word) for word in lexical.words(text)}
    if not terms:
        return {}
    total = store_words.rows(connection, head.chunk_spec_id)
    frequencies = word_search.counts(connection, vocabulary, head, index, terms.values())
    return {
        word: math.log(1 + (total - frequencies[term] + 0.5) / (frequencies[term] + 0.5))
        for word, term in terms.items()
    }
