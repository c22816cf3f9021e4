"""HTTP/1.1 for the SDK: the way its requests take to a server that is reached directly, without a proxy.

Its own way (httpcore, h11, anyio) is pure Python, writes a request in two pieces and takes half of the CPU of a call.
Here asyncio has the sockets and TLS, and httptools, Node's parser, reads the replies. Certificates are checked as the
SDK checks them; how many requests run at once is the governor's to say.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

import httptools
import httpx2

IDLE_SECONDS: Final = 5.0
"""An idle connection is used again for so long, as by httpx: servers close those that idle for longer."""
MAX_HEAD: Final = 64 << 10
"""Bytes of a reply before its body."""
MAX_AHEAD: Final = 1 << 20
"""Bytes of a body that wait to be read; then the server is made to wait."""

Origin = tuple[str, str, int]


class Connections(httpx2.AsyncBaseTransport):
    """Keeps connections, and sends requests over them. Belongs to one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return its reply once the headers are there. Raises httpx2.TransportError."""
        limits = request.extensions.get("timeout", {})
        sent = _head(request) + await request.aread()
        connection = await self._connection(request.url, limits.get("connect"))
        try:
            await connection.send(sent, limits.get("read"))
        except BaseException:
            connection.abort()
            raise
        reply = _Reply(connection, self)
        if connection.complete:  # the usual case: nothing to wait for any more
            body = b"".join([piece async for piece in reply])
            await reply.aclose()
            return httpx2.Response(connection.status, headers=connection.headers, stream=httpx2.ByteStream(body))
        return httpx2.Response(connection.status, headers=connection.headers, stream=reply)

    async def aclose(self) -> None:
        """Close the idle connections; a reply that is still read closes its own."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # in which the sockets are closed

    async def _connection(self, url: httpx2.URL, seconds: float | None) -> "_Connection":
        host, secure = url.raw_host.decode("ascii"), url.scheme == "https"
        origin = (url.scheme, host, url.port or (443 if secure else 80))
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        idle = self._idle.get(origin, [])
        while idle:
            connection = idle.pop()
            if connection.usable and connection.since > oldest:
                return connection
            connection.abort()
        return await self._connect(origin, secure, seconds)

    async def _connect(self, origin: Origin, secure: bool, seconds: float | None) -> "_Connection":
        _, host, port = origin
        if secure and self._tls is None:
            self._tls = httpx2.create_ssl_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        loop = asyncio.get_running_loop()
        async with _within(seconds, httpx2.ConnectTimeout("no connection in time")):
            try:
                _, made = await loop.create_connection(
                    lambda: _Connection(origin), host, port, ssl=self._tls if secure else None
                )
            except TimeoutError:
                raise
            except OSError as error:
                raise httpx2.ConnectError(str(error)) from error
        return made

    def take_back(self, connection: "_Connection") -> None:
        """Keep a connection whose reply has been read to its end, if its server does."""
        if connection.usable:
            connection.since = asyncio.get_running_loop().time()
            self._idle.setdefault(connection.origin, []).append(connection)
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection; at most one request at a time."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.since = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = True
        self.pieces: list[bytes] = []
        self._keep = True
        self._lost = False
        self._error: httpx2.TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self.complete and self._keep and not self._lost and self._error is None

    # What the caller does

    async def send(self, data: bytes, seconds: float | None) -> None:
        """Send a request and wait for the headers of its reply."""
        self.status, self.headers, self.pieces, self.complete = 0, [], [], False
        self._parser = httptools.HttpResponseParser(self)
        self._read, self._head_done, self._framed, self._seconds = 0, False, False, seconds
        self._transport.write(data)
        while not (self._head_done or self.complete):
            await self._wait()

    async def more(self) -> bool:
        """Wait until there are pieces of the body to take; say whether there are."""
        while not self.pieces and not self.complete:
            self._transport.resume_reading()
            await self._wait()
        return bool(self.pieces)

    def abort(self) -> None:
        """Close without another word."""
        self._transport.abort()

    async def _wait(self) -> None:
        self._raise()
        self._waiter = asyncio.get_running_loop().create_future()
        async with _within(self._seconds, httpx2.ReadTimeout("no answer in time")):
            await self._waiter
        self._raise()

    def _raise(self) -> None:
        if self._error is not None and not self.complete:  # what comes behind a whole reply is not its failure
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.complete:  # nobody has asked
            self._keep = False
            self.abort()
            return
        self._read += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the reply is not HTTP: {error}")
        if not self._head_done and self._read > MAX_HEAD:
            self._fail("the reply's headers do not end")
        if sum(map(len, self.pieces)) > MAX_AHEAD:
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if not self.complete:
            if self._head_done and not self._framed and error is None:
                self.complete = True  # a body that ends with its connection
                self._wake()
            else:
                self._fail("the connection was closed before the reply was complete")

    def _fail(self, message: str) -> None:
        self._error = self._error or httpx2.RemoteProtocolError(message)
        self._transport.abort()
        self._wake()

    # What the parser tells

    def on_message_begin(self) -> None:
        if self.complete:
            raise _Unasked  # the parser stops, and data_received gives the connection up

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._head_done = True

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        if self.status < 200:  # "100 Continue" and its like come before the reply
            self.headers, self._framed = [], False
            return
        self._keep = self._parser.should_keep_alive()
        self.complete = True


class _Unasked(Exception):
    """Something comes behind the reply."""


class _Reply(httpx2.AsyncByteStream):
    """The body of a reply, as it comes. Closed before its end, it costs its connection."""

    def __init__(self, connection: _Connection, connections: Connections) -> None:
        self._connection, self._connections = connection, connections
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while await self._connection.more():
            pieces, self._connection.pieces = self._connection.pieces, []
            for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._connections.take_back(self._connection)


def _head(request: httpx2.Request) -> bytes:
    """Return the request line and headers. Raises LocalProtocolError for a value that would end its line."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % pair for pair in request.headers.raw]
    if any(b"\n" in line or b"\r" in line for line in lines):
        raise httpx2.LocalProtocolError("a header has the end of a line in it")
    return b"\r\n".join([*lines, b"", b""])


@asynccontextmanager
async def _within(seconds: float | None, late: httpx2.TransportError) -> AsyncIterator[None]:
    """Raise `late` when what is inside takes longer. A deadline of the caller's own passes through as it is."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise late from None
