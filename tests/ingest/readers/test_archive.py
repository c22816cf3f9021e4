import struct
import tracemalloc
import zipfile

import pytest

from ingest.errors import Rejected
from ingest.readers import archive, xml_parts
from ingest.readers.archive import Archive, reading
from ingest.readers.registry import read
from tests.ingest.readers.documents import reason_of
from tests.ingest.readers.zipped import changed, members_of, word_file, zipped

WORDS = "<w:p><w:r><w:t>some words</w:t></w:r></w:p>"
BOMB = b"<a>" + b" " * 300_000_000


def reason(members: dict[str, bytes], name: str = "a") -> str:
    with pytest.raises(Rejected) as caught:
        Archive(zipped(members)).read(name)
    return f"{caught.value.reason}: {caught.value.detail}"


def test_members_are_read_by_name() -> None:
    """What is in a container comes out, and what is not is damage; of two of one name the last counts."""
    data = Archive(zipped({"a": b"1", "../../b": b"2"}))
    assert data.names == ("a", "../../b")
    assert (data.read("a"), data.read("../../b")) == (b"1", b"2")
    assert "c" not in data
    with pytest.raises(Rejected, match="damaged"):
        data.read("c")


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    """300 MB of blanks in 300 kB are `limit`, by the table of contents alone, and no memory is spent on them."""
    data = changed(word_file(WORDS), word__document=BOMB)
    assert len(data) < 400_000
    tracemalloc.start()
    assert reason_of("a.docx", data) == "limit"
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_container_that_lies_about_its_sizes_inflates_to_what_it_says() -> None:
    """A member that inflates to more than the table says is cut off there, and its checksum tells."""
    size = 3_000_000
    data = bytearray(zipped({"a": b"x" * size}))
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(mark) + at, 10)
    with pytest.raises(Rejected, match="damaged"):
        Archive(bytes(data)).read("a")


def test_limits_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One member, all members, their number and their ratio are bounded, each by its own limit."""
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100)
    both = Archive(zipped({"a": b"x" * 60, "b": b"y" * 60}))
    both.read("a")
    with pytest.raises(Rejected, match="limit: it inflates to more than 100 bytes"):
        both.read("b")
    with pytest.raises(Rejected, match="limit: a part of it inflates to 60 bytes"):
        Archive(zipped({"a": b"x" * 60})).read("a", 59)
    monkeypatch.setattr(archive, "RATIO_FROM", 1_000)
    assert reason({"a": b"x" * 100_000}).startswith("limit: a part of it inflates to 100,000")
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    with pytest.raises(Rejected, match="limit: more than 3 files"):
        Archive(zipped({str(number): b"" for number in range(4)}))


def test_encrypted_and_unknown_methods_are_told() -> None:
    """A member with the mark of encryption asks for a password; LZMA, which may ask for 4 GB, is not opened."""
    data = bytearray(zipped({"a": b"secret"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(Rejected, match=r"password: .*save a copy without"):
        Archive(bytes(data)).read("a")
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with pytest.raises(Rejected, match="damaged: compressed in a way"):
            Archive(zipped({"a": b"x"}, method)).read("a")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("the text"), "damaged"),
        (MemoryError(), "limit"),
        (RecursionError(), "limit"),
        (KeyError(), "damaged"),
    ],
)
def test_what_a_library_throws_is_a_rejection(error: Exception, expected: str) -> None:
    """Errors of every kind become a reason, without the document's text; a rejection stays what it is."""
    with pytest.raises(Rejected) as caught, reading("book"):
        raise error
    assert caught.value.reason == expected
    assert "the text" not in caught.value.detail
    with pytest.raises(Rejected, match="no_text"), reading("book"):
        raise Rejected("no_text")


DOCUMENT_TYPES = [
    '<!DOCTYPE x [<!ENTITY a "boom">]>',
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;">]>',
    '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">',
    '<!-- <a --><!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x.dtd"> %a;]>',
]


@pytest.mark.parametrize("document_type", DOCUMENT_TYPES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_entities_are_never_resolved(document_type: str, encoding: str) -> None:
    """A part that declares a document type is refused in every encoding, before a library sees it."""
    body = WORDS.replace("some words", "&a;") if "ENTITY a" in document_type else WORDS
    part = members_of(word_file(body))["word/document.xml"].decode()
    data = changed(word_file(WORDS), word__document=(document_type + part).encode(encoding))
    with pytest.raises(Rejected, match="damaged: its XML declares a document type"):
        read("a.docx", data)
    with pytest.raises(Rejected, match="damaged"):
        xml_parts.tree((document_type + part).encode(encoding), "x")


@pytest.mark.parametrize("encoding", ["utf-7", "cp037", "utf-32", "utf-16-le", "hz"])
def test_encodings_that_could_hide_something_are_refused(encoding: str) -> None:
    """A document type in an encoding in which it does not look like one does not pass."""
    part = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY a "boom">]><x>&a;</x>'
    with pytest.raises(Rejected, match="damaged"):
        xml_parts.plain(part.encode(encoding), "x")
    hidden = b'<?xml version="1.0" encoding="utf-7"?>+ADw-!DOCTYPE x [+ADw-!ENTITY a "boom">]><x>&a;</x>'
    assert "<!DOCTYPE x [<!ENTITY" in hidden.decode("utf-7")
    with pytest.raises(Rejected, match="damaged: its XML is in an encoding"):
        xml_parts.plain(hidden, "x")


def test_utf16_parts_are_read() -> None:
    """The other encoding that office files may be in is turned into UTF-8."""
    part = '<?xml version="1.0" encoding="UTF-16"?>' + members_of(word_file(WORDS))["word/document.xml"].decode()
    assert read("a.docx", changed(word_file(WORDS), word__document=part.encode("utf-16"))).text == "some words"


def test_a_tree_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many tags are `limit` before a tree is built, and so is nesting that no stack has room for."""
    deep = b"<a>" * 200_000 + b"</a>" * 200_000
    content = b'<x xmlns:o="urn:oasis:names:tc:opendocument:xmlns:office:1.0"><o:body><o:text>%s</o:text></o:body></x>'
    kind = b"application/vnd.oasis.opendocument.text"
    assert reason_of("a.odt", zipped({"mimetype": kind, "content.xml": content % deep})) == "limit"
    assert reason_of("a.docx", changed(word_file(WORDS), word__document=deep)) in ("damaged", "limit")
    monkeypatch.setattr(xml_parts, "MAX_TAGS", 50)
    assert reason_of("a.docx", word_file(WORDS * 20)) == "limit"
