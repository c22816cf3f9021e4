import datetime as dt
import io
import re
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.chart import BarChart

from ingest.errors import Rejected
from ingest.readers import flow, workbook
from ingest.readers.registry import read
from ingest.types import Document
from tests.ingest.readers.documents import check, outline, reason_of
from tests.ingest.readers.zipped import members_of, zipped

SHEET = "xl/worksheets/sheet1.xml"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def saved(book: Any) -> bytes:
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def document(book: Any) -> Document:
    return check(read("a.xlsx", saved(book)))


def of_rows(*rows: list[Any], title: str = "Data") -> Any:
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    return book


def with_sheet(rows: str) -> bytes:
    """A workbook whose sheet has these rows, as XML."""
    sheet = f'<worksheet xmlns="{MAIN}"><dimension ref="A1"/><sheetData>{rows}</sheetData></worksheet>'
    return zipped(members_of(saved(of_rows(["x"]))) | {SHEET: sheet.encode()})


def test_sheets_are_sections_and_rows_are_marked() -> None:
    """Each sheet stands under its name; each line has its sheet and row; an empty row sets tables apart."""
    book = of_rows(["Name", "Town"], ["Ann", "Bonn"], [], ["Total", 2], title="People")
    book.create_sheet("Nothing")
    book.create_sheet("Costs").append([None, "x"])
    made = document(book)
    assert made.text == "People\n\nName | Town\nAnn | Bonn\n\nTotal | 2\n\nCosts\n\nx"
    assert outline(made) == [(("People",), "People\n\nName"), (("Costs",), "Costs\n\nx")]
    assert [(made.text[mark.start :][:5], dict(mark.position)) for mark in made.marks] == [
        ("Peopl", {"sheet": "People"}),
        ("Name ", {"sheet": "People", "row": 1}),
        ("Ann |", {"sheet": "People", "row": 2}),
        ("Total", {"sheet": "People", "row": 4}),
        ("Costs", {"sheet": "Costs"}),
        ("x", {"sheet": "Costs", "row": 1}),
    ]
    assert made.title == "People"


def test_values_are_shown_as_a_person_reads_them() -> None:
    """Whole numbers have no `.0`, sums no noise, dates are ISO, percents are percents, a cell is one line."""
    book = of_rows(
        [1.0, 2, 0.1 + 0.2, -1234.5, 1e21, 123456789012345, True, False],
        [dt.date(2024, 5, 1), dt.datetime.fromisoformat("2024-05-01T13:45"), dt.time(9, 30), dt.timedelta(hours=30)],
        ["two\nlines", "  spaced  out ", " ", None, "#N/A"],
        [0.07, 1],
    )
    book.active["A4"].number_format = "0%"
    book.active["B4"].number_format = "0.0%"
    assert document(book).text.split("\n")[2:] == [
        "1 | 2 | 0.3 | -1234.5 | 1e+21 | 123456789012345 | TRUE | FALSE",
        "2024-05-01 | 2024-05-01 13:45:00 | 09:30:00 | 1 day, 6:00:00",
        "two lines | spaced out | #N/A",
        "7% | 100%",
    ]


def test_formulas_are_the_values_they_had() -> None:
    """The value that was saved is shown, and nothing for a formula that was never computed."""
    rows = '<row r="1"><c r="A1"><f>1+1</f><v>2</v></c><c r="B1"><f>A1</f></c><c r="C1"><v>3</v></c></row>'
    assert check(read("a.xlsx", with_sheet(rows))).text == "Sheet\n\n2 | 3".replace("Sheet", "Data")


def test_escapes_are_the_signs_they_stand_for() -> None:
    """`_x000D_`, which Excel writes for a carriage return in a cell, is no word."""
    assert document(of_rows(["one_x000D_\ntwo", "snake_xylo_"])).text == "Data\n\none two | snake_xylo_"


def test_a_format_that_is_not_there_is_none() -> None:
    """A cell with a style or a number format that the workbook does not define spoils no workbook."""
    members = members_of(with_sheet('<row r="1"><c s="1"><v>3</v></c><c s="9"><v>4</v></c></row>'))
    members["xl/styles.xml"] = (
        f'<styleSheet xmlns="{MAIN}"><cellXfs><xf/><xf numFmtId="164"/></cellXfs></styleSheet>'.encode()
    )
    assert check(read("a.xlsx", zipped(members))).text == "Data\n\n3 | 4"


def test_hidden_sheets_are_left_out_and_counted() -> None:
    """What a person does not see is not an answer's source."""
    book = of_rows(["seen"])
    for name, state in (("Secret", "hidden"), ("Deep", "veryHidden")):
        sheet = book.create_sheet(name)
        sheet.append(["hidden words"])
        sheet.sheet_state = state
    made = document(book)
    assert made.text == "Data\n\nseen"
    assert made.metadata == {"hidden_sheets": 2}
    book.active["A1"] = None
    with pytest.raises(Rejected, match="empty: what is not hidden is empty"):
        document(book)


def test_sheets_of_charts_are_left_out() -> None:
    """A sheet that is a chart has no cells, and the library's trouble with it is none of the others'."""
    book = of_rows(["x"])
    book.create_chartsheet("Chart").add_chart(BarChart())
    members = members_of(saved(book))
    assert check(read("a.xlsx", zipped(members))).text == "Data\n\nx"
    members.pop("xl/chartsheets/_rels/sheet1.xml.rels")
    assert check(read("a.xlsx", zipped(members))).text == "Data\n\nx"


def test_a_workbook_without_a_cell_is_empty() -> None:
    """The name of a sheet alone is nothing to read."""
    assert reason_of("a.xlsx", saved(openpyxl.Workbook())) == "empty"
    assert reason_of("a.xlsx", saved(of_rows([" ", ""]))) == "empty"


@pytest.mark.parametrize("name", ["Sheet1", "Tabelle1", "Feuil 2"])
def test_a_sheet_s_usual_name_is_no_title(name: str) -> None:
    """What the program calls every sheet is a heading and no title; an author's title is one."""
    book = of_rows(["x"], title=name)
    assert document(book).title == ""
    book.properties.title = "Budget of the year"
    assert document(book).title == "Budget of the year"


def test_what_a_sheet_says_of_its_size_is_not_believed() -> None:
    """Rows beyond the said dimension are read, and rows and cells without a place are counted on."""
    rows = '<row><c><v>1</v></c><c><v>2</v></c></row><row r="7"><c r="C7" t="inlineStr"><is><t>x</t></is></c></row>'
    made = check(read("a.xlsx", with_sheet(rows)))
    assert made.text == "Data\n\n1 | 2\n\nx"
    assert [dict(mark.position)["row"] for mark in made.marks[1:]] == [1, 7]


def test_endless_sheets_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with an absurd number, or rows of one cell far to the right, are `limit` before they are filled up."""
    assert reason_of("a.xlsx", with_sheet('<row r="99999999999"><c><v>1</v></c></row>')) == "limit"
    assert reason_of("a.xlsx", with_sheet(f"<row>{'<c/>' * 140_000}</row>")) == "limit"
    assert reason_of("a.xlsx", with_sheet("<foo/>" * 140_000)) == "limit"
    assert reason_of("a.xlsx", with_sheet(f"<row>{'<c><v>1</v></c>' * 16_384}</row>")) == ""
    monkeypatch.setattr(workbook, "MAX_CELLS", 100_000)
    assert reason_of("a.xlsx", with_sheet('<row><c r="XFD1"><v>1</v></c></row>' * 10)) == "limit"
    monkeypatch.setattr(flow, "MAX_MARKS", 3)
    assert reason_of("a.xlsx", saved(of_rows(["a"], ["b"], ["c"]))) == "limit"


def test_the_last_row_of_several_sheets_is_read() -> None:
    """A format that was given to whole columns leaves a million empty rows in a sheet, no reason to refuse it."""
    rows = b'<row r="1"><c><v>1</v></c></row><row r="1048576"><c><v>2</v></c></row>'
    book = of_rows(["x"])
    for number in (2, 3):
        book.create_sheet(f"S{number}")
    members = members_of(saved(book))
    sheet = f'<worksheet xmlns="{MAIN}"><sheetData>'.encode() + rows + b"</sheetData></worksheet>"
    made = check(read("a.xlsx", zipped(members | {SHEET.replace("1", str(n)): sheet for n in (1, 2, 3)})))
    assert [dict(mark.position).get("row") for mark in made.marks] == [None, 1, 1048576] * 3


def test_macros_and_templates_are_read() -> None:
    """XLSM and XLTX read like a plain workbook."""
    members = members_of(saved(of_rows(["x"])))
    types = members["[Content_Types].xml"]
    plain = b"vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
    assert plain in types
    for kind in (
        b"vnd.ms-excel.sheet.macroEnabled.main+xml",
        b"vnd.openxmlformats-officedocument.spreadsheetml.template.main+xml",
    ):
        changed = zipped(members | {"[Content_Types].xml": types.replace(plain, kind)})
        assert check(read("a.xlsm", changed)).text == "Data\n\nx"


SAMPLE = members_of(saved(of_rows(["Name", 1.5, dt.date(2024, 5, 1)], ["Ann", 0.25, True])))


@given(
    st.sampled_from(sorted(SAMPLE)),
    st.lists(st.tuples(st.integers(0, 5_000), st.binary(min_size=1, max_size=4)), max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_parts_with_damage_are_read_or_rejected(name: str, changes: list[tuple[int, bytes]]) -> None:
    """Bytes written over a part lead to a document or a reason and never to a crash."""
    part = bytearray(SAMPLE[name])
    for at, new in changes:
        part[at % len(part) : at % len(part) + len(new)] = new
    reason = reason_of("a.xlsx", zipped(SAMPLE | {name: bytes(part)}))
    assert reason in ("", "damaged", "empty", "limit", "unsupported")


def test_missing_parts_are_no_crash() -> None:
    """Without any one of its parts a workbook is read or rejected."""
    for name in SAMPLE:
        rest = {other: part for other, part in SAMPLE.items() if other != name}
        assert reason_of("a.xlsx", zipped(rest)) in ("", "damaged", "empty", "unsupported"), name


def test_what_is_not_text_can_not_spoil_a_workbook() -> None:
    """Colours, properties, print settings and a prefix that the library gives up on do no harm; dates stay dates."""
    members = members_of(saved(of_rows([dt.date(2024, 5, 1), 0.5])))
    styles = re.sub(rb"<fills[^>]*>", rb"\g<0><fill/>", members["xl/styles.xml"])
    assert styles != members["xl/styles.xml"]
    sheet = members[SHEET].replace(b"</sheetData>", b'</sheetData><pageSetup orientation="sideways"/>')
    spoilt = {
        "xl/styles.xml": styles,
        "docProps/core.xml": b"<x>not properties</x>",
        "docProps/custom.xml": b"<x",
        SHEET: sheet.replace(b"<sheetViews>", b'<sheetViews><sheetView view="?"/>'),
    }
    assert spoilt[SHEET] != sheet != members[SHEET]
    assert check(read("a.xlsx", zipped(members | spoilt))).text == "Data\n\n2024-05-01 | 0.5"
    rows = f'<x:worksheet xmlns:x="{MAIN}"><x:dimension ref="B2"/><x:sheetData><x:row><x:c><x:v>7</x:v></x:c></x:row>'
    prefixed = f"{rows}</x:sheetData><x:extLst/></x:worksheet>".encode()
    assert check(read("a.xlsx", zipped(members | {SHEET: prefixed}))).text == "Data\n\n7"
