"""Whatever a client sends, the answer is a clear 4xx problem, and the service behind is not asked."""

import json
import time

import pytest

from ragsvc.api.handling import Limits
from tests.ragsvc.api.conftest import serving
from tests.ragsvc.api.shelf import document_id

DEEP = 5_000
ID = document_id(1)


def question(text: str) -> bytes:
    return b'{"question": %s}' % text.encode()


def field(name: str, value: str) -> bytes:
    return b'{"question": "a?", "%s": %s}' % (name.encode(), value.encode())


def assert_problem(reply, status: int, code: str | None = None, said: str = "") -> None:
    assert reply.status == status, reply.body[:300]
    problem = reply.json
    assert reply.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
    assert problem["status"] == status
    assert problem["request_id"] == reply.headers["x-request-id"]
    assert code is None or problem["code"] == code
    assert said.lower() in problem["detail"].lower(), problem["detail"]
    assert "Traceback" not in problem["detail"]


BODIES = {
    "empty": (b"", "empty"),
    "null": (b"null", "object"),
    "array": (b"[]", "object"),
    "text": (b'"x"', "object"),
    "number": (b"1", "object"),
    "no-question": (b"{}", "question"),
    "malformed": (b'{"question": "a?",}', "malformed"),
    "truncated": (b'{"question": "a', "truncated"),
    "two-values": (b'{"question": "a?"} {}', "malformed"),
    "bom": (b'\xef\xbb\xbf{"question": "a?"}', "malformed"),
    "utf-16": ('{"question": "a?"}'.encode("utf-16"), ""),
    "invalid-utf-8": (b'{"question": "\xff\xfe"}', "UTF-8"),
    "invalid-utf-8-key": (b'{"\xff": 1}', "UTF-8"),
    "encoded-surrogate": (b'{"question": "\xed\xa0\x80"}', "UTF-8"),
    "raw-nul": (b'{"question": "a\0b"}', "malformed"),
    "nested-arrays": (field("filter", '{"and":' * DEEP + "[]" + "}" * DEEP), "deep"),
    "nested-in-history": (field("history", "[" * DEEP + "]" * DEEP), "history"),
    "unclosed-arrays": (b"[" * 100_000, "object"),
    "unclosed-in-filter": (field("filter", '{"a":' + "[" * 100_000), "deep"),
    "flat-arrays": (field("filter", "[" + "[]," * 100_000 + "[]]"), "filter"),
    "duplicate-key": (b'{"question": "a?", "question": "b?"}', "'question' stands twice"),
    "duplicate-escaped": (b'{"k": 1, "question": "a?", "\\u006b": 2}', "'k' stands twice"),
    "duplicate-inside": (field("filter", '{"key": "path", "op": "eq", "value": "a", "op": "ne"}'), "'op' stands twice"),
    "unknown-field": (field("temperature", "1"), "temperature"),
    "unknown-in-history": (field("history", '[{"role": "user", "content": "a", "name": "b"}]'), "name"),
    "lone-high-surrogate": (question(r'"\ud800"'), ""),
    "lone-low-surrogate": (question(r'"a\udc00b"'), "surrogate"),
    "nul-escape": (question(r'"a\u0000b"'), "NUL"),
    "empty-question": (question('""'), "question"),
    "blank-question": (question('"  \\n\\t \u3000"'), "question"),
    "control-question": (question(r'"\u0001\u0002\u200b"'), "question"),
    "long-question": (question(json.dumps("x" * 4001)), "4000"),
    "question-number": (question("5"), "question"),
    "question-null": (question("null"), "question"),
    "question-array": (question('["a?"]'), "question"),
    "k-0": (field("k", "0"), "k:"),
    "k-negative": (field("k", "-1"), "k:"),
    "k-51": (field("k", "51"), "50"),
    "k-2^31": (field("k", "2147483648"), "k:"),
    "k-huge": (field("k", "9" * 5000), "k:"),
    "k-text": (field("k", '"5"'), "k:"),
    "k-fraction": (field("k", "1.5"), "k:"),
    "k-float": (field("k", "5.0"), "k:"),
    "k-true": (field("k", "true"), "k:"),
    "k-null": (field("k", "null"), "k:"),
    "k-nan": (field("k", "NaN"), "malformed"),
    "k-infinity": (field("k", "-Infinity"), "malformed"),
    "k-1e999": (field("k", "1e999"), "k:"),
    "stream-text": (field("stream", '"yes"'), "stream"),
    "collection-number": (field("collection", "1"), "collection"),
    "collection-empty": (field("collection", '""'), "collection"),
    "history-21": (field("history", json.dumps([{"role": "user", "content": "a"}] * 21)), "history"),
    "history-1000": (field("history", json.dumps([{"role": "user", "content": "a"}] * 1000)), "history"),
    "history-system": (field("history", '[{"role": "system", "content": "obey"}]'), "role"),
    "history-tool": (field("history", '[{"role": "tool", "content": "x"}]'), "role"),
    "history-nul": (field("history", r'[{"role": "user", "content": "a\u0000"}]'), "history"),
    "filter-text": (field("filter", '"path"'), "filter"),
    "filter-unknown-key": (field("filter", '{"key": "tenant", "op": "eq", "value": 1}'), "filter.key"),
    "filter-1e999": (field("filter", '{"key": "size", "op": "eq", "value": 1e999}'), "range"),
    "filter-digits": (field("filter", '{"key": "size", "op": "eq", "value": %s}' % ("9" * 5000)), "range"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_wrong_body_is_400_and_says_what_is_wrong(server, name):
    """Every malformed, mistyped or out-of-range body is a 400 whose detail names the place or the reason."""
    body, said = BODIES[name]
    asked = len(server.shelf.answering.questions)
    assert_problem(server.post("/ask", body), 400, said=said)
    assert len(server.shelf.answering.questions) == asked


@pytest.mark.parametrize(
    "body",
    [
        b'{"query": " "}',
        b'{"query": "a", "mode": "fuzzy"}',
        b'{"query": "a", "k": true}',
        b'{"question": "a"}',
        b'{"query": "a", "history": []}',
        b'{"query": "a", "filter": {"key": "path", "op": "like", "value": "%"}}',
    ],
)
def test_search_reads_as_strictly(server, body):
    """The search route refuses what the ask route refuses, and fields that only the other has."""
    assert_problem(server.post("/search", body), 400)


@pytest.mark.parametrize(
    "text", ["x" * 4000, "😀" * 4000, "?", "😀", "中", "' OR 1=1 --", '" * NEAR ( ^ : -', "<|endoftext|>"]
)
def test_odd_questions_are_text(server, text):
    """Up to 4,000 code points of whatever kind reach the service unchanged."""
    assert server.post("/ask", {"question": text}).status == 200
    assert server.shelf.answering.questions[-1].text == text


CONTENT_TYPES = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/msgpack",
    "application/json; charset=utf-16",
    "application/json; charset=latin-1",
    "application/json, text/plain",
    "application/jsonx",
    "*/*",
    "",
]


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_json_under_another_content_type_is_415(server, kind):
    """JSON is taken only when it is called so: a browser sends the other types to any host without asking."""
    assert_problem(
        server.send("POST", "/ask", b'{"question": "a?"}', {"Content-Type": kind}), 415, "unsupported_media_type"
    )


def test_no_content_type_is_415(server):
    """A body without any content type is not guessed at."""
    assert_problem(server.send("POST", "/ask", b'{"question": "a?"}'), 415, said="none")


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON;charset=UTF-8", 'application/json; charset="utf-8"']
)
def test_json_in_utf_8_is_taken(server, kind):
    """The ways to say JSON in UTF-8 are all taken."""
    assert server.send("POST", "/ask", b'{"question": "a?"}', {"Content-Type": kind}).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_a_compressed_body_is_415(server, encoding):
    """A body that would have to be unpacked is refused before it is read."""
    assert_problem(server.post("/ask", b"\x1f\x8b" * 9, Content_Encoding=encoding), 415)


def test_a_body_over_the_limit_is_413(server):
    """A body over 1 MiB is refused by its declared length, and when it comes in chunks."""
    assert_problem(server.post("/ask", b'{"question": "%s"}' % (b"x" * (1 << 20))), 413, "too_large")
    head = b"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    reply = server.raw(head + chunk * 17 + b"0\r\n\r\n", wait=1)
    assert reply.startswith(b"HTTP/1.1 413")
    assert b'"code":"too_large"' in reply


@pytest.mark.parametrize("length", [b"-1", b"abc", b"1, 2", b"99999999999999999999999"])
def test_a_senseless_content_length_is_400(server, length):
    """The server itself refuses a length that is no length."""
    reply = server.raw(b"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n{}", wait=1)
    assert reply.split(b" ", 2)[1] in {b"400", b"413", b"415"}


def test_a_body_that_does_not_come_is_408():
    """A client that sends half a body is cut off at the deadline of the body, with a problem."""
    with serving(limits=Limits(body_seconds=0.2)) as slow:
        head = b"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        reply = slow.raw(head + b'{"question"')
        assert reply.startswith(b"HTTP/1.1 408")
        assert b'"code":"body_timeout"' in reply


def test_a_client_that_leaves_within_its_body_is_nobodys_error(capfd):
    """Half a body and a closed socket are no failure of the service: nothing is logged as one."""
    with serving() as server:
        head = b"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        with server.socket() as sock:
            sock.sendall(head + b'{"question"')
        for _ in range(200):
            if "status=499" in (said := capfd.readouterr().out):
                break
            time.sleep(0.01)
    assert "status=499" in said
    assert "Traceback" not in said


QUERIES = [
    ("limit=0", "limit"),
    ("limit=1001", "limit"),
    ("limit=-1", "limit"),
    ("limit=5.0", "limit"),
    ("limit=1e2", "limit"),
    ("limit=", "limit"),
    ("limit=%D9%A5", "limit"),
    ("limit=" + "9" * 5000, "limit"),
    ("limit=1&limit=2", "twice"),
    ("k=5", "`k`"),
    ("after=forged", "cursor"),
    ("after=" + "x" * 1001, "after"),
    ("collection=", "collection"),
    ("source=%00", "NUL"),
    ("source=%FF", "UTF-8"),
    ("&".join(f"a{n}=1" for n in range(10_000))[:50_000], "parameters"),
]


@pytest.mark.parametrize(("query", "said"), QUERIES, ids=[query[:20] for query, _ in QUERIES])
def test_a_wrong_query_string_is_400(server, query, said):
    """Unknown, repeated, mistyped and out-of-range parameters are refused by name."""
    assert_problem(server.get(f"/documents?{query}"), 400, said=said)


@pytest.mark.parametrize(
    "query", ["start=-1", "end=x", "version=0", "start=9&end=3", "start=0&end=99999", "start=" + "9" * 30]
)
def test_a_range_outside_the_text_is_400(server, query):
    """The text route refuses a range that the text does not have."""
    assert_problem(server.get(f"/documents/{ID}/text?{query}"), 400)


def test_parameters_on_a_route_without_any_are_refused(server):
    """`POST /ask?k=5` would be taken for a k of 5 that nobody reads."""
    assert_problem(server.post("/ask?k=5", {"question": "a?"}), 400, said="`k`")


IDS = [
    "0",
    "-1",
    "9" * 100_0,
    ID.upper(),
    f"{{{ID}}}",
    f"%20{ID}",
    f"{ID}%0A",
    "doc_%00",
    "..",
    "%2e%2e",
    "doc_x;y",
    "中",
]


@pytest.mark.parametrize("given", IDS, ids=range(len(IDS)))
@pytest.mark.parametrize("below", ["", "/text"])
def test_an_id_of_no_document_is_404(server, given, below):
    """Ids of whatever form that no document has are all the same 404."""
    path = "".join(char if char.isascii() else "%E4%B8%AD" for char in f"/documents/{given}{below}")
    assert_problem(server.get(path), 404, "not_found")


def test_an_unknown_id_is_answered_like_a_malformed_one(server):
    """The body tells no difference between an id that was never given and one that can't be."""
    malformed, unknown = server.get("/documents/x").json, server.get("/documents/doc_abcdef9999999999999999").json
    assert {**malformed, "request_id": ""} == {**unknown, "request_id": ""}


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/ask/x", "/schema/x", "/documents/a/b", "/%2e%2e/ask", "/" + "x" * 8000]
)
def test_an_unknown_path_is_404(server, path):
    """The framework's own 404 is a problem like the others."""
    assert_problem(server.get(path), 404, "not_found")


def test_unknown_collections_are_404(server):
    """An unknown collection is a 404 that says so, on every route that takes one."""
    for reply in (
        server.post("/ask", {"question": "a?", "collection": "nope"}),
        server.post("/search", {"query": "a", "collection": "nope\0"}),
        server.get("/documents?collection=nope"),
    ):
        assert_problem(reply, 404, "unknown_collection")


def test_a_response_format_is_refused_as_not_supported(server):
    """A field of the contract that is not served yet is a 422, not an ignored wish."""
    assert_problem(server.post("/ask", {"question": "a?", "response_format": {"type": "json"}}), 422, "not_supported")
    assert server.post("/ask", {"question": "a?", "response_format": None}).status == 200


@pytest.mark.parametrize(
    ("method", "allow"), [("GET", "OPTIONS, POST"), ("TRACE", "OPTIONS, POST"), ("HEAD", "OPTIONS, POST")]
)
def test_a_wrong_method_is_405_with_allow(server, method, allow):
    """The answer to a method that a path does not take names those it takes."""
    reply = server.send(method, "/ask")
    assert reply.status == 405
    assert reply.headers["allow"] == allow


@pytest.mark.parametrize(
    "data", [b"FROB /ask HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"GET /ask HTTP/9\r\n\r\n"]
)
def test_what_is_not_http_is_refused(server, data):
    """Bytes that are no request are answered with 4xx or a closed connection."""
    reply = server.raw(data, wait=1)
    assert not reply or reply.startswith(b"HTTP/1.1 4")


def test_a_websocket_is_refused(server):
    """There is nothing to upgrade to on any path."""
    upgrade = (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    reply = server.raw(b"GET /ask HTTP/1.1\r\nHost: x\r\n" + upgrade, wait=1)
    assert reply.startswith(b"HTTP/1.1 4")


def test_pipelined_requests_are_answered_in_order(server):
    """Two requests sent at once on a connection get their own answers."""
    one = b"GET /documents?limit=1 HTTP/1.1\r\nHost: x\r\n\r\n"
    reply = server.raw(one + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    first, second = reply.split(b"HTTP/1.1 200")[1:]
    assert b'"documents"' in first
    assert b'"alive"' in second
