"""Purging over HTTP, beside uploads of the same document that are under way."""

import asyncio
import threading

import pytest

from indexes.errors import NotFound, RunGoesOn
from ingest import pipeline, preparing
from ragsvc.purging import begin, complete
from tests.faults import canary
from tests.ragsvc.api.rooms import open_room
from tests.ragsvc.api.test_bad_input import assert_problem

SECRET = canary.WORDS[0]


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def room(data_dir):
    with open_room(data_dir) as room:
        yield room


def document_of(room, path):
    return next(one for one in room.get("/documents")["documents"] if one["path"] == path)


def test_a_purged_upload_is_gone(room):
    """204, then 404; another time 404; the other documents and their jobs are as they were."""
    room.form([("a.md", f"# {SECRET}\n\nA text.\n".encode()), ("b.md", b"Another.\n")])
    document = document_of(room, "a.md")
    assert room.send("DELETE", f"/documents/{document['id']}?purge=true").status == 204
    assert room.paths() == ["b.md"]
    assert_problem(room.send("DELETE", f"/documents/{document['id']}?purge=true"), 404, "not_found")
    [job] = room.get("/jobs")["jobs"]
    assert [file["path"] for file in room.get(f"/jobs/{job['id']}")["files"]] == ["b.md"]
    assert_problem(room.send("DELETE", f"/documents/{document['id']}?purge=yes"), 400, "bad_request")


def test_an_upload_under_way_does_not_bring_it_back(data_dir):
    """A new version whose vectors are being paid for while its document is purged never becomes visible; the purge says
    that it is not over, and is when it is repeated; then no byte speaks of it."""
    with open_room(data_dir) as room:
        room.raw("a.md", f"# {SECRET}\n\nThe first version.\n".encode())
        document = document_of(room, "a.md")
        room.embedder.free.clear()
        room.embedder.asked.clear()
        files = [("a.md", f"# {SECRET}\n\nThe second {canary.WORDS[1]}.\n".encode()), ("b.md", b"Another.\n")]
        job = room.form(files, query="wait=false").json["job"]
        assert room.embedder.asked.wait(20)
        reply = room.send("DELETE", f"/documents/{document['id']}?purge=true")
        assert_problem(reply, 409, "run_goes_on")
        assert room.send("GET", f"/documents/{document['id']}").status == 404
        room.embedder.free.set()
        assert room.job(job["id"], "done")["total"] == 1
        assert room.paths() == ["b.md"]
        assert room.send("DELETE", f"/documents/{document['id']}?purge=true").status == 204
    assert canary.traces(data_dir, []) == []
    assert not {term for term in canary.terms(data_dir) if term.startswith("zqx")}


def test_a_body_that_is_erased_before_it_is_read_fails_no_other_document(data_dir):
    """A purge that comes before a waiting job is read takes its document out of the job; the others are indexed."""
    house = canary.house_of(data_dir)
    try:
        canary.upload(house, {"a.md": f"# {SECRET}\n\nA text.\n"})
        job = canary.upload(house, {"a.md": f"# {SECRET}\n\nMore.\n", "b.md": "Another.\n"}, work=False)
        run = house.uploads.prepare(house.uploads.jobs.claim(job.collection_id))
        listed = run._files()  # as a run does that has not read them yet
        collection = house.library.open("default")
        document = collection.documents(None, 10, None)[0][0]
        house.uploads.purge(document.id)
        asyncio.run(run._round(listed))
        assert [one.path for one in collection.documents(None, 10, None)[0]] == ["b.md"]
        assert [(file.path, file.state) for file in house.uploads.jobs.files(job.id)] == [("b.md", "applied")]
    finally:
        asyncio.run(house.aclose())


def test_an_index_under_way_does_not_bring_it_back(data_dir, tmp_path):
    """A run of a folder that had read a document before it was purged leaves it out; the next one brings it back."""
    folder = tmp_path / "docs"
    folder.mkdir()
    file = folder / "a.md"
    file.write_text(f"# {SECRET}\n\nThe first version.\n")
    house = canary.house_of(data_dir)
    try:
        canary.indexed(house, folder)
        collection = house.library.open("default")
        document = collection.documents(None, 10, None)[0][0]
        file.write_text(f"# {SECRET}\n\nThe second version is a longer one.\n")
        jobs, inbox = house.uploads.jobs, house.uploads._inbox
        with preparing.prepare(folder, collection, house.library.locks(collection)) as prepared:
            begin(collection, jobs, inbox, document.id)
            with pytest.raises(RunGoesOn):
                complete(collection, jobs, document.id)
            embedder = house.embedder_for(collection.spec.embedding, "ingest")
            assert asyncio.run(pipeline.apply(prepared, collection, embedder)).conflicts == ("a.md",)
        assert collection.documents(None, 10, None)[0] == ()
        house.uploads.look_after("default")
        with pytest.raises(NotFound):
            house.uploads.purge(document.id)
        assert collection.status().vectors == 0
        canary.indexed(house, folder)
        assert [one.path for one in collection.documents(None, 10, None)[0]] == ["a.md"]
    finally:
        asyncio.run(house.aclose())


def test_two_purges_at_once(data_dir):
    """Two purges of two documents at the same time are both complete, with nothing left of either."""
    with open_room(data_dir) as room:
        room.form([(f"{n}.md", f"# {SECRET}\n\nDocument {n} has {canary.WORDS[n]}.\n".encode()) for n in range(4)])
        ids = [document["id"] for document in room.get("/documents")["documents"]]
        replies = []

        def purge(document_id):
            replies.append(room.send("DELETE", f"/documents/{document_id}?purge=true").status)

        threads = [threading.Thread(target=purge, args=(one,)) for one in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies == [204] * 4
        assert room.house.library.open("default").purges.pending() == ()
    assert canary.traces(data_dir, []) == []
