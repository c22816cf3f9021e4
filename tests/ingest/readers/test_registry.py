import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import Rejected
from ingest.readers import plain_text
from ingest.readers.content_types import BY_SUFFIX
from ingest.readers.registry import is_current, read
from tests.ingest.readers.documents import check, reason_of

SUPPORTED = {"pdf", *BY_SUFFIX}


@pytest.mark.soak
def test_a_long_pdf_is_read(data_folder: Callable[[str], Path]) -> None:
    """117 pages of German mathematics are 117 sections."""
    data = (data_folder("messy_docs") / "files" / "GeoTopo-komprimiert.pdf").read_bytes()
    document = check(read("GeoTopo-komprimiert.pdf", data))
    assert [section.page for section in document.sections] == list(range(1, 118))
    assert "Einführung" in document.text


def test_pages_of_a_real_pdf_are_cited_by_number(data_folder: Callable[[str], Path]) -> None:
    """Of 19 pages three are damaged: the 16 others keep their own numbers."""
    data = (data_folder("hostile_docs") / "files" / "testPDF_bad_page_303226.pdf").read_bytes()
    document = check(read("bad.pdf", data))
    assert document.metadata == {"pages": 19, "pages_failed": 3}
    assert [section.page for section in document.sections] == [p for p in range(1, 20) if p not in (2, 12, 13)]


def test_a_real_tree_of_documentation_is_read_whole(data_folder: Callable[[str], Path]) -> None:
    """All 155 files give a document whose text is the file's, and all but one have a title."""
    files = sorted((data_folder("docs_tree_en") / "files").rglob("*.*"))
    assert len(files) == 155
    titled = 0
    for file in files:
        data = file.read_bytes()
        document = check(read(file.name, data))
        assert document.text == data.decode("utf-8-sig")
        titled += bool(document.title)
    assert titled == 154  # one is a banner without a heading


def test_naughty_strings_are_texts(data_folder: Callable[[str], Path]) -> None:
    """Each of the 515 strings, as a file of every kind of text, is a valid document or has nothing to read."""
    strings = json.loads((data_folder("naughty_strings") / "blns.json").read_text(encoding="utf-8"))
    assert len(strings) == 515
    for string in strings:
        for path in ("a.md", "a.txt", "a.rst", "a.html", "a.py", "a.csv", "a.json"):
            assert reason_of(path, string.encode()) in ("", "empty", "no_text")
        assert check(read("a.txt", f"{'Words before it. ' * 4}{string}".encode())).text.startswith("Words")


def test_names_are_only_names() -> None:
    """A naughty name is not opened, and reads like any other."""
    for path in ("../../etc/passwd", "a\0b.txt", "a\n\x1b[31m.txt", "", ".", "CON", "\u202etxt.exe", "a" * 5_000):
        assert reason_of(path, b"words") in ("", "unsupported")


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.pdf", b"", "empty"),
        ("a.docx", b"", "empty"),
        ("a.txt", b" \n\t\x0b", "empty"),
        ("a.md", b"\x01\x02\x7f", "empty"),
        ("a.txt", b"\0" * 5_000, "empty"),
        ("a.txt", "\ufeff\u200b \u2028".encode(), "empty"),
        ("a.html", b"<script>words</script>", "empty"),
        ("a.txt", bytes(range(256)) * 4, "unsupported"),
        ("a.docx", b"words", "unsupported"),
        ("a.pdf", b"%PDF-1.4 and nothing more", "damaged"),
        ("a.txt", b"x" * 5_000_001, "limit"),
        ("a.md", b"#\n" * 100_002, "limit"),
        ("a.txt", b"words", ""),
        ("a.txt", b"<|endoftext|>", ""),
    ],
)
def test_each_reason_is_reached(path: str, data: bytes, reason: str) -> None:
    """Empty, wordless, unsupported, damaged and too long content is told apart."""
    assert reason_of(path, data) == reason


@pytest.mark.parametrize("error", [ValueError("the text"), RecursionError("the text"), MemoryError("the text")])
def test_whatever_a_reader_stumbles_over_is_a_crash(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Any exception becomes the reason `crash` with its name, and nothing of the document."""

    def fail(data: bytes) -> None:
        raise error

    monkeypatch.setattr(plain_text, "decode", fail)
    with pytest.raises(Rejected) as caught:
        read("a.txt", b"words")
    assert caught.value.reason == "crash"
    assert caught.value.detail == f"the reader failed ({type(error).__name__})"


def test_unsupported_files_are_called_by_their_kind() -> None:
    """The detail says what the file is, or which suffix has no reader."""
    for path, data, detail in (
        ("a.zip", b"PK\x03\x04", "damaged ZIP archive"),
        ("a.foo", b"* x", r"no reader for \.foo files"),
        ("a.txt", bytes(range(256)), "binary content under the name of a text"),
        (".hidden", b"x", "no reader for this kind of file"),
    ):
        with pytest.raises(Rejected, match=f"unsupported: {detail}"):
            read(path, data)


@pytest.mark.parametrize(
    ("path", "reader", "current"),
    [
        ("a.md", "markdown-2", True),
        ("a.md", "markdown-0", False),
        ("a.md", "text-2", False),
        ("a.txt", "text-2", True),
        ("a.py", "code-2", True),
        ("a.pdf", "pdf-1", True),
        ("a.pdf", "html-2", True),
        ("a.txt", "pdf-1", True),
        ("a.txt", "text-1", False),
        ("Inbox", "mail-1", True),
        ("a.txt", "rtf-1", True),
        ("a.unknown", "xml-1", True),
        ("a.eml", "mail-1", True),
        ("a.eml", "text-2", False),
        ("a.ipynb", "notebook-1", True),
        ("a.ipynb", "json-2", False),
        ("a.org", "org-1", True),
        ("a.docx", "text-2", False),
        ("a.md", "", False),
        ("a.md", "gone-1", False),
    ],
)
def test_a_document_of_another_reader_is_told(path: str, reader: str, current: bool) -> None:
    """Another version, or another reader than the name asks for, is not current; PDF under any name is."""
    assert is_current(path, reader) is current


def test_what_was_just_read_is_current() -> None:
    """Every kind of document is current under its own name, so that an unchanged folder is not read again."""
    for suffix in BY_SUFFIX:
        words = b'{"cells": [{"source": "some words"}]}' if suffix == "ipynb" else b"some words"
        document = check(read(f"a.{suffix}", words))
        assert is_current(f"a.{suffix}", document.reader), suffix
    for path, data in (
        ("a.pdf", b"<html>words"),
        ("LICENSE", b"words"),
        ("Makefile", b"words"),
        ("a.xml", b"<html><p>words</p></html>"),
        ("a.unknown", b"<?xml version='1.0'?><p>words</p>"),
        ("a.doc", b"{\\rtf1 words}"),
        ("Inbox", b"From a@b.c Thu Jan  1 00:00:00 2024\nSubject: words\n\n"),
    ):
        assert is_current(path, read(path, data).reader)


@given(st.sampled_from([*sorted(SUPPORTED), "docx", ""]), st.binary(max_size=400), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_bytes_under_any_name_are_read_or_rejected(suffix: str, data: bytes, text_before: bool) -> None:
    """No bytes make a reader crash: a valid document or a reason, never another exception."""
    assert reason_of(f"a.{suffix}", b"Some text. " * 40 + data if text_before else data) != "crash"
