"""The index of words outside SQLite: it finds and scores what FTS5 does, follows every change, and is only derived."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import current_words, failpoints, store_backup, store_word_indexes, word_index, word_indexes, word_search
from indexes.checking import check
from indexes.collection import Collection
from indexes.errors import StorageFull, StoreDamaged
from indexes.types import Comparison, Filter, Hit, Source
from tests.indexes.corpus import put, upsert
from tests.indexes.specs import PAIRS, go_to

pytest.importorskip("tantivy")
WORDS = "the alpha beta connect connected connection relational 3.11.7 v-1 1.1.1 foo_bar 東京 京都 naïve é"
VOCABULARY = tuple(WORDS.split())
LINE = st.lists(st.sampled_from(VOCABULARY), min_size=0, max_size=12).map(" ".join)
QUERY = st.lists(st.sampled_from((*VOCABULARY, "unknown", "1.1", "bar")), min_size=1, max_size=6).map(" ".join)
TEXT = st.lists(LINE, min_size=1, max_size=4).map(lambda lines: "\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are no reason to ask FTS5 here."""
    monkeypatch.setattr(word_search, "FEW_ROWS", -1)


@pytest.fixture
def collection(folder: Path, empty_collection: Path) -> Iterator[Collection]:
    shutil.copytree(empty_collection, folder)
    with Collection.open(folder, word_rows=1) as opened:
        yield opened


def served(collection: Collection) -> bool:
    """Whether the next search will use the index."""
    with collection._store.read() as connection:
        return collection._current_words.serving(connection, collection._head()) is not None


def ready(collection: Collection) -> None:
    collection._words.build_if_due()
    until_served(collection)


def until_served(collection: Collection) -> None:
    """Wait for the thread that loads, and builds: after something went wrong it pauses."""
    until = time.monotonic() + 60
    while not (collection.settle() and served(collection)):
        assert time.monotonic() < until
        time.sleep(0.02)


def by_full_text(collection: Collection, query: str, k: int = 10, where: Filter | None = None) -> tuple[Hit, ...]:
    serving = collection._current_words.serving
    collection._current_words.serving = lambda *_: None
    try:
        return collection.search(query, None, k, "lexical", where).hits
    finally:
        collection._current_words.serving = serving


def by_index(collection: Collection, query: str, k: int = 10, where: Filter | None = None) -> tuple[Hit, ...]:
    """Search, and see to it that the index answered."""
    answers = []
    known = word_search.candidates

    def noted(*given: object) -> object:
        answers.append(known(*given))
        return answers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_search, "candidates", noted)
        hits = collection.search(query, None, k, "lexical", where).hits
    assert answers, "the index was not asked"
    assert answers[0] is not None or len(query) == 1
    return hits


def same(found: tuple[Hit, ...], expected: tuple[Hit, ...]) -> None:
    """Compare by value: places, texts, and scores to a billionth; what ties may stand in any order."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-9, abs=1e-12)
    order = lambda hits: sorted((round(hit.score, 9), hit.path, hit.start, hit.text, len(hit.also)) for hit in hits)  # noqa: E731
    assert order(found) == order(expected)


def agree(collection: Collection, query: str, where: Filter | None = None) -> None:
    same(by_index(collection, query, 50, where), by_full_text(collection, query, 50, where))


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), TEXT),
        st.tuples(st.just("remove"), st.integers(0, 5), st.just("")),
        st.tuples(st.sampled_from(["build", "anew", "reopen"]), st.just(0), st.just("")),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(first=st.lists(TEXT, min_size=1, max_size=6), changes=CHANGES, queries=st.lists(QUERY, min_size=1, max_size=4))
def test_the_index_answers_as_full_text_does(
    tmp_path_factory: pytest.TempPathFactory,
    empty_collection: Path,
    first: list[str],
    changes: list[tuple[str, int, str]],
    queries: list[str],
) -> None:
    """Whatever was added, edited, removed, built and reopened: the same passages with the same scores, filtered too."""
    folder = tmp_path_factory.mktemp("words") / "collection"
    shutil.copytree(empty_collection, folder)
    collection = Collection.open(folder, word_rows=1)
    try:
        source = collection.add_source("/data/docs", "folder")
        documents = {}
        for number, text in enumerate(first):
            documents |= put(collection, source, upsert(f"{number}/a", text))
        ready(collection)
        for change, number, text in changes:
            path = f"{number}/a"
            known = next((one for one in collection.documents(None, 100, None)[0] if one.path == path), None)
            if change == "put":
                put(collection, source, upsert(path, text, None if known is None else (known.id, known.version)))
            elif change == "remove" and known is not None:
                collection.remove_document(known.id)
            elif change in ("build", "anew"):
                if change == "anew":
                    shutil.rmtree(folder / "words")
                    (folder / "words").mkdir()
                if collection.status().chunks:
                    collection._words.build()
            elif change == "reopen":
                collection.close()
                collection = Collection.open(folder, word_rows=1)
            if collection.status().chunks:
                assert collection.settle()
                for query in queries:
                    agree(collection, query)
                    agree(collection, query, Comparison("path", "lt", "3"))
    finally:
        collection.close()
        shutil.rmtree(folder.parent)


def fill(collection: Collection, source: Source, count: int, first: int = 0, word: str = "alpha") -> list[str]:
    """Put documents of two chunks each: `word` in the first, `beta` in the second; return their ids."""
    texts = [upsert(f"{n:04}", f"{word} number{n} connected\nbeta number{n}\n") for n in range(first, first + count)]
    return list(put(collection, source, *texts).values())


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "words").iterdir())


def test_new_and_removed_chunks_count_at_once(folder: Path, collection: Collection, source: Source) -> None:
    """What is added is found by the next search, what is removed is not, and no file is written for it."""
    ids = fill(collection, source, 20)
    ready(collection)
    before = folders(folder)
    fill(collection, source, 3, 20, "gamma")
    collection.remove_document(ids[0])
    agree(collection, "gamma connected number0")
    assert [hit.path for hit in by_index(collection, "gamma")] == ["0020", "0021", "0022"]
    assert folders(folder) == before


def test_many_new_chunks_are_taken_up_beside_the_searches(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search takes a few new chunks itself; with more, full text answers until the background thread has them."""
    fill(collection, source, 5)
    ready(collection)
    monkeypatch.setattr(current_words, "_AT_ONCE", 4)
    fill(collection, source, 2, 5)
    assert served(collection)
    fill(collection, source, 10, 7, "gamma")
    assert not served(collection)
    assert len(collection.search("gamma", None, 50, "lexical").hits) == 10
    assert collection.settle()
    agree(collection, "gamma alpha")


def test_an_index_is_extended_by_what_is_newer(folder: Path, collection: Collection, source: Source) -> None:
    """The files that stay are the same files; where a quarter of its chunks is gone, it is written anew."""
    ids = fill(collection, source, 20)
    ready(collection)
    (first,) = folders(folder)
    inodes = {path.stat().st_ino for path in (folder / "words" / first).iterdir()}
    fill(collection, source, 5, 20, "gamma")
    assert collection._words.build()
    (second,) = folders(folder)
    assert second != first
    kept = inodes & {path.stat().st_ino for path in (folder / "words" / second).iterdir()}
    assert kept
    ready(collection)
    assert [reader.rows for reader in collection._current_words._snapshot.readers] == [50]
    agree(collection, "gamma alpha")
    for document_id in ids:
        collection.remove_document(document_id)
    assert collection._words.build()
    ready(collection)
    assert [reader.rows for reader in collection._current_words._snapshot.readers] == [10]
    agree(collection, "gamma alpha")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flip": _flip,
    "truncate": lambda path: os.truncate(path, path.stat().st_size // 2),
    "grow": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "remove": Path.unlink,
}


@pytest.mark.parametrize("kind", [".idx", ".term", ".pos", ".store", ".fast", ".fieldnorm", "meta.json"])
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damaged_files_are_built_anew(
    folder: Path, collection: Collection, source: Source, damage: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers are right at once, a line is logged, and the index comes back by itself."""
    fill(collection, source, 8)
    ready(collection)
    expected = by_full_text(collection, "alpha beta")
    collection.close()
    for path in (folder / "words").glob(f"*/*{kind}"):
        DAMAGES[damage](path)
    with Collection.open(folder, word_rows=1) as again, caplog.at_level(logging.WARNING):
        same(again.search("alpha beta", None, 10, "lexical").hits, expected)
        until_served(again)
        same(by_index(again, "alpha beta"), expected)
    assert "is built anew" in caplog.text


@pytest.mark.parametrize("what", ["folder", "all", "version"])
def test_missing_and_foreign_indexes_are_built_anew(
    folder: Path, collection: Collection, source: Source, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So they are where the folder is gone, where all of them are, and where another release wrote them."""
    fill(collection, source, 8)
    ready(collection)
    expected = by_full_text(collection, "alpha beta")
    collection.close()
    if what == "version":
        monkeypatch.setattr(word_indexes, "VERSION", "another")
    else:
        shutil.rmtree(folder / "words" if what == "all" else next((folder / "words").iterdir()))
    with Collection.open(folder, word_rows=1) as again:
        same(again.search("alpha beta", None, 10, "lexical").hits, expected)
        until_served(again)
        same(by_index(again, "alpha beta"), expected)


def test_an_index_that_fails_in_a_search_is_built_anew(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very search that meets the damage is answered by full text."""
    fill(collection, source, 8)
    ready(collection)

    def broken(*_: object) -> list[str]:
        raise StoreDamaged("a page is bad")

    with monkeypatch.context() as patch:
        patch.setattr(word_index.WordReader, "lines", broken)
        assert len(collection.search("alpha", None, 50, "lexical").hits) == 8
    ready(collection)
    agree(collection, "alpha")


def test_a_purged_word_is_in_no_file(folder: Path, collection: Collection, source: Source) -> None:
    """Not in the index, not in what another process still lists; and what is left is found as before."""
    fill(collection, source, 5)
    (purged,) = put(collection, source, upsert("secret", "alpha xyzzyplugh\n")).values()
    ready(collection)
    holding = [path for path in folder.rglob("*") if path.is_file() and b"xyzzyplugh" in path.read_bytes()]
    assert any(path.parent.parent.name == "words" for path in holding)
    collection.purges.begin(purged)
    purge = collection.purges.erase(purged)
    collection.purges.end(purge)
    ready(collection)
    agree(collection, "alpha xyzzyplugh")
    collection.close()
    assert [path for path in folder.rglob("*") if path.is_file() and b"xyzzyplugh" in path.read_bytes()] == []


def test_a_build_that_a_purge_meets_is_broken_off(folder: Path, collection: Collection, source: Source) -> None:
    """What it had read may hold the purged words: it publishes nothing, and leaves nothing."""
    fill(collection, source, 5)
    (purged,) = put(collection, source, upsert("secret", "alpha xyzzyplugh\n")).values()

    def hook(name: str) -> None:
        if name == "words.publish":
            failpoints.install(None)
            collection.purges.begin(purged)

    failpoints.install(hook)
    try:
        collection.fold_if_due()
    finally:
        failpoints.install(None)
    with collection._store.read() as connection:
        assert store_word_indexes.folders(connection) == frozenset()
    purge = collection.purges.erase(purged)
    collection.purges.end(purge)
    assert folders(folder) == []


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_kill_at_any_step_of_a_build_costs_nothing(folder: Path, collection: Collection, source: Source) -> None:
    """At step n, for n = 1, 2, 3 ...: the answers stay right, and the next build completes and clears up."""
    fill(collection, source, 6)
    ready(collection)
    reached = 0
    for number in range(1, 100):
        fill(collection, source, 1, 100 + number, "gamma")
        seen: list[str] = []

        def hook(name: str, number: int = number, seen: list[str] = seen) -> None:
            seen.append(name)
            if len(seen) == number:
                raise Killed(name)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # who is dead removes nothing
            failpoints.install(hook)
            try:
                collection._words.build()
            except Killed:
                reached += 1
            finally:
                failpoints.install(None)
        if len(seen) < number:
            break
        with Collection.open(folder, word_rows=1) as other:
            assert len(other.search("gamma", None, 200, "lexical").hits) == number
            assert other._words.build()
            ready(other)
            agree(other, "gamma alpha")
            assert len(folders(folder)) == 1
    assert reached >= 8


def test_one_builder_at_a_time(folder: Path, collection: Collection, source: Source) -> None:
    """Where somebody builds, nothing is built and nothing of theirs is removed."""
    fill(collection, source, 6)
    with collection._words._building() as mine:
        assert mine
        (folder / "words" / "theirs.tmp").mkdir()
        with Collection.open(folder, word_rows=1) as other:
            assert not other._words.build()
            assert other._words.remove_unlisted() == 0
            assert other._words.leftovers() == []
    assert collection._words.remove_unlisted() == 1


def test_without_room_full_text_answers(folder: Path, collection: Collection, source: Source) -> None:
    """A folder that can't be made is a typed error for who builds, and a log line for who searches."""
    (folder / "words").write_text("in the way")
    fill(collection, source, 6)
    with pytest.raises(StorageFull):
        collection._words.build()
    assert len(collection.search("alpha", None, 50, "lexical").hits) == 6


def test_without_the_extra_all_is_as_before(
    folder: Path, collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store with an index opens, changes and answers; with the extra again, the index follows what was changed."""
    ids = fill(collection, source, 6)
    ready(collection)
    collection.close()
    with monkeypatch.context() as patch:
        patch.setattr(word_index, "is_installed", lambda: False)
        with Collection.open(folder, word_rows=1) as without:
            fill(without, source, 2, 50, "gamma")
            without.remove_document(ids[0])
            assert not served(without)
            assert not without._words.build_if_due(1)
            assert len(without.search("alpha gamma", None, 50, "lexical").hits) == 7
    with Collection.open(folder, word_rows=1) as again:
        assert again.settle()
        agree(again, "alpha gamma")


def test_another_chunk_spec_has_an_index_of_its_own(folder: Path, collection: Collection, source: Source) -> None:
    """A new generation is searched by full text until its index is built; the old one goes with its words."""
    fill(collection, source, 6)
    ready(collection)
    go_to(collection, PAIRS)
    assert len(collection.search("alpha", None, 50, "lexical").hits) == 6
    ready(collection)
    agree(collection, "alpha beta")
    assert len(folders(folder)) == 2
    assert collection.generations.rollback() == 1
    ready(collection)
    agree(collection, "alpha beta")


def test_an_index_is_for_transactions_that_it_covers(collection: Collection, source: Source) -> None:
    """A transaction that began before the last change is answered by full text: the index may lack what it sees."""
    fill(collection, source, 6)
    ready(collection)
    with collection._store.read() as connection:
        head = collection._head()
        fill(collection, source, 1, 50)
        assert served(collection)
        assert collection._current_words.serving(connection, head) is None


def test_filters_that_pass_little_are_filled_up(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filtered search keeps its k; where next to nothing passes, full text looks."""
    fill(collection, source, 400)
    ready(collection)
    agree(collection, "alpha connected beta", Comparison("path", "gte", "0390"))
    monkeypatch.setattr(word_search, "_MOST", 100)
    hits = collection.search("alpha connected", None, 50, "lexical", Comparison("path", "gte", "0395")).hits
    assert len(hits) == 5


def test_frequent_words_are_counted_about(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a limit counts are the index's, scaled to the rows there are: exact while nothing was removed."""
    ids = fill(collection, source, 40)
    ready(collection)
    monkeypatch.setattr(word_search, "COUNTED_ROWS", 3)
    agree(collection, "alpha beta number7")
    for document_id in ids[:4]:
        collection.remove_document(document_id)
    expected = by_full_text(collection, "beta number7 alpha", 5)
    found = by_index(collection, "beta number7 alpha", 5)
    assert found[0].text == expected[0].text
    assert found[0].score == pytest.approx(expected[0].score, rel=0.05)


def test_the_doctor_knows_of_it(folder: Path, collection: Collection, source: Source) -> None:
    """A whole index and none are fine; a damaged one is a problem that `--repair` ends, a leftover a note."""
    fill(collection, source, 6)
    ready(collection)
    collection.close()
    assert [finding for finding in check(folder) if finding.level != "note"] == []
    _flip(next((folder / "words").glob("*/*.idx")))
    (folder / "words" / "left.tmp").mkdir()
    assert {(one.level, one.kind) for one in check(folder)} == {("problem", "word-index"), ("note", "leftover")}
    assert {(one.level, one.kind) for one in check(folder, repair=True)} == {
        ("repaired", "word-index"),
        ("repaired", "leftover"),
    }
    assert check(folder) == []
    assert folders(folder) == []


def test_a_backup_has_none(folder: Path, collection: Collection, source: Source, tmp_path: Path) -> None:
    """What is restored lists no index, and builds one of its own."""
    fill(collection, source, 6)
    ready(collection)
    collection.backup(tmp_path / "backup")
    (tmp_path / "restored").mkdir()
    store_backup.install(tmp_path / "backup", tmp_path / "restored", "abc123")
    with Collection.open(tmp_path / "restored", word_rows=1) as restored:
        with restored._store.read() as connection:
            assert store_word_indexes.folders(connection) == frozenset()
        ready(restored)
        agree(restored, "alpha")


def test_many_places_of_one_passage_leave_room_for_the_others(collection: Collection, source: Source) -> None:
    """A passage that stands in hundreds of documents is one hit: the search looks on until it has k passages."""
    fill(collection, source, 30)
    put(collection, source, *(upsert(f"copy{n:04}", "alpha alpha alpha\n") for n in range(400)))
    ready(collection)
    agree(collection, "alpha connected")
    assert len({hit.text for hit in by_index(collection, "alpha connected", 20)}) == 20


def test_short_new_chunks_are_ranked_among_the_old(collection: Collection, source: Source) -> None:
    """Newer chunks have another average length: each part names its best, and all get their scores by one measure."""
    long = " ".join(f"filler{n}" for n in range(60))
    put(collection, source, *(upsert(f"{n:04}", f"alpha number{n}\n") for n in range(300)))
    put(collection, source, *(upsert(f"long{n:04}", f"alpha {long} {n}\n") for n in range(40)))
    ready(collection)
    put(collection, source, *(upsert(f"new{n:04}", f"alpha {long} new{n}\n") for n in range(150)))
    put(collection, source, upsert("short", "alpha\n"))
    assert served(collection)
    same(by_index(collection, "alpha", 5), by_full_text(collection, "alpha", 5))
    assert by_index(collection, "alpha", 5)[0].path == "short"


def test_chunks_are_taken_into_memory_once(collection: Collection, source: Source) -> None:
    """Where a search has taken up new chunks while the thread beside it was about to, they are not there twice."""
    fill(collection, source, 10)
    ready(collection)
    before = collection._current_words._snapshot
    fill(collection, source, 2, 10, "gamma")
    assert served(collection)
    collection._current_words._replace(before)
    assert [reader.rows for reader in collection._current_words._snapshot.readers] == [20, 4]


def test_what_another_process_purged_is_let_go(folder: Path, collection: Collection, source: Source) -> None:
    """A process that nobody asks anything gives up its words when it next looks after the collection."""
    (purged, *_) = fill(collection, source, 5)
    ready(collection)
    with Collection.open(folder, word_rows=1 << 60) as other:
        other.purges.begin(purged)
        other.purges.end(other.purges.erase(purged))
    assert collection._current_words._snapshot is not None
    collection.garbage.collect_if_due(30)
    assert collection._current_words._snapshot is None


def test_garbage_takes_what_a_killed_build_left(folder: Path, collection: Collection, source: Source) -> None:
    """Also where nobody builds any more."""
    fill(collection, source, 5)
    (folder / "words" / "1-10-ab.tmp").mkdir(parents=True)
    assert collection.garbage.collect(30).files == 1
    assert folders(folder) == []
