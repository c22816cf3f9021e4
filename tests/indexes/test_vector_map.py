"""The file of exact vectors: what is written comes back, and no damage of it ever reaches a score."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import vector_map
from indexes.vector_map import HALF, Layout, MappedRows, VectorMap, units, windows

WIDTH = 8


class Truth:
    """The store, played: rows by id, and who asked for how many of them."""

    def __init__(self, ids: list[int], seed: int = 0) -> None:
        drawn = np.random.default_rng(seed).standard_normal((len(ids), WIDTH))
        rows = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(HALF)
        self.rows = dict(zip(ids, rows, strict=True))
        self.asked = 0

    def batches(self, first: int, last: int):
        ids = sorted(one for one in self.rows if first <= one <= last)
        for start in range(0, len(ids), 3):
            part = ids[start : start + 3]
            yield np.array(part, np.int64), np.stack([self.rows[one] for one in part])

    def stored(self, ids: np.ndarray) -> np.ndarray:
        self.asked += len(ids)
        return np.stack([self.rows.get(one, np.zeros(WIDTH, HALF)) for one in ids.tolist()])


def mapped(path: Path, truth: Truth, first: int, last: int, checksums: bytes, told: list[int], ids=None) -> MappedRows:
    return MappedRows(path, Layout(WIDTH, first, last), checksums, truth.stored, lambda: told.append(1), ids)


def assert_right(rows: MappedRows, truth: Truth, ids: np.ndarray) -> None:
    assert np.array_equal(rows.take(ids), units(np.stack([truth.rows[one] for one in ids.tolist()])))


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Blocks of 4 rows and windows of 8, so that small files have many."""
    monkeypatch.setattr(vector_map, "BLOCK_BYTES", 4 * WIDTH * HALF.itemsize + 3)
    monkeypatch.setattr(vector_map, "_WINDOW_BYTES", 8 * WIDTH * HALF.itemsize)


def test_what_is_written_comes_back(tmp_path, small_blocks):
    """Rows of any ids, in any order, are those of the store, without asking it; ids without a vector are zero."""
    truth, told = Truth([3, 4, 7, 8, 20, 21, 40]), []
    ids, checksums = VectorMap(tmp_path / "1.f16", WIDTH).write(3, 45, truth.batches)
    assert ids.tolist() == list(truth.rows)
    rows = mapped(tmp_path / "1.f16", truth, 3, 45, checksums, told, ids)
    assert_right(rows, truth, np.array([40, 3, 21, 3]))
    assert not rows.take(np.array([5])).any()
    batches = list(rows.batches())
    assert np.concatenate([part for part, _ in batches]).tolist() == ids.tolist()
    assert np.array_equal(np.concatenate([part for _, part in batches]), units(np.stack(list(truth.rows.values()))))
    assert (told, truth.asked, rows.damaged().size) == ([], 0, 0)
    assert (tmp_path / "1.f16").stat().st_size == 46 * WIDTH * HALF.itemsize


def test_ranges_do_not_disturb_each_other(tmp_path, small_blocks):
    """A second range that begins inside a block of the first leaves the first one's checksums right."""
    truth, told, exact = Truth(list(range(1, 30))), [], VectorMap(tmp_path / "1.f16", WIDTH)
    _, first = exact.write(1, 10, truth.batches)
    _, second = exact.write(11, 29, truth.batches)
    _, both = exact.write(1, 29, truth.batches)
    for low, high, checksums in ((1, 10, first), (11, 29, second), (1, 29, both)):
        assert_right(mapped(tmp_path / "1.f16", truth, low, high, checksums, told), truth, np.arange(low, high + 1))
    assert told == []


def test_a_range_that_is_right_is_not_written_again(tmp_path, small_blocks, monkeypatch):
    """Writing the same rows once more writes nothing; one row that differs costs one window."""
    truth, written = Truth(list(range(1, 30))), []
    exact = VectorMap(tmp_path / "1.f16", WIDTH)
    exact.write(1, 29, truth.batches)
    write_all = vector_map._write_all
    monkeypatch.setattr(vector_map, "_write_all", lambda *args: (written.append(args), write_all(*args)))
    exact.write(1, 29, truth.batches)
    assert written == []
    truth.rows[17] = truth.rows[18]
    exact.write(1, 29, truth.batches)
    assert len(written) == 1


def test_zeroed_rows_are_gone_from_the_file(tmp_path, small_blocks):
    """The bytes of an erased vector are gone; a reader with the old checksum sees damage, not the zeros."""
    truth, told, exact = Truth(list(range(1, 30))), [], VectorMap(tmp_path / "1.f16", WIDTH)
    ids, checksums = exact.write(1, 29, truth.batches)
    exact.zero(np.array([17, 9_999]))
    data = (tmp_path / "1.f16").read_bytes()
    assert truth.rows[17].tobytes() not in data
    assert truth.rows[16].tobytes() in data
    rows = mapped(tmp_path / "1.f16", truth, 1, 29, checksums, told, ids)
    assert_right(rows, truth, ids)
    assert told
    VectorMap(tmp_path / "none.f16", WIDTH).zero(np.array([1]))
    assert not (tmp_path / "none.f16").exists()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_damage_reaches_a_score(tmp_path_factory, data):
    """However the file is damaged before it is opened, every row is the store's, and whoever may mend it is told."""
    path = tmp_path_factory.mktemp("map") / "1.f16"
    truth, told = Truth(list(range(5, 60)), seed=data.draw(st.integers(0, 5))), []
    ids, checksums = VectorMap(path, WIDTH).write(5, 59, truth.batches)
    whole = path.read_bytes()
    broken = bytearray(whole)
    how = data.draw(st.sampled_from(["flip", "page", "truncate", "gone", "foreign", "checksums"]))
    if how == "flip":
        place = data.draw(st.integers(5 * WIDTH * 2, len(whole) - 1))
        broken[place] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "page":
        place = data.draw(st.integers(0, len(whole) - 64))
        broken[place : place + 64] = data.draw(st.binary(min_size=64, max_size=64))
    elif how == "truncate":
        del broken[data.draw(st.integers(0, len(whole) - 1)) :]
    elif how == "foreign":
        broken[:] = np.random.default_rng(1).bytes(len(whole))
    elif how == "checksums":
        checksums = checksums[:-4]
    path.write_bytes(bytes(broken))
    if how == "gone":
        path.unlink()
    rows = mapped(path, truth, 5, 59, checksums, told, ids)
    assert_right(rows, truth, data.draw(st.permutations(ids.tolist()).map(np.array)))
    in_range = bytes(broken[5 * WIDTH * 2 :]) != whole[5 * WIDTH * 2 :]
    assert bool(told) == (in_range or how in ("gone", "checksums"))
    VectorMap(path, WIDTH).write(5, 59, truth.batches)
    mended = mapped(path, truth, 5, 59, VectorMap(path, WIDTH).write(5, 59, truth.batches)[1], [], ids)
    assert mended.damaged().size == 0
    if how not in ("gone", "truncate", "checksums"):
        assert_right(rows, truth, ids)
        assert rows.damaged().size == 0


@given(st.integers(1, 50), st.integers(0, 300), st.integers(1, 9000))
def test_windows_cover_a_range_in_whole_blocks(first, more, width):
    """Windows adjoin, cover the range exactly, and begin at borders of blocks."""
    layout = Layout(width, first, first + more)
    found = list(windows(layout))
    assert found[0][0] == first
    assert found[-1][1] == layout.last
    assert all(end + 1 == start for (_, end), (start, _) in pairwise(found))
    assert all((start - first) % layout.block_rows == 0 for start, _ in found)


def test_units_are_those_of_the_store():
    """A row read alone and in a batch is the same to the bit, and has unit length."""
    rows = np.stack(list(Truth(list(range(50))).rows.values()))
    together = units(rows)
    assert all(np.array_equal(units(rows[n : n + 1])[0], together[n]) for n in range(50))
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert not units(np.zeros((1, WIDTH), HALF)).any()


def test_every_number_is_widened_exactly():
    """Each finite float16, subnormal ones too, becomes the same float32; a row with any other is not a number."""
    every = np.arange(1 << 16, dtype=np.uint16).view(HALF)
    finite = every[np.isfinite(every)]
    assert np.array_equal(vector_map._widened(finite).view(np.int32), finite.astype(np.float32).view(np.int32))
    for wrong in every[~np.isfinite(every)][:: 1 << 6]:
        assert np.isnan(units(np.array([[1, wrong, 0, 0]], HALF))).all()
