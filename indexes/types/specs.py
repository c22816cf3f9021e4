"""How texts are cut and embedded, and the arrays that come of it."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatMatrix = npt.NDArray[np.float32]
"""Vectors as rows, shape (n, dimensions)."""
FloatVector = npt.NDArray[np.float32]
"""One vector, shape (dimensions,), or a row of scores."""
IdArray = npt.NDArray[np.int64]
"""Vector ids, shape (n,)."""


def text_hash(text: str) -> bytes:
    """Return the 32-byte key under which a text's vector and its duplicates are found (SHA-256 of its UTF-8)."""
    return hashlib.sha256(text.encode("utf-8")).digest()


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """What a vector is made by. Two vectors compare only when their specs are equal."""

    model: str
    dimensions: int
    template: str = "title-headings-1"
    """Name of the template that joins title, heading path and slice into the embedded text."""
    input_limit: int = 8191
    """Tokens that one embedded text may have, template included."""


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """How a text is cut."""

    tokens: int = 512
    """Most tokens (cl100k_base) in a chunk, overlap included."""
    overlap: int = 64
    """Tokens of the text before it, in the same section, that a chunk repeats at most."""
    chunker: str = "borders-1"
    """Version of the algorithm: another one may cut the same text elsewhere."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """One way of cutting and embedding; a generation serves exactly one."""

    embedding: EmbeddingSpec
    chunks: ChunkSpec = field(default_factory=ChunkSpec)
