"""A multipart form, taken apart while it comes in (RFC 7578). Pure: what to do with its documents is the caller's.

The push parser of the package `multipart` does the work; its errors become ours here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import multipart

from ragsvc.api.errors import BodyTooLarge, UnsupportedMediaType
from ragsvc.errors import BadRequest

MAX_FILES = 1000
FIELDS = frozenset({"collection", "metadata"})
MAX_FIELD = 65_536
"""Bytes of a field that is no document."""
_MAX_HEADER, _MAX_HEADERS = 4096, 8
_PLAIN = frozenset({"", "7bit", "8bit", "binary"})
_DOCUMENT = "file"


@dataclass(frozen=True, slots=True)
class Begin:
    """A document begins."""

    name: str
    """Its part's file name, as it was sent."""


@dataclass(frozen=True, slots=True)
class End:
    """The document has ended."""


Event = Begin | bytes | End


@dataclass(slots=True)
class Form:
    """A form under way: `feed` it the body, `close` it at the end, then look into `fields`."""

    boundary: str
    fields: dict[str, str] = field(default_factory=dict)
    files: int = 0
    _parser: multipart.PushMultipartParser = field(init=False)
    _name: str = ""
    _field: bytearray | None = None

    def __post_init__(self) -> None:
        try:
            self._parser = multipart.PushMultipartParser(
                self.boundary,
                max_header_size=_MAX_HEADER,
                max_header_count=_MAX_HEADERS,
                max_segment_count=MAX_FILES + len(FIELDS),
            )
        except multipart.MultipartError as error:
            raise BadRequest(f"the form can't be read: {error}") from None

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield what a piece of the body holds. Raises BadRequest, BodyTooLarge."""
        if not data or self._parser.closed:
            return
        try:
            for event in self._parser.parse(data):
                yield from self._taken(event)
        except multipart.ParserLimitReached as error:
            raise BodyTooLarge(f"the form is over a limit ({error}): at most {MAX_FILES:,} documents") from None
        except multipart.MultipartError as error:
            raise BadRequest(f"the form can't be read: {error.args[0]}") from None

    def close(self) -> None:
        """End the form. Raises BadRequest when it is cut off, or has no document."""
        try:
            self._parser.close()
        except multipart.MultipartError:
            raise BadRequest("the form is cut off; its last boundary is missing") from None
        if not self.files:
            raise BadRequest("the form has no document; send each as a part `file` with a file name")

    def _taken(self, event: multipart.MultipartSegment | bytes | bytearray | None) -> Iterator[Event]:
        if isinstance(event, multipart.MultipartSegment):
            yield from self._begun(event)
        elif event is None:
            yield from self._ended()
        elif self._field is None:
            yield bytes(event)
        else:
            self._field += event
            if len(self._field) > MAX_FIELD:
                raise BodyTooLarge(f"the field {self._name!r} has more than {MAX_FIELD:,} bytes")

    def _begun(self, part: multipart.MultipartSegment) -> Iterator[Event]:
        self._name = part.name or ""
        if str(part.header("Content-Transfer-Encoding", "")).strip().lower() not in _PLAIN:
            raise BadRequest("a part has a Content-Transfer-Encoding; send the bytes as they are (RFC 7578, 4.7)")
        if self._name == _DOCUMENT:
            if not part.filename:
                raise BadRequest("a part `file` has no file name; the name is the path of its document")
            self.files += 1
            yield Begin(part.filename)
        elif self._name not in FIELDS:
            raise BadRequest(f"unknown field {self._name[:100]!r}; a form has `file`, `collection` and `metadata`")
        elif part.filename is not None or self._name in self.fields:
            raise BadRequest(f"the field {self._name!r} is given twice, or as a file")
        else:
            self._field = bytearray()

    def _ended(self) -> Iterator[Event]:
        if self._field is None:
            yield End()
            return
        try:
            self.fields[self._name] = self._field.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest(f"the field {self._name!r} is not valid UTF-8") from None
        self._field = None


def boundary_of(content_type: str) -> str | None:
    """Return the boundary of a form's content type, None for a body that is no form.

    Raises BadRequest for a form without a boundary, UnsupportedMediaType for another kind of multipart body.
    """
    kind, options = multipart.parse_options_header(content_type)
    if not kind.startswith("multipart/"):
        return None
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(f"a multipart body must be multipart/form-data, not {kind[:100]!r}")
    boundary = str(options.get("boundary", ""))
    if not 1 <= len(boundary) <= 200 or not boundary.isascii():
        raise BadRequest("the content type names no boundary of 1 to 70 characters (RFC 2046, 5.1.1)")
    return boundary
