"""XLSX, through openpyxl: sheet by sheet, a line for each row with its cells in order, empty ones left out.

Formulas stand as the values they had when the file was saved. Each sheet is a section under its name, and a mark says
sheet and row of each line. Hidden sheets are left out, and counted; hidden rows and columns are read.
"""

import datetime as dt
import re
import warnings
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from ingest.errors import Rejected
from ingest.readers import xml_parts
from ingest.readers.archive import reading
from ingest.readers.flow import BLOCK, CELL, LINE, Flow
from ingest.readers.office import Package
from ingest.types import Document

NAME = "xlsx"
VERSION = 1

MAX_CELLS: Final = 20_000_000
"""Cells that are looked at. A row is as wide as its last cell, and one that the file leaves out counts as well."""
_ROW: Final = 10
"""What a row costs besides its cells."""
_EMPTY_ROW: Final = 2
"""What an empty one costs: a sheet may say no more than that its last row is there."""
_MAX_ROWS: Final = 1_048_576

_KIND: Final = "Excel workbook"
_SHEETS: Final = "xl/worksheets/"
_CHARTS: Final = "xl/chartsheets/"
_STYLES: Final = "xl/styles.xml"
_PROPERTIES: Final = "docProps/"
_NO_PROPERTIES: Final = b'<Properties xmlns="http://schemas.openxmlformats.org/officeDocument/2006/custom-properties"/>'
_NAMESPACE: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_MAIN: Final = f"{{{_NAMESPACE}}}"
_ROOT: Final = re.compile(rb"<(?:\w+:)?worksheet\b[^>]*+>")
_DATA: Final = re.compile(rb"<(\w+:)?sheetData\b[^>/]*+>")
_ROWS: Final = re.compile(rb"<(?:\w+:)?row\b")
_MAX_ROW_TAGS: Final = 16_384 * 8  # a sheet's columns, and what one cell is written with
_SLIM_STYLES: Final = (
    f'<styleSheet xmlns="{_NAMESPACE}"><numFmts>{{}}</numFmts><fonts><font/></fonts>'
    "<fills><fill><patternFill/></fill></fills><borders><border/></borders>"
    "<cellStyleXfs><xf/></cellStyleXfs><cellXfs>{}</cellXfs></styleSheet>"
)
# How the format writes what XML has no sign for, a carriage return above all: `_x000D_`.
_ESCAPED: Final = re.compile(r"_x([0-9A-Fa-f]{4})_")
_MIDNIGHT: Final = dt.time()
_NO_NAME: Final = re.compile(
    r"(?:sheet|tabelle|feuil|hoja|foglio|planilha|blad|ark|arkusz|list|лист|工作表|シート)\W*\d*", re.IGNORECASE
)


def read(data: bytes, content_type: str) -> Document:
    """Read an XLSX. Raises Rejected: `password`, `damaged`, `empty`, `no_text` (pictures only), `limit`."""
    package = Package(data, _KIND, streamed=_SHEETS, slim=_slim)
    flow = Flow()
    hidden = 0
    with reading(_KIND), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workbook = _open(package)
        budget = _Budget()
        for sheet in workbook.worksheets:
            if sheet.sheet_state == "visible":
                _read_sheet(flow, sheet, budget)
            else:
                hidden += 1
    if not flow.length:
        raise Rejected("empty", "what is not hidden is empty") if hidden else package.archive.without_text()
    heading = flow.first_heading()
    return Document(
        text=flow.text,
        sections=flow.sections(),
        content_type=content_type,
        title=package.title() or ("" if _NO_NAME.fullmatch(heading) else heading),
        metadata={"hidden_sheets": hidden} if hidden else {},
        reader=f"{NAME}-{VERSION}",
        marks=tuple(flow.marks),
    )


def _slim(name: str, part: bytes) -> bytes | None:
    """Return what of a part the text is made of. openpyxl checks all of it, and gives up on a file for a colour."""
    if name.startswith(_PROPERTIES):
        return _NO_PROPERTIES
    if name == _STYLES:
        return _slim_styles(part)
    if name.startswith(_CHARTS):
        return None
    if name.startswith(_SHEETS):
        _require_short_rows(part)
        return _slim_sheet(part)
    return part


def _require_short_rows(part: bytes) -> None:
    """Raise Rejected `limit` for a row of more tags than the widest one has: a row is in memory as a whole."""
    start = 0
    for row in chain(_ROWS.finditer(part), (None,)):
        end = row.start() if row else len(part)
        if end - start > _MAX_ROW_TAGS and part.count(b"<", start, end) > _MAX_ROW_TAGS:
            raise Rejected("limit", "a row of it is wider than a sheet")
        start = end


def _slim_sheet(part: bytes) -> bytes:
    """Keep a sheet's cells alone. With a dimension openpyxl need not look for one through the whole sheet."""
    root, start, end = _ROOT.search(part), _DATA.search(part), part.rfind(b"sheetData>")
    if not (root and start and end > start.end()):
        return part
    prefix = start[1] or b""
    dimension = b'<%sdimension ref="A1"/>' % prefix
    return root[0] + dimension + part[start.start() : end] + b"sheetData></%sworksheet>" % prefix


def _slim_styles(part: bytes) -> bytes:
    """Keep the formats of numbers and which cell style has which."""
    styles = xml_parts.tree(part, _KIND)
    formats = [(one.get("numFmtId", ""), one.get("formatCode", "")) for one in styles.iterfind(f"{_MAIN}numFmts/*")]
    cells = [one.get("numFmtId", "0") for one in styles.iterfind(f"{_MAIN}cellXfs/*")]
    declared = "".join(f"<numFmt numFmtId={quoteattr(key)} formatCode={quoteattr(code)}/>" for key, code in formats)
    used = "".join(f"<xf numFmtId={quoteattr(key)}/>" for key in cells)
    return _SLIM_STYLES.format(declared, used).encode()


def _open(package: Package) -> Any:
    import openpyxl

    return openpyxl.load_workbook(package.stream, read_only=True, data_only=True, keep_links=False)


class _Budget:
    """Cells that may still be looked at."""

    def __init__(self) -> None:
        self._left = MAX_CELLS

    def spend(self, cells: int) -> None:
        self._left -= _ROW + cells if cells else _EMPTY_ROW
        if self._left < 0:
            raise Rejected("limit", f"more than {MAX_CELLS:,} cells")


def _read_sheet(flow: Flow, sheet: Any, budget: _Budget) -> None:
    """Add a sheet's rows as lines, with a blank line where rows are empty."""
    sheet.reset_dimensions()  # what a file says of its size is often wrong
    last = 0
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if number > _MAX_ROWS:
            raise Rejected("limit", f"more than {_MAX_ROWS:,} rows")
        budget.spend(len(cells))
        line = CELL.join(_shown(cells))
        if not line:
            continue
        if not last:
            flow.mark({"sheet": sheet.title})
            flow.heading(1, sheet.title)
        flow.mark({"sheet": sheet.title, "row": number})
        flow.add(line, LINE if last == number - 1 and last else BLOCK)
        last = number


def _shown(cells: Any) -> Iterator[str]:
    """Yield what the cells show, without the empty ones."""
    for cell in cells:
        value = cell.value
        if value is not None and (words := " ".join(_show(value, cell).split())):
            yield words


def _show(value: Any, cell: Any) -> str:
    if isinstance(value, str):
        return _ESCAPED.sub(lambda sign: chr(int(sign[1], 16)), value) if "_x" in value else value
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)):
        percent = "%" in _number_format(cell)
        if not percent and isinstance(value, int):
            return str(value)
        # 15 digits are what the program computes with; more are noise such as 0.30000000000000004.
        return f"{value * 100:.15g}%" if percent else f"{value:.15g}"
    if isinstance(value, dt.datetime):
        return value.date().isoformat() if value.time() == _MIDNIGHT else value.isoformat(" ", "seconds")
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    return str(value)


def _number_format(cell: Any) -> str:
    """Return a cell's number format, "" where the workbook does not define it: some programs name what is not there."""
    try:
        return str(cell.number_format)
    except IndexError:
        return ""
