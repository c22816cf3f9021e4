"""Words: what a text is searched by, and a user's words as a safe full-text expression. Pure.

The words are found here, not by SQLite: `body` and `exact` give FTS5 text in which only a space ends a word, and
`TOKENIZE` tells it to keep all else as it stands, apart from Porter's stemming. So the index, the query and the weights
agree on what a word is, and letters younger than SQLite's Unicode 6.1 are found as well.

A word is a run of letters, digits and combining marks, in compatibility form, case folded, without accents. Scripts
that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese), and Korean with its endings, give the
overlapping pairs of their characters: three characters give two pairs. The index also keeps the last character of a
run alone, so that a query of one character finds each run that has it: by a pair that it begins, or by the end.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import add
from typing import Final

import regex

VERSION: Final = f"words-2 unicode-{unicodedata.unidata_version} regex-{regex.__version__}"
"""Changes with whatever changes `headed`, `body` or `exact`, the tables of characters included: full text written under
another version must be written again, or its rows could not be found to be deleted."""

TOKENIZE: Final = "porter unicode61 remove_diacritics 2 categories 'L* N* M* P* S* Co Cn'"
"""The `tokenize` option of a full-text table with the columns `body` and `exact`. It needs detail=full, for phrases."""

COLUMN_WEIGHTS: Final = (1.0, 0.15)
"""Arguments of bm25 for `body` and `exact`.

Measured, nDCG@10 on scifact / on 1,200-character chunks of chunkeval_spans: weight 0 0.702 / 0.851, 0.15 0.699 / 0.853,
0.25 0.696 / 0.855. Without the column, its index would be 2.8 MB instead of 5.2 MB for 8 MB of text.
"""

MAX_TERMS: Final = 64
"""Most distinct words of an expression, the first ones: the cost of an OR grows with them."""
MAX_IDENTIFIERS: Final = 8
"""Most phrases added to an expression for identifiers such as `foo_bar` or `3.11.7`."""
MAX_WORD: Final = 64
"""Most characters kept of a word, in the index and in the query alike: base64 is no vocabulary."""

MAX_HEADING: Final = 1_000
"""Most characters that are read of a title or a heading."""

_UNSTEMMED: Final = "\ue000"
"""A private-use character at the end of a word: no suffix of Porter's has it, so the word is kept as it is."""
# fmt: off
_STEMMABLE: Final = (
    "s", "ed", "ing", "y", "e", "al", "er", "or", "ic", "ll", "li", "ti", "ci", "ful", "ism", "ant", "ent", "ion", "ou",
)
"""Ends of all that Porter's algorithm can change: "An algorithm for suffix stripping", Program 14 (3), 1980."""

_STOP_WORDS: Final = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "did", "do", "does", "for", "from", "has", "have",
    "how", "if", "in", "into", "is", "it", "its", "not", "of", "on", "or", "that", "the", "their", "there", "these",
    "this", "to", "was", "were", "what", "when", "where", "which", "who", "why", "will", "with",
})
"""Words that a query drops when it has others. Measured: half the time of a search, and nDCG@10 as good (scifact 0.701
to 0.700, chunkeval_spans 0.847 to 0.852)."""
# fmt: on

_PAIRED = (
    r"\u3005-\u3007\u3040-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Han marks, Hiragana, Katakana
    r"\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"  # Han
    r"\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Burmese, Khmer
)
_PAIRED_RUN = re.compile(f"[{_PAIRED}]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_NOT_WORD = regex.compile(r"[^\p{L}\p{N}\p{M}\x00-\x7f]+")
_ACCENTS = re.compile("[\u0300-\u036f]+")
# Bytes, because bytes.translate is the fastest there is; those of UTF-8 from 0x80 stay as they are.
_ASCII_WORDS = bytes(
    code if code > 127 else ord(chr(code).lower()) if chr(code).isalnum() else 32 for code in range(256)
)
_IDENTIFIER = re.compile(r"[a-z0-9]+(?:[-_.:@/][a-z0-9]+){1,15}")


def words(text: str) -> list[str]:
    """Return the words of `text` in order, as often as they stand there; see the module for what a word is."""
    return _split(_folded(text), _pairs)


def headed(title: str, heading_path: Sequence[str], text: str) -> str:
    """Return a slice with its document's title and its headings before it, each once: what it is searched by.

    A slice often does not name what it is about; its headings do, and what is embedded has them, too. Measured, nDCG@10
    with and without them: scifact 0.707 and 0.689, cmrc2018 0.985 and 0.982. A column of their own with twice the
    weight gives 0.711 and 0.986, no difference that 809 claims could tell, and costs a column.
    """
    lines = dict.fromkeys(line[:MAX_HEADING] for line in (title, *heading_path))
    return "\n".join([*lines, text])


def body(text: str) -> str:
    """Return what the column `body` of the full-text table holds for `text`: every word. FTS5 stems them."""
    return columns(text)[0]


def exact(text: str) -> str:
    """Return what the column `exact` holds for `text`: once each, the words that stemming could change, kept from it.

    So a word's own form counts beside its stem, and has a frequency of its own (`vocabulary_term`).
    """
    return columns(text)[1]


def columns(text: str) -> tuple[str, str]:
    """Return `body` and `exact` of a text, split once where that can be."""
    folded = _folded(text)
    every = _split(folded, _pairs_and_last)
    # In ASCII nothing is paired: both columns have the same words.
    found = dict.fromkeys(every if folded.isascii() else _split(folded, _nothing))
    return " ".join(every), " ".join([word + _UNSTEMMED for word in found if word.endswith(_STEMMABLE)])


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a query's expression."""

    expression: str
    word: str
    """What is looked for, stemmed where it stands in `body`; empty for a phrase, and for the beginning of a pair."""
    exact: bool = False
    """Whether it is looked for in its own form, in `exact`."""


def expression(query: str) -> str | None:
    """Return a full-text expression that finds every text with at least one word of `query`; None if it has no word.

    Nothing that the user writes acts as an operator: each word is quoted and has only letters, digits and marks. An
    identifier (`foo_bar`, `3.11.7`, `E-1234`) is also looked for as a phrase of its parts. A character of a paired
    script that stands alone is looked for as the beginning of a pair.
    """
    return " OR ".join(term.expression for term in terms(query)) or None


def terms(query: str) -> list[Term]:
    """Return the parts of `expression`, any of which may be enough."""
    folded = _folded(query)
    distinct = dict.fromkeys(_split(folded, _pairs))
    kept = [word for word in distinct if word not in _STOP_WORDS] or list(distinct)
    return [*(term for word in kept[:MAX_TERMS] for term in _terms(word)), *_phrases(folded)]


def vocabulary_term(word: str) -> str:
    """Return the term under which an fts5vocab table of type `row` counts the texts that hold `word`, one of `words`.

    A word that stemming could change is counted in its own form, in `exact`; any other one in `body`, together with
    the words that have it as their stem. A character of a paired script alone is counted only where it ends a run:
    its count is low.
    """
    return word + _UNSTEMMED if word.endswith(_STEMMABLE) else word


def _terms(word: str) -> Iterator[Term]:
    """Yield what one word is looked for by."""
    if len(word) == 1 and _PAIRED_RUN.match(word):
        yield Term(f'"{word}" *', "")
    else:
        yield Term(f'"{word}"', word)
    if word.endswith(_STEMMABLE):
        yield Term(f'"{word}{_UNSTEMMED}"', word + _UNSTEMMED, exact=True)


def _phrases(folded: str) -> Iterator[Term]:
    """Yield the first identifiers of a folded query as phrases. A hyphen or slash makes one only beside a digit."""
    found = dict.fromkeys(match[0] for match in _IDENTIFIER.finditer(folded.lower()))
    telling = (name for name in found if re.search(r"[0-9_.:@]", name))
    return (Term(f'"{" ".join(_split(name, _pairs))}"', "") for name in islice(telling, MAX_IDENTIFIERS))


def _folded(text: str) -> str:
    """Return `text` with only words and ASCII left; what is not ASCII is folded, ASCII is as it was."""
    return text if text.isascii() else _NOT_ASCII.sub(_fold, text)


def _fold(match: re.Match[str]) -> str:
    """Fold case, compatibility forms and accents of a run without ASCII; the rest of Unicode becomes a space.

    Runs may be folded one by one: an ASCII letter composes only with the accents that are dropped.
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", match[0]).casefold())
    return str(_NOT_WORD.sub(" ", unicodedata.normalize("NFC", _ACCENTS.sub("", text))))


def _nothing(_run: re.Match[str]) -> str:
    return " "


def _split(folded: str, paired: Callable[[re.Match[str]], str]) -> list[str]:
    """Return the words of a folded text, runs of paired scripts replaced by `paired`."""
    if not folded.isascii():
        folded = _PAIRED_RUN.sub(paired, folded)
    found = folded.encode().translate(_ASCII_WORDS).decode().split()
    return found if len(max(found, key=len, default="")) <= MAX_WORD else [word[:MAX_WORD] for word in found]


def _pairs(match: re.Match[str]) -> str:
    run = match[0]
    return f" {' '.join(map(add, run, run[1:])) or run} "


def _pairs_and_last(match: re.Match[str]) -> str:
    run = match[0]
    return f" {' '.join(map(add, run, run[1:] + ' '))}"
