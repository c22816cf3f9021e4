"""Jobs over HTTP: what they tell, how they wait, stop and go on, and what a removal does to them."""

import contextlib
import json
import random
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from indexes.errors import StorageFull, StoreDamaged
from ingest.readers import registry
from ragsvc import job_runner
from ragsvc.api.handling import Limits
from ragsvc.errors import AuthenticationFailed, QuotaExhausted, RateLimited, RequestRefused, Unreachable
from tests.ragsvc.api.rooms import open_room
from tests.ragsvc.api.test_bad_input import assert_problem
from tests.ragsvc.api.test_uploads import HERONS, OTTERS, left

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def room(tmp_path):
    with open_room(tmp_path) as room:
        yield room
        room.embedder.free.set()


def upload(room, path, data=OTTERS, query="") -> str:
    reply = room.raw(path, data, query)
    assert reply.status == 202, reply.body
    return reply.json["job"]["id"]


def hold(room) -> None:
    """Let the next job come as far as its first request, and no further."""
    room.embedder.free.clear()
    room.embedder.asked.clear()


def test_jobs_are_listed_newest_first_in_pages(room):
    """Every job is listed once over the pages; a cursor of no job and a limit of nothing are 400."""
    ids = [upload(room, f"{n}.md") for n in range(5)]
    seen, after = [], ""
    while after is not None:
        page = room.get(f"/jobs?limit=2{after and '&after=' + after}")
        seen += [job["id"] for job in page["jobs"]]
        after = page["next"]
    assert seen == ids[::-1]
    for query in ("after=job_none", "limit=0", "limit=1001", "state=done"):
        assert_problem(room.send("GET", f"/jobs?{query}"), 400)


@pytest.mark.parametrize("job_id", ["job_00000000000000000000", "nonsense", "job_%00", "..%2Fx", "job_" + "x" * 300])
def test_an_unknown_job_is_404(room, job_id):
    """Showing or cancelling what is no job is a 404."""
    assert_problem(room.send("GET", f"/jobs/{job_id}"), 404, "not_found")
    assert_problem(room.send("DELETE", f"/jobs/{job_id}"), 404, "not_found")


def test_a_running_job_tells_how_far_it_is(room):
    """While it runs a job is `running` with its documents pending; in the end its tokens are counted, and free."""
    hold(room)
    job_id = upload(room, "a.md")
    assert room.embedder.asked.wait(10)
    job = room.job(job_id, "running")
    assert (job["done"], job["total"], job["finished_at"]) == (0, 1, None)
    room.embedder.free.set()
    job = room.job(job_id, "done")
    assert (job["done"], job["cost_usd"], job["progress"]) == (1, 0.0, {"inputs_done": 1, "inputs_total": 1})
    assert job["tokens"] > 0
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]


def test_jobs_of_one_path_end_in_the_order_they_came(room):
    """Of several uploads of one path the last one stands, whatever the first has to wait for."""
    hold(room)
    ids = [upload(room, "a.md", b"first"), upload(room, "a.md", b"second"), upload(room, "a.md", b"third")]
    assert room.embedder.asked.wait(10)
    room.embedder.free.set()
    for job_id in ids:
        room.job(job_id, "done")
    [document] = room.get("/documents")["documents"]
    assert document["version"] == 3
    assert room.get(f"/documents/{document['id']}/text")["text"] == "third"


def test_a_queued_job_is_cancelled_at_once(room):
    """A job behind another is cancelled by a 200, leaves nothing behind, and can't be cancelled twice."""
    hold(room)
    first, second = upload(room, "a.md"), upload(room, "b.md")
    reply = room.send("DELETE", f"/jobs/{second}")
    assert (reply.status, reply.json["job"]["state"]) == (200, "cancelled")
    assert_problem(room.send("DELETE", f"/jobs/{second}"), 409, "job_finished", "cancelled")
    room.embedder.free.set()
    room.job(first, "done")
    assert room.paths() == ["a.md"]
    assert [file["state"] for file in room.get(f"/jobs/{second}")["files"]] == ["cancelled"]
    assert_problem(room.send("DELETE", f"/jobs/{first}"), 409, "job_finished", "done")


def test_a_running_job_stops_and_what_is_applied_stays(room):
    """Cancelled while it waits for vectors, a job ends with what it had applied, and says what it had not."""
    room.raw("known.md", HERONS)
    hold(room)
    copies = [f"{number}.md" for number in range(64)]  # as many as are applied together
    job_id = room.form([*((name, HERONS) for name in copies), ("new.md", OTTERS)], query="").json["job"]["id"]
    assert room.embedder.asked.wait(10)
    assert room.send("DELETE", f"/jobs/{job_id}").status == 202
    job = room.job(job_id, "cancelled")
    assert {file["path"] for file in job["files"] if file["state"] == "applied"} == set(copies)
    assert [file["path"] for file in job["files"] if file["state"] == "cancelled"] == ["new.md"]
    room.embedder.free.set()
    assert room.raw("later.md", b"later").status == 201
    assert set(room.paths()) == {"known.md", "later.md", *copies}


def test_a_job_that_is_cancelled_while_it_applies_tells_what_it_applied(room, monkeypatch):
    """A cancelled job ends when what it was making visible is visible, and says so, however often it is cancelled."""
    collection = room.house.library.open("default")
    whole, applying, free = collection.apply, threading.Event(), threading.Event()

    def slow(changes):
        applying.set()
        assert free.wait(10)
        return whole(changes)

    monkeypatch.setattr(collection, "apply", slow)
    job_id = upload(room, "a.md")
    assert applying.wait(10)
    for _ in range(3):
        assert room.send("DELETE", f"/jobs/{job_id}").status == 202
    time.sleep(0.5)  # several looks for cancelled jobs
    assert room.get(f"/jobs/{job_id}")["state"] == "running"
    free.set()
    assert [file["state"] for file in room.job(job_id, "cancelled")["files"]] == ["applied"]
    assert room.paths() == ["a.md"]


def test_documents_that_take_long_to_read_leave_threads_for_others(room, monkeypatch):
    """However many collections have jobs, few are worked on at once, and in the end all of them are done."""
    free, reading = threading.Event(), []
    whole = registry.read

    def slow(path, data):
        reading.append(path)
        assert free.wait(20)
        return whole(path, data)

    monkeypatch.setattr(registry, "read", slow)
    ids = []
    for number in range(8):
        assert room.send("POST", "/collections", json.dumps({"name": f"c{number}"}), JSON).status == 201
        ids += [upload(room, path, query=f"&collection=c{number}") for path in ("a.md", "b.md")]
    until = time.monotonic() + 10
    while len(reading) < job_runner.MOST_AT_ONCE and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5)  # several looks for jobs
    assert len(reading) == job_runner.MOST_AT_ONCE
    free.set()
    for job_id in ids:
        room.job(job_id, "done")


def test_a_removal_is_not_undone_by_a_job_that_came_before_it(room):
    """A document removed while an upload of its path is under way, or waits, does not come back with it."""
    [document] = room.raw("a.md", b"first").json["documents"]
    hold(room)
    running = upload(room, "a.md", b"second")
    assert room.embedder.asked.wait(10)
    queued = upload(room, "a.md", b"third")
    assert room.send("DELETE", f"/documents/{document['id']}").status == 204
    room.embedder.free.set()
    for job_id in (running, queued):
        assert [file["state"] for file in room.job(job_id, "done")["files"]] == ["withdrawn"]
    assert room.paths() == []
    assert room.raw("a.md", b"fourth").json["documents"][0]["version"] == 1


def test_a_removal_holds_for_a_job_that_was_planned_in_its_midst(room, monkeypatch):
    """A job that finds the path empty because the removal is half done applies nothing once the removal is whole."""
    [document] = room.raw("a.md", b"first").json["documents"]
    jobs, accepted = room.house.uploads.jobs, []
    whole = jobs.withdraw

    def half_done(*arguments):
        room.embedder.asked.clear()
        accepted.append(upload(room, "a.md", b"second"))
        assert room.embedder.asked.wait(10)  # it has read the manifest, which has no `a.md` any more
        whole(*arguments)

    monkeypatch.setattr(jobs, "withdraw", half_done, raising=False)
    assert room.send("DELETE", f"/documents/{document['id']}").status == 204
    assert [file["state"] for file in room.job(accepted[0], "done")["files"]] == ["withdrawn"]
    assert room.paths() == []


def test_removing_the_source_takes_what_was_accepted_with_it(room):
    """Removing all uploads while one is under way leaves none, and later ones are taken."""
    room.raw("a.md", b"first")
    hold(room)
    job_id = upload(room, "b.md", b"second")
    assert room.embedder.asked.wait(10)
    collection = room.house.library.open("default")
    room.house.uploads.remove_source("default", collection.sources()[0].id)
    room.embedder.free.set()
    assert [file["state"] for file in room.job(job_id, "done")["files"]] == ["withdrawn"]
    assert room.paths() == []
    assert room.raw("c.md", HERONS).status == 201


@pytest.mark.parametrize(
    ("failure", "code", "told"),
    [
        (Unreachable("no route to 10.0.0.7"), "upstream_unreachable", "can't be reached"),
        (RateLimited("slow down", retry_after=1), "upstream_rate_limited", "rate limit"),
        (QuotaExhausted("org-123 has no money"), "upstream_quota_exhausted", "no quota"),
        (AuthenticationFailed("key sk-123 is wrong"), "upstream_authentication", "key"),
    ],
)
def test_a_failing_upstream_lets_a_job_wait(room, failure, code, told):
    """The job waits and says why without the upstream's words; nothing of it is lost, and it is asked for once."""
    room.embedder.failure = failure
    reply = room.raw("a.md", OTTERS)
    assert reply.status == 202
    job = room.job(reply.json["job"]["id"], "waiting")
    assert (job["state"], job["error_code"]) == ("waiting", code)
    assert told in job["error"]
    assert str(failure) not in json.dumps(job)
    assert any(job["id"] in said and code in said for said in room.get("/readyz")["degraded"])
    behind = room.raw("b.md", HERONS)  # does not wait for what can't come
    assert (behind.status, behind.json["job"]["state"]) == (202, "queued")
    later = behind.json["job"]["id"]
    room.embedder.failure = None
    room.house.uploads.jobs.wake()
    assert room.job(later, "done")["state"] == "done"
    assert room.paths() == ["a.md", "b.md"]
    assert not any("job" in said for said in room.get("/readyz")["degraded"])


def test_a_full_disk_is_said_to_be_one(room, monkeypatch):
    """`/readyz` is 200 on a full disk, since questions are answered, and names it until there is room again."""
    usage = shutil.disk_usage

    def full(path):
        return usage(path)._replace(free=4096)

    assert not any("disk" in said for said in room.get("/readyz")["degraded"])
    monkeypatch.setattr(shutil, "disk_usage", full)
    assert any("the disk is full (4,096 bytes free)" in said for said in room.get("/readyz")["degraded"])
    monkeypatch.undo()
    assert not any("disk" in said for said in room.get("/readyz")["degraded"])


def test_a_waiting_job_is_tried_again_by_itself(room, monkeypatch):
    """After its wait a job whose upstream failed is tried again, and not before."""
    monkeypatch.setattr(job_runner, "FIRST_WAIT", 0.2)
    room.embedder.failure = Unreachable("down")
    job_id = upload(room, "a.md")
    room.job(job_id, "waiting")
    room.embedder.failure = None
    job = room.job(job_id, "done")
    assert [event["kind"] for event in job["events"]][:4] == ["accepted", "started", "waiting", "resumed"]


def test_a_waiting_job_can_be_cancelled(room):
    """A job that waits is cancelled at once, and the next one is taken."""
    room.embedder.failure = QuotaExhausted("no money")
    job_id = upload(room, "a.md")
    room.job(job_id, "waiting")
    assert room.send("DELETE", f"/jobs/{job_id}").status == 200
    room.embedder.failure = None
    assert room.raw("b.md", HERONS).status == 201
    assert room.paths() == ["b.md"]


def test_a_text_that_the_provider_refuses_is_rejected(room):
    """A refusal costs its document, as `limit`, and no other."""
    room.embedder.failure = RequestRefused("too long")
    assert_problem(room.raw("a.md", OTTERS), 422, "limit")


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), StorageFull("full"), StoreDamaged("damaged")])
def test_trouble_with_the_disk_lets_a_job_wait(room, failure):
    """What was accepted is not given up because the disk is full or the store can't be used for now."""
    room.embedder.failure = failure
    job_id = upload(room, "a.md")
    assert room.job(job_id, "waiting")["error_code"] in ("storage_failed", "storage_full", "store_unavailable")
    room.embedder.failure = None
    room.house.uploads.jobs.wake()
    room.job(job_id, "done")


def test_a_bug_fails_its_job_and_no_other(room):
    """An error that nobody expected ends the job as failed, tells nothing of the inside, and the next job is done."""
    room.embedder.failure = KeyError("inside")
    reply = room.raw("a.md", OTTERS)
    assert_problem(reply, 503, "job_failed")
    assert "inside" not in reply.json["detail"]
    room.embedder.failure = None
    assert room.raw("b.md", HERONS).status == 201
    assert left(room) == []


def test_an_upload_waits_for_another_run_of_its_source(room):
    """Where another process holds the source's lock, the job waits for it and is done then."""
    collection = room.house.library.open("default")
    room.raw("a.md", OTTERS)
    [path] = (room.house.library.locks(collection)).glob("run-*.lock")
    with FileLock(path, timeout=0, thread_local=False) as lock:
        job_id = upload(room, "b.md", HERONS)
        assert room.job(job_id, "waiting")["error_code"] == "run_locked"
        threading.Timer(0.3, lock.release).start()
        assert room.raw("c.md", HERONS).status == 201  # to wait for a moment is no reason to give up
    assert room.paths() == ["a.md", "b.md", "c.md"]


def test_a_client_that_stops_waiting_does_not_stop_its_job(room):
    """The client that asked to wait leaves; its document is indexed all the same."""
    hold(room)
    with socket.create_connection(("127.0.0.1", room.port), timeout=10) as sock:
        head = (
            f"POST /documents?path=a.md&wait=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(OTTERS)}\r\n\r\n"
        )
        sock.sendall(head.encode() + OTTERS)
        assert room.embedder.asked.wait(10)
    room.embedder.free.set()
    [job] = room.get("/jobs")["jobs"]
    room.job(job["id"], "done")
    assert room.paths() == ["a.md"]


def test_waiting_ends_in_202(tmp_path):
    """A job that is not done within the longest wait is answered by 202, and goes on."""
    with open_room(tmp_path, Limits(wait_seconds=0.2)) as room:
        hold(room)
        reply = room.raw("a.md", OTTERS)
        assert (reply.status, reply.json["job"]["state"]) == (202, "running")
        room.embedder.free.set()
        room.job(reply.json["job"]["id"], "done")


def test_servers_that_share_a_directory_do_each_job_once(tmp_path):
    """Two services over one data directory: every upload of either is there once, at version 1, embedded once."""
    with open_room(tmp_path) as one, open_room(tmp_path) as two:
        one.get("/readyz")
        two.get("/readyz")
        threads = [
            threading.Thread(target=room.raw, args=(f"{room.port}-{n}.txt", f"text {room.port} {n}".encode()))
            for room in (one, two)
            for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        documents = one.get("/documents")["documents"]
        assert len(documents) == 12
        assert {document["version"] for document in documents} == {1}
        texts = one.embedder.texts + two.embedder.texts
        assert len(texts) == len(set(texts)) == 12
        assert left(one) == []


def test_another_server_stops_and_shows_a_job(tmp_path):
    """A job that one server runs is shown, and cancelled, through the other."""
    with open_room(tmp_path) as one, open_room(tmp_path) as two:
        hold(one)
        hold(two)
        job_id = upload(one, "a.md")
        until = time.monotonic() + 10
        while not (one.embedder.asked.is_set() or two.embedder.asked.is_set()) and time.monotonic() < until:
            time.sleep(0.005)
        idle = two if one.embedder.asked.is_set() else one
        assert idle.get(f"/jobs/{job_id}")["state"] == "running"
        assert idle.send("DELETE", f"/jobs/{job_id}").status == 202
        assert idle.job(job_id, "cancelled")["done"] == 1
        assert idle.paths() == []


def test_a_server_that_ends_leaves_its_jobs_to_the_next(tmp_path):
    """Jobs under way and queued when a server is stopped are done by the next one, and nothing is there twice."""
    with open_room(tmp_path) as room:
        hold(room)
        ids = [upload(room, "a.md", OTTERS), upload(room, "b.md", HERONS)]
        assert room.embedder.asked.wait(10)
    with open_room(tmp_path) as room:
        for job_id in ids:
            room.job(job_id, "done")
        assert [(one["path"], one["version"]) for one in room.get("/documents")["documents"]] == [
            ("a.md", 1), ("b.md", 1),
        ]  # fmt: skip
        assert left(room) == []


def test_leftovers_are_swept_and_what_is_wanted_stays(tmp_path):
    """A body without a job goes at the start; one that is being received and one of a waiting job stay."""
    with open_room(tmp_path) as room:
        room.embedder.failure = QuotaExhausted("no money")
        job_id = upload(room, "a.md")
        room.job(job_id, "waiting")
        folder = tmp_path / "uploads"
        for name in ("job_leftover", "job_received", "job_received.lock"):
            (folder / name).write_bytes(b"x")
        with FileLock(folder / "job_received.lock", timeout=0):
            (folder / "job_received").write_bytes(b"x")
            room.house.uploads.tidy()
            assert sorted(left(room)) == sorted([job_id, "job_received", "job_received.lock"])
        with contextlib.suppress(FileNotFoundError):
            room.house.uploads.tidy()
        assert left(room) == [job_id]


def test_a_damaged_body_fails_its_job(tmp_path):
    """Bytes that are not those that were received are not indexed."""
    with open_room(tmp_path) as room:
        room.embedder.failure = QuotaExhausted("no money")
        job_id = upload(room, "a.md")
        room.job(job_id, "waiting")
        (tmp_path / "uploads" / job_id).write_bytes(OTTERS[::-1])
        room.embedder.failure = None
        room.house.uploads.jobs.wake()
        job = room.job(job_id, "failed", "done")
        assert (job["state"], job["error_code"]) == ("failed", "upload_lost")
        assert str(tmp_path) not in job["error"]
        assert room.paths() == []


def _change(rooms, path: str, seed: int, steps: int) -> str | None:
    """Change one path through several servers at random; return the text that must stand there in the end."""
    drawn, expected = random.Random(seed), None
    for step in range(steps):
        room = drawn.choice(rooms)
        if drawn.random() < 0.6:
            text = f"{path} {step} {drawn.random()}"
            reply = room.raw(path, text.encode(), drawn.choice(["", "&wait=true"]))
            assert reply.status in (201, 202), reply.body
            expected = text
            continue
        found = [one["id"] for one in room.get("/documents")["documents"] if one["path"] == path]
        status = room.send("DELETE", f"/documents/{found[0]}").status if found else 404
        assert status in (204, 404)
        if status == 204:
            expected = None
    return expected


@pytest.mark.parametrize("steps", [12, pytest.param(400, marks=pytest.mark.soak)])
def test_what_was_acknowledged_last_stands_in_the_end(tmp_path, steps):
    """Paths are uploaded and removed at random through two servers: each ends as its last acknowledgement said."""
    with open_room(tmp_path) as one, open_room(tmp_path) as two:
        with ThreadPoolExecutor(4) as pool:
            ends = {
                path: pool.submit(_change, (one, two), path, seed, steps)
                for seed, path in enumerate(("a.txt", "b.txt", "c.txt", "d.txt"))
            }
        expected = {path: end.result() for path, end in ends.items()}
        for job in two.get("/jobs?limit=1000")["jobs"]:
            two.job(job["id"], "done")
        for room in (one, two):
            held = room.get("/documents")["documents"]
            texts = {one["path"]: room.get(f"/documents/{one['id']}/text")["text"] for one in held}
            assert texts == {path: text for path, text in expected.items() if text is not None}
            assert left(room) == []
