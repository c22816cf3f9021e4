"""Which words of a query are looked up, where looking up all of them would take too long. Pure.

An OR of words costs in proportion to the rows that hold any of them, each of which is scored and sorted: about 1 us.
The words in few rows weigh most and cost least. So, as in MaxScore (Turtle and Flood, "Query evaluation: strategies and
optimizations", 1995), the rarest words are essential: a row must hold one of them. The others are only counted: where
they stand beside one, they add to the score as ever. MaxScore ends the list where no row without an essential word can
be among the best; FTS5 does not tell enough for that, so here it ends where a budget of rows does.

Measured, nDCG@10 of the words on scifact: with all words essential 0.707; with 6 % of the rows and the others counted
0.707; with the words in more than a tenth of the rows left out 0.694.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LARGE: Final = 60_000
"""Rows from which tables are searched so. In smaller ones a search for all words takes no more than 100 ms."""
SCORED_ROWS: Final = 30_000
"""Rows with an essential word that are scored, about."""
LEAST_ROWS: Final = 500
"""Rows with an essential word that there are at least, unless the next word is FREQUENT: a leg of a search wants some
100 passages, and a word that is misspelt brings none."""
COUNTED_ROWS: Final = 500_000
"""Rows of the other words that are walked through, 0.1 us each. It is for the frequent ones to stay within it."""
FREQUENT: Final = 0.1
"""A word in a greater share of all rows may be left out; one in fewer is counted at least."""
EMPTY: Final = 0.5
"""A word in a greater share than this weighs 1e-6 in FTS5's bm25: left out, it is not missed."""


@dataclass(frozen=True, slots=True)
class Expression:
    """What FTS5 is asked for."""

    text: str
    times: float
    """How many times as high its scores are as those of BM25."""


def whole(terms: Sequence[tuple[str, int]]) -> Expression:
    """Return what finds every row that holds any of the terms."""
    return pruned(terms, 0)


def pruned(terms: Sequence[tuple[str, int]], rows: int) -> Expression:
    """Return what finds the best rows for terms, of which there is one: (expression, number of rows that hold it) each.

    A number of 0 may also mean that it is not known. `rows` is the size of the table. Where terms are only counted, all
    stand twice and scores double: the only way to say "if it is there" is an OR inside an AND, and what is essential
    must stand on both sides.
    """
    essential, counted = list[str](), list[str]()
    scored = walked = 0
    for text, found in sorted(terms, key=lambda term: term[1]):
        few = scored == 0 or (scored < LEAST_ROWS and found <= FREQUENT * rows)
        if few or rows <= LARGE or scored + found <= SCORED_ROWS:
            essential.append(text)
            scored += found
        elif found <= FREQUENT * rows or (found <= EMPTY * rows and walked + found <= COUNTED_ROWS):
            counted.append(text)
            walked += found
    either = " OR ".join(essential)
    if not counted:
        return Expression(either, 1.0)
    return Expression(f"({either}) AND ({' OR '.join([*essential, *counted, *counted])})", 2.0)
