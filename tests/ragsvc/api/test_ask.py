"""POST /ask: the contract's answer, whole and as events; deadlines; and clients that leave."""

import asyncio
import json
import time

import pytest

from ragsvc.api.handling import Limits
from ragsvc.errors import EmbeddingUnavailable, RateLimited
from ragsvc.types import ModerationSummary, Turn
from tests.ragsvc.api.conftest import serving
from tests.ragsvc.api.shelf import TEXTS, Shelf, blocked_answer, cited_answer

QUESTION = {"question": "What do I set?"}


def events_of(body: bytes) -> list[tuple[str, object]]:
    """Parse events as a client would, comments left out."""
    blocks = [block for block in body.decode().split("\n\n") if block and not block.startswith(":")]
    parsed = []
    for block in blocks:
        name, data = block.split("\n")
        parsed.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return parsed


@pytest.fixture
def scripted():
    """A server of its own whose answers the test scripts."""
    with serving(limits=Limits(answer_seconds=5, heartbeat_seconds=0.1)) as running:
        yield running


def test_an_answer_has_the_contracts_fields(server):
    """The JSON answer has exactly the contract's fields, also inside, in its types."""
    reply = server.post("/ask", QUESTION)
    answer = reply.json
    assert reply.status == 200
    assert list(answer) == [
        "id", "status", "answer", "citations", "blocked", "moderation", "model", "provider", "collection", "generation",
        "usage", "timings_ms", "search_query",
    ]  # fmt: skip
    assert list(answer["citations"][0]) == [
        "marker", "support", "document_id", "version", "path", "title", "page", "start", "end", "quote", "score",
            "heading_path", "position",
    ]  # fmt: skip
    assert answer["moderation"] == {"model": "blocklist", "mode": "window", "checks": 3, "covered": 46}
    assert answer["usage"] == {"embedding_tokens": 9, "prompt_tokens": 1204, "completion_tokens": 58, "cost_usd": None}
    assert answer["timings_ms"] == {"moderate": 1, "retrieve": 2, "chat": 3, "total": 6}


def test_a_citation_leads_to_its_quote(server):
    """The text route gives the quote for a citation's document, version, start and end."""
    [citation] = server.post("/ask", QUESTION).json["citations"]
    where = f"start={citation['start']}&end={citation['end']}&version={citation['version']}"
    assert server.get(f"/documents/{citation['document_id']}/text?{where}").json["text"] == citation["quote"]


def test_a_request_reaches_the_service_whole(server):
    """Every field of the request arrives in the question, the filter parsed."""
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    where = {"and": [{"key": "path", "op": "prefix", "value": "guide/"}]}
    assert server.post("/ask", {**QUESTION, "k": 50, "history": history, "filter": where}).status == 200
    asked = server.shelf.answering.questions[-1]
    assert (asked.text, asked.k, asked.collection) == ("What do I set?", 50, "default")
    assert asked.history == (Turn("user", "a"), Turn("assistant", "b"))
    assert asked.filter.terms[0].value == "guide/"


def test_a_blocked_question_is_200(scripted):
    """A flagged question is an answer with status blocked and no text, and as events it ends with `blocked`."""
    scripted.shelf.answering.script = lambda question: asyncio.sleep(0, blocked_answer(question))
    answer = scripted.post("/ask", QUESTION).json
    assert (answer["status"], answer["answer"]) == ("blocked", None)
    assert answer["blocked"] == {"side": "question", "categories": ["violence"]}
    events = events_of(scripted.post("/ask", {**QUESTION, "stream": True}).body)
    assert [name for name, _ in events] == ["meta", "blocked"]
    assert events[-1][1] == {"side": "question", "categories": ["violence"], "withdraw_from": 0}


def test_events_come_in_the_contracts_order(server):
    """A streamed answer is meta, text, citations, done, with the same values as the whole one."""
    whole = server.post("/ask", QUESTION).json
    reply = server.post("/ask", {**QUESTION, "stream": True})
    assert reply.headers["content-type"] == "text/event-stream"
    events = events_of(reply.body)
    assert [name for name, _ in events] == ["meta", "text", "citations", "done"]
    meta, text, citations, done = (data for _, data in events)
    assert meta == {name: whole[name] for name in ("id", "collection", "generation", "model", "search_query")}
    assert text == {"delta": whole["answer"], "end": len(whole["answer"])}
    assert citations == whole["citations"]
    assert done == {name: whole[name] for name in ("status", "usage", "moderation", "timings_ms")}


def test_silence_is_streamed_without_citations(scripted):
    """An answer that the documents do not hold has a text, no citations, and its status in `done`."""
    silent = {"status": "not_in_documents", "answer": "It is not in the documents.", "citations": ()}
    scripted.shelf.answering.script = lambda question: asyncio.sleep(0, cited_answer(question, **silent))
    _, text, citations, done = events_of(scripted.post("/ask", {**QUESTION, "stream": True}).body)
    assert (text[1]["delta"], citations[1], done[1]["status"]) == (silent["answer"], [], "not_in_documents")


@pytest.mark.parametrize(
    ("accept", "streamed"),
    [
        ("text/event-stream", True),
        ("text/event-stream, */*;q=0.1", True),
        ("application/json, text/event-stream", False),
        ("*/*", False),
        ("text/html", False),
        ("text/event-stream;q=0", False),
        (";;q=x,,", False),
    ],
)
def test_the_accept_header_asks_for_events(server, accept, streamed):
    """Events come when the client likes them better than JSON."""
    reply = server.post("/ask", QUESTION, Accept=accept)
    assert (reply.status, reply.headers["content-type"] == "text/event-stream") == (200, streamed)


def test_moderation_off_is_said(scripted):
    """With moderation off the answer names no moderator."""
    off = cited_answer
    scripted.shelf.answering.script = lambda question: asyncio.sleep(
        0, off(question, moderation=ModerationSummary(None, "off", 0, 0))
    )
    assert scripted.post("/ask", QUESTION).json["moderation"]["model"] is None


def test_a_failure_before_the_first_byte_is_an_ordinary_problem(scripted):
    """Streamed or not, an upstream that fails at once is a 503 problem with its Retry-After and none of its words."""

    async def fail(question):
        raise RateLimited("limit of org-secret reached", retry_after=6.2)

    scripted.shelf.answering.script = fail
    for stream in (False, True):
        reply = scripted.post("/ask", {**QUESTION, "stream": stream})
        assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "upstream_rate_limited", "7")
        assert b"org-secret" not in reply.body


def test_embedding_that_is_missing_is_503_with_the_way_out(scripted):
    """The operator's error tells its own message."""

    async def fail(question):
        raise EmbeddingUnavailable("set OPENAI_API_KEY or reembed with the local model")

    scripted.shelf.answering.script = fail
    reply = scripted.post("/ask", QUESTION)
    assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "embedding_unavailable", "60")
    assert "reembed" in reply.json["detail"]


def test_a_slow_answer_has_heartbeats(scripted):
    """While an answer is awaited comments are sent, and the events after them are whole."""
    scripted.shelf.answering.script = lambda question: asyncio.sleep(0.35, cited_answer(question))
    body = scripted.post("/ask", {**QUESTION, "stream": True}).body
    assert body.startswith(b": ")
    assert 2 <= body.count(b": still working\n\n") <= 4
    assert [name for name, _ in events_of(body)] == ["meta", "text", "citations", "done"]


def test_a_failure_after_a_heartbeat_is_an_error_event(scripted):
    """When the status is already sent, a problem ends the stream: known ones by their code, bugs without internals."""
    for error, code in ((RateLimited("x"), "upstream_rate_limited"), (ZeroDivisionError("secret"), "internal")):

        async def fail(question, error=error):
            await asyncio.sleep(0.15)
            raise error

        scripted.shelf.answering.script = fail
        reply = scripted.post("/ask", {**QUESTION, "stream": True})
        [(name, data)] = events_of(reply.body)
        assert (reply.status, name, data["problem"]["code"]) == (200, "error", code)
        assert data["problem"]["request_id"] == reply.headers["x-request-id"]
        assert b"secret" not in reply.body


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_past_the_deadline_is_503_and_stopped(stream):
    """At the deadline the work is cancelled and the client told when to come again."""
    with serving(limits=Limits(answer_seconds=0.1)) as server:
        server.shelf.answering.script = lambda question: asyncio.sleep(60)
        reply = server.post("/ask", {**QUESTION, "stream": stream})
        assert (reply.status, reply.json["code"]) == (503, "upstream_timeout")
        assert int(reply.headers["retry-after"]) >= 1
        assert server.shelf.answering.cancelled == 1


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_leaves_stops_the_work(scripted, stream):
    """The service's coroutine is cancelled when the socket closes, and the server goes on."""
    scripted.shelf.answering.script = lambda question: asyncio.sleep(60)
    body = b'{"question": "a?", "stream": %s}' % stream.encode()
    head = b"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with scripted.socket() as sock:
        sock.sendall(head + body)
        while not scripted.shelf.answering.questions:
            time.sleep(0.005)
    left = time.monotonic()
    while not scripted.shelf.answering.cancelled and time.monotonic() < left + 10:
        time.sleep(0.005)
    assert scripted.shelf.answering.cancelled == 1
    assert scripted.get("/healthz").status == 200


def test_a_client_that_leaves_within_the_stream_stops_the_work(scripted):
    """Leaving after the first heartbeat stops the work as well."""
    scripted.shelf.answering.script = lambda question: asyncio.sleep(60)
    body = b'{"question": "a?", "stream": true}'
    head = b"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with scripted.socket() as sock:
        sock.sendall(head + body)
        received = b""
        while b": still working" not in received:
            received += sock.recv(4096)
    for _ in range(1000):
        if scripted.shelf.answering.cancelled:
            break
        time.sleep(0.01)
    assert scripted.shelf.answering.cancelled == 1


def test_many_answers_at_once_do_not_mix():
    """Forty answers in flight on their own connections each get their own question's answer."""
    shelf = Shelf()
    shelf.answering.script = lambda question: asyncio.sleep(0.05, cited_answer(question, answer=question.text))

    async def one(port, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"question": f"number {number}?"}).encode()
        writer.write(
            b"POST /ask HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"X-Request-Id: r%d\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)
        )
        reply = await reader.read()
        writer.close()
        return f'"answer":"number {number}?"'.encode() in reply and f"x-request-id: r{number}\r\n".encode() in reply

    async def all_of(port):
        return await asyncio.gather(*(one(port, number) for number in range(40)))

    with serving(shelf) as server:
        assert all(asyncio.run(all_of(server.port)))


def test_texts_are_ours():
    """The shelf's citation stands where it says, so the tests above compare with the truth."""
    answer = cited_answer(type("Q", (), {"collection": "default"})())
    [citation] = answer.citations
    assert TEXTS["guide/setup.md"][citation.start : citation.end] == citation.quote
