import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.readers.org import plain
from tests.ingest.readers.documents import outline, read_text

ORG = (
    "#+TITLE: The /Plan/\n#+title: for 2024\nintro\n* TODO [#A] One :work:x:\n:PROPERTIES:\n:ID: 7\n:END:\n"
    "| a | b |\n** [[https://x.y][A link]] and =code= [1/2]\n#+BEGIN_SRC\n"
    ",* no\n ** no\n#+END_SRC\n*bold*\n* Two\r\ntext\r\n"
)


def test_the_text_is_the_file_and_headlines_open_sections() -> None:
    """Stars at the margin open sections, nothing else does; drawers, tables and keywords stay as they stand."""
    document = read_text("a.org", ORG)
    assert document.text == ORG
    assert document.title == "The Plan for 2024"
    assert outline(document) == [
        ((), "#+TITLE: The"),
        (("One",), "* TODO [#A] "),
        (("One", "A link and code"), "** [[https:/"),
        (("Two",), "* Two\r\ntext\r"),
    ]
    assert read_text("a.org", "* First\n").title == "First"


@pytest.mark.parametrize(
    ("headline", "text"),
    [
        ("DONE COMMENT [#B] words", "words"),
        ("TODOS remain", "TODOS remain"),
        ("a :b: c", "a :b: c"),
        ("a\t:b:c:", "a"),
        ("[[file:a.org]] *b* /c/ ~d~ 2*3*4", "file:a.org b c d 2*3*4"),
        ("50% [50%]", "50%"),
    ],
)
def test_headlines_are_plain_text(headline: str, text: str) -> None:
    """State, priority, tags, counters, links and marks are dropped."""
    assert plain(headline) == text


@given(st.text(alphabet="*:[]#+ \n\r\tTODa/中", max_size=120))
def test_any_text_gives_a_valid_document(text: str) -> None:
    """Whatever the marks, sections cover the text, which is the file's."""
    if any(character.isprintable() and not character.isspace() for character in text):
        assert read_text("a.org", text).text == text
