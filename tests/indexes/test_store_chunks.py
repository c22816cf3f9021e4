"""Sections as they are stored: small, and given back as they were; those of earlier releases from what there is."""

import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.collection import Collection
from indexes.store_chunks import pack, unpack
from indexes.types import ChangeSet, Chunk, Mark, SectionStart, Source
from tests.indexes.corpus import chunks_of, upsert
from tests.indexes.specs import OTHER

HEADINGS = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), max_size=4).map(tuple)
SECTIONS = st.lists(
    st.tuples(st.integers(0, 10**9), HEADINGS, st.none() | st.integers(1, 5_000)), unique_by=lambda row: row[0]
).map(lambda rows: tuple(SectionStart(*row) for row in sorted(rows, key=lambda row: row[0])))


@given(SECTIONS)
def test_sections_come_back_as_they_were(sections: tuple[SectionStart, ...]) -> None:
    """Any rising sections, with any headings and pages, survive; so do none."""
    assert unpack(pack(sections)) == sections


def test_headings_stand_once() -> None:
    """Of 3,000 sections below long headings, a heading is stored where it is entered: two fifths of it all."""
    sections = tuple(
        SectionStart(500 * n, (f"Part {n // 300} of the manual", f"Chapter {n // 20}: what it says", f"Section {n}"), n)
        for n in range(3_000)
    )
    plain = json.dumps([[s.start, s.page, s.heading_path] for s in sections])
    assert len(pack(sections)) < len(plain) / 2.5
    assert pack(sections).count("Part 3 of the manual") == 1


@pytest.mark.parametrize(
    "sections",
    [
        (SectionStart(1),),
        (SectionStart(0), SectionStart(0)),
        (SectionStart(0), SectionStart(6), SectionStart(3)),
        (SectionStart(0), SectionStart(12)),
        (SectionStart(0, ("half \ud800",)),),
    ],
    ids=["not from 0", "twice", "falling", "behind the text", "surrogate"],
)
def test_sections_that_make_no_sense_are_refused(
    collection: Collection, source: Source, sections: tuple[SectionStart, ...]
) -> None:
    """They must rise from 0 inside the text, with storable headings; nothing of the change set is applied."""
    with pytest.raises(ValueError, match=r"sections|surrogates"):
        collection.apply(ChangeSet(source.id, upserts=(upsert("a", "apple bread\n", sections=sections),)))
    assert collection.status().documents == 0


def test_a_stored_document_comes_with_its_sections(collection: Collection, source: Source) -> None:
    """What was applied is listed for a cutter, with headings and pages; without sections there are none."""
    sections = (SectionStart(0, ("Top",), 1), SectionStart(6, ("Top", "Näher 🙂"), 2))
    one, other = upsert("a", "apple bread\n", sections=sections), upsert("b", "drum\n")
    collection.apply(ChangeSet(source.id, upserts=(one, other)))
    assert [document.sections for document in collection.generations.uncut(OTHER)] == [sections, ()]


def forget_sections(folder: Path) -> None:
    """Make the texts those of a release that stored no sections."""
    raw = sqlite3.connect(folder / "store.db")
    with raw:
        raw.execute("UPDATE version_text SET sections = NULL")
    raw.close()


def chunk(start: int, end: int, page: int | None, *path: str) -> Chunk:
    like = chunks_of("x")[0]
    return Chunk(start, start, end, 1, path, page, like.text_hash, like.embedded_hash)


def test_sections_of_an_earlier_release_are_gathered(collection: Collection, source: Source, folder: Path) -> None:
    """Headings change where marks say so, pages where chunks do; without marks the chunks tell both."""
    marks = (Mark(0, {"slide": 1}, ("A",)), Mark(3, {"slide": 2}, ("A",)), Mark(5, {}, ("A", "B")))
    chunks = (chunk(0, 8, 1, "A"), chunk(7, 12, 2, "A", "B"))
    with_marks = upsert("a", "apple bread\n", marks=marks, chunks=chunks)
    without = upsert("b", "apple bread\n", chunks=(chunk(0, 4, None), chunk(4, 8, None, "C"), chunk(8, 12, None, "C")))
    collection.apply(ChangeSet(source.id, upserts=(with_marks, without)))
    forget_sections(folder)
    assert [document.sections for document in collection.generations.uncut(OTHER)] == [
        (SectionStart(0, ("A",), 1), SectionStart(5, ("A", "B"), 1), SectionStart(7, ("A", "B"), 2)),
        (SectionStart(0, ()), SectionStart(4, ("C",))),
    ]
