"""EPUB: the chapters in reading order (the spine), each as an HTML page; a mark says the chapter's number in it.

Format: https://www.w3.org/TR/epub-33/. Nothing is fetched; a chapter that is named twice is read once.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from ingest.errors import Rejected
from ingest.readers import hypertext, xml_parts
from ingest.readers.archive import Archive
from ingest.readers.flow import Flow
from ingest.readers.titles import authored
from ingest.types import Document

NAME = "epub"
VERSION = 1

_KIND: Final = "EPUB book"
_CONTAINER: Final = "META-INF/container.xml"
_ENCRYPTION: Final = "META-INF/encryption.xml"
# What fonts are obfuscated with; no text is. https://www.w3.org/TR/epub-33/#sec-font-obfuscation
_FONTS_ONLY: Final = frozenset(("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"))
_PAGES: Final = frozenset(("application/xhtml+xml", "text/html", "text/x-oeb1-document"))
_PAGE_BYTES: Final = 40 * 1024 * 1024
# `<title/>` and the like are XML; to an HTML parser all that follows would stand in the title.
_SELF_CLOSED: Final = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)[\s/])([a-zA-Z][\w:.-]*+)([^<>]*+)(?<=/)>"
)


def read(data: bytes, content_type: str) -> Document:
    """Read an EPUB; the title is the book's, else the first heading.

    Raises Rejected: `password` (copy protection), `damaged`, `empty`, `no_text` (pictures only), `limit`, `encoding`.
    """
    archive = Archive(data, _KIND)
    at, book = _package(archive)
    chapters = list(_spine(archive, book, posixpath.dirname(at)))
    _require_open(archive, {name for _, name in chapters})
    present = [(number, name) for number, name in chapters if name in archive]
    if chapters and not present:
        raise Rejected("damaged", "none of its chapters is in it")
    flow = Flow()
    tags = 0
    for number, name in present:
        flow.mark({"chapter": number})
        page = archive.read(name, _PAGE_BYTES)
        tags = xml_parts.require_few_tags(page, xml_parts.MAX_TAGS, tags)
        _add(flow, page)
    if not flow.length:
        raise archive.without_text()
    return Document(
        text=flow.text,
        sections=flow.sections(),
        content_type=content_type,
        title=_title(book) or flow.first_heading(),
        metadata={"chapters": len(chapters)},
        reader=f"{NAME}-{VERSION}",
        marks=tuple(flow.marks),
    )


def _add(flow: Flow, data: bytes) -> None:
    """Add a chapter with its headings."""
    page = hypertext.render(_SELF_CLOSED.sub(_closed, hypertext.decode_page(data).text))
    start = flow.next_start
    before = start - (len(page.text) - len(page.text.lstrip()))
    if flow.add(page.text):
        flow.headings += (replace(heading, start=max(start, before + heading.start)) for heading in page.headings)


def _closed(tag: re.Match[str]) -> str:
    return f"<{tag[1]}{tag[2][:-1]}></{tag[1]}>"


def _package(archive: Archive) -> tuple[str, Element]:
    """Return the name of the package document and its root."""
    container = xml_parts.tree(archive.read(_CONTAINER), _KIND)
    roots = (unquote(node.get("full-path", "")) for node in _named(container, "rootfile"))
    at = next((name for name in roots if name in archive), "")
    return at, xml_parts.tree(archive.read(at), _KIND, document_type=True)


def _spine(archive: Archive, book: Element, folder: str) -> Iterator[tuple[int, str]]:
    """Yield the numbers, from 1, and the names of the chapters in reading order."""
    pages = {
        node.get("id", ""): _member(archive, folder, node.get("href", ""))
        for node in _named(book, "item")
        if node.get("media-type", "").lower() in _PAGES
    }
    seen: set[str] = set()
    for number, node in enumerate(_named(book, "itemref"), 1):
        name = pages.get(node.get("idref", ""), "")
        if name and name not in seen:
            seen.add(name)
            yield number, name


def _member(archive: Archive, folder: str, href: str) -> str:
    """Return the name of what a reference names. Some programs name members as they are referred to, `%20` and all."""
    written = href.partition("#")[0]
    plain, literal = (posixpath.normpath(posixpath.join(folder, name)) for name in (unquote(written), written))
    return literal if plain not in archive and literal in archive else plain


def _require_open(archive: Archive, chapters: set[str]) -> None:
    """Raise Rejected `password` for a book whose chapters are encrypted."""
    if _ENCRYPTION not in archive:
        return
    for one in _named(xml_parts.tree(archive.read(_ENCRYPTION), _KIND), "EncryptedData"):
        method = next((node.get("Algorithm", "") for node in _named(one, "EncryptionMethod")), "")
        names = {_member(archive, "", node.get("URI", "")) for node in _named(one, "CipherReference")}
        if method not in _FONTS_ONLY and names & chapters:
            raise Rejected("password", "it is protected against copying (DRM) and can't be read")


def _title(book: Element) -> str:
    return next((title for node in _named(book, "title") if (title := authored("".join(node.itertext())))), "")


def _named(root: Element, name: str) -> Iterator[Element]:
    """Yield the elements of a name, whatever their namespace."""
    return (node for node in root.iter() if node.tag.rpartition("}")[2] == name)
