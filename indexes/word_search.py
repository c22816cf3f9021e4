"""The lexical leg by an index of words: it names some hundred passages, and they get the scores that FTS5 would give.

The index orders by BM25 with lengths in one byte and with removed chunks still counted, so its own scores are good for
choosing, not for showing. What it chose is scored anew by `indexes.bm25`, chunks of the folder and of the memory alike.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from indexes import bm25, lexical, store_search, store_words
from indexes.bm25 import ScoredTerm
from indexes.current_words import WordSnapshot
from indexes.errors import StoreDamaged
from indexes.lexical import Term
from indexes.store import Connection
from indexes.store_search import Candidate, Condition, FoundPlace
from indexes.store_vectors import Head
from indexes.vocabulary import Vocabulary
from indexes.word_index import WordHit, WordReader

FEW_ROWS: Final = 2_500
"""Rows that hold any of the words, summed, up to which FTS5 is as fast and scores all of them: 1 us each."""
COUNTED_ROWS: Final = 20_000
"""Rows up to which a word's chunks are counted, 0.02 us each; the counts of more frequent ones are the index's, scaled
to the rows there are now: right where removed chunks held the word as often as the others, at most a quarter off."""
_CHOSEN: Final = 1.25
"""Times as many passages as are wanted are scored."""
_SPARE: Final = 16
_GROWTH: Final = 1.5
"""Times as many chunks as should do are asked for when a filter, or removals, left too few of the first."""
_LEAP: Final = 8
"""Times as many, where none of the first is left."""
_MOST: Final = 10_000
"""Chunks looked at, 5 us each: where a filter passes fewer than one in a hundred, FTS5 answers as fast."""


def counts(
    connection: Connection, vocabulary: Vocabulary, head: Head, words: WordSnapshot | None, terms: Iterable[str]
) -> dict[str, int]:
    """Return how many visible chunks hold each term, as `Vocabulary.counts`; about, of very frequent ones."""
    asked = set(terms)
    try:
        about = {term: words.holding([term]) for term in asked} if words is not None else {}
    except StoreDamaged:  # whoever searched with it said so
        about = {}
    if words is None or not about:
        return vocabulary.counts(connection, head, asked)
    frequent = {term: count for term, count in about.items() if count > COUNTED_ROWS}
    share = store_words.rows(connection, head.chunk_spec_id) / max(1, words.rows)
    scaled = {term: round(count * share) for term, count in frequent.items()}
    return scaled | vocabulary.counts(connection, head, asked - frequent.keys())


def candidates(
    connection: Connection,
    vocabulary: Vocabulary,
    head: Head,
    words: WordSnapshot,
    terms: Sequence[Term],
    where: Condition,
    wanted: int,
) -> list[Candidate] | None:
    """Return up to `wanted` passages, best first, ties by path and start; None where FTS5 does it as well or better.

    Raises StoreDamaged where the index can't be read.
    """
    if any(term.expression.endswith("*") for term in terms):  # the beginning of a word
        return None
    asked = _split(terms)
    if sum(words.holding(words_of) for words_of, _ in asked.values()) <= FEW_ROWS:
        return None
    scored = _scored(connection, vocabulary, head, words, asked)
    places = _Places(connection, head, where)
    rows, total = store_words.totals(connection, head.chunk_spec_id)
    found = list[tuple[float, FoundPlace]]()
    for reader in words.readers:
        best = _visible(reader, scored, places, int(_CHOSEN * wanted))
        if best is None:
            return None
        lines = reader.lines(hit for hit, _ in best)
        found += [(bm25.score(scored, line, total / rows), place) for (_, place), line in zip(best, lines, strict=True)]
    return store_search.ranked(found)[:wanted]


_Asked = dict[str, tuple[tuple[str, ...], bool]]
"""By expression: its words as lines have them, and whether they stand in the column `exact`."""


def _split(terms: Sequence[Term]) -> _Asked:
    pieces = {term.expression: term.expression.strip('"').split() for term in terms}
    stems = store_words.stems(piece for found in pieces.values() for piece in found)
    return {term.expression: (tuple(stems[piece] for piece in pieces[term.expression]), term.exact) for term in terms}


def _scored(
    connection: Connection, vocabulary: Vocabulary, head: Head, words: WordSnapshot, asked: _Asked
) -> list[ScoredTerm]:
    rows = store_words.rows(connection, head.chunk_spec_id)
    single = counts(connection, vocabulary, head, words, (found[0] for found, _ in asked.values() if len(found) == 1))
    scored = []
    for expression, (found, exact) in asked.items():
        if len(found) == 1:
            holding = single[found[0]]
        elif min(words.holding([word]) for word in found) <= COUNTED_ROWS:
            holding = store_words.matching(connection, head.chunk_spec_id, expression)
        else:
            holding = round(words.holding(found) * rows / max(1, words.rows))
        column_weight = lexical.COLUMN_WEIGHTS[1 if exact else 0]
        scored.append(ScoredTerm(found, column_weight, bm25.weight(holding, rows)))
    return scored


@dataclass(frozen=True, slots=True)
class _Places:
    """Where chunks stand that are visible in this transaction and pass the filter."""

    connection: Connection
    head: Head
    where: Condition

    def of(self, chunk_ids: Sequence[int]) -> dict[int, FoundPlace]:
        return store_search.places(self.connection, self.head, chunk_ids, self.where)


def _visible(
    reader: WordReader, scored: Sequence[ScoredTerm], places: _Places, wanted: int
) -> list[tuple[WordHit, FoundPlace]] | None:
    """Return the best chunks of a reader that are visible and pass the filter, up to the place where they have made
    `wanted` passages, or all; None where too many would have to be looked at."""
    asked, known, looked = wanted + _SPARE, dict[int, FoundPlace](), set[int]()
    weights = [(term.words, term.usual) for term in scored]
    while asked <= _MOST:
        hits = reader.best(weights, asked)
        new = [hit.chunk_id for hit in hits if hit.chunk_id not in looked]
        known |= places.of(new)
        looked.update(new)
        found, passages = list[tuple[WordHit, FoundPlace]](), set[str]()
        for hit in hits:
            if hit.chunk_id in known and len(passages) < wanted:
                found.append((hit, known[hit.chunk_id]))
                passages.add(known[hit.chunk_id].text_hash)
        if len(hits) < asked or len(passages) >= wanted:
            return found
        asked = math.ceil(_GROWTH * asked * wanted / len(passages)) if passages else _LEAP * asked
    return None
