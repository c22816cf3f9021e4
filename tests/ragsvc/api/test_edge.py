"""What holds for every response: its id, its headers, HEAD and OPTIONS, the Host, the log line."""

import asyncio

import pytest
from structlog.testing import capture_logs

from ragsvc.api.edge import Edge, with_head
from tests.ragsvc.api.conftest import serving
from tests.ragsvc.api.shelf import document_id

PATHS = ["/healthz", "/documents", "/nope", "/schema", f"/documents/{document_id(1)}/text", "/documents?limit=x"]


@pytest.mark.parametrize("path", PATHS)
def test_every_response_carries_an_id_and_the_headers(server, path):
    """Answers and problems alike have an id of their own and forbid sniffing, caching and embedding."""
    first, second = server.get(path), server.get(path)
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-content-type-options"] == "nosniff"
    assert first.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in first.headers["content-security-policy"]
    assert not [name for name in first.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("given", "taken"),
    [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("<b>", False), ("", False)],
)
def test_a_clients_sane_id_is_kept(server, given, taken):
    """A short plain id of the client's is used; anything else is replaced."""
    assert (server.get("/healthz", X_Request_Id=given).headers["x-request-id"] == given) is taken


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_the_body(server, path):
    """HEAD has the status and the length of GET, and no body."""
    get, head = server.get(path, X_Request_Id="same"), server.send("HEAD", path, headers={"X-Request-Id": "same"})
    assert (head.status, head.headers["content-length"], head.body) == (get.status, get.headers["content-length"], b"")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/documents", "GET, HEAD, OPTIONS, POST"),
        ("/documents/doc_abc123", "DELETE, GET, HEAD, OPTIONS"),
        ("/jobs/job_abc123", "DELETE, GET, HEAD, OPTIONS"),
        ("/collections", "GET, HEAD, OPTIONS, POST"),
        ("/ask", "OPTIONS, POST"),
    ],
)
def test_options_names_the_methods(server, path, allow):
    """OPTIONS lists what the path takes, HEAD included where GET is, and grants nothing to other origins."""
    reply = server.send("OPTIONS", path, headers={"Origin": "http://x", "Access-Control-Request-Method": "POST"})
    assert (reply.status, reply.headers["allow"]) == (204, allow)
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_with_head_adds_only_to_get():
    """HEAD belongs to GET."""
    assert with_head(b"GET, OPTIONS") == b"GET, HEAD, OPTIONS"
    assert with_head(b"POST") == b"POST"


def test_only_named_hosts_are_served():
    """Where hosts are named, a request under another name, two names or none is a 400, before any route."""
    with serving(hosts=("localhost", "127.0.0.1", "[::1]")) as server:
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:80"):
            assert server.get("/healthz", Host=host).status == 200
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.example:80", "localhost:x", ""):
            assert server.get("/healthz", Host=host).status == 400
        assert server.raw(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400")
        twice = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert server.raw(twice).startswith(b"HTTP/1.1 400")


SITES = [
    ({}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "nonsense"}, False),
    ({"Origin": "http://HOST"}, True),
    ({"Origin": "https://HOST"}, True),
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "http://127.0.0.1:1"}, False),
    ({"Origin": "http://HOST.evil.example"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": ""}, False),
    ({"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, False),
    ({"Origin": "http://proxied.example", "Sec-Fetch-Site": "same-origin"}, True),
]


@pytest.mark.parametrize(("headers", "taken"), SITES)
def test_what_another_sites_page_sends_changes_nothing(server, headers, taken):
    """A request that may change something is a 403 when a browser says that a page of another site sent it.

    Reading is not refused: without a grant the page can't see the answer.
    """
    host = f"127.0.0.1:{server.port}"
    sent = {name: value.replace("HOST", host) for name, value in headers.items()}
    for method, path in (
        ("POST", "/search"),
        ("POST", "/documents?path=x"),
        ("DELETE", f"/documents/{document_id(1)}"),
        ("DELETE", "/collections/default"),
        ("POST", "/nope"),
    ):
        if taken and path != "/search":
            continue
        reply = server.send(method, path, b'{"query": "start"}', {"Content-Type": "application/json", **sent})
        assert (reply.status, taken or reply.json["code"]) == ((200, True) if taken else (403, "cross_site"))
    assert server.send("GET", "/documents", headers=sent).status == 200


def test_one_log_line_a_request_without_what_was_asked():
    """The access line has method, route, status, time and bytes, and neither question, path values nor query."""
    with serving() as server, capture_logs() as lines:
        server.post("/ask", {"question": "my private question"}, Authorization="Bearer rsk_private")
        server.get(f"/documents/{document_id(1)}/text?start=1")
        server.get("/private-path?private")
    access = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["route"], line["status"]) for line in access] == [
        ("POST", "/ask", 200),
        ("GET", "/documents/{document_id}/text", 200),
        ("GET", "-", 404),
    ]
    assert "private" not in str(lines)
    assert all(line["bytes"] > 0 and line["ms"] >= 0 for line in access)


async def _exchange(app) -> list[dict]:
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": {}}
    await Edge(app)(scope, receive, send)
    return sent


def test_what_escapes_the_application_is_still_a_problem():
    """An error that even the framework lets through is answered as a 500 problem."""

    async def broken(scope, receive, send):
        raise KeyError("inside")

    start, body = asyncio.run(_exchange(broken))
    assert start["status"] == 500
    assert b'"code":"internal"' in body["body"]
    assert b"inside" not in body["body"]


def test_an_error_within_a_response_leaves_it_cut():
    """After the status is sent an error can only be logged: the body is not ended, so the client sees the cut."""

    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise KeyError("inside")

    with capture_logs() as lines:
        sent = asyncio.run(_exchange(broken))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert [line["log_level"] for line in lines] == ["error", "info"]
