"""What only the exact index can: grow, while the indexes that it grew from stay as they are."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from indexes.errors import InvalidVectors
from indexes.exact_index import ExactIndex, contenders

DIMENSIONS = 3


def rows(ids) -> np.ndarray:
    """Return a unit vector per id, another one for each."""
    angles = np.asarray(ids, dtype=np.float64)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1).astype(np.float32)


def extended(index: ExactIndex, ids) -> ExactIndex:
    ids = np.asarray(ids, dtype=np.int64)
    return index.extended(ids, rows(ids))


def holds(index: ExactIndex, ids) -> bool:
    same = index.ids.tolist() == list(ids) and index.size == len(ids)
    return same and index.vectors.tolist() == rows(ids).reshape(-1, DIMENSIONS).tolist()


class Growing(RuleBasedStateMachine):
    """Extends any index made so far, in any order; `views` says what each must hold, for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[tuple[ExactIndex, list[int]]] = [(ExactIndex.empty(DIMENSIONS), [])]

    @rule(which=st.integers(0, 10**6), count=st.integers(0, 90), descending=st.booleans())
    def extend(self, which, count, descending):
        index, held = self.views[which % len(self.views)]
        first = max(held, default=-1) + 1
        new = list(range(first, first + count))
        new = new[::-1] if descending else new
        self.views.append((extended(index, new), held + new))

    @rule(which=st.integers(0, 10**6), new=st.lists(st.integers(0, 300), unique=True, max_size=5))
    def extend_with_any_ids(self, which, new):
        index, held = self.views[which % len(self.views)]
        if set(new) & set(held):
            with pytest.raises(InvalidVectors):
                extended(index, new)
        else:
            self.views.append((extended(index, new), held + new))

    @invariant()
    def every_view_is_as_it_was(self):
        for index, held in self.views[-12:] + self.views[:3]:
            assert holds(index, held)


TestGrowing = Growing.TestCase
TestGrowing.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestGrowing.__doc__ = "However indexes are extended, each holds its own rows, and none changes when another one grows."


def test_extending_shares_memory_and_an_old_index_copies():
    """The newest index grows in place; an old one, whose room is taken, gets memory of its own."""
    old = extended(ExactIndex.empty(DIMENSIONS), range(10))
    new = extended(old, range(10, 20))
    assert np.shares_memory(old.vectors, new.vectors)
    other = extended(old, range(50, 55))
    assert not np.shares_memory(other.vectors, new.vectors)
    assert holds(old, range(10))
    assert holds(new, range(20))
    assert holds(other, [*range(10), *range(50, 55)])


def test_growth_copies_in_proportion():
    """10,000 single extensions move the memory a few times only, not once each."""
    index, moves = ExactIndex.empty(DIMENSIONS), 0
    for one in range(10_000):
        grown = extended(index, [one])
        moves += not np.shares_memory(grown.vectors[: max(1, one)], index.vectors)
        index = grown
    assert holds(index, range(10_000))
    assert moves <= 12


def test_readers_are_not_disturbed_by_growth():
    """While an index grows, searches in the one it grew from find its rows and no other."""
    index = extended(ExactIndex.empty(DIMENSIONS), range(200))
    queries = rows(range(0, 200, 20))
    expected = [one.ids.tolist() for one in index.search(queries, 300)]

    def grow(_: int) -> int:
        return extended(index, range(200, 260)).size

    def read(_: int) -> list[list[int]]:
        return [one.ids.tolist() for one in index.search(queries, 300)]

    with ThreadPoolExecutor(6) as pool:
        grown, read_back = pool.map(grow, range(60)), pool.map(read, range(60))
        assert set(grown) == {260}
        assert all(one == expected for one in read_back)


def test_two_threads_that_extend_one_index_get_their_own_rows():
    """Of two extensions of the same index at once, neither overwrites the other's rows."""
    base = extended(ExactIndex.empty(DIMENSIONS), range(10))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda start: (start, extended(base, range(start, start + 40))), range(100, 2_100, 40)))
    for start, index in made:
        assert holds(index, [*range(10), *range(start, start + 40)])


@pytest.mark.parametrize(
    ("ids", "vectors"),
    [
        ([3, 3], rows([3, 4])),
        ([1], rows([1])),
        ([-1], rows([1])),
        ([7], rows([7])[:, :2]),
        ([7], rows([7]) * 2),
        ([7, 8], rows([7])),
    ],
)
def test_bad_rows_are_refused_and_change_nothing(ids, vectors):
    """Repeated, known and negative ids and rows of another shape or length raise, and the index can still grow."""
    index = extended(ExactIndex.empty(DIMENSIONS), range(3))
    with pytest.raises(InvalidVectors):
        index.extended(np.asarray(ids), vectors)
    assert holds(index, range(3))
    assert holds(extended(index, [9]), [0, 1, 2, 9])


def test_an_empty_extension_is_the_same_set():
    """No new rows make an equal index."""
    index = extended(ExactIndex.empty(DIMENSIONS), [4])
    assert holds(extended(index, []), [4])


def test_its_rows_are_given_by_id():
    """Rows are taken in any order, and listed by rising id, whatever order they came in."""
    index = extended(extended(ExactIndex.empty(DIMENSIONS), [7, 2]), [5])
    assert np.array_equal(index.take(np.array([5, 7, 7])), rows([5, 7, 7]))
    ((ids, vectors),) = index.batches()
    assert ids.tolist() == [2, 5, 7]
    assert np.array_equal(vectors, rows([2, 5, 7]))


def test_contenders_hold_whatever_rounding_may_have_swapped():
    """Scores within the noise of the k-th are kept, those clearly below are not."""
    scores = np.array([0.5, 0.9, 0.5 - 1e-6, 0.4, 0.5 + 1e-6], np.float32)
    assert sorted(contenders(scores, 2)) == [0, 1, 2, 4]
    assert sorted(contenders(scores, 9)) == [0, 1, 2, 3, 4]
    assert sorted(contenders(scores[:0], 3)) == []


def test_many_queries_are_answered_in_blocks(monkeypatch):
    """When the product would be too large it is computed in parts, with the same answers."""
    index = extended(ExactIndex.empty(DIMENSIONS), range(50))
    queries = rows(range(7))
    whole = [one.ids.tolist() for one in index.search(queries, 5)]
    monkeypatch.setattr("indexes.exact_index._PRODUCT_CELLS", 120)
    assert [one.ids.tolist() for one in index.search(queries, 5)] == whole
