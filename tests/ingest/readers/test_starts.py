"""What the start of a large file tells: never something else than the whole file would."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import Rejected
from ingest.readers.content_types import BY_SUFFIX, is_hopeless, sniff
from ingest.readers.registry import START, read, refuse_by_start

MARKS = (
    b"%PDF-1.7\n", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\x7fELF", b"{\\rtf1",
    b"<?xml version='1.0'?>",
    b"<html>", b"From a Thu Jan  1 00:00:00 1970\nA: b\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\0\0\0 ftypisom",
    b"\x89PNG\r\n\x1a\n",
    b"words ", b"\0", b"\xe4\xb8\xad", b"\x80\x81",
)  # fmt: skip
SUFFIXES = ("", ".pdf", ".zip", ".docx", ".mp4", ".bin", ".xml", ".eml", ".svg", *(f".{name}" for name in BY_SUFFIX))


@given(
    st.sampled_from(SUFFIXES),
    st.sampled_from([b"", b" \n", b" " * START]),
    st.lists(st.sampled_from(MARKS) | st.binary(max_size=9), max_size=6).map(b"".join),
    st.sampled_from([b" ", b"x", b"\0", b"\xc3\xbc"]),
    st.lists(st.sampled_from(MARKS), max_size=3).map(b"".join),
)
@settings(max_examples=300, deadline=None)
def test_what_is_hopeless_at_its_start_has_no_reader(
    suffix: str, white: bytes, begin: bytes, filler: bytes, end: bytes
) -> None:
    """Whatever follows the first bytes, a file that they condemn is one that `sniff` finds no reader for."""
    start = (white + begin + filler * START)[:START]
    if is_hopeless(f"a{suffix}", start):
        for rest in (b"", end, b"words " * 20, bytes(range(256)) * 50):
            assert sniff(f"a{suffix}", start + rest) is None


def test_real_files_are_refused_by_their_start_in_the_same_words(data_folder: Callable[[str], Path]) -> None:
    """Every real file that its start condemns is rejected whole with the same reason and detail."""
    files = sorted(path for path in (data_folder("messy_docs") / "files").rglob("*") if path.is_file())
    condemned = [path for path in files if is_hopeless(path.name, path.read_bytes()[:START])]
    assert 0 < len(condemned) < len(files)
    for path in condemned:
        data = path.read_bytes()
        with pytest.raises(Rejected) as early:
            refuse_by_start(path.name, data[:START])
        with pytest.raises(Rejected) as late:
            read(path.name, data)
        assert (late.value.reason, late.value.detail) == (early.value.reason, early.value.detail)


def test_a_film_is_condemned_and_a_container_is_not() -> None:
    """A film, a picture and a name without a reader are told by their starts; a container's end decides."""
    assert is_hopeless("film.mp4", b"\0\0\0\x20ftypisom" + bytes(START))
    assert is_hopeless("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(START))
    assert is_hopeless("a.unknown", b"words " * START)
    assert not is_hopeless("a.docx", b"PK\x03\x04" + bytes(START))
    assert not is_hopeless("a.msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(START))
    assert not is_hopeless("a.txt", b"words " * START)
    assert not is_hopeless("a.unknown", b" " * START)
