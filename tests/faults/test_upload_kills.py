"""A server is killed at every named step of an upload: what was acknowledged is there, once, after the next start.

At the n-th named point (`indexes.failpoints`) of the chain from the socket to the finished job, or at the n-th border
of a request that is paid for, the process kills itself, for n = 1, 2, 3 ... until an upload ends without reaching it
(SQLite's way). The servers are real processes with real sockets, forked from one that has everything imported.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexes import failpoints
from ingest.readers import registry
from tests.ragsvc.api.rooms import FORM, WordVectors, form

OLD, NEW, OTHER = b"the old text of a\n", b"the new text of a\n", b"the text of b\n"
BOMB = b"reading this ends the process\n"


def serve_and_die(data_dir: str, port_file: str, steps: str, die_at: int) -> None:
    """Run in the child: a server that kills itself at its `die_at`-th step, 0 for never."""
    reached = 0

    def step() -> None:
        nonlocal reached
        reached += 1
        if reached == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def read(path, data, inner=registry.read):
        if steps == "bomb" and data == BOMB:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(path, data)

    registry.read = read

    class Paid(WordVectors):
        async def embed_documents(self, texts):
            step()
            embedded = await super().embed_documents(texts)
            ledger = os.open(Path(data_dir) / "paid", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(ledger, "".join(f"{json.dumps(text)}\n" for text in texts).encode())
            os.close(ledger)
            step()
            return embedded

    import uvicorn

    from ragsvc.api.app import create_app
    from ragsvc.compose import House
    from tests.ragsvc.api.rooms import settings

    house = House(settings(Path(data_dir)))
    house._embedder = lambda spec, purpose: Paid(spec)
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(house.service)
    app.on_shutdown.append(house.aclose)
    scratch = Path(f"{port_file}.part")
    scratch.write_text(str(listener.getsockname()[1]))
    scratch.rename(port_file)
    if steps != "bomb":
        failpoints.install(lambda name: step())
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", log_level="critical")
    uvicorn.Server(config).run(sockets=[listener])


def serve() -> None:
    """Fork a server for each line of arguments."""
    import uvicorn
    import uvicorn.lifespan.on
    import uvicorn.protocols.http.httptools_impl  # noqa: F401

    from ingest import tokens
    from ragsvc import compose  # noqa: F401
    from ragsvc.logs import configure_logs

    tokens.encoding()
    configure_logs("json")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            with contextlib.suppress(KeyboardInterrupt):
                serve_and_die(*json.loads(line))
            os._exit(0)
        say(child)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


class Nursery:
    """Starts servers, one at a time."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder
        self.port = self.child = 0

    def start(self, data_dir: Path, die_at: int = 0, steps: str = "upload") -> None:
        """Start a server and wait for its port; one that dies before it answers is no error here."""
        port = self.folder / "port"
        port.unlink(missing_ok=True)
        self.process.stdin.write(f"{json.dumps([str(data_dir), str(port), steps, die_at])}\n")
        self.process.stdin.flush()
        self.child = int(self.process.stdout.readline())
        while not port.exists():
            time.sleep(0.001)
        self.port = int(port.read_text())

    def ended(self) -> int:
        """Return the exit code of the server that was started."""
        code = int(self.process.stdout.readline())
        self.child = 0
        return code

    def stop(self) -> bool:
        """End the server, in order where it lives; return whether a kill came before."""
        if self.send("GET", "/healthz") is not None:
            os.kill(self.child, signal.SIGINT)
        code = self.ended()
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def send(self, method, path, body=None, headers=None):
        """Return status and JSON, or None where the server is gone."""
        try:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
                connection.request(method, path, body=body, headers=headers or {})
                reply = connection.getresponse()
                data = reply.read()
                return reply.status, json.loads(data) if data else None
        except (OSError, http.client.HTTPException):
            return None

    def post(self, files):
        return self.send("POST", "/documents", form(files), {"Content-Type": FORM})

    def documents(self):
        return self.send("GET", "/documents")[1]["documents"]

    def finished(self) -> list[dict]:
        """Wait until every job has ended, and return them; None where the server dies meanwhile."""
        until = time.monotonic() + 20
        while reply := self.send("GET", "/jobs"):
            if all(job["state"] in ("done", "cancelled", "failed") for job in reply[1]["jobs"]):
                return reply[1]["jobs"]
            assert time.monotonic() < until, reply
            time.sleep(0.01)
        return []

    def text(self, document) -> bytes:
        return self.send("GET", f"/documents/{document['id']}/text")[1]["text"].encode()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory) -> Iterator[Nursery]:
    command = [sys.executable, "-m", "tests.faults.test_upload_kills"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        nursery = Nursery(process, tmp_path_factory.mktemp("nursery"))
        yield nursery
        if nursery.child:  # left by a test that failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(nursery.child, signal.SIGKILL)
        process.stdin.close()


@pytest.fixture(scope="module")
def seed(nursery, tmp_path_factory) -> Path:
    """A data directory with one document, `a.md`, in its first version."""
    folder = tmp_path_factory.mktemp("seed") / "data"
    folder.mkdir()
    nursery.start(folder)
    assert nursery.post([("a.md", OLD)])[0] == 202
    nursery.finished()
    nursery.stop()
    return folder


def copied(seed: Path, at: Path) -> Path:
    shutil.copytree(seed, at)
    return at


def check_whole(nursery: Nursery, data_dir: Path) -> None:
    """What must hold after any kill and a restart: no job open, nothing left over, nothing inconsistent."""
    assert {job["state"] for job in nursery.finished()} <= {"done"}
    folder = data_dir / "uploads"
    until = time.monotonic() + 10
    while list(folder.iterdir()) and time.monotonic() < until:  # the body goes a moment after the job's end
        time.sleep(0.003)
    assert list(folder.iterdir()) == []
    assert not nursery.stop()
    for store in data_dir.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(store)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    paid = Counter((data_dir / "paid").read_text().splitlines())
    assert max(paid.values()) <= 2
    assert sum(paid.values()) - len(paid) <= 2  # what was in flight: one request of two texts


def killed_upload(nursery: Nursery, data_dir: Path, die_at: int) -> bool:
    """Upload with a kill at a step, restart, check; return whether the kill came."""
    files = [("a.md", NEW), ("b.md", OTHER), ("c.bin", b"\0")]
    nursery.start(data_dir, die_at)
    reply = nursery.post(files)
    acknowledged = reply is not None
    assert not acknowledged or reply[0] == 202
    if acknowledged:
        nursery.finished()
    killed = nursery.stop()
    nursery.start(data_dir)
    jobs = nursery.finished()
    held = {document["path"]: (nursery.text(document), document["version"]) for document in nursery.documents()}
    old, new = {"a.md": (OLD, 1)}, {"a.md": (NEW, 2), "b.md": (OTHER, 1)}
    assert held in ([new] if acknowledged else [old, new])
    if not acknowledged:  # the client sends it again: nothing is there twice
        assert nursery.post(files)[0] == 202
        jobs = nursery.finished()
        again = {document["path"]: (nursery.text(document), document["version"]) for document in nursery.documents()}
        assert again == new
    files = nursery.send("GET", f"/jobs/{jobs[0]['id']}")[1]["files"]
    assert [file["state"] for file in files][2] == "rejected"
    assert {file["state"] for file in files[:2]} <= {"applied", "unchanged"}
    check_whole(nursery, data_dir)
    return killed


def killed_removal(nursery: Nursery, data_dir: Path, die_at: int) -> bool:
    """Upload, remove what stands at its path while the job is under way, kill at a step, restart, check."""
    nursery.start(data_dir, die_at, "removal")
    listed = nursery.send("GET", "/documents")  # its look at what was left may come to a step, too
    [document] = listed[1]["documents"] if listed else [None]
    posted = nursery.post([("a.md", NEW)])
    removed = nursery.send("DELETE", f"/documents/{document['id']}") if document else None
    nursery.finished()
    killed = nursery.stop()
    nursery.start(data_dir)
    nursery.finished()
    held = {document["path"]: nursery.text(document) for document in nursery.documents()}
    if removed is not None:
        assert removed[0] == 204
        assert held == {}
    elif posted is not None:
        assert held in ({}, {"a.md": NEW})
    check_whole(nursery, data_dir)
    return killed


def test_a_document_that_kills_its_reader_is_rejected(nursery, seed, tmp_path):
    """Three processes die of one document; the fourth start rejects it as `crash` and does the others of its job."""
    data_dir = copied(seed, tmp_path / "data")
    nursery.start(data_dir, steps="bomb")
    nursery.post([("one.txt", b"one\n"), ("bomb.txt", BOMB), ("two.txt", b"two\n")])
    for _ in range(3):
        assert nursery.ended() == -signal.SIGKILL
        nursery.start(data_dir, steps="bomb")
    [job, _] = nursery.finished()
    files = nursery.send("GET", f"/jobs/{job['id']}")[1]["files"]
    states = {file["path"]: (file["state"], file["reason"]) for file in files}
    assert states == {"one.txt": ("applied", None), "bomb.txt": ("rejected", "crash"), "two.txt": ("applied", None)}
    check_whole(nursery, data_dir)


SCENARIOS = pytest.mark.parametrize("scenario", [killed_upload, killed_removal], ids=lambda scenario: scenario.__name__)


def survive(nursery: Nursery, seed: Path, tmp_path: Path, scenario, stride: int) -> None:
    for die_at in range(1, 1000, stride):
        if not scenario(nursery, copied(seed, tmp_path / str(die_at)), die_at):
            assert die_at > 30
            return
        shutil.rmtree(tmp_path / str(die_at))
    raise AssertionError("the steps never end")


@SCENARIOS
def test_a_kill_at_many_steps_loses_nothing(nursery, seed, tmp_path, scenario):
    """Killed at every 11th step: acknowledged documents are there once, a removal is not undone, nothing is left."""
    survive(nursery, seed, tmp_path, scenario, stride=11)


@pytest.mark.soak
@SCENARIOS
def test_a_kill_at_every_step_loses_nothing(nursery, seed, tmp_path, scenario):
    """The same at each step in turn."""
    survive(nursery, seed, tmp_path, scenario, stride=1)


if __name__ == "__main__":
    serve()
