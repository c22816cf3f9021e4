"""Trials: a client is killed, what it left is checked, the same command runs again, and its end is checked."""

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.faults.checker import Finding, View, check, check_end, view
from tests.faults.nursery import Nursery, Order
from tests.faults.steps import Step, drawn, small
from tests.faults.tally import Tally


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
        assert self.findings(order, self._end(Path(order.folder), Path(order.witness))) == []

    def _end(self, folder: Path, witness: Path) -> list[Finding]:
        # In a drawn script a fold may meet the thread that builds beside the searches: it is left to the next one.
        return check_end(folder, witness, self.script, self.undisturbed, same_segments=self.seed is None)

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
        found += self._end(folder, witness)
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
