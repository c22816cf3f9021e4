"""The statements on how a version's text is cut: its sections, and its chunks under each spec.

Each function runs in its caller's transaction.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise

from indexes import lexical, store_words
from indexes.store import Connection
from indexes.types import Chunk, DocumentUpsert, SectionStart


def require_sections(upsert: DocumentUpsert) -> None:
    """Raise ValueError where sections do not rise from 0 inside the text, or a heading can't be stored."""
    sections = upsert.sections
    if not sections:
        return
    rising = all(one.start < other.start for one, other in pairwise(sections))
    if sections[0].start != 0 or not rising or sections[-1].start >= len(upsert.text):
        raise ValueError(f"the sections of {upsert.path} must rise from 0 inside its text")
    for section in sections:
        for heading in section.heading_path:
            if not heading.isascii():
                heading.encode()


def pack(sections: Sequence[SectionStart]) -> str:
    """Return sections as JSON: [characters since the last start, page, headings kept from the last path, heading, ...].

    A heading stands where it is entered and not in every section below it (front coding). Measured: 86 KB for 3,000
    sections under three headings each, instead of 257; 1.9 % of the texts of 200 real documents, instead of 4.2 %.
    """
    rows: list[list[int | str | None]] = []
    start = 0
    path: tuple[str, ...] = ()
    for section in sections:
        kept = _shared(path, section.heading_path)
        rows.append([section.start - start, section.page, kept, *section.heading_path[kept:]])
        start, path = section.start, section.heading_path
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def unpack(packed: str) -> tuple[SectionStart, ...]:
    """Return what `pack` was given."""
    sections: list[SectionStart] = []
    start, path = 0, ()
    for since, page, kept, *headings in json.loads(packed):
        start, path = start + since, (*path[:kept], *headings)
        sections.append(SectionStart(start, path, page))
    return tuple(sections)


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return same


def sections(connection: Connection, version_id: int, packed: str | None) -> tuple[SectionStart, ...]:
    """Return the sections of a version; `packed` is its `version_text.sections`.

    Of a text that an earlier release stored they are gathered from its marks, which know every change of headings, and
    its chunks, none of which goes over a page: sections that differ in neither are one.
    """
    if packed is not None:
        return unpack(packed)
    cuts = connection.execute(
        """SELECT start, page, heading_path FROM chunk WHERE version_id = ?1 AND chunk_spec_id =
               (SELECT min(chunk_spec_id) FROM chunk WHERE version_id = ?1) ORDER BY ordinal""",
        (version_id,),
    ).fetchall()
    marks = connection.execute(
        "SELECT start, heading_path FROM mark WHERE version_id = ? ORDER BY start", (version_id,)
    ).fetchall()
    paths = dict(marks) or {start: path for start, _, path in cuts}
    pages = {start: page for start, page, _ in cuts}
    found: list[SectionStart] = []
    path, page = "[]", None
    for start in sorted({*paths, *pages}):
        path, page = paths.get(start, path), pages.get(start, page)
        section = SectionStart(start if found else 0, tuple(json.loads(path)), page)
        if not found or (found[-1].heading_path, found[-1].page) != (section.heading_path, page):
            found.append(section)
    return tuple(found)


def chunks(connection: Connection, version_id: int, chunk_spec_id: int, embedding_spec_id: int) -> tuple[Chunk, ...]:
    """Return a version's chunks in order; those not prepared for the EmbeddingSpec have b"" as embedded hash."""
    rows = connection.execute(
        """SELECT c.ordinal, c.start, c."end", c.tokens, c.heading_path, c.page, c.text_hash,
                  coalesce(e.embedded_hash, x'')
           FROM chunk c LEFT JOIN chunk_embedding e ON e.chunk_id = c.id AND e.embedding_spec_id = ?
           WHERE c.version_id = ? AND c.chunk_spec_id = ? ORDER BY c.ordinal""",
        (embedding_spec_id, version_id, chunk_spec_id),
    )
    return tuple(
        Chunk(ordinal, start, end, tokens, tuple(json.loads(heading_path)), page, text_hash, embedded_hash)
        for ordinal, start, end, tokens, heading_path, page, text_hash, embedded_hash in rows
    )


def insert(
    connection: Connection, version_id: int, of: tuple[str, str], cut: Sequence[Chunk], spec_ids: tuple[int, int]
) -> None:
    """Store the chunks of a version with their words and embedded hashes.

    `of` is its title and text, `spec_ids` are the ids of EmbeddingSpec and ChunkSpec.
    """
    title, text = of
    embedding_spec_id, chunk_spec_id = spec_ids
    # The ids are given out here, under the write lock, so that all rows go in by executemany.
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunk'").fetchone()
    numbered: list[tuple[int, Chunk]] = list(enumerate(cut, start=(row[0] if row else 0) + 1))
    packed = {path: json.dumps(path, ensure_ascii=False) for path in {chunk.heading_path for chunk in cut}}
    connection.executemany(
        """INSERT INTO chunk (id, version_id, chunk_spec_id, ordinal, start, "end", tokens, page, heading_path,
                              text_hash, filed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)""",
        (
            (
                *(chunk_id, version_id, chunk_spec_id, chunk.ordinal, chunk.start, chunk.end, chunk.tokens),
                *(chunk.page, packed[chunk.heading_path], chunk.text_hash),
            )
            for chunk_id, chunk in numbered
        ),
    )
    insert_embedded(connection, embedding_spec_id, ((chunk_id, chunk.embedded_hash) for chunk_id, chunk in numbered))
    slices = (
        (chunk_id, lexical.headed(title, chunk.heading_path, text[chunk.start : chunk.end]))
        for chunk_id, chunk in numbered
    )
    store_words.add(connection, chunk_spec_id, slices)


def insert_embedded(connection: Connection, embedding_spec_id: int, hashes: Iterable[tuple[int, bytes]]) -> None:
    """Store (chunk id, hash of what is embedded for it); known ones are left as they are."""
    connection.executemany(
        """INSERT INTO chunk_embedding (chunk_id, embedding_spec_id, embedded_hash, filed) VALUES (?, ?, ?, 0)
           ON CONFLICT (chunk_id, embedding_spec_id) DO NOTHING""",
        ((chunk_id, embedding_spec_id, embedded_hash) for chunk_id, embedded_hash in hashes),
    )
