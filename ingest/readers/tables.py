"""CSV and TSV: the file's decoded text as one section.

The text is kept as it stands, whatever its delimiter and quotes: a citation shows the line that is in the file.
"""

from dataclasses import replace

from ingest.readers import plain_text
from ingest.types import Document

NAME = "table"
VERSION = 2


def read(data: bytes, content_type: str) -> Document:
    """Read a table. Raises Rejected `encoding` or `limit`."""
    return replace(plain_text.read(data, content_type), reader=f"{NAME}-{VERSION}")
