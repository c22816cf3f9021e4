"""Tests of the embedded text of a chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import template
from ingest.errors import SettingsError
from ingest.template import header, header_tokens, render
from ingest.tokens import count

NAME = "title-headings-1"
WORDS = st.text(st.sampled_from("ab 中é\n\t👩\u200d🚀\u0301>.\x00"), max_size=400)


def test_title_headings_and_slice() -> None:
    """Title and headings stand on lines of their own before the slice."""
    assert render(NAME, "Guide", ("Install", "Linux"), "Use apt.") == "Guide\nInstall > Linux\n\nUse apt."


@pytest.mark.parametrize(
    ("title", "path", "expected"),
    [
        ("", (), ""),
        ("Guide", (), "Guide\n\n"),
        ("", ("Install",), "Install\n\n"),
        ("Guide", ("Guide", "Install"), "Guide\nInstall\n\n"),
        ("Guide", ("Guide",), "Guide\n\n"),
        (" A\n long\ttitle ", ("", "  ", "x"), "A long title\nx\n\n"),
    ],
)
def test_what_is_absent_or_repeated_is_left_out(title: str, path: tuple[str, ...], expected: str) -> None:
    """Empty parts and a first heading that repeats the title make no line; white space is collapsed."""
    assert header(NAME, title, path) == expected


def test_long_paths_keep_the_title_and_the_innermost_headings() -> None:
    """Outer headings go first, and a mark stands in their place."""
    path = tuple(f"Chapter number {n} of the long book" for n in range(20))
    made = header(NAME, "The title", path)
    assert made.startswith("The title\n… > Chapter")
    assert made.endswith("> Chapter number 18 of the long book > Chapter number 19 of the long book\n\n")
    assert 40 < count(made) <= template.HEADER_TOKENS


def test_long_titles_and_headings_keep_their_beginnings() -> None:
    """A title and a heading that are too long end at a word with a mark; both are there."""
    made = header(NAME, "title " * 500, ("outer", "inner " * 500))
    first, second = made.rstrip("\n").split("\n")
    assert (first[:11], first[-6:]) == ("title title", "title…")
    assert (second[:11], second[-6:]) == ("inner inner", "inner…")
    assert 55 < count(made) <= template.HEADER_TOKENS
    assert 50 < header_tokens(NAME, "title " * 500, ()) <= template.HEADER_TOKENS


@given(title=WORDS, path=st.lists(WORDS, max_size=8).map(tuple), text=WORDS)
def test_header_is_bounded_and_the_slice_is_whole(title: str, path: tuple[str, ...], text: str) -> None:
    """Whatever title and headings are, they have at most 64 tokens, a line each, and the slice follows unchanged."""
    made = render(NAME, title, path, text)
    before = header(NAME, title, path)
    assert made == before + text
    assert header_tokens(NAME, title, path) == count(before) <= template.HEADER_TOKENS
    assert before == "" or (before.endswith("\n\n") and before.strip() and before[:-2].count("\n") <= 1)


def test_a_huge_title_is_cheap() -> None:
    """Only the beginning of a title is looked at."""
    assert header(NAME, "x" * 5_000_000, ()) == header(NAME, "x" * 2_000, ())


def test_unknown_template() -> None:
    """An unknown name is refused, and the known ones are named."""
    with pytest.raises(SettingsError, match="title-headings-1"):
        render("title-2", "", (), "text")
