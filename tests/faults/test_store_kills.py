"""A process that applies, edits, removes and folds is killed at random instants: what it acknowledged is there, whole.

The witness is a log outside the store: the child writes what it is about to do, does it, and writes that it is done.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from indexes.collection import Collection
from indexes.types import ChangeSet
from tests.indexes.corpus import SPEC, chunks_of, embed, query_vector, upsert

NAMES = [f"doc{n}" for n in range(8)]
State = dict[str, str]


def work(folder: str, log: str, seed: int) -> None:
    """Run in the child until it is killed."""
    drawn = random.Random(seed)
    witness = os.open(log, os.O_WRONLY | os.O_APPEND)
    with Collection.open(Path(folder), delta_rows=6) as collection:
        source = collection.sources()[0]
        while True:
            entries = collection.manifest(source.id).entries
            path = drawn.choice(NAMES)
            entry = entries.get(path)
            text = None
            if entry is None or drawn.random() < 0.7:
                text = "".join(f"apple {path} {drawn.random()}\n" for _ in range(drawn.randint(1, 4)))
            os.write(witness, f"{json.dumps([path, text])}\n".encode())
            if text is None:
                collection.apply(ChangeSet(source.id, removals=(entry.document_id,)))
            else:
                one = upsert(path, text, entry and (entry.document_id, entry.version))
                embed(collection, one)
                collection.apply(ChangeSet(source.id, upserts=(one,)))
            os.write(witness, b"done\n")
            collection.fold_if_due()


def serve() -> None:
    """Fork a worker for each line of arguments: it starts in milliseconds, with everything imported."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            work(*json.loads(line))
        say(child)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def replay(log: Path) -> tuple[State, State]:
    """Return what was acknowledged, and the same with the change that was under way."""
    acknowledged: State = {}
    ahead: State = {}
    for line in log.read_text().splitlines():
        if line == "done":
            acknowledged = ahead
            continue
        path, text = json.loads(line)
        ahead = (
            {**acknowledged, path: text} if text is not None else {k: v for k, v in acknowledged.items() if k != path}
        )
    return acknowledged, ahead


def check(folder: Path, log: Path) -> State:
    """Open what the kill left, and compare it with the witness in every view; return what is held."""
    acknowledged, ahead = replay(log)
    with Collection.open(folder) as collection:
        entries = collection.manifest(collection.sources()[0].id).entries
        held = {path: collection.text(entry.document_id).text for path, entry in entries.items()}
        assert held in (acknowledged, ahead)
        pieces = {text[chunk.start : chunk.end] for text in held.values() for chunk in chunks_of(text)}
        query = query_vector("anything")
        for mode in ("dense", "lexical"):
            assert {hit.text for hit in collection.search("apple", query, 100, mode).hits} == pieces
        status = collection.status()
        assert (status.documents, status.chunks, status.missing_vectors) == (len(held), len(pieces), 0)
    raw = sqlite3.connect(folder / "store.db")
    raw.execute("INSERT INTO words_1 (words_1) VALUES ('integrity-check')")
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    words = raw.execute("SELECT sum(doc) FROM words_1_vocabulary WHERE term LIKE 'doc_'").fetchone()[0] or 0
    assert words == len(pieces)
    raw.close()
    return held


def survive(tmp_path: Path, kills: int, seed: int) -> None:
    folder, log = tmp_path / "collection", tmp_path / "witness"
    log.touch()
    with Collection.create(folder, "abc123", SPEC) as collection:
        collection.add_source("/data", "folder")
    drawn = random.Random(seed)
    command = [sys.executable, "-m", "tests.faults.test_store_kills"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        for kill in range(kills):
            size = log.stat().st_size
            server.stdin.write(f"{json.dumps([str(folder), str(log), seed * 1000 + kill])}\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            while log.stat().st_size == size:
                os.kill(child, 0)  # fails where the child ended by itself
                time.sleep(0.001)
            time.sleep(drawn.random() * 0.12)
            os.kill(child, signal.SIGKILL)
            assert int(server.stdout.readline()) == -signal.SIGKILL
            held = check(folder, log)
            # The change under way is now decided: the next run goes on from what is held.
            log.write_text("".join(f"{json.dumps([path, text])}\ndone\n" for path, text in held.items()))


def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Forty kills of one store in a row: acknowledged changes are there, the one under way is whole or absent."""
    survive(tmp_path, kills=40, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_kills(tmp_path: Path) -> None:
    """A thousand kills, fifty in a row on each of twenty stores."""
    for seed in range(20):
        survive(tmp_path / str(seed), kills=50, seed=seed)


if __name__ == "__main__":
    serve()
