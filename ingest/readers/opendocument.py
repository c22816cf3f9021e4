"""OpenDocument: text (ODT), presentations (ODP) and spreadsheets (ODS), as LibreOffice and others write them.

Headings are sections; notes and a text's comments follow the paragraph they are anchored in; a text's headers and
footers stand once, at the end. A slide is a section with its number as a mark, a sheet one with a mark for each row.
Format: https://docs.oasis-open.org/office/OpenDocument/v1.3/.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.etree.ElementTree import Element

from ingest.errors import Rejected
from ingest.readers import xml_parts
from ingest.readers.archive import Archive, reading
from ingest.readers.flow import BLOCK, LINE, Flow, row
from ingest.readers.titles import authored
from ingest.types import Document

NAME = "odf"
VERSION = 1

_KIND: Final = "OpenDocument file"
_OASIS: Final = "{urn:oasis:names:tc:opendocument:xmlns:"
_OFFICE: Final = f"{_OASIS}office:1.0}}"
_TEXT: Final = f"{_OASIS}text:1.0}}"
_TABLE: Final = f"{_OASIS}table:1.0}}"
_DRAW: Final = f"{_OASIS}drawing:1.0}}"
_STYLE: Final = f"{_OASIS}style:1.0}}"
_SHOW: Final = f"{_OASIS}presentation:1.0}}"
_DC: Final = "{http://purl.org/dc/elements/1.1/}"

_TITLE_LEVEL: Final = 0
_MAX_SPACES: Final = 100
_MAX_COLUMNS: Final = 1_000
_MAX_CELLS: Final = 5_000_000
"""Cells of a file's sheets, with those that say no more than how often they are repeated."""
_PARAGRAPHS: Final = frozenset((f"{_TEXT}p", f"{_TEXT}h"))
_CHARACTERS: Final = {f"{_TEXT}tab": "\t", f"{_TEXT}line-break": "\n"}
# What is deleted, declared, or filled in by the program.
_UNREAD: Final = frozenset(
    (
        f"{_TEXT}tracked-changes",
        f"{_TEXT}page-number",
        f"{_TEXT}page-count",
        f"{_TEXT}ruby-text",
        f"{_OFFICE}forms",
        f"{_TABLE}tracked-changes",
        f"{_TABLE}shapes",
        f"{_SHOW}notes",
    )
)
_COMMENT: Final = f"{_OFFICE}annotation"
_NOTES: Final = frozenset((f"{_TEXT}note", _COMMENT))
_MARGINS: Final = frozenset(
    f"{_STYLE}{name}" for name in ("header", "header-left", "header-first", "footer", "footer-left", "footer-first")
)
_FILLED_IN: Final = frozenset(("date-time", "page-number", "header", "footer"))


@dataclass
class _Paragraph:
    """A paragraph's text, and what is anchored in it."""

    pieces: list[str] = field(default_factory=list)
    anchored: list[Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def read(data: bytes, content_type: str) -> Document:
    """Read an OpenDocument. Raises Rejected: `password`, `damaged`, `empty`, `no_text` (pictures only), `limit`."""
    archive = Archive(data, _KIND)
    _require_open(archive)
    content = _part(archive, "content.xml")
    reader = _Reader(content)
    with reading(_KIND):
        for body in content.iterfind(f"{_OFFICE}body/*"):
            reader.read(body)
        if "styles.xml" in archive and content.find(f"{_OFFICE}body/{_OFFICE}text") is not None:
            reader.flow.margins(list(reader.margins(_part(archive, "styles.xml"))))
    flow = reader.flow
    if not flow.length:
        raise archive.without_text()
    return Document(
        text=flow.text,
        sections=flow.sections(),
        content_type=content_type,
        title=_title(archive) or flow.first_heading(),
        metadata={"hidden_sheets": reader.hidden} if reader.hidden else {},
        reader=f"{NAME}-{VERSION}",
        marks=tuple(flow.marks),
    )


def _part(archive: Archive, name: str) -> Element:
    return xml_parts.tree(archive.read(name), _KIND)


def _require_open(archive: Archive) -> None:
    manifest = "META-INF/manifest.xml"
    if manifest in archive and b"encryption-data" in archive.read(manifest):
        raise Rejected("password", "it opens only with a password; save a copy without one")


def _title(archive: Archive) -> str:
    try:
        return authored(_part(archive, "meta.xml").findtext(f"{_OFFICE}meta/{_DC}title") or "")
    except Rejected:
        return ""


class _Reader:
    """Walks the body of a document and collects its text."""

    def __init__(self, content: Element) -> None:
        self.flow = Flow()
        self.hidden = 0
        self._slide = 0
        self._looked_at = 0
        self._listed = False
        self._after_item = False
        styles = list(content.iterfind(f"{_OFFICE}automatic-styles/{_STYLE}style"))
        self._titles = {"Title"} | {
            _name(style) for style in styles if style.get(f"{_STYLE}parent-style-name") == "Title"
        }
        self._unseen = {
            _name(style)
            for style in styles
            if any(part.get(f"{_TABLE}display") == "false" for part in style.iterfind(f"{_STYLE}table-properties"))
        }

    def read(self, body: Element) -> None:
        """Collect a body: a text, a presentation or a spreadsheet."""
        if body.tag == f"{_OFFICE}spreadsheet":
            for sheet in body.iterfind(f"{_TABLE}table"):
                self._sheet(sheet)
        else:
            self._blocks(body)

    def margins(self, styles: Element) -> Iterator[str]:
        """Yield the lines of headers and footers."""
        body = self.flow
        for page in styles.iter(f"{_STYLE}master-page"):
            for part in page:
                if part.tag in _MARGINS:
                    self.flow = Flow()
                    self._blocks(part)
                    text, self.flow = self.flow.text, body
                    yield from text.split("\n")

    def _blocks(self, parent: Element) -> None:
        for node in parent:
            if node.tag in _PARAGRAPHS:
                self._paragraph(node)
            elif node.tag == f"{_TABLE}table":
                self._table(node)
            elif node.tag == f"{_TEXT}list":
                listed, self._listed = self._listed, True
                self._blocks(node)
                self._listed = listed
            elif node.tag == f"{_DRAW}page":
                self._page(node)
            elif node.tag not in _UNREAD:
                self._blocks(node)

    def _paragraph(self, node: Element) -> None:
        found = _paragraph(node)
        level = self._level(node)
        if level is not None:
            self.flow.heading(level, found.text)
            self._after_item = False
        elif self.flow.add(found.text, LINE if self._listed and self._after_item else BLOCK):
            self._after_item = self._listed
        self._anchored(found)

    def _level(self, node: Element) -> int | None:
        if node.get(f"{_TEXT}style-name") in self._titles:
            return _TITLE_LEVEL
        if node.tag != f"{_TEXT}h":
            return None
        return _number(node, f"{_TEXT}outline-level")

    def _anchored(self, found: _Paragraph) -> None:
        listed, self._listed = self._listed, False
        for node in found.anchored:
            if node.tag == _COMMENT:
                words = row([_paragraph(inner).text for inner in node.iter(f"{_TEXT}p")])
                self.flow.add(words and f"Comment: {words}")
            elif node.tag == f"{_TEXT}note":
                for body in node.iterfind(f"{_TEXT}note-body"):
                    self._blocks(body)
            else:
                self._blocks(node)
        self._listed = listed

    def _table(self, table: Element) -> None:
        """Rows are lines; a table of one column is layout, and its cells are read as blocks."""
        rows = [list(_cells(line)) for line in _rows(table)]
        self._after_item = False
        if all(len(cells) <= 1 for cells in rows):
            for cells in rows:
                for cell, _ in cells:
                    self._blocks(cell)
            return
        anchored = _Paragraph()
        self.flow.table([_cell(cell, anchored) for cell, _ in cells] for cells in rows)
        self._anchored(anchored)

    def _sheet(self, sheet: Element) -> None:
        """Add a sheet's rows as lines, with a blank line where rows are empty. A row that is repeated stands once."""
        if sheet.get(f"{_TABLE}style-name") in self._unseen:
            self.hidden += 1
            return
        name = _attribute(sheet, f"{_TABLE}name")
        number, last = 1, 0
        for line in _rows(sheet):
            anchored = _Paragraph()
            shown: list[str] = []
            for cell, times in _cells(line):
                self._looked_at += times
                if self._looked_at > _MAX_CELLS:
                    raise Rejected("limit", f"more than {_MAX_CELLS:,} cells")
                shown += [_cell(cell, anchored)] * times
            if text := row(shown):
                if not last:
                    self.flow.mark({"sheet": name})
                    self.flow.heading(1, name)
                self.flow.mark({"sheet": name, "row": number})
                self.flow.add(text, LINE if last and last == number - 1 else BLOCK)
                last = number
            anchored.anchored = [node for node in anchored.anchored if node.tag != _COMMENT]
            self._anchored(anchored)
            number += _number(line, f"{_TABLE}number-rows-repeated")

    def _page(self, page: Element) -> None:
        """Add a slide: its title, what stands on it, its notes."""
        self._slide += 1
        self.flow.mark({"slide": self._slide})
        shapes = [shape for shape in page if shape.get(f"{_SHOW}class") not in _FILLED_IN]
        title = next((shape for shape in shapes if shape.get(f"{_SHOW}class") == "title"), None)
        words = "" if title is None else row([_paragraph(node).text for node in title.iter(f"{_TEXT}p")])
        if words:
            self.flow.heading(1, words)
        else:
            self.flow.open_section()
        for shape in shapes:
            if shape is not title and shape.tag not in _UNREAD and shape.tag != _COMMENT:
                self._blocks_of(shape)
        for notes in page.iterfind(f"{_SHOW}notes"):
            for shape in notes:
                if shape.get(f"{_SHOW}class") not in _FILLED_IN:
                    self._blocks_of(shape)

    def _blocks_of(self, shape: Element) -> None:
        wrapper = Element("shape")
        wrapper.append(shape)
        self._blocks(wrapper)


def _name(style: Element) -> str:
    return _attribute(style, f"{_STYLE}name")


def _attribute(node: Element, name: str) -> str:
    return node.get(name) or ""


def _number(node: Element, name: str) -> int:
    """Return a count in an attribute, 1 for want of one."""
    said = _attribute(node, name)
    return max(1, int(said)) if said.isdecimal() and len(said) < 10 else 1


def _rows(table: Element) -> Iterator[Element]:
    """Yield a table's rows, also those in groups and headers, without those of tables within."""
    for node in table:
        if node.tag == f"{_TABLE}table-row":
            yield node
        elif node.tag in _ROW_GROUPS:
            yield from _rows(node)


_ROW_GROUPS: Final = frozenset(
    f"{_TABLE}{name}" for name in ("table-rows", "table-header-rows", "table-row-group", "soft-page-break")
)


def _cells(line: Element) -> Iterator[tuple[Element, int]]:
    """Yield a row's cells and how often each stands there."""
    for cell in line.iterfind(f"{_TABLE}table-cell"):
        yield cell, min(_number(cell, f"{_TABLE}number-columns-repeated"), _MAX_COLUMNS) if len(cell) else 1


def _cell(cell: Element, anchored: _Paragraph) -> str:
    """Return a cell's text on one line; what is anchored in it is added to `anchored`."""
    pieces: list[str] = []
    for node in cell:
        if node.tag in _PARAGRAPHS:
            found = _paragraph(node)
            pieces.append(found.text)
            anchored.anchored += found.anchored
        elif node.tag == f"{_TABLE}table":
            pieces += (row([_cell(inner, anchored) for inner, _ in _cells(line)]) for line in _rows(node))
        elif node.tag in _NOTES:
            anchored.anchored.append(node)
        elif node.tag not in _UNREAD:
            pieces.append(_cell(node, anchored))
    return " ".join(pieces)


def _paragraph(node: Element) -> _Paragraph:
    found = _Paragraph()
    _inline(node, found)
    return found


def _inline(parent: Element, found: _Paragraph) -> None:
    """Collect the text of a node, in order. White space is collapsed: spaces that count are elements of their own."""
    found.pieces.append(_collapsed(parent.text))
    for node in parent:
        if node.tag == f"{_TEXT}s":
            found.pieces.append(" " * min(_number(node, f"{_TEXT}c"), _MAX_SPACES))
        elif node.tag in _CHARACTERS:
            found.pieces.append(_CHARACTERS[node.tag])
        elif node.tag in _NOTES or node.tag.startswith(_DRAW):
            found.anchored.append(node)
        elif node.tag not in _UNREAD:
            _inline(node, found)
        found.pieces.append(_collapsed(node.tail))


def _collapsed(text: str | None) -> str:
    if not text:
        return ""
    words = " ".join(text.split())
    before, after = " " if text[0].isspace() else "", " " if text[-1].isspace() else ""
    return f"{before}{words}{after}" if words else " "
