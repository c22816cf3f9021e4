"""What an approximate index knows about itself: the noise of its estimates, and what they may have cost an answer."""

import math

import numpy as np
import pytest

from indexes.recall_check import Truth, expected_loss


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
