"""Emacs Org mode: the file's decoded text; its headlines open sections.

A line that begins with stars and a space is a headline wherever it stands: Org itself asks for a comma before such
lines in blocks (https://orgmode.org/worg/org-syntax.html#Headings). Keywords, drawers and tables stay in the text.
"""

import re
from collections.abc import Iterator

from ingest.readers.decoding import decode
from ingest.readers.sections import Heading, by_headings, first_heading
from ingest.types import Document

NAME = "org"
VERSION = 1

_HEADLINE = re.compile(r"^(\*+)[ \t]+([^\r\n]*)", re.MULTILINE)
_TITLE = re.compile(r"^[ \t]*#\+title:[ \t]*([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
_STATE = re.compile(r"(?:TODO|DONE|NEXT|WAITING|HOLD|CANCELL?ED|COMMENT)(?:[ \t]+|$)|\[#[A-Za-z0-9]\][ \t]*")
_TAGS = re.compile(r"[ \t]+:[\w@#%:]+:[ \t]*$")
_LINK = re.compile(r"\[\[([^\[\]]{0,2000})\](?:\[([^\[\]]{0,2000})\])?\]")
_MARKS = re.compile(r"(?<!\w)([*/_=~+])(?=\S)([^*/_=~+]*(?<=\S))\1(?!\w)")
_COOKIE = re.compile(r"[ \t]*\[(?:\d*/\d*|\d*%)\]")
_HEADLINE_LENGTH = 1_000


def read(data: bytes, content_type: str) -> Document:
    """Read Org; the title is `#+TITLE`, else the first headline. Raises Rejected `encoding` or `limit`."""
    decoded = decode(data)
    text = decoded.text
    headings = list(headings_of(text))
    return Document(
        text=text,
        sections=by_headings(text, headings),
        content_type=content_type,
        title=_title(text) or first_heading(headings),
        metadata=decoded.metadata,
        reader=f"{NAME}-{VERSION}",
    )


def headings_of(text: str) -> Iterator[Heading]:
    """Find the headlines, in order."""
    for found in _HEADLINE.finditer(text):
        yield Heading(found.start(), len(found[1]), plain(found[2]))


def plain(headline: str) -> str:
    """Return a headline without its state, priority, tags, counters and marks."""
    headline = headline[:_HEADLINE_LENGTH]
    while found := _STATE.match(headline):
        headline = headline[found.end() :]
    headline = _COOKIE.sub("", _TAGS.sub("", headline))
    headline = _LINK.sub(lambda link: link[2] or link[1], headline)
    return " ".join(_MARKS.sub(r"\2", headline).split())


def _title(text: str) -> str:
    return " ".join(plain(found[1]) for found in _TITLE.finditer(text, 0, 20_000))[:300].strip()
