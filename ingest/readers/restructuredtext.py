"""reStructuredText: the file's decoded text; sections from its underlined and overlined titles.

Levels follow the order in which the styles of adornment appear, as docutils has it
(https://docutils.sourceforge.io/docs/ref/rst/restructuredtext.html#sections).
"""

import re
from collections.abc import Iterator

from ingest.readers.decoding import decode
from ingest.readers.sections import Heading, by_headings, first_heading
from ingest.types import Document

NAME = "rst"
VERSION = 2

_LINE = re.compile(r"[^\n\r]*(?:\r\n|\n|\r)?")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*$")
_SHORTEST = 4  # docutils takes a shorter underline only where it is as long as the title
_ROLE = re.compile(r":[\w.+-]+:(?=`)")
_TARGET = re.compile(r"\s*<[^<>`]*>(?=`)")
_REFERENCE = re.compile(r"(`|(?<!\w)[^\W_][\w.-]*?)__?(?!\w)")
_MARKS = re.compile(r"`{1,2}|(?<!\w)\*{1,2}(?=\S)|(?<=\S)\*{1,2}(?!\w)")
_HEADING_LENGTH = 1_000


def read(data: bytes, content_type: str) -> Document:
    """Read reStructuredText; the title is the first heading. Raises Rejected `encoding` or `limit`."""
    decoded = decode(data)
    text = decoded.text
    headings = list(headings_of(text))
    return Document(
        text=text,
        sections=by_headings(text, headings),
        content_type=content_type,
        title=first_heading(headings),
        metadata=decoded.metadata,
        reader=f"{NAME}-{VERSION}",
    )


def headings_of(text: str) -> Iterator[Heading]:
    """Find the section titles, in order."""
    lines = [(found.start(), found[0].rstrip()) for found in _LINE.finditer(text)]
    levels: dict[tuple[str, bool], int] = {}
    number = 0
    while number < len(lines) - 1:
        overlined = _is_title(lines, number + 1, overlined=True)
        if overlined or _is_title(lines, number, overlined=False):
            title = lines[number + overlined][1]
            style = (lines[number + overlined + 1][1][0], overlined)
            level = levels.setdefault(style, len(levels) + 1)
            yield Heading(lines[number][0], level, plain(title))
            number += 2 + overlined
        else:
            number += 1


def plain(title: str) -> str:
    """Return a title's inline markup as plain text."""
    title = _TARGET.sub("", _ROLE.sub("", title[:_HEADING_LENGTH]))
    return " ".join(_MARKS.sub("", _REFERENCE.sub(r"\1", title)).split())


def _is_title(lines: list[tuple[int, str]], number: int, *, overlined: bool) -> bool:
    """Whether line `number` is a title: underlined, with a blank line or its overline before it."""
    if number + 1 >= len(lines):
        return False
    title, underline = lines[number][1], lines[number + 1][1]
    before = lines[number - 1][1] if number else ""
    if not title.strip() or not _ADORNMENT.match(underline):
        return False
    if len(underline) < min(len(title.strip()), _SHORTEST):
        return False
    if overlined:
        blank_before = number < 2 or not lines[number - 2][1]
        return blank_before and before == underline and not _ADORNMENT.match(title)
    return not before and not title[0].isspace() and not _ADORNMENT.match(title)
