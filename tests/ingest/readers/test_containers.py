import io

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import Rejected
from ingest.readers import ole2
from ingest.readers.content_types import sniff
from ingest.readers.registry import is_current, read
from tests.ingest.readers.documents import check, reason_of
from tests.ingest.readers.zipped import members_of, ole2_file, word_file, zipped

WORDS = "<w:p><w:r><w:t>some words</w:t></w:r></w:p>"
ENDINGS = {
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml",
    "dotx": "application/vnd.openxmlformats-officedocument.wordprocessingml.template.main+xml",
    "docm": "application/vnd.ms-word.document.macroEnabled.main+xml",
    "dotm": "application/vnd.ms-word.template.macroEnabledTemplate.main+xml",
}


@pytest.mark.parametrize("suffix", ENDINGS)
def test_documents_with_macros_and_templates_are_documents(suffix: str) -> None:
    """Each variant is read like its plain kind."""
    assert check(read(f"a.{suffix}", word_file(WORDS, main=ENDINGS[suffix]))).text == "some words"


@pytest.mark.parametrize("path", ["a.docx", "a.doc", "a.zip", "a.txt", "a.md", "a", "a.xlsx", "a.pdf", ".hidden"])
def test_a_container_is_what_lies_in_it(path: str) -> None:
    """The name of a sound container says nothing, and what was read under any is current there."""
    document = check(read(path, word_file(WORDS)))
    assert document.content_type == "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    assert document.text == "some words"
    assert is_current(path, document.reader)
    assert not is_current(path, "docx-0")


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"mimetype": "application/epub+zip"}, "application/epub+zip"),
        ({"META-INF/container.xml": "<container/>"}, "application/epub+zip"),
        ({"mimetype": "application/vnd.oasis.opendocument.text"}, "application/vnd.oasis.opendocument.text"),
        ({"mimetype": "application/vnd.oasis.opendocument.text-template\n"}, "application/vnd.oasis.opendocument.text"),
        ({"mimetype": "application/vnd.oasis.opendocument.graphics"}, None),
        ({"META-INF/MANIFEST.MF": "x"}, None),
        ({"word/document.xml": "<x/>"}, None),
        ({"[Content_Types].xml": "<Types/>"}, None),
        ({}, None),
    ],
)
def test_containers_are_told_by_their_contents(members: dict[str, str], kind: str | None) -> None:
    """The type that a container carries decides; others are not guessed at."""
    assert sniff("a.docx", zipped(members)) == kind


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("a.zip", zipped({"a.txt": "words"}), "unsupported: ZIP archive: unpack it into the folder"),
        ("a.docx", zipped({"a.txt": "words"}), "unsupported: ZIP archive: unpack it into the folder"),
        ("a.xlsb", zipped({"[Content_Types].xml": "x", "xl/workbook.bin": ""}), "unsupported: binary Excel file"),
        ("a.vsdx", zipped({"[Content_Types].xml": "x"}), "unsupported: office file of a kind that is not read"),
        ("a.zip", b"PK\x03\x04 and nothing more", "unsupported: damaged ZIP archive"),
        ("a.docx", b"PK\x03\x04 and nothing more", "damaged: not a readable Word document"),
        ("a.epub", b"PK\x03\x04 and nothing more", "damaged: not a readable EPUB book"),
        ("a.docx", b"words", "unsupported: no DOCX file, whatever its name says"),
        ("a.doc", ole2_file("WordDocument", "1Table"), "unsupported: legacy Word file: save it as DOCX"),
        ("a.txt", ole2_file("1Table", "WordDocument"), "unsupported: legacy Word file: save it as DOCX"),
        ("a.xls", ole2_file("Workbook"), "unsupported: legacy Excel file: save it as XLSX"),
        ("a.ppt", ole2_file("PowerPoint Document"), "unsupported: legacy PowerPoint file: save it as PPTX"),
        ("a.msg", ole2_file("__properties_version1.0"), "unsupported: Outlook message: save it as EML"),
        ("a.docx", ole2_file("EncryptionInfo", "EncryptedPackage"), "password: it opens only with a password"),
        ("a.doc", ole2_file(), "unsupported: OLE2 file"),
        ("a.doc", ole2.MARK, "unsupported: OLE2 file"),
    ],
)
def test_what_is_not_read_is_told_by_its_kind(path: str, data: bytes, message: str) -> None:
    """The detail names the kind and the way out; a broken container is damaged under an office file's name alone."""
    with pytest.raises(Rejected, match=f"^{message}"):
        read(path, data)


def test_only_the_top_of_an_ole2_file_counts() -> None:
    """The streams of a document that lies in another one are not its own, and many entries are found."""
    names = [f"stream {number}" for number in range(40)]
    assert ole2.streams(ole2_file(*names)) == set(names)
    inner = ole2_file("EncryptedPackage")
    assert ole2.streams(ole2_file("WordDocument") + inner) == {"WordDocument"}


def test_a_circle_of_streams_ends() -> None:
    """An entry that is its own sibling is found once."""
    data = bytearray(ole2_file("WordDocument", "1Table"))
    entry = 1024 + 128  # behind header, allocation table and the root's entry
    assert data[entry : entry + 8] == "Word".encode("utf-16-le")
    data[entry + 72 : entry + 76] = (1).to_bytes(4, "little")
    assert ole2.streams(bytes(data)) == {"WordDocument"}


@given(st.lists(st.tuples(st.integers(0, 1_500), st.binary(min_size=1, max_size=5)), max_size=8), st.integers(0, 1_500))
@settings(max_examples=200, deadline=None)
def test_a_damaged_ole2_file_is_still_told(changes: list[tuple[int, bytes]], length: int) -> None:
    """Circles and numbers beyond the end lead to no error and no endless search."""
    data = bytearray(ole2_file("WordDocument", "1Table", "Data", "Other"))
    for at, new in changes:
        data[at : at + len(new)] = new
    assert reason_of("a.doc", ole2.MARK + bytes(data[8:length])) in ("unsupported", "password")


def test_a_document_without_text_is_empty_and_one_of_pictures_has_no_text() -> None:
    """The two are told apart: a scan that was pasted into a document can be helped."""
    stream = io.BytesIO()
    docx.Document().save(stream)
    assert reason_of("a.docx", stream.getvalue()) == "empty"
    assert reason_of("a.docx", word_file("<w:p/>")) == "empty"
    scanned = zipped(members_of(word_file("<w:p/>")) | {"word/media/image1.png": b"..."})
    assert reason_of("a.docx", scanned) == "no_text"
