"""Every file of two sets of real documents, broken and hostile ones among them, against what their manifests say."""

import csv
from collections.abc import Iterator

import pytest

from ingest.errors import Rejected
from ingest.readers.registry import is_current, read
from tests.conftest import SHARED, shared_data
from tests.ingest.readers.documents import check

# What an outcome is called here.
REASONS = {"text": "", "partial": "", "none": "no_text", "empty": "empty", "password": "password", "error": "damaged"}
# Where this reader's word is another one, and why.
OTHERWISE = {
    "fake.doc": "unsupported",  # legacy Word: the detail says to save it as DOCX
    "tests-example.xls": "unsupported",  # legacy Excel
    "fake-email.msg": "unsupported",  # Outlook's own format
    "simple.zip": "unsupported",  # archives are not unpacked
    "gbk.zip": "unsupported",
    "droste.zip": "unsupported",
    "quine.gz": "unsupported",
    "testZIP_corrupted_oom.zip": "unsupported",
    "random.bin": "unsupported",
    "fake-encrypted.eml": "password",  # only its owner's key opens it
    "testXXE.xml": "empty",  # its only word would be an external one, which is not fetched
    "undeclared_entity.xml": "",  # read as far as it goes
}
# Words of the manifest that are in the file's XML and in no text a person sees: a comment, the name of a table's style.
NO_TEXT = {"tables-with-incomplete-rows.docx": {"span"}, "fake-power-point-table.pptx": {"472A"}}
LONG = {"GeoTopo-komprimiert.pdf"}  # 5 s: see test_registry.py


def rows() -> Iterator[tuple[str, dict[str, str]]]:
    for name in ("messy_docs", "hostile_docs"):
        manifest = SHARED / name / "manifest.csv"
        if manifest.is_file():
            with manifest.open(encoding="utf-8", newline="") as stream:
                yield from ((name, row) for row in csv.DictReader(stream))


ROWS = [row for row in rows() if row[1]["file"] not in LONG]


def outcome(path: str, data: bytes) -> tuple[str, str]:
    """The reason of the rejection or "", and the detail or title and text."""
    try:
        document = check(read(path, data))
    except Rejected as rejected:
        return rejected.reason, rejected.detail
    assert document == read(path, data)
    assert is_current(path, document.reader)
    return "", f"{document.title}\n{document.text}"


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[row["file"] for _, row in ROWS])
def test_a_real_file_ends_as_it_must(name: str, row: dict[str, str]) -> None:
    """It gives its words, the same ones each time, or the right reason."""
    data = (shared_data(name) / "files" / row["file"]).read_bytes()
    reason, text = outcome(row["file"], data)
    assert reason == OTHERWISE.get(row["file"], REASONS.get(row["outcome"])), text
    if not reason:
        missing = {word for word in row["expect_words"].split() if word.lower() not in text.lower()}
        assert missing == NO_TEXT.get(row["file"], set())


def test_the_sets_are_whole() -> None:
    """Both manifests are read to their end, and no exception is for a file that is not there."""
    shared_data("messy_docs")
    shared_data("hostile_docs")
    assert len(ROWS) == 86 + 13 - len(LONG)
    assert set(OTHERWISE) <= {row["file"] for _, row in ROWS}


@pytest.mark.parametrize(
    ("name", "file", "detail"),
    [
        ("messy_docs", "fake.doc", "legacy Word file: save it as DOCX"),
        ("messy_docs", "tests-example.xls", "legacy Excel file: save it as XLSX"),
        ("messy_docs", "fake-email.msg", "Outlook message: save it as EML"),
        ("messy_docs", "simple.zip", "ZIP archive: unpack it into the folder"),
        ("messy_docs", "password_protected.xlsx", "it opens only with a password; save a copy without one"),
        ("hostile_docs", "testWORD_protected_passtika.docx", "it opens only with a password; save a copy without one"),
        ("hostile_docs", "testODTEncrypted.odt", "it opens only with a password; save a copy without one"),
        ("hostile_docs", "testZIP_corrupted_oom.zip", "damaged ZIP archive"),
    ],
)
def test_what_can_not_be_read_is_told_what_to_do(name: str, file: str, detail: str) -> None:
    """The detail names the kind and the way out."""
    assert outcome(file, (shared_data(name) / "files" / file).read_bytes())[1] == detail


def test_real_office_files_keep_their_structure() -> None:
    """Headings, slides, sheets, rows and chapters of real files stand where they are in the file."""
    folder = shared_data("messy_docs") / "files"

    def document(file: str):  # type: ignore[no-untyped-def]
        return check(read(file, (folder / file).read_bytes()))

    article = document("markitdown_test.docx")
    title = "AutoGen: Enabling Next-Gen LLM Applications via Multi-Agent Conversation"
    assert article.title == title
    assert [section.heading_path[1:2] for section in article.sections[:3]] == [(), ("Abstract",), ("Introduction",)]
    cups = document("stanley-cups.xlsx")
    places = {cups.text[mark.start :].partition("\n")[0]: dict(mark.position) for mark in cups.marks}
    assert places["Maple Leafs | TOR | 0"] == {"sheet": "Stanley Cups Since 67", "row": 5}
    show = document("markitdown_test.pptx")
    assert [mark.position["slide"] for mark in show.marks] == [1, 2, 3, 4, 5, 6]
    assert [mark.start for mark in show.marks] == [section.start for section in show.sections]
    book = document("winter-sports.epub")
    assert [mark.position["chapter"] for mark in book.marks] == list(range(2, 11))
    assert any(section.heading_path[-1:] == ("CHAPTER II RINKS AND SKATERS",) for section in book.sections)
