import io

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.readers import flow, xml_parts
from ingest.readers.registry import read
from ingest.types import Document
from tests.ingest.readers.documents import check, outline, reason_of
from tests.ingest.readers.zipped import W, members_of, word_file, zipped


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(inner: str, style: str = "", properties: str = "") -> str:
    style = f'<w:pStyle w:val="{style}"/>' if style else ""
    return f"<w:p><w:pPr>{style}{properties}</w:pPr>{inner if '<' in inner else run(inner)}</w:p>"


def cell(inner: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{inner if '<' in inner else paragraph(inner)}</w:tc>"


def table(*rows: str) -> str:
    return f"<w:tbl>{''.join(f'<w:tr>{cells}</w:tr>' for cells in rows)}</w:tbl>"


def document(body: str, parts: dict[str, str] | None = None) -> Document:
    return check(read("a.docx", word_file(body, parts)))


def text(body: str, parts: dict[str, str] | None = None) -> str:
    return document(body, parts).text


def written() -> bytes:
    """A document as python-docx writes it."""
    made = docx.Document()
    made.core_properties.title = "A good title"
    made.add_heading("The whole", 0)
    made.add_paragraph("Before.")
    made.add_heading("Part one", 1)
    for item in ("first item", "second item"):
        made.add_paragraph(item, style="List Bullet")
    made.add_heading("Detail", 2)
    grid = made.add_table(2, 2)
    for number, inner in enumerate(("a", "b", "c", "d")):
        grid.cell(number // 2, number % 2).text = inner
    made.add_heading("Part two", 1)
    said = made.add_paragraph("Said.")
    made.add_comment(said.runs, "Is it so?", author="Ann", initials="A")
    made.sections[0].header.paragraphs[0].text = "Secret plan"
    made.sections[0].footer.paragraphs[0].text = "Secret plan"
    stream = io.BytesIO()
    made.save(stream)
    return stream.getvalue()


def test_a_written_document_is_read_in_order() -> None:
    """Headings, paragraphs, lists and tables stand as on the page, header and footer once, in their section."""
    made = check(read("a.docx", written()))
    assert made.text == (
        "The whole\n\nBefore.\n\nPart one\n\nfirst item\nsecond item\n\nDetail\n\na | b\nc | d\n\n"
        "Part two\n\nSaid.\n\nComment: Is it so?\n\nSecret plan"
    )
    assert outline(made) == [
        (("The whole",), "The whole\n\nB"),
        (("The whole", "Part one"), "Part one\n\nfi"),
        (("The whole", "Part one", "Detail"), "Detail\n\na | "),
        (("The whole", "Part two"), "Part two\n\nSa"),
        ((), "Secret plan"),
    ]
    assert made.title == "A good title"
    assert made.marks == ()
    assert all(section.page is None for section in made.sections)


def test_the_first_heading_is_the_title_where_no_author_wrote_one() -> None:
    """What python-docx and Word call every document is no title."""
    made = docx.Document()
    made.core_properties.title = "Word Document"
    made.add_heading("My subject", 1)
    stream = io.BytesIO()
    made.save(stream)
    assert check(read("a.docx", stream.getvalue())).title == "My subject"
    assert document(paragraph("x")).title == ""


STYLES = f"""<w:styles {W}>
<w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
<w:style w:type="paragraph" w:styleId="Eigene"><w:name w:val="Kapitel"/><w:basedOn w:val="berschrift1"/></w:style>
<w:style w:type="paragraph" w:styleId="Lvl"><w:name w:val="Mine"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="Toc"><w:name w:val="TOC Heading"/><w:basedOn w:val="berschrift1"/>
<w:pPr><w:outlineLvl w:val="9"/></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="A"><w:name w:val="A"/><w:basedOn w:val="B"/></w:style>
<w:style w:type="paragraph" w:styleId="B"><w:name w:val="B"/><w:basedOn w:val="A"/></w:style>
</w:styles>"""


def test_headings_are_told_by_style_and_outline() -> None:
    """By a style's name whatever its id, by the style it is based on, by outline level; level 9 is body text."""
    body = (
        paragraph("One", "berschrift1")
        + paragraph("Two", "Lvl")
        + paragraph("Three", "Eigene")
        + paragraph("Contents", "Toc")
        + paragraph("Circle", "A")
        + paragraph("Direct", "", '<w:outlineLvl w:val="2"/>')
        + paragraph("", "berschrift1")
    )
    assert [section.heading_path for section in document(body, {"styles": STYLES}).sections] == [
        ("One",),
        ("One", "Two"),
        ("Three",),
        ("Three", "Direct"),
    ]


def test_inline_text_is_what_a_reader_sees() -> None:
    """Links, insertions, content controls, field results, tabs and breaks are text; deletions, field codes and hidden
    runs are not.
    """
    body = paragraph(
        run("a ")
        + f"<w:hyperlink>{run('link ')}</w:hyperlink>"
        + f"<w:ins>{run('new ')}</w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
        + f"<w:moveFrom>{run('from ')}</w:moveFrom><w:moveTo>{run('to ')}</w:moveTo>"
        + f"<w:sdt><w:sdtContent>{run('control ')}</w:sdtContent></w:sdt>"
        + '<w:r><w:instrText>HYPERLINK "x"</w:instrText></w:r>'
        + f"<w:fldSimple>{run('field ')}</w:fldSimple>"
        + "<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>"
        + '<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>seen</w:t></w:r>'
        + "<w:r><w:tab/><w:t>x</w:t><w:noBreakHyphen/><w:t>y</w:t><w:br/><w:t>z</w:t></w:r>"
        + f"<w:ruby><w:rt>{run('kana')}</w:rt><w:rubyBase>{run('字')}</w:rubyBase></w:ruby>"
    )
    assert text(body) == "a link new to control field seen\tx\u2011y\nz字"


def test_equations_are_one_line() -> None:
    """Fractions, powers and indices are written out."""
    body = paragraph(
        "<m:oMathPara><m:oMath><m:f><m:num><m:r><m:t>a</m:t></m:r></m:num><m:den><m:r><m:t>b</m:t></m:r></m:den></m:f>"
        "<m:r><m:t>=</m:t></m:r><m:sSup><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup>"
        "</m:oMath></m:oMathPara>"
    )
    assert text(body) == "a/b=x^2"


def test_text_boxes_stand_once_behind_their_paragraph() -> None:
    """Of the two forms in which Word writes a box one is read, with boxes in boxes."""
    inner = f"<w:txbxContent>{paragraph('inner')}</w:txbxContent>"
    box = f"<w:txbxContent>{paragraph(run('in the box') + f'<w:r><w:pict>{inner}</w:pict></w:r>')}</w:txbxContent>"
    both = (
        f"<mc:AlternateContent><mc:Choice><w:drawing>{box}</w:drawing></mc:Choice>"
        f"<mc:Fallback><w:pict>{box}</w:pict></mc:Fallback></mc:AlternateContent>"
    )
    assert text(paragraph(run("before") + f"<w:r>{both}</w:r>" + run(" and after")) + paragraph("next")) == (
        "before and after\n\nin the box\n\ninner\n\nnext"
    )


def test_notes_follow_the_paragraph_that_refers_to_them() -> None:
    """Footnotes and endnotes are read where they are referred to, once, and separators never."""
    notes = (
        f'<w:footnotes {W}><w:footnote w:id="-1" w:type="separator">{paragraph("----")}</w:footnote>'
        f'<w:footnote w:id="2">{paragraph("the note")}</w:footnote></w:footnotes>'
    )
    ends = f'<w:endnotes {W}><w:endnote w:id="2">{paragraph("the end")}</w:endnote></w:endnotes>'
    reference = '<w:r><w:footnoteReference w:id="2"/></w:r>'
    body = paragraph(run("claim") + reference) + paragraph(run("again") + reference)
    body += table(cell(paragraph(run("in a cell") + '<w:r><w:endnoteReference w:id="2"/></w:r>')) + cell("b"))
    body += paragraph(run("gone") + '<w:r><w:commentReference w:id="9"/></w:r>')
    assert text(body, {"footnotes": notes, "endnotes": ends}) == (
        "claim\n\nthe note\n\nagain\n\nin a cell | b\n\nthe end\n\ngone"
    )


def test_tables_are_rows() -> None:
    """Rows are lines; empty, merged and deleted cells are left out; one column is layout; a table in a cell is text."""
    merged = cell("hidden", "<w:vMerge/>")
    deleted = f"<w:trPr><w:del/></w:trPr>{cell('x')}{cell('y')}"
    nested = cell(paragraph("left") + table(cell("n1") + cell("n2")))
    body = table(
        cell("a") + cell("") + cell("c"),
        merged + cell("two\nlines"),
        deleted,
        cell("") + cell(""),
        nested + cell("right"),
    )
    assert text(paragraph("before") + body + paragraph("after")) == (
        "before\n\na | c\ntwo lines\nleft n1 | n2 | right\n\nafter"
    )
    assert text(table(cell(paragraph("one") + paragraph("two")), cell("three"))) == "one\n\ntwo\n\nthree"


def test_headers_and_footers_stand_once_without_page_numbers() -> None:
    """Each line once however many headers repeat it; a line that is a page number is left out, a year is not."""
    field = "<w:r><w:instrText> PAGE </w:instrText></w:r>"
    parts = {
        "header1": f"<w:hdr {W}>{paragraph('ACME')}{paragraph('2024')}</w:hdr>",
        "header2": f"<w:hdr {W}>{paragraph('ACME')}{table(cell('Rev') + cell('B7'))}</w:hdr>",
        "footer1": f"<w:ftr {W}>{paragraph(run('Page ') + field + run('3 of 7'))}{paragraph('Confidential')}</w:ftr>",
    }
    assert text(paragraph("body"), parts) == "body\n\nACME\n2024\nRev | B7\nConfidential"
    assert (
        reason_of("a.docx", word_file("", {"footer1": f"<w:ftr {W}>{paragraph(field + run('3'))}</w:ftr>"})) == "empty"
    )


def test_the_strict_form_and_missing_parts_are_read() -> None:
    """ISO 29500's names are known, and a relation to a part that is not there does no harm."""
    members = members_of(word_file(paragraph("Head", "berschrift1") + paragraph("words"), {"styles": STYLES}))
    strict = {
        name: part.replace(b"http://schemas.openxmlformats.org/", b"http://purl.oclc.org/ooxml/").replace(
            b"/2006/", b"/"
        )
        if name.startswith("word/")
        else part
        for name, part in members.items()
    }
    relations = "word/_rels/document.xml.rels"
    strict[relations] = members[relations].replace(
        b"</Relationships>", b'<Relationship Id="n" Type="http://x/image" Target="../NULL"/></Relationships>'
    )
    made = check(read("a.docx", zipped(strict)))
    assert made.text == "Head\n\nwords"
    assert made.title == "Head"


def test_the_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """One character or style too many is `limit`, before the rest is read."""
    monkeypatch.setattr(flow, "MAX_CHARACTERS", 10)
    assert text(paragraph("x" * 10)) == "x" * 10
    assert reason_of("a.docx", word_file(paragraph("x" * 11))) == "limit"
    styles = "".join(f'<w:style w:styleId="s{number}"/>' for number in range(10_001))
    assert reason_of("a.docx", word_file(paragraph("x"), {"styles": f"<w:styles {W}>{styles}</w:styles>"})) == "limit"


SAMPLE = members_of(written())
RICH = members_of(
    word_file(
        paragraph("Head", "berschrift1")
        + paragraph(run("claim") + '<w:r><w:footnoteReference w:id="2"/></w:r>')
        + table(cell("a") + cell("b")),
        {
            "styles": STYLES,
            "footnotes": f'<w:footnotes {W}><w:footnote w:id="2">{paragraph("n")}</w:footnote></w:footnotes>',
        },
    )
)


@given(
    st.sampled_from(sorted(RICH)),
    st.lists(st.tuples(st.integers(0, 5_000), st.binary(min_size=1, max_size=4)), max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_parts_with_damage_are_read_or_rejected(name: str, changes: list[tuple[int, bytes]]) -> None:
    """Bytes written over a part, in a container that is sound, lead to a document or a reason and never to a crash."""
    part = bytearray(RICH[name])
    for at, new in changes:
        part[at % len(part) : at % len(part) + len(new)] = new
    assert reason_of("a.docx", zipped(RICH | {name: bytes(part)})) in ("", "damaged", "empty", "unsupported")


def test_missing_parts_are_no_crash() -> None:
    """Without any one of its parts a document is read or rejected."""
    for name in SAMPLE:
        rest = {other: part for other, part in SAMPLE.items() if other != name}
        assert reason_of("a.docx", zipped(rest)) in ("", "damaged", "unsupported"), name
        assert reason_of("a.docx", zipped(SAMPLE | {name: b""})) in ("", "damaged", "unsupported"), name


def test_an_emoji_is_read_from_its_fallback() -> None:
    """Word writes an emoji as a symbol of its own and, as an alternative, as a character."""
    emoji = (
        "<w:r><mc:AlternateContent><mc:Choice Requires='w16se'><wps:symEx/></mc:Choice>"
        "<mc:Fallback><w:t>😊</w:t></mc:Fallback></mc:AlternateContent></w:r>"
    )
    assert text(paragraph(run("Nice ") + emoji + run("!"))) == "Nice 😊!"


def test_the_tags_of_all_parts_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are each within the limit are `limit` where they are not so together."""
    header = f"<w:hdr {W}>{'<w:p/>' * 60}</w:hdr>"
    parts = {f"header{number}": header for number in range(3)}
    monkeypatch.setattr(xml_parts, "MAX_TAGS", 160)
    assert reason_of("a.docx", word_file(paragraph("words"), dict(list(parts.items())[:1]))) == ""
    assert reason_of("a.docx", word_file(paragraph("words"), parts)) == "limit"
