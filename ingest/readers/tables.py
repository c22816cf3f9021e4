"""CSV and TSV: the file's decoded text as one section.

The text is kept as it stands, whatever its delimiter and quotes: a citation shows the line that is in the file.
"""

from ingest.readers.decoding import decode
from ingest.readers.sections import whole
from ingest.types import Document

NAME = "table"
VERSION = 1


def read(data: bytes, content_type: str) -> Document:
    """Read a table. Raises Rejected `encoding` or `limit`."""
    decoded = decode(data)
    return Document(
        text=decoded.text,
        sections=whole(decoded.text),
        content_type=content_type,
        metadata=decoded.metadata,
        reader=f"{NAME}-{VERSION}",
    )
