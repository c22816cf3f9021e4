"""Starts the peers that `make peers` installed, and skips with a reason what is not there."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT

PEERS = ROOT / ".ragsvc" / "peers"
LLMOCK = PEERS / "llmock" / "bin" / "llmock"
STEADY = PEERS / "node_modules" / ".bin" / "steady"
AIMOCK_COMMAND = PEERS / "node_modules" / ".bin" / "llmock"
"""aimock's own server; its package also calls it so."""


def installed(path: Path, name: str) -> Path:
    """Return the path of a peer's command, or skip the test that asks."""
    if not path.exists():
        pytest.skip(f"{name} is not installed: `make peers` does it (npm packages need Node 20 or newer)")
    return path


def free_port() -> int:
    """Return a port that nobody listens on; these servers do not tell which one port 0 became."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*command: str, port: int, ready: str = "/", seconds: float = 30) -> Iterator[str]:
    """Run a server until the end of the block; yield its URL once it answers anything at all."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,  # a launcher's child ends with it
    )  # fmt: skip
    try:
        ends = time.monotonic() + seconds
        while not _answers(port, ready):
            if process.poll() is not None or time.monotonic() > ends:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"{command[0]} did not start: {process.communicate()[0].decode()[-2000:]}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except OSError:
        return False
    else:
        return True
    finally:
        connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two manuals to index."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "pumps.md").write_text(
        "# Pumps\n\nFill the casing with water before the first start.\n\n## Winter\n\nDrain it before frost.\n",
        encoding="utf-8",
    )
    (folder / "valves.md").write_text("# Valves\n\nTurn the red valve clockwise to close it.\n", encoding="utf-8")
    return folder
