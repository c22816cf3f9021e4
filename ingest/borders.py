"""Where a text may be cut, from the strongest kind of border to the weakest (pure)."""

import re
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
import regex

PARAGRAPH: Final = re.compile(r"\n(?:[ \t\r]*\n)+")
"""Behind blank lines; the indent of the next line stays with it."""

SENTENCE: Final = re.compile(
    r"[\n.!?…。！？；｡](?<![.!?…][.!?…])"  # a run of Latin marks is tried once, from its first
    r"(?:(?<=\n)"  # a line
    r"|(?<=[.!?…])(?<!\s\d[.])(?<!\s\d\d[.])(?<![\s.][A-Z][.])[.!?…]*+[\"'”’»)\]]*(?:[ \t]+\n?|\r?\n)(?![a-z])"
    r"|(?<=[。！？；…｡])[。！？；…｡]*[”’」』）】》〉\"')\]]*[ \t\u3000]*(?:\r?\n)?)"
)
"""Behind a line or a sentence. A Latin mark ends one only before white space that no small letter follows, and not
behind a list number or an initial ("2. ", "J. "); a Chinese or Japanese mark ends one by itself, with the quotes and
brackets that close behind it."""

CLAUSE: Final = re.compile(r"[,;:，、：](?:(?<=[,;:])[ \t]+|(?<=[，、：])[”’」』）】》〉]*)")
"""Behind a comma, semicolon or colon."""

WORD: Final = re.compile(r"\s+")
"""Behind white space."""

KINDS: Final = (PARAGRAPH, SENTENCE, CLAUSE, WORD)

_JOINING: Final = regex.compile(r"[\u0300-\U0010ffff--\p{GCB=Other}]+", regex.V1)
"""Characters that may share a grapheme with a neighbour (UAX 29): there is none below U+0300 but the pair CR LF."""
_MAY_JOIN: Final = re.compile(
    "[\u0300-\u036f\u0483-\u200f\u2028-\u202e\u2060-\u20ff\u2cef-\u2dff\u302a-\u302f\u3099\u309a\ua66f-\ufb1e"
    "\ufe00-\ufe0f\ufe20-\ufe2f\ufeff\uff9e\uff9f\ufff0-\U0010ffff]"
)
"""More than `_JOINING`, and many times faster: most texts have none of these."""
_GRAPHEME: Final = regex.compile(r"\X")
_BLOCK: Final = 256

CONTEXT: Final = 16
"""Characters on either side by which a border is known again after an edit elsewhere."""


_NEAR: Final = 4
_MULTIPLIER: Final = np.uint32(2654435761)
"""Knuth's multiplicative hash (The Art of Computer Programming 3, section 6.4)."""


def within(kind: re.Pattern[str], text: str, start: int, end: int) -> list[int]:
    """Return the borders of one kind in (start, end], rising."""
    return [at for match in kind.finditer(text, start, end + 1) if start < (at := match.end()) <= end]


def fingerprint(text: str, position: int) -> int:
    """Return a number that depends on nothing but the characters beside the border: the same wherever they stand."""
    return zlib.crc32(text[position - CONTEXT if position > CONTEXT else 0 : position + CONTEXT].encode())


def ranked(text: str, cuts: list[int]) -> list[int]:
    """Return the borders with the highest fingerprint first, of equal ones the last first."""
    if len(cuts) == 1:
        return cuts
    beside, crc32 = CONTEXT, zlib.crc32  # `fingerprint`, written out: it is asked for every border in reach
    prints = [(crc32(text[cut - beside if cut > beside else 0 : cut + beside].encode()), cut) for cut in cuts]
    prints.sort(reverse=True)
    return [cut for _, cut in prints]


def ranked_graphemes(text: str, inside: bytearray, start: int, end: int) -> list[int]:
    """Return the borders of graphemes in (start, end], in an order that the characters beside each one decide.

    There may be thousands: the fingerprint is a polynomial over `2 * _NEAR` characters, for all of them at once.
    """
    cuts = np.arange(start + 1, end + 1)
    cuts = cuts[np.frombuffer(inside, dtype=np.uint8)[start + 1 : end + 1] == 0]
    if not len(cuts):
        return []
    begin = max(0, start + 1 - _NEAR)
    near = text[begin : end + _NEAR].encode("utf-32-le")
    padding = start + 1 - _NEAR - begin
    points = np.pad(np.frombuffer(near, dtype=np.uint32), (-padding, 2 * _NEAR))
    prints = np.zeros(end - start, dtype=np.uint32)
    for offset in range(2 * _NEAR):
        prints = (prints + points[offset : offset + end - start]) * _MULTIPLIER
    keys = prints[cuts - start - 1]
    return [int(cut) for cut in cuts[np.lexsort((cuts, keys))][::-1]]


def inside_graphemes(text: str) -> bytearray:
    """Return a flag per position of `text` (and its end): 1 where a cut would part an extended grapheme cluster."""
    inside = bytearray(len(text) + 1)
    pair = text.find("\r\n") if "\r" in text else -1
    while pair >= 0:
        inside[pair + 1] = 1
        pair = text.find("\r\n", pair + 2)
    if text.isascii() or not _MAY_JOIN.search(text):
        return inside
    reached = 0
    for run in _JOINING.finditer(text):
        if run.end() <= reached:
            continue
        # The neighbours of a run belong to it: a base before its marks, a character behind a prepended one.
        for start, end in _clusters(text, max(reached, run.start() - 1), min(len(text), run.end() + 1)):
            for position in range(start + 1, end):
                inside[position] = 1
        reached = run.end()
    return inside


def _clusters(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the graphemes of [start, end), which begins with one.

    `\\X` looks back to the start of a row of flags for each of them: blocks keep that from growing with the row.
    """
    size = _BLOCK
    while start < end:
        stop = min(start + size, end)
        found = [match.span() for match in _GRAPHEME.finditer(text[start:stop])]
        if stop < end:
            found.pop()  # it may go on behind the block
        yield from ((start + low, start + high) for low, high in found)
        start += found[-1][1] if found else 0
        size = _BLOCK if found else 2 * size
