"""Trials and counters of the fault tests, and how they are told at the end of a run."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.faults.checker import KINDS, Finding, Kind


@dataclass
class Tally:
    """What a test has tried and counted."""

    name: str
    trials: int = 0
    kills: int = 0
    counters: Counter[Kind] = field(default_factory=Counter)
    found: list[Finding] = field(default_factory=list)

    def add(self, kinds: Sequence[Kind]) -> None:
        self.trials += 1
        self.counters.update(kinds)

    def told(self) -> str:
        return json.dumps([self.name, self.trials, self.kills, [self.counters[kind] for kind in KINDS]])


def table(told: Iterable[str]) -> list[str]:
    """Return the lines of all tallies, and of their sum."""
    rows = sorted(json.loads(one) for one in told)
    heads = ["trials", "kills", *KINDS]
    total = ["all", *(sum(column) for column in zip(*((row[1], row[2], *row[3]) for row in rows), strict=True))]
    lines = [[row[0], row[1], row[2], *row[3]] for row in rows if row[1]]
    width = max(len(str(line[0])) for line in [*lines, total])
    shown = [" " * width + "".join(f"{head:>14}" for head in heads)]
    for line in [*lines, total]:
        shown.append(f"{line[0]:<{width}}" + "".join(f"{value:>14}" for value in line[1:]))
    return shown
