from pathlib import PurePosixPath

import pytest

from ingest.readers.content_types import named, signature, sniff, suffix_of

PDF = b"%PDF-1.7\n"
MAILBOX = b"From a@b.c Thu Jan  1 00:00:00 2024\nSubject: x\n\ny"
ZIP = b"PK\x03\x04rest"


@pytest.mark.parametrize(
    ("path", "data", "content_type"),
    [
        ("a.md", b"# x", "text/markdown"),
        ("A.MD", b"# x", "text/markdown"),
        ("dir.md/LICENSE", b"x", "text/plain"),
        ("Makefile", b"x", "text/x-makefile"),
        ("CMakeLists.txt", b"x", "text/x-makefile"),
        ("a.tar.gz.md", b"x", "text/markdown"),
        (".gitignore", b"x", None),
        ("a.docx", b"text", None),
        ("a.xml", b"<x/>", "application/xml"),
        ("a.ipynb", b"{}", "application/x-ipynb+json"),
        ("a.eml", b"From: x", "message/rfc822"),
        ("a.org", b"* x", "text/x-org"),
        ("a.mbox", b"From: x", "application/mbox"),
        ("a.eml", MAILBOX, "application/mbox"),
        ("Inbox", MAILBOX, "application/mbox"),
        ("2024-May.txt", MAILBOX.replace(b"\n", b"\r\n"), "application/mbox"),
        ("a.md", MAILBOX, "text/markdown"),
        ("a.txt", b"From here on 2024\nit rains", "text/plain"),
        ("a.gpx2", b"<?xml version='1.0'?><x/>", "application/xml"),
        (".project", b"<?xml version='1.0'?><x/>", "application/xml"),
        ("a.txt", b"\xef\xbb\xbf <?xml version='1.0'?><x/>", "application/xml"),
        ("a.txt", "<?xml version='1.0'?><x/>".encode("utf-16"), "application/xml"),
        ("a.html", b"<?xml version='1.0'?><html/>", "text/html"),
        ("a.svg", b"<?xml version='1.0'?><svg/>", None),
        ("a.unknown", b"text", None),
        ("a", b"plain", "text/plain"),
        ("a", bytes(range(256)), None),
        ("a.txt", ZIP, None),
        ("a.md", b"\x7fELF\x02", None),
        ("a.txt", b"\x89PNG\r\n\x1a\n", None),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None),
        ("a.txt", b"x" * 257 + b"ustar\x00", None),
        ("a.txt", b"{\\rtf1", "application/rtf"),
        ("a.doc", b"\n{\\rtf1\\bin3 \0\0\0", "application/rtf"),
        ("a.rtf", b"words", "application/rtf"),
        ("a.pdf", PDF, "application/pdf"),
        ("a.txt", PDF, "application/pdf"),
        ("a", b"\n " + PDF, "application/pdf"),
        ("a.pdf", b"junk" * 100 + PDF, "application/pdf"),
        ("a.md", b"The mark is " + PDF, "text/markdown"),
        ("a.pdf", b" <!DOCTYPE html><p>x", "text/html"),
        ("a.pdf", b"\xef\xbb\xbf<HTML><p>x", "text/html"),
        ("a.pdf", ZIP, None),
        ("a.pdf", b"\x7fELF", None),
        ("a.pdf", b"just words", None),
        ("a.pdf", PDF + ZIP, "application/pdf"),
        ("a.zip", ZIP + PDF, None),
        ("a.pdf", ZIP + PDF, None),
        ("a.html", PDF + b"<html>", "application/pdf"),
        ("a.txt", b"<html><p>x", "text/plain"),
        ("a.txt", "text".encode("utf-16"), "text/plain"),
        ("../../etc/passwd", b"x", "text/plain"),
        ("C:\\con.md", b"x", "text/markdown"),
    ],
)
def test_bytes_speak_before_names(path: str, data: bytes, content_type: str | None) -> None:
    """Signatures win over names, polyglots are one type, text is judged by name, and the unknown is not guessed at."""
    assert sniff(path, data) == content_type


def test_names_of_common_texts_are_known() -> None:
    """A sample of everyday names has a type, and each suffix has one type only."""
    suffixes = "py ts go rs java c cpp sh sql yaml toml tex log jsonl htm"
    assert all(named(f"a.{suffix}") for suffix in suffixes.split())
    assert named("Dockerfile") == "text/x-dockerfile"


def test_a_signature_is_named_for_people() -> None:
    """What is unsupported is called by its kind."""
    assert signature(ZIP) == "ZIP container"
    assert signature(b"\xff\xd8\xff") == "image"
    assert signature(b"RIFF\x00\x00\x00\x00WEBP") == "image"
    assert signature(b"text") == ""


@pytest.mark.parametrize("name", ["a.md", "a.tar.gz", ".env", "a.", "..x", "x", "a b.TXT", ".a.b", "...", "名.前", ""])
def test_suffixes_are_those_of_pathlib(name: str) -> None:
    """The suffix of a name is what pathlib takes for it."""
    assert suffix_of(name) == PurePosixPath(name).suffix[1:]
