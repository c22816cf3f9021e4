"""The file: creation, opening, modes, transactions, migrations, and every failure as one of our errors."""

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from indexes import migrations, store, store_errors, store_files
from indexes.collection import Collection
from indexes.errors import (
    Conflict,
    StorageFull,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreNotFound,
    StoreTooNew,
)
from indexes.store import Store
from indexes.types import ChangeSet
from tests.indexes.corpus import SPEC, put, upsert


def files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def plain(folder: Path):
    opened = Store.create(folder, busy_seconds=0.1)
    yield opened
    opened.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_modes_do_not_depend_on_the_umask(folder: Path, umask: int) -> None:
    """Folders are 0700 and files 0600: the store, its log, the segments and the lock."""
    before = os.umask(umask)
    try:
        with Collection.create(folder, "abc123", SPEC) as collection:
            put(collection, collection.add_source("/d", "folder"), upsert("a", "apple"))
            assert collection.fold()
            found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    finally:
        os.umask(before)
    folders = {folder.name, "segments", "vectors", "locks"}
    assert {name: mode for name, mode in found.items() if name in folders} == dict.fromkeys(folders, 0o700)
    rest = set(found) - folders
    assert {"store.db", "store.db-wal", "store.db-shm", "build.lock"} < rest
    assert {found[name] for name in rest} == {0o600}


def test_pragmas_are_those_of_the_design(plain: Store) -> None:
    """WAL, full synchronisation, pages of 16 KB, foreign keys, and the mark of the application."""
    with plain.write() as connection:
        values = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "page_size", "foreign_keys", "application_id", "user_version")
        ]
    assert values == ["wal", 2, 16_384, 1, migrations.APPLICATION_ID, migrations.SCHEMA_VERSION]


def test_a_folder_without_a_store_is_not_found(folder: Path) -> None:
    """Opening makes nothing: neither a folder nor a file."""
    with pytest.raises(StoreNotFound):
        Collection.open(folder)
    assert not folder.exists()


def test_a_collection_is_created_once(folder: Path, collection: Collection) -> None:
    """A second creation is a conflict and leaves the first as it is."""
    with pytest.raises(Conflict):
        Collection.create(folder, "zzz999", SPEC)
    assert collection.id == "abc123"


@pytest.mark.parametrize("stop", ["nothing", "file", "schema"])
def test_an_interrupted_creation_is_completed_by_the_same_call(folder: Path, stop: str) -> None:
    """Whatever a kill left of a creation, opening refuses it and creating completes it."""
    folder.mkdir()
    if stop == "file":
        (folder / "store.db").touch()
    elif stop == "schema":
        Store.create(folder).close()
    with pytest.raises((StoreNotFound, StoreDamaged)):
        Collection.open(folder)
    with Collection.create(folder, "abc123", SPEC) as made:
        assert (made.generation, made.spec) == (1, SPEC)


@pytest.mark.parametrize("identity", ["", "ABC123", "abc12", "abc1234", "abc/12"])
def test_an_id_is_six_plain_characters(folder: Path, identity: str) -> None:
    """The id stands in document ids and in addresses, so nothing else gets in, and nothing is made."""
    with pytest.raises(ValueError, match="six"):
        Collection.create(folder, identity, SPEC)
    assert not folder.exists()


def test_a_newer_store_is_refused_to_the_byte(folder: Path, tmp_path: Path) -> None:
    """A store of a newer release, killed with changes still in its log, is left exactly as it was."""
    Collection.create(tmp_path / "first", "abc123", SPEC).close()
    newer = sqlite3.connect(tmp_path / "first" / "store.db")
    newer.execute(f"PRAGMA user_version = {migrations.SCHEMA_VERSION + 1}")
    newer.execute("INSERT INTO meta VALUES ('new', 'thing')")
    newer.commit()
    folder.mkdir()
    for name in ("store.db", "store.db-wal"):
        shutil.copy(tmp_path / "first" / name, folder / name)
    newer.close()
    before = files(folder)
    assert set(before) == {"store.db", "store.db-wal"}
    for opening in (Collection.open, lambda at: Collection.create(at, "abc123", SPEC)):
        with pytest.raises(StoreTooNew, match="schema"):
            opening(folder)
    assert {name: files(folder)[name] for name in before} == before


def test_a_store_migrated_under_us_is_not_written(folder: Path, collection: Collection) -> None:
    """A process of the old release stops writing when a newer one has changed the schema."""
    other = sqlite3.connect(folder / "store.db")
    other.execute(f"PRAGMA user_version = {migrations.SCHEMA_VERSION + 1}")
    other.close()
    with pytest.raises(StoreTooNew):
        collection.add_source("/d", "folder")


def test_steps_run_once_in_order_and_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails in the middle leaves the step before it; the next opening completes it and keeps the data."""
    with Collection.create(folder, "abc123", SPEC) as made:
        put(made, made.add_source("/d", "folder"), upsert("a", "apple"))
    now, steps = migrations.SCHEMA_VERSION, migrations.STEPS
    good = ("ALTER TABLE source ADD COLUMN note TEXT", "CREATE TABLE extra (x)")
    monkeypatch.setattr(store, "SCHEMA_VERSION", now + 1)
    monkeypatch.setattr(migrations, "STEPS", (*steps, (*good, "CREATE TABLE extra (x)")))
    with pytest.raises(sqlite3.OperationalError, match="extra"):
        Collection.open(folder)
    with sqlite3.connect(folder / "store.db") as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (now,)
        assert "note" not in {row[1] for row in raw.execute("PRAGMA table_info(source)")}
    raw.close()
    monkeypatch.setattr(migrations, "STEPS", (*steps, good))
    for _ in range(2):
        with Collection.open(folder) as opened, opened._store.read() as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (now + 1,)
            assert connection.execute("SELECT root, note FROM source").fetchall() == [("/d", None)]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 40, b"SQLite format 3\0"])
def test_another_file_is_damage(folder: Path, content: bytes) -> None:
    """A file that is no SQLite database, or stops in its header, is refused and left as it is."""
    folder.mkdir()
    (folder / "store.db").write_bytes(content)
    for opening in (Collection.open, lambda at: Collection.create(at, "abc123", SPEC)):
        with pytest.raises(StoreDamaged):
            opening(folder)
    assert (folder / "store.db").read_bytes() == content


def test_another_programs_database_is_left_alone(folder: Path) -> None:
    """A database without our mark is neither opened nor taken over."""
    folder.mkdir()
    with sqlite3.connect(folder / "store.db") as raw:
        raw.execute("CREATE TABLE theirs (x)")
    raw.close()
    before = (folder / "store.db").read_bytes()
    for opening in (Collection.open, lambda at: Collection.create(at, "abc123", SPEC)):
        with pytest.raises(StoreDamaged):
            opening(folder)
    assert (folder / "store.db").read_bytes() == before


def test_damaged_pages_are_reported_as_damage(folder: Path) -> None:
    """Garbage behind the first page ends in StoreDamaged, not in an answer."""
    with Collection.create(folder, "abc123", SPEC) as made:
        put(made, made.add_source("/d", "folder"), upsert("a", "apple"))
    path = folder / "store.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:16_384] + b"\xa5" * (len(whole) - 16_384))
    with pytest.raises(StoreDamaged), Collection.open(folder) as opened:
        opened.search("apple", None, 1, "lexical")


def test_a_full_disk_changes_nothing(collection: Collection, source) -> None:
    """When no page can be added, the change set is refused as StorageFull and no part of it is there."""
    put(collection, source, upsert("a", "apple"))
    writer = collection._store._writing_connection()
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    many = tuple(upsert(f"new/{n}", f"bread {n}\n" * 200) for n in range(20))
    with pytest.raises(StorageFull):
        collection.apply(ChangeSet(source.id, upserts=many))
    assert list(collection.manifest(source.id).entries) == ["a"]
    assert not collection.search("bread", None, 5, "lexical").hits
    writer.execute("PRAGMA max_page_count = 1000000")
    assert len(collection.apply(ChangeSet(source.id, upserts=many)).documents) == 20


def test_a_writer_waits_and_then_gives_up(folder: Path, plain: Store) -> None:
    """While another process writes, a write ends as StoreBusy after its wait; reading goes on."""
    other = sqlite3.connect(folder / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy), plain.write():
        pass
    with plain.read() as connection:
        assert connection.execute("SELECT count(*) FROM source").fetchone() == (0,)
    other.execute("ROLLBACK")
    other.close()
    with plain.write() as connection:
        connection.execute("INSERT INTO meta VALUES ('a', 'b')")


def test_writers_of_one_process_take_turns(plain: Store) -> None:
    """A second thread waits for the first one's transaction, and no longer than it may."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with plain.write():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    with pytest.raises(StoreBusy), plain.write():
        pass
    leave.set()
    thread.join()
    with plain.write():
        pass


def test_an_exception_undoes_the_transaction(plain: Store) -> None:
    """Whatever is raised inside a write, nothing of it stays and the next write works."""

    def fail(error: type[BaseException]) -> None:
        with plain.write() as connection:
            connection.execute("INSERT INTO meta VALUES ('a', 'b')")
            raise error

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    with plain.write() as connection:
        assert connection.execute("SELECT count(*) FROM meta WHERE key = 'a'").fetchone() == (0,)


def test_a_read_sees_one_moment(plain: Store) -> None:
    """A commit in the middle of a read transaction is seen by the next one only."""
    with plain.read() as reading:
        assert reading.execute("SELECT count(*) FROM meta").fetchone() == (0,)
        with plain.write() as writing:
            writing.execute("INSERT INTO meta VALUES ('a', 'b')")
        assert reading.execute("SELECT count(*) FROM meta").fetchone() == (0,)
    with plain.read() as reading:
        assert reading.execute("SELECT count(*) FROM meta").fetchone() == (1,)


def test_reading_connections_cannot_write(plain: Store) -> None:
    """A statement that changes something is refused outside `write`."""
    with pytest.raises(StorageFull, match="readonly"), plain.read() as connection:
        connection.execute("DELETE FROM meta")


def test_a_closed_store_says_so(collection: Collection) -> None:
    """After close, reading and writing fail with a line that says what to do; closing again is harmless."""
    with collection._store.read():
        collection.close()
    collection.close()
    with pytest.raises(StoreError, match="closed"):
        collection.sources()
    with pytest.raises(StoreError, match="closed"):
        collection.add_source("/d", "folder")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, StorageFull),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StorageFull),
        (sqlite3.SQLITE_IOERR_FSYNC, StorageFull),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreBusy),
        (sqlite3.SQLITE_LOCKED, StoreBusy),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreDamaged),
        (sqlite3.SQLITE_CORRUPT_VTAB, StoreDamaged),
        (sqlite3.SQLITE_NOTADB, StoreDamaged),
        (sqlite3.SQLITE_CANTOPEN, StoreError),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.Error),
        (None, sqlite3.Error),
    ],
)
def test_result_codes_become_our_errors(code: int | None, expected: type[Exception]) -> None:
    """Extended codes are mapped by their primary code; what is our own bug stays SQLite's."""
    error = sqlite3.OperationalError("said SQLite")
    if code is not None:
        error.sqlite_errorcode = code
    assert type(store_errors.translation(Path("store.db"), error)) in (expected, type(error))
    assert isinstance(store_errors.translation(Path("store.db"), error), expected)


VISITOR = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
connection.close()
"""


def visit(path: Path) -> None:
    """Open and close a database in another process, as the last one that has it open takes its log away."""
    subprocess.run([sys.executable, "-c", VISITOR, str(path)], check=True)


def test_creating_again_takes_no_lock_from_who_has_it_open(folder: Path, collection: Collection) -> None:
    """After another `create` of an open store, the log stays while other processes come and go, and so do commits."""
    collection.add_source("/one", "folder")
    with pytest.raises(Conflict):
        Collection.create(folder, "abc123", SPEC)
    visit(collection._store.path)
    collection.add_source("/another", "folder")
    with sqlite3.connect(f"{collection._store.path.as_uri()}?mode=ro", uri=True) as other:
        assert other.execute("SELECT root FROM source ORDER BY id").fetchall() == [("/one",), ("/another",)]
    other.close()
    assert (folder / "store.db-wal").exists()


def test_a_file_that_was_taken_away_does_not_come_back(folder: Path, plain: Store) -> None:
    """Another reader than those that are open is told that the file is gone, and no empty one takes its place."""
    plain.close()
    opened = Store.open(folder)
    plain.path.unlink()
    with pytest.raises(StoreError, match="is gone"), opened.read():
        pass
    with pytest.raises(StoreError, match="is gone"), opened.write():
        pass
    assert not plain.path.exists()
    opened.close()


def test_a_writer_waits_no_longer_than_it_says(folder: Path, plain: Store) -> None:
    """What was waited for a thread of this process is taken off the wait for other processes."""
    opened = Store.open(folder, busy_seconds=30)
    opened._writing.acquire()
    threading.Timer(0.2, opened._writing.release).start()
    with opened.write() as connection:
        assert 0 < connection.execute("PRAGMA busy_timeout").fetchone()[0] <= 29_900
    opened.close()


def test_a_copy_of_what_can_not_be_opened_fails_as_one_of_ours(folder: Path, plain: Store, tmp_path: Path) -> None:
    """Where the store's file can't be opened for a copy, the error is typed like any other."""
    plain.path.unlink()
    with pytest.raises(StoreError, match="is gone"):
        plain.copy_to(tmp_path / "copy")


def leave_behind(path: Path, target: Path) -> None:
    """Copy an open database as a process leaves it that is killed when its new log has no more than a header."""
    for name in (path.name, f"{path.name}-wal"):
        shutil.copy(path.with_name(name), target)
    with closing(sqlite3.connect(target / path.name)) as raw:
        log = target / f"{path.name}-wal"
        raw.execute("PRAGMA user_version").fetchone()
        header = log.read_bytes()[:32]
    assert len(header) == 32
    log.write_bytes(header)
    target.joinpath(f"{path.name}-shm").write_bytes(bytes(32_768))


def test_a_log_of_a_header_alone_is_opened(folder: Path, collection: Collection, tmp_path: Path) -> None:
    """A process that was killed before the first page of its new log leaves a store like any other."""
    collection.add_source("/one", "folder")
    left = tmp_path / "left"
    left.mkdir()
    leave_behind(folder / "store.db", left)
    with Collection.open(left) as opened:
        assert [source.root for source in opened.sources()] == ["/one"]
        opened.add_source("/another", "folder")


def test_shared_memory_that_can_not_be_read_is_made_anew_at_once(folder: Path, collection, monkeypatch) -> None:
    """SQLite's long tries to read beside another process's shared memory are not repeated."""
    collection.add_source("/one", "folder")
    tries, look = list[str](), store_files._marks_of

    def tried(path: Path, busy_seconds: float, mode: str, also: str = "") -> tuple[int, int]:
        tries.append(also)
        if also:
            error = sqlite3.OperationalError("locking protocol")
            error.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
            raise error
        return look(path, busy_seconds, mode)

    monkeypatch.setattr(store_files, "_marks_of", tried)
    Store.open(folder).close()
    assert tries == ["&readonly_shm=1", ""]
