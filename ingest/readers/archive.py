"""ZIP containers (DOCX, PPTX, XLSX, ODT, EPUB), opened in memory and with bounds.

What a container says of itself is checked before a byte is inflated, and held to while inflating. Nothing is ever
written to disk, and a member's name is nothing but a key.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ingest.errors import Rejected

MAX_MEMBERS: Final = 10_000
MAX_MEMBER_BYTES: Final = 200 * 1024 * 1024
"""Most bytes of one inflated member."""
MAX_TOTAL_BYTES: Final = 300 * 1024 * 1024
"""Most bytes that are inflated for one document, members that are not read (pictures) left out."""
MAX_RATIO: Final = 200
"""Most bytes that a byte may inflate to, for members above RATIO_FROM; office documents stay below 60, DEFLATE reaches
1,032."""
RATIO_FROM: Final = 8 * 1024 * 1024

_ENTRY_MARK: Final = b"PK\x01\x02"
_SCRAMBLED: Final = 0x1
# What OPC, ODF and EPUB allow. An LZMA member could ask for 4 GB before it gives a byte.
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".emf", ".wmf", ".webp", ".tif", ".tiff", ".bmp")


@contextmanager
def reading(kind: str) -> Iterator[None]:
    """Turn whatever a library throws on the bytes of a document into a Rejected: `damaged`, or `limit` for what does
    not fit into memory or on the stack. `kind` is what people call the document.
    """
    try:
        yield
    except (Rejected, ImportError):  # a library that is missing says nothing of the document
        raise
    except (MemoryError, RecursionError) as error:
        raise Rejected("limit", f"this {kind} asks for more memory or nesting than a document may") from error
    except Exception as error:  # libraries let errors of every kind through on damaged files
        raise Rejected("damaged", f"not a readable {kind} ({type(error).__name__})") from error


class Archive:
    """A ZIP container in memory. Of two members with one name the last one counts, as everywhere."""

    def __init__(self, data: bytes, kind: str = "ZIP container") -> None:
        """Read the table of contents. Raises Rejected `damaged` or `limit`."""
        self._kind = kind
        self._inflated = 0
        if data.count(_ENTRY_MARK) > MAX_MEMBERS:
            raise Rejected("limit", f"more than {MAX_MEMBERS:,} files in it")
        with reading(kind):
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            self._members = {member.filename: member for member in self._zip.infolist()}

    def __contains__(self, name: object) -> bool:
        return name in self._members

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, in the order of the table of contents."""
        return tuple(self._members)

    def without_text(self) -> Rejected:
        """Return what is to be said of a document in which there is no text."""
        if any(name.lower().endswith(_PICTURES) and "humbnail" not in name for name in self._members):
            return Rejected("no_text", "it has pictures but no text")
        return Rejected("empty", "there is no text in it")

    def read(self, name: str, limit: int = MAX_MEMBER_BYTES) -> bytes:
        """Inflate a member.

        Raises Rejected `limit` where it, or all that was read so far, is too large; `password` where it is encrypted;
        `damaged` where it is missing, cut off or does not have its checksum.
        """
        member = self._members.get(name)
        if member is None:
            raise Rejected("damaged", f"not a readable {self._kind}: it lacks a part that every one has")
        if member.flag_bits & _SCRAMBLED:
            raise Rejected("password", "its contents are encrypted; save a copy without a password")
        if member.compress_type not in _METHODS:
            raise Rejected("damaged", f"compressed in a way that no {self._kind} is")
        size = member.file_size
        if size > limit or (size > RATIO_FROM and size > MAX_RATIO * max(member.compress_size, 1)):
            raise Rejected("limit", f"a part of it inflates to {size:,} bytes")
        self._inflated += size
        if self._inflated > MAX_TOTAL_BYTES:
            raise Rejected("limit", f"it inflates to more than {MAX_TOTAL_BYTES:,} bytes")
        with reading(self._kind), self._zip.open(member) as stream:
            content = stream.read(size + 1)  # zipfile gives no more than the table says, whatever is packed
            if len(content) != size:
                raise Rejected("damaged", "a part of it is cut off")
            return content
