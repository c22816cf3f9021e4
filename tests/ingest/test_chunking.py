"""Tests of chunking: slices that cover the text, fit, respect natural borders, and stay where they are under edits."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexes.types import ChunkSpec
from ingest.chunking import Slice, chunk
from ingest.errors import SettingsError
from ingest.tokens import count
from ingest.types import Section
from tests.ingest import corpora

SENTENCE = "The index holds every vector that a query may ask for. "
PIECES = [
    *("word ", "longer ", "a", "B", "é", "e\u0301", "1234 ", "3.14", "'s ", SENTENCE, SENTENCE * 9),
    *(". ", "? ", "! ", "...", ", ", "; ", "\n", "\n\n", "\r\n", "\r", "\t", "  ", " " * 90, "\n" * 40, " \n" * 30),
    *("中文没有空格", "然后，", "好。", "“是！”", "日本語の「文」。", "한국어 ", "ไทยไม่มีวรรค", "क्षि", "العربية "),
    *(
        "👩\u200d👩\u200d👧\u200d👦",
        "🇩🇪🇫🇷",
        "❤\ufe0f",
        "👍🏽",
        "\u200d",
        "\u0301" * 40,
        "\x00",
        "\u3000",
        "\u200b",
        "\u00ad",
    ),
    *("<|endoftext|>", "https://example.org/a/very/long/path?with=query&and=more#fragment ", "x" * 300, "QUJD" * 60),
    *("# Heading\n", "- item\n", "| a | b |\n", "```\ncode\n```\n"),
]


@st.composite
def specs(draw: st.DrawFn) -> ChunkSpec:
    tokens = draw(st.sampled_from([16, 17, 24, 64, 200, 512, 2048]) | st.integers(16, 2048))
    return ChunkSpec(tokens, draw(st.integers(0, tokens // 2)))


@st.composite
def sectioned(draw: st.DrawFn) -> tuple[str, list[Section]]:
    """A text of up to six sections, some on pages, some empty."""
    text, sections = "", []
    paged = draw(st.booleans())
    page = 1
    for _ in range(draw(st.integers(1, 6))):
        body = "".join(draw(st.lists(st.sampled_from(PIECES), max_size=25)))
        path = tuple(draw(st.lists(st.sampled_from("AB"), max_size=3)))
        page += draw(st.integers(0, 1))
        sections.append(Section(len(text), len(text) + len(body), path, page if paged else None))
        text += body
    return text, sections


def assert_law(text: str, sections: list[Section], spec: ChunkSpec) -> list[Slice]:
    """Assert what holds of all texts."""
    slices = chunk(text, sections, spec)
    ends = {match.end() for match in regex.finditer(r"\X", text)} | {0}
    edges = {section.start for section in sections}
    assert slices == chunk(text, sections, spec)
    assert (slices[0].start, slices[-1].end) == (0, len(text))
    for piece in slices:
        assert piece.start < piece.end
        assert piece.tokens == count(text[piece.start : piece.end]) <= spec.tokens
        for at in {piece.start, piece.end} - ends - edges:
            before, behind = max(end for end in ends if end < at), min(end for end in ends if end > at)
            assert count(text[before:behind]) > spec.tokens
    for before, behind in pairwise(slices):
        assert before.start < behind.start <= before.end < behind.end
        assert behind.start == before.end or count(text[behind.start : before.end]) <= spec.overlap
    return slices


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sectioned(), specs())
def test_law_of_slices(made: tuple[str, list[Section]], spec: ChunkSpec) -> None:
    """Any sections: exact counts within the limit, in order, covering, whole graphemes, bounded overlap, repeatable."""
    text, sections = made
    if not text:
        assert chunk(text, sections, spec) == []
        return
    for piece in assert_law(text, sections, spec):
        seen = [s for s in sections if s.start < piece.end and piece.start < s.end and s.start < s.end]
        visible = [s for s in seen if text[max(s.start, piece.start) : min(s.end, piece.end)].strip()]
        assert len({s.page for s in visible}) <= 1
        assert not visible or visible[0].page == piece.page
        assert all(s.heading_path[: len(piece.heading_path)] == piece.heading_path for s in visible)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400), st.integers(1, 6), specs())
def test_law_on_any_characters(text: str, times: int, spec: ChunkSpec) -> None:
    """The law holds for characters from all of Unicode, repeated and as one section."""
    if text:
        assert_law(text * times, [], spec)


@pytest.mark.parametrize("spec", [ChunkSpec(16, 8), ChunkSpec(64, 0), ChunkSpec(512, 64)])
def test_law_on_naughty_strings(spec: ChunkSpec) -> None:
    """The law holds for the naughty strings, joined into one text."""
    file = corpora.SHARED / "naughty_strings" / "blns.json"
    if not file.exists():
        pytest.skip("the naughty strings are not here")
    assert_law("\n".join(json.loads(file.read_text("utf-8"))), [], spec)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one letter", "a" * 1_000_000),
        ("one space", " " * 1_000_000),
        ("one emoji", "👍" * 100_000),
        ("one Chinese character", "中" * 200_000),
        ("line ends", "\n" * 200_000),
        ("marks on one letter", "a" + "\u0301" * 100_000),
        ("flags", "🇩🇪" * 20_000),
        ("NUL", "\x00" * 100_000),
    ],
)
def test_monotonous_texts(name: str, text: str) -> None:
    """A long text of one character is cut within the limit; a grapheme longer than the limit gives way to it."""
    slices = chunk(text, (), ChunkSpec(512, 64))
    assert (slices[0].start, slices[-1].end) == (0, len(text))
    assert all(before.start < behind.start <= before.end for before, behind in pairwise(slices))
    assert max(piece.tokens for piece in slices) <= 512
    for piece in slices[:: max(1, len(slices) // 20)]:
        assert piece.tokens == count(text[piece.start : piece.end])


def test_a_long_line_without_spaces() -> None:
    """A line of 500,000 characters without a space is cut anywhere, within the limit and near it."""
    rng = random.Random(0)
    line = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=100_000)) * 5
    slices = chunk(line, (), ChunkSpec(2000, 0))
    assert [piece.end for piece in slices[:-1]] == [piece.start for piece in slices[1:]]
    assert max(piece.tokens for piece in slices) <= 2000
    assert np.mean([piece.tokens for piece in slices]) > 0.7 * 2000


def test_special_tokens_are_ordinary_text() -> None:
    """A text of <|endoftext|> is cut as any other, and nothing raises."""
    text = "It says <|endoftext|> here. " * 50
    assert_law(text, [], ChunkSpec(64, 16))


def test_cuts_at_the_strongest_border_in_reach() -> None:
    """Paragraphs go before sentences, sentences before clauses, clauses before words, words before letters."""
    rng = random.Random(0)

    def clause() -> str:
        return " ".join("".join(rng.choices("bcdfglmnprst", k=2)) + "ing" for _ in range(6))

    def sentence() -> str:
        return f"{clause()}, {clause()}. ".capitalize()

    def paragraph() -> str:
        return "".join(sentence() for _ in range(3)).strip() + "\n\n"

    texts = {
        "\n\n": "".join(paragraph() for _ in range(60)),
        ". ": "".join(sentence() for _ in range(200)),
        ", ": "".join(clause() + ", " for _ in range(300)),
        " ": "".join(clause() + " " for _ in range(300)),
    }
    for mark, text in texts.items():
        slices = chunk(text, (), ChunkSpec(200, 0))
        assert len(slices) > 5
        assert all(text[piece.start : piece.end].endswith(mark) for piece in slices[:-1])


def test_chinese_is_cut_at_its_marks() -> None:
    """Chinese sentences end a slice, with the quotes that close behind them."""
    rng = random.Random(0)

    def said() -> str:
        return "".join(rng.choices("天地玄黄宇宙洪荒日月盈昃辰宿列张", k=9))

    text = "".join(rng.choice((f"{said()}，{said()}。", f"“{said()}！”")) for _ in range(200))
    slices = chunk(text, (), ChunkSpec(128, 48))
    assert all(text[: piece.end].endswith(("。", "！”")) for piece in slices)
    assert all(text[: piece.start].endswith(("。", "！”")) for piece in slices[1:])


def test_overlap_is_made_of_whole_sentences() -> None:
    """A slice begins with the last sentences of the one before, as many as fit."""
    text = "".join(f"Sentence number {n} says something else about the index. " for n in range(200))
    slices = chunk(text, (), ChunkSpec(128, 32))
    for before, behind in pairwise(slices):
        repeated = text[behind.start : before.end]
        assert repeated.startswith("Sentence")
        assert repeated.count("Sentence") == 2
    assert all(before.end == behind.start for before, behind in pairwise(chunk(text, (), ChunkSpec(128, 0))))


def test_no_overlap_across_sections() -> None:
    """A section that is too long to be joined begins with its own heading, not with the end of the one before."""
    body = "A sentence about the index. " * 100
    text = f"# One\n\n{body}\n\n# Two\n\n{body}"
    middle = text.index("# Two")
    slices = chunk(text, [Section(0, middle, ("One",)), Section(middle, len(text), ("Two",))], ChunkSpec(128, 32))
    assert middle in {piece.start for piece in slices}
    assert all(piece.heading_path == (("One",) if piece.end <= middle else ("Two",)) for piece in slices)


def cut_markdown(text: str, spec: ChunkSpec) -> list[tuple[str, tuple[str, ...]]]:
    return [(text[p.start : p.end], p.heading_path) for p in chunk(text, corpora.sections_of(text), spec)]


def test_small_siblings_are_joined_under_their_parent() -> None:
    """Many two-line sections become few slices; each has the headings they share, and the others in its text."""
    options = "".join(f"### --option-{n}\n\nSets the number {n}.\n\n" for n in range(100))
    found = cut_markdown(f"# Manual\n\n## Options\n\n{options}## Exit\n\nIt ends.\n", ChunkSpec(256, 0))
    assert 8 < len(found) < 25
    inner = [(text, path) for text, path in found if "### --option" in text and "## Exit" not in text][1:]
    assert len(inner) > 5
    assert all(path == ("Manual", "Options") and text.startswith("### --option-") for text, path in inner)


def test_no_heading_is_lost_by_joining() -> None:
    """Each heading above a section stands in its slice's heading path or in the slice's text before the section."""
    for text in (real("markdown_tree"))[::4]:
        sections = corpora.sections_of(text)
        for piece in chunk(text, sections, ChunkSpec(512, 64)):
            for section in sections:
                if piece.start <= section.start < piece.end:
                    rest = section.heading_path[len(piece.heading_path) :]
                    assert section.heading_path[: len(piece.heading_path)] == piece.heading_path
                    assert all(heading in text[piece.start : section.end] for heading in rest)


def test_a_heading_alone_goes_with_what_follows() -> None:
    """A title with nothing below it is no slice of its own."""
    body = "A sentence about the index. " * 100
    found = cut_markdown(f"# Title\n\n## Long\n\n{body}", ChunkSpec(128, 0))
    assert found[0][0].startswith("# Title\n\n## Long\n\nA sentence")
    assert [path for _, path in found] == [("Title",)] + [("Title", "Long")] * (len(found) - 1)


def test_pages_are_not_joined() -> None:
    """Small pages stay apart; a page of white space goes to the page before."""
    text = "First page.\n\n\n\nThird page.\n"
    sections = [Section(0, 12, (), 1), Section(12, 15, (), 2), Section(15, len(text), (), 3)]
    slices = chunk(text, sections, ChunkSpec(512, 64))
    assert [(text[piece.start : piece.end], piece.page) for piece in slices] == [
        ("First page.\n\n\n\n", 1),
        ("Third page.\n", 3),
    ]


def test_white_space_alone() -> None:
    """White space goes to a neighbour that has room, in front of the text too; a text of it is still covered."""
    assert [text for text, _ in cut_markdown("\n\n \n# A\n\nText.\n\n\n\n", ChunkSpec(64, 0))] == [
        "\n\n \n# A\n\nText.\n\n\n\n"
    ]
    assert [(piece.start, piece.end) for piece in chunk(" \n ", (), ChunkSpec(64, 0))] == [(0, 3)]
    wide = "Before." + " \n" * 3000 + "Behind."
    assert "".join(wide[p.start : p.end] for p in chunk(wide, (), ChunkSpec(64, 0))) == wide


@pytest.mark.parametrize("tokens", [-1, 0, 15, 8001, 10**9])
def test_bad_sizes(tokens: int) -> None:
    """A limit outside 16 to 8,000 is refused, and the message names it."""
    with pytest.raises(SettingsError, match=str(tokens)):
        chunk("text", (), ChunkSpec(tokens, 0))


@pytest.mark.parametrize(("tokens", "overlap"), [(16, 9), (512, 257), (512, 512), (512, -1)])
def test_bad_overlaps(tokens: int, overlap: int) -> None:
    """An overlap below zero or above half of the limit is refused."""
    with pytest.raises(SettingsError, match=str(overlap)):
        chunk("", (), ChunkSpec(tokens, overlap))


@pytest.mark.parametrize(
    "sections", [[(0, 3)], [(1, 4)], [(0, 2), (1, 4)], [(0, 1), (2, 4)], [(0, 5)], [(0, 4), (4, 3)]]
)
def test_sections_that_do_not_tile(sections: list[tuple[int, int]]) -> None:
    """Sections with a gap, an overlap or a wrong end are an error of the reader, not silently lost text."""
    with pytest.raises(ValueError, match="sections must"):
        chunk("text", [Section(*section) for section in sections], ChunkSpec())


def real(load: str, *arguments: str) -> list[str]:
    try:
        return getattr(corpora, load)(*arguments)
    except FileNotFoundError as error:
        pytest.skip(f"the shared data is not here: {error}")


def samples(name: str) -> list[corpora.Sample]:
    if name == "spans":
        return corpora.whole(real("corpus", "chunkeval_spans"))
    return (corpora.with_headings if name == "headings" else corpora.whole)(real("markdown_tree"))


@pytest.mark.parametrize("name", ["one section", "headings", "spans"])
@pytest.mark.parametrize("times", [70, pytest.param(1000, marks=pytest.mark.soak)])
def test_an_insert_changes_few_chunks(name: str, times: int) -> None:
    """A word, sentence or paragraph put anywhere makes a median of at most 3 and a p99 of at most 10 chunks new."""
    new = list(corpora.inserts(samples(name), times, ChunkSpec(512, 64)))
    assert np.median(new) <= 3
    assert np.percentile(new, 99) <= 10


def test_an_insert_in_front_leaves_the_rest() -> None:
    """A paragraph before a long text without headings changes its first chunks only."""
    text = "\n\n".join(real("corpus", "chunkeval_spans"))[:100_000]
    before, behind = ({t[p.start : p.end] for p in chunk(t, (), ChunkSpec())} for t in (text, f"New words.\n\n{text}"))
    assert 1 <= len(behind - before) <= 10
    assert len(behind) > 40


@pytest.mark.parametrize("name", ["one section", "spans"])
def test_slices_of_long_sections_are_full(name: str) -> None:
    """Stable borders cost little room: the mean slice of a long section has at least 70 % of the limit."""
    cut = [chunk(sample.text, sample.sections, ChunkSpec(512, 64)) for sample in samples(name)]
    assert np.mean([piece.tokens for slices in cut if len(slices) > 3 for piece in slices[:-1]]) >= 0.7 * 512


def test_real_markdown_has_no_crumbs() -> None:
    """The sections of a real documentation become fewer slices than sections, and next to none of a few tokens."""
    cut = [chunk(sample.text, sample.sections, ChunkSpec(512, 64)) for sample in samples("headings")]
    sizes = [piece.tokens for slices in cut for piece in slices]
    assert len(sizes) < sum(len(sample.sections) for sample in samples("headings"))
    assert sum(size < 32 for size in sizes) < len(sizes) / 100
