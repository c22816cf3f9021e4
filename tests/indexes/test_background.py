"""What happens beside the searches: new segments are loaded and damaged files mended, in no search's own thread."""

import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from indexes import checking, generations, snapshots, store_vectors
from indexes.background import Background
from indexes.collection import Collection
from indexes.errors import StorageFull, StoreBusy
from indexes.types import Source
from indexes.vector_map import HALF
from tests.indexes.corpus import SPEC, put, upsert, vector_of
from tests.indexes.specs import OTHER, PAIRS, cut_all, go_to

QUERY = vector_of(b"a certain query")


def answers(collection: Collection) -> list[tuple[str, float]]:
    return [(hit.text, hit.score) for hit in collection.search("x", QUERY, 100, "dense").hits]


def fill(collection: Collection, source: Source, name: str, lines: int = 5) -> None:
    put(collection, source, upsert(name, "".join(f"{name} line {n}\n" for n in range(lines))))


def exact_file(folder: Path) -> Path:
    (path,) = (folder / "vectors").iterdir()
    return path


def test_scores_do_not_change_by_a_fold(folder, collection, source) -> None:
    """The score of a vector is the very same, to the bit, from the delta, from a segment and from a merged one."""
    fill(collection, source, "a", lines=40)
    before = answers(collection)
    collection.fold()
    assert collection.settle()
    assert answers(collection) == before
    assert collection._current._snapshot.delta.size == 0
    assert collection._segments.compact() is False
    with Collection.open(folder) as again:
        assert answers(again) == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "unlink", "foreign"])
def test_damaged_exact_vectors_cost_no_answer_and_are_mended(folder, collection, source, damage, caplog) -> None:
    """Answers stay the same to the bit, a log line says so, and the file is right again, with the same segment."""
    fill(collection, source, "a", lines=40)
    before = answers(collection)
    collection.fold()
    published = collection.generations.listed()[0].segments
    path = exact_file(folder)
    whole = path.read_bytes()
    if damage == "flip":
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 4
        path.write_bytes(bytes(broken))
    elif damage == "truncate":
        path.write_bytes(whole[:-20])
    elif damage == "foreign":
        path.write_bytes(np.random.default_rng(1).bytes(len(whole)))
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING, "indexes"), Collection.open(folder) as opened:
        assert answers(opened) == before
        assert opened.settle()
        assert "mended" in caplog.text
        assert answers(opened) == before
        assert opened.generations.listed()[0].segments == published
    assert exact_file(folder).read_bytes()[2 * 8 :] == whole[2 * 8 :]  # there is no vector 0
    caplog.clear()
    with Collection.open(folder) as opened:
        assert answers(opened) == before
        assert opened.settle()
        assert caplog.text == ""


def test_damage_while_it_is_served_is_mended(folder, collection, source, caplog) -> None:
    """A block that goes bad under an open collection, before its first touch, is read from the store, and mended."""
    fill(collection, source, "a", lines=40)
    before = answers(collection)
    collection.fold()
    whole = exact_file(folder).read_bytes()
    with Collection.open(folder) as opened:
        opened.load()
        with exact_file(folder).open("r+b") as file:
            file.seek(len(whole) // 2)
            file.write(b"\xff\x7f" * 3)
        assert answers(opened) == before
        assert opened.settle()
        assert exact_file(folder).read_bytes() == whole
        assert answers(opened) == before


def test_no_search_waits_for_files(folder, collection, source, monkeypatch) -> None:
    """A fold by another object is loaded, and a lost file rebuilt, by another thread than the one that searches."""
    threads: dict[str, set[str]] = {"load": set(), "rebuild": set()}
    load, rebuild = snapshots.load, generations.Segments.rebuild

    def loading(*values):
        threads["load"].add(threading.current_thread().name)
        return load(*values)

    def rebuilding(*values):
        threads["rebuild"].add(threading.current_thread().name)
        return rebuild(*values)

    fill(collection, source, "a")
    before = answers(collection)
    monkeypatch.setattr(snapshots, "load", loading)
    monkeypatch.setattr(generations.Segments, "rebuild", rebuilding)
    with Collection.open(folder) as other:
        other.fold()
    assert answers(collection) == before
    assert collection.settle()
    assert threads == {"load": {"ragsvc-index"}, "rebuild": set()}
    collection._current._damaged.add(collection.generations.listed()[0].segments[0].file)
    shutil.rmtree(folder / "segments")
    assert answers(collection) == before
    assert collection.settle()
    assert threads == {"load": {"ragsvc-index"}, "rebuild": {"ragsvc-index"}}
    assert len(list((folder / "segments").iterdir())) == 1


def test_no_search_waits_for_another_generation_of_its_embedding(folder, collection, source, monkeypatch) -> None:
    """A generation that another object publishes, and newer rows, are answered from what is in memory, to the bit."""
    fill(collection, source, "a", lines=6)
    collection.fold()
    collection.load()
    loading: set[str] = set()
    load = snapshots.load

    def loaded(*values):
        loading.add(threading.current_thread().name)
        return load(*values)

    with Collection.open(folder) as other:
        assert go_to(other, PAIRS) == 2
        other.fold()
        put(other, source, upsert("b", "bread house\n"))
        expected = answers(other)
        monkeypatch.setattr(snapshots, "load", loaded)
        assert answers(collection) == expected
        assert {hit.path for hit in collection.search("x", QUERY, 100, "dense").hits} == {"a", "b"}
        assert collection.settle()
        assert loading == {"ragsvc-index"}
        assert answers(collection) == expected
        assert collection._current._snapshot.head.generation == 2
        cut_all(other, SPEC)
        assert other.generations.rollback() == 1
        monkeypatch.setattr(snapshots, "load", load)
        back = answers(other)
        monkeypatch.setattr(snapshots, "load", loaded)
        assert answers(collection) == back != expected
        assert collection.settle()
        assert loading == {"ragsvc-index"}


def test_a_search_of_before_a_publication_keeps_nothing_loaded(folder, collection, source, monkeypatch) -> None:
    """One that began under the last embedding gets its own rows; those that come after it load nothing again."""
    fill(collection, source, "a", lines=6)
    before = answers(collection)
    with collection._store.read() as old:
        head = store_vectors.head(old)
        go_to(collection, OTHER)
        after = answers(collection)
        snapshot = collection._current._snapshot
        assert len(collection._current.covering(old, head).nearest(QUERY, 100)) == len(before)
        assert collection._current._snapshot is snapshot
    assert answers(collection) == after != before


def test_erased_vectors_leave_the_files(folder, collection, source) -> None:
    """Vectors that the store dropped are in no file after `erase`, in no generation's segments; the others answer."""
    fill(collection, source, "a", lines=40)
    collection.fold()
    fill(collection, source, "b", lines=40)
    collection.fold()
    with collection._store.write() as connection:
        rows = connection.execute("SELECT id, vector FROM vector WHERE id IN (7, 50)").fetchall()
        connection.execute("DELETE FROM vector WHERE id IN (7, 50)")
    before = [one for one in answers(collection) if one]
    assert all(blob in exact_file(folder).read_bytes() for _, blob in rows)
    old = {segment.file for segment in collection.generations.listed()[0].segments}
    for _ in range(2):
        collection._segments.erase(lambda _: {1: np.array([7, 50])})
        assert not any(blob in exact_file(folder).read_bytes() for _, blob in rows)
        assert {path.name for path in (folder / "segments").iterdir()}.isdisjoint(old)
    assert collection.settle()
    assert answers(collection) == before
    assert len(before) == 78
    assert sum(segment.rows for segment in collection.generations.listed()[0].segments) == 78
    with FileLock(folder / "locks" / "build.lock"), pytest.MonkeyPatch.context() as patched:
        patched.setattr(generations, "BUSY_SECONDS", 0.05)
        with pytest.raises(StoreBusy):
            collection._segments.erase(lambda _: {1: np.array([7])})


def test_a_generation_of_the_same_embedding_begins_with_the_segments_of_the_last(folder, collection, source) -> None:
    """Two generations share files; a merge in one leaves those of the other where they are."""
    fill(collection, source, "a", lines=12)
    collection.fold()
    with collection._store.write() as connection:
        number = generations.store_vectors.insert_generation(connection, SPEC)
    one, two = collection.generations.listed()
    assert (one.segments, two.number) == (two.segments, number)
    fill(collection, source, "b", lines=12)
    assert collection._segments.compact()
    one, two = collection.generations.listed()
    assert one.segments != two.segments
    assert {path.name for path in (folder / "segments").iterdir()} == {
        segment.file for generation in (one, two) for segment in generation.segments
    }
    assert len(answers(collection)) == 24


@pytest.mark.parametrize("how", ["erase", "rebuild"])
def test_a_shared_segment_is_built_anew_once(folder, collection, source, how) -> None:
    """Generations that share a file share the one that takes its place, after a purge and after damage."""
    fill(collection, source, "a", lines=12)
    collection.fold()
    with collection._store.write() as connection:
        generations.store_vectors.insert_generation(connection, SPEC)
    (segment,) = collection.generations.listed()[1].segments
    before = answers(collection)
    if how == "erase":
        collection._segments.erase(lambda _: {1: np.array([3])})
    else:
        (folder / "segments" / segment.file).unlink()
        assert collection.rebuild_segments(frozenset({segment.file}))
    one, two = collection.generations.listed()
    assert one.segments == two.segments != (segment,)
    assert [path.name for path in (folder / "segments").iterdir()] == [one.segments[0].file]
    assert collection.settle()
    assert answers(collection) == before


def test_rows_of_other_specs_are_holes(folder, collection, source) -> None:
    """Row = vector id: ids that belong to another spec cost no disk, and are not found."""
    fill(collection, source, "a")
    other = SPEC.embedding.__class__("another", 8)
    keys = [n.to_bytes(32, "big") for n in range(300_000)]
    with collection._store.write() as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 3000000 WHERE name = 'vector'")
    collection.add_vectors(other, keys[:5], np.stack([vector_of(key) for key in keys[:5]]))
    fill(collection, source, "b")
    before = answers(collection)
    collection.fold()
    assert collection.settle()
    assert answers(collection) == before
    stat = exact_file(folder).stat()
    assert stat.st_size > 3_000_000 * 8 * HALF.itemsize
    assert stat.st_blocks * 512 < stat.st_size // 4


def test_background_work_is_done_once_for_many_calls() -> None:
    """Calls during the work lead to one more round; after an error it is tried again, a moment later."""
    rounds: list[int] = []
    begun, going_on = threading.Event(), threading.Event()

    def work() -> bool:
        rounds.append(len(rounds))
        begun.set()
        assert going_on.wait(10)
        if len(rounds) == 2:
            raise OSError("a full disk")
        return True

    background = Background(work)
    background.wake()
    assert begun.wait(10)
    for _ in range(50):
        background.wake()
    going_on.set()
    assert background.settle(10)
    assert len(rounds) == 2
    background.wake()  # within the pause after the error
    assert background.settle(10)
    assert len(rounds) == 2
    background._not_before = 0.0
    background.wake()
    assert background.settle(10)
    assert len(rounds) == 3
    background.close()
    background.wake()
    assert len(rounds) == 3
    assert not background._thread.is_alive()


def test_too_many_rows_for_memory_are_streamed_and_folded(folder, collection, source) -> None:
    """Rows that no run folded, beyond a multiple of the limit, are not held: answers are right, and a segment comes."""
    fill(collection, source, "a", lines=40)
    before = answers(collection)
    with Collection.open(folder, delta_rows=3) as opened:
        with FileLock(folder / "locks" / "build.lock"):
            assert answers(opened) == before
            assert opened._current._snapshot.delta.size == 0
            assert opened.status().delta_rows == 40
            fill(collection, source, "b", lines=2)
            assert answers(opened) == answers(collection)
            assert opened._current._background.settle(10)
        opened._current._background._not_before = 0.0
        assert opened.settle()
        snapshot = opened._current._snapshot
        assert (opened.status().delta_rows, snapshot.unfolded, snapshot.delta.size) == (0, (), 0)
        assert answers(opened) == answers(collection)


def test_rows_that_grow_in_memory_are_folded(folder, collection, source) -> None:
    """A process that reads folds what writers leave unfolded, once it holds a multiple of the limit."""
    with Collection.open(folder, delta_rows=3) as opened:
        opened.load()
        fill(collection, source, "a", lines=40)
        assert answers(opened) == answers(collection)
        assert opened._current._snapshot.delta.size == 40
        assert opened.settle()
        assert (opened.status().segments, opened._current._snapshot.delta.size) == (1, 0)
        assert answers(opened) == answers(collection)


def test_segments_of_others_are_loaded_where_nothing_can_be_built(folder, collection, source, monkeypatch) -> None:
    """A damaged segment that can't be rebuilt here keeps no new one from being loaded, nor is it forgotten."""

    def fails(*_):
        raise StorageFull("a full disk")

    fill(collection, source, "a")
    collection.fold()
    collection.load()
    monkeypatch.setattr(collection._segments, "rebuild", fails)
    collection._current._damaged.add(collection.generations.listed()[0].segments[0].file)
    fill(collection, source, "b", lines=1)
    before = answers(collection)
    assert collection._current._background.settle(10)
    assert collection._current._snapshot.delta.size == 1
    with Collection.open(folder) as other:
        other.fold()
    collection._current._background._not_before = 0.0
    assert answers(collection) == before
    assert collection._current._background.settle(10)
    assert collection._current._snapshot.delta.size == 0
    assert collection._current._damaged
    assert answers(collection) == before


def test_nothing_begins_after_the_end() -> None:
    """Work that was asked for and has not begun is not begun by `close`."""
    rounds: list[int] = []
    begun, going_on = threading.Event(), threading.Event()

    def work() -> bool:
        rounds.append(1)
        begun.set()
        return going_on.wait(10)

    background = Background(work)
    background.wake()
    assert begun.wait(10)
    background.wake()
    threading.Timer(0.1, going_on.set).start()
    background.close()
    assert len(rounds) == 1
    assert background.settle(1)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/x/segments"), StorageFull("a full disk")])
def test_a_disk_that_refuses_is_one_line_of_the_log(error, caplog) -> None:
    """What the machine refuses is said in one line without a traceback; a bug keeps its own."""

    def work() -> bool:
        raise error from OSError("below")

    with caplog.at_level(logging.WARNING, "indexes"):
        background = Background(work)
        background.wake()
        assert background.settle(10)
        background.close()
    (record,) = caplog.records
    assert record.exc_info is None
    assert str(error) in record.getMessage()


def test_a_folder_that_another_user_owns_is_done_without(folder, collection, source, monkeypatch) -> None:
    """Where segments can't be read or listed, a collection is opened, searched and counted all the same; doctor says
    which folder it is."""
    fill(collection, source, "a", lines=6)
    before = answers(collection)
    collection.fold()

    def refuse(self: Path, *values: object) -> None:
        if "segments" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))

    def refusing(name: str) -> None:
        real = getattr(Path, name)

        def checked(self: Path, *values: object, **named: object) -> object:
            refuse(self)
            return real(self, *values, **named)

        monkeypatch.setattr(Path, name, checked)

    for name in ("chmod", "iterdir", "open"):
        refusing(name)
    with Collection.open(folder) as opened:
        assert answers(opened) == before
        assert opened.status().bytes > 0
    found = [finding for finding in checking.check(folder) if finding.kind == "file"]
    assert [(finding.level, Path(finding.where).name) for finding in found] == [("problem", "segments")]
    assert "chown" in found[0].todo
