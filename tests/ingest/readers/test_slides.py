import io
from typing import Any

import pptx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from ingest.readers.registry import read
from ingest.types import Document
from tests.ingest.readers.documents import check, outline, reason_of
from tests.ingest.readers.zipped import members_of, zipped

BOX = (Inches(1), Inches(1), Inches(3), Inches(1))
TITLED, BLANK = 5, 6  # layouts of the default template: a title only, nothing


def box(slide: Any, text: str) -> Any:
    shape = slide.shapes.add_textbox(*BOX)
    shape.text_frame.text = text
    return shape


def saved(show: Any) -> bytes:
    stream = io.BytesIO()
    show.save(stream)
    return stream.getvalue()


def document(show: Any) -> Document:
    return check(read("a.pptx", saved(show)))


def written() -> Any:
    """Three slides: shapes of every kind, one without a title, one with notes."""
    show = pptx.Presentation()
    first = show.slides.add_slide(show.slide_layouts[TITLED])
    box(first, "before the title\nsecond line")
    first.shapes.title.text = "Results\vof 2024"
    first.shapes._spTree.append(first.shapes.title._element)  # the title is the last shape of the file
    group = first.shapes.add_group_shape()
    group.shapes.add_textbox(*BOX).text_frame.text = "in a group"
    grid = first.shapes.add_table(2, 2, *BOX).table
    for number, text in enumerate(("a", "b", "c", "")):
        grid.cell(number // 2, number % 2).text = text
    second = show.slides.add_slide(show.slide_layouts[BLANK])
    box(second, "no title here")
    third = show.slides.add_slide(show.slide_layouts[TITLED])
    third.shapes.title.text = "Outlook"
    data = CategoryChartData()
    data.categories = ["East", "West"]
    data.add_series("Sales", (1.5, 2))
    data.add_series("Cost", (3, None))
    chart = third.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *BOX, data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "By region"
    third.notes_slide.notes_text_frame.text = "Say this slowly."
    return show


def test_slides_are_sections_with_their_numbers() -> None:
    """The title first, shapes in order, groups, tables, charts and notes; a slide without a title has no heading."""
    made = document(written())
    assert made.text == (
        "Results of 2024\n\nbefore the title\nsecond line\n\nin a group\n\na | b\nc\n\n"
        "no title here\n\n"
        "Outlook\n\nBy region\n\nSales | Cost\nEast | 1.5 | 3\nWest | 2\n\nSay this slowly."
    )
    assert outline(made) == [
        (("Results of 2024",), "Results of 2"),
        ((), "no title her"),
        (("Outlook",), "Outlook\n\nBy "),
    ]
    assert [(mark.start, dict(mark.position)) for mark in made.marks] == [
        (section.start, {"slide": number}) for number, section in enumerate(made.sections, 1)
    ]
    assert made.title == "Results of 2024"
    assert made.metadata == {"slides": 3}


def test_what_slides_repeat_stands_once() -> None:
    """A footer stands on the first slide that has it; numbers and dates that the program fills in are left out."""
    show = pptx.Presentation()
    for number in (1, 2):
        slide = show.slides.add_slide(show.slide_layouts[BLANK])
        for kind, text in (("ftr", "ACME"), ("sldNum", str(number)), ("dt", "")):
            shape = box(slide, text)
            properties = shape._element.nvSpPr.nvPr
            properties.append(properties.makeelement(f"{{{properties.nsmap['p']}}}ph", {"type": kind}))
            if kind == "dt":
                paragraph = shape.text_frame.paragraphs[0]._p
                field = paragraph.makeelement(f"{{{paragraph.nsmap['a']}}}fld", {"id": "{1}", "type": "datetime1"})
                filled = field.makeelement(f"{{{paragraph.nsmap['a']}}}t", {})
                filled.text = "1/2/2024"
                field.append(filled)
                paragraph.append(field)
        box(slide, f"text {number}")
    assert document(show).text == "ACME\n\ntext 1\n\ntext 2"


def test_slides_without_text_keep_the_numbers_of_the_others() -> None:
    """An empty slide has no section, and a show of empty slides is empty."""
    show = pptx.Presentation()
    for text in ("", "second", "", "fourth", ""):
        slide = show.slides.add_slide(show.slide_layouts[BLANK])
        if text:
            box(slide, text)
    made = document(show)
    assert [dict(mark.position) for mark in made.marks] == [{"slide": 2}, {"slide": 4}]
    assert len(made.sections) == 2
    empty = pptx.Presentation()
    empty.slides.add_slide(empty.slide_layouts[BLANK])
    assert reason_of("a.pptx", saved(empty)) == "empty"
    assert reason_of("a.pptx", saved(pptx.Presentation())) == "empty"


@pytest.mark.parametrize(
    "kind",
    [
        b"vnd.openxmlformats-officedocument.presentationml.slideshow.main+xml",
        b"vnd.openxmlformats-officedocument.presentationml.template.main+xml",
        b"vnd.ms-powerpoint.presentation.macroEnabled.main+xml",
        b"vnd.ms-powerpoint.slideshow.macroEnabled.main+xml",
    ],
)
def test_shows_templates_and_macros_are_read(kind: bytes) -> None:
    """The variants read like a plain presentation."""
    members = members_of(saved(written()))
    types = members["[Content_Types].xml"]
    plain = b"vnd.openxmlformats-officedocument.presentationml.presentation.main+xml"
    assert plain in types
    changed = zipped(members | {"[Content_Types].xml": types.replace(plain, kind)})
    assert check(read("a.ppsx", changed)).text == document(written()).text


def test_a_diagram_is_read_by_its_points() -> None:
    """The text of SmartArt lies in a part of its own."""
    members = members_of(saved(written()))
    name, relations = "ppt/slides/slide2.xml", "ppt/slides/_rels/slide2.xml.rels"
    frame = (
        b'<p:graphicFrame><dgm:relIds xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
        b'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" r:dm="d1"/></p:graphicFrame>'
    )
    members[name] = members[name].replace(b"</p:spTree>", frame + b"</p:spTree>")
    relation = b'<Relationship Id="d1" Type="http://x/diagramData" Target="../diagrams/data1.xml"/>'
    members[relations] = members[relations].replace(b"</Relationships>", relation + b"</Relationships>")
    points = "".join(f"<d:pt><d:t><a:p><a:r><a:t>{text}</a:t></a:r></a:p></d:t></d:pt>" for text in ("Plan", "", "Do"))
    members["ppt/diagrams/data1.xml"] = (
        f'<d:dataModel xmlns:d="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
        f'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main">{points}</d:dataModel>'
    ).encode()
    assert "no title here\n\nPlan\nDo\n\nOutlook" in check(read("a.pptx", zipped(members))).text


SAMPLE = members_of(saved(written()))
SLIDES = sorted(name for name in SAMPLE if name.startswith(("ppt/slides/", "ppt/charts/", "ppt/presentation", "_rels")))


@given(
    st.sampled_from(SLIDES), st.lists(st.tuples(st.integers(0, 5_000), st.binary(min_size=1, max_size=4)), max_size=6)
)
@settings(max_examples=40, deadline=None)
def test_parts_with_damage_are_read_or_rejected(name: str, changes: list[tuple[int, bytes]]) -> None:
    """Bytes written over a part lead to a document or a reason and never to a crash."""
    part = bytearray(SAMPLE[name])
    for at, new in changes:
        part[at % len(part) : at % len(part) + len(new)] = new
    assert reason_of("a.pptx", zipped(SAMPLE | {name: bytes(part)})) in ("", "damaged", "empty")


@pytest.mark.parametrize("name", SLIDES)
def test_missing_parts_are_no_crash(name: str) -> None:
    """Without a part, or with an empty one, a presentation is read or rejected."""
    rest = {other: part for other, part in SAMPLE.items() if other != name}
    assert reason_of("a.pptx", zipped(rest)) in ("", "damaged", "empty")
    assert reason_of("a.pptx", zipped(SAMPLE | {name: b""})) in ("", "damaged", "empty")
