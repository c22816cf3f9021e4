"""The lexical leg by an index of words: it names some hundred passages, and they get the scores that FTS5 would give.

The index orders by BM25 with lengths in one byte and with removed chunks still counted, so its own scores are good for
choosing, not for showing. What it chose is scored anew by `indexes.bm25`, chunks of the folder and of the memory alike.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from indexes import bm25, lexical, store_search, store_words
from indexes.bm25 import ScoredTerm
from indexes.errors import StoreDamaged
from indexes.lexical import Term
from indexes.store import Connection
from indexes.store_search import Candidate, Condition, FoundPlace
from indexes.store_vectors import Head
from indexes.vocabulary import Vocabulary
from indexes.word_index import WordHit, WordReader
from indexes.word_indexes import WordSnapshot

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
    found = _visible(connection, head, words, scored, where, int(_CHOSEN * wanted))
    if found is None:
        return None
    rows, total = store_words.totals(connection, head.chunk_spec_id)
    ranked = store_search.ranked(
        (bm25.score(scored, line, total / rows), place)
        for reader in words.readers
        for (_, place), line in _with_lines(reader, found)
    )
    return ranked[:wanted]


_Found = tuple[WordHit, FoundPlace]


def _with_lines(reader: WordReader, found: Sequence[_Found]) -> Iterable[tuple[_Found, str]]:
    own = [one for one in found if one[0].reader is reader]
    return zip(own, reader.lines(hit for hit, _ in own), strict=True)


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


def _visible(
    connection: Connection,
    head: Head,
    words: WordSnapshot,
    scored: Sequence[ScoredTerm],
    where: Condition,
    wanted: int,
) -> list[_Found] | None:
    """Return the best chunks that are visible and pass the filter, of `wanted` passages; None for far too many."""
    asked, known = wanted + _SPARE, dict[int, FoundPlace]()
    looked: set[int] = set()
    while asked <= _MOST:
        weights = [(term.words, term.usual) for term in scored]
        hits = [hit for reader in words.readers for hit in reader.best(weights, asked)]
        hits = sorted(hits, key=lambda hit: -hit.score)[:asked]
        new = [hit.chunk_id for hit in hits if hit.chunk_id not in looked]
        known |= store_search.places(connection, head, new, where)
        looked.update(new)
        found = [(hit, known[hit.chunk_id]) for hit in hits if hit.chunk_id in known]
        passages = len({place.text_hash for _, place in found})
        if len(hits) < asked or passages >= wanted:
            return found[: 2 * wanted]
        asked = math.ceil(_GROWTH * asked * wanted / passages) if passages else _LEAP * asked
    return None
