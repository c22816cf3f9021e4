import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.readers import flow, xml_parts
from ingest.readers.registry import read
from ingest.types import Document
from tests.ingest.readers.documents import check, outline, reason_of
from tests.ingest.readers.zipped import members_of, zipped

OPF = "http://www.idpf.org/2007/opf"


def book(*chapters: str, title: str = "The Book", more: dict[str, str] | None = None) -> bytes:
    """An EPUB of chapters, in folders with a blank and an umlaut in their names."""
    items = "".join(
        f'<item id="c{number}" href="text%20%C3%A4/{number}.xhtml#top" media-type="application/xhtml+xml"/>'
        for number in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{number}"/>' for number in range(len(chapters)))
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<rootfiles><rootfile full-path="O%20E/book.opf"/></rootfiles></container>',
            "O E/book.opf": f'<!DOCTYPE package SYSTEM "http://127.0.0.1:9/oebpkg12.dtd"><package xmlns="{OPF}">'
            f'<metadata><d:title xmlns:d="http://purl.org/dc/elements/1.1/">{title}</d:title></metadata>'
            f'<manifest>{items}<item id="p" href="p.svg" media-type="image/svg+xml"/></manifest>'
            f'<spine><itemref idref="p"/>{spine}<itemref idref="c0"/></spine></package>',
            **{f"O E/text ä/{number}.xhtml": f"<html>{chapter}</html>" for number, chapter in enumerate(chapters)},
            **(more or {}),
        }
    )


def document(*chapters: str, title: str = "The Book", more: dict[str, str] | None = None) -> Document:
    return check(read("a.epub", book(*chapters, title=title, more=more)))


def test_chapters_are_read_in_the_order_of_the_spine() -> None:
    """Each is marked by its place there, once; the path of headings goes on; one without text has no mark."""
    made = document(
        "<h1>One</h1><p>a</p>", "<p> </p><img src='x'/>", "<h2>Inner</h2>b", "<h1>Two</h1><ul><li>c<li>d</ul>"
    )
    assert made.text == "One\n\na\n\nInner\n\nb\n\nTwo\n\nc\nd"
    assert outline(made) == [
        (("One",), "One\n\na\n\n"),
        (("One", "Inner"), "Inner\n\nb\n\n"),
        (("Two",), "Two\n\nc\nd"),
    ]
    assert [(made.text[mark.start :][:3], dict(mark.position)) for mark in made.marks] == [
        ("One", {"chapter": 2}),
        ("Inn", {"chapter": 4}),
        ("Two", {"chapter": 5}),
    ]
    assert made.title == "The Book"
    assert made.content_type == "application/epub+zip"


def test_headings_stay_in_place_behind_white_space() -> None:
    """A chapter that begins with blanks that count loses them, and its headings stand where their words do."""
    made = document("<pre>  a</pre><h1>One</h1>b", "<pre>   </pre><h1>Two</h1>c")
    assert outline(made) == [((), "a\n\n"), (("One",), "One\n\nb\n\n"), (("Two",), "Two\n\nc")]


def test_the_title_is_the_books_or_the_first_heading() -> None:
    """What a program calls every book is no title."""
    assert document("<h1>My subject</h1>", title="Untitled").title == "My subject"
    assert document("<p>x</p>", title="").title == ""


@pytest.mark.parametrize("tag", ["title", "script", "style", "a id='x'", "div class='y'", "iframe", "textarea"])
def test_elements_that_close_themselves_are_empty(tag: str) -> None:
    """What XML allows and an HTML parser takes for an opened element swallows nothing of the chapter."""
    assert document(f"<head><{tag}/></head><body><p>seen</p><br/><hr /><p>all</p></body>").text == "seen\n\nall"


def test_members_may_be_named_as_they_are_referred_to() -> None:
    """A chapter whose name in the container is written with `%20` is found; the plain name comes first."""
    members = members_of(book("<p>one</p>", "<p>two</p>"))
    members["O E/text%20%C3%A4/1.xhtml"] = members.pop("O E/text ä/1.xhtml")
    assert check(read("a.epub", zipped(members))).text == "one\n\ntwo"


def test_encodings_are_those_of_pages() -> None:
    """A chapter may declare another encoding than UTF-8."""
    members = members_of(book("<p>x</p>"))
    chapter = "<?xml version='1.0' encoding='windows-1252'?><html><p>naïve café</p></html>"
    assert (
        check(read("a.epub", zipped(members | {"O E/text ä/0.xhtml": chapter.encode("cp1252")}))).text == "naïve café"
    )


ENCRYPTED = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><e:EncryptedData '
    'xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:EncryptionMethod Algorithm="{}"/><e:CipherData>'
    '<e:CipherReference URI="{}"/></e:CipherData></e:EncryptedData></encryption>'
)


def test_copy_protection_is_told_from_hidden_fonts() -> None:
    """Encrypted chapters are `password`; a font that is obfuscated, as many books have, does no harm."""
    aes = "http://www.w3.org/2001/04/xmlenc#aes256-cbc"
    locked = ENCRYPTED.format(aes, "O%20E/text%20%C3%A4/0.xhtml")
    assert reason_of("a.epub", book("<p>x</p>", more={"META-INF/encryption.xml": locked})) == "password"
    for method, name in ((aes, "O%20E/cover.jpg"), ("http://www.idpf.org/2008/embedding", "O%20E/font.otf")):
        fonts = ENCRYPTED.format(method, name)
        assert document("<p>x</p>", more={"META-INF/encryption.xml": fonts}).text == "x"


def test_books_without_text_or_chapters_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text, pictures alone, chapters that are not there and too long ones are told apart."""
    assert reason_of("a.epub", book("<p> </p>")) == "empty"
    assert reason_of("a.epub", book("<img src='1.jpg'/>", more={"O E/1.jpg": ""})) == "no_text"
    members = members_of(book("<p>x</p>", "<p>y</p>"))
    one = {name: part for name, part in members.items() if not name.endswith("0.xhtml")}
    assert check(read("a.epub", zipped(one))).text == "y"
    none = {name: part for name, part in one.items() if not name.endswith(".xhtml")}
    assert reason_of("a.epub", zipped(none)) == "damaged"
    monkeypatch.setattr(flow, "MAX_CHARACTERS", 5)
    assert reason_of("a.epub", book("<p>abc</p>", "<p>d</p>")) == "limit"


def test_entities_in_the_package_are_refused() -> None:
    """The package may name a document type, as old books do, but neither entities nor anything to fetch."""
    members = members_of(book("<p>x</p>"))
    name = "O E/book.opf"
    for declared in (
        b'<!DOCTYPE package [<!ENTITY a "b">]>',
        b'<!DOCTYPE package [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    ):
        part = declared + members[name].partition(b">")[2]
        assert reason_of("a.epub", zipped(members | {name: part})) == "damaged"


SAMPLE = members_of(
    book("<h1>One</h1><p>a</p>", "<p>b</p>", more={"META-INF/encryption.xml": ENCRYPTED.format("x", "y")})
)


@given(
    st.sampled_from(sorted(SAMPLE)),
    st.lists(st.tuples(st.integers(0, 3_000), st.binary(min_size=1, max_size=4)), max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_parts_with_damage_are_read_or_rejected(name: str, changes: list[tuple[int, bytes]]) -> None:
    """Bytes written over a part lead to a document or a reason and never to a crash."""
    part = bytearray(SAMPLE[name])
    for at, new in changes:
        part[at % len(part) : at % len(part) + len(new)] = new
    reason = reason_of("a.epub", zipped(SAMPLE | {name: bytes(part)}))
    assert reason in ("", "damaged", "empty", "unsupported", "encoding", "password")


def test_missing_parts_are_no_crash() -> None:
    """Without any one of its parts a book is read or rejected."""
    for name in SAMPLE:
        rest = {other: part for other, part in SAMPLE.items() if other != name}
        assert reason_of("a.epub", zipped(rest)) in ("", "damaged", "unsupported"), name


def test_the_tags_of_all_chapters_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chapters that are each within the limit are `limit` where they are not so together."""
    monkeypatch.setattr(xml_parts, "MAX_TAGS", 100)
    assert reason_of("a.epub", book("a" + "<p>" * 60)) == ""
    assert reason_of("a.epub", book("a" + "<p>" * 60, "b" + "<p>" * 60)) == "limit"
