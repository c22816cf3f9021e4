"""Source code: the file's decoded text; Python's top-level definitions open sections."""

import re
from collections.abc import Iterator

from ingest.readers.decoding import decode
from ingest.readers.sections import Heading, by_headings, whole
from ingest.types import Document

NAME = "code"
VERSION = 2

# A definition without indentation, with its decorators. In a multi-line string it opens a section too: harmless.
# Decorators without a definition match as well, so that the search steps over them once.
_DEFINITION = re.compile(r"^(?:@[^\n]*\n)*+(?P<head>(?:async +)?(?:def|class) +\w+)?", re.MULTILINE)


def read(data: bytes, content_type: str) -> Document:
    """Read source code. Raises Rejected `encoding` or `limit`."""
    decoded = decode(data)
    text = decoded.text
    sections = by_headings(text, _definitions(text)) if content_type == "text/x-python" else whole(text)
    return Document(
        text=text,
        sections=sections,
        content_type=content_type,
        metadata=decoded.metadata,
        reader=f"{NAME}-{VERSION}",
    )


def _definitions(text: str) -> Iterator[Heading]:
    for found in _DEFINITION.finditer(text):
        if found["head"]:
            yield Heading(found.start(), 1, " ".join(found["head"].split()))
