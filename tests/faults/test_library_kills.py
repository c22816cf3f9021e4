"""A process that makes and removes collections, and works on jobs, is killed at every named point.

What it acknowledged is listed and opens; what it removed is gone; a job is there once, in the state it was brought to.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
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
from tests.faults.nursery import Nursery, Order, memory_folder, nursery, why_not_traced
from tests.faults.shelves import BROKEN, JOB, SCRIPT, after, library_of
from tests.faults.tally import Tally
from tests.faults.trials import until_not_reached

NOT_TRACED = why_not_traced()
traced = pytest.mark.skipif(NOT_TRACED is not None, reason=str(NOT_TRACED))
CALLS = ("pwrite64", "write", "ftruncate", "fsync", "fdatasync", "rename", "unlink", "unlinkat")
Kill = Callable[[Order], bool]
"""Starts a client, kills it, and says whether the kill came before its end."""


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


def at_point(clients: Nursery, n: int) -> Kill:
    return lambda order: clients.run(replace(order, die_at=n))


def at_call(clients: Nursery, call: str, n: int) -> Kill:
    return lambda order: clients.run_traced(replace(order, traced=True), f"{call}:signal=KILL:when={n}")


def survive(clients: Nursery, tally: Tally, *kills: Kill, broken: str | None = None) -> bool:
    """Kill a process, then the one that goes on, as each of `kills` says; complete; return whether the last came."""
    with memory_folder() as room:
        data_dir, witness = room / "data", room / "witness"
        order = Order(str(data_dir), str(witness), work="library", broken=broken)
        found, killed = list[Finding](), False
        for kill in kills:
            killed = kill(order)
            tally.kills += killed
            if data_dir.exists():
                found += [*check(data_dir, witness), *check(data_dir, witness)]
        if broken and found:  # caught: what it left need not be brought to an end
            tally.add([kind for kind, _ in found])
            return False
        assert not clients.run(replace(order, broken=None))
        found += check(data_dir, witness)
        with closing(ServiceStore.open(data_dir)) as store:
            names = {row.name for row in store.collections()}
            kept = {path.name for path in (data_dir / "collections").iterdir()}
            listed = {row.id for row in store.collections()}
        if names != after(len(SCRIPT)):
            found.append(("wrong_answer", f"at the end there are {names}"))
        if len(kept - listed) > len(kills):
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
    assert until_not_reached(lambda n: survive(clients, tally, at_point(clients, n))) > 60
    assert tally.found == []
    assert DEFAULT not in after_any(len(SCRIPT))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kills_while_that_recovers(clients, tally):
    """Killed at every point, and the next process at every third of its points."""

    def trial(n: int) -> bool:
        first = at_point(clients, n)
        until_not_reached(lambda m: survive(clients, tally, first, at_point(clients, m)), stride=3)
        return survive(clients, tally, first)

    assert until_not_reached(trial) > 60
    assert tally.found == []


@traced
def test_kills_of_that_at_many_writes(clients, tally):
    """Killed at every twelfth write of a page, and so behind the header of a new log: the same."""
    killed = until_not_reached(lambda n: survive(clients, tally, at_call(clients, "pwrite64", n)), stride=12)
    assert killed > 300
    assert tally.found == []


@traced
@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("call", CALLS)
def test_kills_of_that_at_every_call(clients, tally, call):
    """Killed at every call that writes, syncs, renames or removes something: the same."""
    until_not_reached(lambda n: survive(clients, tally, at_call(clients, call, n)))
    assert tally.found == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_library_is_caught(clients, name):
    """The null control: making, removing or finishing in the wrong order trips the counter that is meant for it."""
    tally = Tally(f"control: {name}")
    until_not_reached(lambda n: survive(clients, tally, at_point(clients, n), broken=name))
    assert tally.counters[BROKEN[name][0]] > 0
