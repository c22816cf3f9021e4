"""XML in containers: no document type, no entity, nothing fetched, and no more elements than memory has room for."""

import re
from typing import Final
from xml.etree.ElementTree import Element

from ingest.errors import Rejected
from ingest.readers.archive import reading

MAX_TAGS: Final = 4_000_000
"""Most tags of a part that becomes a tree: about 1 GB of nodes, and ten times the tags of a book's chapters."""

MAX_STREAMED_TAGS: Final = 3 * MAX_TAGS
"""Most tags of a part that is read row by row."""

_ENCODING: Final = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})[\"'][^>]{0,200}\?>")
_DECLARATION: Final = re.compile(r"\s*<\?xml[^>]{0,400}\?>")
# Encodings in which ASCII is ASCII, so that a document type can't hide.
_TRANSPARENT: Final = re.compile(rb"utf-?8|us-ascii|ascii|iso-8859-\d{1,2}|latin1|windows-125\d", re.IGNORECASE)
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_DOCUMENT_TYPE: Final = b"<!DOCTYPE"


def plain(xml: bytes, kind: str) -> bytes:
    """Return XML that any parser may be given: in an encoding that can't hide anything, and without a document type,
    so that there is no entity to expand or to fetch.

    Raises Rejected `damaged` for other XML.
    """
    if xml.startswith(_UTF16_MARKS):
        with reading(kind):
            xml = _DECLARATION.sub("", xml.decode("utf-16"), count=1).encode()
    beginning = xml[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    declared = _ENCODING.match(beginning)
    # What begins otherwise may be EBCDIC or UTF-32, which a parser tells by the first bytes.
    if beginning[:1] not in (b"<", b"") or b"\0" in beginning or (declared and not _TRANSPARENT.fullmatch(declared[1])):
        raise Rejected("damaged", f"its XML is in an encoding that no {kind} is in")
    if _DOCUMENT_TYPE in xml:
        raise Rejected("damaged", f"its XML declares a document type, which no {kind} does; it is not read")
    return xml


def tree(xml: bytes, kind: str, *, document_type: bool = False) -> Element:
    """Parse XML. A document type is refused unless `document_type`, entities and external parts always.

    Raises Rejected `damaged`, or `limit` for more than MAX_TAGS.
    """
    from defusedxml.ElementTree import fromstring

    require_few_tags(xml)
    with reading(kind):
        root: Element = fromstring(xml, forbid_dtd=not document_type)
        return root


def require_few_tags(xml: bytes, limit: int = MAX_TAGS, before: int = 0) -> int:
    """Return the tags of XML and of what came `before` it. Raises Rejected `limit` for more than that."""
    if (tags := before + xml.count(b"<")) > limit:
        raise Rejected("limit", f"{tags:,} XML tags, the limit is {limit:,}")
    return tags
