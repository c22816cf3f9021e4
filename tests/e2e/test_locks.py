"""Locks among real processes: they die with their owner, no child inherits one, and who waits is told in time."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from indexes.collection import Collection
from tests.e2e.processes import ROOT, Ragsvc
from tests.e2e.test_interleavings import Holding
from tests.indexes.corpus import SPEC, put, upsert

HOLDER = """
import multiprocessing, os, subprocess, sys, time
from contextlib import ExitStack
from pathlib import Path
from filelock import FileLock
from indexes.collection import Collection
from indexes.generations import Segments
from ingest import preparing

folder, what, child = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
held = ExitStack()
if what == "run":
    held.enter_context(preparing.run_lock(folder / "locks", "/a/folder"))
elif what == "naive":
    import fcntl

    file = open(folder / "locks" / "build.lock", "w")
    fcntl.flock(file, fcntl.LOCK_EX)
elif what == "build":
    held.enter_context(Collection.open(folder)._segments._building())
else:
    held.enter_context(Collection.open(folder)._store.write())
number = 0
reading, writing = os.pipe()


def live():
    os.write(writing, b"x")
    time.sleep(60)


if child == "fork":
    number = os.fork()
    if not number:
        live()
        os._exit(0)
elif child == "fork by multiprocessing":
    started = multiprocessing.get_context("fork").Process(target=live)
    started.start()
    number = started.pid
elif child == "program":
    number = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid
elif child == "program that keeps files open":
    number = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False).pid
if child.startswith("fork"):
    os.read(reading, 1)  # until then the child is a copy that has not begun to live
print(number, flush=True)
time.sleep(60)
"""


CHILDREN = ("none", "fork", "fork by multiprocessing", "program", "program that keeps files open")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A collection of one document."""
    with Collection.create(tmp_path / "collection", "abc123", SPEC) as collection:
        put(collection, collection.add_source("/data", "folder"), upsert("a", "apple\n"))
    return tmp_path / "collection"


def take(folder: Path, what: str) -> None:
    """Take a lock without waiting for it; raise where another process has it."""
    if what == "run":
        [path] = (folder / "locks").glob("run-*.lock")
        with FileLock(path, timeout=0):
            return
    if what in ("build", "naive"):
        with FileLock(folder / "locks" / "build.lock", timeout=0):
            return
    connection = sqlite3.connect(folder / "store.db", timeout=0, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.close()


@pytest.mark.parametrize(
    "child", ["none", "fork", "fork by multiprocessing", "program", "program that keeps files open"]
)
@pytest.mark.parametrize("what", ["run", "build", "write"])
def test_a_killed_holder_leaves_no_lock(folder: Path, what: str, child: str) -> None:
    """The lock of a process that was killed is free at once, also where a child of it lives on."""
    after_a_kill(folder, what, child)


def test_a_lock_that_is_inherited_is_seen(folder: Path) -> None:
    """The check can fail: a lock of the plain kind is kept by a fork of its dead owner."""
    with pytest.raises(Timeout):
        after_a_kill(folder, "naive", "fork")


def after_a_kill(folder: Path, what: str, child: str) -> None:
    """Let a process take a lock and start a child, kill it, and take the lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), what, child], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    number = int(holder.stdout.readline())
    try:
        with pytest.raises((OSError, sqlite3.OperationalError)):
            take(folder, what)
        holder.kill()
        holder.wait(10)
        if number:
            os.kill(number, 0)  # it lives
        take(folder, what)
    finally:
        holder.kill()
        if number:
            os.kill(number, signal.SIGKILL)
        holder.stdout.close()
        holder.wait(10)


def test_no_file_is_left_open_to_programs_that_are_started(folder: Path) -> None:
    """Neither a store, a segment, a map nor a lock is handed down: close-on-exec is set on every descriptor."""
    with Collection.open(folder) as collection, FileLock(folder / "locks" / "a.lock"):
        collection.fold()
        collection.load()
        assert collection.settle()
        assert collection.search("apple", None, 1, "lexical").hits
        opened = {
            int(number.name): str(number.readlink())
            for number in Path("/proc/self/fd").iterdir()
            if number.is_symlink() and str(folder) in str(number.readlink())
        }
        assert any("store.db" in path for path in opened.values())
        assert any("a.lock" in path for path in opened.values())
        assert not [path for number, path in opened.items() if os.get_inheritable(number)]


# Commands


@pytest.fixture
def fake() -> Iterator[Holding]:
    with Holding() as fake:
        yield fake
        fake.free.set()


def documents(tmp_path: Path, name: str, count: int = 3) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.md").write_text(f"# {name}\n\nThe pump {number} of {name} is primed.\n")
    return folder


class Held:
    """An `index` whose embeddings are in flight for as long as the block lasts; then it must end well."""

    def __init__(self, ragsvc: Ragsvc, fake: Holding, folder: Path, code: int = 0) -> None:
        self.ragsvc, self.fake, self.folder, self.code = ragsvc, fake, folder, code

    def __enter__(self) -> subprocess.Popen[str]:
        self.fake.hold()
        self.process = self.ragsvc.start("index", str(self.folder), "--json")
        assert self.fake.arrived.wait(60)
        return self.process

    def __exit__(self, *_: object) -> None:
        self.fake.free.set()
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == self.code, (out, err)


def test_two_runs_of_one_source(ragsvc: Ragsvc, fake: Holding, tmp_path: Path) -> None:
    """The second run of a source is refused, exit 3, and says why; killed, the first leaves the way free."""
    folder = documents(tmp_path, "pumps")
    with Held(ragsvc, fake, folder, code=-signal.SIGKILL) as first:
        refused = ragsvc.run("index", str(folder), code=3)
        assert "another run is indexing" in refused.stderr
        first.kill()
        first.wait(10)
        fake.free.set()
        assert ragsvc.index(folder)["applied"] == 3


def test_runs_of_two_sources_go_together(ragsvc: Ragsvc, fake: Holding, tmp_path: Path) -> None:
    """While the vectors of one source are awaited, another that needs none is indexed from beginning to end."""
    one, copy = documents(tmp_path, "pumps"), tmp_path / "copy"
    other = documents(tmp_path, "valves")
    ragsvc.index(other)
    shutil.copytree(other, copy)  # known texts: nothing to embed
    with Held(ragsvc, fake, one):
        assert ragsvc.index(copy)["applied"] == 3
    listed = ragsvc.json("documents", "list")["documents"]
    assert sorted(Path(document["source"]).name for document in listed) == sorted([*["copy", "pumps", "valves"] * 3])


def test_an_upload_and_a_deletion_during_a_run(ragsvc: Ragsvc, fake: Holding, tmp_path: Path) -> None:
    """A server takes an upload of known text to its end, and deletes, while an `index` waits for its vectors."""
    known = documents(tmp_path, "valves")
    ragsvc.index(known)
    with ragsvc.serve() as server:
        [gone, *_] = server.json("GET", "/documents")["documents"]
        with Held(ragsvc, fake, documents(tmp_path, "pumps")):
            body = (known / "1.md").read_bytes()
            status, _, reply = server.request("POST", "/documents?path=up.md&wait=true", body, {"Content-Type": "a/b"})
            assert status == 201, reply
            assert server.request("DELETE", f"/documents/{gone['id']}")[0] == 204
        found = {(Path(one["source"]).name, one["path"]) for one in server.json("GET", "/documents")["documents"]}
    assert found == {("upload", "up.md"), *(("pumps", f"{n}.md") for n in range(3))} | {
        ("valves", f"{n}.md") for n in range(3) if f"{n}.md" != gone["path"]
    }


def test_a_collection_is_not_removed_under_a_run(ragsvc: Ragsvc, fake: Holding, tmp_path: Path) -> None:
    """While an `index` goes on its collection can't be removed, exit 3; afterwards it can."""
    ragsvc.run("collections", "create", "papers")
    folder = documents(tmp_path, "pumps")
    fake.hold()
    run = ragsvc.start("index", str(folder), "--collection", "papers", "--json")
    assert fake.arrived.wait(60)
    refused = ragsvc.run("collections", "remove", "papers", "--yes", code=3)
    assert "being written by another run" in refused.stderr
    fake.free.set()
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert json.loads(out)["applied"] == 3
    ragsvc.run("collections", "remove", "papers", "--yes")


def test_folds_of_two_processes(folder: Path) -> None:
    """Several processes that add and fold at once never wait for each other's build, and lose nothing."""
    script = """
import sys
from pathlib import Path
from indexes.collection import Collection
from tests.indexes.corpus import put, upsert
name, folds, n = sys.argv[2], 0, 0
with Collection.open(Path(sys.argv[1]), delta_rows=5) as collection:
    source = collection.add_source(f"/{name}", "folder")
    while n < 30 or (folds < 2 and n < 300):  # the others may be building whenever this one would
        put(collection, source, upsert(f"{n}", f"apple {name} {n}\\nbread {name} {n}\\n"))
        n += 1
        folds += collection.fold_if_due()
print(n, folds)
"""
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-c", script, str(folder), name], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two", "three")
    }
    done = {name: tuple(map(int, worker.communicate(timeout=120)[0].split())) for name, worker in workers.items()}
    assert [worker.returncode for worker in workers.values()] == [0, 0, 0]
    assert all(folds > 1 for _, folds in done.values())
    chunks = 2 * sum(documents for documents, _ in done.values()) + 1
    with Collection.open(folder) as collection:
        assert collection.settle()
        expected = {f"apple {name} {n}\n" for name, (documents, _) in done.items() for n in range(documents)}
        assert {hit.text for hit in collection.search("apple", None, 1_000, "lexical").hits} == expected | {"apple\n"}
        status = collection.status()
        assert (status.vectors, status.missing_vectors) == (chunks, 0)
        segments = collection.generations.listed()[0].segments
        assert sum(segment.rows for segment in segments) + status.delta_rows == chunks


def test_a_writer_that_waits_too_long_is_told_so(ragsvc: Ragsvc, tmp_path: Path) -> None:
    """Another process writes for longer than 10 s: 409 `store_busy` over HTTP, exit 3 at the terminal; reads go on."""
    ragsvc.index(documents(tmp_path, "pumps"))
    [store] = ragsvc.data_dir.glob("collections/*/store.db")
    with ragsvc.serve() as server:
        [first, second, _] = server.json("GET", "/documents")["documents"]
        connection = sqlite3.connect(store, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        free = threading.Event()
        with ThreadPoolExecutor(2) as pool:
            deletion = pool.submit(server.request, "DELETE", f"/documents/{first['id']}")
            command = pool.submit(ragsvc.run, "sources", "remove", "1", code=3)
            began = time.monotonic()
            while not deletion.done():
                assert len(server.search("pump")) == 3
                free.wait(0.2)
            waited = time.monotonic() - began
            status, _, body = deletion.result()
            assert (status, json.loads(body)["code"]) == (409, "store_busy")
            assert "another" in command.result().stderr
            assert waited > 9  # it waited for what may pass
        connection.close()
        assert server.request("DELETE", f"/documents/{first['id']}")[0] == 204
        assert server.request("DELETE", f"/documents/{second['id']}")[0] == 204


def test_a_removal_during_a_run_is_told(ragsvc: Ragsvc, fake: Holding, tmp_path: Path) -> None:
    """A path that was removed under a run is listed by it; a source that was ends it with exit 3, and stays away."""
    folder = documents(tmp_path, "pumps")
    ragsvc.index(folder)
    for number in range(2):
        (folder / f"{number}.md").write_text(f"# Pumps\n\nThe pump {number} was replaced.\n")
    gone = next(one for one in ragsvc.json("documents", "list")["documents"] if one["path"] == "0.md")
    fake.hold()
    run = ragsvc.start("index", str(folder), "--json")
    assert fake.arrived.wait(60)
    ragsvc.run("documents", "remove", gone["id"])
    fake.free.set()
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    found = json.loads(out)
    assert (found["applied"], found["conflicts"], found["removed_by_hand"]) == (1, ["0.md"], ["0.md"])
    assert ragsvc.index(folder)["plan"]["returned"] == ["0.md"]
    (folder / "2.md").write_text("# Pumps\n\nThe last pump was replaced.\n")
    fake.hold()
    run = ragsvc.start("index", str(folder))
    assert fake.arrived.wait(60)
    [source] = ragsvc.json("sources", "list")["sources"]
    ragsvc.run("sources", "remove", str(source["id"]))
    fake.free.set()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 3
    assert "was removed" in err
    assert ragsvc.json("documents", "list")["documents"] == []
