"""The index of words outside SQLite: it finds and scores what FTS5 does, follows every change, and is only derived."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import word_search
from indexes.collection import Collection
from indexes.types import Comparison, Filter, Hit
from tests.indexes.corpus import put, upsert

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
        return collection._words.serving(connection, collection._head()) is not None


def ready(collection: Collection) -> None:
    collection._words.build_if_due()
    assert collection.settle()
    assert served(collection)


def by_full_text(collection: Collection, query: str, k: int = 10, where: Filter | None = None) -> tuple[Hit, ...]:
    serving = collection._words.serving
    collection._words.serving = lambda *_: None
    try:
        return collection.search(query, None, k, "lexical", where).hits
    finally:
        collection._words.serving = serving


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
