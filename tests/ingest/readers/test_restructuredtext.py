import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.readers.restructuredtext import headings_of, plain
from tests.ingest.readers.documents import outline, read_text


def found(text: str) -> list[tuple[int, int, str]]:
    return [(heading.start, heading.level, heading.text) for heading in headings_of(text)]


def test_levels_follow_the_order_of_appearance() -> None:
    """Each style of adornment is a level from its first use on; an overline makes another style."""
    text = "=====\nTitle\n=====\n\nOne\n===\n\nsub\n---\n\nTwo\n===\ntext\n"
    document = read_text("a.rst", text)
    assert document.title == "Title"
    assert outline(document) == [
        (("Title",), "=====\nTitle\n"),
        (("Title", "One"), "One\n===\n\n"),
        (("Title", "One", "sub"), "sub\n---\n\n"),
        (("Title", "Two"), "Two\n===\ntext"),
    ]
    assert document.text == text


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("A\n~\n", ["A"]),
        ("ABCDEF\n===\n", []),
        ("ABCDEF\n====\n", ["ABCDEF"]),
        ("para\nline\n====\n", []),
        ("text\n\n----\n\nmore\n", []),
        ("=====  =====\na      b\n=====  =====\n", []),
        ("code::\n\n   Title\n   =====\n", []),
        ("====\n  In\n====\n", ["In"]),
        ("====\nA\n----\n", []),
        ("中文\n====\n", ["中文"]),
        ("A\r\n===\r\ntext", ["A"]),
        ("====\n====\n", []),
        ("A", []),
        ("", []),
    ],
)
def test_what_is_a_title(text: str, titles: list[str]) -> None:
    """A title stands after a blank line, at the margin, and its underline is long enough; the rest is text."""
    assert [title for _, _, title in found(text)] == titles


@pytest.mark.parametrize(
    ("inline", "text"),
    [
        ("``code`` and *emphasis* **strong**", "code and emphasis strong"),
        (":class:`Client <lib.Client>` options", "Client options"),
        ("`Python <https://python.org>`_ and name_", "Python and name"),
        ("2 * 3 and __init__", "2 * 3 and __init__"),
    ],
)
def test_titles_are_plain_text(inline: str, text: str) -> None:
    """Inline marks, roles and targets are dropped."""
    assert plain(inline) == text


@given(st.text(alphabet="=-~`:*_ \n\r\tab中", max_size=120))
def test_any_text_gives_a_valid_document(text: str) -> None:
    """Whatever the adornments, sections cover the text."""
    if any(character.isprintable() and not character.isspace() for character in text):
        read_text("a.rst", text)
