"""Removals while a run or an upload is under way, its vectors in flight at the stand-in for OpenAI: none is undone.

Every operation is done in every gap. What was acknowledged last is what documents, words and vectors hold.
"""

import asyncio
import itertools
import shutil
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.types import Comparison
from ragsvc.compose import House
from ragsvc.errors import SourceRemoved
from ragsvc.indexing import IndexOutcome, IndexRequest, index
from ragsvc.settings import Settings
from ragsvc.upload_run import ROOT
from tests.e2e.processes import Holding
from tests.openai_fake import OpenAIFake
from tests.ragsvc.api.rooms import Room, served

P, OLD = "p.md", "old.md"
EMBEDDED, APPLYING, DONE = "in flight", "before it applies", "after it"
PLANNED = "planned"


def settings(data_dir: Path, fake: OpenAIFake) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=data_dir,
        openai_api_key=fake.key,
        openai_base_url=fake.base_url,
        chat_dialect="openai",
    )


def text_of(word: str, number: int) -> str:
    return f"# Pumps\n\nThe pump {word} of trial{number} is primed with water.\n"


def held(collection: Collection, root: str) -> dict[str, str]:
    """What a source holds, path -> text, equal in text, words and vectors."""
    source = next((source for source in collection.sources() if source.root == root), None)
    if source is None:
        return {}
    entries = collection.manifest(source.id).entries.values()
    found = {entry.path: collection.text(entry.document_id).text for entry in entries}
    where = Comparison("source", "eq", root)
    query = np.eye(1, collection.spec.embedding.dimensions, dtype=np.float32)[0]
    for mode in ("lexical", "dense"):
        hits = collection.search("pump", query, 1000, mode, where).hits
        places = [(hit.path, hit.text) for hit in hits] + [(place.path, hit.text) for hit in hits for place in hit.also]
        assert len(places) == len(found)
        assert dict(places).keys() == found.keys()
        assert all(text in found[path] for path, text in places)
    assert collection.status().missing_vectors == 0
    return found


def orders(operations: Sequence[str], gaps: Sequence[str], longest: int) -> Iterator[tuple[tuple[str, str], ...]]:
    """Every sequence of operations, each in every gap."""
    for length in range(1, longest + 1):
        for chosen in itertools.product(operations, repeat=length):
            for placed in itertools.combinations_with_replacement(gaps, length):
                yield tuple(zip(placed, chosen, strict=True))


# A folder's run


class Loop:
    """An event loop in a thread of its own: a service is used in one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class FolderTrial:
    """One run over a folder of its own, with another process at work in its gaps."""

    def __init__(self, loop: Loop, houses: tuple[House, House], fake: Holding, folder: Path, number: int) -> None:
        self.loop, self.fake, self.folder, self.number = loop, fake, folder, number
        self.ours, self.theirs = houses
        self.files: dict[str, str] = {}
        self.removed: set[str] = set()
        self.dropped = False
        self.steps: tuple[tuple[str, str], ...] = ()

    def begin(self, kind: str) -> None:
        """Make what stood there before, index it, and change the folder."""
        self.folder.mkdir()
        start = {"new": {}, "edited": {P: "first"}}.get(kind, {OLD: "first"})
        self.renamed = kind == "renamed"
        for path, word in {"stays.md": "stays", **start}.items():
            self.write(path, word)
        self.loop.submit(self.index()).result()
        if kind in ("renamed", "replaced"):
            (self.folder / OLD).rename(self.folder / P)
            self.files[P] = self.files.pop(OLD)
        if kind != "renamed":
            self.write(P, "second")
        self.write("more.md", "more")  # so that there is something to embed in each trial

    def write(self, path: str, word: str) -> None:
        self.files[path] = text_of(f"{path.removesuffix('.md')} {word}", self.number)
        (self.folder / path).write_text(self.files[path])

    async def index(self) -> IndexOutcome:
        house = self.ours
        request = IndexRequest(self.folder)
        return await index(
            request, house.settings, house.library, house.embedder_for, on_plan=lambda _: self.gap(PLANNED)
        )

    def gap(self, gap: str) -> None:
        for at, operation in self.steps:
            if at == gap:
                getattr(self, operation)()

    def run(self, steps: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = steps
        collection = self.ours.library.open("default")
        whole = collection.apply

        def apply(changes):
            if changes.upserts:
                self.gap(APPLYING)
            return whole(changes)

        monkeypatch.setattr(collection, "apply", apply)
        self.fake.hold()
        run = self.loop.submit(self.index())
        while not self.fake.arrived.wait(0.01) and not run.done():
            pass
        self.gap(EMBEDDED)
        self.fake.free.set()
        if self.dropped or (APPLYING, "drop") in steps:
            with pytest.raises(SourceRemoved, match="was removed"):
                run.result()
        else:
            report = run.result().report
            assert set(report.removed_by_hand) <= set(report.conflicts) <= self.removed
            if not self.renamed:  # a document that was about to be renamed was removed under its old path
                assert set(report.removed_by_hand) == set(report.conflicts)
        monkeypatch.undo()
        self.gap(DONE)
        assert held(self.theirs.library.open("default"), str(self.folder)) == self.expected()
        self.steps = ()
        self.loop.submit(self.index()).result()
        assert held(self.theirs.library.open("default"), str(self.folder)) == self.files

    def expected(self) -> dict[str, str]:
        return {} if self.dropped else {path: text for path, text in self.files.items() if path not in self.removed}

    def remove(self) -> None:
        """Remove by hand what stands at P, or is about to."""
        collection = self.theirs.library.open("default")
        source = next((source for source in collection.sources() if source.root == str(self.folder)), None)
        entries = collection.manifest(source.id).entries if source else {}
        entry = entries.get(P) or entries.get(OLD)
        if entry is not None:
            self.theirs.uploads.remove(entry.document_id)
            self.removed.add(P if self.renamed else entry.path)

    def drop(self) -> None:
        collection = self.theirs.library.open("default")
        source = next((source for source in collection.sources() if source.root == str(self.folder)), None)
        if source is not None:
            self.theirs.uploads.remove_source("default", source.id)
            self.dropped = True


def run_folders(tmp_path: Path, fake: Holding, monkeypatch: pytest.MonkeyPatch, longest: int) -> int:
    loop, houses = Loop(), (House(settings(tmp_path / "data", fake)), House(settings(tmp_path / "data", fake)))
    kinds = ("new", "edited", "renamed", "replaced")
    gaps = (PLANNED, EMBEDDED, APPLYING, DONE)
    number = 0
    for number, (kind, steps) in enumerate(itertools.product(kinds, orders(("remove", "drop"), gaps, longest)), 1):
        trial = FolderTrial(loop, houses, fake, tmp_path / f"docs{number}", number)
        try:
            trial.begin(kind)
            trial.run(steps, monkeypatch)
        except AssertionError as error:
            error.add_note(f"{kind}: {steps}")
            raise
        shutil.rmtree(trial.folder)
    for house in houses:
        loop.submit(house.aclose()).result()
    loop.close()
    return number


def test_a_removal_during_a_run_holds(tmp_path, fake, monkeypatch):
    """By hand or with its source, at each gap of a run: what is removed stays so, the next run brings it back."""
    assert run_folders(tmp_path, fake, monkeypatch, longest=1) == 32


@pytest.mark.soak
def test_two_removals_during_a_run_hold(tmp_path, fake, monkeypatch):
    """The same with up to two removals."""
    assert run_folders(tmp_path, fake, monkeypatch, longest=2) > 150


# Uploads


class UploadTrial:
    """One upload of a path of its own, with other requests in the gaps of its job."""

    def __init__(self, room: Room, fake: Holding, number: int) -> None:
        self.room, self.fake, self.number = room, fake, number
        self.path, self.sent = f"{number}.md", 0
        self.expected: str | None = None
        self.jobs: list[str] = []
        self.steps: tuple[tuple[str, str], ...] = ()

    @property
    def collection(self) -> Collection:
        return self.room.house.library.open("default")

    def post(self) -> None:
        self.sent += 1
        text = text_of(f"text{self.sent}", self.number)
        reply = self.room.raw(self.path, text.encode(), "")
        assert reply.status == 202, reply.body
        self.jobs.append(reply.json["job"]["id"])
        self.expected = text

    def delete(self) -> None:
        for document in self.room.get("/documents?source=upload")["documents"] if self.collection.sources() else ():
            if document["path"] == self.path:
                reply = self.room.send("DELETE", f"/documents/{document['id']}")
                assert reply.status == 204, reply.body
                self.expected = None

    def drop(self) -> None:
        for source in self.collection.sources():
            self.room.house.uploads.remove_source("default", source.id)
            self.expected = None

    def gap(self, gap: str) -> None:
        for at, operation in self.steps:
            if at == gap:
                getattr(self, operation)()

    def run(self, present: bool, steps: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch) -> None:
        if present:
            self.post()
            self.settle()
        self.steps = steps
        self.fake.hold()
        monkeypatch.setattr(self.collection, "add_vectors", self.stored(self.collection.add_vectors))
        self.post()
        assert self.fake.arrived.wait(20)
        self.gap(EMBEDDED)
        self.fake.free.set()
        self.settle()
        monkeypatch.undo()
        self.gap(DONE)
        self.settle()
        found = held(self.collection, ROOT)
        assert found.get(self.path) == self.expected

    def stored(self, whole):
        """What follows the vectors, and comes before the documents are applied."""
        first = iter([True])

        def add_vectors(*arguments):
            whole(*arguments)
            if next(first, False):
                self.gap(APPLYING)

        return add_vectors

    def settle(self) -> None:
        for job in self.jobs:
            self.room.job(job, "done")


def run_uploads(tmp_path: Path, fake: Holding, monkeypatch: pytest.MonkeyPatch, longest: int) -> int:
    number = 0
    with served(House(settings(tmp_path / "data", fake))) as room:
        chosen = orders(("delete", "post", "drop"), (EMBEDDED, APPLYING, DONE), longest)
        for number, (steps, present) in enumerate(itertools.product(chosen, (False, True)), 1):
            trial = UploadTrial(room, fake, number)
            try:
                trial.run(present, steps, monkeypatch)
            except AssertionError as error:
                error.add_note(f"{'present' if present else 'absent'}: {steps}")
                raise
    return number


def test_requests_during_an_upload_hold(tmp_path, fake, monkeypatch):
    """A deletion, another upload, the removal of all uploads in each gap of a job: the last acknowledged stands."""
    assert run_uploads(tmp_path, fake, monkeypatch, longest=1) == 18


@pytest.mark.soak
def test_two_requests_during_an_upload_hold(tmp_path, fake, monkeypatch):
    """The same with up to two requests."""
    assert run_uploads(tmp_path, fake, monkeypatch, longest=2) > 100
