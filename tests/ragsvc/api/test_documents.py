"""The reading routes: search, documents, texts, liveness and readiness."""

import threading
from dataclasses import replace

import pytest

from indexes.errors import StorageFull
from ragsvc.api.handling import Limits
from tests.ragsvc.api.conftest import serving
from tests.ragsvc.api.shelf import ROOT, TEXTS, document_id


def test_hits_have_the_contracts_fields(server):
    """A hit has exactly the contract's fields, with legs that are null where they found nothing."""
    reply = server.post("/search", {"query": "DATABASE_URL", "k": 1})
    assert list(reply.json) == ["hits", "collection", "generation"]
    [hit] = reply.json["hits"]
    assert list(hit) == [
        "rank", "score", "document_id", "version", "path", "title", "page", "start", "end", "text", "legs", "also",
        "heading_path", "position",
    ]  # fmt: skip
    assert hit["legs"] == {"dense": None, "lexical": {"rank": 1, "score": 2.5}}
    assert hit["also"] == [{"document_id": document_id(3), "path": "copy.md", "start": 3, "end": 9}]
    assert (reply.json["collection"], reply.json["generation"]) == ("default", 7)


def test_a_search_reaches_the_retriever_whole(server):
    """Query, k, mode and filter arrive as sent; the defaults are the contract's."""
    server.post("/search", {"query": "start", "k": 3, "mode": "lexical", "filter": {"and": []}})
    assert server.shelf.retriever.calls[-1][:4] == ("start", "default", 3, "lexical")
    server.post("/search", {"query": "start"})
    assert server.shelf.retriever.calls[-1] == ("start", "default", 10, "hybrid", None)


def test_no_hits_are_200(server):
    """A query that finds nothing is answered with an empty list."""
    assert server.post("/search", {"query": "zebra"}).json["hits"] == []


def test_documents_are_listed_in_pages(server):
    """Following `next` gives every document once, each with the contract's fields."""
    seen, after = [], None
    while True:
        page = server.get("/documents?limit=2" + (f"&after={after}" if after else "")).json
        seen += page["documents"]
        after = page["next"]
        if after is None:
            break
    assert [document["path"] for document in seen] == list(TEXTS)
    assert list(seen[0]) == ["id", "path", "source", "title", "chunks", "version", "state"]


def test_documents_are_listed_by_source(server):
    """`source` takes a percent-encoded root."""
    encoded = ROOT.replace("/", "%2F")
    assert len(server.get(f"/documents?source={encoded}").json["documents"]) == 3
    assert server.get("/documents?source=upload").json == {"documents": [], "next": None}


def test_one_document_tells_all_that_is_known(server):
    """One document has the fields of the list and more, metadata in its own types."""
    document = server.get(f"/documents/{document_id(1)}").json
    assert (document["path"], document["state_reason"], document["reader"]) == ("guide/setup.md", None, "markdown-1")
    assert document["metadata"] == {"lang": "en", "draft": False}


def test_a_text_is_cut_in_code_points(server):
    """Start and end count code points, also past an emoji and a combining mark."""
    text = TEXTS["guide/setup.md"]
    at = text.index("中")
    piece = server.get(f"/documents/{document_id(1)}/text?start={at}&end={at + 2}").json
    assert piece == {"document_id": document_id(1), "version": 1, "start": at, "end": at + 2, "text": "中文"}
    assert server.get(f"/documents/{document_id(1)}/text").json["text"] == text


def test_a_version_that_is_gone_is_409(server):
    """Asking for a version that was replaced is a conflict named `changed`."""
    reply = server.get(f"/documents/{document_id(1)}/text?version=2")
    assert (reply.status, reply.json["code"]) == (409, "changed")


def test_liveness_asks_nobody(server):
    """The process says that it is alive."""
    assert server.get("/healthz").json == {"status": "alive"}


def test_readiness_tells_by_what_means():
    """Ready is 200 with provider, generations, moderation and what is degraded; not ready a 503 problem with why."""
    with serving() as server:
        ready = server.get("/readyz")
        assert (ready.status, ready.json) == (
            200,
            {
                "status": "ready",
                "provider": {"chat": "local", "embedding": "local"},
                "generation": 7,
                "collections": [{"name": "default", "generation": 7}],
                "moderation": "window",
                "degraded": [],
            },
        )
        server.shelf.readiness = replace(server.shelf.readiness, ready=False, degraded=("no vocabulary",))
        reply = server.get("/readyz")
        assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "not_ready", "1")
        assert "no vocabulary" in reply.json["detail"]


def test_a_failing_store_is_503_without_its_path():
    """The store's own message stays in the log."""
    with serving() as server:
        server.shelf.library.failure = StorageFull("/var/lib/ragsvc/secret/store.db: disk full")
        for reply in (server.get("/documents"), server.get(f"/documents/{document_id(1)}/text")):
            assert (reply.status, reply.json["code"]) == (503, "storage_full")
            assert b"secret" not in reply.body


@pytest.mark.parametrize("reads", [1, 3])
def test_reads_block_no_loop_and_are_bounded(reads):
    """While blocked reads take every place the loop answers and one more read is 503; later all are served."""
    gate = threading.Event()
    taken = threading.Semaphore(0)
    with serving(limits=Limits(read_threads=reads, reads=reads)) as server:

        def block():
            taken.release()
            gate.wait(10)

        server.shelf.library.before_open = block
        replies = []
        waiting = [threading.Thread(target=lambda: replies.append(server.get("/documents"))) for _ in range(reads)]
        for thread in waiting:
            thread.start()
        for _ in waiting:
            assert taken.acquire(timeout=10)
        assert server.get("/healthz").status == 200
        refused = server.get("/documents")
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        gate.set()
        for thread in waiting:
            thread.join(10)
        assert [reply.status for reply in replies] == [200] * reads
        assert server.get("/documents").status == 200


def test_a_read_that_hangs_is_given_up():
    """A read past its time is a 503; its place comes back when the thread is done."""
    gate = threading.Event()
    with serving(limits=Limits(read_threads=1, reads=2, read_seconds=0.1)) as server:
        server.shelf.library.before_open = lambda: gate.wait(10)
        assert server.get("/documents").json["code"] == "overloaded"
        gate.set()
        server.shelf.library.before_open = lambda: None
        while (reply := server.get("/documents")).status != 200:
            assert reply.json["code"] == "overloaded"
