"""What a search answers: legs, fusion, passages shown once, filters before k, weights of terms, bad queries."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from indexes.collection import Collection
from indexes.errors import InvalidQuery
from indexes.filters import parse_filter
from indexes.types import ChangeSet, Comparison, FileStat, Filter, Junction, Place, Source
from tests.indexes.corpus import embed, put, query_vector, stored, upsert, vector_of


def test_an_empty_collection_answers_nothing(collection: Collection) -> None:
    """No documents, no hits, in every mode; the words of the query still have weights."""
    for mode in ("hybrid", "dense", "lexical"):
        result = collection.search("apple pie", vector_of(b"12345678"), 3, mode)
        assert (result.hits, result.generation) == ((), 1)
        assert set(result.term_weights) == {"apple", "pie"}


def test_a_hit_carries_all_that_a_citation_needs(collection: Collection, source: Source) -> None:
    """Path, version, title, headings, page, offsets, and the very slice of the text; both legs with rank and score."""
    text = "apple 🙂\0 one\nbread two\n"
    (key,) = put(collection, source, upsert("a", text, title="Title")).values()
    result = collection.search("bread", query_vector("bread two\n", "Title"), 5, "hybrid")
    hit = result.hits[0]
    assert (hit.rank, hit.document_id, hit.version, hit.path, hit.title) == (1, key, 1, "a", "Title")
    assert (hit.heading_path, hit.page) == (("Top", "Näher 🙂"), 2)
    assert hit.text == "bread two\n" == text[hit.start : hit.end]
    assert hit.tokens == len(hit.text)  # what these chunks were said to have
    assert (hit.dense.rank, hit.lexical.rank) == (1, 1)
    assert hit.dense.score == pytest.approx(1, abs=1e-3)
    assert hit.lexical.score > 0
    assert hit.score == pytest.approx(1)
    assert (result.hits[1].text, result.hits[1].lexical) == (text[: hit.start], None)


def test_words_of_titles_and_headings_find_a_passage(collection: Collection, source: Source) -> None:
    """A slice is found by its document's title and its headings, weighed with its own words, and no longer afterwards.

    A word that stands in the heading and in the slice counts twice.
    """
    one, two = upsert("a", "apple one\n", title="Frost"), upsert("b", "frost two\n", title="Frost")
    keys = put(collection, source, one, two)
    titled = collection.search("frost", None, 5, "lexical")
    assert [hit.path for hit in titled.hits] == ["b", "a"]
    assert [hit.path for hit in collection.search("näher apple", None, 5, "lexical").hits] == ["a", "b"]
    assert titled.term_weights["frost"] < collection.search("apple", None, 5, "lexical").term_weights["apple"]
    put(collection, source, upsert("a", "apple one\n", (keys["a"], 1), title="Drum"))
    assert [hit.path for hit in collection.search("frost", None, 5, "lexical").hits] == ["b"]


def test_the_first_hits_do_not_depend_on_how_many_are_asked_for(collection: Collection, source: Source) -> None:
    """The first hits of a hybrid search are the same, with the same scores, for every k up to 50."""
    lines = [f"apple {'bread ' * (n % 7)}{n}\n" for n in range(300)]
    put(collection, source, upsert("a", "".join(lines)))
    ranked = [
        [(hit.text, hit.score) for hit in collection.search("apple bread", vector_of(b"any query"), k, "hybrid").hits]
        for k in (1, 8, 50)
    ]
    assert ranked[2][:8] == ranked[1]
    assert ranked[1][:1] == ranked[0]


def test_dense_scores_are_cosines_of_the_stored_vectors(collection: Collection, source: Source) -> None:
    """Every passage, best first, with the score that float64 arithmetic gives, in delta and segment alike."""
    lines = [f"line {n}\n" for n in range(30)]
    put(collection, source, upsert("a", "".join(lines)))
    query = vector_of(b"somewhere")
    expected = sorted(((float(stored(query_vector(line)) @ query), line) for line in lines), reverse=True)
    for _ in range(2):
        hits = collection.search("x", query, 12, "dense").hits
        assert [hit.text for hit in hits] == [line for _, line in expected[:12]]
        assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected[:12]], abs=1e-5)
        collection.fold()


def test_a_passage_is_shown_once_with_its_other_places(collection: Collection, source: Source) -> None:
    """Equal slices, under equal or different titles, are one hit; the others stand in `also`, by path and start."""
    same = "apple bread\n"
    keys = put(
        collection,
        source,
        upsert("b", f"{same}cloud\n{same}"),
        upsert("c", same, title="Other"),
        upsert("a", f"drum\n{same}"),
    )
    for mode in ("hybrid", "dense", "lexical"):
        hits = collection.search("apple", query_vector(same), 3, mode).hits
        assert [hit.text for hit in hits].count(same) == 1
        assert (hits[0].path, hits[0].start) == ("a", 5)
        assert hits[0].also == (
            Place(keys["b"], "b", 0, 12),
            Place(keys["b"], "b", 18, 30),
            Place(keys["c"], "c", 0, 12),
        )
    titled = collection.search("apple", query_vector(same, "Other"), 1, "hybrid").hits[0]
    assert (titled.path, len(titled.also)) == ("c", 3)
    collection.remove_document(keys["a"])
    assert collection.search("apple", query_vector(same), 1, "dense").hits[0].path == "b"


def test_texts_that_are_gone_do_not_change_how_the_others_rank(collection: Collection, source: Source) -> None:
    """Fused ranks with the vectors of 80 removed documents among them equal those where they never were."""
    kept = [upsert(f"k{n:02}", f"apple line {n}\n") for n in range(60)]
    put(collection, source, *kept)
    query = vector_of(b"somewhere")
    before = collection.search("apple", query, 20, "hybrid").hits
    gone = put(collection, source, *(upsert(f"g{n:02}", f"gone line {n}\n") for n in range(80)))
    for document_id in gone.values():
        collection.remove_document(document_id)
    after = collection.search("apple", query, 20, "hybrid").hits
    assert [(hit.path, hit.score) for hit in after] == [(hit.path, hit.score) for hit in before]


def test_passages_that_tie_are_chosen_by_path_and_not_by_age(collection: Collection, source: Source) -> None:
    """Of 300 passages with the same score, those with the first paths are found, whichever came first."""
    put(collection, source, *(upsert(f"{n:03}", f"apple number{n}\n") for n in reversed(range(300))))
    hits = collection.search("apple", None, 10, "lexical").hits
    assert [hit.path for hit in hits] == [f"{n:03}" for n in range(10)]


def test_many_hits_carry_what_each_alone_would(collection: Collection, source: Source) -> None:
    """Fifty hits, passages shared by documents among them: each is the text, version and places of its own chunk."""
    shared = [f"apple shared {n}\n" for n in range(20)]
    texts = {
        f"d/{n:02d}": "".join([f"apple own {n}\n", *shared[n % 20 : n % 20 + 3], f"bread {n}\n"]) for n in range(40)
    }
    keys = put(collection, source, *(upsert(path, text, title=f"T{path}") for path, text in texts.items()))
    places = {
        piece: sorted((path, text.index(piece)) for path, text in texts.items() if piece in text)
        for text in texts.values()
        for piece in text.splitlines(keepends=True)
    }
    for mode in ("hybrid", "dense", "lexical"):
        hits = collection.search("apple", query_vector(shared[3], "Td/03"), 50, mode).hits
        assert len({hit.text for hit in hits}) == 50
        for hit in hits:
            assert hit.text == texts[hit.path][hit.start : hit.end]
            assert (hit.document_id, hit.version, hit.title) == (keys[hit.path], 1, f"T{hit.path}")
            others = [place for place in places[hit.text] if place != (hit.path, hit.start)]
            assert [(place.path, place.start) for place in hit.also] == others
            assert [(place.document_id, place.end - place.start) for place in hit.also] == [
                (keys[path], len(hit.text)) for path, _ in others
            ]


def test_a_passage_in_very_many_places_leaves_room_for_the_others(collection: Collection, source: Source) -> None:
    """Five hundred copies of the best match are one passage: those behind it are found as well."""
    put(collection, source, *(upsert(f"copy/{n:03d}", "apple\n") for n in range(500)))
    put(collection, source, *(upsert(f"other/{n}", f"apple and {n} more words\n") for n in range(5)))
    hits = collection.search("apple", None, 10, "lexical").hits
    assert [hit.path for hit in hits] == ["copy/000", *(f"other/{n}" for n in range(5))]
    assert len(hits[0].also) == 499


def test_any_character_of_a_title_and_path_comes_back(collection: Collection, source: Source) -> None:
    """Quotes, control characters, NUL and characters beyond the first plane are what they were."""
    odd = 'a"b\\c\0d\x01e\u2028f\U0001f642g\x7f'
    put(collection, source, upsert(odd, "apple\n", title=odd), upsert("other", "apple\n"))
    (hit,) = collection.search("apple", query_vector("apple\n", odd), 1, "hybrid").hits
    assert (hit.path, hit.title, hit.also[0].path) == (odd, odd, "other")


def test_ties_are_ordered_by_path_and_start(collection: Collection, source: Source) -> None:
    """Equal scores come in the order of path and start, whatever the order of arrival."""
    put(collection, source, *(upsert(name, f"apple {name}{name}\n") for name in ("q", "m", "z", "a")))
    assert [hit.path for hit in collection.search("apple", None, 4, "lexical").hits] == ["a", "m", "q", "z"]


def test_dead_vectors_do_not_crowd_out_the_living(collection: Collection, source: Source) -> None:
    """When the nearest thousand vectors belong to removed documents, the search goes on until k are alive."""
    near = vector_of(b"direction")
    keys = [bytes([n % 256, n // 256]) * 16 for n in range(1000)]
    noise = np.random.default_rng(1).normal(size=(1000, 8)) * 0.05
    rows = (near + noise) / np.linalg.norm(near + noise, axis=1, keepdims=True)
    collection.add_vectors(collection.spec.embedding, keys, rows.astype(np.float32))
    put(collection, source, upsert("a", "one\ntwo\nthree\n"))
    for _ in range(2):
        assert len(collection.search("x", near, 3, "dense").hits) == 3
        collection.fold()


def test_one_of_five_thousand_is_found_through_a_filter(collection: Collection, source: Source) -> None:
    """The filter works before k: the only document that passes is found, however far its vector or rank."""
    many = [upsert(f"d/{n:04d}", f"apple number {n}", metadata={"n": n}) for n in range(5000)]
    put(collection, source, *many)
    query = query_vector("apple number 7")
    farthest = min(range(5000), key=lambda n: float(query_vector(f"apple number {n}") @ query))
    for mode in ("hybrid", "dense", "lexical"):
        hits = collection.search("apple", query, 1, mode, Comparison("n", "eq", farthest)).hits
        assert [hit.path for hit in hits] == [f"d/{farthest:04d}"]
        assert not collection.search("apple", query, 1, mode, Comparison("n", "eq", -1)).hits


def test_a_shared_vector_does_not_pass_another_documents_filter(collection: Collection, source: Source) -> None:
    """Two documents share text and vector: the filter lets only its own through, as hit and as other place."""
    put(collection, source, upsert("a", "apple"), upsert("b", "apple"), upsert("c", "apple"))
    where = Comparison("path", "in", ("b", "c"))
    for mode in ("hybrid", "dense", "lexical"):
        (hit,) = collection.search("apple", query_vector("apple"), 3, mode, where).hits
        assert (hit.path, [place.path for place in hit.also]) == ("b", ["c"])


def test_the_dense_vote_can_be_taken_away(collection: Collection, source: Source) -> None:
    """At weight 0 the order and the choice are those of the words alone, and the cosines are still shown."""
    put(collection, source, upsert("a", "apple\nbread\ncloud\n"))
    hits = collection.search("bread", query_vector("apple\n"), 3, "hybrid", dense_weight=0.0).hits
    assert [hit.text for hit in hits] == ["bread\n"]
    assert hits[0].dense.rank > 1
    assert hits[0].score == pytest.approx(1)
    assert len(collection.search("bread", query_vector("apple\n"), 3, "hybrid", dense_weight=0.1).hits) == 3


def test_term_weights_are_inverse_document_frequencies(collection: Collection, source: Source) -> None:
    """ln(1 + (N - df + 0.5) / (df + 0.5)), df counted over chunks in service, unknown words included."""
    put(collection, source, upsert("a", "apple bread\napple 中文\napple\ncloud\n"))
    weights = collection.search("apple BREAD 中文 nowhere", None, 1, "lexical").term_weights

    def idf(df: int) -> float:
        return math.log(1 + (4 - df + 0.5) / (df + 0.5))

    assert weights["apple"] == pytest.approx(idf(3))
    assert weights["bread"] == pytest.approx(idf(1))
    assert weights["中文"] == pytest.approx(idf(1))
    assert weights["nowhere"] == pytest.approx(idf(0))


@pytest.mark.parametrize("query", ["", "   ", "\0", "🙂", '" * NEAR ( ^ : -', "AND", "a" * 5000, "'; DROP TABLE chunk"])
@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_any_text_is_a_query(collection: Collection, source: Source, query: str, mode: str) -> None:
    """A query that has no word, or is full of operators, answers without an error."""
    put(collection, source, upsert("a", "apple"))
    result = collection.search(query, query_vector("apple"), 5, mode)
    assert len(result.hits) == (mode != "lexical")


@pytest.mark.parametrize(
    ("vector", "k", "mode", "weight", "names"),
    [
        (None, 1, "dense", 1.0, "vector"),
        (None, 1, "hybrid", 1.0, "vector"),
        (np.ones(8, np.float32), 1, "dense", 1.0, "unit length"),
        (np.full(8, np.nan, np.float32), 1, "dense", 1.0, "finite"),
        (np.zeros(8, np.float32), 1, "hybrid", 1.0, "unit length"),
        (np.eye(1, 7, dtype=np.float32)[0], 1, "dense", 1.0, "shape"),
        (np.eye(1, 8, dtype=np.float32), 1, "dense", 1.0, "shape"),
        (None, 0, "lexical", 1.0, "k must"),
        (None, 1, "fuzzy", 1.0, "mode"),
        (vector_of(b"12345678"), 1, "hybrid", -1.0, "dense_weight"),
        (vector_of(b"12345678"), 1, "hybrid", math.nan, "dense_weight"),
    ],
)
def test_a_senseless_query_is_refused(collection: Collection, vector, k, mode, weight, names: str) -> None:
    """InvalidQuery names what is wrong."""
    with pytest.raises(InvalidQuery, match=names):
        collection.search("x", vector, k, mode, dense_weight=weight)
    with pytest.raises(InvalidQuery, match="surrogate"):
        collection.search("x\ud800", None, 1, "lexical")


VALUES = st.one_of(
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, -2.0, 2.0**53]),
    st.sampled_from(["", "a", "ab", "abc", "b", "true", "1", "a\U0010ffff", "\ud7ff", "\ue000", "a\0b", "é"]),
)
METADATA = st.dictionaries(st.sampled_from(["x", "y", "dotted.key", "path_"]), VALUES, max_size=4)
SINGLE = st.builds(
    Comparison,
    st.sampled_from(["x", "y", "dotted.key"]),
    st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]),
    VALUES,
)
LISTED = st.builds(
    Comparison,
    st.sampled_from(["x", "y", "path"]),
    st.sampled_from(["in", "nin"]),
    st.lists(VALUES, max_size=4).map(tuple),
)
PREFIXED = st.builds(
    Comparison,
    st.sampled_from(["x", "path"]),
    st.just("prefix"),
    st.sampled_from(["", "a", "ab", "\ud7ff", "\U0010ffff", "a\U0010ffff", "d/", "é"]),
)
FILTERS = st.recursive(
    st.one_of(SINGLE, LISTED, PREFIXED),
    lambda inner: st.builds(Junction, st.sampled_from(["and", "or"]), st.lists(inner, max_size=3).map(tuple)),
    max_leaves=6,
)


def kind(value: object) -> str:
    return "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def passes(where: Filter, fields: dict) -> bool:
    """The oracle: a filter over a document's fields, in plain Python."""
    if isinstance(where, Junction):
        results = [passes(term, fields) for term in where.terms]
        return all(results) if where.op == "and" else any(results)
    if where.op in ("ne", "nin"):
        return not passes(Comparison(where.key, "eq" if where.op == "ne" else "in", where.value), fields)
    if where.op == "in":
        return any(passes(Comparison(where.key, "eq", value), fields) for value in where.value)
    if where.key not in fields or kind(fields[where.key]) != kind(where.value):
        return False
    have, value = fields[where.key], where.value
    return {
        "eq": lambda: have == value,
        "gt": lambda: have > value,
        "gte": lambda: have >= value,
        "lt": lambda: have < value,
        "lte": lambda: have <= value,
        "prefix": lambda: have.startswith(value),
    }[where.op]()


def without_nul(metadata):
    """What is kept of a document's metadata."""
    return {key: value.replace("\0", "\ufffd") if isinstance(value, str) else value for key, value in metadata.items()}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(documents=[{"x": "a\0b"}], filters=[Comparison("x", "eq", "a"), Comparison("x", "gt", "a")])
@example(
    documents=[{}],
    filters=[
        Junction("and", (Comparison("path", "prefix", "x"), Junction("or", ()))),
        Junction("and", (Comparison("path", "nin", ()), Comparison("source", "in", ()))),
    ],
)
@given(documents=st.lists(METADATA, min_size=1, max_size=5), filters=st.lists(FILTERS, min_size=1, max_size=8))
def test_filters_mean_what_python_says(collection: Collection, source: Source, documents, filters) -> None:
    """Any filter over any metadata lets through exactly the documents that a plain evaluation lets through.

    A NUL in a value is kept as a replacement character: SQLite's texts of JSON end at one.
    """
    for entry in collection.manifest(source.id).entries.values():
        collection.remove_document(entry.document_id)
    upserts = [upsert(f"d/{n}", f"apple {n}\n", metadata=metadata) for n, metadata in enumerate(documents)]
    put(collection, source, *upserts)
    for where in filters:
        expected = {one.path for one in upserts if passes(where, {**without_nul(one.metadata), "path": one.path})}
        for mode in ("lexical", "dense"):
            hits = collection.search("apple", query_vector("apple 0\n"), 10, mode, where).hits
            assert {hit.path for hit in hits} == expected


def test_filters_by_the_documents_own_fields(collection: Collection, source: Source) -> None:
    """Source, content type and time, as the grammar gives them."""
    other = collection.add_source("/data/other", "folder")
    day = 86_400_000_000_000
    put(collection, source, upsert("a", "apple one", stat=FileStat(1, 20_000 * day, 1, 1)))
    put(collection, other, upsert("b", "apple two", content_type="text/html", stat=FileStat(1, 20_001 * day, 1, 1)))

    def found(key: str, op: str, value: object) -> list[str]:
        where = parse_filter({"key": key, "op": op, "value": value})
        return sorted(hit.path for hit in collection.search("apple", None, 5, "lexical", where).hits)

    assert found("source", "eq", "/data/other") == ["b"]
    assert found("content_type", "prefix", "text/") == ["a", "b"]
    assert found("content_type", "ne", "text/html") == ["a"]
    assert found("modified_at", "lt", "2024-10-05") == ["a"]
    assert found("modified_at", "gte", "2024-10-05T00:00:00Z") == ["b"]


def test_a_filter_may_be_as_large_as_the_grammar_allows(collection: Collection, source: Source) -> None:
    """Fifty terms of a thousand values each are one statement."""
    put(collection, source, upsert("a", "apple", metadata={"x": 1}))
    term = {"key": "x", "op": "nin", "value": [f"v{n}" for n in range(500)] + list(range(2, 502))}
    where = parse_filter({"and": [term] * 50})
    assert len(collection.search("apple", query_vector("apple"), 1, "hybrid", where).hits) == 1


@pytest.mark.parametrize(
    "where",
    [
        Comparison('a"b', "eq", "x"),
        Comparison("x", "like", "y"),
        Comparison("x", "eq", ("a",)),
    ],
)
def test_a_filter_that_was_not_parsed_is_checked_again(collection: Collection, where: Filter) -> None:
    """A filter made by hand can't reach the SQL with a foreign key, operator or list."""
    with pytest.raises(InvalidQuery, match="filter"):
        collection.search("x", None, 1, "lexical", where)


def test_unread_vectors_of_a_conflict_do_no_harm(collection: Collection, source: Source) -> None:
    """Vectors whose document was never applied are no hits."""
    one = upsert("a", "apple")
    embed(collection, one)
    assert not collection.search("apple", query_vector("apple"), 3, "hybrid").hits
    collection.apply(ChangeSet(source.id, upserts=(one,)))
    assert len(collection.search("apple", query_vector("apple"), 3, "hybrid").hits) == 1
