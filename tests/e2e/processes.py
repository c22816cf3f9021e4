"""Real processes of ragsvc: the command line, and a server on a port of its own."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.openai_fake import OpenAIFake

ROOT = Path(__file__).resolve().parents[2]
_PASSED_ON = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "COVERAGE_PROCESS_START")


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a process that knows nothing of the one that runs the tests."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | {"RAGSVC_DATA_DIR": str(data_dir), "RAGSVC_ENV_FILE": "/nonexistent", **settings}


def openai(fake: OpenAIFake) -> dict[str, str]:
    """Return settings that take the stand-in for OpenAI's own host."""
    return {"OPENAI_API_KEY": fake.key, "OPENAI_BASE_URL": fake.base_url, "RAGSVC_CHAT_DIALECT": "openai"}


@dataclass(frozen=True)
class Ragsvc:
    """The command `ragsvc` with a data directory and settings."""

    data_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def start(self, *arguments: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "ragsvc", *arguments],
            env=environment(self.data_dir, PYTHONPATH=str(ROOT), **self.settings),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        process = self.start(*arguments, cwd=cwd)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and return its object."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def index(self, folder: Path, *arguments: str) -> Any:
        """Index a folder and return the final object."""
        return self.json("index", str(folder), *arguments)

    def serve(self, *arguments: str) -> "Server":
        """Start a server on a free port and wait until it answers."""
        return Server(self.start("serve", "--port", "0", *arguments))


class Server:
    """A running server; a context manager that ends it."""

    def __init__(self, process: subprocess.Popen[str], stream: str = "stderr") -> None:
        self.process = process
        self.lines: list[str] = []
        source = getattr(process, stream)
        for line in source:
            self.lines.append(line)
            if found := re.search(r"ragsvc serves (http://\S+)", line):
                self.url = found[1]
                break
        else:
            process.wait(timeout=30)
            raise AssertionError(f"the server did not start: {''.join(self.lines)}{process.communicate()}")
        self._drains = [threading.Thread(target=self._drain, args=(pipe,), daemon=True) for pipe in _pipes(process)]
        for drain in self._drains:
            drain.start()

    def _drain(self, pipe: Any) -> None:
        for line in pipe:
            self.lines.append(line)

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request; a body that is not bytes is sent as JSON."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            sent = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, data, sent | dict(headers or {}))
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: object = None, status: int = 200) -> Any:
        """Send one request, check its status and return its JSON."""
        got, _, data = self.request(method, path, body)
        assert got == status, (got, data)
        return json.loads(data)

    def ask(self, question: str, **fields: object) -> Any:
        """POST /ask."""
        return self.json("POST", "/ask", {"question": question, **fields})

    def search(self, query: str, **fields: object) -> Any:
        """POST /search and return the hits."""
        return self.json("POST", "/search", {"query": query, **fields})["hits"]

    def stop(self, with_signal: int = signal.SIGINT) -> int:
        """End the server and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        code = self.process.wait(timeout=40)
        for drain in self._drains:
            drain.join(timeout=10)
        for pipe in _pipes(self.process):
            pipe.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _pipes(process: subprocess.Popen[str]) -> list[Any]:
    return [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
