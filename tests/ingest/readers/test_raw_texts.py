"""Readers that keep the file's text: plain text, tables, source code, JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.readers.json_text import unescape
from tests.ingest.readers.documents import outline, read_text


@pytest.mark.parametrize("path", ["a.txt", "a.csv", "a.tsv", "a.py", "a.rs", "a.json", "a.jsonl", "LICENSE", "a.rst"])
def test_the_text_is_the_file(path: str) -> None:
    """Line ends, tabs, trailing space and odd separators are kept, so that offsets are exact in the file."""
    text = "# one\r\n\ttwo \r\u2028three\x85\n\n;four|\x1b[0m\n"
    document = read_text(path, text)
    assert document.text == text
    assert document.title == ""


def test_zeros_are_dropped_and_offsets_count_without_them() -> None:
    """Some NULs in a text are no reason to refuse it; sections are those of the text that is kept."""
    document = read_text("a.md", "# O\0ne\n\0text\n# Two\n")
    assert outline(document) == [(("One",), "# One\ntext\n"), (("Two",), "# Two\n")]


def test_python_definitions_open_sections() -> None:
    """A top-level function or class opens a section with its decorators; methods do not."""
    code = "import x\n\n@a\n@b(1)\nasync  def go():\n    def inner(): ...\n\nclass C:\n    def m(self): ...\nx = 1\n"
    assert outline(read_text("a.py", code)) == [
        ((), "import x\n\n"),
        (("async def go",), "@a\n@b(1)\nasy"),
        (("class C",), "class C:\n   "),
    ]
    assert len(read_text("a.js", code).sections) == 1


def test_many_decorators_without_a_definition_take_linear_time() -> None:
    """A run of decorators is stepped over once."""
    assert len(read_text("a.py", "@a\n" * 200_000).sections) == 1


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r'{"a": "\u4e2d\u6587"}', '{"a": "中文"}'),
        (r'"\ud83d\ude00"', '"😀"'),
        (r'"\\u4e2d"', r'"\\u4e2d"'),
        (r'"\\\u4e2d"', '"\\\\中"'),
        (r'"\u0022\u005c\u000a\u0000"', r'"\u0022\u005c\u000a\u0000"'),
        (r'"\ud83d x"', r'"\ud83d x"'),
        (r'"cut \u4e', r'"cut \u4e'),
    ],
)
def test_json_escapes_become_characters(escaped: str, text: str) -> None:
    """Escapes of readable characters are replaced; those that JSON needs, and broken ones, are kept."""
    assert unescape(escaped) == text


JSON = st.recursive(
    st.none() | st.integers() | st.text(st.characters(categories=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from([None, 2]))
def test_unescaped_json_has_the_same_value(value: object, indent: int | None) -> None:
    """Whatever the strings, lone surrogates included, the text is JSON of the same value in the same layout."""
    escaped = json.dumps(value, ensure_ascii=True, indent=indent)
    assert json.loads(unescape(escaped)) == json.loads(escaped)
    read_text("a.json", unescape(escaped))


def test_5000_nested_arrays_are_text() -> None:
    """JSON is not parsed, so depth is no matter."""
    assert read_text("a.json", "[" * 5_000 + r'"\u4e2d"').text.endswith('"中"')
