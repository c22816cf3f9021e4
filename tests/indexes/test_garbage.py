"""Vectors and files that nothing uses: kept for a while, then gone; what something uses never goes."""

import os
import re
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from indexes import failpoints, garbage, store_garbage, store_vectors
from indexes.collection import Collection
from indexes.errors import NotFound, RunGoesOn
from indexes.types import ChangeSet, ChunkSpec, EmbeddingSpec, IndexSpec, run_lock_name
from tests.indexes.corpus import EMBEDDING, SPEC, chunks_of, embed, put, query_vector, stored, upsert, vectors_of
from tests.indexes.specs import OTHER, cut_all, query_under

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _no_failpoints():
    yield
    failpoints.install(None)


def count(collection: Collection) -> int:
    return collection.status().vectors


def known(collection: Collection, text: str) -> bool:
    keys = [chunk.embedded_hash for chunk in chunks_of(text)]
    return len(collection.known_vectors(EMBEDDING, keys)) == len(set(keys))


def age(folder: Path, days: float) -> None:
    """Let what was put down as unreferenced be so for longer, and garbage not collected for as long."""
    before = (datetime.now(UTC) - days * DAY).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with sqlite3.connect(folder / "store.db") as raw:
        raw.execute("UPDATE unreferenced_vector SET since = ?", (before,))
        raw.execute("UPDATE meta SET value = ? WHERE key = 'garbage_collected_at'", (before,))
    raw.close()


def test_unused_vectors_are_kept_for_their_days(collection, source, folder):
    """A vector goes when it was unused for longer than the limit, whether its document was edited, removed or never
    came; those in use stay."""
    ids = put(collection, source, upsert("a", "one\ntwo\n"), upsert("b", "two\nthree\n"))
    embed(collection, upsert("c", "never applied\n"))
    put(collection, source, upsert("a", "two\nfour\n", (ids["a"], 1)))
    collection.remove_document(ids["b"])
    report = collection.garbage.collect(30)
    assert (report.marked, report.vectors, report.waiting, report.runs) == (1, 0, 3, False)
    age(folder, 29)
    assert collection.garbage.collect(30).vectors == 0
    age(folder, 31)
    assert collection.garbage.collect(30).vectors == 3
    assert count(collection) == 2
    assert known(collection, "two\nfour\n")
    assert not any(known(collection, text) for text in ("one\n", "three\n", "never applied\n"))


def test_a_text_that_comes_back_keeps_its_vector(collection, source, folder):
    """A vector that is used again is not deleted, however long ago it was put down, and its time begins anew."""
    ids = put(collection, source, upsert("a", "one\n"))
    put(collection, source, upsert("a", "two\n", (ids["a"], 1)))
    collection.garbage.collect(30)
    age(folder, 40)
    collection.apply(ChangeSet(source.id, upserts=(upsert("a", "one\n", (ids["a"], 2)),)))
    report = collection.garbage.collect(30)
    assert (report.forgotten, report.vectors) == (1, 0)
    assert known(collection, "one\n")
    assert report.waiting == 1  # "two" is unused since a moment ago


def test_the_days_begin_when_a_text_goes_again(collection, source, folder):
    """A vector that was unused long ago, came back and goes again before garbage is collected has all its days."""
    ids = put(collection, source, upsert("a", "one\n"))
    put(collection, source, upsert("a", "two\n", (ids["a"], 1)))
    age(folder, 40)
    put(collection, source, upsert("a", "one\n", (ids["a"], 2)))
    put(collection, source, upsert("a", "three\n", (ids["a"], 3)))
    assert collection.garbage.collect(30).vectors == 0
    assert known(collection, "one\n")


def test_what_another_spec_or_a_staged_version_uses_stays(collection, source, folder):
    """Vectors of a version that waits, and of chunks under another ChunkSpec or EmbeddingSpec, are used."""
    ids = put(collection, source, upsert("a", "one\n"))
    other = EmbeddingSpec("other-model", 4)
    keys = [b"o" * 32, b"s" * 32, b"x" * 32]
    collection.add_vectors(other, keys, vectors_of(keys)[:, :4] / [[abs(v)] for v in _norms(vectors_of(keys)[:, :4])])
    with collection._store.write() as connection:
        for spec in (IndexSpec(other, ChunkSpec(99, 0)), SPEC):  # a generation that is kept, and the one in service
            store_vectors.insert_generation(connection, spec)
    with sqlite3.connect(folder / "store.db") as raw:
        live = raw.execute("SELECT id FROM document_version").fetchone()[0]
        staged = raw.execute(
            """INSERT INTO document_version SELECT NULL, document_id, 2, 'staged', content_hash, size, mtime_ns, inode,
               scanned_ns, content_type, title, characters, reader, created_at, metadata FROM document_version"""
        ).lastrowid
        for version, spec, key in ((live, 2, keys[0]), (staged, 1, keys[1])):
            chunk = raw.execute(
                """INSERT INTO chunk (version_id, chunk_spec_id, ordinal, start, "end", tokens, heading_path, text_hash)
                   VALUES (?, ?, 0, 0, 1, 1, '[]', x'00')""",
                (version, spec),
            ).lastrowid
            raw.execute("INSERT INTO chunk_embedding VALUES (?, 2, ?, 0)", (chunk, key))
    raw.close()
    collection.garbage.collect(0)
    assert collection.known_vectors(other, keys) == {keys[0], keys[1]}
    assert known(collection, "one\n")
    assert ids


def _norms(rows):
    return (rows**2).sum(axis=1) ** 0.5


def test_vectors_are_safe_while_a_run_goes_on(collection, source, folder):
    """Even with a limit of 0 days nothing is deleted while a run holds its lock; afterwards it is."""
    embed(collection, upsert("a", "paid for, not yet applied\n"))
    with FileLock(folder / "locks" / "run-0123.lock"):
        report = collection.garbage.collect(0)
        assert (report.runs, report.vectors, report.marked) == (True, 0, 1)
        assert collection.garbage.collect_if_due(0) is not None  # it was not done, so it stays due
    assert collection.garbage.collect(0).vectors == 1


def test_a_run_is_told_what_was_deleted_under_it(collection, source):
    """A document that needs a vector which is gone is left out and named; applied with its vector, it holds it."""
    one, other = upsert("a", "one\ntwo\n"), upsert("b", "three\n")
    embed(collection, one, other)
    collection.garbage.collect(0)
    embed(collection, other)
    report = collection.apply(ChangeSet(source.id, upserts=(one, other), needs_vectors=True))
    assert (report.incomplete, list(report.documents)) == (("a",), ["b"])
    embed(collection, one)
    assert collection.apply(ChangeSet(source.id, upserts=(one,), needs_vectors=True)).incomplete == ()
    assert collection.garbage.collect(0).vectors == 0
    assert collection.status().missing_vectors == 0


def test_a_vector_is_looked_at_again_before_it_goes(collection, source):
    """A document that is applied between the mark and the sweep keeps its vectors."""
    one = upsert("a", "one\n")
    embed(collection, one)

    def between(name: str) -> None:
        if name == "garbage.sweep":
            failpoints.install(None)
            collection.apply(ChangeSet(source.id, upserts=(one,), needs_vectors=True))

    failpoints.install(between)
    assert collection.garbage.collect(0).vectors == 0
    assert known(collection, "one\n")


def test_garbage_is_collected_in_small_transactions(collection, source, monkeypatch):
    """However many vectors go, no transaction deletes more than its share, and all of them go."""
    monkeypatch.setattr(garbage, "_SWEPT", 7)
    monkeypatch.setattr(garbage, "_LOOKED_AT", 10)
    embed(collection, upsert("a", "".join(f"line {n}\n" for n in range(50))))
    steps = []
    failpoints.install(steps.append)
    assert collection.garbage.collect(0).vectors == 50
    assert steps.count("garbage.sweep.commit") == 8
    assert steps.count("garbage.mark") == 5


def test_search_is_right_after_a_collection(collection, source, folder):
    """Segments and delta may hold vectors that are gone: answers and new segments are right all the same."""
    ids = put(collection, source, *(upsert(f"{n}", f"old {n}\nkept {n}\n") for n in range(20)))
    collection.fold()
    for n in range(20):
        put(collection, source, upsert(f"{n}", f"kept {n}\nnew {n}\n", (ids[f"{n}"], 1)))
    assert collection.garbage.collect(0).vectors == 20
    for _ in range(2):
        for n in range(20):
            vector = query_vector(f"kept {n}\n")
            assert collection.search("", vector, 1, "dense").hits[0].text == f"kept {n}\n"
        collection._segments.compact()


def test_files_of_killed_processes_go(collection, source, folder):
    """Segments that were never published, and spools whose process died, are removed; what is new or named stays."""
    put(collection, source, upsert("a", "one\n"))
    collection.fold()
    (folder / "segments" / "1-2-abcd.flat.tmp").write_bytes(b"x")
    (folder / "segments" / "1-2-abcd.flat").write_bytes(b"x")
    (folder / "vectors" / "9.f16").write_bytes(b"x")
    old, new = folder / "locks" / "tmpold", folder / "locks" / "tmpnew"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    assert collection.garbage.collect(30).files == 4
    assert new.exists()
    assert not old.exists()
    assert len(list((folder / "segments").iterdir())) == 1
    assert collection.search("", stored(query_vector("one\n")), 1, "dense").hits[0].text == "one\n"


def test_locks_of_sources_that_are_gone_go(collection, source, folder):
    """A lock file goes with its source; one that is held, or whose source is there, stays."""
    locks = folder / "locks"
    names = {root: run_lock_name(root) for root in (source.root, "/gone", "/coming")}
    for name in names.values():
        (locks / name).touch()
    with FileLock(locks / names["/coming"]):
        assert collection.garbage.collect(30).files == 1
    assert {path.name for path in locks.glob("run-*")} == {names[source.root], names["/coming"]}
    assert collection.garbage.collect(30).files == 1
    assert {path.name for path in locks.glob("run-*")} == {names[source.root]}


def test_a_lock_that_is_removed_by_its_holder_is_held_once(tmp_path):
    """Who waits for a lock whose file its holder removes gets it on a new file, and then nobody else does."""
    path, held = tmp_path / "run-1.lock", threading.Event()
    first, second = (FileLock(path, timeout=30, thread_local=False) for _ in range(2))
    first.acquire()
    waiting = threading.Thread(target=lambda: (second.acquire(poll_interval=0.01), held.set()))
    waiting.start()
    assert not held.wait(0.1)
    path.unlink()
    first.release()
    waiting.join(30)
    assert held.is_set()
    assert path.exists()
    with pytest.raises(Timeout):
        FileLock(path, timeout=0).acquire()
    second.release()


def test_it_is_due_once_a_day(collection, folder):
    """A collection of garbage is remembered: within a day the next one is one look at a row."""
    assert collection.garbage.collect_if_due(30) is not None
    assert collection.garbage.collect_if_due(30) is None
    age(folder, 1.1)
    assert collection.garbage.collect_if_due(30) is not None


def purge(collection: Collection, document_id: str) -> None:
    collection.purges.begin(document_id)
    collection.purges.end(collection.purges.erase(document_id))


def test_documents_that_share_passages_keep_them(collection, source):
    """A purge takes only the vectors that no other document has; the others are found as before."""
    ids = put(collection, source, upsert("a", "shared\nsecret\n"), upsert("b", "shared\nother\n"))
    collection.fold()
    rows = collection.purges.begin(ids["a"])
    assert (rows.path, rows.shared) == ("a", 1)
    collection.purges.end(collection.purges.erase(ids["a"]))
    assert collection.purges.pending() == ()
    assert (count(collection), collection.status().missing_vectors) == (2, 0)
    for mode in ("dense", "lexical"):
        hits = collection.search("shared other secret", query_vector("shared\n"), 10, mode).hits
        assert {(hit.path, hit.text) for hit in hits} == {("b", "shared\n"), ("b", "other\n")}


@pytest.mark.parametrize("how", ["by hand", "by a run", "with its source"])
def test_what_was_removed_before_can_be_purged(collection, source, folder, how):
    """Its words, vectors and place leave all files by its id, however it was removed; then it is not known any more."""
    ids = put(collection, source, upsert("zqxplace", "zqxvortle bramwick\n"), upsert("b", "two\n"))
    collection.fold()
    if how == "by hand":
        collection.remove_document(ids["zqxplace"])
    elif how == "by a run":
        collection.apply(ChangeSet(source.id, removals=(ids["zqxplace"],)))
    else:
        collection.remove_source(source.id)
    assert collection.purges.was_removed(ids["zqxplace"])
    vector = stored(query_vector("zqxvortle bramwick\n")).astype("<f2").tobytes()[:12]
    mapped = folder / "vectors" / "1.f16"
    assert vector in mapped.read_bytes()
    rows = collection.purges.begin(ids["zqxplace"])
    assert rows.path == ("zqxplace" if how == "by hand" else None)
    assert [one.document_id for one in collection.purges.pending()] == [ids["zqxplace"]]
    collection.purges.end(collection.purges.erase(ids["zqxplace"]))
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"zqx" not in written
    assert vector not in written
    assert not collection.purges.was_removed(ids["zqxplace"])
    for unknown in (ids["zqxplace"], "doc_abc1230123456789abcdef"):
        with pytest.raises(NotFound):
            collection.purges.begin(unknown)


def test_a_purge_leaves_a_later_removal_at_its_place_alone(collection, source):
    """Two documents were removed by hand from one path: a purge of the first lets the path come back no more than
    before, one of the last does."""
    first = put(collection, source, upsert("p", "one\n"))["p"]
    collection.remove_document(first)
    last = put(collection, source, upsert("p", "two\n"))["p"]
    collection.remove_document(last)
    purge(collection, first)
    assert collection.removed_by_hand(source.id) == {"p"}
    purge(collection, last)
    assert collection.removed_by_hand(source.id) == frozenset()


def test_no_statement_on_garbage_looks_at_every_vector(collection, source):
    """Purges and sweeps find by key the few vectors they are about, where other writers wait for them meanwhile."""
    document_id = put(collection, source, upsert("a", "one\ntwo\n"))["a"]
    asked: list[str] = []
    with collection._store.write() as connection:
        connection.set_trace_callback(asked.append)
        store_garbage.vectors_of(connection, document_id)
        store_garbage.suspect(connection, document_id)
        store_garbage.describe(connection, document_id)
        store_garbage.mark(connection, [1])
        store_garbage.unmark(connection, 0, 10)
        store_garbage.sweep(connection, "9999", 10)
        store_garbage.count_unreferenced(connection)
        store_garbage.delete_unreferenced(connection, [(1, 1)])
        connection.set_trace_callback(None)
        plans = [
            (step[3], one)
            for one in asked
            if not one.startswith("--")
            for step in connection.execute(f"EXPLAIN QUERY PLAN {one}")
        ]
    assert len(asked) >= 8
    assert [step for step in plans if re.search(r"SCAN (v|k|e|c|d|other)\b", step[0])] == []
    assert [step for step in plans if re.search(r"\(filed=\?\)", step[0])] == []


def test_removals_are_forgotten_beyond_a_number(collection, source, monkeypatch):
    """A collection of garbage keeps the last ones."""
    monkeypatch.setattr(store_garbage, "MOST_REMOVED", 2)
    ids = put(collection, source, *(upsert(name, f"{name}\n") for name in "abcd"))
    for name in "abcd":
        collection.remove_document(ids[name])
    collection.garbage.collect(30)
    assert [collection.purges.was_removed(ids[name]) for name in "abcd"] == [False, False, True, True]


def test_the_only_document_can_be_purged(collection, source, folder):
    """What is left is an empty collection that takes documents again."""
    ids = put(collection, source, upsert("a", "one\ntwo\n"))
    collection.fold()
    purge(collection, ids["a"])
    assert collection.search("one", query_vector("one\n"), 5, "hybrid").hits == ()
    put(collection, source, upsert("a", "one\n"))
    collection.fold()
    assert collection.search("one", query_vector("one\n"), 5, "hybrid").hits[0].text == "one\n"


def test_a_segment_that_lost_vectors_before_is_written_anew(collection, source, folder):
    """A purge also takes from the files what ordinary collections of garbage left there."""
    ids = put(collection, source, upsert("a", "one\n"), upsert("b", "two\n"), upsert("c", "three\n"))
    collection.fold()
    collection.remove_document(ids["a"])
    collection.garbage.collect(0)
    vector = stored(query_vector("one\n")).astype("<f2").tobytes()[:12]
    mapped = folder / "vectors" / "1.f16"
    assert vector in mapped.read_bytes()
    purge(collection, ids["b"])
    assert vector not in mapped.read_bytes()
    assert stored(query_vector("three\n")).astype("<f2").tobytes()[:12] in mapped.read_bytes()


def test_a_run_keeps_a_purge_from_ending(collection, source, folder):
    """While a run goes on the document goes, what the run has paid for stays, and the purge is completed later."""
    ids = put(collection, source, upsert("a", "one\n"))
    put(collection, source, upsert("a", "two\n", (ids["a"], 1)))
    embed(collection, upsert("a", "read before the purge\n"))
    with FileLock(folder / "locks" / "run-0123.lock"):
        collection.purges.begin(ids["a"])
        pending = collection.purges.erase(ids["a"])
        assert not known(collection, "one\n")
        assert not known(collection, "two\n")
        assert known(collection, "read before the purge\n")
        with pytest.raises(RunGoesOn):
            collection.purges.end(pending)
    with pytest.raises(NotFound):
        collection.purges.begin(ids["a"])
    [again] = collection.purges.pending()
    collection.purges.end(collection.purges.erase(again.document_id))
    assert collection.purges.pending() == ()
    assert count(collection) == 0


def test_a_purge_erases_from_what_is_published_meanwhile(folder):
    """A segment of another embedding, built before the purge and published after it began, loses the vectors, too."""
    vector = query_under(OTHER, "one\ntwo\n").astype("<f2").tobytes()[:12]
    with Collection.create(folder, "abc124", SPEC, delta_rows=2) as collection, Collection.open(folder) as other:
        source = collection.add_source("/data", "folder")
        ids = put(collection, source, *(upsert(name, f"{name} x\n{name} y\n") for name in "bcd"))
        ids |= put(collection, source, upsert("a", "one\ntwo\n"))
        cut_all(collection, OTHER)
        waits = threading.Event()
        thread = threading.Thread(target=purge, args=(other, ids["a"]))

        def step(name: str) -> None:
            if name == "publish.begin":
                assert vector in (folder / "vectors" / "2.f16").read_bytes()
                thread.start()
                assert waits.wait(10)
            if name == "purge.segments":
                waits.set()

        failpoints.install(step)
        assert collection.generations.publish(OTHER) == 2
        failpoints.install(None)
        thread.join()
        assert other.purges.pending() == ()
        assert [path.name for path in folder.rglob("*") if path.is_file() and vector in path.read_bytes()] == []
        assert collection.search("x", query_under(OTHER, "b x\nb y\n"), 1, "dense").hits[0].path == "b"


def test_a_generation_that_is_kept_is_erased_from(collection, source, folder):
    """The files of a generation that is no more in service lose a purged document's vectors, too."""
    ids = put(collection, source, upsert("a", "one\n"), upsert("b", "two\n"))
    collection.fold()
    with collection._store.write() as connection:
        spec = IndexSpec(EmbeddingSpec("other", 4), ChunkSpec(9, 0))
        store_vectors.insert_generation(connection, spec)
    vector = stored(query_vector("one\n")).astype("<f2").tobytes()[:12]
    mapped = folder / "vectors" / "1.f16"
    assert vector in mapped.read_bytes()
    purge(collection, ids["a"])
    assert vector not in mapped.read_bytes()
    assert [segment.rows for generation in collection.generations.listed() for segment in generation.segments] == [1]
