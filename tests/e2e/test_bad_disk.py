"""A real server, and real commands, on a disk that is full, or read-only, or without a descriptor left."""

import contextlib
import http.client
import json
import os
import resource
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest

from tests.e2e.processes import Ragsvc, Server

OTTERS = "# Otters\n\nOtters hold hands while they sleep on the river.\n"
LOCAL = {"RAGSVC_PROVIDER": "local"}
STORAGE_FULL = (503, "storage_full")


@pytest.fixture
def ragsvc(tmp_path) -> Ragsvc:
    return Ragsvc(tmp_path / "data", LOCAL)


@pytest.fixture
def indexed(ragsvc, tmp_path) -> Ragsvc:
    """A data directory with one document."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "otters.md").write_text(OTTERS)
    ragsvc.index(folder)
    return ragsvc


class Line:
    """One connection to a server that stays open: it needs no descriptor for another request."""

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"):
        self.connection.request(method, path, body, {"Content-Type": kind} if body else {})
        reply = self.connection.getresponse()
        data = reply.read()
        return reply.status, json.loads(data) if data else None, reply.headers

    def upload(self, name: str):
        text = f"# {name}\n\nA {name} is another animal.\n".encode()
        return self.send("POST", f"/documents?path={name}.md&wait=true", text, "text/plain")

    def refused(self, method: str, path: str, body: bytes | None = None, kind: str = "text/plain") -> None:
        """The request fails as one for which there is no room, and says when to come again."""
        status, problem, headers = self.send(method, path, body, kind)
        assert (status, problem["code"]) == STORAGE_FULL, problem
        assert int(headers["retry-after"]) > 0

    def found(self, mode: str = "hybrid") -> list[str]:
        status, reply, _ = self.send("POST", "/search", json.dumps({"query": "otters river", "mode": mode}).encode())
        assert status == 200, reply
        return [hit["path"] for hit in reply["hits"]]


@contextlib.contextmanager
def limited(server: Server, limit: int, most: int) -> Iterator[None]:
    """Give a running server a limit, and take it away again."""
    old = resource.prlimit(server.process.pid, limit)
    resource.prlimit(server.process.pid, limit, (most, old[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, limit, old)


def test_a_full_disk_refuses_writes_and_answers_questions(indexed):
    """While no file can grow, uploads and removals are 503 `storage_full`, and searches go on; later all goes on."""
    with indexed.serve() as server, Line(server) as line:
        assert line.found() == ["otters.md"]
        [document] = line.send("GET", "/documents")[1]["documents"]
        with limited(server, resource.RLIMIT_FSIZE, 0):
            line.refused("POST", "/documents?path=new.md", b"new text\n")
            line.refused("DELETE", f"/documents/{document['id']}")
            line.refused("POST", "/collections", b'{"name": "papers"}', "application/json")
            for mode in ("hybrid", "dense", "lexical"):
                assert line.found(mode) == ["otters.md"]
            assert line.send("GET", f"/documents/{document['id']}/text")[1]["text"] == OTTERS
            assert line.send("GET", "/readyz")[0] == 200
            assert [one["id"] for one in line.send("GET", "/documents")[1]["documents"]] == [document["id"]]
            assert line.send("GET", "/jobs")[1]["jobs"] == []
        status, reply, _ = line.upload("heron")
        assert status == 201, reply
        assert set(line.found()) == {"otters.md", "heron.md"}
        assert line.send("DELETE", f"/documents/{document['id']}")[0] == 204
        assert line.found() == ["heron.md"]


def test_a_disk_that_fills_up_while_a_job_runs(indexed):
    """An upload that was accepted waits for room, says why, and is done when there is some."""
    with indexed.serve() as server, Line(server) as line:
        line.found()
        used = (indexed.data_dir / "service.db-wal").stat().st_size
        store = next(indexed.data_dir.glob("collections/*/store.db-wal"))
        # There is room for what is accepted, and none for what it becomes.
        with limited(server, resource.RLIMIT_FSIZE, max(used, store.stat().st_size) + 100_000):
            body = "".join(f"# Part {n}\n\nAn otter of the kind number {n}.\n\n" for n in range(60)).encode()
            status, reply, _ = line.send("POST", "/documents?path=many.md", body, "text/plain")
            if status != 202:
                assert (status, reply["code"]) == STORAGE_FULL
                status = None
            assert line.found("lexical") == ["otters.md"]
        if status is None:
            assert line.send("POST", "/documents?path=many.md", body, "text/plain")[0] == 202
        until = time.monotonic() + 60
        while line.send("GET", "/jobs")[1]["jobs"][0]["state"] != "done":
            assert time.monotonic() < until
            time.sleep(0.1)
        assert len(line.send("GET", "/documents")[1]["documents"]) == 2


def test_a_server_without_a_descriptor_left_goes_on(indexed):
    """At its limit of open files a server searches, refuses uploads typed, and takes new connections afterwards."""
    with indexed.serve() as server, Line(server) as line:
        for _ in range(3):
            line.found()
        assert line.upload("heron")[0] == 201
        line.found()
        used = {int(path.name) for path in Path(f"/proc/{server.process.pid}/fd").iterdir()}
        with limited(server, resource.RLIMIT_NOFILE, min(set(range(len(used) + 1)) - used)):
            assert set(line.found()) == {"otters.md", "heron.md"}
            line.refused("POST", "/documents?path=new.md", b"new text\n")
            waiting = [Line(server) for _ in range(4)]
            for one in waiting:
                one.connection.connect()  # the kernel takes it, the server can't
            time.sleep(0.3)
            assert set(line.found()) == {"otters.md", "heron.md"}
        with Line(server) as another:
            assert another.found()
        assert line.upload("stork")[0] == 201
        for one in waiting:
            one.connection.close()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only for this user: by its rights, or for root by mounting it so."""
    if os.geteuid() != 0:
        paths = [folder, *folder.rglob("*")]
        modes = [path.stat().st_mode for path in paths]
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
        try:
            yield
        finally:
            for path, mode in zip(paths, modes, strict=True):
                path.chmod(mode)
        return
    try:
        subprocess.run(["mount", "--bind", folder, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"root may write everything here, and nothing can be mounted: {error}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_data_directory_that_can_only_be_read_is_searched(indexed, tmp_path):
    """`search`, `ask`, `status` and a server work on a read-only data directory; what writes is exit 3 and one line."""
    with read_only(indexed.data_dir):
        assert [hit["path"] for hit in indexed.json("search", "otters")["hits"]] == ["otters.md"]
        assert indexed.json("ask", "What do otters hold while they sleep?")["citations"][0]["path"] == "otters.md"
        assert len(indexed.json("documents", "list")["documents"]) == 1
        indexed.run("status")
        (tmp_path / "docs" / "heron.md").write_text("# Heron\n\nA heron stands.\n")
        refused = indexed.run("index", str(tmp_path / "docs"), code=3)
        assert refused.stderr.count("\n") == 1
        assert indexed.run("collections", "create", "papers", code=3).stderr.count("\n") == 1
        with indexed.serve() as server, Line(server) as line:
            assert line.found() == ["otters.md"]
            ready = line.send("GET", "/readyz")[1]
            assert any("can't be written" in said for said in ready["degraded"])
            line.refused("POST", "/documents?path=new.md", b"new text\n")
            [document] = line.send("GET", "/documents")[1]["documents"]
            line.refused("DELETE", f"/documents/{document['id']}")
            assert line.found("lexical") == ["otters.md"]
    indexed.index(tmp_path / "docs")
    assert len(indexed.json("documents", "list")["documents"]) == 2


def test_a_server_whose_disk_turns_read_only(indexed):
    """A disk that turns read-only under a running server: searches go on, writes are refused, and later go on."""
    with indexed.serve() as server, Line(server) as line:
        assert line.upload("heron")[0] == 201
        assert set(line.found()) == {"otters.md", "heron.md"}
        with read_only(indexed.data_dir):
            line.refused("POST", "/documents?path=new.md", b"new text\n")
            assert set(line.found()) == {"otters.md", "heron.md"}
        assert line.upload("stork")[0] == 201
