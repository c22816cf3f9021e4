"""Stored texts cut again: as from their files, under any spec, and a collection brought to another one and back."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import failpoints, store_recutting
from indexes.collection import Collection
from indexes.errors import NotFound, SpecMismatch
from indexes.store_chunks import pack, unpack
from indexes.types import (
    ChangeSet,
    Chunk,
    ChunkSpec,
    DocumentUpsert,
    EmbeddingSpec,
    FileStat,
    IndexSpec,
    StoredDocument,
)
from ingest import pipeline, preparing, recutting
from ingest.errors import InputRefused, Rejected, RunLocked, SettingsError, SpecChanged
from ingest.preparing import cut, marks_of, run_lock, sections_of
from ingest.readers.registry import read
from ingest.tokens import count
from ingest.types import Document, IngestPlan, IngestReport, Section
from tests.conftest import shared_data
from tests.e2e.processes import ROOT
from tests.indexes.test_store_chunks import forget_sections
from tests.ingest.test_cuts import made
from tests.ingest.test_pipeline import SPEC, CountingEmbedder, World, _long

SPECS = tuple(
    IndexSpec(EmbeddingSpec("other", 8), chunks)
    for chunks in (ChunkSpec(512, 64), ChunkSpec(128, 0), ChunkSpec(32, 16), ChunkSpec(16, 8))
)


def stored(
    collection: Collection, documents: Sequence[Document], spec: IndexSpec = SPEC, path: str | None = None
) -> None:
    """Apply documents as a run does, each under its number as path."""
    source = collection.add_source(f"/data/{path or len(documents)}", "folder")
    upserts = tuple(
        DocumentUpsert(
            path=path or str(number),
            replaces=None,
            content_hash=b"h" * 32,
            stat=FileStat(1, 1, 1, 1),
            content_type=document.content_type,
            title=document.title,
            text=document.text,
            metadata={},
            reader=document.reader,
            chunks=cut(document, spec),
            marks=marks_of(document),
            sections=sections_of(document),
        )
        for number, document in enumerate(documents)
    )
    assert not collection.apply(ChangeSet(source.id, upserts=upserts)).conflicts


def recut_all(collection: Collection, spec: IndexSpec) -> dict[str, tuple[Chunk, ...]]:
    """Return the chunks of all documents under a spec, by path, without storing them."""
    found, after = {}, 0
    while page := collection.generations.uncut(spec, after):
        found |= {document.path: recutting.recut(document, spec) for document in page}
        after = page[-1].key
    return found


def documents_below(folder: Path, most: int = 1 << 30) -> list[Document]:
    """Read every file of up to `most` bytes that a reader takes."""
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size <= most):
        try:
            found.append(read(file.name, file.read_bytes()))
        except Rejected:
            continue
    return found


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection.create(tmp_path / "store", "abc123", SPEC) as opened:
        yield opened


def same_cuts(collection: Collection, documents: Sequence[Document], specs: Sequence[IndexSpec] = SPECS) -> None:
    stored(collection, documents)
    for spec in specs:
        expected = {str(number): cut(document, spec) for number, document in enumerate(documents)}
        assert recut_all(collection, spec) == expected
    collection.remove_source(collection.sources()[-1].id)


def test_the_projects_own_texts_are_cut_as_from_their_files(collection: Collection) -> None:
    """Pages of documentation and source code, cut again from the store by two specs, give the very same chunks."""
    found = [*documents_below(ROOT / "docs"), *documents_below(ROOT / "ingest")]
    assert len(found) > 20
    same_cuts(collection, found, SPECS[1:3])


def test_documents_of_every_reader_are_cut_as_from_their_files(collection: Collection) -> None:
    """Messy files of some kilobytes (PDF, office files, mail, tables): chunks, pages and headings."""
    found = documents_below(shared_data("messy_docs") / "files", most=30_000)
    assert len({document.reader for document in found}) > 8
    same_cuts(collection, found, SPECS[1:2])


@pytest.mark.soak
def test_all_documents_at_hand_are_cut_as_from_their_files(collection: Collection) -> None:
    """All messy files, a tree of Markdown, and what hostile files give, by four specs."""
    for name in ("messy_docs", "docs_tree_en", "hostile_docs"):
        same_cuts(collection, documents_below(shared_data(name) / "files"))


PATHS = st.lists(st.sampled_from(["A", "B", "Pumps and Valves", "冬季", ""]), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    borders=st.lists(st.tuples(st.floats(0, 1), PATHS, st.none() | st.integers(1, 9)), max_size=30),
    tokens=st.integers(16, 200),
    overlap=st.floats(0, 0.5),
    title=st.sampled_from(["", "Handbook", "x" * 500]),
)
def test_random_sections_are_cut_the_same(
    seed: int, borders: list[tuple[float, tuple[str, ...], int | None]], tokens: int, overlap: float, title: str
) -> None:
    """Any text with any sections, empty ones among them, any title and any ChunkSpec."""
    text = made(seed).text[:2_000] or "x"
    starts = [0, *sorted(round(share * len(text)) for share, _, _ in borders)][: len(borders)]
    ends = [*starts, len(text)][1:]
    places = zip(starts, ends, borders, strict=True)
    sections = tuple(Section(start, end, path, page) for start, end, (_, path, page) in places)
    document = Document(text, sections, "text/plain", title=title)
    spec = IndexSpec(EmbeddingSpec("other", 8), ChunkSpec(tokens, int(tokens * overlap)))
    kept = sections_of(document)
    again = StoredDocument(1, "d", 1, "p", title, text, unpack(pack(kept)), ())
    assert recutting.recut(again, spec) == cut(document, spec)


def test_texts_of_an_earlier_release_are_cut_nearly_so(collection: Collection, tmp_path: Path) -> None:
    """Without stored sections, marks and chunks tell headings and pages: of real pages most chunks are the same."""
    found = documents_below(ROOT / "docs")
    stored(collection, found)
    forget_sections(tmp_path / "store")
    again = recut_all(collection, SPECS[1])
    expected = [chunk for document in found for chunk in cut(document, SPECS[1])]
    got = [chunk for number in range(len(found)) for chunk in again[str(number)]]
    assert len(set(got) & set(expected)) > 0.8 * len(expected)
    for number, document in enumerate(found):
        assert {chunk.start for chunk in again[str(number)]} >= {0}
        assert again[str(number)][-1].end == len(document.text)


def test_chunks_that_stand_are_only_prepared(collection: Collection, tmp_path: Path) -> None:
    """For another model under the same ChunkSpec, chunks keep their places, also where their sections are not known."""
    found = documents_below(ROOT / "docs")
    stored(collection, found)
    forget_sections(tmp_path / "store")
    spec = IndexSpec(EmbeddingSpec("other", 8), SPEC.chunks)
    assert recut_all(collection, spec) == {str(number): cut(document, spec) for number, document in enumerate(found)}


def test_another_releases_chunker_is_refused(collection: Collection) -> None:
    """This release can't cut by an algorithm that it does not have, and says which."""
    stored(collection, documents_below(ROOT / "docs")[:1])
    with pytest.raises(SettingsError, match=r"cuts by borders-1 .* by borders-0"):
        recutting.cut_all(collection.generations, IndexSpec(SPEC.embedding, ChunkSpec(64, 8, "borders-0")))


# A folder that is indexed under one spec, then another, then the first again.

SMALL = IndexSpec(replace(SPEC.embedding, model="counting-2"), ChunkSpec(tokens=16, overlap=0))


class Movable(World):
    """A folder and a collection that goes from spec to spec."""

    def embedder_of(self, spec: IndexSpec) -> CountingEmbedder:
        self.embedder = CountingEmbedder()
        self.embedder.spec = spec.embedding
        return self.embedder

    def index(self, path: Path | None = None, **options: object) -> IngestReport:
        if self.embedder.spec != self.collection.spec.embedding:
            self.embedder_of(self.collection.spec)
        return super().index(path, **options)

    def publish(self, spec: IndexSpec) -> int:
        return recutting.publish(self.collection.generations, spec).number

    def rollback(self, number: int | None = None) -> recutting.Served:
        return recutting.rollback(self.collection.generations, self.collection, self.base / "locks", number)

    def sent(self) -> list[str]:
        sent, self.embedder.sent = self.embedder.sent, []
        return sent


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Movable]:
    world = Movable(tmp_path)
    world.write("a.md", "# Pumps\n\n" + _long("apples"))
    world.write("b.txt", _long("pears"))
    yield world
    world.close()


def test_a_published_spec_is_embedded_by_the_next_index(world: Movable) -> None:
    """Publishing pays nothing; the next run plans and sends exactly the missing texts, once, and a third run none."""
    world.index()
    world.sent()
    assert world.publish(SMALL) == 2
    missing = world.collection.status().missing_vectors
    assert missing > 10
    plan = world.plan()
    report = world.index()
    sent = world.sent()
    assert len(sent) == len(set(sent)) == report.embedded_inputs == plan.inputs == plan.missing <= missing
    assert report.embedded_tokens > 0
    assert plan.tokens >= len(sent)
    assert (plan.added, plan.changed, plan.unchanged) == ((), (), 2)
    assert any(text.startswith("Pumps\n\n") for text in sent)  # title and headings, as from the file
    assert world.collection.status().missing_vectors == 0
    assert (world.index().embedded_inputs, world.sent()) == (0, [])


def test_a_publication_ends_under_a_steady_stream_of_documents(world: Movable) -> None:
    """With a document before each of its transactions it takes one build and one try; all of them are found."""
    world.write("a.md", "\n\n".join(_long(f"apples of part {part}") for part in range(3)))
    world.index()
    recutting.cut_all(world.collection.generations, SMALL)
    keys = [chunk.embedded_hash for one in world.collection.unembedded(SMALL) for chunk in one.chunks]
    world.collection.add_vectors(SMALL.embedding, keys, np.eye(8, dtype=np.float32)[np.arange(len(keys)) % 8])
    reached: list[str] = []

    def stream(name: str) -> None:
        reached.append(name)
        if name in ("segment.save", "publish.begin"):
            failpoints.install(None)
            for part in range(12 if name == "segment.save" else 2):
                path = f"{len(reached)}-{part}.txt"
                stored(world.collection, [read(path, f"Otter {path}.".encode())], path=path)
            failpoints.install(stream)
            assert reached.count(name) < 5

    failpoints.install(stream)
    try:
        with Collection.open(world.collection.folder, delta_rows=3) as opened:
            served = recutting.publish(opened.generations, SMALL)
    finally:
        failpoints.install(None)
    assert (served.number, served.documents) == (2, 14)
    assert reached.count("segment.save") == reached.count("publish.begin") == 1
    assert world.collection.generations.uncut(SMALL) == ()
    assert len(world.collection.search("otter", None, 50, "lexical").hits) == 14


def test_a_delta_does_not_wait_for_the_last_missing_vector(world: Movable, monkeypatch) -> None:
    """While what a collection lacks is embedded, folds are looked for page by page and not at the end alone."""
    world.index()
    world.publish(SMALL)
    monkeypatch.setattr(store_recutting, "PAGE_DOCUMENTS", 1)
    fold_if_due, missing = Collection.fold_if_due, []

    def looked(self: Collection) -> bool:
        missing.append(self.status().missing_vectors)
        return fold_if_due(self)

    monkeypatch.setattr(Collection, "fold_if_due", looked)
    world.index()
    assert missing[0] > 0
    assert missing[-1] == 0


def test_a_rollback_pays_for_changed_texts_alone(world: Movable) -> None:
    """After 1, 2 and back, the next run sends what changed under 2 and nothing that ever had a vector under 1."""
    world.index()
    before = set(world.sent())
    world.publish(SMALL)
    world.index()
    world.write("c.txt", "Otters hold hands while they sleep.")
    world.write("b.txt", _long("pears") + " And a new end of it.")
    world.index()
    world.sent()
    served = world.rollback()
    assert (served.number, served.documents) == (1, 2)
    assert world.collection.search("otters", None, 5, "lexical").hits[0].path == "c.txt"
    assert world.collection.status().missing_vectors > 0
    report = world.index()
    sent = world.sent()
    assert 0 < len(sent) <= 4
    assert not before & set(sent)
    assert report.plan.missing == len(sent)
    assert world.collection.status().missing_vectors == 0
    assert (world.rollback(2).documents, world.index().embedded_inputs) == (0, 0)


def test_what_a_run_replaces_or_removes_is_not_paid_for(world: Movable) -> None:
    """Of a document that changed or went, the old text's missing vectors are not planned."""
    world.index()
    world.publish(SMALL)
    world.write("a.md", "# Pumps\n\nShort now.\n")
    (world.folder / "b.txt").unlink()
    report = world.index(allow_empty=True)
    assert (report.plan.missing, report.plan.inputs) == (0, 1)
    assert world.collection.status().missing_vectors == 0


def test_missing_vectors_of_other_sources_are_embedded_too(world: Movable) -> None:
    """An index of one folder makes the whole collection whole: a text in both is sent once."""
    world.index()
    other = world.base / "other"
    other.mkdir()
    (other / "only.txt").write_text(_long("pears"), encoding="utf-8")
    world.publish(SMALL)
    report = world.index(other)
    assert report.plan.inputs == report.embedded_inputs == len(set(world.sent()))
    assert world.collection.status().missing_vectors == 0


def test_a_refused_text_stays_found_by_words(world: Movable) -> None:
    """The provider refuses one text of an unchanged document: the others are embedded, it is listed, nothing fails."""
    world.index()
    world.publish(SMALL)
    world.embedder_of(SMALL)
    world.embedder.failing_word, world.embedder.failure = "number 841", InputRefused("scripted")
    report = world.index()
    assert {(rejection.path, rejection.reason) for rejection in report.rejected} == {
        ("a.md", "limit"),
        ("b.txt", "limit"),
    }
    assert "found by words" in report.rejected[0].detail
    assert world.collection.status().missing_vectors == 2
    assert world.collection.status().stale_documents == 0


def test_a_failure_keeps_what_was_paid(world: Movable) -> None:
    """A provider that fails in between loses nothing: the same command pays for the rest alone."""
    world.index()
    world.publish(SMALL)
    world.embedder_of(SMALL)
    world.embedder.failing_word = "number 400"
    with pytest.raises(ConnectionError):
        world.index()
    world.embedder.failing_word = None
    paid = set(world.sent())
    world.index()
    assert not paid & set(world.sent())
    assert world.collection.status().missing_vectors == 0


def test_a_run_under_another_spec_is_refused(world: Movable) -> None:
    """A publication between plan and apply: upserts cut otherwise are not applied; the same command then goes on."""
    with preparing.prepare(world.folder, world.collection, world.base / "locks") as prepared:
        recutting.publish(world.collection.generations, SMALL)
        with pytest.raises(SpecMismatch, match="repeat the command"):
            asyncio.run(pipeline.apply(prepared, world.collection, world.embedder))
    assert world.collection.status().documents == 0
    world.index()
    assert set(world.visible()) == {"a.md", "b.txt"}
    assert world.collection.status().missing_vectors == 0


def test_an_embedder_of_another_spec_sends_nothing(world: Movable) -> None:
    """An embedder that was made for the spec before is refused before a token is paid."""
    world.publish(SMALL)
    with (
        preparing.prepare(world.folder, world.collection, world.base / "locks") as prepared,
        pytest.raises(SpecChanged),
    ):
        asyncio.run(pipeline.apply(prepared, world.collection, world.embedder))
    assert world.sent() == []


def test_a_rollback_waits_for_no_run(world: Movable) -> None:
    """While a source is being indexed, a rollback is refused as a second run is, and succeeds after it."""
    world.index()
    world.publish(SMALL)
    with run_lock(world.base / "locks", str(world.folder)), pytest.raises(RunLocked):
        world.rollback()
    assert world.collection.generation == 2
    assert world.rollback().number == 1


def test_a_document_that_comes_between_cutting_and_serving_is_cut(
    world: Movable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload needs no lock of a known source: what it adds in the last moment is cut in another round."""
    world.index()
    world.publish(SMALL)
    ask, late = world.collection.generations.rollback, ["late.txt"]

    def rollback(number: int | None = None) -> int | None:
        if late:
            stored(world.collection, [Document("A late word.", (), "text/plain", reader="t-1")], SMALL, late.pop())
        return ask(number)

    monkeypatch.setattr(world.collection.generations, "rollback", rollback)
    assert world.rollback() == recutting.Served(1, 1)
    assert world.collection.search("late", None, 5, "lexical").hits[0].path == "late.txt"


def test_there_is_no_generation_to_go_back_to(world: Movable) -> None:
    """A first generation has none before it."""
    with pytest.raises(NotFound, match="no older one"):
        world.rollback()


def test_a_plan_of_missing_vectors_has_a_price(world: Movable) -> None:
    """Tokens of the plan are those of the rendered texts, header and slice."""
    world.index()
    world.publish(SMALL)
    plan: IngestPlan = world.plan()
    world.index()
    assert plan.tokens == pytest.approx(sum(count(text) for text in world.sent()), rel=0.02)
