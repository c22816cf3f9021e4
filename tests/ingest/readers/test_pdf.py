import io
from collections.abc import Sequence

import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from ingest.errors import Rejected
from ingest.readers import pdf
from ingest.readers.registry import read
from tests.ingest.readers.documents import check, reason_of


def contents(text: str) -> bytes:
    escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return f"BT /F1 12 Tf 72 700 Td ({escaped}) Tj ET".encode("latin-1")


def make(pages: Sequence[str | bytes | None], title: str = "", password: str | None = None) -> bytes:
    """A PDF with a page for each text; bytes are a page's operators as they are, None is a page without contents."""
    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {NameObject(key): NameObject(name) for key, name in
         (("/Type", "/Font"), ("/Subtype", "/Type1"), ("/BaseFont", "/Helvetica"))}
    )  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(595, 842)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        if text is not None:
            stream = DecodedStreamObject()
            stream.set_data(text if isinstance(text, bytes) else contents(text))
            page[NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, "owner", algorithm="AES-256")
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


BROKEN = b"BT /F1 12 Tf (x) Tj ET [ (unclosed"


def test_pages_are_sections() -> None:
    """Each page with text is a section with its number that ends with the blank line after it; empty ones have none."""
    document = check(read("a.pdf", make(["first page", None, "third (page)"], title="A good title")))
    assert [(document.text[s.start : s.end], s.page, s.heading_path) for s in document.sections] == [
        ("first page\n\n", 1, ()),
        ("third (page)\n\n", 3, ()),
    ]
    assert document.title == "A good title"
    assert document.metadata == {"pages": 3}
    assert document.content_type == "application/pdf"


@pytest.mark.parametrize(
    "title",
    ["Microsoft Word - report.doc", "untitled", "Untitled-1", "report.pdf", "PowerPoint Presentation", "x", " \x01"],
)
def test_titles_that_no_author_wrote_are_ignored(title: str) -> None:
    """File names and what programs call every document are no title."""
    assert check(read("a.pdf", make(["text"], title=title))).title == ""


def test_a_password_is_asked_for_only_where_it_is_needed() -> None:
    """An empty user password opens the document; another one is `password`, with what to do."""
    assert check(read("a.pdf", make(["open"], password=""))).text == "open\n\n"
    with pytest.raises(Rejected, match=r"password: .*save a copy without one"):
        read("a.pdf", make(["locked"], password="secret"))


def test_a_page_that_fails_is_counted() -> None:
    """The other pages are read; where none can be, the document is damaged."""
    document = check(read("a.pdf", make(["one", BROKEN, "three"])))
    assert document.metadata == {"pages": 3, "pages_failed": 1}
    assert [section.page for section in document.sections] == [1, 3]
    assert reason_of("a.pdf", make([BROKEN])) == "damaged"


def test_no_text_is_said() -> None:
    """Pages without text, and a document without pages, are `no_text`."""
    assert reason_of("a.pdf", make([None, None])) == "no_text"
    assert reason_of("a.pdf", make([])) in ("no_text", "damaged")


def test_the_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page or one character too many is `limit`; characters are counted as pages come."""
    data = make(["a" * 8, "b" * 8, BROKEN])
    monkeypatch.setattr(pdf, "MAX_PAGES", 2)
    with pytest.raises(Rejected, match="limit: 3 pages, the limit is 2"):
        read("a.pdf", data)
    monkeypatch.setattr(pdf, "MAX_PAGES", 3)
    check(read("a.pdf", data))
    monkeypatch.setattr(pdf, "MAX_CHARACTERS", 19)
    with pytest.raises(Rejected, match="limit: more than 19 characters on the first 2 of 3 pages"):
        read("a.pdf", data)


def test_characters_that_only_look_right_are_mapped_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Radicals become ideographs, surrogates are paired or replaced and NUL goes, before offsets are taken."""
    monkeypatch.setattr(pypdf.PageObject, "extract_text", lambda page: " \u2f83\u2ec5\uf900\0\ud83d\ude00\ud83d\n")
    document = check(read("a.pdf", make(["x", "y"])))
    assert document.text == "自见豈😀\ufffd\n\n" * 2


@pytest.mark.parametrize("percent", range(0, 100, 7))
def test_a_truncated_file_is_read_in_part_or_rejected(percent: int) -> None:
    """Cut anywhere, the file gives a document or a reason; nothing hangs or escapes."""
    data = make(["one", "two", "three"])
    assert reason_of("a.pdf", data[: len(data) * percent // 100]) in ("", "empty", "damaged", "no_text", "unsupported")


@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=6)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_mutated_files_are_read_or_rejected(changes: list[tuple[int, bytes]]) -> None:
    """Random bytes written over a PDF lead to a valid document or a rejection of its own, never to a crash."""
    data = bytearray(SAMPLE)
    for place, new in changes:
        data[place % len(data) : place % len(data) + len(new)] = new
    assert reason_of("a.pdf", bytes(data)) != "crash"


@pytest.mark.soak
@given(st.data())
@settings(max_examples=10_000, deadline=None)
def test_many_mutated_files_are_read_or_rejected(draw: st.DataObject) -> None:
    """The long form, 10,000 files."""
    data = bytearray(SAMPLE)
    for place, new in draw.draw(st.lists(st.tuples(st.integers(0, len(data)), st.binary(min_size=1, max_size=9)))):
        data[place : place + len(new)] = new
    assert reason_of("a.pdf", bytes(data)) != "crash"


SAMPLE = make(["Hello world", "second page", "third"], title="Sample")
