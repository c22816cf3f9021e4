"""Damage done to whole files of each kind of container: every one is read or rejected, and nothing else happens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.readers.documents import reason_of
from tests.ingest.readers.test_epub import book
from tests.ingest.readers.test_opendocument import file, p
from tests.ingest.readers.test_slides import saved as saved_show
from tests.ingest.readers.test_slides import written as written_show
from tests.ingest.readers.test_word import written as written_text
from tests.ingest.readers.test_workbook import of_rows
from tests.ingest.readers.test_workbook import saved as saved_book

SAMPLES = {
    "docx": written_text(),
    "pptx": saved_show(written_show()),
    "xlsx": saved_book(of_rows(["Name", 1.5], ["Ann", True])),
    "odt": file(p("One", "h") + p("words")),
    "epub": book("<h1>One</h1><p>a</p>", "<p>b</p>"),
}
ENDS = {"", "damaged", "empty", "limit", "no_text", "password", "unsupported", "encoding"}


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_truncated_file_is_damaged(kind: str) -> None:
    """Cut anywhere, a container has lost its table of contents: it is damaged under its own name, and no crash."""
    data = SAMPLES[kind]
    assert reason_of(f"a.{kind}", data) == ""
    for percent in range(1, 100):
        assert reason_of(f"a.{kind}", data[: max(4, len(data) * percent // 100)]) == "damaged"


@pytest.mark.parametrize("kind", SAMPLES)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=10), st.booleans())
@settings(max_examples=40, deadline=None)
def test_flipped_bits_lead_to_no_crash(kind: str, flips: list[tuple[float, int]], at_the_end: bool) -> None:
    """Bits flipped anywhere, or in the table of contents at the end, lead to a document or a reason."""
    assert reason_of(f"a.{kind}", flipped(SAMPLES[kind], flips, at_the_end)) in ENDS


@pytest.mark.soak
@pytest.mark.parametrize("kind", SAMPLES)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=10), st.booleans())
@settings(max_examples=3_000, deadline=None)
def test_many_flipped_bits_lead_to_no_crash(kind: str, flips: list[tuple[float, int]], at_the_end: bool) -> None:
    """The long form, 3,000 files of each kind."""
    assert reason_of(f"a.{kind}", flipped(SAMPLES[kind], flips, at_the_end)) in ENDS


def flipped(data: bytes, flips: list[tuple[float, int]], at_the_end: bool) -> bytes:
    changed = bytearray(data)
    first = data.index(b"PK\x01\x02") if at_the_end else 4
    for place, bit in flips:
        changed[first + int(place * (len(data) - first - 1))] ^= 1 << bit
    return bytes(changed)
