"""A client of the store is killed wherever it can be: what was acknowledged is there, once, whole, and found.

At every named point, at every system call that writes, at random moments, and while it recovers. After each kill the
collection is opened, checked, opened and checked again; then the same command runs to its end, which must be the end
of a run that nobody disturbed. Trials and counters are printed at the end of the run.
"""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.faults.broken import WRITERS
from tests.faults.checker import Finding, Kind, View, check, check_end, view
from tests.faults.nursery import Nursery, Order, memory_folder, nursery, why_not_traced
from tests.faults.steps import DELTA_ROWS, Step, drawn, small
from tests.faults.tally import Tally

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


@dataclass
class Bench:
    """Trials of one script: each has a folder of its own, and goes when it is done."""

    clients: Nursery
    room: Path
    tally: Tally
    seed: int | None = None
    script: tuple[Step, ...] = field(init=False)
    undisturbed: View = field(init=False)
    seconds: float = field(init=False)
    """That a run takes which nobody disturbs."""
    trials: int = 0

    def __post_init__(self) -> None:
        self.script = small() if self.seed is None else drawn(self.seed)
        order, began = self.order(), time.monotonic()
        assert not self.clients.run(order)
        self.seconds = time.monotonic() - began
        self.undisturbed = view(Path(order.folder))
        assert (
            self.findings(order, check_end(Path(order.folder), Path(order.witness), self.script, self.undisturbed))
            == []
        )

    def order(self, **fields: object) -> Order:
        self.trials += 1
        at = self.room / str(self.trials)
        at.mkdir(parents=True)
        return Order(str(at / "collection"), str(at / "witness"), self.seed, **fields)

    def findings(self, order: Order, found: list[Finding]) -> list[Finding]:
        return [(kind, f"{said} ({order})") for kind, said in found]

    def trial(self, order: Order, *kills: Callable[[Order], bool]) -> bool:
        """Kill, check, kill, check ..., complete, check; return whether the last of the kills came."""
        folder, witness = Path(order.folder), Path(order.witness)
        found: list[Finding] = []
        killed = False
        for kill in kills:
            killed = kill(order)
            self.tally.kills += killed
            found += check(folder, witness, self.script) if folder.exists() else []
        if order.broken and found:  # caught: what it left need not be brought to an end
            self.tally.add([kind for kind, _ in found])
            return killed
        assert not self.clients.run(replace(order, die_at=0, traced=False, most=None, broken=None))
        found += check_end(folder, witness, self.script, self.undisturbed)
        self.tally.add([kind for kind, _ in found])
        self.tally.found += self.findings(order, found)
        shutil.rmtree(folder.parent)
        return killed

    def at_point(self, n: int, **fields: object) -> bool:
        return self.trial(self.order(die_at=n, **fields), self.clients.run)

    def at_call(self, call: str, n: int) -> bool:
        order = self.order(traced=True)
        return self.trial(order, lambda order: self.clients.run_traced(order, f"{call}:signal=KILL:when={n}"))

    def at_moments(self, dice: random.Random, kills: int) -> bool:
        """Kill at random moments, one run after another."""

        def kill(order: Order) -> bool:
            return self.clients.run_for(order, dice.random() * self.seconds)

        return self.trial(self.order(), *[kill] * kills)

    def while_recovering(self, n: int, m: int) -> bool:
        """Kill at point `n`, then the process that goes on at its point `m`."""

        def again(order: Order) -> bool:
            return self.clients.run(replace(order, die_at=m, most=1))

        return self.trial(self.order(die_at=n), self.clients.run, again)


def until_not_reached(trial: Callable[[int], bool], stride: int = 1, first: int = 1) -> int:
    """Run trials `first`, `first` + stride, ... until one is not killed, and return the number of the last that was."""
    n = first
    while trial(n):
        n += stride
        assert n < 10_000, "the points never end"
    return n - stride


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
