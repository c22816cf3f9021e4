"""Documents over HTTP: what is taken, what is refused, what stands there afterwards."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from ragsvc.api.form import MAX_FILES
from ragsvc.api.handling import Limits
from ragsvc.upload_run import APPLY_LOCK
from tests.ragsvc.api.rooms import BOUNDARY, FORM, form, open_room
from tests.ragsvc.api.test_bad_input import assert_problem

OTTERS = b"# Otters\n\nOtters hold hands while they sleep.\n"
HERONS = b"# Herons\n\nHerons stand on one leg for hours.\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A room for requests that leave nothing behind."""
    with open_room(tmp_path_factory.mktemp("shared"), max_body_mb=1) as room:
        yield room


@pytest.fixture
def room(tmp_path):
    with open_room(tmp_path) as room:
        yield room


def left(room) -> list[str]:
    """Names in the folder of received bodies."""
    folder = room.house.settings.data_dir / "uploads"
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def test_a_raw_body_is_indexed_and_found(room):
    """With `wait` the answer lists the document; its text, its place in searches and its file name are right."""
    reply = room.raw("animals/otters.md", OTTERS)
    assert reply.status == 201
    [document] = reply.json["documents"]
    assert (document["path"], document["source"], document["title"]) == ("animals/otters.md", "upload", "Otters")
    assert reply.json["rejected"] == []
    assert room.get(f"/documents/{document['id']}/text")["text"] == OTTERS.decode()
    found = room.send("POST", "/search", json.dumps({"query": "otters"}), {"Content-Type": "application/json"}).json
    assert [hit["document_id"] for hit in found["hits"]] == [document["id"]]
    assert left(room) == []


def test_a_form_lists_what_came_in_and_what_did_not(room):
    """Several parts are one job; a part that can't be read is listed with its reason and holds nobody up."""
    reply = room.form([("otters.md", OTTERS), ("x/y.bin", b"\0\1"), ("herons.md", HERONS), ("empty.txt", b"")])
    assert reply.status == 201
    assert [document["path"] for document in reply.json["documents"]] == ["herons.md", "otters.md"]
    assert [(out["path"], out["reason"]) for out in reply.json["rejected"]] == [
        ("x/y.bin", "unsupported"), ("empty.txt", "empty"),
    ]  # fmt: skip
    [job] = room.get("/jobs")["jobs"]
    assert (job["state"], job["done"], job["total"], job["error"]) == ("done", 4, 4, None)
    assert set(job) >= {"id", "kind", "state", "done", "total", "cost_usd", "error", "created_at"}
    shown = room.get(f"/jobs/{job['id']}")
    assert [file["state"] for file in shown["files"]] == ["applied", "rejected", "applied", "rejected"]
    assert [event["kind"] for event in shown["events"]] == ["accepted", "started", "rejected", "rejected", "done"]


def test_one_file_that_is_rejected_is_a_problem(room):
    """A single document that can't be read is a 422 whose code is the reason, raw or as a form."""
    assert_problem(room.raw("a.txt", b""), 422, "empty")
    assert_problem(room.raw("a.bin", b"\0\1\2"), 422, "unsupported")
    assert_problem(room.form([("a.pdf", b"%PDF-1.4 nothing")]), 422, "damaged")
    assert room.paths() == []


def test_without_waiting_there_is_a_job(room):
    """The answer is 202 with the job and where it is; the job ends and the document is there."""
    reply = room.raw("otters.md", OTTERS, query="")
    assert (reply.status, reply.json["job"]["state"]) == (202, "queued")
    assert reply.headers["location"] == f"/jobs/{reply.json['job']['id']}"
    assert room.job(reply.json["job"]["id"], "done")["files"][0]["state"] == "applied"
    assert room.paths() == ["otters.md"]


def test_the_same_path_replaces_and_the_same_bytes_change_nothing(room):
    """Other bytes at a path are a new version of the same document; the same again are no version and cost nothing."""
    [first] = room.raw("a.md", OTTERS).json["documents"]
    sent = len(room.embedder.texts)
    [again] = room.raw("a.md", OTTERS).json["documents"]
    assert again == first
    assert len(room.embedder.texts) == sent
    [second] = room.raw("a.md", HERONS).json["documents"]
    assert (second["id"], second["version"]) == (first["id"], 2)
    [back] = room.raw("a.md", OTTERS).json["documents"]
    assert (back["id"], back["version"]) == (first["id"], 3)
    assert len(room.embedder.texts) == sent + 1


def test_metadata_is_kept_filtered_by_and_part_of_what_stands_there(room):
    """Metadata is in the document beside its own, goes before it, is filtered by; a change of it is a version."""
    given = json.dumps({"team": "rivers", "year": 2026, "encoding": "mine", "draft": False})
    reply = room.form([("a.md", OTTERS), ("b.txt", "naïve\n".encode("cp1252"))], {"metadata": given})
    assert [document["version"] for document in reply.json["documents"]] == [1, 1]
    for document in reply.json["documents"]:
        kept = room.get(f"/documents/{document['id']}")["metadata"]
        assert (kept["team"], kept["year"], kept["encoding"], kept["draft"]) == ("rivers", 2026, "mine", False)
    for value, hits in (("rivers", 1), ("lakes", 0)):
        asked = {"query": "otters", "filter": {"key": "team", "op": "eq", "value": value}, "mode": "lexical"}
        found = room.send("POST", "/search", json.dumps(asked), {"Content-Type": "application/json"})
        assert len(found.json["hits"]) == hits
    sent = len(room.embedder.texts)
    assert room.form([("a.md", OTTERS)], {"metadata": given}).json["documents"][0]["version"] == 1
    assert room.form([("b.txt", "naïve\n".encode("cp1252"))], {"metadata": given}).json["documents"][0]["version"] == 1
    assert room.form([("a.md", OTTERS)]).json["documents"][0]["version"] == 2
    assert len(room.embedder.texts) == sent


def test_metadata_of_another_kind_is_a_change(room):
    """The same bytes with 1, then true, then 1.0 are three versions, for a filter tells the first two apart."""
    for version, value in enumerate(("1", "true", "1.0"), 1):
        reply = room.form([("a.md", OTTERS)], {"metadata": f'{{"draft": {value}}}'})
        assert [document["version"] for document in reply.json["documents"]] == [version]
    asked = {"query": "otters", "filter": {"key": "draft", "op": "eq", "value": 1}, "mode": "lexical"}
    assert room.send("POST", "/search", json.dumps(asked), {"Content-Type": "application/json"}).json["hits"]


def test_a_document_whose_reader_gives_metadata_is_known_again(room):
    """A file with metadata of its own is unchanged when it comes again, with and without more."""
    latin = "Größe\n".encode("cp1252")
    for query in ("&wait=true", "&wait=true&metadata=%7B%22team%22%3A1%7D"):
        versions = [room.raw("a.txt", latin, query).json["documents"][0]["version"] for _ in range(2)]
        assert versions[0] == versions[1]


def test_where_it_goes_is_said_once(room):
    """Collection and metadata may stand in the query or in the form, and not in both."""
    room.send("POST", "/collections", b'{"name": "birds"}', {"Content-Type": "application/json"})
    assert room.form([("a.md", HERONS)], query="wait=true&collection=birds").status == 201
    assert room.form([("b.md", HERONS)], {"collection": "birds"}).status == 201
    assert room.paths("birds") == ["a.md", "b.md"]
    assert room.paths() == []
    twice = room.form([("c.md", HERONS)], {"collection": "birds"}, query="collection=birds")
    assert_problem(twice, 400, "bad_request", "both")


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain", "a/b; c=d"])
def test_a_raw_body_may_call_itself_anything(room, kind):
    """Name and bytes say what a raw body is: what a client calls it by default is not asked."""
    assert room.raw("a.md", OTTERS, **{"Content-Type": kind}).status == 201


def test_names_are_kept_as_people_see_them(room):
    """Unicode names come through query and form, in NFC; the same name in another form is the same document."""
    [first] = room.form([("Größe/文件.md", OTTERS)]).json["documents"]
    assert first["path"] == "Größe/文件.md"
    [second] = room.raw("Gro%CC%88%C3%9Fe/%E6%96%87%E4%BB%B6.md", HERONS).json["documents"]
    assert (second["id"], second["path"]) == (first["id"], "Größe/文件.md")


BAD_PATHS = ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", ".", "a%00b", "a%0Ab", "%E2%80%A8", "x" * 1025]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_paths_are_refused(shared, path):
    """A path that is not relative and plain is a 400, before the body is read."""
    assert_problem(shared.raw(path, OTTERS, query=""), 400, "bad_request")
    assert left(shared) == []


QUERIES = {
    "no-path": ("wait=true", "needs ?path="),
    "unknown": ("path=a&x=1", "unknown parameter"),
    "twice": ("path=a&path=b", "twice"),
    "wait": ("path=a&wait=yes", "wait"),
    "metadata-text": ("path=a&metadata=x", "metadata"),
    "metadata-list": ("path=a&metadata=[]", "metadata"),
    "metadata-null": ("path=a&metadata=%7B%22a%22:null%7D", "metadata"),
    "metadata-nested": ("path=a&metadata=%7B%22a%22:%7B%7D%7D", "metadata"),
    "metadata-twice": ("path=a&metadata=%7B%22a%22:1,%22a%22:2%7D", "twice"),
    "metadata-path": ("path=a&metadata=%7B%22path%22:1%7D", "can't be a key"),
    "metadata-modified_at": ("path=a&metadata=%7B%22modified_at%22:1%7D", "can't be a key"),
    "metadata-tenant": ("path=a&metadata=%7B%22tenant%22:1%7D", "can't be a key"),
    "metadata-space": ("path=a&metadata=%7B%22a%20b%22:1%7D", "can't be a key"),
    "metadata-huge": ("path=a&metadata=%7B%22a%22:1e400%7D", "metadata"),
    "metadata-int": ("path=a&metadata=%7B%22a%22:99999999999999999999%7D", "metadata"),
    "metadata-long": (f"path=a&metadata=%7B%22a%22:%22{'x' * 4097}%22%7D", "metadata"),
    "metadata-many": ("path=a&metadata=" + json.dumps({f"k{n}": n for n in range(65)}).replace(" ", ""), "64 keys"),
}


@pytest.mark.parametrize("case", QUERIES)
def test_bad_queries_are_refused(shared, case):
    """What can't be meant is a 400 that names it."""
    query, said = QUERIES[case]
    query = query.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
    assert_problem(shared.send("POST", f"/documents?{query}", OTTERS), 400, "bad_request", said)


def part(head: str, data: bytes = b"x") -> bytes:
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


FILE = 'Content-Disposition: form-data; name="file"; filename="a.md"'
FORMS = {
    "empty": (b"", 400, "cut off"),
    "no-parts": (f"--{BOUNDARY}--\r\n".encode(), 400, "no document"),
    "no-file": (form([], {"collection": "default"}), 400, "no document"),
    "cut": (form([("a.md", OTTERS)])[:-10], 400, "cut off"),
    "cut-in-header": (form([("a.md", OTTERS)])[:60], 400, "cut off"),
    "other-boundary": (form([("a.md", OTTERS)]).replace(BOUNDARY.encode(), b"other"), 400, ""),
    "no-name": (part("Content-Disposition: form-data; filename=a.md"), 400, "unknown field"),
    "no-file-name": (part('Content-Disposition: form-data; name="file"'), 400, "file name"),
    "empty-file-name": (form([("", b"")]), 400, "file name"),
    "no-disposition": (part("Content-Type: text/plain"), 400, ""),
    "attachment": (part('Content-Disposition: attachment; name="file"; filename="a"'), 400, ""),
    "bad-header": (part(f"{FILE}\r\nnonsense"), 400, ""),
    "bad-utf8": (part(FILE).replace(b"a.md", b"\xff.md"), 400, ""),
    "base64": (part(f"{FILE}\r\nContent-Transfer-Encoding: base64"), 400, "Transfer-Encoding"),
    "unknown-field": (form([("a.md", OTTERS)], {"path": "x"}), 400, "unknown field 'path'"),
    "field-as-file": (part('Content-Disposition: form-data; name="collection"; filename="a"'), 400, "as a file"),
    "field-not-utf8": (part('Content-Disposition: form-data; name="metadata"', b"\xff"), 400, "UTF-8"),
    "up": (form([("../a.md", OTTERS)]), 400, "relative"),
    "same-name": (form([("a.md", OTTERS), ("a.md", HERONS)]), 400, "two parts"),
    "same-name-nfc": (form([("é.md", OTTERS), ("e\u0301.md", HERONS)]), 400, "two parts"),
    "unknown-collection": (form([("a.md", OTTERS)], {"collection": "nope"}), 404, "no collection"),
    "empty-collection": (form([("a.md", OTTERS)], {"collection": ""}), 400, "collection"),
    "long-header": (part(f"{FILE}\r\nX-Long: {'x' * 5000}"), 413, "limit"),
    "many-headers": (part("\r\n".join([FILE, *(f"X-{n}: 1" for n in range(20))])), 413, "limit"),
    "long-field": (form([("a.md", OTTERS)], {"metadata": "x" * 70_000}), 413, "bytes"),
    "many-parts": (form([(f"{n}", b"") for n in range(MAX_FILES + 3)]), 413, "1,000 documents"),
}


@pytest.mark.parametrize("case", FORMS)
def test_bad_forms_are_refused(shared, case):
    """A form that is broken or over a limit is a clear 4xx at once, and leaves nothing on the disk."""
    body, status, said = FORMS[case]
    assert_problem(shared.send("POST", "/documents", body, {"Content-Type": FORM}), status, None, said)
    assert left(shared) == []
    assert shared.get("/jobs")["jobs"] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "multipart/form-data"}, 400),
        ({"Content-Type": "multipart/form-data; boundary="}, 400),
        ({"Content-Type": f"multipart/form-data; boundary={'x' * 300}"}, 400),
        ({"Content-Type": f"multipart/mixed; boundary={BOUNDARY}"}, 415),
        ({"Content-Type": FORM, "Content-Encoding": "gzip"}, 415),
    ],
)
def test_bad_headers_are_refused(shared, headers, status):
    """A form without a boundary is a 400; another kind of body, or a compressed one, a 415."""
    assert_problem(shared.send("POST", "/documents", form([("a.md", OTTERS)]), headers), status)


def test_a_name_in_another_encoding_is_refused_in_words(shared):
    """A file name that is not UTF-8 is a 400 that shows no inner error."""
    reply = shared.send(
        "POST", "/documents", form([("a.md", OTTERS)]).replace(b"a.md", b"\xe4.md"), {"Content-Type": FORM}
    )
    assert_problem(reply, 400, "bad_request", "failed to decode")
    assert "Error" not in reply.json["detail"]


def test_a_path_is_not_for_forms(shared):
    """`?path=` beside a form is refused: each part names its own."""
    assert_problem(shared.form([("a.md", OTTERS)], query="path=b.md"), 400, "bad_request", "raw body")


def test_large_bodies_are_refused_while_they_come(shared):
    """One byte over the limit is a 413, announced or not; a form may be as large as its documents and a little more."""
    most = 1 << 20
    assert_problem(shared.raw("a.txt", b"a" * (most + 1)), 413, "too_large", "RAGSVC_MAX_BODY_MB")
    chunked = shared.send("POST", "/documents?path=a.txt", iter([b"a" * 65536] * 17))
    assert_problem(chunked, 413, "too_large")
    assert_problem(shared.form([("a.txt", b"a" * most), ("b.txt", b"b" * most)]), 413, "too_large")
    assert left(shared) == []
    # As large as may be is taken (and then is no text that anyone wants).
    assert_problem(shared.raw("a.bin", b"\0" * most), 422, "unsupported")


def test_an_unknown_collection_is_refused_before_the_body(shared):
    """A raw body for a collection that is not there is not waited for."""
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as sock:
        sock.sendall(
            b"POST /documents?path=a.md&collection=nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 404")


def test_a_client_that_leaves_or_stalls_leaves_nothing(tmp_path):
    """A body that stops coming is a 408; a client that goes is noticed; nothing of either stays on the disk."""
    head = b"POST /documents?path=a.md HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"
    with open_room(tmp_path, Limits(idle_seconds=0.3)) as room:
        with socket.create_connection(("127.0.0.1", room.port), timeout=10) as sock:
            sock.sendall(head)
            assert sock.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", room.port), timeout=10) as sock:
            sock.sendall(head)
        until = time.monotonic() + 10
        while left(room) and time.monotonic() < until:
            time.sleep(0.01)
        assert left(room) == []
        assert room.get("/jobs")["jobs"] == []


def test_a_body_is_discarded_however_busy_the_writers_are(tmp_path):
    """A client that leaves while no more writes are taken leaves nothing, and its bytes are not counted any more."""
    with open_room(tmp_path, limits=Limits(reads=1)) as room:
        [document] = room.raw("a.md", OTTERS).json["documents"]
        head = b"POST /documents?path=b.md HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", room.port)) as client:
            client.sendall(head + b"half")
            until = time.monotonic() + 5
            while not left(room) and time.monotonic() < until:
                time.sleep(0.01)
            locks = room.house.library.locks(room.house.library.open("default"))
            with FileLock(locks / APPLY_LOCK), ThreadPoolExecutor(1) as pool:
                removal = pool.submit(room.send, "DELETE", f"/documents/{document['id']}")
                time.sleep(0.3)  # it waits for the lock, in the only place
                client.close()
                until = time.monotonic() + 5
                while left(room) and time.monotonic() < until:
                    time.sleep(0.01)
                assert left(room) == []
                assert room.house.uploads._inbox._promised == 0
                assert not removal.done()


def test_slow_bodies_have_a_deadline(tmp_path):
    """A body that drips without ever stalling ends at the deadline of the whole."""
    with (
        open_room(tmp_path, Limits(upload_seconds=0.5)) as room,
        socket.create_connection(("127.0.0.1", room.port), timeout=10) as sock,
    ):
        sock.sendall(b"POST /documents?path=a.md HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        sock.settimeout(0.05)
        for _ in range(200):
            sock.sendall(b"x")
            try:
                assert sock.recv(100).startswith(b"HTTP/1.1 408")
                return
            except TimeoutError:
                continue
        raise AssertionError("the body was taken for ever")


def test_too_many_uploads_at_once_are_refused(tmp_path):
    """Beyond the bodies that are received at once the answer is 503 with Retry-After, before a byte of the next."""
    with (
        open_room(tmp_path, Limits(uploads=1)) as room,
        socket.create_connection(("127.0.0.1", room.port), timeout=10) as sock,
    ):
        sock.sendall(b"POST /documents?path=a.md HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
        until = time.monotonic() + 10
        while not left(room) and time.monotonic() < until:
            time.sleep(0.01)
        refused = room.raw("b.md", OTTERS)
        assert_problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1


def test_a_full_inbox_refuses_what_comes(tmp_path):
    """Beyond the bytes that may wait to be indexed the answer is 503, and there is room again when jobs end."""
    with open_room(tmp_path, max_body_mb=1) as room:
        room.embedder.free.clear()
        taken = [room.raw(f"{n}.txt", b"a " * (1 << 19), query="").status for n in range(21)]
        assert taken == [202] * 20 + [503]
        newest = room.get("/jobs")["jobs"][0]["id"]
        assert room.send("DELETE", f"/jobs/{newest}").status == 200
        assert room.raw("more.txt", b"a " * (1 << 19), query="").status == 202
        for job in room.get("/jobs")["jobs"]:
            room.send("DELETE", f"/jobs/{job['id']}")
        room.embedder.free.set()


def test_a_removed_document_is_gone(room):
    """DELETE is a 204, then the document is 404 everywhere and found by no search; a second DELETE is 404."""
    [document] = room.raw("a.md", OTTERS).json["documents"]
    reply = room.send("DELETE", f"/documents/{document['id']}")
    assert (reply.status, reply.body) == (204, b"")
    assert room.paths() == []
    room.get(f"/documents/{document['id']}", status=404)
    for wrong in (document["id"], "doc_zzzzzz0123456789abcdef", "nonsense", "doc_%00"):
        assert_problem(room.send("DELETE", f"/documents/{wrong}"), 404, "not_found")
    assert_problem(room.send("DELETE", f"/documents/{document['id']}?x=1"), 400, "bad_request")
    assert room.raw("a.md", OTTERS).json["documents"][0]["id"] != document["id"]


def test_an_openai_collection_without_a_key_takes_no_documents(tmp_path):
    """Where documents could not be embedded, an upload is a 503 before its body, and no job is made."""
    with open_room(tmp_path) as room:
        made = b'{"name": "paid", "embedding_model": "text-embedding-3-small"}'
        assert room.send("POST", "/collections", made, {"Content-Type": "application/json"}).status == 201
        del room.house._embedder
        room.house.settings = room.house.settings.model_copy(update={"provider": "auto"})
        assert_problem(room.raw("a.md", OTTERS, "&collection=paid"), 503, "embedding_unavailable", "OPENAI_API_KEY")
        assert_problem(room.form([("a.md", OTTERS)], {"collection": "paid"}), 503, "embedding_unavailable")
        assert room.get("/jobs")["jobs"] == []
