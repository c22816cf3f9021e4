import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ingest.readers.decoding import decode
from ingest.readers.markdown import headings_of, plain
from tests.ingest.readers.documents import check, outline, read_text

COMMONMARK = MarkdownIt("commonmark")


def inline_text(token: Token) -> str:
    pieces: list[str] = []

    def visit(children: list[Token]) -> None:
        for child in children:
            if child.type in ("text", "code_inline", "text_special"):
                pieces.append(child.content)
            elif child.type in ("softbreak", "hardbreak"):
                pieces.append(" ")
            elif child.type == "image":
                visit(child.children or [])

    visit(token.children or [])
    return " ".join("".join(pieces).split())


def oracle(text: str) -> list[tuple[int, int, str]]:
    """What a full CommonMark parser finds at the top level."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    tokens = COMMONMARK.parse(text)
    return [
        (starts[token.map[0]], int(token.tag[1]), inline_text(tokens[number + 1]))
        for number, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]


def found(text: str) -> list[tuple[int, int, str]]:
    return [(heading.start, heading.level, heading.text) for heading in headings_of(text)]


def test_sections_nest_by_heading() -> None:
    """A section begins at its heading and carries the headings above it; the title is the first heading."""
    document = read_text("a.md", "intro\n\n# One\ntext\n### Deep\n\n## Two\nx\n\nThree\n=====\nend")
    assert outline(document) == [
        ((), "intro\n\n"),
        (("One",), "# One\ntext\n"),
        (("One", "Deep"), "### Deep\n\n"),
        (("One", "Two"), "## Two\nx\n\n"),
        (("Three",), "Three\n=====\n"),
    ]
    assert document.title == "One"


def test_front_matter_is_content_and_names_the_document() -> None:
    """It stays in the text, its comments are no headings, and its title comes first; a rule is no front matter."""
    document = read_text("a.md", "---\ntitle: 'Set up'\n# a: comment\ntags: [x]\n---\n# Before you start\n")
    assert document.title == "Set up"
    assert outline(document) == [((), "---\ntitle: '"), (("Before you start",), "# Before you")]
    assert read_text("a.md", '+++\r\ntitle = "Toml"\r\n+++\r\ntext').title == "Toml"
    assert read_text("a.md", "---\n\n# One\n\n---\n").title == "One"


@pytest.mark.parametrize(
    "text",
    [
        "```\n# no\n```\n# yes\n",
        "~~~~ sh\n# no\n~~~\n# no\n~~~~\n# yes\n",
        "    # no\n\n# yes\n",
        "<!--\n# no\n\n# no\n-->\n# yes\n",
        "<!-- x --> \n# yes\n",
        "<div>\n# no\n\n# yes\n</div>\n",
        "<pre>\n\n# no\n</pre>\n# yes\n",
        "- item\n\n  # in the item\n\n# yes\n",
        "- item\n  ```\n# yes\n",
        "1. item\n\n   ```sh\n   # no\n   ```\n\n# yes\n",
        "> # quoted\n\n# yes\n",
        "para\n---\n\npara\n\n---\n\n- item\n---\n",
        "#no\n####### no\n# yes #\n## yes \\#\n#\n",
        "two\nlines\n===\n",
        "[ref]: /url\n===\n",
        "| a |\n| --- |\n\n# yes\n",
        "2. not a list in a paragraph\npara\n10. still\n---\n",
        "\\# no\n\n\t# no\n",
    ],
)
def test_what_is_no_heading_is_stepped_over(text: str) -> None:
    """Code, comments, HTML blocks, lists, quotes and rules are told from headings as CommonMark does."""
    assert found(text) == oracle(text)


LINES = ["# a", "## b ##", "text", "", "", "---", "===", "- x", "  y", "    z", "```", "~~~", "<!--", "-->", "<div>"]
LINES += ["</div>", "> q", "1. n", "* * *", "<pre>", "</pre>", "\t# t", "  ```", "  # two", "#", "a `c` *d*", "- # h"]


def test_random_blocks_agree_with_a_full_parser() -> None:
    """Of 3,000 files of lines thrown together, at most one in 250 has another heading than CommonMark's parser finds.

    The scanner does not know every rule of nested blocks; these lines are far wilder than documents are.
    """
    generator = random.Random(7)
    differ = 0
    for _ in range(3_000):
        text = "\n".join(generator.choices(LINES, k=generator.randint(2, 6))) + "\n"
        differ += found(text) != oracle(text)
    assert differ <= 12


def test_real_documentation_agrees_with_a_full_parser(data_folder: Callable[[str], Path]) -> None:
    """All headings of 155 real files are found, with the same offset, level and plain text, and no other."""
    files = sorted((data_folder("docs_tree_en") / "files").rglob("*.md"))
    headings = 0
    for file in files:
        text = decode(file.read_bytes()).text.replace("\r\n", "\n")
        front = text.index("\n---\n", 3) + 5 if text.startswith("---\n") else 0
        assert found(text) == oracle("\n" * front + text[front:]), file.name  # the oracle knows no front matter
        headings += len(found(text))
    assert len(files) == 155
    assert headings == 2_081


@pytest.mark.parametrize(
    ("inline", "text"),
    [
        ("**Bold** and *more* `code()`", "Bold and more code()"),
        ("[Link](http://x/(a)) [ref][1] ![alt](i.png)", "Link ref alt"),
        ("snake_case_name and __init__.py", "snake_case_name and init.py"),
        ("Install {#install}", "Install"),
        ("Set {: .class #id}", "Set"),
        ('<a name="x"></a>Anchor &amp; more', "Anchor & more"),
        ("`<tag>` \\*star\\* ~~old~~", "<tag> *star* old"),
        ("<https://x.org> a < b", "https://x.org a < b"),
        ("***all*** 2 * 3 * 4", "all 2 * 3 * 4"),
    ],
)
def test_headings_are_plain_text(inline: str, text: str) -> None:
    """Marks, targets, anchors and tags are dropped; code, escapes and names with underscores are kept."""
    assert plain(inline) == text


@given(st.text(alphabet="#`~=-*_[]()<>!{}\\& \t\n\r a1.0\"'|:/", max_size=200))
def test_any_text_gives_a_valid_document(text: str) -> None:
    """Whatever the marks, sections cover the text and headings stand at line starts."""
    if not any(character.isprintable() and not character.isspace() for character in text):
        return
    document = read_text("a.md", text)
    for section in document.sections[1:]:
        assert document.text[section.start - 1] in "\r\n"


@pytest.mark.parametrize(
    "text",
    [
        *("# " + mark * 100_000 for mark in ("`", "*a", "[", "_", "\\", "<a ")),
        *(line * 50_000 + "x" for line in ("- ", "<", "# a\n", "* a\n", "```\n", "    ", "[a]:\n", "<!--\n")),
        "# a" + " " * 200_000 + "b",
        "---\n" + "a: b\n" * 50_000,
    ],
)
def test_hostile_lines_take_linear_time(text: str) -> None:
    """Marks by the hundred thousand end within the test's time limit, and headings are cut to a bearable length."""
    document = check(read_text("a.md", text))
    assert all(len(heading) <= 300 for section in document.sections[:100] for heading in section.heading_path)
