"""Markers in an answer to citations (pure).

A marker is `[n]`, n being the number of a passage that the prompt supplied. Chat models also write `[1, 2]`, `[1-3]`,
`[1][2]` and the full-width `【1】` and `［1］`; all of these are read. Brackets in code (`items[0]`) and the text of an
inline link (`[1](...)`) are not markers and are left alone.

The text keeps every marker of a supplied passage as it is written, but for full-width ones, which become `[n]` so that
a client has one form to look for. Markers of other passages are removed, with the space that stood before them.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

from ragsvc.evidence import Unit, code_spans, content, overlap, units
from ragsvc.types import Citation, Passage

STRONG_SHARE = 0.3
"""Weighted share of a statement's words that a citation must hold to be `strong`.

A paraphrase keeps about half of the words of its source; two sentences of one passage on different things share the
subject's name, about a fifth. 0.3 lies between.
"""
_WIDEST = 3
"""Most adjacent sentences in one citation."""
_GAIN = 0.15
"""Share that each further sentence must add."""
_HEADING_WORTH = 0.7
"""A heading names a thing and says nothing of it: text that holds as much goes before it."""
_FEW_WORDS = 2
"""A statement between two markers with fewer words is read with its sentence's beginning, and then with its end."""
_LARGEST_RANGE = 50

_NUMBERS = r"\d{1,9}(?:\s?[-–,，、]\s?\d{1,9})*"
_MARKER = re.compile(
    rf"\[(?P<plain>{_NUMBERS})\](?!\()|【(?P<wide>{_NUMBERS})(?:†[^】\n]{{0,80}})?】|［(?P<full>{_NUMBERS})］"
)
_NUMBER_OR_RANGE = re.compile(r"(\d+)(?:\s?[-–]\s?(\d+))?")
_TIGHT = frozenset(".,;:!?)]}»”’。，、；：！？）】》\n\r")


@dataclass(frozen=True, slots=True)
class Marker:
    """Where an answer names passages, and which."""

    start: int
    end: int
    numbers: tuple[int, ...]


def cite(answer: str, passages: Sequence[Passage]) -> tuple[str, tuple[Citation, ...]]:
    """Return the text without markers of unsupplied passages, and one citation per marker and cited span.

    Citations come in the order of their markers. Each quote has been compared with the passage's own text, at the
    offsets that are given; a passage whose offsets do not fit its text is not cited.
    """
    supplied = {passage.number: passage for passage in passages}
    text = supplied_markers(answer, supplied.keys())
    cited = {number: _Cited(passage) for number, passage in supplied.items()}
    found: dict[tuple[int, int, int], Citation] = {}
    for marker, statement in _statements(text):
        for number in marker.numbers:
            citation = cited[number].citation(statement)
            if citation is None:
                continue
            key = (number, citation.start, citation.end)
            if key not in found or found[key].support == "weak":
                found[key] = citation
    return text, tuple(found.values())


def markers(text: str) -> list[Marker]:
    """Return the markers of a text, in order; those in code and in links are none."""
    code = code_spans(text)
    found: list[Marker] = []
    at = 0
    for match in _MARKER.finditer(text):
        while at < len(code) and code[at][1] <= match.start():
            at += 1
        if at == len(code) or match.end() <= code[at][0]:
            listed = match["plain"] or match["wide"] or match["full"]
            found.append(Marker(match.start(), match.end(), _numbers(listed)))
    return found


def supplied_markers(text: str, supplied: AbstractSet[int]) -> str:
    """Return the text with every marker that names an unsupplied passage cut down to the supplied ones, or removed.

    A removal can bring a new marker together (`[[9]8]`), hence the repetition; each one makes the text shorter.
    """
    while True:
        edited = _edit(text, supplied)
        if edited == text:
            return text
        text = edited


def _edit(text: str, supplied: AbstractSet[int]) -> str:
    out = ""
    done = 0
    for marker in markers(text):
        out += text[done : marker.start]
        done = marker.end
        kept = [number for number in marker.numbers if number in supplied]
        if kept:
            out += _written(text[marker.start : marker.end], marker, kept)
            continue
        following = text[done : done + 1]
        bare = out.rstrip(" \t")
        if not bare or bare.endswith(("\n", "\r")):
            done += following in (" ", "\t")
        elif not following or following in _TIGHT or following in (" ", "\t"):
            out = bare
    return out + text[done:]


def _written(original: str, marker: Marker, kept: list[int]) -> str:
    if len(kept) == len(marker.numbers) and original.startswith("["):
        return original
    return "".join(f"[{number}]" for number in kept)


def _numbers(listed: str) -> tuple[int, ...]:
    """Return the numbers of `1`, `1, 2` or `1-3`, each once. A range that makes no sense names only its ends."""
    numbers: dict[int, None] = {}
    for first, last in _NUMBER_OR_RANGE.findall(listed):
        low, high = int(first), int(last or first)
        sensible = low <= high <= low + _LARGEST_RANGE
        numbers.update(dict.fromkeys(range(low, high + 1) if sensible else (low, high)))
    return tuple(numbers)


def _statements(text: str) -> Iterator[tuple[Marker, str]]:
    """Yield each marker with the statement it stands behind.

    That is the part of its sentence between the marker before and itself. A marker behind the full stop belongs to the
    sentence that ended; markers side by side share one statement; one that leads its sentence stands for all of it.
    """
    found = markers(text)
    masked = list(text)
    for marker in found:
        masked[marker.start : marker.end] = " " * (marker.end - marker.start)
    plain = "".join(masked)
    spans = units(plain)
    at = -1
    previous_end = 0
    statement = ""
    for marker in found:
        while at + 1 < len(spans) and spans[at + 1].start < marker.start:
            at += 1
        beside = not plain[previous_end : marker.start].strip()
        if not (beside and previous_end and statement):
            statement = _statement(plain, spans, at, previous_end, marker)
        yield marker, statement
        previous_end = marker.end


def _statement(plain: str, spans: Sequence[Unit], at: int, previous_end: int, marker: Marker) -> str:
    leads = at < 0 or "\n" in plain[spans[at].end : marker.start]
    if leads:
        return plain[spans[at + 1].start : spans[at + 1].end] if at + 1 < len(spans) else ""
    span = spans[at]
    stop = min(span.end, marker.start)
    for start in (max(span.start, previous_end), span.start):
        if len(content(plain[start:stop])) >= _FEW_WORDS:
            return plain[start:stop]
    return plain[span.start : span.end]


class _Cited:
    """A passage with its sentences, looked at when it is first cited, once for all of its markers."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self._known: dict[str, Citation | None] = {}

    @cached_property
    def _units(self) -> list[Unit]:
        return [unit for unit in units(self._passage.hit.text) if unit.kind != "rule"]

    @cached_property
    def _words(self) -> list[frozenset[str]]:
        return [content(self._passage.hit.text[unit.start : unit.end]) for unit in self._units]

    @cached_property
    def _weights(self) -> Mapping[str, float]:
        return rarity(self._words)

    def citation(self, statement: str) -> Citation | None:
        """Return the citation of a statement, None where there is nothing to quote."""
        if statement not in self._known:
            self._known[statement] = self._found(statement)
        return self._known[statement]

    def _found(self, statement: str) -> Citation | None:
        if not self._units:
            return None
        wanted = content(statement)
        share, first, last = self._best(wanted)
        if share >= STRONG_SHARE:
            return _citation(self._passage, self._units[first].start, self._units[last].end, strong=True)
        opening = next((unit for unit in self._units if unit.kind in ("prose", "item")), self._units[0])
        return _citation(self._passage, opening.start, opening.end, strong=False)

    def _best(self, wanted: frozenset[str]) -> tuple[float, int, int]:
        """Return share, first and last sentence of the window that holds most of the words; the shortest such one."""
        best, choice = 0.0, (0.0, 0, 0)
        for first in range(len(self._units)):
            held: frozenset[str] = frozenset()
            for last in range(first, min(first + _WIDEST, len(self._units))):
                held |= self._words[last]
                share = overlap(wanted, held, self._weights)
                if all(unit.kind == "heading" for unit in self._units[first : last + 1]):
                    share *= _HEADING_WORTH
                worth = share - _GAIN * (last - first)
                if worth > best:
                    best, choice = worth, (share, first, last)
        return choice


def rarity(sentences: Sequence[AbstractSet[str]]) -> Mapping[str, float]:
    """Return each word's weight: log(1 + n / df) over the n sentences (smoothed inverse document frequency)."""
    frequency = Counter(word for sentence in sentences for word in sentence)
    return {word: math.log(1 + len(sentences) / count) for word, count in frequency.items()}


def _citation(passage: Passage, start: int, end: int, strong: bool) -> Citation:
    """Return the citation of a slice of the passage; `answering` compares it with the stored text before it is sent."""
    hit = passage.hit
    first, last = hit.start + start, hit.start + end
    return Citation(
        marker=passage.number,
        support="strong" if strong else "weak",
        document_id=hit.document_id,
        version=hit.version,
        path=hit.path,
        title=hit.title,
        page=hit.page,
        start=first,
        end=last,
        quote=hit.text[start:end],
        score=hit.score,
        heading_path=hit.heading_path_at(first),
        position=hit.position_at(first),
    )
