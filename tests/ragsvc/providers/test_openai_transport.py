"""The SDK's way to a server: it gives what httpx gives, and a connection in doubt is not used again."""

import asyncio
import contextlib
import datetime as dt
import gzip
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ragsvc.providers import openai, openai_transport
from ragsvc.providers.openai_transport import MAX_HEAD, Connections

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PACKED = gzip.compress(b"packed " * 100)
REPLIES: dict[str, bytes] = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 4\r\n\r\nbody",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\n\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall that comes",
    "old": b"HTTP/1.0 200 OK\r\n\r\nall that comes",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "refused": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}",
    "continue": b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(PACKED), PACKED),
    "large": b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000,
}
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "no HTTP": b"<html>hello</html>\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.7\r\n",
}
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Served:
    """A server that is told how to answer; it counts its connections."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.connections, self.url = answer, 0, ""
        self.ended = asyncio.Event()
        self.tasks: list[asyncio.Task[None] | None] = []

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self.answer(reader, writer)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.close()
            self.ended.set()
            await writer.wait_closed()


@asynccontextmanager
async def served(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Served]:
    found = Served(answer)
    server = await asyncio.start_server(found.run, "127.0.0.1", 0, ssl=tls)
    found.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x?y=%20z"
    try:
        yield found
    finally:
        server.close()
        for task in filter(None, found.tasks):
            task.cancel()
        await asyncio.gather(*filter(None, found.tasks), return_exceptions=True)


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


def once(reply: bytes, piece: int = 0) -> Answer:
    """Answer one request with these bytes, `piece` of them at a time, and close."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        for at in range(0, len(reply), piece or len(reply) or 1):
            writer.write(reply[at : at + (piece or len(reply))])
            await writer.drain()
            await asyncio.sleep(0)

    return answer


async def again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer request after request."""
    while True:
        await request(reader)
        writer.write(OK)


@asynccontextmanager
async def client(**options: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=Connections(), trust_env=False, **options) as made:  # type: ignore[arg-type]
        yield made


@pytest.mark.parametrize("piece", [0, 1])
@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_what_httpx_makes_of_it(name: str, piece: int) -> None:
    """Status, headers and body are the same, whole or byte by byte, and so is the request on the wire."""
    if piece and len(REPLIES[name]) > 10_000:
        piece = 100_000
    sent: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await request(reader))
        replying = asyncio.StreamReader()
        replying.feed_data(b"\r\n\r\n")
        await once(REPLIES[name], piece)(replying, writer)

    async def run() -> list[tuple[int, list[tuple[bytes, bytes]], bytes]]:
        async with served(answer) as server, client() as ours, httpx2.AsyncClient(trust_env=False) as theirs:
            replies = [await each.post(server.url, json={"a": "ü"}) for each in (ours, theirs)]
        return [(reply.status_code, reply.headers.raw, reply.content) for reply in replies]

    ours, theirs = asyncio.run(run())
    assert ours == theirs
    assert sent[0] == sent[1]


@pytest.mark.parametrize("name", BROKEN)
def test_a_reply_that_is_not_whole_is_an_error(name: str) -> None:
    """Closed early, cut off, or no HTTP at all: an error of httpx's, never half a reply."""

    async def run() -> None:
        async with served(once(BROKEN[name])) as server, client() as ours:
            with pytest.raises(httpx2.TransportError):
                await ours.post(server.url, content=b"x")

    asyncio.run(run())


def test_headers_without_an_end_are_not_collected() -> None:
    """A server that never ends its headers is given up."""
    endless = b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * MAX_HEAD

    async def run() -> None:
        async with served(once(endless)) as server, client() as ours:
            with pytest.raises(httpx2.RemoteProtocolError):
                await ours.get(server.url)

    asyncio.run(run())


def test_a_connection_is_used_again() -> None:
    """Ten requests, one connection; at the same time as many as there are requests."""

    async def run() -> tuple[int, int]:
        async with served(again) as server, client() as ours:
            for _ in range(10):
                assert (await ours.post(server.url, content=b"x")).content == b"ok"
            one_by_one = server.connections
            await asyncio.gather(*(ours.post(server.url, content=b"x") for _ in range(5)))
            return one_by_one, server.connections

    assert asyncio.run(run()) == (1, 5)


@pytest.mark.parametrize(
    "reply",
    [
        OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        OK + b"more",
        OK + OK,
        OK + b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["told to close", "junk behind", "a reply nobody asked for", "half of another"],
)
def test_a_connection_in_doubt_is_not_used_again(reply: bytes) -> None:
    """The reply counts; the next request takes another connection, and gets its own answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(reply)
        await reader.read()

    async def run() -> int:
        async with served(answer) as server, client() as ours:
            for _ in range(2):
                assert (await ours.post(server.url, content=b"x")).content == b"ok"
            return server.connections

    assert asyncio.run(run()) == 2


@pytest.mark.parametrize("late", [False, True])
def test_what_comes_unasked_ends_an_idle_connection(late: bool) -> None:
    """A server that closes, or talks, between two requests costs a new connection, not a request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await writer.drain()
        await go.wait()
        if late:
            writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            await reader.read()

    async def run() -> int:
        async with served(answer) as server, client() as ours:
            await ours.post(server.url, content=b"x")
            go.set()
            await server.ended.wait()
            await asyncio.sleep(0.05)  # in which the end of the connection is read
            assert (await ours.post(server.url, content=b"x")).status_code == 200
            return server.connections

    go = asyncio.Event()
    assert asyncio.run(run()) == 2


def test_an_old_idle_connection_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the time that servers keep one, it is closed and another is made."""
    monkeypatch.setattr(openai_transport, "IDLE_SECONDS", -1.0)

    async def run() -> int:
        async with served(again) as server, client() as ours:
            for _ in range(2):
                await ours.post(server.url, content=b"x")
            return server.connections

    assert asyncio.run(run()) == 2


def test_who_stops_waiting_leaves_no_answer_to_the_next() -> None:
    """A cancelled or timed-out request closes its connection: the next request never gets its answer."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = (await request(reader)).rpartition(b"\r\n\r\n")[2]
        if body == b"slow":
            try:
                await reader.read()
            finally:
                left.append(body)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async def run() -> None:
        async with served(slow) as server, client() as ours:
            with pytest.raises(httpx2.ReadTimeout):
                await ours.post(server.url, content=b"slow", timeout=0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await ours.post(server.url, content=b"slow")
            assert (await ours.post(server.url, content=b"next")).content == b"next"
            assert server.connections == 3
            async with asyncio.timeout(5):
                while len(left) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)

    left: list[bytes] = []
    asyncio.run(run())


def test_a_stream_is_read_as_it_comes() -> None:
    """The first piece is there before the last is sent; who closes early gives the connection up, else it is kept."""
    go = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await go.wait()
            writer.write(b"3\r\ndef\r\n0\r\n\r\n")

    async def run() -> None:
        async with served(answer) as server, client() as ours:
            for _ in range(2):
                go.clear()
                async with ours.stream("POST", server.url, content=b"x") as reply:
                    pieces = reply.aiter_raw()
                    assert await anext(pieces) == b"abc"
                    go.set()
                    assert b"".join([piece async for piece in pieces]) == b"def"
            assert server.connections == 1
            go.clear()
            async with ours.stream("POST", server.url, content=b"x"):
                pass
            go.set()
            await ours.post(server.url, content=b"x")
            assert server.connections == 2

    asyncio.run(run())


def test_a_server_that_is_faster_than_its_reader_waits() -> None:
    """Of an endless body only so much is held."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()

    async def run() -> int:
        async with served(answer) as server, client() as ours, ours.stream("GET", server.url) as reply:
            pieces = reply.aiter_raw()
            await anext(pieces)
            await asyncio.sleep(0.2)
            connection = reply.stream._stream._connection  # type: ignore[attr-defined]
            return sum(map(len, connection.pieces))

    assert asyncio.run(run()) < 3 * openai_transport.MAX_AHEAD


def test_a_header_cannot_begin_another() -> None:
    """A value with the end of a line in it is refused before anything is sent."""

    async def run() -> None:
        async with served(again) as server, client() as ours:
            with pytest.raises(httpx2.LocalProtocolError):
                await ours.get(server.url, headers={"X-A": "1\r\nX-B: 2"})
            assert server.connections == 0

    asyncio.run(run())


def test_nobody_there_is_a_connect_error() -> None:
    """A closed port is told apart from a server that fails."""

    async def run() -> None:
        async with served(again) as server:
            url = server.url
        async with client() as ours:
            with pytest.raises(httpx2.ConnectError):
                await ours.get(url)

    asyncio.run(run())


def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown issuer is refused; one that the machine trusts is spoken to."""
    files = _certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*files)

    async def run() -> None:
        async with served(again, tls) as server, client() as ours:
            with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate"):
                await ours.post(server.url, content=b"x")
        monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
        async with served(again, tls) as server, client() as ours:
            for _ in range(2):
                assert (await ours.post(server.url, content=b"x")).content == b"ok"
            assert server.connections == 1

    asyncio.run(run())


def test_a_proxy_of_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy is set, the SDK's own client finds the way; else ours."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert openai._http_client() is not None
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert openai._http_client() is None


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own issuer, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return paths
