"""Large tables are searched for the telling words: what is essential, counted or left out; scores stay BM25's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes import pruning, store_vectors, store_words, vocabulary
from indexes.collection import Collection
from indexes.lexical import body, vocabulary_term, words
from indexes.pruning import COUNTED_ROWS, LARGE, LEAST_ROWS, SCORED_ROWS, Expression, pruned
from indexes.store import in_memory
from indexes.types import ChangeSet, Comparison, Source
from indexes.vocabulary import Vocabulary
from tests.indexes.corpus import put, upsert

MILLION = 1_000_000
TERMS = st.lists(st.tuples(st.integers(0, 99).map(lambda n: f'"w{n}"'), st.integers(0, MILLION)), min_size=1)


def test_a_small_table_is_searched_for_every_word() -> None:
    """Up to LARGE rows any word is enough, however frequent."""
    assert pruned([('"a"', LARGE), ('"b"', 3)], LARGE) == Expression('"b" OR "a"', 1.0)


def test_words_in_few_rows_are_all_essential() -> None:
    """Rare words need no pruning in a table of any size, and scores are BM25's own."""
    assert pruned([('"a"', 900), ('"b"', 3), ('"c"', 25_000)], MILLION) == Expression('"b" OR "a" OR "c"', 1.0)


def test_frequent_words_are_counted_beside_rare_ones() -> None:
    """A word beyond the budget brings no row in, and still adds to the score; all stand twice."""
    assert pruned([('"a"', 200_000), ('"b"', 3)], MILLION) == Expression('("b") AND ("b" OR "a" OR "a")', 2.0)


def test_only_words_in_more_than_a_tenth_of_the_rows_are_left_out() -> None:
    """Nearly all rows say nothing; beyond the second budget those above a tenth go, the most frequent first."""
    below = [(f'"{name}"', 99_000) for name in "cdef"]
    terms = [('"b"', 3), *below, ('"g"', 104_000), ('"h"', 105_000)]
    text = pruned([*terms, ('"most"', 600_000)], MILLION).text
    assert [name for name in "bcdefgh" if f'"{name}"' in text] == list("bcdefg")
    assert '"most"' not in text


def test_the_rarest_word_is_essential_however_frequent() -> None:
    """A query of words that stand nearly everywhere is answered by the rarest of them."""
    assert pruned([('"a"', 990_000), ('"b"', 950_000)], MILLION) == Expression('"b"', 1.0)


def test_a_word_that_stands_nowhere_is_not_enough() -> None:
    """A misspelt word beside frequent ones does not hide them; few rows are filled up by the next word."""
    assert pruned([('"a"', 600_000), ('"b"', 0)], MILLION) == Expression('"b" OR "a"', 1.0)
    assert pruned([('"a"', 50_000), ('"b"', 3)], MILLION) == Expression('"b" OR "a"', 1.0)


@given(TERMS, st.integers(0, MILLION))
def test_what_pruning_may_do(terms: list[tuple[str, int]], rows: int) -> None:
    """The rarest term is there; what is left out is frequent, and what is essential is rarer than what is not."""
    found = pruned(terms, rows)
    essential = found.text.split(" AND ")[0].strip("()").split(" OR ")
    assert min(terms, key=lambda term: term[1])[0] in essential
    for text, held in terms:
        if text not in found.text:
            assert held > 0.1 * rows
    if rows > LARGE:
        held = sorted(count for _, count in terms)[: len(essential)]
        assert sum(held[:-1]) < LEAST_ROWS or sum(held) <= SCORED_ROWS
        assert (found.times == 2.0) == (" AND " in found.text)
    assert COUNTED_ROWS > SCORED_ROWS


def test_pruned_scores_are_those_of_all_words(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passages with a rare word come in the same order with the same scores as if every word had been looked up."""
    texts = [
        f"{'apple ' * (n % 3)}{'bread ' * (n % 2)}{'frost ' if n % 40 == 0 else ''}number{n}\n" for n in range(400)
    ]
    put(collection, source, *(upsert(f"{n:03}", text) for n, text in enumerate(texts)))
    whole = collection.search("apple bread frost running", None, 50, "lexical").hits
    for name, value in {"LARGE": 100, "SCORED_ROWS": 20, "COUNTED_ROWS": 1_000, "EMPTY": 1.0}.items():
        monkeypatch.setattr(pruning, name, value)
    found = collection.search("apple bread frost running", None, 10, "lexical").hits
    expected = [(hit.path, hit.lexical.score) for hit in whole if "frost" in hit.text]
    assert [hit.path for hit in found] == [path for path, _ in expected]
    assert [hit.lexical.score for hit in found] == pytest.approx([score for _, score in expected], rel=1e-9)
    assert len(found) == 10


def test_a_pruned_search_keeps_its_k(collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where telling words bring too few rows, misspelt or beside a filter, the hits are those of all words."""
    texts = [f"{'apple ' * (1 + n % 3)}{'frost ' if n % 40 == 0 else ''}number{n}\n" for n in range(400)]
    put(collection, source, *(upsert(f"{n:03}", text) for n, text in enumerate(texts)))
    few = Comparison("path", "prefix", "00")
    asked = [("appel apple", 20, None), ("apple frost", 50, None), ("apple frost", 5, few), ("apple no_such", 5, few)]

    def hits() -> list[list[str]]:
        found = [collection.search(query, None, k, "lexical", where).hits for query, k, where in asked]
        return [[hit.path for hit in one] for one in found]

    whole = hits()
    for name, value in {"LARGE": 100, "SCORED_ROWS": 20, "COUNTED_ROWS": 1_000, "EMPTY": 1.0}.items():
        monkeypatch.setattr(pruning, name, value)
    assert [len(one) for one in hits()] == [20, 50, 5, 5]
    assert hits() == whole


def test_every_kind_of_term_can_be_pruned(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stems, own forms, pairs, single characters and identifiers all go into a valid expression that finds its text."""
    put(collection, source, upsert("a", "studies of foo_bar 3.11.7 中文 字\n"), upsert("b", "study\n" * 5))
    for name in ("LARGE", "SCORED_ROWS", "COUNTED_ROWS"):
        monkeypatch.setattr(pruning, name, 0)
    for query in ("studies foo_bar", "3.11.7 study", "中文 字 studies", "studying 文", "E-1234 studies foo_bar"):
        assert "a" in {hit.path for hit in collection.search(query, None, 5, "lexical").hits}, query


@given(
    st.text(max_size=60) | st.sampled_from(["relational conditional vileness hopping happy sensibilities being uses"])
)
def test_stems_are_those_of_the_table(text: str) -> None:
    """The terms that a full-text table keeps of a text are the stems of its words."""
    asked = words(text)
    connection = in_memory()
    try:
        store_words.create(connection, 1)
        connection.execute("INSERT INTO words_1 (rowid, body) VALUES (1, ?)", (" ".join(asked),))
        kept = {term for (term,) in connection.execute("SELECT term FROM words_1_vocabulary")}
    finally:
        connection.close()
    assert set(store_words.stems(asked).values()) == kept
    assert store_words.stems([]) == {}
    assert body(text) is not None


def test_counts_are_those_of_the_transaction(collection: Collection, source: Source, monkeypatch) -> None:
    """A count is asked for once, again after a change, and never taken from another moment; few are kept."""
    known, asked = Vocabulary(), list[list[str]]()
    chunks_with = store_words.chunks_with
    monkeypatch.setattr(
        vocabulary.store_words, "chunks_with", lambda *given: asked.append(list(given[2])) or chunks_with(*given)
    )
    monkeypatch.setattr(vocabulary, "KEPT_TERMS", 3)

    def counts(*terms: str) -> dict[str, int]:
        with collection._store.read() as connection:
            return known.counts(connection, store_vectors.head(connection), map(vocabulary_term, terms))

    put(collection, source, upsert("a", "cloud bread\ncloud\n"))
    assert counts("cloud", "bread") == {"cloud": 2, "bread": 1}
    assert counts("cloud", "jungl") == {"cloud": 2, "jungl": 0}
    assert asked == [["bread", "cloud"], ["jungl"]]
    with collection._store.read() as before:
        head = store_vectors.head(before)
        collection.apply(ChangeSet(source.id, upserts=(upsert("b", "cloud\n"),)))
        assert counts("cloud") == {"cloud": 3}
        assert known.counts(before, head, ["cloud"]) == {"cloud": 2}
    assert counts("cloud") == {"cloud": 3}
    counts("drum", "grap", "frost")
    assert len(known._counts) <= 3
