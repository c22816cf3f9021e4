"""`service.db`: real files, real processes."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from ragsvc import service_file
from ragsvc.errors import (
    BadRequest,
    CollectionExists,
    ConfigurationError,
    RagsvcError,
    StorageBusy,
    StorageFailed,
    UnknownCollection,
)
from ragsvc.ledger import LedgerEntry
from ragsvc.service_migrations import SCHEMA_VERSION, STEPS
from ragsvc.service_store import ServiceStore
from tests.indexes.test_store import visit

DAY = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ServiceStore]:
    store = ServiceStore.open(tmp_path / "data")
    yield store
    store.close()


def python(code: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", code, *arguments], check=False, timeout=60).returncode


def test_a_new_store_is_private_and_durable(store: ServiceStore) -> None:
    """Folder 0700, files 0600, WAL, FULL, 16 KiB pages, our application id and schema version."""
    assert store.path.parent.stat().st_mode & 0o777 == 0o700
    store.add_collection("abc123", "first")
    for file in store.path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
    pragmas = {name: store._write.execute(f"PRAGMA {name}").fetchone()[0] for name in
               ("journal_mode", "synchronous", "page_size", "application_id", "user_version")}  # fmt: skip
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "page_size": 16384, "application_id": 0x72616764,
                       "user_version": SCHEMA_VERSION}  # fmt: skip


def test_a_folder_of_the_users_keeps_its_mode(tmp_path: Path) -> None:
    """A data directory that was there before is not closed to others behind its owner's back."""
    tmp_path.chmod(0o755)
    ServiceStore.open(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "service.db").stat().st_mode & 0o777 == 0o600


def test_collections_are_listed_found_and_removed(store: ServiceStore) -> None:
    """A collection is found by name and by id until it is removed; what is not there is None or an error."""
    assert store.collections() == ()
    store.add_collection("zzz999", "papers")
    store.add_collection("abc123", "default")
    assert [(row.id, row.name, row.state) for row in store.collections()] == [
        ("abc123", "default", "ready"), ("zzz999", "papers", "ready")]  # fmt: skip
    assert datetime.fromisoformat(store.collections()[0].created_at).tzinfo is not None
    found = store.collection("papers")
    assert found == store.collection_of_id("zzz999")
    assert (found.id, found.name, found.folder) == ("zzz999", "papers", "zzz999")
    assert store.remove_collection("papers") == found
    assert (store.collection("papers"), store.collection_of_id("zzz999")) == (None, None)
    with pytest.raises(UnknownCollection, match="'papers'"):
        store.remove_collection("papers")
    store.add_collection("zzz999", "papers")


def test_names_and_ids_are_unique(store: ServiceStore) -> None:
    """A second collection of a name, or of an id, is refused, and the first stays as it was."""
    store.add_collection("abc123", "papers")
    for collection_id, name in (("def456", "papers"), ("abc123", "other")):
        with pytest.raises(CollectionExists):
            store.add_collection(collection_id, name)
    assert [(row.id, row.name) for row in store.collections()] == [("abc123", "papers")]


@pytest.mark.parametrize("name", ["a", "0", "a_b-c", "x" * 64])
def test_good_names(store: ServiceStore, name: str) -> None:
    """Letters, digits, - and _, up to 64, are taken as they are."""
    store.add_collection("abc123", name)
    assert [row.name for row in store.collections()] == [name]


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a b", "a/b", "..", "a.b", "é", "a\n", "a\x00", "x" * 65, "٣"])
def test_bad_names_are_refused(store: ServiceStore, name: str) -> None:
    """A name that could be a path, hides a line end or is too long is a bad request, and nothing is listed."""
    with pytest.raises(BadRequest, match="can't be a collection's name"):
        store.add_collection("abc123", name)
    assert store.collections() == ()


@pytest.mark.parametrize("collection_id", ["", "abc12", "abc1234", "ABC123", "../abc", "abc12é"])
def test_bad_ids_are_refused(store: ServiceStore, collection_id: str) -> None:
    """An id that is not six characters of a-z and 0-9 never becomes a folder's name."""
    with pytest.raises(BadRequest, match="no id of a collection"):
        store.add_collection(collection_id, "papers")
    assert store.collections() == ()


def test_another_process_is_seen_at_once(store: ServiceStore) -> None:
    """What another process commits is in the next read here, added and removed."""
    code = (
        "import sys; from pathlib import Path; from ragsvc.service_store import ServiceStore\n"
        "store = ServiceStore.open(Path(sys.argv[1])); store.add_collection('abc123', 'theirs'); store.close()"
    )
    assert store.collection("theirs") is None
    assert python(code, str(store.path.parent)) == 0
    assert store.collection("theirs").id == "abc123"
    other = ServiceStore.open(store.path.parent)
    other.remove_collection("theirs")
    assert store.collections() == ()
    other.close()


def _open_and_add(folder: Path, number: int, barrier: "multiprocessing.Barrier") -> None:
    barrier.wait()
    store = ServiceStore.open(folder)
    store.add_collection(f"abc12{number}", f"name-{number}")
    store.close()


def test_processes_that_start_together_make_one_store(tmp_path: Path) -> None:
    """Several processes open a new data directory at once: all succeed, and each one's row is there."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_open_and_add, args=(tmp_path / "new", n, barrier)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    store = ServiceStore.open(tmp_path / "new")
    assert [row.name for row in store.collections()] == ["name-0", "name-1", "name-2"]
    store.close()


def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    """A collection whose call returned is there after a kill -9; a row of the ledger that was only buffered is not."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ragsvc.ledger import LedgerEntry; from ragsvc.service_store import ServiceStore\n"
        "store = ServiceStore.open(Path(sys.argv[1])); store.add_collection('abc123', 'kept')\n"
        "store._ledger._seconds = 3600; store.record(LedgerEntry('ask', 'chat', 'm', 'openai'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert python(code, str(tmp_path)) == -9
    store = ServiceStore.open(tmp_path)
    assert store.collection("kept").id == "abc123"
    assert store.usage() == ()
    store.close()


def entries() -> list[LedgerEntry]:
    def ask(days: int, model: str = "gpt-6-luna", **named: object) -> LedgerEntry:
        return LedgerEntry("ask", "chat", model, "openai", at=DAY + timedelta(days=days), **named)

    return [
        ask(0, input_tokens=1000, output_tokens=50, cost_usd=0.25, collection="abc123"),
        ask(0, input_tokens=10, output_tokens=5, cost_usd=0.5),
        ask(1, model="strange", input_tokens=7, cost_usd=None, outcome="upstream_failed"),
        LedgerEntry("ingest", "embedding", "text-embedding-3-small", "openai", 4000, 0, 0.125, "abc123",
                    at=DAY + timedelta(days=1)),
    ]  # fmt: skip


def test_usage_sums_by_any_group(store: ServiceStore) -> None:
    """Sums by day, purpose and model, alone and together, in order; requests without a price are counted apart."""
    for row in entries():
        store.record(row)

    def summed(*group: str) -> list[tuple]:
        return [(*row.group.values(), row.requests, row.input_tokens, row.output_tokens, row.cost_usd, row.unpriced)
                for row in store.usage(group_by=group)]  # fmt: skip

    assert summed("day") == [("2026-11-20", 2, 1010, 55, 0.75, 0), ("2026-11-21", 2, 4007, 0, 0.125, 1)]
    assert summed("purpose") == [("ask", 3, 1017, 55, 0.75, 1), ("ingest", 1, 4000, 0, 0.125, 0)]
    assert summed("collection", "role") == [
        (None, "chat", 2, 17, 5, 0.5, 1), ("abc123", "chat", 1, 1000, 50, 0.25, 0),
        ("abc123", "embedding", 1, 4000, 0, 0.125, 0)]  # fmt: skip
    assert [row[:2] for row in summed("model")] == [("gpt-6-luna", 2), ("strange", 1), ("text-embedding-3-small", 1)]
    assert summed() == [(4, 5017, 55, 0.875, 1)]
    with pytest.raises(BadRequest, match="at; DROP"):
        store.usage(group_by=("day", "at; DROP TABLE ledger"))


def test_usage_since_a_moment_of_any_time_zone(store: ServiceStore) -> None:
    """The moment itself is included, and one told in another time zone is the same moment."""
    for row in entries():
        store.record(row)
    second = DAY + timedelta(days=1)
    assert [row.requests for row in store.usage(second, ())] == [2]
    assert [row.requests for row in store.usage(second.astimezone(timezone(timedelta(hours=9))), ())] == [2]
    assert [row.requests for row in store.usage(second + timedelta(milliseconds=1), ())] == [0]
    assert store.usage(second + timedelta(days=1)) == ()


def test_rows_are_kept_by_close_and_by_the_timer(tmp_path: Path) -> None:
    """A recorded row is in the file after close, and without it soon after, where another process sees it."""
    store, other = ServiceStore.open(tmp_path), ServiceStore.open(tmp_path)
    written = threading.Event()
    append = store._ledger._write
    store._ledger._write = lambda rows: (append(rows), written.set())
    store.record(entries()[0])
    assert written.wait(30)
    assert [row.requests for row in other.usage(group_by=())] == [1]
    store.record(entries()[1])
    store.close()
    assert [row.requests for row in other.usage(group_by=())] == [2]
    other.close()


def test_a_newer_store_is_refused_unchanged(tmp_path: Path) -> None:
    """A file of a later release is left as it is, to the byte, and the message says what to use."""
    ServiceStore.open(tmp_path).close()
    file = tmp_path / "service.db"
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match=f"schema {SCHEMA_VERSION + 1}, this release knows {SCHEMA_VERSION}"):
        ServiceStore.open(tmp_path)
    assert file.read_bytes() == before


def test_each_step_runs_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a later release is applied to an old file; one that fails leaves the file at the step before."""
    first = ServiceStore.open(tmp_path)
    first.add_collection("abc123", "kept")
    first.close()
    monkeypatch.setattr(service_file, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    for statement, version in (("CREATE TABLE nonsense (", SCHEMA_VERSION), ("SELECT 1", SCHEMA_VERSION + 1)):
        step = ("ALTER TABLE collection ADD COLUMN extra TEXT", statement)
        monkeypatch.setattr(service_file, "STEPS", (*STEPS, step))
        if version == SCHEMA_VERSION:
            with pytest.raises(StorageFailed):
                ServiceStore.open(tmp_path)
        else:
            ServiceStore.open(tmp_path).close()
        connection = sqlite3.connect(tmp_path / "service.db")
        columns = [row[1] for row in connection.execute("PRAGMA table_info(collection)")]
        assert connection.execute("PRAGMA user_version").fetchone()[0] == version
        assert ("extra" in columns) == (version > SCHEMA_VERSION)
        connection.close()
    store = ServiceStore.open(tmp_path)
    assert store.collection("kept").id == "abc123"
    store.close()


@pytest.mark.parametrize("application_id", [0, 1234])
def test_a_foreign_database_is_left_alone(tmp_path: Path, application_id: int) -> None:
    """Another program's service.db is refused and not written to."""
    file = tmp_path / "service.db"
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA application_id = {application_id}")
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match="another program's"):
        ServiceStore.open(tmp_path)
    assert file.read_bytes() == before


def test_damage_is_named(tmp_path: Path) -> None:
    """A file that is no database, and one whose pages are overwritten, are errors that say so."""
    file = tmp_path / "service.db"
    file.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(StorageFailed, match="damaged"):
        ServiceStore.open(tmp_path)
    file.unlink()
    store = ServiceStore.open(tmp_path)
    store.add_collection("abc123", "kept")
    store.close()
    data = bytearray(file.read_bytes())
    data[16384:] = os.urandom(len(data) - 16384)
    file.write_bytes(data)
    store = ServiceStore.open(tmp_path)
    with pytest.raises(StorageFailed, match="damaged"):
        store.collections()
    store.close()


def test_a_folder_that_cannot_be_is_a_configuration_error(tmp_path: Path) -> None:
    """A data directory below a file is refused with the setting's name."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="RAGSVC_DATA_DIR"):
        ServiceStore.open(tmp_path / "file" / "data")


def test_a_held_store_is_busy_and_readable(tmp_path: Path) -> None:
    """While another process writes, a write ends after the wait with StorageBusy, and reads go on."""
    store = ServiceStore.open(tmp_path, busy_seconds=0.05)
    store.add_collection("abc123", "kept")
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageBusy):
        store.add_collection("def456", "late")
    assert store.collection("kept").id == "abc123"
    holder.execute("ROLLBACK")
    store.add_collection("def456", "late")
    holder.close()
    store.close()


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    """When the file may not grow, the write fails as StorageFailed, what was there stays, and ledger rows wait."""
    store = ServiceStore.open(tmp_path)
    store.add_collection("abc123", "kept")
    pages = store._write.execute("PRAGMA page_count").fetchone()[0]
    store._write.execute(f"PRAGMA max_page_count = {pages}")
    store._ledger._seconds = 3600
    for row in [LedgerEntry("ask", "chat", "m" * 30_000, "openai", at=DAY)] * 3:
        store.record(row)
    with pytest.raises(StorageFailed, match="full"):
        store.usage()
    assert [row.name for row in store.collections()] == ["kept"]
    store._write.execute("PRAGMA max_page_count = 1000000")
    assert [row.requests for row in store.usage()] == [3]
    store.close()


def test_use_after_close_is_an_error_of_ours(tmp_path: Path) -> None:
    """A closed store answers with an error of the tree, not with one of sqlite3."""
    store = ServiceStore.open(tmp_path)
    store.close()
    with pytest.raises(RagsvcError):
        store.collections()


def test_threads_share_a_store(store: ServiceStore) -> None:
    """Adding, removing, reading and recording from many threads neither fails nor loses a row."""

    def work(number: int) -> None:
        for turn in range(10):
            store.add_collection(f"aa{number:02}{turn:02}", f"n{number}-{turn}")
            store.record(entries()[0])
            assert store.collection(f"n{number}-{turn}").id == f"aa{number:02}{turn:02}"
            if turn % 2:
                store.remove_collection(f"n{number}-{turn}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(store.collections()) == 4 * 5
    assert [row.requests for row in store.usage(group_by=())] == [40]


def test_opening_again_takes_no_lock_from_who_has_it_open(store: ServiceStore) -> None:
    """A process that opens its store twice keeps its log while other processes come and go, and so its commits."""
    ServiceStore.open(store.path.parent).close()
    visit(store.path)
    store.add_collection("abc123", "papers")
    with sqlite3.connect(f"{store.path.as_uri()}?mode=ro", uri=True) as other:
        assert other.execute("SELECT name FROM collection").fetchall() == [("papers",)]
    other.close()
    assert store.path.with_name(f"{store.path.name}-wal").exists()
