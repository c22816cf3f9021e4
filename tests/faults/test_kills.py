"""A client of the store is killed wherever it can be: what was acknowledged is there, once, whole, and found.

At every named point, at every system call that writes, at random moments, and while it recovers. After each kill the
collection is opened, checked, opened and checked again; then the same command runs to its end, which must be the end
of a run that nobody disturbed. Trials and counters are printed at the end of the run.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.broken import WRITERS
from tests.faults.checker import Kind
from tests.faults.nursery import Nursery, memory_folder, nursery, why_not_traced
from tests.faults.steps import DELTA_ROWS
from tests.faults.tally import Tally
from tests.faults.trials import Bench, until_not_reached

CALLS = ("write", "ftruncate", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat")
"""Those that write, sync, rename or remove, but for the many `pwrite64` of SQLite."""
NOT_TRACED = why_not_traced()
traced = pytest.mark.skipif(NOT_TRACED is not None, reason=str(NOT_TRACED))


@pytest.fixture(scope="module")
def clients() -> Iterator[Nursery]:
    with nursery() as started:
        yield started


@pytest.fixture
def room() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def tally(record_property, request) -> Iterator[Tally]:
    counted = Tally(request.node.name)
    yield counted
    record_property("faults", counted.told())


@pytest.fixture
def bench(clients, room, tally) -> Bench:
    return Bench(clients, room, tally)


def test_the_script_folds_and_merges(bench):
    """The small script does a step of every kind, and an undisturbed run of it folds and merges segments."""
    folds = sum(step.kind in ("fold", "fold_if_due") for step in bench.script)
    assert folds >= 4
    assert len(bench.undisturbed.segments) == 1  # size tiers: the fourth makes them one
    assert bench.undisturbed.segments[0][2] > 3 * DELTA_ROWS


def test_a_kill_at_every_point(bench):
    """Killed at every named point of a run, one after the other: all counters are 0."""
    assert until_not_reached(bench.at_point) > 50
    assert bench.tally.found == []


@traced
@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_every_call(bench, call):
    """Killed at every call that makes, syncs, renames or removes something: all counters are 0."""
    until_not_reached(lambda n: bench.at_call(call, n))
    assert bench.tally.found == []


@traced
def test_a_kill_at_many_writes(bench):
    """Killed at every seventeenth write of a page: all counters are 0."""
    assert until_not_reached(lambda n: bench.at_call("pwrite64", n), stride=17) > 100
    assert bench.tally.found == []


@traced
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_kill_at_every_write(bench):
    """Killed at every write of a page: all counters are 0."""
    assert until_not_reached(lambda n: bench.at_call("pwrite64", n)) > 100
    assert bench.tally.found == []


def moments(clients: Nursery, room: Path, tally: Tally, seeds: range, each: int) -> None:
    for seed in seeds:
        bench = Bench(clients, room / str(seed), tally, seed)
        dice = random.Random(seed)
        for _ in range(each):
            bench.at_moments(dice, kills=dice.randint(1, 3))
    assert tally.found == []


def test_kills_at_random_moments(clients, room, tally):
    """Fifty runs of drawn scripts, each killed up to three times at random moments: all counters are 0."""
    moments(clients, room, tally, range(5), 10)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_kills_at_random_moments(clients, room, tally):
    """The same a thousand times, over fifty scripts."""
    moments(clients, room, tally, range(100, 150), 20)


def recoveries(bench: Bench, stride: int) -> None:
    def trial(n: int) -> bool:
        until_not_reached(lambda m: bench.while_recovering(n, m))
        return bench.at_point(n)

    assert until_not_reached(trial, stride) > 50
    assert bench.tally.found == []


def test_kills_while_recovering(bench):
    """Killed at every 29th point, and again at every point of the run that goes on: all counters are 0."""
    recoveries(bench, stride=29)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kills_while_recovering_from_every_point(bench):
    """The same from every point."""
    recoveries(bench, stride=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1008))
def test_a_kill_at_every_point_of_a_drawn_script(clients, room, tally, seed):
    """Killed at every named point of longer runs that chance made: all counters are 0."""
    until_not_reached(Bench(clients, room, tally, seed).at_point)
    assert tally.found == []


@pytest.mark.parametrize("name", [name for name, writer in WRITERS.items() if writer.trips])
def test_a_broken_writer_is_caught(clients, room, name):
    """The null control: a writer that is broken on purpose trips the counter that is meant for it."""
    bench = Bench(clients, room, Tally(f"control: {name}"))
    expected: Kind = WRITERS[name].trips

    def trial(n: int) -> bool:
        return bench.at_point(n, broken=name) and not bench.tally.counters[expected]

    until_not_reached(trial, first=20)  # the points before it are those of the creation
    assert bench.tally.counters[expected] > 0
