"""Opens what a fault has left, compares it with the witness in every view, and counts by kind what is wrong."""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from indexes.collection import Collection
from indexes.errors import IndexesError
from indexes.types import text_hash
from tests.faults.client import Record, read_witness
from tests.faults.steps import State, Step, after
from tests.indexes.corpus import chunks_of
from tests.indexes.oracle import misfound

Kind = Literal["lost", "duplicate", "phantom", "resurrected", "half_visible", "wrong_answer", "paid_twice"]
KINDS: tuple[Kind, ...] = ("lost", "duplicate", "phantom", "resurrected", "half_visible", "wrong_answer", "paid_twice")
"""Acknowledged and not there; there twice; there and never sent; there though removed; a document, or a change set,
that is there in part; a view or search that says something else; a text paid for after its vector was acknowledged."""
Finding = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class View:
    """All that can be seen of a collection, but for names and times that chance decides."""

    state: State
    versions: Mapping[str, int]
    vectors: frozenset[str]
    held: tuple[int, int, int, int]
    """Documents, chunks, vectors, and chunks without one."""
    segments: tuple[tuple[int, int, int], ...]
    """First and last id, and rows."""


def check(folder: Path, witness: Path, script: Sequence[Step]) -> list[Finding]:
    """Return all that is wrong with what a killed process left, opened for the first and for the second time."""
    record = read_witness(witness)
    if record.done < 0 and not _is_created(folder):
        return []
    found = list(_published(folder))
    for _ in range(2):
        try:
            with Collection.open(folder) as collection:
                found += _compared(collection, record, script)
        except IndexesError as error:
            return [*found, ("lost", f"the collection can't be opened: {error}")]
        found += _consistent(folder, record)
    found += _backed_up(folder.with_name("backup"), record, script)
    found += [("wrong_answer", wrong) for wrong in record.wrong]
    found += [("paid_twice", "a text was embedded again")] * record.paid_twice
    return found


def check_end(
    folder: Path, witness: Path, script: Sequence[Step], undisturbed: View, *, same_segments: bool = True
) -> list[Finding]:
    """Return what is wrong where the script was repeated to its end: also whatever an undisturbed run has otherwise.

    A fold that could not be done is left to the next one: after that `same_segments` can't be asked for.
    """
    found = check(folder, witness, script)
    if read_witness(witness).done != len(script):
        return [*found, ("lost", "the same command again did not reach its end")]
    seen = view(folder)
    for what in ("versions", "vectors", "held", *(("segments",) if same_segments else ())):
        if getattr(seen, what) != getattr(undisturbed, what):
            kind: Kind = "duplicate" if what == "versions" else "wrong_answer"
            found.append((kind, f"{what} are {getattr(seen, what)}, undisturbed {getattr(undisturbed, what)}"))
    return found


def view(folder: Path) -> View:
    with Collection.open(folder) as collection:
        [source] = collection.sources()
        entries = collection.manifest(source.id).entries
        status = collection.status()
        state = State(_texts(collection), collection.removed_by_hand(source.id))
        segments = tuple((s.first_id, s.last_id, s.rows) for s in collection.generations.listed()[-1].segments)
    return View(
        state,
        {path: entry.version for path, entry in entries.items()},
        _vectors(folder),
        (status.documents, status.chunks, status.vectors, status.missing_vectors),
        segments,
    )


def _is_created(folder: Path) -> bool:
    try:
        with Collection.open(folder) as collection:
            return bool(collection.sources())
    except IndexesError:
        return False


def _texts(collection: Collection) -> dict[str, str]:
    [source] = collection.sources()
    entries = collection.manifest(source.id).entries
    return {path: collection.text(entry.document_id, version=entry.version).text for path, entry in entries.items()}


def _compared(collection: Collection, record: Record, script: Sequence[Step]) -> Iterator[Finding]:
    held = _texts(collection)
    before, ahead = after(script, max(record.done, 0)), after(script, record.begun)
    yield from misheld(held, script, record)
    by_hand = collection.removed_by_hand(collection.sources()[0].id)
    expected = before if held == before.texts else ahead
    if by_hand != expected.by_hand:
        yield "wrong_answer", f"removed by hand are {sorted(by_hand)}, not {sorted(expected.by_hand)}"
    for wrong in misfound(collection, held):
        yield "wrong_answer", wrong
    listed = [info.path for info in collection.documents(None, 1000, None)[0]]
    for path, times in Counter(listed).items():
        if times > 1:
            yield "duplicate", f"{path} is listed {times} times"
    status, pieces = collection.status(), sum(len(chunks_of(text)) for text in held.values())
    if sorted(listed) != sorted(held) or (status.documents, status.chunks) != (len(held), pieces):
        yield "wrong_answer", f"{status.documents} documents, {status.chunks} chunks: {listed}"
    if status.missing_vectors:
        yield "half_visible", f"{status.missing_vectors} chunks have no vector"


def misheld(held: Mapping[str, str], script: Sequence[Step], record: Record) -> Iterator[Finding]:
    """Say what is wrong with the documents that are held: they must be those before or those after the last step."""
    states = [after(script, number) for number in range(record.begun + 1)]
    before, ahead = states[max(record.done, 0)].texts, states[-1].texts
    if held in (before, ahead):
        return
    sent = {text for state in states for text in state.texts.values()}
    single = True
    for path in sorted({*held, *before, *ahead}):
        text, allowed = held.get(path), (before.get(path), ahead.get(path))
        if text in allowed:
            continue
        single = False
        if text is None:
            yield "lost", f"{path} is not there"
        elif text not in sent:
            yield "phantom", f"{path} holds {text!r}, which nobody sent"
        elif allowed == (None, None):
            yield "resurrected", f"{path} was removed and holds {text!r}"
        else:
            yield "lost", f"{path} holds the older {text!r}"
    if single:  # each path alone could be right: one change set was done in part
        most = Counter(before.values()) | Counter(ahead.values())
        twice = Counter(held.values()) - most
        gone = [text for text in before.values() if text in ahead.values() and text not in held.values()]
        yield from (("duplicate", f"{text!r} stands at two paths") for text in twice)
        yield from (("lost", f"{text!r} is at neither of its paths") for text in gone)
        yield "half_visible", "a change set was done in part"


def _backed_up(file: Path, record: Record, script: Sequence[Step]) -> Iterator[Finding]:
    """A backup has its name only when it is whole, and holds what was held after some step."""
    if not file.exists():
        if any(step.kind == "backup" for step in script[: max(record.done, 0)]):
            yield "lost", "the backup is not there"
        return
    with closing(sqlite3.connect(f"{file.as_uri()}?immutable=1", uri=True)) as raw:
        if (said := raw.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            yield "wrong_answer", f"integrity_check of the backup: {said}"
        rows = raw.execute(
            """SELECT d.path, t.text FROM document d JOIN document_version v ON v.document_id = d.id
               AND v.state = 'live' JOIN version_text t ON t.version_id = v.id"""
        ).fetchall()
    if dict(rows) not in [after(script, number).texts for number in range(record.begun + 1)]:
        yield "half_visible", f"the backup holds {sorted(dict(rows))}"


def _published(folder: Path) -> Iterator[Finding]:
    """A published segment is there, whole, before anybody repairs it."""
    for name, (size, digest) in _segments(folder).items():
        path = folder / "segments" / name
        if not path.is_file():
            yield "lost", f"the published segment {name} is not there"
        elif path.stat().st_size != size or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield "lost", f"the published segment {name} is not what was published"


def _segments(folder: Path) -> dict[str, tuple[int, str]]:
    with closing(sqlite3.connect(folder / "store.db")) as raw:
        return {row[0]: (row[1], row[2]) for row in raw.execute("SELECT file, bytes, sha256 FROM segment")}


def _vectors(folder: Path) -> frozenset[str]:
    with closing(sqlite3.connect(folder / "store.db")) as raw:
        return frozenset(key.hex() for (key,) in raw.execute("SELECT text_hash FROM vector"))


def _consistent(folder: Path, record: Record) -> Iterator[Finding]:
    """What SQLite itself says of the file, the vectors, and the chunks of each version against its text."""
    vectors = _vectors(folder)
    yield from (("lost", f"the vector of {key} was acknowledged") for key in record.kept - vectors)
    yield from (("phantom", f"nobody paid for the vector of {key}") for key in vectors - set(record.paid))
    with closing(sqlite3.connect(folder / "store.db")) as raw:
        for (said,) in raw.execute("PRAGMA integrity_check"):
            if said != "ok":
                yield "wrong_answer", f"integrity_check: {said}"
        for row in raw.execute("PRAGMA foreign_key_check"):
            yield "half_visible", f"foreign_key_check: {row}"
        for (spec,) in raw.execute("SELECT id FROM chunk_spec").fetchall():
            try:
                raw.execute(f"INSERT INTO words_{spec} (words_{spec}) VALUES ('integrity-check')")
            except sqlite3.DatabaseError as error:
                yield "wrong_answer", f"the words of ChunkSpec {spec}: {error}"
            words = raw.execute(f"SELECT count(*) FROM words_{spec}_docsize").fetchone()[0]
            chunks = raw.execute("SELECT count(*) FROM chunk WHERE chunk_spec_id = ?", (spec,)).fetchone()[0]
            if words != chunks:
                yield "half_visible", f"{words} chunks have words, of {chunks}"
        raw.rollback()
        yield from _sliced(raw)


def _sliced(raw: sqlite3.Connection) -> Iterator[Finding]:
    documents = raw.execute(
        """SELECT d.path, v.id, t.text, v.content_hash FROM document d
           LEFT JOIN document_version v ON v.document_id = d.id AND v.state = 'live'
           LEFT JOIN version_text t ON t.version_id = v.id"""
    ).fetchall()
    for path, version, text, content_hash in documents:
        if text is None or content_hash != text_hash(text):
            yield "half_visible", f"{path} has no text, or that of another version"
            continue
        rows = raw.execute(
            'SELECT ordinal, start, "end", text_hash FROM chunk WHERE version_id = ? ORDER BY ordinal, id', (version,)
        ).fetchall()
        expected = [(chunk.ordinal, chunk.start, chunk.end, chunk.text_hash) for chunk in chunks_of(text)]
        if len(rows) > len(expected):
            yield "duplicate", f"{path} has {len(rows)} chunks, and is cut into {len(expected)}"
        elif rows != expected:
            yield "half_visible", f"{path} has the chunks {[row[:3] for row in rows]}"
