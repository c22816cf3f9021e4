"""What was deleted from a SQLite file is in none of its bytes, and nothing that was not deleted is touched."""

import contextlib
import hashlib
import random
import re
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from indexes import store_slack
from indexes.store_slack import SlackBusy, SlackDamaged

MARK = re.compile(rb"CAN(\d{7})Z")


def filled(path: Path, seed: int, *, secure: bool, index: bool) -> tuple[sqlite3.Connection, dict[int, str]]:
    """Add and delete rows of all sizes at random; return the connection and the rows that are left."""
    drawn, live, number = random.Random(seed), {}, 0
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA secure_delete = {secure}")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
    connection.execute("CREATE TABLE keyed (key BLOB PRIMARY KEY, text TEXT) WITHOUT ROWID")
    if index:
        connection.execute("CREATE INDEX rows_by_text ON rows (text)")
    for _ in range(150):
        connection.execute("BEGIN")
        for _ in range(drawn.randint(1, 30)):
            number += 1
            text = f"CAN{number:07d}Z" * drawn.choice([1, 3, 20, 100, 700])
            connection.execute("INSERT INTO rows VALUES (?, ?)", (number, text))
            key = hashlib.sha256(str(number).encode()).digest()
            connection.execute("INSERT INTO keyed VALUES (?, ?)", (key, text[: drawn.choice([11, 400, 4000])]))
            live[number] = text
        for gone in drawn.sample(list(live), min(len(live), drawn.randint(0, 32))):
            del live[gone]
            connection.execute("DELETE FROM rows WHERE id = ?", (gone,))
            connection.execute("DELETE FROM keyed WHERE key = ?", (hashlib.sha256(str(gone).encode()).digest(),))
        connection.execute("COMMIT")
    return connection, live


def dead(path: Path, live: dict[int, str]) -> set[int]:
    """Return the deleted rows that a byte of the file or its log still speaks of."""
    # In another process: closing the file would end the locks that this one's connections have on it.
    code = "import sys; sys.stdout.buffer.write(b''.join(open(p, 'rb').read() for p in sys.argv[1:]))"
    files = [str(path), *(str(log) for log in path.parent.glob("*-wal"))]
    data = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, check=True).stdout
    return {int(match[1]) for match in MARK.finditer(data)} - set(live)


@pytest.mark.parametrize(("secure", "index"), [(True, True), (True, False), (False, True), (False, False)])
def test_nothing_that_was_deleted_is_left(tmp_path, secure, index):
    """Gaps, free blocks, free pages and ends of overflow chains are zeroed; every row and index stays right."""
    found = set()
    for seed in range(4):
        path = tmp_path / f"{seed}" / "store.db"
        path.parent.mkdir()
        connection, live = filled(path, seed, secure=secure, index=index)
        with contextlib.closing(connection):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            found |= dead(path, live)
            assert store_slack.erase(path, 5) > 0
            assert dead(path, live) == set()
            assert dict(connection.execute("SELECT id, text FROM rows")) == live
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert store_slack.erase(path, 5) == 0 or not found  # nothing is left to do
    if not (secure and not index):
        assert found, "SQLite left nothing behind, so this test shows nothing"


def test_what_others_hold_in_memory_does_not_bring_it_back(tmp_path):
    """A connection that read pages with slack while they were being erased, and writes to them later, writes none."""
    path = tmp_path / "store.db"
    connection, live = filled(path, 3, secure=False, index=True)
    connection.execute("PRAGMA cache_size = -100000")
    code = f"""
        import os, pathlib
        from indexes import store_slack

        class Slow(store_slack.Eraser):
            def _slice(self, first):
                print("begun", flush=True)
                input()
                return super()._slice(first)

        eraser = Slow(pathlib.Path({str(path)!r}), 5)
        store_slack._SLICE_SECONDS = 60
        assert eraser.step(1) is None
        print("done", flush=True)
        input()
    """
    with (
        contextlib.closing(connection),
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as eraser,
    ):
        assert eraser.stdout.readline() == "begun\n"
        for table in ("rows", "keyed"):
            connection.execute(f"SELECT sum(length(text)) FROM {table}").fetchone()  # every page of it is cached now
        eraser.stdin.write("\n")
        eraser.stdin.flush()
        assert eraser.stdout.readline() == "done\n"
        connection.execute("PRAGMA secure_delete = ON")
        for table in ("rows", "keyed"):
            connection.execute(f"UPDATE {table} SET text = 'x' || substr(text, 2)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        eraser.communicate("\n")
        assert dead(path, live) == set()


def test_a_reader_of_an_older_state_is_waited_for_and_then_an_error(tmp_path):
    """While a reader keeps the log from being emptied the call ends by SlackBusy, and the file stays whole."""
    path = tmp_path / "store.db"
    connection, live = filled(path, 0, secure=True, index=False)
    with contextlib.closing(connection), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM rows").fetchone()
        connection.execute("INSERT INTO rows VALUES (0, 'new')")
        with pytest.raises(SlackBusy):
            store_slack.erase(path, 0.3)
        reader.execute("COMMIT")
        store_slack.erase(path, 5)
        assert dead(path, live) == set()


def test_others_write_meanwhile(tmp_path, monkeypatch):
    """Another process that writes all the time loses nothing, and the file is erased and whole in the end."""
    path = tmp_path / "store.db"
    connection, live = filled(path, 1, secure=True, index=True)
    connection.close()
    code = f"""
        import sqlite3, sys
        connection = sqlite3.connect({str(path)!r}, isolation_level=None, timeout=20)
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("CREATE TABLE more (id INTEGER PRIMARY KEY, text TEXT)")
        print("begun", flush=True)
        number = 0
        while not sys.stdin.closed and number < 1200:
            number += 1
            connection.execute("INSERT INTO more VALUES (?, ?)", (number, f"row {{number}} " * (number % 300)))
            if number % 3 == 0:
                connection.execute("DELETE FROM more WHERE id = ?", (number - 1,))
        print(number, flush=True)
    """
    monkeypatch.setattr(store_slack, "_SLICE_SECONDS", 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "begun\n"
        while writer.poll() is None:
            with contextlib.suppress(SlackBusy):
                store_slack.erase(path, 5)
        number = int(writer.stdout.readline())
    store_slack.erase(path, 5)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = {n: f"row {n} " * (n % 300) for n in range(1, number + 1) if n % 3 != 2}
        assert dict(raw.execute("SELECT id, text FROM more")) == kept
        assert dict(raw.execute("SELECT id, text FROM rows")) == live
    assert dead(path, live) == set()


def test_another_kind_of_file_is_left_alone(tmp_path):
    """A file that is no database, or not there, is an error and unchanged."""
    path = tmp_path / "store.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(store_slack.SlackFailed):
        store_slack.erase(path, 1)
    assert path.read_bytes() == b"no database" * 1000
    with pytest.raises(store_slack.SlackFailed):
        store_slack.erase(tmp_path / "other.db", 1)
    assert not (tmp_path / "other.db").exists()


def _of_page(data: bytearray, name: str, path: Path) -> int:
    """Return where the root page of a table begins in the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
    return (root - 1) * int.from_bytes(data[16:18], "big")


@pytest.mark.parametrize("damage", ["free blocks in a circle", "a chain into a tree", "junk", "free pages in use"])
def test_a_damaged_file_is_refused_and_no_more_is_written(tmp_path, damage):
    """What the headers of a damaged page say is not followed: the work ends, says so, and no row that is left goes."""
    path = tmp_path / "store.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA secure_delete = OFF")
        for table in ("small", "kept", "long", "gone"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO small VALUES (1, 'one'), (2, 'a longer one'), (3, 'three')")
        connection.execute("DELETE FROM small WHERE id = 2")
        connection.execute("INSERT INTO long VALUES (1, ?)", ("x" * 6000,))
        connection.execute("INSERT INTO kept VALUES (1, ?)", ("y" * 3000,))
        connection.execute("DROP TABLE gone")
    data = bytearray(path.read_bytes())
    small, kept = _of_page(data, "small", path), _of_page(data, "kept", path)
    if damage == "free blocks in a circle":
        block = int.from_bytes(data[small + 1 : small + 3], "big")
        assert block
        data[small + block : small + block + 2] = data[small + 1 : small + 3]
    elif damage == "a chain into a tree":
        cell = int.from_bytes(data[_of_page(data, "long", path) + 8 :][:2], "big")
        least = (4096 - 12) * 32 // 255 - 23
        local = least + (6003 - least) % 4092 if least + (6003 - least) % 4092 <= 4061 else least
        at = _of_page(data, "long", path) + cell + 3 + local
        data[at : at + 4] = (kept // 4096 + 1).to_bytes(4, "big")
    elif damage == "junk":
        data[small + 1 : small + 4096] = b"\xa5" * 4095
    else:
        data[32:36] = (kept // 4096 + 1).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(SlackDamaged):
        store_slack.erase(path, 5)
    assert path.read_bytes()[kept : kept + 4096] == data[kept : kept + 4096]
