"""RTF, written by hand; an independent reader checks the common part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from striprtf.striprtf import rtf_to_text

from ingest.readers.registry import read
from tests.ingest.readers.documents import check, outline, reason_of

HEAD = r"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fswiss Arial;}{\f1\fcharset128 MS Gothic;}{\f2\fcharset204 A;}}"


def text_of(body: str, head: str = HEAD) -> str:
    return check(read("a.rtf", f"{head}{body}}}".encode("latin-1"))).text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (r"one\par two\line three", "one\n\ntwo\nthree"),
        (r"caf\'e9 \u8364? \ldblquote x\rdblquote  \emdash\~\{\}\\", "café € “x” —\u00a0{}\\"),
        (r"{\uc0\u20013\u25991} {\uc2\u233 ab}c", "中文 éc"),
        (r"\u-10179?\u-8704?", "😀"),
        (r"{\f1\'93\'fa\'96\'7b\'8c\'ea} {\f1\'83A\'83\'42}", "日本語 アィ"),
        (r"{\f2\'cf\'f0\'e8\'e2\'e5\'f2}", "Привет"),
        (r"seen{\v unseen}{\deleted gone}\v0 seen", "seenseen"),
        (r"{\field{\*\fldinst{HYPERLINK \"http://x\"}}{\fldrslt{link}}}", "link"),
        (r"{\pict\pngblip 89504e47}{\*\generator X;}{\header h}{\footer f}{\stylesheet s;}text", "text"),
        (r"word{\footnote the note} on", "word the note on"),
        (r"{\upr{ascii}{\*\ud{\u20013?}}}", "中"),
        (r"\trowd\intbl a\cell b\cell\row\trowd\intbl c\par d\cell e\cell\row\pard after", "a | b\nc d | e\n\nafter"),
        (r"x\bin4 ab{}y", "xy"),
        ("a\\\nb\nc", "a\n\nbc"),
    ],
)
def test_control_words_become_text(body: str, text: str) -> None:
    """Escapes, fonts' character sets, fields, tables and notes are read; pictures, styles and hidden text are not."""
    assert text_of(body) == text


def test_outline_levels_open_sections() -> None:
    """A paragraph with an outline level is a heading; the title is the document's own, else the first heading."""
    body = (
        r"{\info{\title Der Titel: \'e4}{\author N}}\pard\outlinelevel0 One\par\pard text\par"
        r"\pard\outlinelevel1 Two\par\pard x"
    )
    document = check(read("letter.txt", f"{HEAD}{body}}}".encode()))
    assert document.title == "Der Titel: ä"
    assert outline(document) == [(("One",), "One\n\ntext\n\n"), (("One", "Two"), "Two\n\nx")]
    assert document.content_type == "application/rtf"
    assert read("a.rtf", rb"{\rtf1\pard\outlinelevel0 One\par\pard x}").title == "One"


WORDS = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"], max_codepoint=0xFFFF), min_size=1, max_size=12)


@given(st.lists(WORDS, min_size=1, max_size=8))
def test_an_independent_reader_reads_the_same(paragraphs: list[str]) -> None:
    """Paragraphs of any letters, written as Unicode escapes, come out as striprtf reads them."""
    body = r"\par ".join(
        "".join(rf"\u{ord(c) - 0x10000 if ord(c) > 0x7FFF else ord(c)}?" for c in word) for word in paragraphs
    )
    rtf = f"{HEAD}{body}}}"
    assert text_of(body).split("\n\n") == rtf_to_text(rtf).strip().split("\n") == paragraphs


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{\\rtf1 }", "empty"),
        (b"{\\rtf1" + b"{" * 200_000, "limit"),
        (b"{\\rtf1 " + b"a" * 5_000_001 + b"}", "limit"),
        (b"{\\rtf1 words", ""),
        (b"{\\rtf1 words}}}}", ""),
        (b"{\\rtf1 a\\bin9999999999 b}", ""),
        (b"{\\rtf1\\ansicpg99999\\u99999999?\\f-1\\uc-5\\outlinelevel99 words\\par}", ""),
    ],
)
def test_broken_rtf_is_read_or_refused(data: bytes, reason: str) -> None:
    """Missing braces and absurd numbers are survived; depth and length are bounded."""
    assert reason_of("a.rtf", data) == reason


def test_hostile_fields_and_font_tables_take_linear_time() -> None:
    """Unfinished fields, fonts and escapes are stepped over once."""
    for piece in (b'{\\field{\\*\\fldinst{HYPERLINK "}}}', b"{\\fonttbl\\f0 x}", b"\\'", b"\\f1", b"{a}"):
        assert reason_of("a.rtf", b"{\\rtf1 words" + piece * 10_000) == ""


@given(st.lists(st.sampled_from([*r"\{}*';aé", "\\u", "\\par", "\\'e9", "\\*\\x", "\\cell", "\\row", "\\uc", "1"])))
def test_any_tokens_are_survived(tokens: list[str]) -> None:
    """Whatever the order of tokens, a document or a reason comes out."""
    assert reason_of("a.rtf", b"{\\rtf1 " + "".join(tokens).encode("latin-1")) != "crash"


def test_notes_numbers_and_boxes_stay_in_their_paragraph() -> None:
    """A heading with a list's number or a note in it is one, and a text box is read where it is anchored."""
    body = (
        r"\pard\outlinelevel0{\listtext\pard\plain 1.\tab}One{\footnote \pard\plain the note\par}\par\pard"
        r" before{\shp{\*\shpinst\shptop0{\sp{\sn a}{\sv b}}{\shptxt\pard in the box\par}}{\shprslt{\*\do x}}}after\par"
        r"{\header{\shp{\*\shpinst{\shptxt unseen\par}}}}"
    )
    document = check(read("a.rtf", f"{HEAD}{body}}}".encode()))
    assert [section.heading_path for section in document.sections] == [("1. One the note",)]
    assert " ".join(document.text.split()) == "1. One the note before in the box after"


def test_the_code_pages_of_macs_are_known() -> None:
    """Word for the Mac names its code page by a number of Windows that Python does not know."""
    assert text_of(r"It\'d5s caf\'8e", r"{\rtf1\mac\ansicpg10000 ") == "It\u2019s café"
