"""Where a text may be cut, from the strongest kind of border to the weakest (pure)."""

import re
import zlib
from typing import Final

import regex

PARAGRAPH: Final = re.compile(r"\n(?:[ \t\r]*\n)+")
"""Behind blank lines; the indent of the next line stays with it."""

SENTENCE: Final = re.compile(
    r"[\n.!?。！？；…｡]"
    r"(?:(?<=\n)"  # a line
    r"|(?<=[.!?…])(?<!\s\d[.])(?<!\s\d\d[.])(?<![\s.][A-Z][.])[.!?…]*[\"'”’»)\]]*(?:[ \t]+\n?|\r?\n)(?![a-z])"
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
_GRAPHEME: Final = regex.compile(r"\X")

CONTEXT: Final = 16
"""Characters on either side by which a border is known again after an edit elsewhere."""


def within(kind: re.Pattern[str], text: str, start: int, end: int) -> list[int]:
    """Return the borders of one kind in (start, end], rising."""
    return [at for match in kind.finditer(text, start, end + 1) if start < (at := match.end()) <= end]


def fingerprint(text: str, position: int) -> int:
    """Return a number that depends on nothing but the characters beside the border: the same wherever they stand."""
    return zlib.crc32(text[position - CONTEXT if position > CONTEXT else 0 : position + CONTEXT].encode())


def inside_graphemes(text: str) -> bytearray:
    """Return a flag per position of `text` (and its end): 1 where a cut would part an extended grapheme cluster."""
    inside = bytearray(len(text) + 1)
    pair = text.find("\r\n")
    while pair >= 0:
        inside[pair + 1] = 1
        pair = text.find("\r\n", pair + 2)
    if text.isascii():
        return inside
    reached = 0
    for run in _JOINING.finditer(text):
        if run.end() <= reached:
            continue
        # The neighbours of a run belong to it: a base before its marks, a character behind a prepended one.
        for cluster in _GRAPHEME.finditer(text, max(reached, run.start() - 1), min(len(text), run.end() + 1)):
            for position in range(cluster.start() + 1, cluster.end()):
                inside[position] = 1
        reached = run.end()
    return inside
