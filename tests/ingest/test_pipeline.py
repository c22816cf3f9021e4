"""A run over a real folder into a real collection: what is sent, what is visible, what a failure leaves."""

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from indexes.collection import Collection
from indexes.types import ChunkSpec, EmbeddingSpec, FileStat, IndexSpec, Mark
from ingest import pipeline, preparing, walk
from ingest.errors import InputRefused, PathError, RunLocked, TooManyRemovals
from ingest.protocols import Embedded, RequestLimits
from ingest.readers import registry
from ingest.types import Document, IngestOptions, IngestPlan, IngestReport, Section
from tests.ingest.readers.zipped import word_file

SPEC = IndexSpec(EmbeddingSpec("counting", 8), ChunkSpec(tokens=32, overlap=4))


class CountingEmbedder:
    """Deterministic unit vectors; remembers every text it was sent, and fails on texts that hold a word."""

    spec = SPEC.embedding
    limits = RequestLimits()

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.failing_word: str | None = None
        self.failure: Exception = ConnectionError("scripted")

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        await asyncio.sleep(0)
        if self.failing_word and any(self.failing_word in text for text in texts):
            raise self.failure
        self.sent.extend(texts)
        return Embedded(np.stack([_vector(text) for text in texts]), len(texts))

    async def embed_query(self, text: str) -> Embedded:
        return Embedded(_vector(text)[None], 1)


def _vector(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return vector / np.linalg.norm(vector)


class World:
    """A folder, a collection, and an embedder."""

    def __init__(self, base: Path) -> None:
        self.base, self.folder = base, base / "docs"
        self.folder.mkdir(parents=True)
        self.collection = Collection.create(base / "store", "abc123", SPEC, delta_rows=20)
        self.embedder = CountingEmbedder()

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def index(self, path: Path | None = None, **options: object) -> IngestReport:
        chosen = IngestOptions(inputs=4, concurrency=2, **options)
        with preparing.prepare(path or self.folder, self.collection, self.base / "locks", chosen) as prepared:
            return asyncio.run(pipeline.apply(prepared, self.collection, self.embedder, chosen))

    def plan(self, **options: object) -> IngestPlan:
        with preparing.prepare(self.folder, self.collection, self.base / "locks", IngestOptions(**options)) as prepared:
            return prepared.plan

    def visible(self) -> dict[str, str]:
        documents, _ = self.collection.documents(None, 1000, None)
        return {document.path: self.collection.text(document.id).text for document in documents}

    def close(self) -> None:
        self.collection.close()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def _long(topic: str, sentences: int = 30) -> str:
    return " ".join(f"Sentence {n} says that {topic} number {n * n} is of a kind." for n in range(sentences))


def test_every_file_is_visible_and_each_text_sent_once(world):
    """A first run sends each distinct embedded text once and makes every document's whole text visible."""
    world.write("a.md", "# A\n\n" + _long("apples"))
    world.write("b/c.txt", _long("pears"))
    world.write("b/copy.txt", _long("pears"))
    report = world.index()
    assert world.visible() == {
        path: (world.folder / path).read_text(encoding="utf-8") for path in ("a.md", "b/c.txt", "b/copy.txt")
    }
    assert len(world.embedder.sent) == len(set(world.embedder.sent)) == report.embedded_inputs == report.plan.inputs
    assert world.collection.status().missing_vectors == 0


def test_the_embedded_text_is_template_and_slice(world):
    """What is sent is title and headings, then the slice; every chunk's slice is cut from the stored text."""
    world.write("a.md", "# Pumps\n\n## Winter\n\nDrain the casing before frost.\n")
    world.index()
    assert any("Pumps" in text and "Winter" in text and "Drain the casing" in text for text in world.embedder.sent)
    hit = world.collection.search("casing frost", None, 5, "lexical").hits[0]
    stored = world.visible()["a.md"]
    assert stored[hit.start : hit.end] == hit.text


def test_an_edit_in_a_long_text_sends_few_chunks(world):
    """A sentence inserted into a long text re-embeds only chunks near it."""
    world.write("a.txt", _long("apples", 200))
    world.index()
    before = len(world.embedder.sent)
    text = _long("apples", 200)
    world.write("a.txt", text[:5000] + " A new sentence stands here. " + text[5000:])
    world.index()
    assert 1 <= len(world.embedder.sent) - before <= 10


def test_a_dry_plan_writes_nothing(world):
    """Preparing alone leaves no source, document or vector behind."""
    world.write("a.txt", _long("apples"))
    plan = world.plan()
    assert plan.added == ("a.txt",)
    assert plan.inputs > 1
    assert plan.tokens > 100
    assert world.collection.sources() == ()
    assert world.collection.status().vectors == 0


def test_a_failing_provider_leaves_whole_documents_and_the_next_run_pays_the_rest(world):
    """After a failure documents are visible whole or not at all, and the same command pays only what is missing."""
    for number in range(12):
        world.write(f"{number:02}.txt", _long(f"thing {number}"))
    world.write("99.txt", "The word calamity stands here alone.")
    world.embedder.failing_word = "calamity"
    with pytest.raises(ConnectionError):
        world.index()
    for path, text in world.visible().items():
        assert text == (world.folder / path).read_text(encoding="utf-8")
    assert world.collection.status().missing_vectors == 0
    paid = list(world.embedder.sent)
    world.embedder.failing_word = None
    world.index()
    assert len(world.visible()) == 13
    assert len(world.embedder.sent) == len(set(world.embedder.sent))
    assert world.embedder.sent[: len(paid)] == paid


def test_a_text_that_the_provider_refuses_costs_its_document_alone(world):
    """The document with the refused text is rejected, in its old version kept as stale, and all others are visible."""
    for number in range(30):
        world.write(f"{number:02}.txt", _long(f"thing {number}", 8))
    world.index()
    for number in range(30):
        world.write(f"{number:02}.txt", _long(f"subject {number}", 8))
    world.write("00.txt", "The word calamity stands here alone.")
    world.embedder.failing_word, world.embedder.failure = "calamity", InputRefused("refused")
    report = world.index()
    assert [(rejection.path, rejection.reason) for rejection in report.rejected] == [("00.txt", "limit")]
    assert report.applied == 29
    documents = {document.path: document for document in world.collection.documents(None, 100, None)[0]}
    assert [path for path, document in documents.items() if document.state == "stale"] == ["00.txt"]
    assert "thing 0" in world.visible()["00.txt"]


def test_a_failure_does_not_hold_back_whole_documents(world):
    """A request that fails for good keeps only its own documents from being visible, not those behind it."""
    world.write("00.txt", "The word calamity stands here alone.")
    world.embedder.failing_word = "calamity"
    for number in range(1, 9):
        world.write(f"{number:02}.txt", f"Short text number {number}.")
    with pytest.raises(ConnectionError):
        world.index()
    assert len(world.visible()) >= 4
    assert "00.txt" not in world.visible()


def test_known_documents_are_applied_in_groups(world):
    """Documents whose vectors are all known go into the store many at a time, not one transaction each."""
    for number in range(150):
        world.write(f"{number}.txt", f"Short text number {number}.")
    world.index()
    for number in range(150):
        (world.folder / f"{number}.txt").rename(world.folder / f"other-{number}.md")
    sizes = []
    apply = world.collection.apply
    world.collection.apply = lambda changes: sizes.append(len(changes.upserts)) or apply(changes)
    world.index(allow_empty=True)
    assert sum(sizes) == 150
    assert len([size for size in sizes if size]) <= 4


def test_an_unreadable_document_stays_as_stale_and_recovers(world):
    """A file that turns into something unsupported keeps its old version as stale; read again, it is indexed again."""
    world.write("a.txt", "Apples are fruit.")
    world.write("b.txt", "Pears are fruit.")
    world.index()
    (world.folder / "a.txt").write_bytes(b"\x00\x01\x02\x03" * 100)
    report = world.index()
    assert [rejection.path for rejection in report.rejected] == ["a.txt"]
    assert report.plan.changed == ()
    documents = {document.path: document for document in world.collection.documents(None, 10, None)[0]}
    assert documents["a.txt"].state == "stale"
    assert documents["a.txt"].state_reason == report.rejected[0].reason
    assert world.visible()["a.txt"] == "Apples are fruit."
    world.write("a.txt", "Apples are fruit.")
    world.index()
    assert {document.state for document in world.collection.documents(None, 10, None)[0]} == {"indexed"}


def test_a_subfolder_and_a_single_file_of_a_source_are_synced_alone(world):
    """Indexing a folder or file inside a known source touches nothing else of it; a folder above it is refused."""
    world.write("a/x.txt", "Apples are fruit.")
    world.write("b/y.txt", "Pears are fruit.")
    world.index()
    world.write("a/x.txt", "Apples are red.")
    world.write("b/y.txt", "Pears are green.")
    world.index(world.folder / "a")
    assert world.visible() == {"a/x.txt": "Apples are red.", "b/y.txt": "Pears are fruit."}
    world.index(world.folder / "b" / "y.txt")
    assert world.visible()["b/y.txt"] == "Pears are green."
    assert len(world.collection.sources()) == 1
    with pytest.raises(PathError):
        world.index(world.base)


def test_mass_removal_needs_consent(world):
    """A run that would remove most of 30 documents changes nothing unless it is allowed to."""
    for number in range(30):
        world.write(f"{number}.txt", f"Text number {number}.")
    world.index()
    for number in range(25):
        (world.folder / f"{number}.txt").unlink()
    with pytest.raises(TooManyRemovals):
        world.index()
    assert len(world.visible()) == 30
    world.index(allow_empty=True)
    assert len(world.visible()) == 5


def test_a_second_run_of_the_same_source_is_refused(world):
    """While one run holds the source's lock another is refused; when it ends, the next goes through."""
    world.write("a.txt", "Apples are fruit.")
    locks = world.base / "locks"
    with (
        preparing.prepare(world.folder, world.collection, locks),
        pytest.raises(RunLocked, match="another run"),
        preparing.prepare(world.folder, world.collection, locks),
    ):
        pass
    assert world.index().applied == 1


def test_a_document_removed_by_hand_comes_back_and_the_plan_says_so(world):
    """A document removed by hand is named in the plan of the run that brings it back, without a token paid."""
    world.write("a.txt", "Apples are fruit.")
    world.write("b.txt", "Pears are fruit.")
    world.index()
    document = world.collection.documents(None, 1, None)[0][0]
    world.collection.remove_document(document.id)
    sent = len(world.embedder.sent)
    report = world.index()
    assert report.plan.returned == (document.path,)
    assert len(world.embedder.sent) == sent


def test_special_tokens_are_ordinary_text(world):
    """A document that spells out a special token is indexed and found like any other."""
    world.write("a.txt", "The mark <|endoftext|> ends a training text.")
    world.index()
    assert world.collection.search("endoftext mark", None, 5, "lexical").hits


@pytest.fixture
def opened(world, monkeypatch):
    """The paths of the files that are opened below the folder, in order."""
    paths: list[str] = []
    really = walk._open

    def count(root: Path, path: str) -> int:
        paths.append(path)
        return really(root, path)

    monkeypatch.setattr(walk, "_open", count)
    return paths


def _age(*files: Path) -> None:
    """Make files old enough to be trusted."""
    for file in files:
        os.utime(file, ns=(10**18, 10**18))


def _rejected(report: IngestReport) -> list[tuple[str, str]]:
    return [(rejection.path, rejection.reason) for rejection in report.rejected]


def _binary(world: World, path: str, seed: int = 0) -> Path:
    """Write a picture, which no reader is there for, whatever its name."""
    (world.folder / path).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([0, seed]) * 100)
    return world.folder / path


def test_a_rejected_file_is_not_read_again(world, opened, monkeypatch):
    """Listed in every run, opened in the first alone; a touch, other readers and `verify` open it again."""
    world.write("a.txt", "Apples are fruit.")
    _age(world.folder / "a.txt", _binary(world, "film.txt"), _binary(world, "other.bin"))
    expected = [("film.txt", "unsupported"), ("other.bin", "unsupported")]
    assert _rejected(world.index()) == expected
    assert sorted(opened) == ["a.txt", "film.txt", "other.bin"]
    opened.clear()
    again = world.index()
    assert (_rejected(again), opened) == (expected, [])
    assert world.collection.status().rejected_files == 2
    os.utime(world.folder / "film.txt", ns=(10**18 + 1, 10**18 + 1))
    assert (_rejected(world.index()), opened) == (expected, ["film.txt"])
    opened.clear()
    assert (_rejected(world.index()), opened) == (expected, [])
    assert _rejected(world.index(verify=True)) == expected
    assert sorted(opened) == ["a.txt", "film.txt", "other.bin"]
    opened.clear()
    with monkeypatch.context() as newer:
        newer.setattr(registry, "FINGERPRINT", "readers of tomorrow")
        assert _rejected(world.index()) == expected
        assert sorted(opened) == ["film.txt", "other.bin"]


def test_a_library_that_is_missing_condemns_no_file(world, monkeypatch):
    """A file whose reader can't be loaded is a `crash` that is not remembered: it is read once the library is back."""
    (world.folder / "a.docx").write_bytes(word_file("<w:p><w:r><w:t>words</w:t></w:r></w:p>"))
    world.write("b.txt", "more words")
    _age(world.folder / "a.docx", world.folder / "b.txt")
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "docx.package", None)
        assert _rejected(world.index()) == [("a.docx", "crash")]
    assert _rejected(world.index()) == []
    assert world.visible()["a.docx"] == "words"


def test_nothing_is_written_for_a_rejected_file_that_stays(world):
    """A run over an unchanged folder with rejected and stale files applies no change set."""
    world.write("a.txt", "Apples are fruit.")
    world.write("b.txt", "Pears are fruit.")
    world.index()
    _age(world.folder / "a.txt", _binary(world, "b.txt"), _binary(world, "c.bin"))
    (world.folder / "out").symlink_to("/")
    assert [path for path, _ in _rejected(world.index())] == ["b.txt", "c.bin", "out"]
    applied = []
    apply = world.collection.apply
    world.collection.apply = lambda changes: applied.append(changes) or apply(changes)
    assert [path for path, _ in _rejected(world.index())] == ["b.txt", "c.bin", "out"]
    assert applied == []
    assert world.collection.status().stale_documents == 1


def test_a_file_written_just_before_its_judgement_is_judged_once_more(world, opened):
    """A rejected file younger than 2 s at its scan is read by the next run, and, old enough then, not by the third."""
    file = _binary(world, "film.txt")
    os.utime(file, ns=(future := time.time_ns() + 3600 * 10**9, future))
    world.index()
    world.index()
    assert opened == ["film.txt", "film.txt"]
    _age(file)
    world.index()
    opened.clear()
    world.index()
    assert opened == []


def test_a_rejection_ends_with_its_file(world):
    """What is gone, renamed over, or readable again is not remembered, and a removed source leaves nothing."""
    world.write("a.txt", "Apples are fruit.")
    for name in ("b.txt", "c.txt", "d.txt"):
        _age(_binary(world, name))
    world.index()
    assert world.collection.status().rejected_files == 3
    (world.folder / "b.txt").unlink()
    world.write("c.txt", "Pears are fruit.")
    (world.folder / "a.txt").rename(world.folder / "d.txt")
    report = world.index()
    assert report.plan.renamed == (("a.txt", "d.txt"),)
    assert (_rejected(report), world.collection.status().rejected_files) == ([], 0)
    _binary(world, "e.txt")
    world.index()
    world.collection.remove_source(world.collection.sources()[0].id)
    assert world.collection.status().rejected_files == 0


def test_a_part_of_a_source_forgets_only_its_own(world):
    """A run over a subfolder leaves what is known of the rest of the source."""
    for path in ("a/x.txt", "b/y.txt"):
        world.write(path, "Apples are fruit.")
    for path in ("a/film", "b/film", "afilm"):
        _age(_binary(world, path))
    world.index()
    (world.folder / "a" / "film").unlink()
    (world.folder / "b" / "film").unlink()
    world.index(world.folder / "a")
    known = world.collection.manifest(world.collection.sources()[0].id).rejected
    assert sorted(known) == ["afilm", "b/film"]


def test_what_the_system_refuses_is_tried_again(world, opened):
    """Too large is told by the size alone, unopened, in every run; another limit lets the file in."""
    world.write("a.txt", "Apples are fruit.")
    world.write("b.txt", _long("pears"))
    _age(world.folder / "a.txt", world.folder / "b.txt")
    for _ in range(2):
        assert _rejected(world.index(max_bytes=100)) == [("b.txt", "too_large")]
        assert opened == ["a.txt"]
    assert world.collection.status().rejected_files == 1
    assert _rejected(world.index()) == []
    assert (len(world.visible()), world.collection.status().rejected_files) == (2, 0)
    _age(_binary(world, "film.txt"))
    assert _rejected(world.index()) == [("film.txt", "unsupported")]
    assert _rejected(world.index(max_bytes=100)) == [("film.txt", "too_large")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_permission_is_asked_for_again(world):
    """A file that may not be read is in, as soon as it may, though its stat is the same."""
    world.write("a.txt", "Apples are fruit.")
    _age(world.folder / "a.txt")
    (world.folder / "a.txt").chmod(0)
    assert _rejected(world.index()) == [("a.txt", "permission")]
    (world.folder / "a.txt").chmod(0o600)
    assert _rejected(world.index()) == []


def test_a_dry_run_remembers_nothing(world):
    """A plan alone leaves what is known of rejected files as it was."""
    world.write("a.txt", "Apples are fruit.")
    world.index()
    _binary(world, "film.txt")
    assert len(world.plan().rejected) == 1
    assert world.collection.status().rejected_files == 0


def test_a_refused_text_is_counted_and_tried_again(world):
    """A document that the provider refuses is among the rejected, and is in when the provider takes it."""
    world.write("a.txt", "Apples are fruit.")
    world.write("b.txt", "The word calamity stands here alone.")
    _age(world.folder / "b.txt")
    world.embedder.failing_word, world.embedder.failure = "calamity", InputRefused("refused")
    world.index()
    assert world.collection.status().rejected_files == 1
    world.embedder.failing_word = None
    assert _rejected(world.index()) == []
    assert (len(world.visible()), world.collection.status().rejected_files) == (2, 0)


def test_a_film_is_not_read_whole(world, monkeypatch):
    """Of a large file whose start tells that no reader is there for it, no more than the start is read."""
    film = world.folder / "film.mp4"
    film.write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * (1 << 17))
    world.write("a.txt", "Apples are fruit.")
    world.write("long.txt", _long("pears"))
    monkeypatch.setattr(preparing, "_LOOKED_AT", 1000)
    read, really = [], walk.read
    monkeypatch.setattr(walk, "read", lambda root, file, limit: read.append(file.path) or really(root, file, limit))
    report = world.index()
    assert _rejected(report) == [("film.mp4", "unsupported")]
    assert report.rejected[0].detail == "no reader for .mp4 files"
    assert sorted(read) == ["a.txt", "long.txt"]


_names = st.sampled_from(["a.txt", "b.txt", "c/d.txt", "c/e.txt", "f.md"])
_bodies = st.integers(0, 5).map(lambda n: _long(f"subject {n}", 6 + n))


class Runs(RuleBasedStateMachine):
    """Any history of edits, renames and removals, indexed at any time, equals the folder; nothing is paid twice."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.world.write("keep.txt", "This file is always here.")
        self.synced = False

    @rule(name=_names, body=_bodies)
    def write(self, name: str, body: str) -> None:
        self.world.write(name, body)
        self.synced = False

    @rule(name=_names, seed=st.integers(0, 2), old=st.booleans())
    def spoil(self, name: str, seed: int, old: bool) -> None:
        (self.world.folder / name).parent.mkdir(exist_ok=True)
        _binary(self.world, name, seed)
        if old:
            _age(self.world.folder / name)
        self.synced = False

    @rule(name=_names)
    def remove(self, name: str) -> None:
        (self.world.folder / name).unlink(missing_ok=True)
        self.synced = False

    @rule(old=_names, new=_names)
    def rename(self, old: str, new: str) -> None:
        if (self.world.folder / old).exists():
            (self.world.folder / new).parent.mkdir(exist_ok=True)
            os.replace(self.world.folder / old, self.world.folder / new)  # noqa: PTH105
        self.synced = False

    @rule(verify=st.booleans())
    def index(self, verify: bool) -> None:
        self.report = self.world.index(allow_empty=True, verify=verify)
        self.synced = True

    @rule()
    def index_again(self) -> None:
        if self.synced:
            before = len(self.world.embedder.sent)
            with pytest.MonkeyPatch.context() as patched:
                opened, really = [], walk._open
                patched.setattr(walk, "_open", lambda root, path: opened.append(path) or really(root, path))
                self.report = self.world.index(allow_empty=True)
            assert (self.report.applied, len(self.world.embedder.sent)) == (0, before)
            assert not [path for path in opened if (self.world.folder / path).stat().st_mtime_ns == 10**18]

    @invariant()
    def equals_the_folder(self) -> None:
        if getattr(self, "synced", False):
            found = {
                path.relative_to(self.world.folder).as_posix(): path.read_bytes()
                for path in self.world.folder.rglob("*")
                if path.is_file()
            }
            spoilt = {path for path, data in found.items() if b"\0" in data}
            files = {path: data.decode() for path, data in found.items() if path not in spoilt}
            documents = {document.path: document for document in self.world.collection.documents(None, 100, None)[0]}
            stale = {path for path, document in documents.items() if document.state == "stale"}
            assert {path: text for path, text in self.world.visible().items() if path not in stale} == files
            assert stale <= spoilt
            # What a run says of the files that can't be read, and what is remembered, is what a first run would say.
            source = self.world.collection.sources()[0]
            known = self.world.collection.manifest(source.id).rejected
            assert _rejected(self.report) == [(path, "unsupported") for path in sorted(spoilt)]
            assert [(path, known[path].reason) for path in sorted(known)] == _rejected(self.report)
            assert self.world.collection.status().rejected_files == len(spoilt)
            assert len(self.world.embedder.sent) == len(set(self.world.embedder.sent))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()
            self.folder.cleanup()


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def _given(path: str, text: str) -> preparing.Given:
    digest = hashlib.sha256(text.encode()).digest()
    return preparing.Given(path, FileStat(len(text), 0, 0, 0), digest, lambda: registry.read(path, text.encode()))


def _give(world: World, *given: preparing.Given) -> IngestReport:
    with preparing.prepare_given(given, "upload", world.collection, world.base / "locks") as prepared:
        return asyncio.run(pipeline.apply(prepared, world.collection, world.embedder))


def test_given_documents_join_their_source_and_touch_nothing_else(world):
    """Given documents are added or replaced by path; what is not given stays, and equal bytes send nothing."""
    world.write("a.md", "a file of the folder")
    world.index()
    _give(world, _given("one.txt", "the first upload"), _given("two.txt", "the second upload"))
    sent = len(world.embedder.sent)
    again = _give(world, _given("one.txt", "the first upload"), _given("two.txt", "the second upload, changed"))
    assert (again.plan.unchanged, again.plan.changed, again.plan.added) == (1, ("two.txt",), ())
    assert len(world.embedder.sent) == sent + 1
    assert world.visible() == {
        "a.md": "a file of the folder",
        "one.txt": "the first upload",
        "two.txt": "the second upload, changed",
    }


def test_a_given_document_that_cannot_be_read_leaves_what_stands_there(world):
    """A rejected upload is listed, and the document at its path stays as it was, not stale."""
    _give(world, _given("one.txt", "the first upload"))
    broken = _given("one.txt", "\0\0\0")
    report = _give(world, broken)
    assert [rejection.path for rejection in report.rejected] == ["one.txt"]
    assert world.visible() == {"one.txt": "the first upload"}
    assert world.collection.status().stale_documents == 0


def test_each_place_of_a_joined_passage_knows_its_own_headings(world):
    """A chunk that holds several small sections gives the headings above each of its characters."""
    world.close()
    world.collection = Collection.create(world.base / "large", "abc124", replace(SPEC, chunks=ChunkSpec()))
    world.write("a.md", "# Pump\n\nIt hums.\n\n## Start\n\nTurn it.\n\n## Stop\n\nPush it.\n")
    world.index()
    (hit,) = world.collection.search("push", None, 5, "lexical").hits
    assert hit.heading_path == ("Pump",)
    text = world.collection.text(hit.document_id).text
    found = {word: hit.heading_path_at(text.index(word)) for word in ("hums", "## Start", "Turn", "Push")}
    start = ("Pump", "Start")
    assert found == {"hums": ("Pump",), "## Start": start, "Turn": start, "Push": ("Pump", "Stop")}
    assert hit.position_at(hit.start) is None


def test_marks_join_positions_and_headings():
    """Wherever the position or the headings change a mark begins, with both; a text without either has none."""
    sections = (Section(0, 4, ("A",)), Section(4, 9, ("A",)), Section(9, 12, ("A", "B")))
    marks = (Mark(0, {"sheet": "A"}), Mark(6, {"sheet": "A", "row": 2}))
    document = Document("x" * 12, sections, "text/plain", marks=marks)
    assert preparing.marks_of(document) == (
        Mark(0, {"sheet": "A"}, ("A",)),
        Mark(6, {"sheet": "A", "row": 2}, ("A",)),
        Mark(9, {"sheet": "A", "row": 2}, ("A", "B")),
    )
    assert preparing.marks_of(replace(document, sections=sections[:2], marks=())) == ()


def test_a_vector_that_is_deleted_under_a_run_is_paid_for_again(world):
    """What a run counted on, and garbage collection took before its document was applied, is embedded after all."""
    world.write("a.txt", _long("apples"))
    world.index()
    [document] = world.collection.documents(None, 10, None)[0]
    world.collection.remove_document(document.id)
    sent = len(world.embedder.sent)
    locks = world.base / "locks"
    with preparing.prepare(world.folder, world.collection, locks) as prepared:
        assert prepared.wanted == frozenset()
        assert world.collection.garbage.collect(0).vectors  # its runs lock elsewhere, so this run is not seen
        report = asyncio.run(pipeline.apply(prepared, world.collection, world.embedder))
    assert (report.applied, report.conflicts) == (1, ())
    assert len(world.embedder.sent) == 2 * sent
    assert world.visible() == {"a.txt": _long("apples")}
    assert world.collection.status().missing_vectors == 0
