"""A real server on a real port around the in-memory service."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
import uvicorn

from ragsvc.api.app import create_app
from ragsvc.api.handling import Limits
from tests.ragsvc.api.shelf import Shelf


@dataclass(frozen=True)
class Reply:
    """A response as it came over the socket; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Server:
    """A running server and the service behind it."""

    port: int
    shelf: Shelf
    failures: list[str] = field(default_factory=list)

    def send(self, method, path, body=None, headers=None) -> Reply:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, named, response.read())

    def get(self, path, **headers) -> Reply:
        return self.send("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path, value, **headers) -> Reply:
        """POST a JSON value, or bytes as they are."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        named = {name.replace("_", "-"): given for name, given in headers.items()}
        return self.send("POST", path, body, {"Content-Type": "application/json", **named})

    def raw(self, data: bytes, *, wait: float = 5.0) -> bytes:
        """Send bytes and return all that comes until the server closes or nothing came for `wait` seconds."""
        with self.socket() as sock:
            sock.settimeout(wait)
            sock.sendall(data)
            return b"".join(self._received(sock))

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    @staticmethod
    def _received(sock) -> Iterator[bytes]:
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := sock.recv(65536):
                yield data


@contextlib.contextmanager
def serving(shelf: Shelf | None = None, limits: Limits | None = None, **options) -> Iterator[Server]:
    """Serve a shelf until the end of the block."""
    shelf = shelf or Shelf()
    app = create_app(shelf.service(), limits=limits, **options)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    try:
        yield Server(listener.getsockname()[1], shelf)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server that tests share: none may change its shelf."""
    with serving() as running:
        yield running
