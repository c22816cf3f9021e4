"""One suite for every kind of vector index, compared by value with plain float64 arithmetic.

The checks are functions of a class, so that they can be run on broken indexes too: a suite that a wrong cosine passes
is worth nothing.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.errors import InvalidQuery, InvalidVectors, StoreDamaged
from indexes.exact_index import ExactIndex
from indexes.faiss_index import KINDS
from indexes.types import Neighbours
from tests.conftest import shared_data

LEAST_RECALL = 0.99
LEAST_CROWDED = 0.95
"""Of rows in groups, of which one is found or missed with all its like."""
SCORE_TOLERANCE = 2e-7
"""Scores are rounded once to float32, to within 6e-8 near 1; lengths may be 1 % off, so scores reach 1.02."""


@dataclass(frozen=True)
class Row:
    """A kind of index; an approximate one may miss a row, and do nothing else wrong."""

    index: type
    exact: bool = True


ROWS = {
    "exact": Row(ExactIndex),
    "float16": Row(KINDS["float16"]),
    "rabitq": Row(KINDS["rabitq"], exact=False),
    "ivf-rabitq": Row(KINDS["ivf-rabitq"], exact=False),
}


def unit(vectors) -> np.ndarray:
    """Return rows of unit length."""
    vectors = np.asarray(vectors, dtype=np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_rows(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dimensions)))


def oracle(ids, vectors, queries, k: int, allowed=None) -> list[list[tuple[int, float]]]:
    """Return for each query the (id, score) of the k best, by float64 products and a plain sort."""
    stored = vectors.astype(np.float64)
    chosen = None if allowed is None else {int(one) for one in allowed}
    answers = []
    for query in queries.astype(np.float64):
        scored = [(int(one), float((vector * query).sum())) for one, vector in zip(ids, stored, strict=True)]
        kept = [pair for pair in scored if chosen is None or pair[0] in chosen]
        answers.append(sorted(kept, key=lambda pair: (-np.float32(pair[1]), pair[0]))[:k])
    return answers


def assert_same(found: list[Neighbours], expected: list[list[tuple[int, float]]]) -> None:
    assert len(found) == len(expected)
    for neighbours, pairs in zip(found, expected, strict=True):
        assert neighbours.ids.dtype == np.int64
        assert neighbours.scores.dtype == np.float32
        np.testing.assert_allclose(neighbours.scores, [score for _, score in pairs], rtol=0, atol=SCORE_TOLERANCE)
        assert neighbours.ids.tolist() == [one for one, _ in pairs]


def assert_near(found: list[Neighbours], everything: list[list[tuple[int, float]]], k: int) -> None:
    """Let some of the best rows be missed: `everything` has all that may be found, best first."""
    assert len(found) == len(everything)
    for neighbours, pairs in zip(found, everything, strict=True):
        scores = dict(pairs)
        assert neighbours.ids.dtype == np.int64
        assert neighbours.scores.dtype == np.float32
        assert len(neighbours.ids) == min(k, len(pairs))
        assert len(set(neighbours.ids.tolist())) == len(neighbours.ids)
        assert set(neighbours.ids.tolist()) <= set(scores)
        expected = [scores[one] for one in neighbours.ids.tolist()]
        np.testing.assert_allclose(neighbours.scores, expected, rtol=0, atol=SCORE_TOLERANCE)
        assert np.lexsort((neighbours.ids, -neighbours.scores)).tolist() == list(range(len(neighbours.ids)))


def built(row: Row, ids, vectors):
    """Build any kind, the exact one from arrays, the others from the rows it then holds."""
    if issubclass(row.index, ExactIndex):
        return row.index.build(np.asarray(ids), vectors)
    return row.index.build(ExactIndex.build(np.asarray(ids), vectors))


def bitmap(allowed) -> np.ndarray | None:
    """Return a list of ids as the bitmap that a search takes; ids far off are beyond its end."""
    if allowed is None:
        return None
    kept = [one for one in np.asarray(allowed, np.int64).tolist() if one < 100_000]
    bits = np.zeros(max(kept, default=-1) + 1, np.bool_)
    bits[kept] = True
    return bits


def check(row: Row, ids, vectors, queries, k: int, allowed=None) -> None:
    ids = np.asarray(ids, dtype=np.int64)
    index = built(row, ids, vectors)
    assert (index.size, index.dimensions) == vectors.shape
    found = index.search(queries, k, bitmap(allowed))
    if row.exact:
        assert_same(found, oracle(ids, vectors, queries, k, allowed))
    else:
        assert_near(found, oracle(ids, vectors, queries, len(ids), allowed), k)


def check_widths(row: Row) -> None:
    for dimensions in (1, 2, 7, 256, 384, 1536, 3072):
        vectors = random_rows(60, dimensions, seed=dimensions)
        ids = np.random.default_rng(1).permutation(10_000)[:60]
        check(row, ids, vectors, random_rows(3, dimensions, seed=2), 10)


def check_k(row: Row) -> None:
    vectors = random_rows(20, 8)
    for k in (1, 2, 19, 20, 21, 10_000):
        check(row, range(20), vectors, vectors[:2], k)
    check(row, [7], vectors[:1], vectors[1:3], 5)
    check(row, [], vectors[:0], vectors[:3], 5)
    check(row, range(20), vectors, vectors[:0], 5)


def check_allowed(row: Row) -> None:
    vectors = random_rows(700, 16)
    ids = np.arange(700) * 3 + 5
    worst = ids[np.argsort(vectors @ vectors[0])[:4]]
    for allowed in (
        [],
        [2],
        [1, 2, 3, 10**12],
        ids[:1],
        worst,
        ids[::2],
        ids[100:650],
        ids,
        [*ids, *range(9_000, 9_100)],
    ):
        for k in (1, 10, 1_000):
            check(row, ids, vectors, vectors[:2], k, allowed)
    check(row, ids, vectors, vectors[:1], 10, np.repeat(ids[:3], 2))


def check_ties(row: Row) -> None:
    one = random_rows(1, 384, seed=9)
    ids = np.random.default_rng(3).permutation(600)
    check(row, ids, np.repeat(one, 600, axis=0), one, 7)
    check(row, ids, np.repeat(one, 600, axis=0), np.repeat(one, 40, axis=0), 7)
    check(row, ids, np.repeat(one, 600, axis=0), one, 7, ids[:400])
    groups = np.repeat(random_rows(6, 384, seed=4), 100, axis=0)
    for k in (1, 99, 100, 101, 350):
        check(row, ids, groups, one, k)
    check(row, ids[:8], np.tile(np.eye(4, dtype=np.float32), (2, 1)), np.eye(4, dtype=np.float32), 5)


def check_signs(row: Row) -> None:
    vectors = unit([[1, 0], [-1, 0], [0, 1], [1, 1], [-1, -1]])
    check(row, [10, 11, 12, 13, 14], vectors, unit([[1, 0], [-1, 0], [-3, -1]]), 5)
    # Of rows that are not quite of unit length, cosine and distance disagree: the product counts.
    check(row, [1, 2], np.array([[0.992, 0.0], [0.9975, 0.0999]], np.float32), unit([[1, 0]]), 2)


def check_batches(row: Row) -> None:
    vectors = random_rows(300, 64)
    check(row, range(300), vectors, random_rows(70, 64, seed=5), 10)
    index = built(row, np.arange(300), vectors)
    together, alone = index.search(vectors[:40], 5), [index.search(vectors[i : i + 1], 5)[0] for i in range(40)]
    for left, right in zip(together, alone, strict=True):
        assert left.ids.tolist() == right.ids.tolist()
        assert left.scores.tolist() == right.scores.tolist()


def check_recall(row: Row) -> None:
    """Of rows that have nothing in common, the hardest there are, nearly all of the nearest are found."""
    for dimensions in (3, 16, 128, 512):
        vectors, queries = random_rows(2_000, dimensions, seed=dimensions), random_rows(50, dimensions, seed=1)
        index = built(row, np.arange(2_000) * 3, vectors)
        even = bitmap(np.arange(0, 6_000, 6))
        for k, allowed in ((10, None), (10, even), (100, None)):
            scores = queries.astype(np.float64) @ vectors[:: 1 if allowed is None else 2].T.astype(np.float64)
            last = np.sort(scores, axis=1)[:, -k]
            found = [one.scores for one in index.search(queries, k, allowed)]
            near = [(one >= least - SCORE_TOLERANCE).sum() / k for one, least in zip(found, last, strict=True)]
            assert np.mean(near) >= LEAST_RECALL


def check_crowds(row: Row) -> None:
    """Near and equal rows in groups as large as an answer, queries far from all, filters that leave out the nearest.

    Settings that were found good on the rows' own neighbourhoods are not good here: a search must notice.
    """
    generator, width, size = np.random.default_rng(31), 128, 100
    centres = random_rows(30, width, seed=32)
    equal = np.repeat(centres, size, axis=0)
    near = unit(equal + 0.02 * generator.standard_normal(equal.shape))
    far, close = random_rows(30, width, seed=33), unit(centres + 0.03 * generator.standard_normal(centres.shape))
    for vectors in (equal, near):
        index = built(row, np.arange(len(vectors)), vectors)
        others = vectors @ close[0] < np.quantile(vectors @ close[0], 0.7)
        for queries, k, allowed in ((far, 1, None), (far, 10, None), (close, 200, None), (close, 100, others)):
            kept = slice(None) if allowed is None else allowed
            scores = queries.astype(np.float64) @ vectors[kept].T.astype(np.float64)
            last = np.sort(scores, axis=1)[:, -k]
            found = [one.scores for one in index.search(queries, k, allowed)]
            near_enough = [(one >= least - SCORE_TOLERANCE).sum() / k for one, least in zip(found, last, strict=True)]
            assert np.mean(near_enough) >= LEAST_CROWDED


CHECKS = [check_recall, check_crowds, check_widths, check_k, check_allowed, check_ties, check_signs, check_batches]


@pytest.fixture(params=ROWS)
def row(request) -> Row:
    return ROWS[request.param]


@pytest.fixture(params=KINDS)
def kept(request) -> Row:
    """A kind that is kept in files."""
    return ROWS[request.param]


@pytest.mark.parametrize("one", CHECKS, ids=lambda one: one.__name__)
def test_agrees_with_plain_arithmetic(row, one):
    """Ids and scores are those of float64 products, in every corner of k, filter, width and tie."""
    one(row)


def broken(name: str, change: Callable[[Neighbours], Neighbours], k_more: int = 0, drop_filter: bool = False) -> Row:
    """Return an index that answers wrongly in one way."""

    class Broken(ExactIndex):
        def search(self, queries, k, allowed=None):
            found = super().search(queries, k + k_more, None if drop_filter else allowed)
            return [change(Neighbours(one.ids.copy(), one.scores.copy())) for one in found]

    Broken.__name__ = name
    return Row(Broken)


def padded(one: Neighbours) -> Neighbours:
    return Neighbours(np.append(one.ids, -1), np.append(one.scores, np.float32(-3.4e38)))


BROKEN = [
    broken("distance", lambda one: Neighbours(one.ids, 2 - 2 * one.scores)),
    broken("half angle", lambda one: Neighbours(one.ids, (1 + one.scores) / 2)),
    broken("worst first", lambda one: Neighbours(one.ids[::-1], one.scores[::-1])),
    broken("padding", padded),
    broken("one too many", lambda one: one, k_more=1),
    broken("filter ignored", lambda one: one, drop_filter=True),
    broken("filter after k", lambda one: Neighbours(one.ids[one.ids % 2 == 0], one.scores[one.ids % 2 == 0])),
    broken("positions for ids", lambda one: Neighbours(np.arange(len(one.ids)), one.scores)),
    broken("coarse", lambda one: Neighbours(one.ids, np.round(one.scores, 4))),
    broken("float64", lambda one: Neighbours(one.ids, one.scores.astype(np.float64))),
]


def approximate(name: str, change: Callable[[Neighbours, int], Neighbours]) -> Row:
    """Return an approximate index that is wrong in more than missing a row: `change` sees more than `k` rows."""

    class Approximate(ExactIndex):
        def search(self, queries, k, allowed=None):
            found = super().search(queries, 2 * k + 20, allowed)
            return [change(Neighbours(one.ids.copy(), one.scores.copy()), k) for one in found]

    Approximate.__name__ = name
    return Row(Approximate, exact=False)


def chosen(one: Neighbours, rows) -> Neighbours:
    return Neighbours(one.ids[rows], one.scores[rows])


def forgetful(one: Neighbours, k: int) -> Neighbours:
    """A tenth of the rows is found only where there is nothing else."""
    return chosen(one, np.sort(np.argsort(one.ids % 10 == 6, kind="stable")[:k]))


BROKEN += [
    approximate("estimated", lambda one, k: Neighbours(one.ids[:k], (one.scores[:k] + 1e-6).astype(np.float32))),
    approximate("forgetful", forgetful),
    approximate("unordered", lambda one, k: chosen(one, np.argsort(one.ids[:k]))),
    approximate("twice", lambda one, k: chosen(one, np.minimum(np.arange(min(k, len(one.ids))), max(0, k - 2)))),
    approximate("too few", lambda one, k: chosen(one, np.arange(min(k, len(one.ids), 9)))),
    approximate("next best", lambda one, k: chosen(one, np.arange(len(one.ids))[-k:])),
]


@pytest.mark.parametrize("wrong", BROKEN, ids=lambda wrong: wrong.index.__name__)
def test_the_suite_sees_a_wrong_index(wrong):
    """Each way of answering wrongly fails at least one check."""
    failures = []
    for one in CHECKS:
        try:
            one(wrong)
        except AssertionError:
            failures.append(one)
    assert failures


@st.composite
def small_cases(draw):
    """Draw rows on a coarse grid, so that ties and equal rows are frequent, and a query with k and filter."""
    dimensions = draw(st.integers(1, 4))
    vector = st.lists(st.integers(-2, 2), min_size=dimensions, max_size=dimensions).filter(any)
    vectors = draw(st.lists(vector, max_size=30))
    ids = draw(st.lists(st.integers(0, 60), min_size=len(vectors), max_size=len(vectors), unique=True))
    queries = draw(st.lists(vector, min_size=1, max_size=3))
    allowed = draw(st.none() | st.lists(st.integers(0, 70), max_size=40))
    rows = unit(vectors) if vectors else np.empty((0, dimensions), np.float32)
    return ids, rows, unit(queries), draw(st.integers(1, 40)), allowed


@pytest.mark.parametrize("name", ROWS)
@given(case=small_cases())
@settings(max_examples=100, deadline=None)
def test_small_cases_agree(name, case):
    """Any small set of rows, with equal rows and ties, is answered like the oracle answers."""
    check(ROWS[name], *case)


def test_real_vectors_agree(row):
    """Real OpenAI vectors of four settings are ranked as plain arithmetic ranks them."""
    folder = shared_data("openai_vectors")
    for file in sorted(folder.glob("*.npy")):
        vectors = np.load(file)
        check(row, np.arange(len(vectors)) + 100, vectors, vectors, 10)


def test_saved_and_loaded_it_answers_the_same(kept, tmp_path):
    """What is loaded has the size, the width and every answer of what was saved; so has an empty one."""
    for count in (0, 1, 200):
        vectors, ids = random_rows(count + 5, 24), np.random.default_rng(8).permutation(2**16 + np.arange(count))
        index = built(kept, ids, vectors[:count])
        path = tmp_path / f"{count}.index"
        index.save(path)
        loaded = kept.index.load(path, ExactIndex.build(ids, vectors[:count]), index.settings)
        assert (loaded.kind, loaded.size, loaded.dimensions) == (index.kind, count, 24)
        assert loaded.kind in KINDS
        for allowed in (None, ids[: count // 2]):
            assert_same(
                loaded.search(vectors[-5:], 9, bitmap(allowed)),
                oracle(ids, vectors[:count], vectors[-5:], 9, allowed),
            )
        loaded.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_foreign_files_are_refused(kept, tmp_path):
    """A missing file, other bytes, a torn file and a file of another kind are errors, not an index."""
    path = tmp_path / "index"
    with pytest.raises(FileNotFoundError):
        kept.index.load(path, ExactIndex.empty(8), {})
    built(kept, np.arange(50), random_rows(50, 8)).save(path)
    whole = path.read_bytes()
    others = [b"", b"\0" * 100, b"not an index", whole[: len(whole) // 2], whole[:10]]
    for other in map(ROWS.get, KINDS):
        if other.index is not kept.index:
            built(other, np.arange(50), random_rows(50, 8)).save(path)
            others.append(path.read_bytes())
    for data in others:
        path.write_bytes(data)
        with pytest.raises(StoreDamaged):
            kept.index.load(path, ExactIndex.empty(8), {})


def test_a_file_that_cannot_be_written_is_an_os_error(kept, tmp_path):
    """Saving into a folder that does not exist is an OSError for every kind."""
    with pytest.raises(OSError, match="nowhere"):
        built(kept, np.arange(2), random_rows(2, 4)).save(tmp_path / "nowhere" / "index")


GOOD = random_rows(3, 4)
BAD_ROWS = {
    "nan": (range(3), np.where(np.eye(3, 4) > 0, np.nan, GOOD)),
    "infinite": (range(3), np.where(np.eye(3, 4) > 0, np.inf, GOOD)),
    "zero": (range(3), GOOD * [[1], [0], [1]]),
    "too long": (range(3), GOOD * 1.02),
    "too short": (range(3), GOOD * 0.98),
    "overflowing": (range(3), np.full((3, 4), 1e300)),
    "negative id": ([0, -1, 2], GOOD),
    "id twice": ([0, 1, 1], GOOD),
    "id beyond int64": (np.array([0, 1, 2**63], dtype=np.uint64), GOOD),
    "ids as floats": ([0.0, 1.0, 2.0], GOOD),
    "too few ids": (range(2), GOOD),
    "too many ids": (range(4), GOOD),
    "flat vectors": (range(3), GOOD[0, :3]),
    "no width": ([], np.empty((0, 0), np.float32)),
    "whole numbers": (range(3), np.eye(3, 4, dtype=np.int64)),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_refused(row, case):
    """Whatever is not one finite unit vector per distinct id from 0 is refused before it is indexed."""
    ids, vectors = BAD_ROWS[case]
    with pytest.raises(InvalidVectors):
        built(row, np.asarray(ids), vectors)


def test_bad_queries_are_refused(row):
    """Queries of another width or shape, not finite or without unit length, and k below 1, are errors."""
    index = built(row, np.arange(3), GOOD)
    wrong = [
        GOOD[:, :3],
        GOOD[0],
        GOOD[:1] * np.nan,
        GOOD[:1] * np.inf,
        GOOD[:1] * 0,
        GOOD[:1] * 2,
        np.eye(1, 4, dtype=int),
    ]
    for queries in wrong:
        with pytest.raises(InvalidVectors):
            index.search(queries, 3)
    for k in (0, -1):
        with pytest.raises(InvalidQuery):
            index.search(GOOD, k)


def test_the_callers_arrays_stay_the_callers(row):
    """Neither a later change of the arrays given to `build`, nor their layout or float type, changes an answer."""
    vectors, ids = random_rows(20, 6).astype(np.float64), np.arange(20, dtype=np.int32)
    expected = oracle(ids, vectors.astype(np.float32), GOOD_6, 5)
    for given_rows in (vectors, np.asfortranarray(vectors), vectors.astype(np.float32)):
        given_ids = ids.copy()
        index = built(row, given_ids, given_rows)
        kept = given_rows.copy()
        given_rows[:] = 0
        given_ids[:] = 0
        assert_same(index.search(GOOD_6, 5), expected)
        vectors = kept.astype(np.float64)


GOOD_6 = random_rows(2, 6, seed=11)


def test_many_threads_get_the_answers_of_one(row, tmp_path):
    """Searches from eight threads at once, filtered and not, give what one thread gets."""
    vectors = random_rows(2_000, 32)
    index = built(row, np.arange(2_000), vectors)
    filters = [None, np.arange(0, 2_000, 2), np.arange(700), np.arange(3)]

    def ask(number: int) -> list[list[int]]:
        found = index.search(vectors[number : number + 3], 10, bitmap(filters[number % 4]))
        return [[*one.ids.tolist(), *one.scores.tolist()] for one in found]

    alone = [ask(number) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == alone


def test_every_kind_is_in_the_suite():
    """A new kind of index must be given a row here."""
    assert {name: row.index for name, row in ROWS.items() if row.index is not ExactIndex} == KINDS
    assert {index.kind for index in KINDS.values()} == set(KINDS)


@pytest.mark.soak
def test_a_large_index_agrees(row, tmp_path: Path):
    """100,000 rows with whole groups of equal ones are answered like the oracle answers."""
    vectors = np.concatenate([random_rows(90_000, 64), np.repeat(random_rows(10, 64, seed=3), 1_000, axis=0)])
    check(row, np.random.default_rng(2).permutation(100_000), vectors, vectors[[5, 95_000]], 500)
