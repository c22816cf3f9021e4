"""Readers over HTTP while another process writes: each answer is that of one moment, and the server does not grow.

The writer notes what it is about to do and that it is done, in a file. A response must hold exactly the chunks of one
state between what was done when the request began and what had begun when the response was there.
"""

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import urlsplit

import pytest

from indexes.collection import Collection
from indexes.types import ChangeSet
from tests.e2e.processes import ROOT, Ragsvc, Server, openai
from tests.indexes.corpus import upsert, vectors_of
from tests.openai_fake import OpenAIFake

NAMES = [f"doc{number}" for number in range(8)]
READERS = 4
QUERY = "apple of the orchard"
State = dict[str, str]
"""Path -> text."""


def text_of(path: str, turn: int, lines: int) -> str:
    return "".join(f"apple {path} turn{turn} line{line}of{lines}\n" for line in range(lines))


def write(folder: str, log: str, seconds: str) -> None:
    """Run in the writing process: add, edit, remove and fold; each change is one line before and one after it."""
    drawn, until, turn = random.Random(1), time.monotonic() + float(seconds), 0
    witness = os.open(log, os.O_WRONLY | os.O_APPEND)
    with Collection.open(Path(folder), delta_rows=12) as collection:
        source = collection.add_source("/data", "folder")
        while time.monotonic() < until:
            turn += 1
            path = drawn.choice(NAMES)
            entry = collection.manifest(source.id).entries.get(path)
            text = None
            if entry is None or drawn.random() < 0.7:
                text = text_of(path, turn, drawn.randint(1, 3))
            os.write(witness, f"{json.dumps([path, text])}\n".encode())
            if text is None:
                collection.remove_document(entry.document_id)
            else:
                one = upsert(path, text, entry and (entry.document_id, entry.version))
                keys = [chunk.embedded_hash for chunk in one.chunks]
                collection.add_vectors(collection.spec.embedding, keys, vectors_of(keys))
                assert not collection.apply(ChangeSet(source.id, upserts=(one,))).conflicts
            os.write(witness, b"done\n")
            collection.fold_if_due()
            if turn % 500 == 0:
                collection._segments.compact()
            time.sleep(0.004)


class History:
    """What the writer said, as far as it was read."""

    def __init__(self, log: Path) -> None:
        self._file = log.open("rb")
        self._lock = threading.Lock()
        self._rest = b""
        self.states: list[State] = [{}]
        """After each change that has begun; the first is the empty collection."""
        self.done = 0

    def close(self) -> None:
        self._file.close()

    def read(self) -> tuple[int, int]:
        """Return how many changes are done, and how many have begun."""
        with self._lock:
            *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
            for line in lines:
                if line == b"done":
                    self.done += 1
                else:
                    path, text = json.loads(line)
                    state = {name: kept for name, kept in self.states[-1].items() if name != path}
                    self.states.append(state if text is None else {**state, path: text})
            return self.done, len(self.states) - 1


@dataclass
class Reader(threading.Thread):
    """Asks until it is told to stop, on one connection that is kept."""

    url: str
    history: History
    number: int
    stopping: threading.Event
    answers: int = 0
    texts: int = 0
    gone: int = 0
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._drawn = random.Random(self.number)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        parts = urlsplit(self.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            while not self.stopping.is_set() and len(self.wrong) < 3:
                self.search(self._drawn.choice(("lexical", "dense", "hybrid")))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to show it
            self.wrong.append(repr(error))
        finally:
            self._connection.close()

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        reply = self._connection.getresponse()
        return reply.status, json.loads(reply.read())

    def search(self, mode: str) -> None:
        lower, _ = self.history.read()
        status, reply = self.send("POST", "/search", {"query": QUERY, "k": 50, "mode": mode, "collection": "papers"})
        _, upper = self.history.read()
        if status != 200:
            self.wrong.append(f"{mode}: {status} {reply}")
            return
        hits = reply["hits"]
        held = {(hit["path"], hit["start"], hit["text"]) for hit in hits}
        if len(held) != len(hits) or any(hit["also"] for hit in hits):
            self.wrong.append(f"{mode}: a passage twice in {hits}")
        if not any(held == chunks(self.history.states[moment]) for moment in range(lower, upper + 1)):
            self.wrong.append(f"{mode}: between {lower} and {upper} nothing was {sorted(held)}")
        self.answers += 1
        if hits and self.answers % 4 == 0:
            self.text(self._drawn.choice(hits))

    def text(self, hit: Any) -> None:
        """The text route has the very characters of a hit, or says that its version is gone."""
        place = f"start={hit['start']}&end={hit['end']}&version={hit['version']}"
        status, reply = self.send("GET", f"/documents/{hit['document_id']}/text?{place}")
        if status == 200:
            self.texts += 1
            if reply["text"] != hit["text"]:
                self.wrong.append(f"text: {reply['text']!r} is not {hit['text']!r}")
        elif status in (404, 409):
            self.gone += 1
        else:
            self.wrong.append(f"text: {status} {reply}")


def chunks(state: State) -> set[tuple[str, int, str]]:
    """Every chunk of a state as (path, start, text): one a line."""
    found = set()
    for path, text in state.items():
        start = 0
        for line in text.splitlines(keepends=True):
            found.add((path, start, line))
            start += len(line)
    return found


def size_of(process: int) -> tuple[int, int]:
    """Return a process's own memory in bytes (what is mapped from files is the system's), and its open files."""
    status = Path(f"/proc/{process}/status").read_text()
    [memory] = [int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")]
    return memory, len([*Path(f"/proc/{process}/fd").iterdir()])


def watched(server: Server, writer: subprocess.Popen[bytes]) -> list[tuple[int, int]]:
    """Measure the server until the writer ends."""
    sizes = []
    while writer.poll() is None:
        sizes.append(size_of(server.process.pid))
        time.sleep(0.1)
    return sizes


def stressed(tmp_path: Path, seconds: float, growth: int) -> None:
    with OpenAIFake() as fake:
        ragsvc = Ragsvc(tmp_path / "data", openai(fake))
        ragsvc.run(
            "collections", "create", "papers", "--dimensions", "8", "--embedding-model", "text-embedding-3-small"
        )
        [store] = ragsvc.data_dir.glob("collections/*/store.db")
        log = tmp_path / "log"
        log.touch()
        with ragsvc.serve() as server:
            command = [sys.executable, "-m", "tests.e2e.test_readers", str(store.parent), str(log), str(seconds)]
            writer = subprocess.Popen(command, cwd=ROOT)
            history, stopping = History(log), threading.Event()
            readers = [Reader(server.url, history, number, stopping) for number in range(READERS)]
            for reader in readers:
                reader.start()
            sizes = watched(server, writer)
            stopping.set()
            for reader in readers:
                reader.join(60)
            assert writer.returncode == 0
            assert [wrong for reader in readers for wrong in reader.wrong] == []
            history.read()
            history.close()
        assert history.done == len(history.states) - 1 > 20
        assert all(reader.answers > 20 for reader in readers)
        assert sum(reader.texts for reader in readers) > 10
        with Collection.open(store.parent) as collection:
            assert collection.generations.listed()[0].segments
    check_flat(sizes, growth)


def check_flat(sizes: list[tuple[int, int]], growth: int) -> None:
    """After a warm-up, the last third is no larger than the first one, but for `growth` bytes and a few files."""
    warm = sizes[len(sizes) // 4 :]
    third = len(warm) // 3
    assert third > 3
    first, last = warm[:third], warm[-third:]
    assert mean(memory for memory, _ in last) <= mean(memory for memory, _ in first) + growth
    assert max(files for _, files in last) <= max(files for _, files in first) + 4


def test_readers_see_one_moment_each(tmp_path):
    """Four readers for 8 s: each answer is right for one moment, texts are the hits', nothing fails or grows."""
    stressed(tmp_path, 8, growth=32 << 20)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_readers_see_one_moment_each_for_long(tmp_path):
    """The same for two minutes, with less room to grow."""
    stressed(tmp_path, 120, growth=16 << 20)


def test_a_torn_answer_is_seen():
    """The check can fail: chunks of two moments are those of no one moment, and growth is found."""
    one, other = {"a": "apple 1\napple 2\n"}, {"a": "apple 3\napple 4\n"}
    torn = {min(chunks(one)), max(chunks(other))}
    assert torn not in (chunks(one), chunks(other))
    with pytest.raises(AssertionError):
        check_flat([(number << 20, 10) for number in range(100)], growth=16 << 20)
    with pytest.raises(AssertionError):
        check_flat([(1 << 20, number) for number in range(100)], growth=16 << 20)


if __name__ == "__main__":
    write(*sys.argv[1:])
