"""Backups: of one moment, whole or absent; restored so that all is as it was, whoever writes or dies meanwhile."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from indexes import checking, failpoints, store_backup
from indexes.collection import Collection
from indexes.errors import Conflict, NotFound, StorageFull, StoreClosed, StoreDamaged, StoreNotFound, StoreTooNew
from ragsvc import doctor
from ragsvc.errors import BadRequest, CollectionBusy, CollectionExists, UnknownCollection
from ragsvc.job_store import JobStore
from ragsvc.jobs import NewFile
from tests.faults.killing import kill, killed_at_point, run_without_room, start
from tests.indexes.corpus import SPEC, put, query_vector, upsert
from tests.indexes.test_formats import recorded, told, unpacked
from tests.ragsvc.places import Place, at

PLACES = "tests.ragsvc.places"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A data directory with a collection `papers` that has a segment and a delta, and a backup of it."""
    with at(tmp_path / "data") as made:
        collection = made.library.create("papers", SPEC)
        source = collection.add_source("/d", "folder")
        put(collection, source, upsert("a.txt", "apple one\nbread\n"), upsert("b.txt", "cloud\n"))
        assert collection.fold()
        put(collection, source, upsert("c.txt", "drum\n"))
        made.backups.write("papers", tmp_path / "kept.backup")
        yield made


@pytest.fixture
def kept(place: Place, tmp_path: Path) -> Path:
    return tmp_path / "kept.backup"


def change(collection: Collection, text: str = "apple two\n") -> None:
    """Edit one document, remove another."""
    source = collection.sources()[0]
    entries = collection.manifest(source.id).entries
    entry = entries["a.txt"]
    put(collection, source, upsert("a.txt", text, (entry.document_id, entry.version)))
    if "b.txt" in entries:
        collection.remove_document(entries["b.txt"].document_id)


def seen(collection: Collection) -> dict[str, object]:
    """Everything a reader can tell."""
    found = told(collection)
    found["all"] = [
        (hit.path, hit.text, round(hit.score, 3))
        for hit in collection.search("", query_vector("drum\n"), 99, "dense").hits
    ]
    return found


# One moment, in a file


def test_a_backup_is_one_file_for_its_owner_alone(place: Place, kept: Path) -> None:
    """It has mode 0600, nothing beside it, and says of itself what the collection holds; the store is unchanged."""
    assert kept.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in kept.parent.iterdir()} == {"data", "kept.backup"}
    contents, status = store_backup.inspect(kept), place.library.open("papers").status()
    assert contents.collection_id == place.library.open("papers").id
    assert (contents.documents, contents.vectors, contents.chunks) == (status.documents, status.vectors, status.chunks)


def test_an_existing_file_is_kept_unless_it_is_to_be_replaced(place: Place, kept: Path) -> None:
    """Without the word for it nothing is overwritten; with it the new backup is in the old one's place."""
    before = kept.read_bytes()
    change(place.library.open("papers"))
    with pytest.raises(Conflict, match="--overwrite"):
        place.backups.write("papers", kept)
    assert kept.read_bytes() == before
    assert place.backups.write("papers", kept, overwrite=True).documents == 2
    assert store_backup.inspect(kept).documents == 2


def test_a_backup_never_goes_where_the_service_keeps_its_files(place: Place, tmp_path: Path) -> None:
    """A live store, its folder, folders that are swept and `service.db` with what is beside it are refused as targets,
    and so are a folder and what is no file, as a device or a pipe: it stays what it is."""
    store = place.library.open("papers").folder / "store.db"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    mine = [
        place.data / name for name in ("service.db", "service.db-wal", "service.lock", "uploads/b", "evaluations/b")
    ]
    for target in (store, store.parent / "b", *mine, tmp_path, pipe):
        with pytest.raises(BadRequest):
            place.backups.write("papers", target, overwrite=True)
    assert pipe.is_fifo()
    place.backups.write("papers", tmp_path / "service.db.backup")
    link = tmp_path / "link"
    link.symlink_to(store)
    with pytest.raises(BadRequest):
        place.backups.write("papers", link, overwrite=True)
    with pytest.raises(StorageFull, match="no folder"):
        place.backups.write("papers", tmp_path / "none" / "b")
    with pytest.raises(UnknownCollection):
        place.backups.write("paper", tmp_path / "b")


def turns(log: Path) -> tuple[int, int]:
    """Return the last turn that was acknowledged, and the last that was begun; -1 for none."""
    lines = log.read_text().split()
    begun = [int(line) for line in lines if line != "done"]
    acknowledged = lines.count("done") - 1
    return acknowledged, begun[-1] if begun else -1


def test_a_backup_during_heavy_writing_is_one_acknowledged_moment(place: Place, tmp_path: Path) -> None:
    """While a process writes, each backup holds exactly one of its transactions' ends, between begin and end of it."""
    log = tmp_path / "witness"
    log.touch()
    writer = start(f"{PLACES}:write_on", str(place.data), str(log))
    try:
        with at(place.data) as mine:
            for number in range(6):
                wait_for(lambda turn=number: turns(log)[0] > 10 * turn)
                before = turns(log)[0]
                mine.backups.write("papers", tmp_path / f"{number}.backup")
                after = turns(log)[1]
                done = mine.backups.restore(tmp_path / f"{number}.backup", f"copy-{number}")
                assert done.new_ids
                copy = mine.library.open(f"copy-{number}")
                texts = {document.path: copy.text(document.id).text for document in copy.documents(None, 9, None)[0]}
                turn = int(texts["x"].removeprefix("apple "))
                assert texts["y"] == texts["x"]
                assert before <= turn <= after
                assert {hit.text for hit in copy.search("", query_vector(f"apple {turn}\n"), 1, "dense").hits} == {
                    f"apple {turn}\n"
                }
                assert not [each for each in checking.check(copy.folder) if each.level == "problem"]
    finally:
        kill(writer)


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def test_a_backup_that_is_killed_leaves_the_old_file_or_the_new_one(place: Place, kept: Path) -> None:
    """Killed at its nth fail point, for every n; what it leaves beside is removed by the next one, once it is old."""
    change(place.library.open("papers"))
    place.close()
    old, number, reached, seen_new = kept.read_bytes(), 0, [], False

    while True:
        number += 1
        killed = killed_at_point(number, "backup.", reached, f"{PLACES}:back_up", str(place.data), str(kept))
        new = kept.read_bytes() != old
        assert store_backup.inspect(kept).documents == (2 if new else 3)
        assert new or not seen_new
        seen_new = new
        if not killed:
            break
    assert reached == [
        "backup.create", "backup.copy", "backup.seal", "backup.sync", "backup.verify", "backup.rename",
        "backup.sync_folder",
    ]  # fmt: skip
    left = list(kept.parent.glob(".kept*"))
    assert left
    for path in left:
        os.utime(path, (0, 0))
    with at(place.data) as mine:
        mine.backups.write("papers", kept, overwrite=True)
    assert not list(kept.parent.glob(".kept*"))


@pytest.mark.parametrize("existing", [False, True])
def test_a_backup_without_room_leaves_nothing(place: Place, kept: Path, existing: bool) -> None:
    """Where the file can't grow, the backup is refused as a full disk; the old file stays, nothing else is there."""
    target = kept if existing else kept.with_name("other.backup")
    before = {path.name: path.read_bytes() for path in kept.parent.iterdir() if path.is_file()}
    place.close()
    run_without_room(100_000, f"{PLACES}:back_up_without_room", str(place.data), str(target))
    assert {path.name: path.read_bytes() for path in kept.parent.iterdir() if path.is_file()} == before


# And back


def test_a_restored_collection_is_as_it_was(place: Place, kept: Path) -> None:
    """In place of a collection that went on: documents, ids, texts, hits of both legs and vectors of the backup."""
    opened = place.library.open("papers")
    before, folder = seen(opened), opened.folder
    change(opened)
    assert seen(opened) != before
    done = place.backups.restore(kept, "papers", replace=True)
    assert (done.collection_id, done.replaced, done.new_ids) == (before["id"], True, False)
    restored = place.library.open("papers")
    assert seen(restored) == before
    assert place.library.of_document(before["documents"][0]["id"]) is restored
    assert not folder.exists()
    assert [path.name for path in (place.data / "collections").iterdir()] == [restored.folder.name]
    with pytest.raises(StoreClosed):
        opened.status()


def test_segments_are_built_before_the_collection_is_served(place: Place, kept: Path, caplog) -> None:
    """A backup has no derived files; after a restore those worth having are there, and nothing is told as wrong."""
    place.backups._delta_rows = 2
    place.backups.restore(kept, "papers", replace=True)
    restored = place.library.open("papers")
    [segment] = restored.generations.listed()[-1].segments
    assert (restored.folder / "segments" / segment.file).is_file()
    assert doctor.examine(place.data).checked[1].findings == ()
    assert caplog.text == ""


def test_a_collection_with_something_in_it_is_not_replaced_by_itself(place: Place, kept: Path) -> None:
    """Without the word for it a restore is refused and leaves no folder; a blank collection makes room by itself."""
    with pytest.raises(CollectionExists, match="--replace"):
        place.backups.restore(kept, "papers")
    assert len(list((place.data / "collections").iterdir())) == 1
    blank = place.library.open("default").folder
    assert not place.backups.restore(kept, "default").replaced
    assert len(place.library.open("default").documents(None, 9, None)[0]) == 3
    assert not blank.exists()


def test_where_the_id_is_anothers_the_copy_gets_its_own(place: Place, kept: Path) -> None:
    """Restored beside the original, every document has a new id that leads to the copy, and the old ones to theirs."""
    before = seen(place.library.open("papers"))
    done = place.backups.restore(kept, "copy")
    assert done.new_ids
    copy = place.library.open("copy")
    assert copy.id == done.collection_id
    after = seen(copy)
    for old, new in zip(before["documents"], after["documents"], strict=True):
        assert new["id"] == f"doc_{copy.id}{old['id'][10:]}"
        assert place.library.of_document(new["id"]) is copy
        assert place.library.of_document(old["id"]) is place.library.open("papers")
    assert after["texts"] == before["texts"]
    assert after["all"] == before["all"]
    change(copy)
    assert copy.status().documents == 2
    assert doctor.examine(place.data).consistent


def test_the_id_comes_back_with_a_collection_that_was_removed(place: Place, kept: Path) -> None:
    """After its removal a restore brings the ids of its documents back, under another name if wanted."""
    before = seen(place.library.open("papers"))
    place.library.remove("papers")
    with pytest.raises(NotFound):
        place.library.of_document(before["documents"][0]["id"])
    place.backups.restore(kept, "books")
    assert seen(place.library.open("books")) == before


def test_another_process_serves_it_at_once(place: Place, kept: Path) -> None:
    """A library that had the replaced collection open opens the restored one with its next call, and closes the old."""
    with at(place.data) as other:
        old = other.library.open("papers")
        old.load()
        change(place.library.open("papers"))
        place.backups.restore(kept, "papers", replace=True)
        assert len(other.library.open("papers").documents(None, 9, None)[0]) == 3
        assert other.library.of_document(old_id(kept)) is other.library.open("papers")
        with pytest.raises(StoreClosed):
            old.status()


def old_id(kept: Path) -> str:
    with sqlite3.connect(kept) as raw:
        found = raw.execute("SELECT id FROM document ORDER BY path LIMIT 1").fetchone()[0]
    raw.close()
    return str(found)


def test_a_writer_that_had_the_replaced_one_open_is_told(place: Place, kept: Path) -> None:
    """A write to the collection that was replaced, or removed, is refused and not acknowledged into a deleted file."""
    with at(place.data) as other:
        old = other.library.open("papers")
        old.add_source("/first", "folder")
        place.backups.restore(kept, "papers", replace=True)
        with pytest.raises(StoreClosed, match="nothing was changed"):
            old.add_source("/second", "folder")
        removed = other.library.open("papers")
        removed.add_source("/third", "folder")
        place.library.remove("papers")
        with pytest.raises(StoreClosed):
            removed.add_source("/fourth", "folder")


def test_a_collection_that_is_being_written_is_not_replaced(place: Place, kept: Path) -> None:
    """While a run, a job or a build holds its lock the restore is refused, and changes nothing."""
    opened = place.library.open("papers")
    before = seen(opened)
    for name in ("run-1.lock", "jobs.lock", "build.lock", "uploads.lock"):
        with FileLock(place.library.locks(opened) / name), pytest.raises(CollectionBusy, match="papers"):
            place.backups.restore(kept, "papers", replace=True)
    assert seen(place.library.open("papers")) == before
    assert len(list((place.data / "collections").iterdir())) == 1


def test_accepted_uploads_go_into_the_restored_collection(place: Place, kept: Path) -> None:
    """Unfinished jobs of the replaced collection stay queued, whole, under the restored one's id; ended ones stay."""
    first = place.library.open("papers").id
    place.backups.restore(kept, "copy")
    copy = place.library.open("copy")
    jobs = JobStore(place.store)
    files = (NewFile("a.md", b"a" * 32, 0, 1, 1), NewFile("b.md", b"b" * 32, 1, 1, 1))
    for name in ("job_1", "job_2"):
        jobs.add_upload(name, copy.id, files, {})
    jobs.claim(copy.id)
    jobs.finish("job_1", "done")
    jobs.claim(copy.id)
    jobs.applied("job_2", {"a.md": "doc_x"})
    jobs.let_wait("job_2", "quota", "no money", 1000)
    place.library.remove("papers")
    done = place.backups.restore(kept, "copy", replace=True)
    assert (done.jobs, done.collection_id) == (1, first)
    assert jobs.claim(first).id == "job_2"
    assert [file.state for file in jobs.files("job_2")] == ["pending", "pending"]
    assert jobs.job("job_1").state == "done"


def test_a_damaged_collection_is_replaced(place: Place, kept: Path) -> None:
    """What can't be opened, or has no folder any more, is put right by a restore in its place."""
    before = seen(place.library.open("papers"))
    folder = place.library.open("papers").folder
    place.library.close()
    (folder / "store.db").write_bytes(b"x" * 100_000)
    with pytest.raises(CollectionExists):
        place.backups.restore(kept, "papers")
    place.backups.restore(kept, "papers", replace=True)
    assert seen(place.library.open("papers")) == before
    shutil.rmtree(place.library.open("papers").folder)
    place.library.close()
    place.backups.restore(kept, "papers", replace=True)
    assert seen(place.library.open("papers")) == before


@pytest.mark.parametrize("damage", ["gone", "other", "text", "short", "flipped", "newer", "in use", "empty"])
def test_a_file_that_is_no_whole_backup_is_refused(place: Place, kept: Path, damage: str) -> None:
    """Refused with what is wrong; the file is unchanged, and so is everything else."""
    whole, before = kept.read_bytes(), seen(place.library.open("papers"))
    expected: type[Exception] | tuple[type[Exception], ...] = StoreDamaged
    if damage == "gone":
        kept.unlink()
        expected = StoreNotFound
    elif damage == "other":
        kept.unlink()
        with sqlite3.connect(kept) as raw:
            raw.execute("CREATE TABLE theirs (x)")
        raw.close()
    elif damage == "newer":
        with sqlite3.connect(kept) as raw:
            raw.execute("PRAGMA user_version = 99")
        raw.close()
        expected = StoreTooNew
    elif damage == "in use":
        kept.with_name(f"{kept.name}-wal").write_bytes(b"x")
    else:
        changed = {"text": b"no database" * 99, "empty": b"", "short": whole[: len(whole) // 2]}
        at_byte = len(whole) // 2
        kept.write_bytes(changed.get(damage, whole[:at_byte] + b"\xff" * 16384 * 3 + whole[at_byte + 16384 * 3 :]))
    content = kept.read_bytes() if kept.exists() else None
    for replaced in (True, False):
        with pytest.raises(expected):
            place.backups.restore(kept, "papers" if replaced else "new", replace=replaced)
    assert (kept.read_bytes() if kept.exists() else None) == content
    assert seen(place.library.open("papers")) == before
    assert len(list((place.data / "collections").iterdir())) == 1


@pytest.mark.parametrize("number", [1, 2])
def test_a_backup_of_an_earlier_release_is_migrated_in_the_copy(tmp_path: Path, number: int) -> None:
    """The file stays as it is; the collection serves what that release recorded."""
    file = unpacked(f"store-{number}", tmp_path) / "store.db"
    before = file.read_bytes()
    with at(tmp_path / "data") as place:
        place.backups.restore(file, "old")
        assert told(place.library.open("old")) == recorded(f"store-{number}")
        assert doctor.examine(place.data).consistent
    assert file.read_bytes() == before


def aged(folder: Path) -> None:
    """Let everything below a folder be a day old."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (time.time() - 86400,) * 2)


@pytest.mark.parametrize("replaced", [True, False])
def test_a_restore_that_is_killed_is_whole_or_not_at_all(place: Place, kept: Path, replaced: bool) -> None:
    """Killed at its nth fail point, for every n: the old collection or the restored one, whole.

    What is left over is removed by doctor; the same command again then reaches what an undisturbed one does.
    """
    name = "papers" if replaced else "copy"
    wanted = seen(place.library.open("papers"))
    change(place.library.open("papers"))
    old = seen(place.library.open("papers"))
    place.close()
    number, reached, after_commit = 0, [], False

    def restored(mine: Place) -> bool:
        """Whether the restored one is there, whole; else what was there before must be."""
        assert seen(mine.library.open("papers")) in ((wanted, old) if replaced else (old,))
        if replaced:
            return seen(mine.library.open("papers")) == wanted
        if name not in mine.library.names():
            return False
        assert seen(mine.library.open(name))["texts"] == wanted["texts"]
        return True

    while True:
        number += 1
        data = kept.parent / str(number)
        shutil.copytree(place.data, data)

        asked = (str(data), str(kept), name, "replace" if replaced else "")
        killed = killed_at_point(number, "restore.", reached, f"{PLACES}:restore", *asked)
        with at(data) as mine:
            there = restored(mine)
        assert there or not after_commit
        after_commit = there
        aged(data / "collections")
        assert doctor.examine(data, repair=True).consistent
        with at(data) as mine:
            folders = {row.folder for row in mine.store.collections()}
            assert {path.name for path in (data / "collections").iterdir()} == folders
            assert restored(mine) == there
            if not there:
                mine.backups.restore(kept, name, replace=replaced)
                assert restored(mine)
        shutil.rmtree(data)
        if not killed:
            break
    assert there
    ends = ["lock", "commit", "remove_old", "remove_folder"] if replaced else ["list", "listed"]
    assert reached == [
        f"restore.{step}"
        for step in ("make_folder", "copy", "sync", "migrate", "rename_documents", "sync_folder", "open", *ends)
    ]


def test_a_restore_that_fails_at_any_point_is_undone_or_done(place: Place, kept: Path) -> None:
    """An error instead of a kill: before the commit nothing is changed or left, after it the restored one is served."""
    wanted = seen(place.library.open("papers"))
    failed = set()
    for number in range(1, 12):
        change(place.library.open("papers"), f"apple {number} times\n")
        old, left = seen(place.library.open("papers")), [number]

        def hook(name: str, left: list[int] = left) -> None:
            left[0] -= name.startswith("restore.")
            if not left[0]:
                left[0] = -1
                raise StorageFull(name)

        failpoints.install(hook)
        try:
            with pytest.raises(StorageFull) as raised:
                place.backups.restore(kept, "papers", replace=True)
        finally:
            failpoints.install(None)
        failed.add(str(raised.value))
        committed = str(raised.value) in ("restore.remove_old", "restore.remove_folder")
        assert seen(place.library.open("papers")) == (wanted if committed else old)
        named = {row.folder for row in place.store.collections()}
        found = {path.name for path in (place.data / "collections").iterdir()}
        assert named == found if not committed else named < found
        for extra in found - named:
            shutil.rmtree(place.data / "collections" / extra)
    assert len(failed) == 11


def test_what_is_no_backup_is_said_to_be_none(place: Place, tmp_path: Path) -> None:
    """A text, or an empty file, is not taken for a damaged store: nobody is sent to look at the disk."""
    for content in (b"", b"# Notes\n"):
        (tmp_path / "notes.md").write_bytes(content)
        with pytest.raises(StoreDamaged, match="not a backup"):
            place.backups.restore(tmp_path / "notes.md", "copy")


def test_a_restore_without_room_leaves_nothing(place: Place, kept: Path) -> None:
    """Where files can't grow, the restore is refused as a full disk, and all is as it was."""
    before = seen(place.library.open("papers"))
    place.close()
    run_without_room(100_000, f"{PLACES}:restore_without_room", str(place.data), str(kept))
    with at(place.data) as mine:
        assert seen(mine.library.open("papers")) == before
    assert len(list((place.data / "collections").iterdir())) == 1


def test_a_change_of_the_standing_one_is_noticed(place: Place, kept: Path) -> None:
    """A row that is not the one that was looked at is not overwritten."""
    row = place.store.collection("papers")
    with pytest.raises(CollectionBusy, match="changed"):
        place.store.replace_collection(replace(row, folder="another"), row.id, "new")
    assert place.store.collection("papers") == row


def test_a_backup_with_any_other_byte_is_refused(place: Place, kept: Path) -> None:
    """Whatever byte changed, in a page that SQLite would read without a word or in the seal: nothing is restored."""
    before = seen(place.library.open("papers"))
    whole = kept.read_bytes()
    for offset in (*range(100, len(whole), len(whole) // 25), len(whole) - 1):
        broken = bytearray(whole)
        broken[offset] ^= 0x20
        kept.write_bytes(bytes(broken))
        with pytest.raises(StoreDamaged):
            place.backups.restore(kept, "papers", replace=True)
    assert seen(place.library.open("papers")) == before
    kept.write_bytes(whole)
    place.backups.restore(kept, "papers", replace=True)


def test_a_bare_store_is_taken_as_a_backup(place: Place, tmp_path: Path) -> None:
    """A store.db that nobody has open, copied by hand, has no seal and is restored all the same."""
    folder = place.library.locks(place.library.open("papers")).parent
    before = seen(place.library.open("papers"))
    with sqlite3.connect(folder / "store.db") as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    shutil.copy(folder / "store.db", tmp_path / "copied.db")
    place.backups.restore(tmp_path / "copied.db", "papers", replace=True)
    assert seen(place.library.open("papers")) == before


def test_text_that_is_no_text_is_damage(place: Place, tmp_path: Path) -> None:
    """A text in the store that is not UTF-8 is told as a damaged store, not as an error of ours."""
    opened = place.library.open("papers")
    with opened._store.write() as connection:
        connection.execute("UPDATE version_text SET text = CAST(x'61FF62' AS TEXT)")
    with pytest.raises(StoreDamaged):
        opened.text(opened.documents(None, 1, None)[0][0].id)
