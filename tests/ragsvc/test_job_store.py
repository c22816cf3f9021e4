"""The jobs in `service.db`: their order, their states, what a removal and an end do to their documents."""

import pytest

from ingest.types import Rejection
from ragsvc.errors import JobFinished, UnknownCollection, UnknownJob
from ragsvc.job_store import JobStore, new_job_id
from ragsvc.jobs import NewFile
from ragsvc.service_store import ServiceStore


@pytest.fixture
def store(tmp_path):
    store = ServiceStore.open(tmp_path)
    store.add_collection("abc123", "papers")
    store.add_collection("def456", "books")
    yield store
    store.close()


@pytest.fixture
def jobs(store):
    return JobStore(store)


def add(jobs: JobStore, *paths: str, collection="abc123"):
    files = [NewFile(path, b"h" * 32, 5 * number, 5, 1) for number, path in enumerate(paths)]
    return jobs.add_upload(new_job_id(), collection, files, {"team": "x", "draft": True, "n": 1, "f": 1.0})


def states(jobs: JobStore, job) -> list[str]:
    return [file.state for file in jobs.files(job.id)]


def test_a_job_is_kept_as_it_came(jobs):
    """Documents in their order, metadata by type, the collection's name, and its first event."""
    job = add(jobs, "b.md", "a.md")
    assert (job.state, job.done, job.total, job.collection, job.cost_usd) == ("queued", 0, 2, "papers", 0.0)
    assert dict(job.metadata) == {"team": "x", "draft": True, "n": 1, "f": 1.0}
    assert [type(job.metadata[key]) for key in ("draft", "n", "f")] == [bool, int, float]
    assert [(file.path, file.start, file.size) for file in jobs.files(job.id)] == [("b.md", 0, 5), ("a.md", 5, 5)]
    assert [event.kind for event in jobs.events(job.id)] == ["accepted"]
    assert jobs.spooled_bytes() == 10
    for unknown in ("job_x", ""):
        with pytest.raises(UnknownJob):
            jobs.job(unknown)


def test_no_job_is_made_for_a_collection_that_is_gone(jobs, store):
    """A collection removed while an upload came in takes no job."""
    store.remove_collection("papers")
    with pytest.raises(UnknownCollection):
        add(jobs, "a.md")
    assert jobs.jobs(10) == ((), None)


def test_the_oldest_job_of_a_collection_is_taken_first(jobs):
    """Within a collection in the order of acceptance, one at a time; another collection's do not wait for it."""
    first, second, other = add(jobs, "a"), add(jobs, "b"), add(jobs, "c", collection="def456")
    assert set(jobs.due()) == {"abc123", "def456"}
    assert jobs.claim("abc123").id == first.id
    assert jobs.claim("abc123").id == first.id  # its process died: it is taken again
    assert jobs.job(first.id).attempts == 2
    assert jobs.claim("def456").id == other.id
    jobs.finish(first.id, "done")
    assert jobs.claim("abc123").id == second.id


def test_a_waiting_job_holds_up_its_collection_until_its_time(jobs):
    """Later jobs of the collection wait with it; `wake` ends the wait; an orderly end forgets the attempts."""
    first, second = add(jobs, "a"), add(jobs, "b")
    jobs.claim("abc123")
    jobs.let_wait(first.id, "upstream", "down", 3600)
    waiting = jobs.job(first.id)
    assert (waiting.state, waiting.error_code, waiting.error, waiting.attempts) == ("waiting", "upstream", "down", 0)
    assert jobs.claim("abc123") is None
    assert jobs.due() == ()
    assert jobs.waiting() == (waiting,)
    jobs.wake()
    assert jobs.claim("abc123").id == first.id
    assert jobs.job(first.id).error is None
    jobs.put_back(first.id)
    assert jobs.job(first.id).state == "queued"
    assert jobs.job(second.id).state == "queued"


def test_documents_are_decided_once(jobs):
    """The first decision about a document stands; the job's end decides what is left."""
    job = add(jobs, "a", "b", "c", "d")
    jobs.claim("abc123")
    jobs.applied(job.id, {"a": "doc_1"})
    jobs.unchanged(job.id, ["a", "b"])
    jobs.rejected(job.id, [Rejection("b", "empty"), Rejection("c", "damaged", "half")])
    assert states(jobs, job) == ["applied", "unchanged", "rejected", "pending"]
    assert (jobs.job(job.id).done, jobs.job(job.id).total) == (3, 4)
    jobs.finish(job.id, "cancelled")
    assert states(jobs, job)[3] == "cancelled"
    assert [(event.kind, event.path) for event in jobs.events(job.id)][2:] == [("rejected", "c"), ("cancelled", None)]
    assert jobs.spooled_bytes() == 0


def test_deaths_do_not_add_up_while_documents_are_decided(jobs):
    """A job whose processes die, each after it made a document visible, is not held to be deadly."""
    job = add(jobs, *"abcdefghijkl")
    for path in "abcdefghijkl":
        assert jobs.claim("abc123").attempts <= 2
        jobs.applied(job.id, {path: f"doc_{path}"})
    assert [jobs.claim("abc123").attempts for _ in range(3)] == [2, 3, 4]


def test_a_removal_withdraws_what_is_pending_and_nothing_else(jobs):
    """Only pending documents of that path, in unfinished jobs of that collection, are withdrawn."""
    done, running, queued = (add(jobs, "a", "b") for _ in range(3))
    other = add(jobs, "a", collection="def456")
    jobs.claim("abc123")
    jobs.applied(done.id, {"a": "doc_1"})
    jobs.finish(done.id, "done")
    jobs.claim("abc123")
    jobs.withdraw("abc123", "a")
    assert (states(jobs, done)[0], states(jobs, running), states(jobs, queued), states(jobs, other)) == (
        "applied", ["withdrawn", "pending"], ["withdrawn", "pending"], ["pending"],
    )  # fmt: skip
    assert jobs.pending(running.id) == {"b"}
    jobs.withdraw("abc123")
    assert states(jobs, queued) == ["withdrawn", "withdrawn"]


def test_cancelling_depends_on_the_state(jobs):
    """Queued and waiting jobs are cancelled at once, a running one is asked to stop, a finished one is refused."""
    running, queued = add(jobs, "a"), add(jobs, "b")
    jobs.claim("abc123")
    assert (jobs.cancel(running.id).state, jobs.cancel(running.id).cancelling) == ("running", True)
    assert jobs.cancel_requested(running.id)
    assert jobs.cancel(queued.id).state == "cancelled"
    jobs.finish(running.id, "cancelled")
    for job in (running, queued):
        with pytest.raises(JobFinished):
            jobs.cancel(job.id)
    with pytest.raises(UnknownJob):
        jobs.cancel("job_x")


def test_an_end_is_not_overwritten(jobs, store):
    """A job that was cancelled with its collection stays so, whatever its process says afterwards."""
    job = add(jobs, "a")
    jobs.claim("abc123")
    store.remove_collection("papers")
    jobs.finish(job.id, "done")
    jobs.put_back(job.id)
    jobs.let_wait(job.id, "upstream", "down", 0)
    assert jobs.job(job.id).state == "cancelled"
    assert states(jobs, job) == ["cancelled"]


def test_costs_add_up_and_unknown_stays_unknown(jobs):
    """Dollars of several attempts are added; once a price was not known the sum is not."""
    job = add(jobs, "a")
    jobs.progress(job.id, 1, 3, 100, 0.5)
    jobs.progress(job.id, 2, 3, 50, 0.25)
    assert (jobs.job(job.id).inputs_done, jobs.job(job.id).tokens, jobs.job(job.id).cost_usd) == (2, 150, 0.75)
    jobs.progress(job.id, 3, 3, 50, None)
    assert jobs.job(job.id).cost_usd is None


def test_old_jobs_are_forgotten_and_open_ones_are_not(jobs, store):
    """Finished jobs beyond the number or the age go with their documents and events; unfinished ones stay."""
    ended = [add(jobs, "a") for _ in range(4)]
    for _ in ended:
        jobs.finish(jobs.claim("abc123").id, "done")
    still = add(jobs, "b")
    jobs.forget(days=30, most=3)
    assert [job.id for job in jobs.jobs(10)[0]] == [still.id, ended[3].id, ended[2].id]
    jobs.forget(days=-1, most=100)
    assert [job.id for job in jobs.jobs(10)[0]] == [still.id]
    with store.transaction() as connection:
        for table in ("job_file", "job_event"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
