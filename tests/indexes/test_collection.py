"""Documents in and out: change sets, conflicts, renames, removals, lists, texts, vectors by content."""

import json
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import lexical, store_vectors
from indexes.collection import Collection
from indexes.errors import (
    InvalidQuery,
    InvalidVectors,
    NotFound,
    SourceOverlap,
    StoreTooNew,
    VersionGone,
)
from indexes.store import Connection
from indexes.store_changes import settled_renames
from indexes.types import ChangeSet, DocumentRename, EmbeddingSpec, FileStat, Mark, RejectedFile, Source
from tests.conftest import shared_data
from tests.indexes.corpus import (
    EMBEDDING,
    SPEC,
    STAT,
    chunks_of,
    embed,
    put,
    query_vector,
    stored,
    upsert,
    vector_of,
    vectors_of,
)


def paths(collection: Collection, word: str) -> list[str]:
    return [hit.path for hit in collection.search(word, None, 50, "lexical").hits]


@settings(max_examples=20, deadline=None)  # each makes a collection on disk
@given(st.sets(st.integers(0, 59), max_size=8), st.integers(1, 12))
def test_hits_carry_the_marks_that_hold_for_them(starts: set[int], width: int) -> None:
    """A hit has the mark that holds where it begins and those inside it, as a plain scan of all marks finds them."""
    marks = tuple(
        Mark(start, {"row": start, "sheet": "A"} if start % 2 else {}, ("A", str(start))) for start in sorted(starts)
    )
    text = "\n".join(["apple" + "x" * width] * 20)[:60].ljust(60, "z")
    with tempfile.TemporaryDirectory() as folder, Collection.create(Path(folder), "abc123", SPEC) as collection:
        put(collection, collection.add_source("/d", "folder"), replace(upsert("a", text), marks=marks))
        for hit in collection.search("z apple", query_vector("apple"), 50, "dense").hits:
            inside = [mark for mark in marks if hit.start < mark.start < hit.end]
            before = [mark for mark in marks if mark.start <= hit.start][-1:]
            assert list(hit.marks) == before + inside
            for offset in range(hit.start, hit.end):
                (expected,) = [mark for mark in marks if mark.start <= offset][-1:] or [Mark(0, {}, hit.heading_path)]
                assert hit.position_at(offset) == (expected.position or None)
                assert hit.heading_path_at(offset) == expected.heading_path


@pytest.mark.parametrize(
    "marks",
    [
        (Mark(3, {"row": 1}), Mark(3, {"row": 2})),
        (Mark(-1, {"row": 1}),),
        (Mark(5, {"row": 1}),),
        (Mark(0, {"row": 1}, ("\ud800",)),),
        (Mark(0, {"row": True}),),
        (Mark(0, {"sheet": "\ud800"}),),
        (Mark(0, {"\udfff": 1}),),
    ],
)
def test_marks_that_make_no_sense_are_refused(collection: Collection, source: Source, marks: tuple[Mark, ...]) -> None:
    """Marks that do not rise, lie outside the text, or are not plain values are refused whole."""
    with pytest.raises(ValueError, match=r"marks|position|surrogates"):
        put(collection, source, replace(upsert("a", "apple"), marks=marks))
    assert collection.status().documents == 0


def test_rejected_files_come_back_as_they_were_put(collection: Collection, source: Source) -> None:
    """Every field is kept, 64-bit inodes included, by source and folder; another word on a path takes its place."""
    stat = FileStat(size=1, mtime_ns=2, inode=2**64 - 1, scanned_ns=3)
    files = tuple(RejectedFile(path, "damaged", "détail 🙂", stat, "readers") for path in ("d/a", "d/ü", "d0", "e"))
    other = collection.add_source("/other", "folder")
    collection.apply(ChangeSet(source.id, rejections=files))
    collection.apply(ChangeSet(other.id, rejections=files[:1]))
    assert collection.manifest(source.id).rejected == {file.path: file for file in files}
    assert collection.manifest(source.id, "d").rejected == {file.path: file for file in files[:2]}
    assert collection.status().rejected_files == 5
    later = RejectedFile("e", "permission", "")
    collection.apply(ChangeSet(source.id, rejections=(later,), forgotten=("d0", "unknown")))
    assert collection.manifest(source.id).rejected == {file.path: file for file in (*files[:2], later)}
    assert len(collection.manifest(other.id).rejected) == 1
    with pytest.raises(UnicodeEncodeError):
        collection.apply(ChangeSet(source.id, rejections=(RejectedFile("x", "damaged", "\ud800"),)))


def test_a_document_ends_the_rejection_of_its_path(collection: Collection, source: Source) -> None:
    """What is put at, or renamed to, a rejected path is rejected no more; a conflict leaves it rejected."""
    collection.apply(ChangeSet(source.id, rejections=tuple(RejectedFile(path, "damaged", "") for path in "abc")))
    key = put(collection, source, upsert("a", "apple"))["a"]
    assert sorted(collection.manifest(source.id).rejected) == ["b", "c"]
    assert collection.apply(ChangeSet(source.id, upserts=(upsert("b", "x", ("doc_gone", 1)),))).conflicts == ("b",)
    collection.apply(ChangeSet(source.id, renames=(DocumentRename(key, "c", STAT),)))
    assert sorted(collection.manifest(source.id).rejected) == ["b"]
    collection.remove_source(source.id)
    assert collection.status().rejected_files == 0


def test_a_document_comes_back_as_it_was_put(collection: Collection, source: Source) -> None:
    """Manifest, list and text give every field of what was applied, 64-bit inodes and NUL included."""
    text = "Straße\0nach NUL 🙂👩‍👩‍👧\nzweite Zeile"
    stat = FileStat(12345, 1_700_000_000_123_456_789, 2**64 - 3, 1_700_000_001_000_000_000)
    one = upsert("a/ü.md", text, stat=stat, title="T\0", metadata={"n": 1, "f": 1.5, "b": True, "s": "é"})
    (document_id,) = put(collection, source, one).values()
    assert document_id.startswith("doc_abc123")
    assert len(document_id) == 26
    entry = collection.manifest(source.id).entries["a/ü.md"]
    assert (entry.document_id, entry.version, entry.stat, entry.state) == (document_id, 1, stat, "indexed")
    assert (entry.content_hash, entry.reader) == (one.content_hash, "plain-1")
    info = collection.document(document_id)
    assert (info.title, info.metadata, info.chunks, info.characters) == ("T\0", one.metadata, 2, len(text))
    assert (info.modified_at, info.content_hash) == ("2023-11-14T22:13:20.123456Z", one.content_hash.hex())
    assert (info.source, info.size, info.state_reason) == ("/data/docs", 12345, None)
    whole = collection.text(document_id)
    assert (whole.text, whole.start, whole.end, whole.version) == (text, 0, len(text), 1)
    assert collection.text(document_id, 5, 8, 1).text == text[5:8]
    assert paths(collection, "nach") == ["a/ü.md"]
    assert collection.search("zweite", None, 1, "lexical").hits[0].text == "zweite Zeile"


@pytest.mark.parametrize("mtime_ns", [-1, 0, 2**62, -(2**62), 2**63 - 1])
def test_any_file_time_is_listed(collection: Collection, source: Source, mtime_ns: int) -> None:
    """A file's time may be anything that fits 64 bits."""
    (key,) = put(collection, source, upsert("a", "x", stat=FileStat(1, mtime_ns, 1, 1))).values()
    assert collection.document(key).modified_at.endswith("Z")


def test_a_new_version_replaces_the_old_one_whole(collection: Collection, source: Source) -> None:
    """After an edit the number grows by one, the old text, chunks and words are gone, and the id stays."""
    (key,) = put(collection, source, upsert("a", "apple bread\ncloud\n")).values()
    assert put(collection, source, upsert("a", "bread drum", (key, 1))) == {"a": key}
    assert collection.document(key).version == 2
    assert paths(collection, "apple") == []
    assert paths(collection, "cloud") == []
    assert paths(collection, "drum") == ["a"]
    with pytest.raises(VersionGone, match="version 2"):
        collection.text(key, version=1)
    with collection._store.read() as connection:
        assert connection.execute("SELECT count(*) FROM document_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM version_text").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM chunk").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM chunk_embedding").fetchone() == (1,)


def test_deleted_words_leave_nothing_in_the_full_text(folder, collection: Collection, source: Source) -> None:
    """Adding, editing and removing leaves a full text that is sound and whose vocabulary is empty."""
    texts = ["apple\0bread 中文字 ﬁne\n", "running 3.11.7 naïve Ω\n" * 3, "🙂 e\u0301 İstanbul foo_bar"]
    keys = put(collection, source, *(upsert(f"{n}", text) for n, text in enumerate(texts)))
    put(collection, source, upsert("0", "cloud 中", (keys["0"], 1)))
    for key in keys.values():
        collection.remove_document(key)
    collection.apply(ChangeSet(source.id))
    raw = sqlite3.connect(folder / "store.db")
    raw.execute("INSERT INTO words_1 (words_1) VALUES ('integrity-check')")
    raw.commit()
    assert raw.execute("SELECT * FROM words_1_vocabulary").fetchall() == []
    assert raw.execute("SELECT count(*) FROM words_1_docsize").fetchall() == [(0,)]
    raw.close()
    assert collection.status().chunks == 0


def test_another_lexical_version_is_rebuilt_on_opening(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are written anew from the stored texts; a process with the old words stops changing them."""
    old = Collection.create(folder, "abc123", SPEC)
    source = old.add_source("/d", "folder")
    (key,) = put(old, source, upsert("a", "apple bread")).values()
    columns = lexical.columns
    monkeypatch.setattr(lexical, "VERSION", "test-other")
    monkeypatch.setattr(lexical, "columns", lambda text: columns(text.replace("apple", "cloud")))
    with Collection.open(folder) as new:
        assert paths(new, "cloud") == ["a"]
        assert paths(new, "apple") == []
        monkeypatch.undo()
        with pytest.raises(StoreTooNew, match="words"):
            old.remove_document(key)
    old.close()


def test_an_empty_change_set_writes_nothing(folder, collection: Collection, source: Source) -> None:
    """Nothing to do means not one byte in the store or its log, and no wait for another writer."""
    put(collection, source, upsert("a", "apple"))
    before = {path.name: path.read_bytes() for path in folder.glob("store.db*") if not path.name.endswith("shm")}
    with collection._store.write():
        assert collection.apply(ChangeSet(source.id)).documents == {}
        assert collection.add_source("/data/docs", "folder") == source
        collection.add_vectors(EMBEDDING, [], np.empty((0, 8), np.float32))
        assert not collection.fold_if_due()
    after = {path.name: path.read_bytes() for path in folder.glob("store.db*") if not path.name.endswith("shm")}
    assert after == before


def test_lone_surrogates_are_refused_before_anything_is_written(collection: Collection, source: Source) -> None:
    """Half a surrogate pair in text, title or path is the caller's bug and changes nothing."""
    good = upsert("good", "apple")
    for bad in (upsert("a\ud800", "x"), upsert("a", "x", title="\udfff", chunks=())):
        with collection._store.write(), pytest.raises(ValueError, match="surrogates"):  # without waiting to write
            collection.apply(ChangeSet(source.id, upserts=(good, bad)))
    with pytest.raises(ValueError, match="surrogates"):
        collection.apply(ChangeSet(source.id, renames=(DocumentRename("doc_x", "\ud800", STAT),)))
    with pytest.raises(ValueError, match="surrogates"):
        upsert("a", "x\ud800")
    assert collection.manifest(source.id).entries == {}


def test_conflicts_are_reported_and_the_rest_is_applied(collection: Collection, source: Source) -> None:
    """A taken path, another version, another document and a vanished one are each left out."""
    keys = put(collection, source, upsert("a", "apple"), upsert("b", "bread"))
    put(collection, source, upsert("b", "bread again", (keys["b"], 1)))
    report = collection.apply(
        ChangeSet(
            source.id,
            upserts=(
                upsert("a", "taken"),
                upsert("b", "old version", (keys["b"], 1)),
                upsert("c", "vanished", (keys["a"], 1)),
                upsert("d", "drum"),
                upsert("d", "twice"),
            ),
            renames=(DocumentRename("doc_gone", "e", STAT), DocumentRename(keys["a"], "b", STAT)),
            removals=("doc_gone",),
        )
    )
    assert set(report.documents) == {"d"}
    assert report.conflicts == ("e", "b", "a", "b", "c", "d")
    assert {path: e.version for path, e in collection.manifest(source.id).entries.items()} == {"a": 1, "b": 2, "d": 1}
    assert paths(collection, "taken vanished twice") == []


def test_changes_of_one_source_do_not_touch_another(collection: Collection, source: Source) -> None:
    """An id of another source is as good as unknown: it is neither removed, renamed, restated nor marked."""
    other = collection.add_source("/data/other", "folder")
    (key,) = put(collection, other, upsert("a", "apple")).values()
    stat = FileStat(99, 99, 99, 99)
    changes = ChangeSet(
        source.id,
        renames=(DocumentRename(key, "z", stat),),
        removals=(key,),
        restats=((key, stat),),
        stale=((key, "damaged"),),
    )
    assert collection.apply(changes).conflicts == ("z",)
    entry = collection.manifest(other.id).entries["a"]
    assert (entry.stat, entry.state) == (STAT, "indexed")
    with pytest.raises(NotFound):
        collection.apply(ChangeSet(99, removals=(key,)))


def test_renames_swap_and_shift_within_one_set(collection: Collection, source: Source) -> None:
    """Names may swap and move in a chain; ids, versions, texts and vectors stay, and nothing is embedded again."""
    keys = put(collection, source, *(upsert(name, f"word{name}") for name in "abcd"))
    moved = FileStat(1, 2, 3, 4)
    wanted = {"a": "b", "b": "a", "c": "d", "d": "sub/e"}
    report = collection.apply(
        ChangeSet(source.id, renames=tuple(DocumentRename(keys[old], new, moved) for old, new in wanted.items()))
    )
    assert report.conflicts == ()
    entries = collection.manifest(source.id).entries
    assert {path: entry.document_id for path, entry in entries.items()} == {
        new: keys[old] for old, new in wanted.items()
    }
    assert {entry.version for entry in entries.values()} == {1}
    assert {entry.stat for entry in entries.values()} == {moved}
    assert paths(collection, "worda") == ["b"]
    assert collection.status().vectors == 4


def test_a_rename_and_an_edit_meet_in_one_set(collection: Collection, source: Source) -> None:
    """Removals and renames come first: the freed path takes a new document, the new name a new version."""
    keys = put(collection, source, upsert("a", "apple"), upsert("b", "bread"))
    new = (upsert("a", "cloud"), upsert("c", "drum", (keys["a"], 1)))
    embed(collection, *new)
    rename = DocumentRename(keys["a"], "c", STAT)
    report = collection.apply(ChangeSet(source.id, upserts=new, renames=(rename,), removals=(keys["b"],)))
    assert report.conflicts == ()
    assert report.documents["c"] == keys["a"]
    assert report.documents["a"] not in keys.values()
    assert {path: e.version for path, e in collection.manifest(source.id).entries.items()} == {"a": 1, "c": 2}


@given(
    wanted=st.dictionaries(st.integers(0, 7), st.integers(0, 9), max_size=8),
    here=st.permutations(range(10)),
)
def test_settled_renames_never_meet(wanted: dict[int, int], here: list[int]) -> None:
    """After the settled renames no two documents share a path; permutations settle whole; a free target always does."""
    at = {str(document): str(path) for document, path in enumerate(here[:8])}
    asked = {str(document): str(path) for document, path in wanted.items()}
    holders = {path: document for document, path in at.items()}
    settled = settled_renames(asked, holders)
    assert settled.items() <= asked.items()
    after = {**at, **settled}
    assert len(set(after.values())) == len(after)
    if sorted(asked.values()) == sorted(at[document] for document in asked):
        assert settled == asked
    once = [path for path in asked.values() if list(asked.values()).count(path) == 1]
    assert all(document in settled for document, path in asked.items() if path in once and path not in holders)


def test_stale_and_touched_documents(collection: Collection, source: Source) -> None:
    """A stale document keeps its old version and says why; a touch or a new version ends that."""
    (key,) = put(collection, source, upsert("a", "apple")).values()
    for end in ("restat", "upsert"):
        collection.apply(ChangeSet(source.id, stale=((key, "password"), ("doc_gone", "x"))))
        assert collection.document(key).state_reason == "password"
        assert collection.manifest(source.id).entries["a"].state == "stale"
        assert collection.status().stale_documents == 1
        assert paths(collection, "apple") == ["a"]
        if end == "restat":
            stat = FileStat(5, 6, 7, 8)
            collection.apply(ChangeSet(source.id, restats=((key, stat), ("doc_gone", stat))))
            assert collection.manifest(source.id).entries["a"].stat == stat
        else:
            put(collection, source, upsert("a", "apple two", (key, 1)))
        assert collection.document(key).state == "indexed"
        assert collection.document(key).state_reason is None


def test_a_path_removed_by_hand_is_remembered_until_it_returns(collection: Collection, source: Source) -> None:
    """Only removals by hand are remembered; the path coming back, new or by rename, forgets them."""
    keys = put(collection, source, *(upsert(name, f"word{name}") for name in "abcd"))
    collection.remove_document(keys["a"])
    collection.remove_document(keys["b"], by_hand=True)
    collection.remove_document(keys["c"], by_hand=False)
    assert collection.removed_by_hand(source.id) == {"a", "b"}
    with pytest.raises(NotFound):
        collection.remove_document(keys["a"])
    put(collection, source, upsert("a", "apple"))
    collection.apply(ChangeSet(source.id, renames=(DocumentRename(keys["d"], "b", STAT),)))
    assert collection.removed_by_hand(source.id) == frozenset()


def test_manifest_of_a_subtree(collection: Collection, source: Source) -> None:
    """A folder's manifest holds what lies in it, and nothing whose name only begins alike."""
    names = ["a", "a/b", "a/b/c", "a/b0", "a/bc/d", "a/b.txt", "b/c", "a/b/ü"]
    put(collection, source, *(upsert(name, f"word {name}") for name in names))
    for under in ("a/b", "a/b/", "/a/b"):
        assert set(collection.manifest(source.id, under).entries) == {"a/b", "a/b/c", "a/b/ü"}
    assert set(collection.manifest(source.id).entries) == set(names)
    assert set(collection.manifest(source.id, "zz").entries) == set()
    with pytest.raises(NotFound):
        collection.manifest(99)


@pytest.mark.parametrize(
    ("root", "clashes"),
    [
        ("/data", True),
        ("/data/docs/sub", True),
        ("/", True),
        ("/data/docs2", False),
        ("/data/doc", False),
        ("/other", False),
        ("upload", False),
    ],
)
def test_sources_do_not_overlap(collection: Collection, source: Source, root: str, clashes: bool) -> None:
    """Roots are compared by their components: a longer name is no subfolder."""
    if clashes:
        with pytest.raises(SourceOverlap, match="/data/docs"):
            collection.add_source(root, "folder")
        assert collection.sources() == (source,)
    else:
        added = collection.add_source(root, "upload" if root == "upload" else "folder")
        assert collection.sources() == (source, added)
        assert collection.add_source(root, added.kind) == added


def test_removing_a_source_takes_its_documents(collection: Collection, source: Source) -> None:
    """Documents, words and the memory of removals go; the other source and all vectors stay."""
    other = collection.add_source("/data/other", "folder")
    keys = put(collection, source, upsert("a", "apple"), upsert("b", "bread"))
    put(collection, other, upsert("a", "cloud"))
    collection.remove_document(keys["b"])
    collection.remove_source(source.id)
    assert [document.source for document in collection.documents(None, 10, None)[0]] == ["/data/other"]
    assert paths(collection, "apple cloud") == ["a"]
    assert collection.status().vectors == 3
    for call in (collection.remove_source, collection.manifest):
        with pytest.raises(NotFound):
            call(source.id)
    assert collection.add_source("/data/docs", "folder").id > other.id


def test_documents_are_listed_page_by_page(collection: Collection, source: Source) -> None:
    """Pages follow source and path, hold each document once while others come and go, and end with None."""
    other = collection.add_source("/data/other", "folder")
    names = [f"p{n:02d}" for n in range(7)]
    keys = put(collection, source, *(upsert(name, f"text {name}") for name in names))
    put(collection, other, upsert("p00", "other"))
    seen, after = [], None
    while True:
        page, after = collection.documents(None, 3, after)
        seen += [(document.source, document.path) for document in page]
        if after is None:
            break
        collection.remove_document(keys.popitem()[1])
        if len(seen) == 3:
            put(collection, source, upsert("a-new", "comes before"))
    assert seen == [("/data/docs", name) for name in names[:6]] + [("/data/other", "p00")]
    page, after = collection.documents("/data/other", 1, None)
    assert [document.path for document in page] == ["p00"]
    assert after is None
    with pytest.raises(NotFound):
        collection.documents("/nowhere", 1, None)
    for limit, cursor in ((0, None), (1, "?"), (1, "AAAA"), (1, "é"), (1, "eDp5")):
        with pytest.raises(InvalidQuery):
            collection.documents(None, limit, cursor)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 6), (6, None), (6, 6)])
def test_a_range_outside_the_text_is_refused(collection: Collection, source: Source, start: int, end: int) -> None:
    """The message names the length; an unknown document is NotFound."""
    (key,) = put(collection, source, upsert("a", "apple")).values()
    with pytest.raises(InvalidQuery, match="5"):
        collection.text(key, start, end)
    with pytest.raises(NotFound):
        collection.text("doc_none")
    with pytest.raises(NotFound):
        collection.document("doc_none")


def test_vectors_are_kept_once_under_their_spec(collection: Collection) -> None:
    """A known hash keeps its first vector; another spec knows nothing of it."""
    keys = [bytes([n]) * 32 for n in range(5)]
    collection.add_vectors(EMBEDDING, keys[:3], vectors_of(keys[:3]))
    collection.add_vectors(EMBEDDING, [keys[0], keys[3], keys[3]], vectors_of([keys[4], keys[3], keys[2]]))
    assert collection.known_vectors(EMBEDDING, keys * 500) == frozenset(keys[:4])
    with collection._store.read() as connection:
        ids, held = store_vectors.read_vectors(connection, 1, 8, 1, 99)
    assert len(ids) == 4
    assert np.allclose(held, [stored(vector_of(key)) for key in keys[:4]], atol=1e-7)
    other = EmbeddingSpec("test-model", 8, template="other")
    assert collection.known_vectors(other, keys) == frozenset()
    collection.add_vectors(other, keys[4:], vectors_of(keys[4:]))
    assert collection.known_vectors(other, keys) == frozenset(keys[4:])
    assert collection.status().vectors == 4


def test_vectors_are_read_by_the_hashes_of_their_texts(collection: Collection) -> None:
    """Those that are stored under the spec come back, as they are stored; others, and other specs', do not."""
    keys = [bytes([n]) * 32 for n in range(5)]
    other = replace(EMBEDDING, template="other")
    collection.add_vectors(EMBEDDING, keys[:3], vectors_of(keys[:3]))
    collection.add_vectors(other, keys[3:], vectors_of(keys[3:]))
    found = collection.vectors(EMBEDDING, [*keys[1:], keys[1]])
    assert set(found) == set(keys[1:3])
    for key, vector in found.items():
        assert vector == pytest.approx(stored(vector_of(key)), abs=1e-6)
    assert set(collection.vectors(other, keys)) == set(keys[3:])
    assert collection.vectors(replace(EMBEDDING, model="never-seen"), keys) == {}


@pytest.mark.parametrize(
    "rows",
    [
        np.ones((1, 8)),
        np.zeros((1, 8)),
        np.eye(8)[:1] * 0.98,
        np.eye(7)[:1],
        np.eye(8)[:2],
        np.eye(8)[0],
        np.full((1, 8), np.nan),
        np.where(np.eye(8)[:1] > 0, np.inf, 0),
    ],
)
def test_bad_vectors_are_refused_whole(collection: Collection, rows: np.ndarray) -> None:
    """Another shape, values that are not finite, another length: no row of the call is kept."""
    with pytest.raises(InvalidVectors):
        collection.add_vectors(EMBEDDING, [b"k" * 32], rows.astype(np.float32))
    with pytest.raises(ValueError, match="32"):
        collection.add_vectors(EMBEDDING, [b"short"], np.eye(8, dtype=np.float32)[:1])
    assert collection.status().vectors == 0


def test_chunks_without_vectors_are_found_by_words_until_they_come(collection: Collection, source: Source) -> None:
    """Missing vectors are counted, do not hinder the words, and join their chunks by arriving."""
    one = upsert("a", "apple bread\ncloud\n")
    collection.apply(ChangeSet(source.id, upserts=(one,)))
    assert collection.status().missing_vectors == 2
    assert paths(collection, "apple") == ["a"]
    nearest = query_vector("apple bread\n")
    assert not collection.search("x", nearest, 5, "dense").hits
    embed(collection, one)
    assert collection.status().missing_vectors == 0
    best = collection.search("x", nearest, 5, "dense").hits[0]
    assert best.text == "apple bread\n"
    assert best.score == pytest.approx(1, abs=1e-3)


def stage(connection: Connection, document_id: str, number: int, text: str) -> None:
    """Write a version that waits for its vectors, as a batch does."""
    cursor = connection.execute(
        """INSERT INTO document_version (document_id, number, state, content_hash, size, mtime_ns, inode, scanned_ns,
                                         content_type, title, characters, reader, created_at, metadata)
           VALUES (?, ?, 'staged', x'00', 1, 1, 1, 1, 'text/plain', '', 1, 'r', '', '{}')""",
        (document_id, number),
    )
    version_id = cursor.lastrowid
    connection.execute("INSERT INTO version_text (version_id, text) VALUES (?, ?)", (version_id, text))
    (chunk,) = chunks_of(text)
    chunk_id = connection.execute(
        """INSERT INTO chunk (version_id, chunk_spec_id, ordinal, start, "end", tokens, heading_path, text_hash)
           VALUES (?, 1, 0, 0, ?, 1, '[]', ?)""",
        (version_id, len(text), chunk.text_hash),
    ).lastrowid
    connection.execute("INSERT INTO chunk_embedding VALUES (?, 1, ?, 0)", (chunk_id, chunk.embedded_hash))


def test_a_staged_version_is_invisible(collection: Collection, source: Source) -> None:
    """Waiting versions show in no list, text, search or figure; a new live version takes their place."""
    (key,) = put(collection, source, upsert("a", "apple")).values()
    embed(collection, upsert("x", "staged"), upsert("y", "apple"))
    with collection._store.write() as connection:
        connection.execute("INSERT INTO document VALUES ('doc_new', ?, 'new', 'indexed', NULL)", (source.id,))
        stage(connection, key, 2, "staged")
        stage(connection, "doc_new", 1, "apple")
    assert {path: entry.version for path, entry in collection.manifest(source.id).entries.items()} == {"a": 1}
    assert [document.id for document in collection.documents(None, 9, None)[0]] == [key]
    hits = collection.search("staged apple", query_vector("staged"), 9, "hybrid").hits
    assert [(hit.text, hit.also) for hit in hits] == [("apple", ())]
    status = collection.status()
    assert (status.documents, status.chunks, status.missing_vectors) == (1, 1, 0)
    for identity, version, error in ((key, 2, VersionGone), ("doc_new", None, NotFound)):
        with pytest.raises(error):
            collection.text(identity, version=version)
    with pytest.raises(NotFound):
        collection.document("doc_new")
    applied = put(collection, source, upsert("new", "bread"), upsert("a", "cloud", (key, 1)))
    assert applied == {"new": "doc_new", "a": key}
    assert collection.document(key).version == 2
    collection.remove_document("doc_new")
    collection.remove_document(key)
    assert collection.status().chunks == 0


def test_naughty_strings_go_in_and_out(folder, collection: Collection, source: Source) -> None:
    """Every string that is known to break programs is stored, searched by itself, and removed without a trace."""
    file = shared_data("naughty_strings") / "blns.json"
    strings = sorted({text for text in json.loads(file.read_text("utf-8")) if text})
    keys = put(collection, source, *(upsert(f"{n}", text, title=text) for n, text in enumerate(strings)))
    for n, text in enumerate(strings):
        assert collection.text(keys[f"{n}"]).text == text
        collection.search(text, None, 3, "lexical")
    collection.apply(ChangeSet(source.id, removals=tuple(keys.values())))
    raw = sqlite3.connect(folder / "store.db")
    raw.execute("INSERT INTO words_1 (words_1) VALUES ('integrity-check')")
    assert raw.execute("SELECT * FROM words_1_vocabulary").fetchall() == []
    raw.close()
