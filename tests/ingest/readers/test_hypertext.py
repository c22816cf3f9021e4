import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.readers.registry import read
from tests.ingest.readers.documents import check, outline, read_text, reason_of


def text_of(body: str) -> str:
    return read_text("a.html", body).text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("  a \n\t b <b>c</b>d <i> e</i>", "a b cd e"),
        ("a<br>b<br><br>c", "a\nb\n\nc"),
        ("<ul><li>one</li><li>two<ul><li>in</li></ul></li></ul>end", "one\ntwo\n\nin\n\nend"),
        ("<table><tr><th>k<th>v</tr><tr><td>a</td><td>1</td></tr></table>", "k | v\na | 1"),
        ("<pre>  x\n    y\n</pre>z", "  x\n    y\n\n\nz"),
        ("AT&amp;T &lt;b&gt; &#x4e2d; &copy;", "AT&T <b> 中 ©"),
        ("<div><div><div>deep</div></div></div>", "deep"),
        ("a<!-- no -->b", "ab"),
        ("1<wbr>2", "12"),
    ],
)
def test_blocks_become_lines(body: str, text: str) -> None:
    """White space collapses as in a browser; blocks, items, rows and cells are set apart; entities are resolved."""
    assert text_of(body) == text


@pytest.mark.parametrize(
    "tag", ["script", "style", "noscript", "template", "iframe", "svg", "object", "select", "video", "canvas"]
)
def test_what_is_not_text_is_dropped(tag: str) -> None:
    """Scripts, styles, templates and embedded things leave nothing, wherever they stand."""
    assert text_of(f"<p>seen<{tag}>hidden words</{tag}></p><p>too</p>") == "seen\n\ntoo"


def test_hidden_elements_are_dropped() -> None:
    """What a browser does not show, by attribute or inline style, is not text; a hidden heading opens no section."""
    body = "<p hidden>a</p><h1 style='color:red; Display : none'>b</h1><pre hidden>x</pre><p>see  n</p>"
    assert outline(read_text("a.html", body)) == [((), "see n")]


def test_headings_open_sections() -> None:
    """A section begins where its heading's text does; levels nest; the title is <title>, else the first heading."""
    body = "in<h1>One <em>a</em></h1><p>x<h3>Deep</h3>y<h2></h2>z<h2>Two</h2>"
    body = f"<head><title> The\n page </title></head><body>{body}"
    document = read_text("a.html", body)
    assert outline(document) == [
        ((), "in\n\n"),
        (("One a",), "One a\n\nx\n\n"),
        (("One a", "Deep"), "Deep\n\ny\n\nz\n\n"),
        (("One a", "Two"), "Two"),
    ]
    assert document.title == "The page"
    assert read_text("a.html", "<h2>First</h2>x<h1>Second</h1>").title == "First"
    assert read_text("a.html", "<svg><title>icon</title></svg><p>x").title == ""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('<meta charset="gb2312"><p>简体'.encode("gbk"), "简体"),
        ("<?xml version='1.0' encoding='Shift_JIS'?><html><p>日本語".encode("cp932"), "日本語"),
        ("<meta http-equiv=x content='text/html; charset=iso-8859-1'><p>€ é".encode("cp1252"), "€ é"),
        ('<meta charset="utf-16"><p>é'.encode(), "é"),
        ("<meta charset='utf-8'><p>é".encode("utf-16"), "é"),
    ],
)
def test_the_declared_encoding_counts(data: bytes, text: str) -> None:
    """A page's own word on its encoding is taken where bytes don't say better."""
    assert check(read("a.html", data)).text == text


def test_a_page_without_words_is_empty() -> None:
    """Markup, scripts and images alone are `empty`."""
    assert reason_of("a.html", b"<html><body><img src='data:image/png;base64,AAAA'><script>x</script>") == "empty"


def test_deep_and_wide_pages_are_read_in_a_loop() -> None:
    """Nesting far beyond Python's stack is read, deeper is `limit`, and 50,000 open rows are no nesting."""
    assert text_of("<div>" * 9_000 + "deep") == "deep"
    assert text_of("<div>x</div>" * 11_000).count("x") == 11_000
    assert reason_of("a.html", b"<DIV ><span>" * 5_001 + b"x") == "limit"
    assert text_of("<b><i>" * 200 + "x").count("x") == 1
    rows = text_of("<table>" + "<tr><td>a<td>b" * 50_000)
    assert rows.count("a | b") == 50_000


FRAGMENTS = ["<p>", "</p>", "<h1>", "</h1>", "<h3>", "<pre>", "</pre>", "<td>", "<tr>", "<table>", "</table>", "<br>"]
FRAGMENTS += ["<script>", "</script>", "<!--", "-->", "<div hidden>", "</div>", "<svg>", "<li>", "&#0;", "&#xD800;"]
FRAGMENTS += [
    "<template>",
    "<select>",
    "<title>",
    "<body>",
    "<frameset>",
    "&nbsp;",
    " ",
    "\n",
    "a",
    "中",
    "😀",
    "<",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
@settings(deadline=None)
def test_any_tag_soup_gives_a_valid_document(fragments: list[str]) -> None:
    """However tags are thrown together, the document is valid or has no text, and no line ends in two blank lines."""
    body = "".join(fragments)
    assert reason_of("a.html", body.encode()) in ("", "empty")
