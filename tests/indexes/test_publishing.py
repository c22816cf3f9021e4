"""Another IndexSpec in service and back again: what is found, what is kept, what goes."""

import re
import sqlite3
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import failpoints
from indexes.collection import Collection
from indexes.errors import NotFound, SpecMismatch, StoreBusy
from indexes.store_generations import KEPT
from indexes.types import ChangeSet, ChunkSpec, DocumentCut, DocumentRename, IndexSpec, Source, StoredDocument
from tests.indexes.corpus import SPEC, STAT, put, upsert
from tests.indexes.specs import LINES, OTHER, PAIRS, answers, cut, cut_all, go_to, query_under, vectors_under

TEXTS = {"a": "apple bread\ncloud drum\neagle frost\n", "b": "grape house\niron jungl\n", "c": "apple house\n"}


@pytest.fixture
def filled(collection: Collection, source: Source) -> Collection:
    """Three documents under SPEC, with vectors."""
    put(collection, source, *(upsert(path, text) for path, text in TEXTS.items()))
    return collection


def rows(folder: Path, statement: str) -> list[tuple[object, ...]]:
    raw = sqlite3.connect(folder / "store.db")
    raw.create_function("regexp", 2, lambda pattern, text: re.search(pattern, text) is not None)
    try:
        return raw.execute(statement).fetchall()
    finally:
        raw.close()


def in_words(folder: Path, chunk_spec: int) -> int:
    """Return how many chunks the full text of a ChunkSpec holds, after its own check of integrity."""
    raw = sqlite3.connect(folder / "store.db")
    raw.execute(f"INSERT INTO words_{chunk_spec} (words_{chunk_spec}) VALUES ('integrity-check')")
    raw.rollback()
    found = raw.execute(f"SELECT count(*) FROM words_{chunk_spec}_docsize").fetchone()[0]
    raw.close()
    return found


def edit(collection: Collection, source: Source, path: str, text: str) -> None:
    """Replace a document, or add one, under the spec in service, without vectors."""
    entry = collection.manifest(source.id).entries.get(path)
    one = upsert(path, text, entry and (entry.document_id, entry.version))
    assert not collection.apply(ChangeSet(source.id, upserts=(one,))).conflicts


def test_a_published_spec_cuts_and_finds_otherwise(filled: Collection) -> None:
    """Under two lines a chunk, hits are two lines long; before the publication nothing of it is seen."""
    before = answers(filled, "apple bread\n")
    assert cut_all(filled, OTHER) == 3
    assert answers(filled, "apple bread\n") == before
    assert filled.generations.publish(OTHER) == 2
    assert (filled.generation, filled.spec) == (2, OTHER)
    for mode in ("dense", "lexical", "hybrid"):
        hit = filled.search("apple bread", query_under(OTHER, "apple bread\ncloud drum\n"), 5, mode).hits[0]
        assert hit.text == "apple bread\ncloud drum\n"
    assert filled.status().missing_vectors == 0


def test_nothing_is_published_before_every_document_is_cut(filled: Collection, source: Source) -> None:
    """A document that came after the cutting holds the publication up, and changes nothing."""
    cut_all(filled, OTHER)
    edit(filled, source, "d", "late drum\n")
    assert filled.generations.publish(OTHER) is None
    assert filled.generation == 1
    assert [document.path for document in filled.generations.uncut(OTHER)] == ["d"]
    assert go_to(filled, OTHER) == 2


def test_the_spec_in_service_is_published_only_once(filled: Collection) -> None:
    """Publishing what is in service already makes no new number."""
    assert filled.generations.publish(SPEC) == 1
    assert len(filled.generations.listed()) == 1


def test_a_rollback_answers_exactly_as_before(filled: Collection) -> None:
    """Scores, order, places and weights of words are those of before, in every mode."""
    asked = ("apple bread\n", "iron jungl\n", "house")
    before = answers(filled, *asked)
    go_to(filled, OTHER)
    there = answers(filled, *asked)
    assert there != before
    assert filled.generations.rollback() == 1
    assert answers(filled, *asked) == before
    assert filled.generations.rollback(2) == 2
    assert answers(filled, *asked) == there


def test_what_changed_since_is_found_by_words_and_counted(filled: Collection, source: Source) -> None:
    """After a rollback an edited and a new document are found by words, lack vectors, and the removed one is gone."""
    go_to(filled, OTHER)
    entries = filled.manifest(source.id).entries
    edit(filled, source, "a", "apple newer\nsecond line\n")
    edit(filled, source, "d", "drum added\n")
    filled.remove_document(entries["c"].document_id)
    assert filled.generations.rollback() is None
    assert filled.generation == 2
    assert cut_all(filled, SPEC, embed=False) == 2
    assert filled.generations.rollback() == 1
    assert [hit.text for hit in filled.search("newer", None, 5, "lexical").hits] == ["apple newer\n"]
    assert [hit.text for hit in filled.search("added", None, 5, "lexical").hits] == ["drum added\n"]
    assert filled.search("cloud", None, 5, "lexical").hits == ()
    assert {hit.path for hit in filled.search("apple house", None, 5, "lexical").hits} == {"a", "b"}
    assert filled.status().missing_vectors == 3
    lacking = filled.unembedded(SPEC)
    assert [(document.path, len(document.chunks)) for document in lacking] == [("a", 2), ("d", 1)]


def test_unembedded_ends_with_the_vectors(filled: Collection, source: Source) -> None:
    """A document is listed with the chunks that lack a vector alone; behind the last key there is none."""
    edit(filled, source, "d", "apple bread\nfrost new\n")  # the first line's vector is there
    (found,) = filled.unembedded(SPEC)
    assert [found.text[chunk.start : chunk.end] for chunk in found.chunks] == ["frost new\n"]
    assert filled.unembedded(SPEC, found.key) == ()
    keys = [chunk.embedded_hash for chunk in found.chunks]
    filled.add_vectors(SPEC.embedding, keys, query_under(SPEC, "x")[None])
    assert filled.unembedded(SPEC) == ()
    assert filled.unembedded(IndexSpec(SPEC.embedding, ChunkSpec(99, 0))) == ()


def test_two_chunkings_stand_side_by_side_in_full_text(filled: Collection, source: Source, folder: Path) -> None:
    """Replacing and removing a document takes its words out of both, whichever is in service."""
    go_to(filled, OTHER)
    assert (in_words(folder, 1), in_words(folder, 2)) == (6, 4)
    edit(filled, source, "a", "drum\n")
    assert (in_words(folder, 1), in_words(folder, 2)) == (3, 3)
    filled.remove_document(filled.manifest(source.id).entries["b"].document_id)
    assert (in_words(folder, 1), in_words(folder, 2)) == (1, 2)
    filled.remove_source(source.id)
    assert (in_words(folder, 1), in_words(folder, 2)) == (0, 0)
    assert rows(folder, "SELECT count(*) FROM chunk") == [(0,)]


def test_words_of_every_chunking_are_rebuilt(filled: Collection, folder: Path) -> None:
    """A release with other rules for words rewrites those of the old generation, too."""
    go_to(filled, OTHER)
    raw = sqlite3.connect(folder / "store.db")
    with raw:
        raw.execute("UPDATE meta SET value = 'older' WHERE key = 'lexical_version'")
    raw.close()
    filled.close()
    with Collection.open(folder) as again:
        assert (in_words(folder, 1), in_words(folder, 2)) == (6, 4)
        assert again.generations.rollback() == 1
        assert again.search("cloud", None, 5, "lexical").hits[0].text == "cloud drum\n"


def test_the_same_chunks_serve_another_embedding(filled: Collection, folder: Path) -> None:
    """Where only the model changes, no chunk is stored twice and no word added: hashes alone are."""
    before = rows(folder, "SELECT id, start FROM chunk")
    go_to(filled, LINES)
    assert rows(folder, "SELECT id, start FROM chunk") == before
    assert in_words(folder, 1) == 6
    assert rows(folder, "SELECT count(*) FROM chunk_embedding") == [(12,)]
    hit = filled.search("x", query_under(LINES, "iron jungl\n"), 1, "dense").hits[0]
    assert hit.text == "iron jungl\n"


def test_only_the_chunking_changes_and_vectors_are_shared(filled: Collection, folder: Path) -> None:
    """A text that is a chunk under both specs keeps its one vector, and the segments go over to the new generation."""
    filled.fold()
    go_to(filled, PAIRS)
    assert [len(one.segments) for one in filled.generations.listed()] == [1, 1]
    assert rows(folder, "SELECT count(*) FROM vector") == [(8,)]  # c is one line: known
    assert filled.search("x", query_under(PAIRS, "grape house\niron jungl\n"), 1, "dense").hits[0].path == "b"
    filled.fold()
    assert filled.generations.rollback() == 1
    assert filled.search("x", query_under(SPEC, "cloud drum\n"), 1, "dense").hits[0].text == "cloud drum\n"
    assert filled.status().delta_rows == 0


def test_a_large_new_embedding_comes_with_its_segment(folder: Path, empty_collection: Path) -> None:
    """Vectors beyond the limit of a delta are in a segment when their generation is published."""
    with Collection.create(folder, "abc124", SPEC, delta_rows=3) as collection:
        source = collection.add_source("/data", "folder")
        put(collection, source, *(upsert(path, text) for path, text in TEXTS.items()))
        assert go_to(collection, OTHER) == 2
        status = collection.status()
        assert (status.segments, status.delta_rows, status.vectors) == (1, 0, 4)
        assert collection.search("x", query_under(OTHER, "apple house\n"), 1, "dense").hits[0].path == "c"
        names = {path.name for path in (folder / "segments").iterdir()}
        assert {segment.file for one in collection.generations.listed() for segment in one.segments} == names


def test_a_version_that_changed_meanwhile_is_not_cut(filled: Collection, source: Source) -> None:
    """Cuts of a replaced, and of a removed, document are left out; the others are stored."""
    cuts = [cut(document, OTHER) for document in filled.generations.uncut(OTHER)]
    edit(filled, source, "a", "drum\n")
    filled.remove_document(filled.manifest(source.id).entries["b"].document_id)
    assert filled.generations.add_cuts(OTHER, cuts) == 1
    assert [(document.path, document.version) for document in filled.generations.uncut(OTHER)] == [("a", 2)]
    assert filled.generations.add_cuts(OTHER, cuts) == 1  # the same again, after a kill
    assert len(filled.generations.uncut(OTHER)) == 1


def test_a_renamed_document_keeps_its_cut(filled: Collection, source: Source) -> None:
    """A rename between cutting and publishing changes no text: nothing is cut again."""
    cut_all(filled, OTHER)
    document_id = filled.manifest(source.id).entries["a"].document_id
    filled.apply(ChangeSet(source.id, renames=(DocumentRename(document_id, "z", STAT),)))
    assert filled.generations.uncut(OTHER) == ()
    assert filled.generations.publish(OTHER) == 2


def test_chunks_that_contradict_those_that_stand_are_refused(filled: Collection) -> None:
    """One ChunkSpec cuts a text in one way; another one is an error of the caller, and so is no chunk at all."""
    document = next(one for one in filled.generations.uncut(LINES) if one.path == "a")
    good = cut(document, LINES)
    with pytest.raises(ValueError, match="cut otherwise"):
        filled.generations.add_cuts(LINES, [DocumentCut(good.document_id, good.version, good.chunks[:1])])
    with pytest.raises(ValueError, match="a chunk at least"):
        filled.generations.add_cuts(LINES, [DocumentCut(good.document_id, good.version, ())])
    assert len(filled.generations.uncut(LINES)) == 3


def test_uncut_comes_in_pages(filled: Collection, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends at so many documents, and with the one that reaches so many characters; keys lead on."""
    monkeypatch.setattr("indexes.store_recutting.PAGE_DOCUMENTS", 2)
    assert [len(filled.generations.uncut(OTHER)), cut_all(filled, OTHER)] == [2, 3]
    monkeypatch.setattr("indexes.store_recutting.PAGE_CHARACTERS", 1)
    edit(filled, source, "a", "x" * 50)
    edit(filled, source, "b", "y" * 50)
    first = filled.generations.uncut(OTHER)
    assert [one.path for one in first] == ["a"]
    assert [one.path for one in filled.generations.uncut(OTHER, first[-1].key)] == ["b"]


def test_an_empty_text_is_never_uncut(filled: Collection, source: Source) -> None:
    """What has no chunk can't be cut, and holds nothing up."""
    edit(filled, source, "empty", "")
    assert "empty" not in [document.path for document in filled.generations.uncut(OTHER)]
    assert go_to(filled, OTHER) == 2


def test_upserts_cut_by_another_spec_are_refused(filled: Collection, source: Source) -> None:
    """A run that began before a publication can't apply under it; removals and renames have no spec and can."""
    go_to(filled, OTHER)
    late = ChangeSet(source.id, upserts=(upsert("z", "late\n"),), spec=SPEC)
    with pytest.raises(SpecMismatch, match="generation 2"):
        filled.apply(late)
    assert "z" not in filled.manifest(source.id).entries
    gone = filled.manifest(source.id).entries["a"].document_id
    filled.apply(ChangeSet(source.id, removals=(gone,), spec=SPEC))
    assert "a" not in filled.manifest(source.id).entries
    filled.apply(ChangeSet(source.id, upserts=(upsert("z", "late\n"),), spec=OTHER))


def test_two_old_generations_are_kept_and_numbers_never_come_back(filled: Collection) -> None:
    """Of five publications three generations stand, each with a number of its own; an older one can't be served."""
    for spec in (OTHER, PAIRS, LINES, SPEC):
        go_to(filled, spec)
    assert [one.number for one in filled.generations.listed()] == [3, 4, 5]
    assert KEPT == 2
    with pytest.raises(NotFound, match="generation 1 is not kept; there are 3, 4, 5"):
        filled.generations.rollback(1)


def test_the_last_two_in_service_are_kept_whatever_their_numbers(filled: Collection) -> None:
    """After 1, 2, 3 and back to 1, a fourth drops 2: 1 and 3 were in service last before it."""
    for spec in (OTHER, PAIRS):
        go_to(filled, spec)
    assert filled.generations.rollback(1) == 1
    assert go_to(filled, LINES) == 4
    assert [(one.number, one.current) for one in filled.generations.listed()] == [(1, False), (3, False), (4, True)]


def test_a_rollback_takes_the_older_one_that_served_last(filled: Collection) -> None:
    """By default 4 goes to 1, which served last before it, not to 3; then there is no older one: 3 must be named."""
    test_the_last_two_in_service_are_kept_whatever_their_numbers(filled)
    assert filled.generations.before().number == 1
    assert filled.generations.rollback() == 1
    with pytest.raises(NotFound, match="no older one is kept; for a newer one say which: 3, 4"):
        filled.generations.rollback()
    assert filled.generations.rollback(1) == 1
    assert filled.generations.rollback(3) == 3


def test_a_first_generation_has_no_older_one(filled: Collection) -> None:
    """The message says so."""
    with pytest.raises(NotFound, match="generation 1 is in service, and no older one is kept"):
        filled.generations.rollback()


def test_times_of_retirement_rise_whatever_the_clock_says(filled: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that stands still, the order in which generations served is still known."""
    monkeypatch.setattr("indexes.store_generations.now", lambda: "2026-01-01T00:00:00.000Z")
    test_the_last_two_in_service_are_kept_whatever_their_numbers(filled)


def test_what_only_dropped_generations_needed_goes(filled: Collection, folder: Path) -> None:
    """Chunks, words, hashes and segments of the specs that no kept generation has are gone; vectors stay."""
    go_to(filled, OTHER)
    filled.fold()
    go_to(filled, LINES)
    assert filled.generations.rollback(1) == 1
    go_to(filled, IndexSpec(SPEC.embedding, ChunkSpec(128, 0)))  # cuts as PAIRS does; drops 2
    assert [one.number for one in filled.generations.listed()] == [1, 3, 4]
    assert rows(folder, "SELECT tokens FROM chunk_spec ORDER BY id") == [(16,), (128,)]
    known = rows(folder, "SELECT id FROM chunk_spec ORDER BY id")
    assert rows(folder, "SELECT DISTINCT chunk_spec_id FROM chunk ORDER BY 1") == known
    tables = {name for (name,) in rows(folder, "SELECT name FROM sqlite_schema WHERE name REGEXP '^words_[0-9]+$'")}
    assert tables == {f"words_{one}" for (one,) in known}
    assert rows(folder, "SELECT count(*) FROM chunk_embedding WHERE embedding_spec_id = 2") == [(6,)]
    assert rows(folder, "SELECT count(*) FROM vector WHERE embedding_spec_id = 2") == [(8,)]
    go_to(filled, PAIRS)
    go_to(filled, SPEC)  # drops 1 and 3: LINES' embedding is needed no more
    assert rows(folder, "SELECT count(*) FROM chunk_embedding WHERE embedding_spec_id = 2") == [(0,)]
    assert rows(folder, "SELECT count(*) FROM vector WHERE embedding_spec_id = 2")[0][0] > 0
    assert rows(folder, "PRAGMA foreign_key_check") == []
    filled.fold()
    kept = {segment.file for one in filled.generations.listed() for segment in one.segments}
    assert {path.name for path in (folder / "segments").iterdir()} == kept


def test_what_is_being_prepared_is_not_taken_apart(filled: Collection, folder: Path) -> None:
    """Cuts for a generation to come survive a collection of garbage, and are gone when another one took its place."""
    cut_all(filled, OTHER)
    filled.generations.drop_retired()
    assert filled.generations.uncut(OTHER) == ()
    cut_all(filled, IndexSpec(SPEC.embedding, ChunkSpec(128, 0)))
    filled.generations.drop_retired()
    assert len(filled.generations.uncut(OTHER)) == 3
    assert rows(folder, "SELECT id FROM chunk_spec") == [(1,), (3,)]


def test_a_spec_that_is_half_taken_apart_can_be_prepared_again(filled: Collection, folder: Path) -> None:
    """A kill behind the words leaves chunks that nobody finds: the same spec is cut anew beside them."""

    class Stop(Exception):
        pass

    def hook(name: str) -> None:
        if name == "retired.chunks.begin":
            raise Stop

    go_to(filled, OTHER)
    go_to(filled, LINES)
    cut_all(filled, SPEC)
    filled.generations.publish(SPEC)
    cut_all(filled, IndexSpec(SPEC.embedding, ChunkSpec(128, 0)))
    filled.generations.publish(IndexSpec(SPEC.embedding, ChunkSpec(128, 0)))  # 2 goes
    failpoints.install(hook)
    try:
        with pytest.raises(Stop):
            filled.generations.drop_retired()
    finally:
        failpoints.install(None)
    assert rows(folder, "SELECT chunker FROM chunk_spec WHERE id = 2") == [("dropped:2:borders-1",)]
    assert go_to(filled, OTHER) == 6
    assert filled.search("cloud", None, 5, "lexical").hits[0].text == "apple bread\ncloud drum\n"
    assert rows(folder, "SELECT count(*) FROM chunk WHERE chunk_spec_id = 2") == [(0,)]
    assert rows(folder, "SELECT id FROM chunk_spec WHERE chunker LIKE 'dropped%'") == []


def test_another_process_follows_at_its_next_call(filled: Collection, folder: Path) -> None:
    """A second opened collection, as in a server, answers by the generation that the first one puts in service."""
    with Collection.open(folder) as server:
        assert server.search("apple", query_under(SPEC, "apple bread\n"), 1, "dense").hits[0].text == "apple bread\n"
        go_to(filled, OTHER)
        piece = "apple bread\ncloud drum\n"
        found = server.search("apple", query_under(OTHER, piece), 1, "dense")
        assert (found.generation, found.hits[0].text) == (2, piece)
        filled.generations.rollback()
        assert server.search("apple", query_under(SPEC, "apple bread\n"), 1, "dense").generation == 1


def test_listing_says_rows_and_times(filled: Collection) -> None:
    """Rows are the vectors under a generation's embedding; when it retired is known, None for the current one."""
    go_to(filled, OTHER)
    first, second = filled.generations.listed()
    assert (first.rows, second.rows) == (6, 4)
    assert first.retired_at is not None
    assert second.retired_at is None
    assert second.current


WORLD = (SPEC, OTHER, PAIRS, LINES)


@settings(max_examples=25, deadline=None)  # each makes a collection on disk
@given(steps=st.lists(st.integers(0, 11), max_size=12))
def test_any_order_of_changes_serves_the_documents_of_now(
    steps: list[int], tmp_path_factory: pytest.TempPathFactory, empty_collection: Path
) -> None:
    """Edits, removals, publications, rollbacks in any order: a search finds each line that stands, and no other."""
    folder = tmp_path_factory.mktemp("world") / "collection"
    with Collection.create(folder, "abc123", SPEC) as collection:
        source = collection.add_source("/data", "folder")
        held: dict[str, str] = {}
        for number, step in enumerate(steps):
            if step < 4:
                go_to(collection, WORLD[step])
            elif step < 6:
                back(collection)
            elif step == 6 and held:
                path = sorted(held)[0]
                collection.remove_document(collection.manifest(source.id).entries[path].document_id)
                del held[path]
            else:
                path = f"d{step}"
                held[path] = "".join(f"apple word{number} line{n}\n" for n in range(step - 5))
                add(collection, source, path, held[path])
            check(collection, held)


def back(collection: Collection) -> None:
    try:
        wanted = collection.generations.before()
    except NotFound:
        return
    cut_all(collection, wanted.spec)
    assert collection.generations.rollback() == wanted.number


def add(collection: Collection, source: Source, path: str, text: str) -> None:
    """Replace or add a document as the spec in service cuts it, with vectors."""
    spec = collection.spec
    entry = collection.manifest(source.id).entries.get(path)
    chunks = cut(StoredDocument(0, "", 0, path, "", text, (), ()), spec).chunks
    keys = [chunk.embedded_hash for chunk in chunks]
    collection.add_vectors(spec.embedding, keys, vectors_under(spec, keys))
    one = upsert(path, text, entry and (entry.document_id, entry.version), chunks=chunks)
    assert not collection.apply(ChangeSet(source.id, upserts=(one,), spec=spec)).conflicts


def check(collection: Collection, held: dict[str, str]) -> None:
    lines = sorted(line for text in held.values() for line in text.splitlines(keepends=True))
    for mode in ("dense", "lexical"):
        found = collection.search("apple", query_under(collection.spec, "x"), 200, mode).hits
        places = {(hit.path, hit.start): hit.text for hit in found} | {
            (place.path, place.start): hit.text for hit in found for place in hit.also
        }
        assert sorted(line for text in places.values() for line in text.splitlines(keepends=True)) == lines
    assert collection.status().missing_vectors == 0
    assert len(collection.generations.listed()) <= 1 + KEPT


def test_a_publication_waits_for_a_builder(
    folder: Path, empty_collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process builds, a generation that needs a segment is not published, and can be a moment later."""
    monkeypatch.setattr("indexes.generations.BUSY_SECONDS", 0.05)
    with Collection.create(folder, "abc124", SPEC, delta_rows=3) as collection:
        source = collection.add_source("/data", "folder")
        put(collection, source, *(upsert(path, text) for path, text in TEXTS.items()))
        cut_all(collection, OTHER)
        (folder / "locks").mkdir(exist_ok=True)
        with FileLock(folder / "locks" / "build.lock"), pytest.raises(StoreBusy):
            collection.generations.publish(OTHER)
        assert collection.generations.publish(OTHER) == 2


def test_large_documents_are_not_cut_while_every_writer_waits(
    filled: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of them ends after a few, with more behind it: those are cut before the transaction that publishes."""
    monkeypatch.setattr("indexes.store_recutting.PAGE_CHARACTERS", 20)
    monkeypatch.setattr("indexes.publishing._FEW_CHARACTERS", 10)
    for number in range(20):
        edit(filled, source, f"large-{number:02d}", f"line {number}\n" * 5)
    cut_inside, publishing = list[str](), False

    def step(name: str) -> None:
        nonlocal publishing
        publishing = publishing or name == "publish.begin"

    def recut(document: StoredDocument) -> DocumentCut:
        cut_inside.extend([document.path] if publishing else [])
        return cut(document, OTHER)

    failpoints.install(step)
    try:
        assert filled.generations.publish(OTHER, recut) == 2
    finally:
        failpoints.install(None)
    assert cut_inside == []
    assert filled.generations.uncut(OTHER) == ()


def test_a_collection_of_garbage_completes_what_a_kill_left(filled: Collection, folder: Path) -> None:
    """Chunks of a dropped generation go with the next collection, and nothing that was kept."""
    for spec in (OTHER, LINES, SPEC, IndexSpec(SPEC.embedding, ChunkSpec(128, 0))):
        cut_all(filled, spec)
        filled.generations.publish(spec)  # and never drop_retired
    before = answers(filled, "apple bread\n")
    assert len(rows(folder, "SELECT id FROM chunk_spec")) == 3
    filled.garbage.collect(30)
    assert rows(folder, "SELECT tokens FROM chunk_spec ORDER BY id") == [(16,), (128,)]
    assert answers(filled, "apple bread\n") == before
