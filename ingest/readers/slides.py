"""PPTX, through python-pptx: slide by slide, the title first, then the shapes in reading order, then the notes.

Each slide is a section under its title, and a mark says its number. What a slide fills in for itself (its number, the
date) is left out, and a footer stands on the first slide that has it. Hidden slides are read.
"""

from collections.abc import Iterator
from typing import Any, Final

from ingest.readers.archive import reading
from ingest.readers.flow import Flow
from ingest.readers.office import Package
from ingest.types import Document

NAME = "pptx"
VERSION = 1

_KIND: Final = "PowerPoint presentation"
_DRAWING: Final = "http://schemas.openxmlformats.org/drawingml/2006/"
_A: Final = f"{{{_DRAWING}main}}"
_CHART: Final = f"{{{_DRAWING}chart}}"
_DIAGRAM: Final = f"{{{_DRAWING}diagram}}"
_PRESENTATION: Final = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_RELATIONS: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_CHARACTERS: Final = (f"{_A}t", "{http://schemas.openxmlformats.org/officeDocument/2006/math}t")
_TITLES: Final = frozenset(("title", "ctrTitle"))
_LEFT_OUT: Final = frozenset(("sldNum", "sldImg", "hdr"))
_ONCE: Final = frozenset(("ftr", "dt"))
_ALTERNATIVES: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"


def read(data: bytes, content_type: str) -> Document:
    """Read a PPTX. Raises Rejected: `password`, `damaged`, `empty`, `no_text` (pictures only), `limit`."""
    package = Package(data, _KIND)
    with reading(_KIND):
        opened = _open(package)
        slides = list(_slides(opened.main_document_part))
        reader = _Reader()
        for number, slide in enumerate(slides, 1):
            reader.slide(number, slide)
    flow = reader.flow
    if not flow.length:
        raise package.archive.without_text()
    return Document(
        text=flow.text,
        sections=flow.sections(),
        content_type=content_type,
        title=package.title() or flow.first_heading(),
        metadata={"slides": len(slides)},
        reader=f"{NAME}-{VERSION}",
        marks=tuple(flow.marks),
    )


def _open(package: Package) -> Any:
    from pptx.package import Package as SlidePackage

    # Not pptx.Presentation: it refuses macro-enabled presentations, shows and templates for their content type.
    return SlidePackage.open(package.stream)


def _slides(main: Any) -> Iterator[Any]:
    """Yield the slides' parts in the order of the show."""
    for node in _element(main).iter(f"{_PRESENTATION}sldId"):
        relation = main.rels.get(node.get(f"{_RELATIONS}id"))
        if relation is not None and not relation.is_external:
            yield relation.target_part


def _element(part: Any) -> Any:
    """Return the root of a part; python-pptx parses only those whose content type it knows."""
    from pptx.oxml import parse_xml

    element = getattr(part, "_element", None)
    return parse_xml(part.blob) if element is None else element


class _Reader:
    """Collects the text of slides."""

    def __init__(self) -> None:
        self.flow = Flow()
        self._footers: set[str] = set()
        self._part: Any = None

    def slide(self, number: int, part: Any) -> None:
        """Collect a slide and its notes."""
        self._part = part
        self.flow.mark({"slide": number})
        shapes = list(_shapes(_element(part)))
        title = next((shape for shape in shapes if _placeholder(shape) in _TITLES and _text(shape)), None)
        if title is None:
            self.flow.open_section()
        else:
            self.flow.heading(1, _text(title))
        for shape in shapes:
            if shape is not title:
                self._shape(shape)
        for notes in _related(part, "notesSlide"):
            for shape in _shapes(_element(notes)):
                if _placeholder(shape) not in _LEFT_OUT | _ONCE:
                    self.flow.add(_text(shape))

    def _shape(self, shape: Any) -> None:
        kind = _placeholder(shape)
        if kind in _LEFT_OUT:
            return
        text = _text(shape)
        if kind in _ONCE:
            if text in self._footers:
                return
            self._footers.add(text)
        self.flow.add(text)
        for table in shape.iter(f"{_A}tbl"):
            self.flow.table([_text(cell) for cell in _cells(line)] for line in table.iter(f"{_A}tr"))
        for chart in shape.iter(f"{_CHART}chart"):
            self._chart(self._target(chart, f"{_RELATIONS}id"))
        for diagram in shape.iter(f"{_DIAGRAM}relIds"):
            self._diagram(self._target(diagram, f"{_RELATIONS}dm"))

    def _target(self, node: Any, name: str) -> Any | None:
        relation = self._part.rels.get(node.get(name))
        return None if relation is None or relation.is_external else _element(relation.target_part)

    def _chart(self, root: Any | None) -> None:
        """Add a chart's titles, then a row for each category: its name and the value of each series."""
        if root is None:
            return
        for title in root.iter(f"{_CHART}title"):
            self.flow.add(_text(title))
        series = list(root.iter(f"{_CHART}ser"))
        names = [" ".join(_points(one.find(f"{_CHART}tx")).values()) for one in series]
        columns = [_points(one.find(f"{_CHART}val")) or _points(one.find(f"{_CHART}yVal")) for one in series]
        categories: dict[int, str] = {}
        for one in series:
            categories |= _points(one.find(f"{_CHART}cat")) or _points(one.find(f"{_CHART}xVal"))
        rows = [[categories[at], *(column.get(at, "") for column in columns)] for at in sorted(categories)]
        self.flow.table([names, *rows])

    def _diagram(self, root: Any | None) -> None:
        if root is not None:
            self.flow.table([_text(point)] for point in root.iter(f"{_DIAGRAM}pt"))


def _related(part: Any, kind: str) -> Iterator[Any]:
    for relation in part.rels.values():
        if not relation.is_external and relation.reltype.endswith(f"/{kind}"):
            yield relation.target_part


_SHAPES: Final = frozenset(f"{_PRESENTATION}{name}" for name in ("sp", "pic", "graphicFrame", "cxnSp"))


def _shapes(root: Any) -> Iterator[Any]:
    """Yield the shapes in the order in which they are read aloud, which is that of the file; groups are opened."""
    for child in list(root)[:1] if root.tag == _ALTERNATIVES else root:
        if child.tag in _SHAPES:
            yield child
        else:
            yield from _shapes(child)


def _placeholder(shape: Any) -> str:
    """Return what a shape stands for on its slide's layout, "" for nothing."""
    return next((node.get("type", "") for node in shape.iter(f"{_PRESENTATION}ph")), "")


def _text(node: Any) -> str:
    """Return the paragraphs below a node as lines, without those of a table."""
    return "\n".join(words for paragraph in _paragraphs(node) if (words := "".join(_runs(paragraph)).strip()))


def _paragraphs(node: Any) -> Iterator[Any]:
    for child in node:
        if child.tag == f"{_A}p":
            yield child
        elif child.tag != f"{_A}tbl":
            yield from _paragraphs(child)


def _runs(paragraph: Any) -> Iterator[str]:
    for node in paragraph:
        if node.tag == f"{_A}br":
            yield "\n"
        elif node.tag in _CHARACTERS:
            yield node.text or ""
        elif node.tag != f"{_A}fld":  # what the program fills in
            yield from _runs(node)


def _cells(line: Any) -> Iterator[Any]:
    """Yield a row's cells, without those that belong to a merged one."""
    for cell in line.iterchildren(f"{_A}tc"):
        if "1" not in (cell.get("hMerge"), cell.get("vMerge")):
            yield cell


def _points(node: Any | None) -> dict[int, str]:
    """Return the cached values of a chart's reference by their index."""
    points: dict[int, str] = {}
    for point in () if node is None else node.iter(f"{_CHART}pt"):
        value = point.find(f"{_CHART}v")
        if value is not None and value.text and (index := point.get("idx", "")).isdecimal():
            points[int(index[:9])] = value.text
    return points
