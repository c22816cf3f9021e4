"""A process that makes and removes collections, and works on jobs, is killed at every named point.

What it acknowledged is listed and opens; what it removed is gone; a job is there once, in the state it was brought to.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from indexes.errors import IndexesError
from ragsvc.errors import RagsvcError
from ragsvc.job_store import JobStore
from ragsvc.library import DEFAULT
from ragsvc.service_store import ServiceStore
from tests.faults.checker import Finding
from tests.faults.client import read_witness
from tests.faults.nursery import Nursery, Order, memory_folder, nursery
from tests.faults.shelves import BROKEN, JOB, SCRIPT, after, library_of
from tests.faults.tally import Tally


def check(data_dir: Path, witness: Path) -> Iterator[Finding]:
    """Compare what is listed, what opens and what is known of jobs with the witness."""
    record = read_witness(witness)
    done, begun = max(record.done, 0), max(record.begun, 0)
    before, ahead = after(done), after(begun)
    try:
        with closing(ServiceStore.open(data_dir)) as store, closing(library_of(data_dir, store)) as library:
            listed = [row.name for row in store.collections()]
            yield from (("duplicate", f"{name} is listed twice") for name, n in Counter(listed).items() if n > 1)
            yield from (("lost", f"{name} is not listed") for name in (before & ahead) - set(listed))
            yield from (("phantom", f"nobody made {name}") for name in set(listed) - after_any(begun))
            gone = (set(listed) & after_any(begun)) - before - ahead
            yield from (("resurrected", f"{name} was removed") for name in gone)
            for name in listed:
                collection = library.open(name)
                collection.status()
            yield from checked_jobs(JobStore(store), done, begun)
    except (IndexesError, RagsvcError) as error:
        yield "lost", f"it can't be opened: {error}"
    with closing(sqlite3.connect(data_dir / "service.db")) as raw:
        if (said := raw.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            yield "wrong_answer", f"integrity_check: {said}"


def after_any(steps: int) -> set[str]:
    return set().union(*(after(number) for number in range(steps + 1)))


def checked_jobs(jobs: JobStore, done: int, begun: int) -> Iterator[Finding]:
    known = {job.id: job for job in jobs.jobs(100)[0]}
    for number, (deed, name) in enumerate(SCRIPT[:begun]):
        job = known.pop(JOB.format(name, number), None)
        if deed != "upload":
            continue
        if job is None:
            if number < done:
                yield "lost", f"the job of step {number} was accepted"
            continue
        worked = ("do", name) in SCRIPT[number:done]
        if worked and job.state != "done":
            yield "lost", f"the job of step {number} was done, and is {job.state}"
        if job.state == "done" and [file.state for file in jobs.files(job.id)] != ["applied"]:
            yield "half_visible", f"the job of step {number} is done, its files are not"
    yield from (("phantom", f"nobody sent {job}") for job in known)


@pytest.fixture(scope="module")
def clients() -> Iterator[Nursery]:
    with nursery("library") as started:
        yield started


def survive(clients: Nursery, tally: Tally, n: int, *again: int, broken: str | None = None) -> bool:
    """Kill at point `n`, then the process that goes on at those of `again`; complete; return whether the last came."""
    with memory_folder() as room:
        data_dir, witness = room / "data", room / "witness"
        order = Order(str(data_dir), str(witness), die_at=n, work="library")
        found, killed = list[Finding](), False
        for point in (n, *again):
            killed = clients.run(replace(order, die_at=point, broken=broken))
            tally.kills += killed
            if data_dir.exists():
                found += [*check(data_dir, witness), *check(data_dir, witness)]
        if broken and found:  # caught: what it left need not be brought to an end
            tally.add([kind for kind, _ in found])
            return False
        assert not clients.run(replace(order, die_at=0))
        found += check(data_dir, witness)
        with closing(ServiceStore.open(data_dir)) as store:
            names = {row.name for row in store.collections()}
            kept = {path.name for path in (data_dir / "collections").iterdir()}
            listed = {row.id for row in store.collections()}
        if names != after(len(SCRIPT)):
            found.append(("wrong_answer", f"at the end there are {names}"))
        if len(kept - listed) > len((n, *again)):
            found.append(("wrong_answer", f"left over are {kept - listed}"))
    tally.add([kind for kind, _ in found])
    tally.found += found
    return killed


@pytest.fixture
def tally(record_property, request) -> Iterator[Tally]:
    counted = Tally(request.node.name)
    yield counted
    record_property("faults", counted.told())


def test_kills_of_making_and_removing_collections(clients, tally):
    """Killed at every point: what is listed opens, what was removed is gone, jobs are where they were brought."""
    n = 1
    while survive(clients, tally, n):
        n += 1
    assert n > 60
    assert tally.found == []
    assert DEFAULT not in after_any(len(SCRIPT))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kills_while_that_recovers(clients, tally):
    """Killed at every point, and the next process at every third of its points."""
    n = 1
    while survive(clients, tally, n):
        m = 1
        while survive(clients, tally, n, m):
            m += 3
        n += 1
    assert tally.found == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_library_is_caught(clients, name):
    """The null control: making, removing or finishing in the wrong order trips the counter that is meant for it."""
    tally = Tally(f"control: {name}")
    n = 1
    while survive(clients, tally, n, broken=name):
        n += 1
    assert tally.counters[BROKEN[name][0]] > 0
