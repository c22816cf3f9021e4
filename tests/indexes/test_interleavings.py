"""Two writers at once, in every order: what was acknowledged last stands, and nothing that was removed comes back.

One writer plans, embeds and applies, as a run does; another adds, edits, renames and removes in each of the gaps.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from indexes.collection import Collection
from indexes.errors import NotFound
from indexes.types import ChangeSet, Comparison, DocumentRename, ManifestEntry, Source
from tests.indexes.corpus import STAT, WORDS, embed, put, query_vector, upsert

P, Q, OLD = "p", "q", "o"
OPERATIONS = ("put", "remove", "away", "back", "drop")
"""Of the other writer: write P, remove it by hand, rename P to Q, rename Q to P, remove the source."""
PLANS = ("add or edit", "rename", "rename and edit", "remove")
"""Of the run: a file at P, OLD renamed to P, the same with another text, a file that is gone from P."""
GAPS = 4
"""Before the plan, before the vectors come, before the changes are applied, after that."""
Case = tuple[str, bool, tuple[tuple[int, str], ...]]


@dataclass(frozen=True)
class Doc:
    """What the oracle knows of a document: which one it is, its version, its text."""

    serial: int
    version: int
    text: str


@dataclass
class Trial:
    """One interleaving over a source of its own."""

    collection: Collection
    other: Collection
    source: Source
    held: dict[str, Doc] | None = field(default_factory=dict)
    """The oracle: what is at each path; None where the source is removed."""
    removed: dict[str, int] = field(default_factory=dict)
    """When a path was removed by hand, of those that have not come back."""
    written: int = 0

    def text(self, who: str) -> str:
        self.written += 1
        return f"{WORDS[self.written % len(WORDS)]} {who} {self.written} in {self.source.root}\n"

    def entry(self, path: str) -> ManifestEntry | None:
        return self.other.manifest(self.source.id).entries.get(path)

    def hold(self, path: str, text: str, old: Doc | None = None) -> None:
        self.held[path] = Doc(old.serial, old.version + 1, text) if old else Doc(self.written, 1, text)
        self.removed.pop(path, None)

    def move(self, old: str, new: str) -> None:
        self.held[new] = self.held.pop(old)
        self.removed.pop(new, None)

    # The other writer: each operation is planned and done at once

    def put(self) -> None:
        entry, text = self.entry(P), self.text("other")
        put(self.other, self.source, upsert(P, text, entry and (entry.document_id, entry.version)))
        self.hold(P, text, self.held.get(P))

    def remove(self) -> None:
        if entry := self.entry(P):
            self.other.remove_document(entry.document_id)
            del self.held[P]
            self.written += 1
            self.removed[P] = self.written

    def away(self) -> None:
        self.rename(P, Q)

    def back(self) -> None:
        self.rename(Q, P)

    def rename(self, old: str, new: str) -> None:
        if (entry := self.entry(old)) and new not in self.held:
            changes = ChangeSet(self.source.id, renames=(DocumentRename(entry.document_id, new, STAT),))
            assert self.other.apply(changes).conflicts == ()
            self.move(old, new)

    def drop(self) -> None:
        self.other.remove_source(self.source.id)
        self.held = None

    # The run

    def run(self, plan: str, between: Callable[[int], None]) -> None:
        between(0)
        if self.held is None:
            return
        manifest = self.collection.manifest(self.source.id)
        planned, when, text = dict(self.held), self.written, self.text("run")
        moving = plan.startswith("rename") and P not in planned
        old = OLD if moving else P
        entry = manifest.entries.get(old)
        one = upsert(P, text, entry and (entry.document_id, entry.version))
        changes = ChangeSet(
            self.source.id,
            upserts=() if plan == "remove" or (moving and plan == "rename") else (one,),
            renames=(DocumentRename(entry.document_id, P, STAT),) if moving else (),
            removals=(entry.document_id,) if plan == "remove" and entry else (),
            as_of=manifest.changes,
        )
        between(1)
        embed(self.collection, one)
        between(2)
        if self.held is not None or not changes:
            self.apply(changes, planned, when, text)
        else:
            with pytest.raises(NotFound):
                self.collection.apply(changes)
        between(3)

    def apply(self, changes: ChangeSet, planned: dict[str, Doc], when: int, text: str) -> None:
        """Apply, where nothing else was acknowledged since the plan; the oracle says whether it was."""
        report = self.collection.apply(changes)
        if changes.removals:  # a document is taken away wherever it stands by now
            self.held = {path: doc for path, doc in self.held.items() if doc.serial != planned[P].serial}
        if not (changes.renames or changes.upserts):
            return
        by_hand = self.removed.get(P, 0) > when
        free = not by_hand and self.held.get(P) == planned.get(P)
        if changes.renames:
            free = free and OLD in self.held
        assert set(report.conflicts) == (set() if free else {P})
        assert set(report.removed_by_hand) == ({P} if by_hand else set())
        if free and changes.renames:
            self.move(OLD, P)
        if free and changes.upserts:
            self.hold(P, text, self.held.get(P))

    # What is seen

    def check(self) -> None:
        where = Comparison("source", "eq", self.source.root)
        for collection in (self.collection, self.other):
            texts = {doc.text for doc in (self.held or {}).values()}
            if self.held is None:
                assert self.source not in collection.sources()
            else:
                entries = collection.manifest(self.source.id).entries.values()
                seen = {one.path: (one.version, collection.text(one.document_id).text) for one in entries}
                assert seen == {path: (doc.version, doc.text) for path, doc in self.held.items()}
            for mode in ("dense", "lexical"):
                hits = collection.search("in", query_vector("x"), 50, mode, where).hits
                assert {hit.text for hit in hits} == texts
                assert len(hits) == len(texts)


def cases(longest: int, gaps: Sequence[int]) -> Iterator[Case]:
    for length in range(1, longest + 1):
        for operations in itertools.product(OPERATIONS, repeat=length):
            for placed in itertools.combinations_with_replacement(gaps, length):
                for plan, present in itertools.product(PLANS, (False, True)):
                    yield plan, present, tuple(zip(placed, operations, strict=True))


def run_all(folder: Path, longest: int, gaps: Sequence[int]) -> int:
    count = 0
    with Collection.open(folder) as collection, Collection.open(folder) as other:
        for count, (plan, present, steps) in enumerate(cases(longest, gaps), 1):
            source = collection.add_source(f"/s{count}", "folder")
            trial = Trial(collection, other, source)
            start = {OLD: trial.text("start"), **({P: trial.text("start")} if present else {})}
            put(collection, source, *(upsert(path, text) for path, text in start.items()))
            trial.held = {path: Doc(number, 1, text) for number, (path, text) in enumerate(start.items())}

            def between(gap: int, trial: Trial = trial, steps: tuple[tuple[int, str], ...] = steps) -> None:
                for at, operation in steps:
                    if at == gap and trial.held is not None:
                        getattr(trial, operation)()

            try:
                trial.run(plan, between)
                trial.check()
            except AssertionError as error:
                error.add_note(f"{plan}, P {'present' if present else 'absent'}, {steps}")
                raise
            if trial.held is not None:
                collection.remove_source(source.id)
    return count


def test_every_order_of_two_writers(memory: Path) -> None:
    """One or two operations before or after a run applies: documents, words and vectors are those acknowledged last."""
    assert run_all(memory, longest=2, gaps=(2, 3)) > 600


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_longer_order_of_two_writers(memory: Path) -> None:
    """The same with up to three operations, before the plan as well."""
    assert run_all(memory, longest=3, gaps=range(GAPS)) > 20_000
