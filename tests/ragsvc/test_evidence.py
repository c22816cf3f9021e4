"""Sentences, words and overlap."""

import itertools

import pytest
from hypothesis import given

from ragsvc.evidence import code_spans, content, overlap, sentences, stem, units
from tests.conftest import shared_data
from tests.ragsvc.parts import texts


def _cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@given(texts())
def test_sentences_hold_all_that_is_not_blank(text: str) -> None:
    """Spans are in order, apart, trimmed, and nothing but blanks lies between them."""
    spans = sentences(text)
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    assert edges == sorted(edges)
    assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans)
    assert all(not text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True))


def test_real_documentation_is_covered() -> None:
    """The same holds for the files of a real documentation tree."""
    for file in itertools.islice(sorted((shared_data("docs_tree_en") / "files").rglob("*.md")), 40):
        text = file.read_text(encoding="utf-8")
        covered = "".join(text[start:end] for start, end in sentences(text))
        assert "".join(covered.split()) == "".join(text.split()), file.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Use e.g. Python 3.11, i.e. CPython. See https://a.b/c.d now.", None),
        ("Dr. Smith and J. Doe agree. Yes.", ["Dr. Smith and J. Doe agree.", "Yes."]),
        ('He said "stop." Then he left.', ['He said "stop."', "Then he left."]),
        ("Well... that is fine.", ["Well... that is fine."]),
        ("1. Do this. 2. Do that.", ["1. Do this.", "2. Do that."]),
        ("这是第一句。“第二句！”第三句？没有", ["这是第一句。", "“第二句！”", "第三句？", "没有"]),
        ("これは文です。次の文です。", ["これは文です。", "次の文です。"]),
        ("A line that\nwraps. And more\n\nNext", ["A line that\nwraps.", "And more", "Next"]),
        ("* one\n  goes on\n* two. Three.", ["* one\n  goes on", "* two.", "Three."]),
    ],
)
def test_where_sentences_end(text: str, expected: list[str] | None) -> None:
    """Marks end sentences in Latin and CJK text; abbreviations, numbers, addresses and wrapped lines do not."""
    if expected is None:
        expected = ["Use e.g. Python 3.11, i.e. CPython.", "See https://a.b/c.d now."]
    assert _cut(text) == expected


def test_lines_of_markdown_are_told_apart() -> None:
    """Headings, table rows, code, markup and rules are units of their own, with their kind."""
    text = "# T\nProse.\n| a |\n```py\nx = 1\n```\n<div>\n***\nSetext\n------\n- item\nimport os\n"
    assert [(unit.kind, text[unit.start : unit.end]) for unit in units(text)] == [
        ("heading", "# T"),
        ("prose", "Prose."),
        ("table", "| a |"),
        ("code", "```py"),
        ("code", "x = 1"),
        ("code", "```"),
        ("markup", "<div>"),
        ("rule", "***"),
        ("heading", "Setext"),
        ("rule", "------"),
        ("item", "- item"),
        ("code", "import os"),
    ]


@pytest.mark.parametrize("text", ["1. " * 60_000, "? " * 60_000, "` " * 60_000, "- " * 60_000 + "x", "a.b" * 40_000])
@pytest.mark.timeout(60)
def test_hostile_texts_take_linear_time(text: str) -> None:
    """Marks without sentences, and ticks without code, do not make each position look at all the others."""
    assert sentences(text)
    code_spans(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a `b` c", ["`b`"]),
        ("``a ` b`` `c`", ["``a ` b``", "`c`"]),
        ("lone ` and\n\nanother `", []),
        ("x\n```\ny\n```\nz", ["```\ny\n```\n"]),
        ("~~~\nopen ``` to the end", ["~~~\nopen ``` to the end"]),
        ("````\n```\n````\nz", ["````\n```\n````\n"]),
    ],
)
def test_code_spans(text: str, expected: list[str]) -> None:
    """Code is what stands between equal runs of backticks in a paragraph, and in fences up to an equal fence."""
    assert [text[start:end] for start, end in code_spans(text)] == expected


@given(texts())
def test_code_spans_are_in_order(text: str) -> None:
    """Spans do not overlap, whatever the backticks."""
    edges = [edge for span in code_spans(text) for edge in span]
    assert edges == sorted(edges)


def test_forms_of_a_word_share_a_stem() -> None:
    """Plural, past and gerund are one word; short words and other scripts are left alone."""
    for forms in (
        "install installs installed installing",
        "configure configures configured",
        "policy policies",
        "run running",
    ):
        assert len({stem(form) for form in forms.split()}) == 1, forms
    assert [stem(word) for word in ("us", "class", "status", "北京", "sing")] == [
        "us",
        "class",
        "status",
        "北京",
        "sing",
    ]


def test_content_words_say_something() -> None:
    """Function words of English and Chinese questions are left out."""
    assert content("How do I install the server?") == {"install", "server"}
    assert content("FastAPI的作者是谁？") == {"fastapi", "作者"}
    assert content("What is it?") == frozenset()


def test_overlap_is_the_weighted_share() -> None:
    """Rare words count more; a word without a weight counts as the rarest; no words, no share."""
    weights = {"server": 1.0, "asgi": 3.0}
    assert overlap({"server", "asgi"}, {"asgi"}, weights) == 0.75
    assert overlap({"server", "unknown"}, {"server"}, weights) == 0.25
    assert overlap(["a", "a", "b"], {"a"}, {}) == 0.5
    assert overlap((), {"a"}, weights) == 0.0


@pytest.mark.parametrize("text", ["." * 300_000 + "x", "a " + "!?" * 150_000 + "x", "…" * 300_000, ".)" * 150_000])
def test_long_runs_of_marks_are_read_once(text: str) -> None:
    """A run of marks that ends no sentence takes time in proportion to its length, not to its square."""
    assert all(0 <= start < end <= len(text) for start, end in sentences(text))
