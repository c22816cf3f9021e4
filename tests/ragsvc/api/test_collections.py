"""Collections over HTTP: made with their own spec, listed, removed with their jobs."""

import collections
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from ragsvc.errors import QuotaExhausted
from tests.ragsvc.api.rooms import open_room
from tests.ragsvc.api.test_bad_input import assert_problem
from tests.ragsvc.api.test_uploads import HERONS, OTTERS, left

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A room for requests that leave nothing behind."""
    with open_room(tmp_path_factory.mktemp("shared")) as room:
        yield room


@pytest.fixture
def room(tmp_path):
    with open_room(tmp_path) as room:
        yield room


def create(room, **fields):
    return room.send("POST", "/collections", json.dumps(fields).encode(), JSON)


def test_a_collection_is_made_shown_listed_and_removed(room):
    """What was asked for is what is shown; the list has it and `default`; after DELETE it is 404."""
    made = create(room, name="papers", chunk_tokens=256, overlap_tokens=16)
    assert (made.status, made.headers["location"]) == (201, "/collections/papers")
    shown = room.get("/collections/papers")
    assert shown == made.json
    assert (shown["name"], shown["state"], shown["generation"]) == ("papers", "ready", 1)
    assert (shown["chunk_tokens"], shown["overlap_tokens"], shown["dimensions"]) == (256, 16, 384)
    assert (shown["documents"], shown["chunks"]) == (0, 0)
    room.raw("a.md", OTTERS, "&wait=true&collection=papers")
    assert room.get("/collections/papers")["documents"] == 1
    assert [one["name"] for one in room.get("/collections")["collections"]] == ["default", "papers"]
    assert room.send("DELETE", "/collections/papers").status == 204
    assert_problem(room.send("GET", "/collections/papers"), 404, "unknown_collection")
    assert_problem(room.send("DELETE", "/collections/papers"), 404, "unknown_collection")
    assert [one["name"] for one in room.get("/collections")["collections"]] == ["default"]


def test_a_name_is_taken_once(room):
    """A second collection of a name is a 409, and the first keeps its spec."""
    assert create(room, name="papers", chunk_tokens=256).status == 201
    assert_problem(create(room, name="papers", chunk_tokens=128), 409, "collection_exists")
    assert room.get("/collections/papers")["chunk_tokens"] == 256


def test_default_is_emptied(room):
    """`default` can be removed like any other, and is there again, empty: it always exists."""
    room.raw("a.md", OTTERS)
    assert room.send("DELETE", "/collections/default").status == 204
    assert room.get("/collections/default")["documents"] == 0
    assert room.paths() == []
    assert room.raw("b.md", HERONS).status == 201


@pytest.mark.parametrize("name", ["", "Big", "a b", "../x", "a/b", "-a", "x" * 65, "a\n", None, 5])
def test_bad_names_are_refused(shared, name):
    """A name that is no plain word is a 400, in the body; in a path it names nothing."""
    assert_problem(create(shared, name=name), 400, "bad_request", "name")


@pytest.mark.parametrize("path", ["Big", "a%20b", "..%2Fx", "%00", "x" * 300, "%C3%A9"])
def test_bad_names_in_paths_are_unknown(shared, path):
    """A path that can be no collection's is a 404 for every method, and nothing is made or removed."""
    for method in ("GET", "DELETE"):
        assert_problem(shared.send(method, f"/collections/{path}"), 404)
    assert len(shared.get("/collections")["collections"]) == 1


SPECS = {
    "overlap": ({"chunk_tokens": 64, "overlap_tokens": 33}, "`overlap_tokens`"),
    "dimensions": ({"dimensions": 512}, "`dimensions`"),
    "width": ({"embedding_model": "somebody/model"}, "`dimensions`"),
}


@pytest.mark.parametrize("case", SPECS)
def test_specs_that_make_no_sense_are_refused(shared, case):
    """A spec that no index could be made by is a 422 that names the field."""
    fields, said = SPECS[case]
    assert_problem(create(shared, name="papers", **fields), 422, "collection_spec", said)


@pytest.mark.parametrize("fields", [{"chunk_tokens": 8}, {"dimensions": "5"}, {"tokens": 5}, {"overlap_tokens": -1}])
def test_fields_out_of_range_are_refused(shared, fields):
    """A field that is unknown, of another type or out of range is a 400."""
    assert_problem(create(shared, name="papers", **fields), 400, "bad_request")


def test_a_collection_that_is_written_is_not_removed(room):
    """While a job or another process's run works on it, removing is a 409; afterwards it goes."""
    room.embedder.free.clear()
    job_id = room.raw("a.md", OTTERS, "").json["job"]["id"]
    assert room.embedder.asked.wait(10)
    assert_problem(room.send("DELETE", "/collections/default"), 409, "collection_busy")
    room.embedder.free.set()
    room.job(job_id, "done")
    locks = room.house.library.locks(room.house.library.open("default"))
    with FileLock(locks / "run-other.lock", timeout=0):
        assert_problem(room.send("DELETE", "/collections/default"), 409, "collection_busy")
    assert room.send("DELETE", "/collections/default").status == 204


def test_removing_a_collection_cancels_its_jobs(room):
    """Jobs that wait go with their collection, are told as cancelled, and leave no body; other jobs go on."""
    create(room, name="papers")
    room.embedder.failure = QuotaExhausted("no money")
    ids = [room.raw(name, OTTERS, "&collection=papers").json["job"]["id"] for name in ("a.md", "b.md")]
    room.job(ids[0], "waiting")
    room.embedder.failure = None
    assert room.send("DELETE", "/collections/papers").status == 204
    for job_id in ids:
        job = room.get(f"/jobs/{job_id}")
        assert (job["state"], job["error_code"], job["done"]) == ("cancelled", "unknown_collection", 1)
    room.house.uploads.tidy()
    assert left(room) == []
    assert room.raw("c.md", HERONS).status == 201


def test_settings_that_differ_refuse_uploads(tmp_path):
    """Where a setting was made that the collection does not have, an upload is a 409 that names both."""
    with open_room(tmp_path) as room:
        room.raw("a.md", OTTERS)
    with open_room(tmp_path, chunk_tokens=128) as room:
        assert_problem(room.raw("b.md", HERONS), 409, "spec_mismatch", "512")
        assert room.paths() == ["a.md"]


def test_a_removal_in_their_midst_fails_no_reader(room):
    """While a collection is made and removed over and over, lists and `/readyz` are answered by 200 all the time."""
    over, got = threading.Event(), collections.Counter()

    def read(path):
        while not over.is_set():
            got[path, room.send("GET", path).status] += 1

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, path) for path in ("/collections", "/readyz") * 2]
        for number in range(60):
            create(room, name=f"papers{number}")
            assert room.send("DELETE", f"/collections/papers{number}").status == 204
        over.set()
        for reader in readers:
            reader.result()
    assert set(got) == {("/collections", 200), ("/readyz", 200)}
