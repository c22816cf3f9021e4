"""From a file's name and bytes to a Document: the table of readers, and what is asked of every one of them."""

import hashlib
from pathlib import PurePosixPath
from types import ModuleType

from ingest.errors import NotGiven, Rejected
from ingest.readers import (
    containers,
    epub,
    hypertext,
    json_text,
    mail,
    markdown,
    notebook,
    opendocument,
    org,
    pdf,
    plain_text,
    restructuredtext,
    rich_text,
    slides,
    source_code,
    tables,
    word,
    workbook,
    xml_text,
)
from ingest.readers.content_types import (
    BY_SUFFIX,
    HTML,
    MAIL,
    MBOX,
    NOTEBOOK,
    OLE2,
    ORG,
    PDF,
    RTF,
    XML,
    ZIP,
    is_hopeless,
    named,
    signature,
    sniff,
    suffix_of,
)
from ingest.readers.decoding import MAX_CHARACTERS, has_words
from ingest.types import Document, RejectionReason

_READERS: dict[str, ModuleType] = {
    PDF: pdf,
    HTML: hypertext,
    "text/markdown": markdown,
    "text/plain": plain_text,
    "text/x-rst": restructuredtext,
    "text/csv": tables,
    "text/tab-separated-values": tables,
    "application/json": json_text,
    "application/x-ndjson": json_text,
    MAIL: mail,
    MBOX: mail,
    NOTEBOOK: notebook,
    ORG: org,
    RTF: rich_text,
    XML: xml_text,
    containers.DOCX: word,
    containers.PPTX: slides,
    containers.XLSX: workbook,
    containers.ODT: opendocument,
    containers.ODP: opendocument,
    containers.ODS: opendocument,
    containers.EPUB: epub,
}
"""Every other type that `sniff` knows is source code."""
_TOLD_BY_BYTES = frozenset(
    module.NAME for module in (epub, mail, opendocument, pdf, rich_text, slides, word, workbook, xml_text)
)
"""Readers of what is told by its bytes, under names of other kinds too."""
_MOST_IN_MAIL = 3  # a mail attached as a file to a mail, and so on
_VERSIONS = {module.NAME: str(module.VERSION) for module in (*_READERS.values(), source_code)}
_SNIFFING = 1  # to be raised with whatever changes what `sniff` or `read` reject and no reader's version tells
_RULES = (_SNIFFING, MAX_CHARACTERS, sorted(_VERSIONS.items()), sorted(_READERS), sorted(BY_SUFFIX.items()))
FINGERPRINT = hashlib.sha256(repr(_RULES).encode()).hexdigest()[:16]
"""Changes with the readers: a file that they rejected under another one is read again."""
START = 64 * 1024
"""Bytes that `refuse_by_start` looks at."""


def read(path: str, data: bytes) -> Document:
    """Read a file's bytes; `path` is its name, and nothing is opened there.

    The document has text, at most MAX_CHARACTERS of it, and contiguous sections over all of it. Raises Rejected with
    the contract's reason, and nothing else: whatever a reader stumbles over is a `crash`.
    """
    return _read(path, data, 0)


def _read(path: str, data: bytes, depth: int) -> Document:
    """Read a file that lies `depth` mails deep."""
    if not data:
        raise Rejected("empty", "0 bytes")
    content_type = sniff(path, data)
    if content_type is None:
        raise Rejected("unsupported", _kind(path, data))
    try:
        document = _made(content_type, data, depth)
        words = has_words(document.text)
    except Rejected:
        raise
    except ImportError as error:  # the installation is at fault and not the file, which is to be tried again
        raise NotGiven("crash", f"the reader lacks a library ({type(error).__name__})") from error
    except Exception as error:  # the reason must not carry the document's text, so the error's name has to do
        raise Rejected("crash", f"the reader failed ({type(error).__name__})") from error
    if not words:
        reason: RejectionReason = "no_text" if content_type == PDF else "empty"
        raise Rejected(reason, "nothing but white space and control characters")
    if len(document.text) > MAX_CHARACTERS:
        raise Rejected("limit", f"{len(document.text):,} characters, the limit is {MAX_CHARACTERS:,}")
    return document


def _made(content_type: str, data: bytes, depth: int) -> Document:
    reader = _reader(content_type)
    if reader is mail:
        return mail.read(data, content_type, lambda name, part: _attached(name, part, depth + 1))
    document: Document = reader.read(data, content_type)
    return document


def _attached(name: str, data: bytes, depth: int) -> Document:
    if depth > _MOST_IN_MAIL:
        raise Rejected("limit", f"more than {_MOST_IN_MAIL} mails, one in another")
    return _read(name, data, depth)


def refuse_by_start(path: str, start: bytes) -> None:
    """Raise Rejected where the first START bytes of a longer file tell that `read` would find it `unsupported`."""
    if is_hopeless(path, start):
        raise Rejected("unsupported", _kind(path, start))


def is_current(path: str, reader: str) -> bool:
    """Whether a document at `path` that `reader` (name and version) made would be made by the same one today.

    Judged without the bytes: under a text's name the name decides on the reader, except for what bytes tell.
    """
    name, _, version = reader.rpartition("-")
    if _VERSIONS.get(name) != version:
        return False
    if name in _TOLD_BY_BYTES or suffix_of(path.rpartition("/")[2]).lower() == "pdf":
        return True
    content_type = named(path)
    return content_type is not None and name == _reader(content_type).NAME


def _reader(content_type: str) -> ModuleType:
    return _READERS.get(content_type, source_code)


def _kind(path: str, data: bytes) -> str:
    kind = signature(data)
    if kind == ZIP:
        return containers.describe_zip(data)
    if kind == OLE2:
        return containers.describe_ole2(data)
    if kind:
        return kind
    if named(path):
        return "binary content under the name of a text"
    suffix = PurePosixPath(path).suffix
    if suffix.lower()[1:] in ("pdf", *containers.BY_SUFFIX):
        return f"no {suffix[1:].upper()} file, whatever its name says"
    return f"no reader for {suffix} files" if suffix else "no reader for this kind of file"
