"""Headings to sections: contiguous, from the first character to the last."""

from collections.abc import Iterable
from dataclasses import dataclass

from ingest.errors import Rejected
from ingest.types import Section

MAX_SECTIONS = 100_000
_HEADING_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading as a reader found it."""

    start: int
    """Where its section opens, in characters."""
    level: int
    """1 is the outermost."""
    text: str
    """Plain text; may be empty."""


def whole(text: str) -> tuple[Section, ...]:
    """Return one section that covers the text."""
    return (Section(0, len(text)),)


def by_headings(text: str, headings: Iterable[Heading]) -> tuple[Section, ...]:
    """Cut the text at its headings, which come in the order of the text.

    What stands before the first one is a section without a heading. A heading without text opens a section but adds
    nothing to the heading path. Raises Rejected `limit` for more than MAX_SECTIONS.
    """
    sections: list[Section] = []
    open_headings: list[Heading] = []
    start = 0
    for heading in headings:
        if heading.start > start:
            sections.append(Section(start, heading.start, _path(open_headings)))
            start = heading.start
        open_headings = [outer for outer in open_headings if outer.level < heading.level]
        open_headings.append(heading)
        if len(sections) >= MAX_SECTIONS:
            raise Rejected("limit", f"more than {MAX_SECTIONS:,} headings")
    if len(text) > start:
        sections.append(Section(start, len(text), _path(open_headings)))
    return tuple(sections)


def first_heading(headings: Iterable[Heading]) -> str:
    """Return the first heading's text, for want of a title."""
    return next((heading.text for heading in headings if heading.text), "")[:_HEADING_LENGTH]


def _path(headings: list[Heading]) -> tuple[str, ...]:
    return tuple(heading.text[:_HEADING_LENGTH] for heading in headings if heading.text)
