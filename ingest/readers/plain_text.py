"""Plain text: the file's decoded text as one section."""

from ingest.readers.decoding import decode
from ingest.readers.sections import whole
from ingest.types import Document

NAME = "text"
VERSION = 2


def read(data: bytes, content_type: str) -> Document:
    """Read a plain text. Raises Rejected `encoding` or `limit`."""
    decoded = decode(data)
    return Document(
        text=decoded.text,
        sections=whole(decoded.text),
        content_type=content_type,
        metadata=decoded.metadata,
        reader=f"{NAME}-{VERSION}",
    )
