"""A document that must be erased without a trace, put into a data directory by every way there is."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import numpy as np

from ragsvc.compose import House
from ragsvc.indexing import IndexRequest, index
from tests.ragsvc.api.rooms import WordVectors, settings

WORDS = ("zqxvortle", "zqxbramwick", "zqxulanthe", "zqxmordegai", "zqxpirimund")
"""They share no prefix with any other word, so that the full-text index keeps at least one of them whole."""
PATH = f"notes/{WORDS[0]}.md"
SHARED = "## Valves\n\nThe red valve is turned clockwise before the first frost of the year, and never after it.\n"
OTHERS = {
    "notes/b.md": "Pumps are drained in autumn.\n",
    "notes/c.md": f"# Garden\n\nIt is old, and it is large.\n\n{SHARED}",
}
VERSIONS = (
    f"# {WORDS[1]}\n\nThe first version speaks of {WORDS[1]} alone, and of its {WORDS[0]}.\n",
    f"# {WORDS[2]}\n\n"
    + "".join(
        f"## Part {n}\n\nLine {n} is on {WORDS[2]} and on {n * n} more things of its kind.\n\n" for n in range(40)
    )
    + SHARED,
)
METADATA = {"owner": WORDS[3]}


def house_of(data_dir: Path) -> House:
    """A service whose vectors cost nothing, with segments after every few rows."""
    house = House(settings(data_dir, delta_rows=4, chunk_tokens=32, chunk_overlap=0))
    house._embedder = lambda spec, purpose: WordVectors(spec)
    return house


def upload(house: House, files: dict[str, str], metadata=None, *, work: bool = True):
    """Accept an upload, and do its job unless it is to wait."""
    delivery = house.uploads.open(sum(len(text.encode()) for text in files.values()))
    for path, text in files.items():
        delivery.begin(path)
        delivery.write(text.encode())
        delivery.end()
    job = house.uploads.accept(delivery, "default", metadata or {})
    if work:
        claimed = house.uploads.jobs.claim(job.collection_id)
        asyncio.run(house.uploads.prepare(claimed).work())
        house.uploads.jobs.finish(job.id, "done")
        house.uploads.ended(job.id)
    return job


def seeded(data_dir: Path) -> str:
    """Fill a data directory; return the id of the document that is to go.

    It has an earlier version, uploads that wait (one beside another document), what is remembered of its path, a
    staged version, and a passage that another document has, too.
    """
    house = house_of(data_dir)
    try:
        for path, text in OTHERS.items():
            upload(house, {path: text})
        for text in VERSIONS:
            upload(house, {PATH: text}, METADATA)
        collection = house.library.open("default")
        collection.fold()
        upload(house, {PATH: f"{WORDS[4]} was never indexed\n"}, METADATA, work=False)
        upload(house, {"notes/d.md": "It waits.\n", PATH: f"nor was {WORDS[4]} in this\n"}, work=False)
        [document] = [one for one in collection.documents(None, 100, None)[0] if one.path == PATH]
        store = data_dir / "collections" / collection.id / "store.db"
    finally:
        asyncio.run(house.aclose())
    _add_rows(store, document.id)
    # Of a process that was killed when its job was done, or before it was accepted.
    (data_dir / "uploads" / f"job_{'a' * 16}").write_text(f"{VERSIONS[0]}{WORDS[4]}\n")
    return document.id


def _add_rows(store: Path, document_id: str) -> None:
    with contextlib.closing(sqlite3.connect(store)) as raw, raw:
        for table, columns, values in (
            ("rejection", "source_id, path, size, mtime_ns, inode, scanned_ns, readers, reason, detail",
             (1, PATH, 1, 1, 1, 1, "", "damaged", WORDS[1])),
            ("removed_by_hand", "source_id, path", (1, PATH)),
        ):  # fmt: skip
            marks = ",".join("?" * len(values))
            raw.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)
        staged = raw.execute(
            """INSERT INTO document_version (document_id, number, state, content_hash, size, mtime_ns, inode,
                   scanned_ns, content_type, title, characters, reader, created_at, metadata)
               VALUES (?, 3, 'staged', x'00', 1, 1, 1, 1, 'text/plain', ?, 1, 'x', 'x', '{}')""",
            (document_id, WORDS[4]),
        ).lastrowid
        raw.execute("INSERT INTO version_text (version_id, text) VALUES (?, ?)", (staged, f"{WORDS[4]} is staged" * 9))
        chunk = raw.execute(
            """INSERT INTO chunk (version_id, chunk_spec_id, ordinal, start, "end", tokens, heading_path, text_hash)
               VALUES (?, 1, 0, 0, 9, 3, ?, x'22')""",
            (staged, f'["{WORDS[4]}"]'),
        ).lastrowid
        raw.execute("INSERT INTO chunk_embedding VALUES (?, 1, ?, 0)", (chunk, b"s" * 32))
        vector = np.random.default_rng(7).standard_normal(384)
        stored = (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
        raw.execute("INSERT INTO vector (embedding_spec_id, text_hash, created_at, vector) VALUES (1, ?, 'x', ?)",
                    (b"s" * 32, stored))  # fmt: skip
        raw.execute("INSERT INTO vector_key SELECT 0, text_hash, 1, id FROM vector WHERE text_hash = ?", (b"s" * 32,))


def vectors_not_shared(data_dir: Path) -> list[bytes]:
    """The stored bytes of every vector that only the canary, or an earlier version of it, has."""
    [store] = data_dir.glob("collections/*/store.db")
    with contextlib.closing(sqlite3.connect(store)) as raw:
        rows = raw.execute(
            """SELECT vector FROM vector v WHERE NOT EXISTS (SELECT 1 FROM chunk_embedding e
                   JOIN chunk c ON c.id = e.chunk_id JOIN document_version o ON o.id = c.version_id
                   JOIN document d ON d.id = o.document_id
                   WHERE e.embedded_hash = v.text_hash AND d.path <> ?)""",
            (PATH,),
        )
        return [row[0] for row in rows]


def traces(data_dir: Path, vectors: list[bytes]) -> list[str]:
    """Search every byte of every file for the words (any case, three encodings), the path and the vectors.

    For a process without a connection to the files: closing a file ends the locks that the process has on it.
    """
    found = []
    needles = {}
    for word in WORDS:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            needles[f"{word} in {encoding}"] = word.encode(encoding)
    for number, vector in enumerate(vectors):
        # A part of a vector is enough to betray it: its middle, away from any header.
        needles[f"float16 of vector {number}"] = vector[256:320]
        needles[f"float32 of vector {number}"] = np.frombuffer(vector, "<f2").astype("<f4").tobytes()[256:320]
    for path in sorted(data_dir.rglob("*")):
        if any(word in path.name for word in WORDS):
            found.append(f"{path}: its name")
        if path.is_file():
            data = path.read_bytes()
            lower = data.lower()
            for what, needle in needles.items():
                if needle in (data if "vector" in what else lower):
                    found.append(f"{path.relative_to(data_dir)}: {what}")
    return found


def terms(data_dir: Path) -> set[str]:
    """Return every term of every full-text index of the data directory's collections."""
    found: set[str] = set()
    for store in data_dir.glob("collections/*/store.db"):
        with contextlib.closing(sqlite3.connect(store)) as raw:
            for (number,) in raw.execute("SELECT id FROM chunk_spec").fetchall():
                found |= {term for (term,) in raw.execute(f"SELECT term FROM words_{number}_vocabulary")}
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    return found


def indexed(house: House, folder: Path) -> None:
    """Index a folder as the command does."""
    request = IndexRequest(folder)
    asyncio.run(index(request, house.settings, house.library, house.embedder_for))
