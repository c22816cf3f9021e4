"""What every document must be, and how a test reads one."""

from ingest.errors import Rejected
from ingest.readers.registry import read
from ingest.types import Document


def check(document: Document) -> Document:
    """Assert what ingest.types promises: valid text, sections over all of it, rising marks inside, a named reader."""
    text = document.text
    assert text
    assert "\0" not in text
    text.encode("utf-8")
    assert document.sections[0].start == 0
    assert document.sections[-1].end == len(text)
    for before, after in zip(document.sections, document.sections[1:], strict=False):
        assert before.end == after.start
    for section in document.sections:
        assert section.start < section.end
        assert all(heading.strip() for heading in section.heading_path)
    starts = [mark.start for mark in document.marks]
    assert starts == sorted(set(starts))
    assert all(0 <= start < len(text) for start in starts)
    assert all(mark.position for mark in document.marks)
    assert document.reader.rpartition("-")[2].isdigit()
    document.title.encode("utf-8")
    return document


def read_text(path: str, text: str) -> Document:
    """Read a text given as str, checked."""
    return check(read(path, text.encode()))


def reason_of(path: str, data: bytes) -> str:
    """Return the reason of the rejection, or "" for a document, checked."""
    try:
        check(read(path, data))
    except Rejected as rejected:
        return rejected.reason
    return ""


def outline(document: Document) -> list[tuple[tuple[str, ...], str]]:
    """Return each section's heading path and the beginning of its text."""
    return [(section.heading_path, document.text[section.start : section.end][:12]) for section in document.sections]
