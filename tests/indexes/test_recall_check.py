"""What an approximate index knows about itself: the noise of its estimates, and what they may have cost an answer."""

import math

import numpy as np
import pytest

from indexes.recall_check import Rung, Truth, climbed, expected_loss


def test_the_expected_loss_is_the_normal_tail() -> None:
    """The mean of the tails by Python's own error function; equal rows are lost or found together."""
    margins = np.linspace(-0.2, 0.3, 41).astype(np.float32)
    tails = [0.5 * math.erfc(margin / 0.05 / math.sqrt(2)) for margin in margins.tolist()]
    assert expected_loss(margins, 0.05) == pytest.approx(np.mean(tails), abs=2e-4)
    assert expected_loss(np.full(9, 0.129, np.float32), 0.05) == pytest.approx(0.005, abs=2e-4)
    assert expected_loss(np.full(3, 9e9, np.float32), 1e-6) < 1e-9


def test_noise_is_that_of_the_true_neighbours() -> None:
    """Estimates that are off by a normal error show its size, also where few rows were named; none shows none."""
    generator = np.random.default_rng(5)
    vectors = generator.standard_normal((500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = Truth(vectors[:50])
    truth.add(np.arange(500) * 2, vectors)
    estimates = vectors[:50] @ vectors.T + 0.03 * generator.standard_normal((50, 500))
    order = np.argsort(-estimates, axis=1)
    named, kept = order * 2, np.take_along_axis(estimates, order, axis=1).astype(np.float32)
    assert truth.noise(named, kept) == pytest.approx(0.03, rel=0.05)
    assert truth.noise(np.full((50, 3), -1), kept[:, :3]) == 0


def test_each_depth_has_the_cheapest_setting_that_reaches_its_target() -> None:
    """A cell's rows are named only by wide settings: ten neighbours want few of them, a hundred want more."""
    truth, ids = _truth()
    asked: list[tuple[int, int]] = []

    def search(setting: int, count: int) -> np.ndarray:
        asked.append((setting, count))
        named = ids[:, : 10 * setting]  # a setting of 1 names the ten nearest, 10 the hundred nearest
        return np.pad(named, ((0, 0), (0, max(0, count - named.shape[1]))), constant_values=-1)[:, :count]

    few, many = climbed((1, 10, 20), search, truth, lambda rung: rung.setting, 500, 200)
    assert (few.setting, few.candidates) == (1, 20)
    assert (many.setting, many.candidates) == (10, 200)
    assert len(asked) == len(set(asked))  # no search is made twice


def test_where_no_setting_is_enough_all_rows_are_looked_at() -> None:
    """Correct goes before fast: with a search that names strangers, the number of candidates is that of the rows."""
    truth, _ = _truth()
    found = climbed((1, 2), lambda _, count: np.full((len(truth.queries), count), 10_000), truth, lambda _: 1, 500, 20)
    assert found == (Rung(2, 500), Rung(2, 500))


def _truth() -> tuple[Truth, np.ndarray]:
    """Return the truth of 20 queries, and all ids in its order."""
    generator = np.random.default_rng(6)
    vectors = generator.standard_normal((500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = Truth(vectors[:20])
    truth.add(np.arange(500), vectors)
    return truth, np.argsort(-(vectors[:20] @ vectors.T), axis=1)
