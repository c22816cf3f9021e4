"""Markers to citations: the contract's marker rule."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from indexes.types import Mark
from ragsvc.citing import cite, markers, supplied_markers
from ragsvc.types import Passage
from tests.ragsvc.parts import MARKERS, hit, passages, texts

SETUP = (
    "# Setup\n\nThis page tells how to begin. Before the first start, set DATABASE_URL to your server. "
    "It may be empty. 🎉 Then run `ragsvc serve`, which listens on port 8000."
)
CHINA = "北京是中国的首都。上海是最大的城市，有两千多万人口。"


@given(texts(*MARKERS), st.lists(texts(), min_size=1, max_size=3), st.integers(0, 50))
def test_a_quote_is_the_documents_text(answer: str, found: list[str], start: int) -> None:
    """Whatever is answered and found, each citation's range of the document holds exactly its quote."""
    supplied = tuple(Passage(n, hit(text, start, n)) for n, text in enumerate(found, start=1))
    text, citations = cite(answer, supplied)
    documents = {passage.number: "·" * start + passage.hit.text for passage in supplied}
    for citation in citations:
        assert documents[citation.marker][citation.start : citation.end] == citation.quote != ""
        assert citation.document_id == f"doc_{citation.marker}"
    assert len({(c.marker, c.start, c.end) for c in citations}) == len(citations)
    assert {c.marker for c in citations} <= {number for marker in markers(text) for number in marker.numbers}


@given(texts(*MARKERS))
@example("```\n【2†a】")
def test_only_markers_of_supplied_passages_stay(answer: str) -> None:
    """No other marker is left, removing twice changes nothing, and all the other characters stay."""
    text = supplied_markers(answer, {1, 2})
    assert {number for marker in markers(text) for number in marker.numbers} <= {1, 2}
    assert supplied_markers(text, {1, 2}) == text
    letters = re.compile(r"[^\W\d_]|[。！🎉#*|`~]")
    sources = re.compile(r"†[^】\n]{0,80}】")  # taken away with a marker, kept in code
    assert letters.findall(sources.sub("】", text)) == letters.findall(sources.sub("】", answer))


@given(texts())
def test_a_text_without_markers_is_left_alone(answer: str) -> None:
    """Not one character changes where there is nothing to read as a marker."""
    if not markers(answer):
        assert cite(answer, passages(SETUP)) == (answer, ())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes [1].", "Yes [1]."),
        ("Yes [1][2], [1, 2] and [1-2].", "Yes [1][2], [1, 2] and [1-2]."),
        ("Yes 【1】 and ［2］ and 【2†source】.", "Yes [1] and [2] and [2]."),
        ("Yes [9].", "Yes."),
        ("Yes [9] and no.", "Yes and no."),
        ("Yes [1, 9] [1-3].", "Yes [1] [1][2]."),
        ("[9] [8] Yes\n- [9] No", "Yes\n- No"),
        ("是的[9]。好【8】", "是的。好"),
        ("[[9]8] yes", "yes"),
        ("Set `items[9]` [9].", "Set `items[9]`."),
        ("```\na[9]\n```\n[9] b", "```\na[9]\n```\nb"),
        ("See [9](guide.md).", "See [9](guide.md)."),
        ("[0] [007] [999999999] x", "x"),
        ("[2-1] [1-999999]", "[2-1] [1]"),
    ],
)
def test_the_text_after_citing(answer: str, expected: str) -> None:
    """Forms that are read, what becomes of them, and what is no marker at all."""
    assert cite(answer, passages(SETUP, CHINA))[0] == expected


@pytest.mark.parametrize(
    ("answer", "quotes"),
    [
        ("Set DATABASE_URL before the first start [1].", ["Before the first start, set DATABASE_URL to your server."]),
        ("Set DATABASE_URL before the first start. [1]", ["Before the first start, set DATABASE_URL to your server."]),
        ("The server listens on port 8000 [1].", ["Then run `ragsvc serve`, which listens on port 8000."]),
        (
            "中国的首都是北京【2】。最大的城市是上海［2］。",
            ["北京是中国的首都。", "上海是最大的城市，有两千多万人口。"],
        ),
        ("The port is 8000 [1], the variable DATABASE_URL is set before the first start [1].", None),
        ("- 中国的首都是北京\n- [2] says: 上海是最大的城市", ["上海是最大的城市，有两千多万人口。"]),
    ],
)
def test_the_best_sentence_is_cited(answer: str, quotes: list[str] | None) -> None:
    """A marker's statement is what stands between the marker before and it; the sentence that holds it is `strong`."""
    if quotes is None:
        quotes = [
            "Then run `ragsvc serve`, which listens on port 8000.",
            "Before the first start, set DATABASE_URL to your server.",
        ]
    citations = cite(answer, passages(SETUP, CHINA))[1]
    assert [(c.quote.removeprefix("🎉 "), c.support) for c in citations] == [(quote, "strong") for quote in quotes]


def test_adjacent_sentences_are_cited_together() -> None:
    """A statement that two neighbours hold between them is cited by both, as one range."""
    (citation,) = cite("Set DATABASE_URL to your server, and it may be empty [1].", passages(SETUP))[1]
    assert citation.quote == "Before the first start, set DATABASE_URL to your server. It may be empty."


def test_an_unsupported_statement_is_weak() -> None:
    """The passage's first sentence stands in, headings aside, and says that it is weak."""
    (citation,) = cite("Zebras have stripes [1].", passages(SETUP))[1]
    assert (citation.support, citation.quote) == ("weak", "This page tells how to begin.")


def test_a_marker_counts_once_per_range() -> None:
    """Two statements on the same sentence give one citation; `[1][2]` gives one for each passage."""
    answer = "Set DATABASE_URL before the start [1]. DATABASE_URL: set it before the first start [1]."
    assert len(cite(answer, passages(SETUP))[1]) == 1
    assert [c.marker for c in cite("北京是中国的首都[1][2]。", passages(CHINA, CHINA))[1]] == [1, 2]


def test_a_citation_carries_its_hit() -> None:
    """Path, version, title, page, offsets in the document and score are those of the hit."""
    found = hit(CHINA, 812, page=3, path="a/b.pdf", title="China")
    (citation,) = cite("北京是首都[1]。", (Passage(1, found),))[1]
    assert (citation.path, citation.version, citation.title, citation.page) == ("a/b.pdf", 3, "China", 3)
    assert (citation.start, citation.end, citation.score) == (812, 821, found.score)


def test_blank_passages_and_answers() -> None:
    """Nothing to quote and nothing to mark are no errors."""
    assert cite("Yes [1].", passages(" \n ")) == ("Yes [1].", ())
    assert cite("", passages(SETUP)) == ("", ())
    assert cite("[1]", passages(SETUP))[1][0].support == "weak"


def test_a_citation_says_where_its_quote_begins_in_the_file():
    """A citation has the position of the row that its quote begins in, not of its passage's first row."""
    text = "The pump holds 5 bar.\nThe valve opens at 7 bar.\nThe tank is green."
    marks = tuple(
        Mark(100 + at, {"sheet": "Parts", "row": row}, ("Parts", str(row)))
        for row, at in enumerate((0, 22, 48), start=2)
    )
    passage = Passage(1, hit(text, 100, 1, heading_path=("Parts",), marks=marks))
    _, (citation,) = cite("The valve opens at 7 bar [1].", [passage])
    assert citation.position == {"sheet": "Parts", "row": 3}
    assert citation.heading_path == ("Parts", "3")
    assert cite("The valve opens at 7 bar [1].", [Passage(1, hit(text, 100, 1))])[1][0].position is None
