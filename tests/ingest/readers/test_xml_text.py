"""XML of any kind, feeds, and XML that is out to do harm."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.readers import xml_tree
from ingest.readers.registry import read
from ingest.types import Document
from tests.ingest.readers.documents import check, outline, reason_of


def xml(text: str, path: str = "a.xml") -> Document:
    return check(read(path, text.encode()))


def test_records_are_lines_set_apart_by_blank_lines() -> None:
    """Each element with words is a line; those that hold others are set apart; comments and attributes are left out."""
    document = xml(
        "<?xml version='1.0'?><list><!-- no --><c id='x'><name>Trinidad &amp; Tobago</name><note/>"
        "<capital>Port of\n Spain</capital></c><c><name>&#x4e2d;<![CDATA[<国>]]></name></c></list>"
    )
    assert document.text == "Trinidad & Tobago\nPort of Spain\n\n中<国>"
    assert document.title == ""


def test_words_with_elements_in_them_are_one_line() -> None:
    """Mixed content keeps its spaces; code keeps its lines; attributes that are text by name are read."""
    document = xml(
        "<doc><p>One <b>bold</b>er <i>word</i>.</p><p><q>a</q><q>b</q></p><programlisting>x\n  y</programlisting>"
        "<image alt='A cat' src='c.png'/><script>no()</script></doc>"
    )
    assert document.text == "One bolder word.\n\na\nb\n\nx\n  y\n\nA cat"


def test_titles_open_sections() -> None:
    """A `title` below an element is its heading, in any namespace; levels follow the depth."""
    document = xml(
        "<book xmlns='urn:b'><title>Book</title><chapter><title>One</title><para>text</para>"
        "<section><title>In</title><para>deep</para></section></chapter><chapter><title>Two</title></chapter></book>"
    )
    assert document.title == "Book"
    assert [path for path, _ in outline(document)] == [
        ("Book",),
        ("Book", "One"),
        ("Book", "One", "In"),
        ("Book", "Two"),
    ]


def test_a_document_of_attributes_gives_their_values() -> None:
    """Where no element holds words, the attributes are the words."""
    assert (
        xml("<rows><row Id='1' Name='First one'/><row Id='2' Name='Second'/></rows>").text
        == "1 | First one\n2 | Second"
    )


def test_xhtml_is_read_as_html() -> None:
    """A page keeps its headings and loses its scripts, whatever it is called."""
    document = xml(
        "<?xml version='1.0'?><html xmlns='x'><head><title>T</title></head><body><h1>H</h1><p>t</p></body></html>"
    )
    assert (document.title, document.text, document.reader) == ("T", "H\n\nt", "xml-1")
    assert document.sections[0].heading_path == ("H",)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-le"])
def test_encodings_are_told_by_the_bytes(encoding: str) -> None:
    """A declaration that lies does no harm where the bytes tell; a true one is used."""
    text = "<?xml version='1.0' encoding='ISO-8859-1'?><a>schöne Straße, и так далее</a>"
    assert check(read("a.xml", text.encode(encoding))).text == "schöne Straße, и так далее"
    assert read("a.xml", "<?xml version='1.0' encoding='koi8-r'?><a>мир</a>".encode("koi8-r")).text == "мир"


RSS = """<rss xmlns:content="c" xmlns:dc="d" xmlns:media="m"><channel><title>The Blog</title><link>http://x</link>
<description>About &lt;b&gt;things&lt;/b&gt;</description>
<item><title>First &amp;amp; foremost</title><dc:creator>Ann</dc:creator><pubDate>Tue, 19 Nov 2024</pubDate>
<description>&lt;p&gt;Two things can be true at once. And so on...</description><media:content url="u"/>
<content:encoded><![CDATA[<p>Two things can be true at once. And so on it goes.</p><h2>Part</h2><script>no</script>
<p>more]]></content:encoded><category>News</category><category>AI</category><guid>g</guid></item>
<item><description>No title, another text</description></item></channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>Feed</title><subtitle>Sub</subtitle><entry><title>E</title>
<author><name>Bo</name><uri>u</uri></author><updated>2024-05-01</updated><category term="t"/>
<content type="xhtml"><div xmlns="h"><p>a &lt; b</p><p>c</p></div></content><link href="l"/></entry></feed>"""


def test_a_feed_is_read_item_by_item() -> None:
    """Titles open sections, each item is a position, HTML is read as HTML, and a summary that repeats is left out."""
    document = check(read("a.rss", RSS.encode()))
    assert document.text == (
        "The Blog\n\nAbout things\n\nFirst & foremost\n\nAnn · Tue, 19 Nov 2024\n\n"
        "Two things can be true at once. And so on it goes.\n\nPart\n\nmore\n\nNews, AI\n\nNo title, another text"
    )
    assert [path for path, _ in outline(document)] == [
        ("The Blog",),
        ("The Blog", "First & foremost"),
        ("The Blog", "First & foremost", "Part"),
        ("The Blog",),
    ]
    assert [mark.position for mark in document.marks] == [{"item": 1}, {"item": 2}]
    assert document.metadata == {"items": 2}
    assert document.title == "The Blog"
    atom = check(read("a.atom", ATOM.encode()))
    assert atom.text == "Feed\n\nSub\n\nE\n\nBo · 2024-05-01\n\na < b\n\nc\n\nt"


BOMB = (
    "<?xml version='1.0'?><!DOCTYPE z [<!ENTITY a0 'lol'>"
    + "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9))
    + "]><z>words &a9;</z>"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "words &a9;"),
        ("<!DOCTYPE z [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><z>words &x;</z>", "words &x;"),
        ("<!DOCTYPE z [<!ENTITY % p SYSTEM 'http://127.0.0.1:1/'> %p;]><z>words</z>", "words"),
        ("<!DOCTYPE z [<!ENTITY q 'a]b>c'>]><z>words</z>", "words"),
    ],
)
def test_entities_are_neither_expanded_nor_fetched(text: str, words: str) -> None:
    """A bomb and references to files stay what they are in the text; the document says so."""
    document = xml(text)
    assert document.text == words
    assert document.metadata == {"xml": "declares entities, which are not expanded"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<a><b>one</b><b>two", "one\ntwo"),
        ("<a>An entity&nope; here <b>x</a> behind", "An entity&nope; here x behind"),
        ("<a><b>1 < 2 &amp; 3</b></c></a>", "1 < 2 & 3"),
        ("<a>x</a><a>y</a>", "x\ny"),
        ("<a>x<!-- cut", "x"),
        ("<a>x<![CDATA[<y", "x<y"),
        ("no xml at all", "no xml at all"),
    ],
)
def test_what_is_not_well_formed_is_read_as_far_as_it_goes(text: str, words: str) -> None:
    """Cut files, stray signs and missing ends cost no words; the document says that it is damaged."""
    document = xml(text)
    assert document.text == words
    assert document.metadata == {"xml": "not well-formed"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<a/>", "empty"),
        ("<a>" * 300 + "x", "limit"),
        ("<a>" + "<b>" * 250 + "x" + "</b>" * 250 + "</a>", "limit"),
        ("<a><!DOCTYPE [" * 1_000, "empty"),
        ("<a>x" + "<" * 100_000, ""),
        ("<a>x" + "</b>" * 100_000, ""),
    ],
)
def test_depth_is_bounded(text: str, reason: str) -> None:
    """Deep nesting is `limit`, well-formed or not; what has no words is `empty`."""
    assert reason_of("a.xml", text.encode()) == reason


@pytest.mark.parametrize(
    "text",
    ["<a>&x;" + "<!a>" * 1_000_000, "<a>t" * 150 + "<b>c</b>" * 100_000 + "</a>" * 150],
    ids=["declarations", "words around elements"],
)
def test_time_grows_with_the_size_alone(text: str) -> None:
    """Neither declarations without an end nor words at every depth make the reader go over the rest again and again."""
    started = time.perf_counter()
    assert reason_of("a.xml", text.encode()) == ""
    assert time.perf_counter() - started < 10


def test_elements_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is their number."""
    monkeypatch.setattr(xml_tree, "MAX_ELEMENTS", 5)
    assert reason_of("a.xml", b"<a>" + b"<b>x</b>" * 4 + b"</a>") == ""
    assert reason_of("a.xml", b"<a>" + b"<b>x</b>" * 5 + b"</a>") == "limit"


@given(
    st.lists(
        st.sampled_from(["<a>", "</a>", "<title>", "</title>", "<item>", "x", " ", "<b c='d'/>", "<!--", "-->", "&"])
    )
)
def test_any_tags_are_survived(tokens: list[str]) -> None:
    """Whatever the order of tags, inside a feed or not, a valid document or a reason comes out."""
    for root in ("<a>", "<rss><channel>"):
        assert reason_of("a.xml", (root + "".join(tokens)).encode()) in ("", "empty")
