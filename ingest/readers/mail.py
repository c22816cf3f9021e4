"""Mail: one message (EML) or many (mbox), as a person reads them: a short head, the words, what is attached.

Of alternatives the plain one is taken, the HTML one where the plain one is a stub; what else there is of them (a
calendar's entry) repeats them. Attachments of a kind that has a
reader are read with it and stand under their name; the others are named. Nothing is fetched. Formats: RFC 5322 and
2045 to 2049; mbox as in RFC 4155, with `>From ` for a line of the text that begins so.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.header import decode_header
from email.message import Message
from email.utils import parsedate_to_datetime

from ingest.errors import Rejected
from ingest.readers import hypertext
from ingest.readers.decoding import MAX_CHARACTERS, clean, decode
from ingest.readers.flow import LINE, Flow
from ingest.readers.sections import Heading
from ingest.types import Document

NAME = "mail"
VERSION = 1

MBOX = "application/mbox"

MAX_MESSAGES = 50_000
MAX_PARTS = 100_000
"""Parts of all messages of a document together."""
_MAX_NESTING = 8
_MAX_OPEN = 50
"""Multiparts, one in another. The parser's time grows with them for every line: 5 s for 2 MB here."""
_BOUNDARY = re.compile(
    rb"\bboundary[*\d]*[ \t]*=[ \t]*\"?([^\"\s;]{1,200})|^--([^\r\n]{1,200})--[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)
_MAX_LISTED = 20
_STUB = 3
"""A plain alternative with fewer than a third of the letters of the HTML one only says that there is another."""

_HEAD = ("Subject", "From", "To", "Cc", "Date")
_HEADER_LENGTH = 2_000
# The parser's time grows with the square of a field's parameters: 0.05 s here, an hour for 20 MB.
_MAX_FIELD = 65_536
_FIELD = re.compile(rb"^content-[\w-]{1,40}:[^\n]*(?:\n[ \t][^\n]*)*", re.IGNORECASE | re.MULTILINE)
_SEPARATOR = re.compile(
    rb"(?:\A|(?<=\n\n)|(?<=\n\r\n))From [^\r\n]{1,300}\d{4}[^\r\n]{0,40}\r?\n(?=[!-9;-~]{1,100}:|>From )"
)
_ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)
_SIGNATURES = frozenset(("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"))
_SEALED = frozenset(("application/pkcs7-mime", "application/x-pkcs7-mime"))
_PGP = b"-----BEGIN PGP MESSAGE-----"

Reader = Callable[[str, bytes], Document]
"""Reads an attachment by its name and bytes; raises Rejected."""


def read(data: bytes, content_type: str, attached: Reader | None = None) -> Document:
    """Read a mail, or the mails of an mbox; `attached` reads attachments. The title is the only message's subject.

    Raises Rejected `password` where all there is to read is encrypted, `no_text`, `encoding`, or `limit` (MAX_MESSAGES,
    MAX_PARTS, MAX_CHARACTERS).
    """
    data = _as_bytes(data)
    messages = _split(data) if content_type == MBOX else [data]
    many = len(messages) > 1
    reading = _Reading(attached)
    for number, raw in enumerate(messages, start=1):
        message = _parse(raw)
        if many:
            reading.flow.mark({"message": number})
        elif content_type != MBOX or number == 1:
            reading.metadata.update(_about(message))
        reading.message(message, 1)
    if not reading.words and reading.refused is not None:
        raise reading.refused
    if many:
        reading.metadata["messages"] = len(messages)
    return reading.document(content_type, "" if many else _header(_parse_head(messages[0]), "Subject"))


def _as_bytes(data: bytes) -> bytes:
    """Return a mail that was saved as UTF-16 or UTF-32 in the encoding that mails are parsed in."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or b"\0" in data[:8]:
        return decode(data).text.encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def _split(data: bytes) -> list[bytes]:
    """Cut an mbox at its `From ` lines; what has none is one message."""
    found = list(_SEPARATOR.finditer(data))
    if len(found) > MAX_MESSAGES:
        raise Rejected("limit", f"{len(found):,} messages, the limit is {MAX_MESSAGES:,}; split the mailbox")
    if not found:
        return [data]
    ends = [separator.start() for separator in found[1:]] + [len(data)]
    bodies = (data[separator.end() : end] for separator, end in zip(found, ends, strict=True))
    return [_ESCAPED.sub(rb"\1", body) for body in bodies]


def _parse(raw: bytes) -> Message:
    if any(found.end() - found.start() > _MAX_FIELD for found in _FIELD.finditer(raw)):
        raise Rejected("limit", f"a field of its head has more than {_MAX_FIELD:,} bytes")
    _require_shallow(raw)
    try:
        return message_from_bytes(raw)
    except RecursionError as error:
        raise Rejected("limit", "its parts are nested too deeply") from error


def _require_shallow(raw: bytes) -> None:
    """Raise Rejected `limit` for more than _MAX_OPEN multiparts that are declared and not ended."""
    left_open: set[bytes] = set()
    for declared, ended in _BOUNDARY.findall(raw):
        if declared:
            left_open.add(declared)
        left_open.discard(ended)
        if len(left_open) > _MAX_OPEN:
            raise Rejected("limit", f"more than {_MAX_OPEN} parts, one in another")


def _parse_head(raw: bytes) -> Message:
    head = re.split(rb"\r?\n\r?\n", raw, maxsplit=1)[0]
    return message_from_bytes(head + b"\n\n")


def _about(message: Message) -> dict[str, str | int | float | bool]:
    """Return what people filter mails by: sender, addressees and the time (ISO 8601), as far as they are given."""
    about: dict[str, str | int | float | bool] = {}
    for key in ("From", "To"):
        if value := _header(message, key):
            about[key.lower()] = value[:300]
    with contextlib.suppress(TypeError, ValueError, IndexError, OverflowError):
        about["date"] = parsedate_to_datetime(_header(message, "Date")).isoformat()
    return about


def _header(message: Message, name: str) -> str:
    """Return a header's words, decoded (RFC 2047) and on one line; empty where there is none."""
    raw = message.get(name)
    if raw is None:
        return ""
    try:
        pieces = decode_header(str(raw)[:_HEADER_LENGTH] if isinstance(raw, str) else raw)
    except Exception:  # noqa: BLE001 - the library lets errors of several kinds through on broken encoded words
        return " ".join(clean(str(raw)[:_HEADER_LENGTH]).split())
    words = "".join(piece if isinstance(piece, str) else _word(piece, charset) for piece, charset in pieces)
    return " ".join(clean(words[:_HEADER_LENGTH]).split())


def _word(raw: bytes, charset: str | None) -> str:
    try:
        return decode(raw, charset or "").text
    except Rejected:
        return raw.decode("ascii", "replace")


@dataclass
class _Reading:
    """The document so far."""

    attached: Reader | None
    flow: Flow = field(default_factory=Flow)
    metadata: dict[str, str | int | float | bool] = field(default_factory=dict)
    words: bool = False
    """Whether a body or an attachment had any."""
    refused: Rejected | None = None
    """Why a body could not be read; said of the document where nothing else could."""
    _parts: int = 0
    _listed: list[str] = field(default_factory=list)
    _repaired: int = 0
    _encrypted: int = 0

    def document(self, content_type: str, title: str) -> Document:
        """Return what was read. Raises Rejected `no_text` or `limit`."""
        if not self.flow.length:
            raise Rejected("empty", "neither head nor words")
        if self._listed:
            self.metadata["attachments"] = ", ".join(self._listed[:_MAX_LISTED])[:1_000]
        if self._encrypted:
            self.metadata["encrypted_parts"] = self._encrypted
        if self._repaired:
            self.metadata["repaired"] = "mojibake"
            self.metadata["repaired_places"] = self._repaired
        return Document(
            text=self.flow.text,
            sections=self.flow.sections(),
            content_type=content_type,
            title=title[:300],
            metadata=self.metadata,
            reader=f"{NAME}-{VERSION}",
            marks=tuple(self.flow.marks),
        )

    def message(self, message: Message, level: int) -> None:
        """Add a message: its head, its words, its attachments."""
        subject = _header(message, "Subject")
        start = self.flow.next_start
        lines = [f"{name}: {value}" for name in _HEAD if (value := _header(message, name))]
        names = [_name(part) for part in _attachments(message)]
        if names:
            lines.append(f"Attachments: {', '.join(names)}")
            self._listed += [name for name in names if level == 1]
        if self.flow.add(LINE.join(lines)):
            self.flow.headings.append(Heading(start, level, subject))
        else:
            self.flow.headings.append(Heading(start, level, ""))
        self._part(message, level)

    def _part(self, part: Message, level: int) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Rejected("limit", f"more than {MAX_PARTS:,} parts")
        kind = part.get_content_type()
        if kind == "multipart/encrypted" or kind in _SEALED:
            self._refuse_sealed(kind)
        elif kind == "message/rfc822":
            self._nested(part, level)
        elif part.is_multipart():
            for inner in _chosen(part, kind):
                self._part(inner, level)
        elif kind not in _SIGNATURES:
            self._leaf(part, kind, level)

    def _nested(self, part: Message, level: int) -> None:
        for inner in _inner(part):
            if level < _MAX_NESTING:
                self.message(inner, level + 1)

    def _leaf(self, part: Message, kind: str, level: int) -> None:
        name = _name(part)
        if not name and kind not in ("text/plain", "text/html"):
            return
        data = _payload(part)
        if data.lstrip().startswith(_PGP):
            self._refuse_sealed("PGP")
            return
        try:
            if name:
                self._attachment(name, kind, data, level)
            else:
                self._text(data, kind, part.get_content_charset() or "")
        except Rejected as rejected:
            if self.flow.length > MAX_CHARACTERS:
                raise
            if not name:  # an attachment that can't be read stays a name
                self.refused = self.refused or rejected

    def _text(self, data: bytes, kind: str, charset: str) -> None:
        decoded = decode(data, charset)
        self._repaired += decoded.repaired
        text = hypertext.render(decoded.text).text if kind == "text/html" else decoded.text
        self.words = self.flow.add(text) or self.words

    def _attachment(self, name: str, kind: str, data: bytes, level: int) -> None:
        """Add what a reader makes of an attachment, below its name; one that no reader is there for stays a name."""
        if self.attached is None:
            return
        try:
            document = self.attached(name, data)
        except Rejected as rejected:
            if rejected.reason != "unsupported" or not kind.startswith("text/"):
                raise
            document = self.attached("attachment.html" if kind == "text/html" else "attachment.txt", data)
        self.flow.heading(level + 1, name)
        start = self.flow.next_start
        text = document.text.lstrip()
        if self.flow.add(text):
            self.words = True
            skipped = len(document.text) - len(text)
            self._sections(document, start - skipped, level + 1)

    def _sections(self, document: Document, offset: int, level: int) -> None:
        """Open the attachment's sections here, below its name."""
        for section in document.sections:
            for depth, title in enumerate(section.heading_path[-1:], start=len(section.heading_path)):
                self.flow.headings.append(Heading(offset + section.start, level + depth, title))

    def _refuse_sealed(self, kind: str) -> None:
        how = "S/MIME" if "pkcs7" in kind else "PGP"
        self._encrypted += 1
        self.refused = self.refused or Rejected(
            "password", f"the mail is encrypted ({how}): only its owner's key opens it; save a decrypted copy"
        )


def _chosen(part: Message, kind: str) -> list[Message]:
    """Return the parts of a multipart to be read: all, or one alternative and what is attached in the other."""
    parts = _inner(part)
    if kind != "multipart/alternative":
        return parts
    plain = next((inner for inner in parts if inner.get_content_type() == "text/plain"), None)
    rich = next((inner for inner in reversed(parts) if _is_page(inner)), None)
    if plain is None or rich is None:
        return [inner for inner in (plain or rich,) if inner]
    return [rich] if _letters(plain) * _STUB < _letters(rich) else [plain, *_attachments(rich)]


def _is_page(part: Message) -> bool:
    """Whether an alternative is HTML, alone or with what it shows. Others are for programs, as a calendar's entry."""
    return part.is_multipart() or part.get_content_type() == "text/html"


def _letters(part: Message) -> int:
    """Roughly count what there is to read in a part and in the first texts of those below it."""
    if part.is_multipart():
        return max((_letters(inner) for inner in _inner(part)[:4] if not inner.is_multipart()), default=0)
    data = _payload(part)
    if part.get_content_type() == "text/html":
        try:
            return len(hypertext.render(data.decode("utf-8", "replace")).text)
        except Rejected:
            return 0
    return len(data) if part.get_content_maintype() == "text" else 0


def _attachments(message: Message) -> Iterator[Message]:
    """Yield the parts of a message that have a name, without those of messages inside it."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        if part.get_content_type() == "message/rfc822" or not part.is_multipart():
            if part is not message and _name(part):
                yield part
        else:
            waiting += reversed(_inner(part))


def _name(part: Message) -> str:
    """Return an attachment's file name on one line, one of ours for want of one; empty for a part that is a body."""
    try:
        name = part.get_filename()
    except Exception:  # noqa: BLE001 - as in `_header`
        name = None
    kind = part.get_content_type()
    if not name and part.get_content_disposition() == "attachment" and not kind.startswith("message/"):
        name = "attachment.html" if kind == "text/html" else "attachment"
    if not name:
        return ""
    mime = Message()
    mime["Name"] = str(name)[:300]
    return _header(mime, "Name").replace("/", "_")


def _payload(part: Message) -> bytes:
    try:
        payload = part.get_payload(decode=True)
    except Exception:  # noqa: BLE001 - as in `_header`
        return b""
    return payload if isinstance(payload, bytes) else b""


def _inner(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []
