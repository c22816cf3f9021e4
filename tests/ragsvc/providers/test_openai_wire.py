"""Replies without a server: what is read is right by value, and nothing at all is read wrongly or breaks."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsvc.providers import openai_wire as wire

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def spelt(vector: np.ndarray, as_base64: bool) -> str | list[float]:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=6), st.randoms(), st.booleans())
def test_rows_are_the_normalised_vectors_by_index(rows: list[list[float]], shuffle: Any, as_base64: bool) -> None:
    """In any order and either form, each row is its vector divided by its length; a zero vector refuses the whole."""
    matrix = np.array(rows, dtype=np.float32)
    data = [
        {"index": i, "embedding": spelt(vector, as_base64), "object": "embedding"} for i, vector in enumerate(matrix)
    ]
    shuffle.shuffle(data)
    reply = wire.decode(json.dumps({"data": data}).encode(), wire.WireEmbeddings)
    lengths = np.linalg.norm(matrix.astype(np.float64), axis=1)
    if not lengths.min() > 0:
        with pytest.raises(wire.WireError):
            wire.read_vectors(reply.data, len(rows), 3, any_length=True)
        return
    got, unit = wire.read_vectors(reply.data, len(rows), 3, any_length=True)
    assert np.allclose(got, matrix / lengths[:, np.newaxis], atol=1e-6)
    assert unit == bool((np.abs(lengths - 1) <= wire.NORM_TOLERANCE).all())


@pytest.mark.parametrize(("length", "unit"), [(1.0, True), (1.009, True), (0.991, True), (1.011, False), (0.5, False)])
def test_the_tolerance_of_a_length(length: float, unit: bool) -> None:
    """A length within 0.01 of 1 is 1; another one is refused, or normalised where that is allowed."""
    data = [wire.WireEmbedding(0, [0.6 * length, 0.8 * length])]
    if not unit:
        with pytest.raises(wire.WireError, match="length"):
            wire.read_vectors(data, 1, 2, any_length=False)
    vectors, was_unit = wire.read_vectors(data, 1, 2, any_length=not unit)
    assert was_unit is unit
    assert np.allclose(vectors, [[0.6, 0.8]], atol=1e-6)


@pytest.mark.parametrize("number", [1e300, -1e39, float("inf"), float("nan")])
def test_numbers_beyond_float32_are_refused(number: float) -> None:
    """A number that float32 does not hold is no vector's."""
    with pytest.raises(wire.WireError, match="finite"):
        wire.read_vectors([wire.WireEmbedding(0, [number, 1.0])], 1, 2, any_length=True)


@given(JSON | st.fixed_dictionaries({"data": JSON, "choices": JSON, "results": JSON}), st.integers(1, 3))
def test_no_json_breaks_it(value: Any, count: int) -> None:
    """Any JSON whatever is either a right reply or a WireError."""
    body = json.dumps(value).encode()
    for shape in (wire.WireEmbeddings, wire.WireChat, wire.WireModerations):
        try:
            reply = wire.decode(body, shape)
            if isinstance(reply, wire.WireEmbeddings):
                vectors, _ = wire.read_vectors(reply.data, count, 2, any_length=True)
                assert vectors.shape == (count, 2)
                assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
            elif isinstance(reply, wire.WireChat):
                wire.read_choice(reply)
            else:
                assert len(wire.read_verdicts(reply, count)) == count
        except wire.WireError:
            pass


@given(st.binary(max_size=200))
def test_no_bytes_break_it(body: bytes) -> None:
    """Any bytes whatever that are no right reply are a WireError."""
    with pytest.raises(wire.WireError):
        wire.decode(body, wire.WireChat)
