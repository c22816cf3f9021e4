import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.readers.registry import read
from ingest.types import Document
from tests.ingest.readers.documents import check, outline, reason_of
from tests.ingest.readers.zipped import zipped

SPACES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{kind}:1.0"'
    for name, kind in (
        ("office", "office"),
        ("text", "text"),
        ("table", "table"),
        ("draw", "drawing"),
        ("style", "style"),
        ("presentation", "presentation"),
        ("manifest", "manifest"),
    )
)
KIND = "application/vnd.oasis.opendocument."


def file(body: str, kind: str = "text", styles: str = "", parts: dict[str, str] | None = None) -> bytes:
    content = f"<office:automatic-styles>{styles}</office:automatic-styles>"
    content += f"<office:body><office:{kind}>{body}</office:{kind}></office:body>"
    return zipped(
        {
            "mimetype": KIND + kind,
            "content.xml": f"<office:document-content {SPACES}>{content}</office:document-content>",
            **{name: f"<x {SPACES}>{part}</x>" for name, part in (parts or {}).items()},
        }
    )


def document(body: str, kind: str = "text", styles: str = "", parts: dict[str, str] | None = None) -> Document:
    return check(read("a.odt", file(body, kind, styles, parts)))


def p(inner: str, tag: str = "p", **attributes: object) -> str:
    said = "".join(f' text:{name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f"<text:{tag}{said}>{inner}</text:{tag}>"


def cells(*texts: str) -> str:
    inner = "".join(f"<table:table-cell>{p(text) if text else ''}</table:table-cell>" for text in texts)
    return f"<table:table-row>{inner}</table:table-row>"


def test_a_text_is_read_in_order() -> None:
    """Headings, paragraphs, lists in lists, tables and boxes stand as on the page; what is deleted does not."""
    body = (
        f"<text:tracked-changes>{p('deleted')}</text:tracked-changes>"
        + p("The whole", style_name="P1")
        + p("One", "h", outline_level=1)
        + p(
            'a<text:s text:c="2"/>b<text:tab/>c<text:line-break/>  d\n <text:span>bold</text:span>'
            " <text:a>link</text:a>"
        )
        + "<text:list><text:list-item>"
        + p("first")
        + f"<text:list><text:list-item>{p('inner')}</text:list-item></text:list></text:list-item>"
        + f"<text:list-item>{p('second')}</text:list-item></text:list>"
        + p("Two", "h", outline_level=2)
        + f"<table:table><table:table-header-rows>{cells('H', 'I')}</table:table-header-rows>"
        + f"{cells('x', '')}</table:table>"
        + p(f"before <draw:frame><draw:text-box>{p('boxed')}</draw:text-box></draw:frame>after")
        + f"<text:section>{p('last')}</text:section>"
    )
    styles = '<style:style style:name="P1" style:parent-style-name="Title"/>'
    made = document(body, styles=styles)
    assert made.text == (
        "The whole\n\nOne\n\na  b\tc\n d bold link\n\nfirst\ninner\nsecond\n\n"
        "Two\n\nH | I\nx\n\nbefore after\n\nboxed\n\nlast"
    )
    assert [section.heading_path for section in made.sections] == [
        ("The whole",),
        ("The whole", "One"),
        ("The whole", "One", "Two"),
    ]
    assert made.title == "The whole"


def test_notes_and_comments_follow_their_paragraph() -> None:
    """A note's number is no text, and a comment is called one."""
    body = f"<text:note-body>{p('the note')}</text:note-body>"
    note = f"<text:note><text:note-citation>1</text:note-citation>{body}</text:note>"
    comment = f"<office:annotation>{p('really?')}</office:annotation>"
    assert document(p(f"claim{note}, so{comment}.") + p("next")).text == (
        "claim, so.\n\nthe note\n\nComment: really?\n\nnext"
    )


def test_headers_footers_and_the_title_come_from_their_parts() -> None:
    """Each line of headers and footers stands once, without page numbers; the title is the author's."""
    number = p("<text:page-number>3</text:page-number>")
    styles = (
        f"<style:master-page><style:header>{p('ACME')}</style:header><style:footer>{p('ACME')}</style:footer>"
        f"</style:master-page><style:master-page><style:footer>{number}{p('Rev B')}</style:footer></style:master-page>"
    )
    meta = '<office:meta><d:title xmlns:d="http://purl.org/dc/elements/1.1/">My plan</d:title></office:meta>'
    made = document(p("body"), parts={"styles.xml": styles, "meta.xml": meta})
    assert made.text == "body\n\nACME\nRev B"
    assert outline(made)[-1] == ((), "ACME\nRev B")
    assert made.title == "My plan"


def test_sheets_are_marked_by_row() -> None:
    """Sheets are sections; repeated rows and cells are counted, not copied without end; hidden sheets are left out."""
    row = "<table:table-row{}>{}</table:table-row>"
    gap = row.format(' table:number-rows-repeated="1000000"', "<table:table-cell/>")
    twice = f'<table:table-cell table:number-columns-repeated="2">{p("x")}</table:table-cell>'
    wide = '<table:table-cell table:number-columns-repeated="16384"/>'
    body = (
        f'<table:table table:name="Costs">{cells("Item", "Price")}{gap}{row.format("", twice + wide)}{cells("end")}'
        f'</table:table><table:table table:name="Secret" table:style-name="ta2">{cells("hidden")}</table:table>'
    )
    styles = '<style:style style:name="ta2"><style:table-properties table:display="false"/></style:style>'
    made = document(body, "spreadsheet", styles)
    assert made.text == "Costs\n\nItem | Price\n\nx | x\nend"
    assert [dict(mark.position) for mark in made.marks] == [
        {"sheet": "Costs"},
        {"sheet": "Costs", "row": 1},
        {"sheet": "Costs", "row": 1_000_002},
        {"sheet": "Costs", "row": 1_000_003},
    ]
    assert made.metadata == {"hidden_sheets": 1}


@pytest.mark.parametrize("text", ["a", ""])
def test_repeated_cells_are_bounded(text: str) -> None:
    """A small file whose cells say that they stand there a thousand times each is refused, and quickly."""
    one = f'<table:table-cell table:number-columns-repeated="1000">{p(text)}</table:table-cell>'
    sheet = f'<table:table table:name="S"><table:table-row>{one * 6_000}</table:table-row></table:table>'
    started = time.perf_counter()
    assert reason_of("a.ods", file(sheet, "spreadsheet")) == "limit"
    assert time.perf_counter() - started < 10


def test_slides_are_marked_by_number() -> None:
    """The title comes first and heads the slide; the notes come last; what the program fills in is left out."""

    def frame(text: str, kind: str = "") -> str:
        said = f' presentation:class="{kind}"' if kind else ""
        return f"<draw:frame{said}><draw:text-box>{p(text)}</draw:text-box></draw:frame>"

    notes = f"<presentation:notes>{frame('say it', 'notes')}{frame('9', 'page-number')}</presentation:notes>"
    body = (
        f"<draw:page>{frame('first')}{frame('Title', 'title')}<draw:g>{frame('in a group')}</draw:g>"
        f"<draw:custom-shape>{p('shape')}</draw:custom-shape>{notes}</draw:page>"
        f"<draw:page/><draw:page>{frame('third')}</draw:page>"
    )
    made = document(body, "presentation")
    assert made.text == "Title\n\nfirst\n\nin a group\n\nshape\n\nsay it\n\nthird"
    assert [(dict(mark.position), made.text[mark.start :][:5]) for mark in made.marks] == [
        ({"slide": 1}, "Title"),
        ({"slide": 3}, "third"),
    ]
    assert [section.heading_path for section in made.sections] == [("Title",), ()]


def test_encrypted_and_empty_files_are_told() -> None:
    """Encryption stands in the manifest; a text without words is empty, one with pictures has no text."""
    locked = "<manifest:file-entry><manifest:encryption-data/></manifest:file-entry>"
    assert reason_of("a.odt", file(p("words"), parts={"META-INF/manifest.xml": locked})) == "password"
    assert reason_of("a.odt", file(p(" "))) == "empty"
    assert reason_of("a.odt", file("", parts={"Pictures/1.png": ""})) == "no_text"
    assert reason_of("a.odt", file("", parts={"Thumbnails/thumbnail.png": ""})) == "empty"
    assert reason_of("a.odt", zipped({"mimetype": KIND + "text"})) == "damaged"


@pytest.mark.parametrize("kind", ["text", "spreadsheet", "presentation"])
@given(st.lists(st.tuples(st.integers(0, 3_000), st.binary(min_size=1, max_size=4)), max_size=6))
@settings(max_examples=80, deadline=None)
def test_parts_with_damage_are_read_or_rejected(kind: str, changes: list[tuple[int, bytes]]) -> None:
    """Bytes written over the content lead to a document or a reason and never to a crash."""
    name = "content.xml"
    inner = (
        p("One", "h") + f'<table:table table:name="x">{cells("a", "b")}</table:table><draw:page>{p("y")}</draw:page>'
    )
    part = bytearray(f"<x {SPACES}><office:body><office:{kind}>{inner}</office:{kind}></office:body></x>".encode())
    for at, new in changes:
        part[at % len(part) : at % len(part) + len(new)] = new
    assert reason_of("a.odt", zipped({"mimetype": KIND + kind, name: bytes(part)})) in ("", "damaged", "empty", "limit")


def test_comments_of_slides_and_cells_are_left_out() -> None:
    """As in PowerPoint and Excel; what they hang on is read."""
    said = f"<office:annotation>{p('said of it')}</office:annotation>"
    frame = f"<draw:frame><draw:text-box>{p('words')}</draw:text-box></draw:frame>"
    assert document(f"<draw:page>{said}{frame}</draw:page>", "presentation").text == "words"
    row = f"<table:table-row><table:table-cell>{said}{p('1')}</table:table-cell></table:table-row>"
    sheet = f'<table:table table:name="S">{row}{cells("2")}</table:table>'
    assert document(sheet, "spreadsheet").text == "S\n\n1\n2"
