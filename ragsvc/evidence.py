"""Sentences of a text, and how much of one sentence's meaning stands in another (pure).

Citations and the local chat both ask: which sentence of a passage holds this statement? The measure is the share of the
statement's words, weighted by rarity, that the sentence has: containment, as in Broder's "On the resemblance and
containment of documents" (1997), over words instead of shingles.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from indexes.lexical import words

UnitKind = Literal["prose", "item", "heading", "table", "code", "markup", "rule"]

_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})")
_SINGLE_LINES: tuple[tuple[UnitKind, re.Pattern[str]], ...] = (
    ("rule", re.compile(r"\s*(?P<mark>[-=*_~^+#:.\"'`])(?:\s*(?P=mark)){2,}\s*$")),
    ("heading", re.compile(r" {0,3}#{1,6}(?:\s|$)")),
    ("table", re.compile(r"\s*\|")),
    ("markup", re.compile(r"\s*(?:///|:::|!!!|\.\.\s|\{[*%!]|</?[A-Za-z!]|\[[^\]\n]+\]:|!\[)")),
    (
        "code",
        re.compile(
            r"""\s*(?:\$\s|>>>\s|@\w+(?:\(|\s*$)|\#include\b|from\s+[\w.]+\s+import\b|import\s+[\w.]+(?:\s*;|\s*$)
            |(?:async\s+)?def\s+\w+\(|class\s+\w+\s*[:({]|(?:const|let|var)\s+\w+\s*=|return\s+\S+\s*$|[{}()\[\]]+[;,]?\s*$)
            |.*[;{]\s*$""",
            re.VERBOSE,
        ),
    ),
)
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+\S")
_UNDERLINE = re.compile(r"\s*(?:={3,}|-{3,}|~{3,}|\^{3,})\s*$")

_CLOSERS = "\"'”’»)\\]}」』）】》〉*_`"
_END = re.compile(rf"[。！？｡]++[{_CLOSERS}]*+|(?<![.!?…])[.!?…]++[{_CLOSERS}]*+(?=\s)")  # linear on runs of dots
_ABBREVIATED = "e.g i.e eg ie cf vs dr mr mrs ms prof fig figs eq al approx st jr sr z.b d.h u.a bzw ca"
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_FULL_STOPS = "。！？｡"
_LAST_WORD = re.compile(r"[^\W\d_][\w.]*$")
_LETTER = re.compile(r"[^\W\d_]")

_STOP_TEXT = """
    a about after all also am an and any are as at be because been before being between both but by can could did do
    does doing don done during each either else every few for from further get gets give gives had has have having he
    her here hers him his how i if in into is isn it its itself just let like made make makes many may me might more
    most much must my need needed needs no nor not now of off on once one only or other our out over own please same
    shall she should show so some such tell than that the their them then there these they this those through to too
    under until up us use used uses using very want was way we were what when where which while who whom whose why will
    with without work works would you your yours s t re ve ll d m
    为何 如何 多少 几个 有关 关于 以及 因为 所以 请问 可以 这个 那个 一个 有几 何时 为了
"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())
"""Words, and bigrams of Chinese, that say nothing of a subject. In a small corpus they are too rare to be found out."""
_FUNCTION_CHARACTERS = frozenset("的了吗呢么什哪谁怎吧啊嘛是")
_FIRST_CJK = "\u2e80"
_HIRAGANA = re.compile(r"[\u3041-\u309f]+$")


@dataclass(frozen=True, slots=True)
class Unit:
    """A sentence, or a line that stands by itself, as a span of the text it was found in."""

    start: int
    end: int
    kind: UnitKind


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the spans of the text's sentences, in order, trimmed; together they hold all that is not blank."""
    return [(unit.start, unit.end) for unit in units(text)]


def units(text: str) -> list[Unit]:
    """Return the text's sentences with their kinds.

    Wrapped lines of a paragraph or list item are joined before sentences are sought; headings, table rows, code and
    markup are a unit per line.
    """
    found: list[Unit] = []
    for block in _blocks(text):
        if block.kind in ("prose", "item"):
            found.extend(_split(text, block))
        else:
            found.extend(_trimmed(text, block.start, block.end, block.kind))
    return found


def code_spans(text: str) -> list[tuple[int, int]]:
    """Return the spans of fenced code blocks and of inline code between equal runs of backticks in one paragraph."""
    spans: list[tuple[int, int]] = []
    for start, end, fenced in _fenced(text):
        if fenced:
            spans.append((start, end))
        else:
            spans.extend((start + a, start + b) for a, b in _inline_code(text[start:end]))
    return spans


def content(text: str) -> frozenset[str]:
    """Return the stems of the text's words that say something of its subject."""
    return frozenset(stem(word) for word in words(text) if not is_function_word(word))


def is_function_word(word: str) -> bool:
    """Whether a word (of `indexes.lexical.words`) says nothing of a subject.

    A character alone that ends a run of Chinese or Japanese is one too: the pair before it holds it already.
    """
    if word in _STOP_WORDS or (len(word) == 1 and word >= _FIRST_CJK):
        return True
    return not _FUNCTION_CHARACTERS.isdisjoint(word) or _HIRAGANA.match(word) is not None


def stem(word: str) -> str:
    """Return a light English stem: plural (Harman's S-stemmer, 1991), then -ed, -ing and a final e.

    Only for comparing words with each other: it is applied to both sides, so that a wrong stem is wrong on both.
    """
    if not word.isascii() or len(word) < 4:
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("us", "ss", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        base = word.removesuffix(ending)
        if base != word and len(base) >= 3:
            word = base[:-1] if base[-1] == base[-2] and base[-1] not in "lsz" else base
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def overlap(statement_words: Collection[str], sentence_words: AbstractSet[str], weights: Mapping[str, float]) -> float:
    """Return the weighted share, 0 to 1, of the statement's distinct words that the sentence has.

    A word without a weight is as rare as the rarest one that has one. No words: 0.
    """
    unknown = max(weights.values(), default=1.0)
    shares = {word: weights.get(word, unknown) for word in statement_words}
    total = sum(shares.values())
    return sum(weight for word, weight in shares.items() if word in sentence_words) / total if total > 0 else 0.0


def _blocks(text: str) -> Iterator[Unit]:
    """Yield runs of lines that belong together, blank lines left out."""
    open_block: Unit | None = None
    for start, end, kind in _lines(text):
        joins = kind == "prose" and open_block is not None
        if joins and open_block is not None:
            open_block = Unit(open_block.start, end, open_block.kind)
            continue
        if open_block is not None:
            titled = kind == "rule" and _is_underlined(text, open_block, start, end)
            yield Unit(open_block.start, open_block.end, "heading") if titled else open_block
            open_block = None
        if kind in ("prose", "item"):
            open_block = Unit(start, end, kind)
        elif kind != "blank":
            yield Unit(start, end, kind)
    if open_block is not None:
        yield open_block


def _is_underlined(text: str, block: Unit, start: int, end: int) -> bool:
    one_line = len(text[block.start : block.end].splitlines()) == 1
    return block.kind == "prose" and block.end == start and one_line and bool(_UNDERLINE.match(text[start:end]))


def _lines(text: str) -> Iterator[tuple[int, int, UnitKind | Literal["blank"]]]:
    for start, end, fenced in _fenced(text):
        at = start
        for line in text[start:end].splitlines(keepends=True):
            yield at, at + len(line), _line_kind(line, fenced)
            at += len(line)


def _line_kind(line: str, fenced: bool) -> UnitKind | Literal["blank"]:
    if not line.strip():
        return "blank"
    if fenced:
        return "code"
    for kind, pattern in _SINGLE_LINES:
        if pattern.match(line):
            return kind
    return "item" if _ITEM.match(line) else "prose"


def _fenced(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield the text as alternating spans outside and inside code fences; the fence lines lie inside."""
    fence = ""
    span_start = at = 0
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if match and not fence:
            yield span_start, at, False
            span_start, fence = at, match["fence"]
        elif match and match["fence"].startswith(fence) and line.strip() == match["fence"]:
            yield span_start, at + len(line), True
            span_start, fence = at + len(line), ""
        at += len(line)
    yield span_start, at, bool(fence)


_TICKS = re.compile(r"`+")
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n")


def _inline_code(text: str) -> Iterator[tuple[int, int]]:
    """Yield inline code: a run of backticks up to the next run of the same length, in one paragraph."""
    breaks = [match.start() for match in _PARAGRAPH_END.finditer(text)]
    edges = [0, *breaks, len(text)]
    for start, end in itertools.pairwise(edges):
        runs = list(_TICKS.finditer(text, start, end))
        later: dict[int, list[re.Match[str]]] = {}
        for run in reversed(runs):
            later.setdefault(len(run[0]), []).append(run)
        done = start
        for run in runs:
            partners = later[len(run[0])]
            partners.pop()
            if run.start() >= done and partners:
                done = partners[-1].end()
                yield run.start(), done


def _split(text: str, block: Unit) -> Iterator[Unit]:
    start = block.start
    letter = _LETTER.search(text, start, block.end)
    for match in _END.finditer(text, block.start, block.end):
        says = letter is not None and letter.start() < match.start()
        if match[0][0] in _FULL_STOPS or (says and _ends_sentence(text, match, block)):
            yield from _trimmed(text, start, match.end(), block.kind)
            start = match.end()
            if letter is not None and letter.start() < start:
                letter = _LETTER.search(text, start, block.end)
    yield from _trimmed(text, start, block.end, block.kind)


def _ends_sentence(text: str, match: re.Match[str], block: Unit) -> bool:
    """Whether a Latin mark ends a sentence: not before a small letter, nor after an abbreviation or an initial."""
    if text[match.end() : min(block.end, match.end() + 80)].lstrip()[:1].islower():
        return False
    word = _LAST_WORD.search(text[max(block.start, match.start() - 40) : match.start()])
    if match[0][0] != "." or word is None:
        return True
    return word[0].lower() not in _ABBREVIATIONS and not (len(word[0]) == 1 and word[0].isupper())


def _trimmed(text: str, start: int, end: int, kind: UnitKind) -> Iterator[Unit]:
    piece = text[start:end]
    left = start + len(piece) - len(piece.lstrip())
    right = start + len(piece.rstrip())
    if left < right:
        yield Unit(left, right, kind)
