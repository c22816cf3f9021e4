"""A real service over a data directory, behind a real server, with vectors that cost nothing to make."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import uvicorn

from indexes.types import EmbeddingSpec, text_hash
from ingest.protocols import Embedded, RequestLimits
from ragsvc import job_runner
from ragsvc.api.app import create_app
from ragsvc.api.handling import Limits
from ragsvc.compose import House
from ragsvc.settings import Settings
from tests.ragsvc.api.conftest import Reply

BOUNDARY = "----a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


class WordVectors:
    """An embedder whose vectors depend on the text alone; `hold` and `failure` let a test come between."""

    limits = RequestLimits()

    def __init__(self, spec: EmbeddingSpec) -> None:
        self.spec = spec
        self.texts: list[str] = []
        self.failure: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self.asked = threading.Event()

    async def embed_documents(self, texts):
        self.asked.set()
        while not self.free.is_set():  # noqa: ASYNC110 - the test that sets it lives in another thread
            await asyncio.sleep(0.005)
        if self.failure is not None:
            raise self.failure
        self.texts += texts
        return Embedded(np.stack([self._vector(text) for text in texts]), sum(len(text.split()) for text in texts))

    async def embed_query(self, text):
        return Embedded(np.stack([self._vector(text)]), 1)

    def _vector(self, text):
        drawn = np.random.default_rng(list(text_hash(text))).standard_normal(self.spec.dimensions)
        return (drawn / np.linalg.norm(drawn)).astype(np.float32)


class Room:
    """A data directory with one service over it, and a server in front."""

    def __init__(self, house: House, port: int) -> None:
        self.house, self.port = house, port

    @property
    def embedder(self) -> WordVectors:
        spec = self.house.library.open("default").spec.embedding
        return self.house.embedder_for(spec, "ingest")

    def send(self, method, path, body=None, headers=None) -> Reply:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, named, response.read())

    def get(self, path, status=200):
        reply = self.send("GET", path)
        assert reply.status == status, reply.body
        return reply.json

    def raw(self, path, data, query="&wait=true", **headers) -> Reply:
        """Upload a raw body."""
        return self.send("POST", f"/documents?path={path}{query}", data, headers)

    def form(self, files, fields=None, query="wait=true") -> Reply:
        """Upload a form; `files` are (file name, bytes)."""
        return self.send("POST", f"/documents?{query}", form(files, fields), {"Content-Type": FORM})

    def paths(self, collection="default"):
        return [document["path"] for document in self.get(f"/documents?collection={collection}")["documents"]]

    def job(self, job_id, *states):
        """Wait until a job is in one of the states, and return it."""
        until = time.monotonic() + 20
        while (job := self.get(f"/jobs/{job_id}"))["state"] not in states:
            assert time.monotonic() < until, job
            time.sleep(0.01)
        return job


def form(files, fields=None) -> bytes:
    parts = [(f'name="file"; filename="{name}"', data) for name, data in files]
    parts += [(f'name="{name}"', value.encode()) for name, value in (fields or {}).items()]
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return body + f"--{BOUNDARY}--\r\n".encode()


def settings(data_dir: Path, **options) -> Settings:
    return Settings(_env_file=None, data_dir=data_dir, provider="local", **options)


@contextlib.contextmanager
def open_room(data_dir: Path, limits: Limits | None = None, **options) -> Iterator[Room]:
    """Serve a data directory until the end of the block."""
    house = House(settings(data_dir, **options))
    house._embedder = lambda spec, purpose: WordVectors(spec)
    with served(house, limits) as room:
        yield room


@contextlib.contextmanager
def served(house: House, limits: Limits | None = None) -> Iterator[Room]:
    """Serve a composed service until the end of the block. It looks for other processes' work often."""
    with mock.patch.object(job_runner, "POLL_SECONDS", 0.1):
        yield from _served(house, limits)


def _served(house: House, limits: Limits | None) -> Iterator[Room]:
    app = create_app(house.service, limits=limits)
    app.on_shutdown.append(house.aclose)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    try:
        yield Room(house, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
    assert not thread.is_alive()
