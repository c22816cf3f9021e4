"""DOCX, through python-docx: paragraphs, lists, tables and text boxes in the order of the text, headings as sections.

Footnotes, endnotes and comments follow the paragraph that refers to them; the text of headers and footers stands once,
at the end. Of tracked changes the insertions are text and the deletions are not; hidden text is left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ingest.errors import Rejected
from ingest.readers.archive import reading
from ingest.readers.flow import BLOCK, LINE, Flow, row
from ingest.readers.office import Package
from ingest.types import Document

if TYPE_CHECKING:
    from docx.package import Package as WordPackage

NAME = "docx"
VERSION = 1

_KIND: Final = "Word document"
_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_TYPES: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"

_HEADING: Final = re.compile(r"heading ([1-9])", re.IGNORECASE)
_TITLE_LEVEL: Final = 0
_BODY_LEVEL: Final = 10
"""Of what is no heading. The format counts outline levels from 0, and 9 is body text."""
_MAX_ANCESTORS: Final = 20
_MAX_STYLES: Final = 10_000  # Word itself stops at 4,079
# A line with nothing but the page's number, where a part has a field that counts pages: "3", "- 3 -", "Page 3 of 7".
_PAGE_NUMBER: Final = re.compile(r"\W*(?:[^\W\d]{1,12}\.?\s*)?\d+(?:\W*(?:[^\W\d]{1,4}\W*)?\d+)?\W*")
_PAGE_FIELD: Final = re.compile(r"\b(?:NUM)?PAGES?\b")
# Elements whose children are read as if they stood in their place.
_TRANSPARENT_NAMES: Final = "sdt sdtContent ins moveTo hyperlink smartTag customXml fldSimple dir bdo ruby rubyBase"
_TRANSPARENT: Final = frozenset((*(_W + name for name in _TRANSPARENT_NAMES.split()), f"{_MATH}oMathPara"))
_CHARACTERS: Final = {
    f"{_W}tab": "\t",
    f"{_W}ptab": "\t",
    f"{_W}br": "\n",
    f"{_W}cr": "\n",
    f"{_W}noBreakHyphen": "\u2011",
}
_NOTES: Final = {
    f"{_W}footnoteReference": "footnotes",
    f"{_W}endnoteReference": "endnotes",
    f"{_W}commentReference": "comments",
}
_BOX: Final = f"{_W}txbxContent"
_DRAWN: Final = frozenset((f"{_W}drawing", f"{_W}pict", f"{_W}object"))
_ALTERNATIVES: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
_OPERATORS: Final = {f"{_MATH}den": "/", f"{_MATH}sup": "^", f"{_MATH}sub": "_"}


@dataclass(frozen=True, slots=True)
class _Style:
    """What a paragraph style says: its paragraphs' level, and whether they are items of a list."""

    level: int
    listed: bool


@dataclass
class _Paragraph:
    """A paragraph's text, and what is anchored in it."""

    pieces: list[str] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Kind and id."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def read(data: bytes, content_type: str) -> Document:
    """Read a DOCX. Raises Rejected: `password`, `damaged`, `empty`, `no_text` (pictures only), `limit`."""
    package = Package(data, _KIND)
    with reading(_KIND):
        opened = _open(package)
        reader = _Reader(opened)
        reader.read()
    flow = reader.flow
    if not flow.length:
        raise package.archive.without_text()
    return Document(
        text=flow.text,
        sections=flow.sections(),
        content_type=content_type,
        title=package.title() or flow.first_heading(),
        reader=f"{NAME}-{VERSION}",
    )


def _open(package: Package) -> "WordPackage":
    from docx.package import Package as WordPackage

    # Not docx.Document: it refuses macro-enabled documents and templates for their content type.
    return WordPackage.open(package.stream)


class _Reader:
    """Walks the parts of a document and collects their text."""

    def __init__(self, package: "WordPackage") -> None:
        self.flow = Flow()
        self._main = package.main_document_part
        self._styles = _styles(self._root("styles"))
        self._notes = {kind: _by_id(self._root(kind)) for kind in _NOTES.values()}
        self._after_item = False

    def read(self) -> None:
        """Collect the body, then the headers and footers."""
        for body in _element(self._main).iterchildren(f"{_W}body"):
            self._blocks(body)
        self.flow.margins(list(self._margins()))

    def _root(self, kind: str) -> Any | None:
        """Return the root of the part of a kind that the main part has, None for want of one."""
        return next((_element(part) for part in self._parts(kind)), None)

    def _parts(self, kind: str) -> Iterator[Any]:
        for relation in self._main.rels.values():
            if not relation.is_external and relation.reltype == _TYPES + kind:
                yield relation.target_part

    def _blocks(self, parent: Any) -> None:
        for node in parent.iterchildren():
            if node.tag == f"{_W}p":
                self._paragraph(node)
            elif node.tag == f"{_W}tbl":
                self._table(node)
            elif node.tag in _TRANSPARENT:
                self._blocks(node)
            elif node.tag == _ALTERNATIVES and len(node):
                self._blocks(node[0])

    def _paragraph(self, node: Any) -> None:
        found = _paragraph(node)
        style = self._style(node)
        if style.level < _BODY_LEVEL:
            self.flow.heading(style.level, found.text)
            self._after_item = False
        elif self.flow.add(found.text, LINE if style.listed and self._after_item else BLOCK):
            self._after_item = style.listed
        self._anchored(found)

    def _anchored(self, found: _Paragraph) -> None:
        for box in found.boxes:
            self._blocks(box)
        for kind, number in found.notes:
            note = self._notes[kind].pop(number, None)
            if note is None:
                continue
            if kind == "comments":
                words = row([_paragraph(node).text for node in note.iter(f"{_W}p")])
                self.flow.add(words and f"Comment: {words}")
            else:
                self._blocks(note)

    def _table(self, table: Any) -> None:
        """Rows are lines; a table of one column is layout, and its cells are read as blocks."""
        rows = _rows(table)
        self._after_item = False
        if all(len(cells) <= 1 for cells in rows):
            for cells in rows:
                for cell in cells:
                    self._blocks(cell)
            return
        anchored = _Paragraph()
        self.flow.table([_cell(cell, anchored) for cell in cells] for cells in rows)
        self._anchored(anchored)

    def _style(self, paragraph: Any) -> _Style:
        properties = paragraph.find(f"{_W}pPr")
        style = self._styles.get(_value(properties, "pStyle") or "", _TEXT)
        level = _outline_level(properties)
        number = None if properties is None else properties.find(f"{_W}numPr")
        return _Style(
            style.level if level is None else level,
            style.listed if number is None else _value(number, "numId") != "0",
        )

    def _margins(self) -> Iterator[str]:
        """Yield the lines of headers and footers, page numbers left out."""
        body = self.flow
        for kind in ("header", "footer"):
            for part in self._parts(kind):
                root = _element(part)
                self.flow = Flow()
                self._blocks(root)
                text, self.flow = self.flow.text, body
                numbered = _has_page_field(root)
                yield from (line for line in text.split("\n") if not (numbered and _PAGE_NUMBER.fullmatch(line)))


_TEXT: Final = _Style(_BODY_LEVEL, listed=False)


def _element(part: Any) -> Any:
    """Return the root of a part; python-docx parses only those whose content type it knows."""
    from docx.oxml import parse_xml

    return part.element if hasattr(part, "element") else parse_xml(part.blob)


def _styles(root: Any | None) -> dict[str, _Style]:
    """Return the paragraph styles by id; under "" that of paragraphs that name none. Raises Rejected `limit`."""
    nodes = {} if root is None else {node.get(f"{_W}styleId", ""): node for node in root.iterchildren(f"{_W}style")}
    if len(nodes) > _MAX_STYLES:
        raise Rejected("limit", f"{len(nodes):,} styles, the limit is {_MAX_STYLES:,}")
    styles: dict[str, _Style] = {}
    for name, node in nodes.items():
        if node.get(f"{_W}type", "paragraph") != "paragraph":
            continue
        line = list(_ancestry(nodes, node))
        levels = (level for ancestor in line if (level := _style_level(ancestor)) is not None)
        listed = any(ancestor.find(f"{_W}pPr/{_W}numPr") is not None for ancestor in line)
        styles[name] = _Style(next(levels, _BODY_LEVEL), listed)
        if node.get(f"{_W}default") in ("1", "true"):
            styles[""] = styles[name]
    return styles


def _ancestry(nodes: dict[str, Any], node: Any | None) -> Iterator[Any]:
    """Yield a style and those it is based on, the nearest first; a circle ends somewhere."""
    for _ in range(_MAX_ANCESTORS):
        if node is None:
            return
        yield node
        node = nodes.get(_value(node, "basedOn") or "")


def _style_level(style: Any) -> int | None:
    """Return the level that a style itself says. Names of built-in styles are English in every language's Word."""
    name = _value(style, "name") or ""
    if heading := _HEADING.fullmatch(name):
        return int(heading[1])
    if name.lower() == "title":
        return _TITLE_LEVEL
    return _outline_level(style.find(f"{_W}pPr"))


def _outline_level(properties: Any | None) -> int | None:
    said = _value(properties, "outlineLvl") or ""
    return int(said) + 1 if said.isdecimal() and len(said) == 1 else None


def _value(parent: Any | None, name: str) -> str | None:
    """Return the value of the child `name`, None for want of either."""
    node = None if parent is None else parent.find(_W + name)
    return None if node is None else node.get(f"{_W}val", "")


def _by_id(root: Any | None) -> dict[str, Any]:
    return {} if root is None else {node.get(f"{_W}id", ""): node for node in root.iterchildren()}


def _within(parent: Any, tag: str) -> Iterator[Any]:
    """Yield the children of a kind, also those in wrappers."""
    for node in parent.iterchildren():
        if node.tag == tag:
            yield node
        elif node.tag in _TRANSPARENT:
            yield from _within(node, tag)


def _has_page_field(root: Any) -> bool:
    codes = [node.text or "" for node in root.iter(f"{_W}instrText")]
    codes += [node.get(f"{_W}instr", "") for node in root.iter(f"{_W}fldSimple")]
    return any(_PAGE_FIELD.search(code) for code in codes)


def _rows(table: Any) -> list[list[Any]]:
    """Return the cells of a table's rows, without deleted rows and without what merged cells hide."""
    lines = (line for line in _within(table, f"{_W}tr") if line.find(f"{_W}trPr/{_W}del") is None)
    return [[cell for cell in _within(line, f"{_W}tc") if not _merged(cell)] for line in lines]


def _merged(cell: Any) -> bool:
    """Whether a cell belongs to the one above it."""
    above = _value(cell.find(f"{_W}tcPr"), "vMerge")
    return above is not None and above != "restart"


def _cell(cell: Any, anchored: _Paragraph) -> str:
    """Return a cell's text on one line; what is anchored in it is added to `anchored`."""
    pieces: list[str] = []
    for node in cell.iterchildren():
        if node.tag == f"{_W}p":
            found = _paragraph(node)
            pieces.append(found.text)
            anchored.boxes += found.boxes
            anchored.notes += found.notes
        elif node.tag in _TRANSPARENT:
            pieces.append(_cell(node, anchored))
        elif node.tag == f"{_W}tbl":
            pieces += (row([_cell(inner, anchored) for inner in cells]) for cells in _rows(node))
    return " ".join(pieces)


def _paragraph(node: Any) -> _Paragraph:
    found = _Paragraph()
    _inline(node, found)
    return found


def _inline(parent: Any, found: _Paragraph) -> None:
    """Collect the text below a node, in order. Deletions, field codes and hidden text are not among what is known."""
    for node in parent.iterchildren():
        tag = node.tag
        if tag == f"{_W}t":
            found.pieces.append(node.text or "")
        elif tag in _CHARACTERS:
            found.pieces.append(_CHARACTERS[tag])
        elif tag == f"{_W}r":
            if not _hidden(node):
                _inline(node, found)
        elif tag in _TRANSPARENT:
            _inline(node, found)
        elif tag == f"{_MATH}oMath":
            found.pieces.append(_equation(node))
        elif tag in _NOTES:
            found.notes.append((_NOTES[tag], node.get(f"{_W}id", "")))
        elif tag in _DRAWN:
            found.boxes += _boxes(node)
        elif tag == _ALTERNATIVES:
            _alternatives(node, found)


def _alternatives(node: Any, found: _Paragraph) -> None:
    """Collect the boxes of the first alternative, or the words of the last: an emoji is a sign there, as in `w:t`."""
    boxes = list(_boxes(node))
    found.boxes += boxes
    if not boxes and len(node):
        _inline(node[-1], found)


def _hidden(run: Any) -> bool:
    said = _value(run.find(f"{_W}rPr"), "vanish")
    return said is not None and said not in ("0", "false", "off")


def _boxes(node: Any) -> Iterator[Any]:
    """Yield the outermost text boxes below a node; of alternatives, which say the same, the first."""
    if node.tag == _BOX:
        yield node
        return
    for child in list(node)[:1] if node.tag == _ALTERNATIVES else node:
        yield from _boxes(child)


def _equation(node: Any) -> str:
    """Return an equation on one line: `a/b`, `x^2`, `x_i`."""
    pieces: list[str] = []
    for child in node.iterchildren():
        if child.tag == f"{_MATH}t":
            pieces.append(child.text or "")
        elif words := _equation(child):
            pieces.append(_OPERATORS.get(child.tag, "") + words)
    return "".join(pieces)
