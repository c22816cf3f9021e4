"""Segments: folds, merges, damaged files, leftovers, the build lock, and snapshots across objects and processes."""

import logging
import math
import multiprocessing
import os
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from indexes import failpoints, generations, segment_files, store_vectors
from indexes.collection import Collection
from indexes.errors import Conflict, StorageFull, StoreDamaged
from indexes.exact_index import ExactIndex
from indexes.store import Store
from indexes.tiers import MAX_SEGMENTS, merge_from
from indexes.types import ChangeSet, Source
from tests.indexes.corpus import SPEC, embed, put, query_vector, upsert, vector_of

QUERY = vector_of(b"a certain query")


def answers(collection: Collection) -> list[tuple[str, float]]:
    return [(hit.text, round(hit.score, 5)) for hit in collection.search("x", QUERY, 100, "dense").hits]


def fill(collection: Collection, source: Source, name: str, lines: int = 5) -> None:
    put(collection, source, upsert(name, "".join(f"{name} line {n}\n" for n in range(lines))))


def files_of(folder: Path) -> set[str]:
    return {path.name for path in (folder / "segments").iterdir()}


def test_a_fold_moves_the_delta_into_a_segment(folder: Path, collection: Collection, source: Source) -> None:
    """The answers stay, the delta is empty, the row describes the file, and a second fold has nothing to do."""
    fill(collection, source, "a")
    before = answers(collection)
    assert collection.status().delta_rows == 5
    assert collection.fold()
    assert not collection.fold()
    status, generation = collection.status(), collection.generations.listed()[0]
    assert (status.delta_rows, status.segments, status.vectors) == (0, 1, 5)
    (segment,) = generation.segments
    assert (generation.number, generation.current, generation.spec) == (1, True, SPEC)
    assert (segment.rows, segment.first_id, segment.last_id) == (5, 1, 5)
    path = folder / "segments" / segment.file
    assert (segment.size, segment.sha256) == (path.stat().st_size, segment_files.checksum(path))
    assert answers(collection) == before
    assert collection.settle()
    assert answers(collection) == before
    assert (collection._current._snapshot.delta.size, len(collection._current._snapshot.indexes)) == (0, 1)
    with Collection.open(folder) as again:
        assert answers(again) == before
    fill(collection, source, "b")
    assert len(answers(collection)) == 10


def test_a_fold_is_due_by_rows_or_by_bytes(folder: Path, collection: Collection, source: Source, monkeypatch) -> None:
    """Below the limit nothing is built; vectors of another spec do not count."""
    with Collection.open(folder, delta_rows=8) as writer:
        fill(writer, source, "a", lines=7)
        assert not writer.fold_if_due()
        other = SPEC.embedding.__class__("another", 8)
        keys = [bytes([n]) * 32 for n in range(9)]
        writer.add_vectors(other, keys, np.stack([vector_of(key) for key in keys]))
        assert not writer.fold_if_due()
        fill(writer, source, "b", lines=1)
        assert writer.fold_if_due()
        assert collection.status().segments == 1
        fill(writer, source, "c", lines=2)
        assert not writer.fold_if_due()
        monkeypatch.setattr("indexes.generations.DELTA_BYTES", 2 * 8 * 4)
        assert writer.fold_if_due()


def test_folds_merge_and_stay_few(folder: Path, collection: Collection, source: Source) -> None:
    """After twenty folds the segments are few, adjoin, hold every row, and answer like one that never folded."""
    expected: list[tuple[str, float]] = []
    for n in range(20):
        fill(collection, source, f"d{n:02d}", lines=3)
        assert collection.fold()
        segments = collection.generations.listed()[0].segments
        assert len(segments) <= MAX_SEGMENTS
        assert [s.first_id for s in segments] == [1] + [s.last_id + 1 for s in segments[:-1]]
        assert sum(s.rows for s in segments) == 3 * (n + 1) == segments[-1].last_id
        assert [s.ordinal for s in segments] == list(range(len(segments)))
    shutil.copytree(folder, folder.with_name("plain"))
    with Collection.open(folder.with_name("plain")) as plain:
        with plain._store.write() as connection:
            connection.execute("DELETE FROM segment")
        expected = answers(plain)
    assert answers(collection) == expected
    assert len(expected) == 60
    collection.fold()
    assert files_of(folder) == {s.file for s in collection.generations.listed()[0].segments}


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=120))
def test_merging_keeps_segments_few(folds: list[int]) -> None:
    """Whatever the sizes of the folds, at most eight segments, and no row lost."""
    rows: list[int] = []
    for new in folds:
        rows.append(new)
        start = merge_from(rows)
        rows[start:] = [sum(rows[start:])]
        assert len(rows) <= MAX_SEGMENTS
    assert sum(rows) == sum(folds)


def test_merging_rewrites_a_row_a_logarithmic_number_of_times() -> None:
    """1,000 equal folds write each row about log4(1,000) times, a little more for the limit of eight."""
    rows, written = [], 0
    for _ in range(1000):
        rows.append(10_000)
        start = merge_from(rows)
        rows[start:] = [sum(rows[start:])]
        written += rows[-1]
    assert written / sum(rows) <= math.log(1000, 4) + 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_loading_reads_the_segments_before_any_search(folder, collection, source, caplog) -> None:
    """After `load` a search needs no file; a file that is damaged then is rebuilt then."""
    fill(collection, source, "a")
    collection.fold()
    before = answers(collection)
    flip(folder / "segments" / collection.generations.listed()[0].segments[0].file)
    with caplog.at_level(logging.WARNING, "indexes"), Collection.open(folder) as opened:
        opened.load()
        assert opened.settle()
        assert "rebuilt" in caplog.text
    with Collection.open(folder) as opened:
        opened.load()
        shutil.rmtree(folder / "segments")
        caplog.clear()
        assert answers(opened) == before
        assert caplog.text == ""


@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
def test_a_damaged_file_costs_no_answer_and_is_rebuilt(folder, collection, source, damage, caplog) -> None:
    """A flipped bit, a short, empty or missing file: same answers, a log line, a new file, and silence after that."""
    fill(collection, source, "a")
    collection.fold()
    fill(collection, source, "b")
    before = answers(collection)
    (old,) = collection.generations.listed()[0].segments
    damage(folder / "segments" / old.file)
    with caplog.at_level(logging.WARNING, "indexes"), Collection.open(folder) as opened:
        assert answers(opened) == before
        assert opened.settle()
        assert old.file in caplog.text
        assert "rebuilt" in caplog.text
        (new,) = opened.generations.listed()[0].segments
        assert new.file != old.file
        assert (new.rows, new.first_id, new.last_id, new.ordinal) == (old.rows, old.first_id, old.last_id, 0)
        assert files_of(folder) <= {old.file, new.file}
        caplog.clear()
        assert answers(opened) == before
        fill(opened, source, "c")
        opened.fold()
        assert len(answers(opened)) == 15
    with Collection.open(folder) as opened:
        assert len(answers(opened)) == 15
        assert caplog.text == ""


def test_a_foreign_file_is_not_loaded(folder, tmp_path, collection, source) -> None:
    """A sound segment of another collection in the place of ours is known by its checksum."""
    fill(collection, source, "a")
    collection.fold()
    before = answers(collection)
    with Collection.create(tmp_path / "other", "other1", SPEC) as other:
        fill(other, other.add_source("/d", "folder"), "foreign")
        other.fold()
        theirs = other.generations.listed()[0].segments[0].file
    ours = folder / "segments" / collection.generations.listed()[0].segments[0].file
    ours.write_bytes((tmp_path / "other" / "segments" / theirs).read_bytes())
    with Collection.open(folder) as opened:
        assert answers(opened) == before


@pytest.mark.parametrize("column", ["kind", "rows"])
def test_a_file_that_is_not_what_its_row_says_is_not_served(folder, collection, source, column, caplog) -> None:
    """An unknown kind (a newer release's) or another number of rows: served from the store, as long as needed."""
    fill(collection, source, "a")
    collection.fold()
    before = answers(collection)
    with collection._store.write() as connection:
        connection.execute(f"UPDATE segment SET {column} = 77")
    with Collection.open(folder) as opened:
        assert answers(opened) == before
        assert "served from the store" in caplog.text


def test_a_file_of_other_rows_is_not_served(folder, collection, source, caplog) -> None:
    """Two segments that name each other's sound file, of as many rows, answer from the store."""
    for name in ("a", "b"):
        fill(collection, source, name)
        collection.fold()
    before = answers(collection)
    one, other = collection.generations.listed()[0].segments
    with collection._store.write() as connection:
        for segment, named in ((one, "kept"), (other, one.file), (one, other.file)):
            values = (named, other.sha256 if segment is one else one.sha256)
            known = "kept" if named == other.file else segment.file
            connection.execute("UPDATE segment SET file = ?, sha256 = ? WHERE file = ?", (*values, known))
    with Collection.open(folder) as opened:
        assert answers(opened) == before
        assert "another segment's" in caplog.text


def test_a_damaged_file_is_served_while_it_cannot_be_rebuilt(folder, collection, source, caplog) -> None:
    """With the build lock taken, the answers are right without the file; a later process rebuilds it."""
    fill(collection, source, "a")
    collection.fold()
    before = answers(collection)
    (old,) = collection.generations.listed()[0].segments
    empty(folder / "segments" / old.file)
    with FileLock(folder / "locks" / "build.lock"), Collection.open(folder) as opened:
        assert answers(opened) == before == answers(opened)
        assert opened.generations.listed()[0].segments == (old,)
        assert not opened.fold()
    with Collection.open(folder) as opened:
        assert answers(opened) == before
        assert opened.settle()
        assert opened.generations.listed()[0].segments != (old,)
        assert answers(opened) == before


def test_what_killed_builds_left_is_removed_by_the_next(folder, collection, source) -> None:
    """Unpublished files go at the next build, under its lock; published ones stay."""
    fill(collection, source, "a")
    collection.fold()
    published = files_of(folder)
    for name in ("6-9-0000.float16", "6-9-0000.float16.tmp"):
        (folder / "segments" / name).write_bytes(b"left")
    with FileLock(folder / "locks" / "build.lock"):
        assert not collection.fold()
    assert len(files_of(folder)) == 3
    assert not collection.fold()
    assert files_of(folder) == published


@pytest.mark.parametrize("failing", ["save", "load", "verify", "rename", "publish"])
def test_a_failed_build_changes_nothing(folder, collection, source, failing, monkeypatch) -> None:
    """A full disk, or a file that does not hold what was written, leaves the old segments in service and no litter."""
    fill(collection, source, "a")
    collection.fold()
    fill(collection, source, "b")
    before, published = answers(collection), collection.generations.listed()[0].segments
    full = OSError(28, "No space left on device")

    def fail(*_: object, **__: object) -> None:
        raise full

    with monkeypatch.context() as patched:
        kind = segment_files.kinds()["float16"]
        if failing == "verify":
            wrong = ExactIndex.build(np.arange(5), np.eye(5, 8, dtype=np.float32))
            patched.setattr(kind, "load", classmethod(lambda *_, **__: wrong))
        elif failing == "publish":
            patched.setattr(store_vectors, "replace_segments", fail)
        elif failing == "rename":
            patched.setattr(Path, "rename", fail)
        else:
            patched.setattr(kind, failing, fail)
        with pytest.raises((StorageFull, StoreDamaged, OSError)):
            collection.fold()
    assert collection.generations.listed()[0].segments == published
    assert answers(collection) == before
    assert not [name for name in files_of(folder) if name.endswith(".tmp")]
    assert collection.fold()
    assert answers(collection) == before


@pytest.mark.parametrize("blob", ["zeroblob(16)", "zeroblob(14)", "x'" + "7e00" * 8 + "'"])
def test_a_damaged_vector_is_damage_of_the_store(collection, source, blob) -> None:
    """A stored vector of no length, another width or without numbers is neither served nor folded."""
    fill(collection, source, "a")
    with collection._store.write() as connection:
        connection.execute(f"UPDATE vector SET vector = {blob} WHERE id = 3")
    with pytest.raises(StoreDamaged, match="stored vector"):
        answers(collection)
    with pytest.raises(StoreDamaged, match="stored vector"):
        collection.fold()


def test_a_list_that_changed_meanwhile_is_not_overwritten(collection, source, monkeypatch) -> None:
    """Publishing checks that the segment list is the one the build began with."""
    fill(collection, source, "a")
    write = generations.Segments._written

    def slow(self, *values):
        with self._store.write() as connection:
            connection.execute("UPDATE generation SET revision = revision + 1")
        return write(self, *values)

    monkeypatch.setattr(generations.Segments, "_written", slow)
    with pytest.raises(Conflict):
        collection.fold()
    assert collection.generations.listed()[0].segments == ()


def test_two_objects_see_each_others_commits(folder, collection, source) -> None:
    """What one object applies, folds or removes, the other's next search knows, with its snapshot already made."""
    with Collection.open(folder) as other:
        assert answers(other) == []
        fill(collection, source, "a")
        assert len(answers(other)) == 5
        assert other.fold()
        assert answers(collection) == answers(other)
        fill(other, source, "b")
        collection.fold()
        fill(other, source, "c")
        assert len(answers(collection)) == len(answers(other)) == 15
        for entry in other.manifest(source.id).entries.values():
            other.remove_document(entry.document_id)
        assert answers(collection) == []


def apply_and_fold(folder: str) -> None:
    """What the second process does."""
    with Collection.open(Path(folder)) as collection:
        source = collection.add_source("/data/docs", "folder")
        fill(collection, source, "from elsewhere", lines=3)
        assert collection.fold()


def test_another_process_is_seen_by_the_next_search(folder, collection, source) -> None:
    """A real second process applies and folds while this one holds a snapshot."""
    fill(collection, source, "a")
    assert len(answers(collection)) == 5
    process = multiprocessing.get_context("forkserver").Process(target=apply_and_fold, args=(str(folder),))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert len(answers(collection)) == 8
    assert collection.status().segments == 1
    assert "from elsewhere line 1\n" in [text for text, _ in answers(collection)]


def test_readers_see_one_moment_while_a_writer_applies_and_folds(folder, collection, source) -> None:
    """Each change set writes one number into every document: no answer ever holds two numbers, text and score agree."""
    names = [f"doc{n}" for n in range(6)]

    def version(number: int, replaces: dict[str, tuple[str, int]]) -> None:
        upserts = [upsert(name, f"apple {name} v{number}\n", replaces.get(name)) for name in names]
        embed(collection, *upserts)
        report = collection.apply(ChangeSet(source.id, upserts=tuple(upserts)))
        replaces.update({name: (report.documents[name], number) for name in names})

    replaces: dict[str, tuple[str, int]] = {}
    version(1, replaces)
    stop, wrong, seen = threading.Event(), [], set()

    def read(mode: str, opened: Collection) -> None:
        try:
            while not stop.is_set():
                hits = opened.search("apple", QUERY, 20, mode).hits
                numbers = {hit.version for hit in hits}
                texts = {hit.text for hit in hits}
                if len(numbers) != 1 or texts != {f"apple {name} v{max(numbers)}\n" for name in names}:
                    wrong.append((mode, numbers, texts))
                for hit in hits if mode == "dense" else ():
                    if abs(hit.score - float(query_vector(hit.text) @ QUERY)) > 2e-3:
                        wrong.append((mode, hit.text, hit.score))
                seen.update(numbers)
        except Exception as error:  # noqa: BLE001 - any error in a thread is the test's to show
            wrong.append(error)

    with Collection.open(folder) as other:
        readers = [
            threading.Thread(target=read, args=(mode, opened))
            for mode in ("dense", "lexical", "hybrid")
            for opened in (collection, other)
        ]
        for reader in readers:
            reader.start()
        for number in range(2, 40):
            version(number, replaces)
            if number % 4 == 0:
                collection.fold()
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(seen) > 1
    assert {hit.version for hit in collection.search("apple", QUERY, 20, "dense").hits} == {39}


def test_rows_of_a_spec_are_found_without_those_of_others(collection: Collection) -> None:
    """Counting, listing and reading the vectors of a spec goes by an index: another spec's may be a million."""
    asked: list[str] = []
    with collection._store.read() as connection:
        connection.set_trace_callback(asked.append)
        store_vectors.count_vectors(connection, 1)
        store_vectors.count_vectors(connection, 1, 5)
        store_vectors.live_ids(connection, 1)
        list(store_vectors.stored_batches(connection, 1, 8, 1, 10))
        connection.set_trace_callback(None)
        plans = [connection.execute(f"EXPLAIN QUERY PLAN {one}").fetchall() for one in asked]
    assert len(plans) == 4
    assert all(len(plan) == 1 and "vector_by_spec (embedding_spec_id=?" in plan[0][-1] for plan in plans)


@pytest.mark.parametrize("how", ["another list", "a long write"])
def test_a_fold_that_loses_a_race_is_due_again(folder, collection, source, how) -> None:
    """A generation that is published, or a write that goes on, while a due fold builds costs the run nothing."""
    put(collection, source, upsert("a.txt", "a line\n" * 3 + "b line\nc line\n"))

    def meanwhile(name: str) -> None:
        if name == "segment.publish":
            failpoints.install(None)
            if how == "another list":
                with store.write() as connection:
                    connection.execute("UPDATE generation SET revision = revision + 1")
            else:
                held.enter_context(store.write())

    with ExitStack() as held, Collection.open(folder, delta_rows=2) as writer:
        store = Store.open(folder)
        held.callback(store.close)
        writer._store._busy_seconds = 0.05
        failpoints.install(meanwhile)
        try:
            assert not writer.fold_if_due()
        finally:
            failpoints.install(None)
        held.close()
        writer._store._busy_seconds = 10.0
        assert writer.status().segments == 0
        assert writer.fold_if_due()
        assert writer.status().segments == 1
