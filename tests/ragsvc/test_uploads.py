"""Which paths and which metadata an upload may have."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.errors import InvalidQuery
from indexes.filters import parse_filter
from ragsvc.errors import BadRequest
from ragsvc.uploads import MAX_PATH, check_metadata, upload_path

PARTS = st.sampled_from(
    ["a", "..", ".", "", "é", "e\u0301", " ", "a b", "\0", "\n", "\u202e", "文", "x" * 600, "\ud800"]
)


@given(st.one_of(st.text(), st.lists(PARTS, max_size=5).map("/".join)))
def test_a_path_is_plain_or_refused(given):
    """What is taken is relative, in NFC, free of control characters, bounded, storable, and taken again as it is."""
    try:
        path = upload_path(given)
    except BadRequest as error:
        str(error).encode("utf-8", "replace")
        return
    assert 1 <= len(path) <= MAX_PATH
    assert path == unicodedata.normalize("NFC", path) == upload_path(path)
    assert not {"", ".", ".."} & set(path.split("/"))
    assert path.isprintable() or not any(unicodedata.category(char) == "Cc" for char in path)
    path.encode()


@pytest.mark.parametrize(
    "path", ["a.md", "guide/a.md", "a b/c d.txt", ".hidden", "a..b", "...", "文件/é.md", "C:x", "a\\b"]
)
def test_usual_names_are_taken(path):
    """Spaces, dots inside, other scripts and other systems' separators are part of a name."""
    assert upload_path(path) == path


@given(st.one_of(st.text(max_size=70), st.sampled_from(["path", "Source", "a-b.c_d", "_a", "__a", "1a", "id", "and"])))
def test_metadata_can_be_filtered_by(key):
    """A key is taken just when a filter takes it, and is no name that a document has anyway."""
    try:
        check_metadata({key: 1})
        taken = True
    except BadRequest:
        taken = False
    try:
        parse_filter({"key": key, "op": "eq", "value": 1})  # a number is no value of path, source, content_type ...
        filtered = True
    except InvalidQuery:
        filtered = False
    assert taken == filtered


@pytest.mark.parametrize("value", [None, [], {}, float("nan"), float("inf"), 2**63, -(2**63) - 1, "x" * 4097, "a\0"])
def test_values_that_no_filter_finds_are_refused(value):
    """A value is a text, a number of 64 bits, true or false."""
    with pytest.raises(BadRequest, match="a must be"):
        check_metadata({"a": value})


def test_values_keep_their_type():
    """true stays true, 1 stays 1 and 1.0 stays 1.0."""
    kept = check_metadata({"a": True, "b": 1, "c": 1.0, "d": "1"})
    assert [type(value) for value in kept.values()] == [bool, int, float, str]
