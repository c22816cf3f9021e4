"""What comes over the wire from OpenAI and what speaks like it: decoded strictly, validated whole, or refused (pure).

Unknown fields are ignored, as OpenAI reserves the right to add some. Every function raises WireError, whose message
names what is wrong and holds nothing of a text.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from indexes.types import FloatMatrix
from ragsvc.types import FinishReason, Verdict

NORM_TOLERANCE = 1e-2
"""OpenAI's vectors have length 1; in float32 and base64 the error is below 1e-6, so more than this is no rounding."""

_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
T = TypeVar("T")


class WireError(ValueError):
    """A reply that makes no sense; the message says why."""


class WireUsage(msgspec.Struct, frozen=True):
    """Tokens as the server counted them; compatible servers leave some out, or the whole."""

    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None


class WireEmbedding(msgspec.Struct, frozen=True):
    """One vector: base64 of little-endian float32, or, from servers that ignore `encoding_format`, numbers."""

    index: int
    embedding: str | list[float]


class WireEmbeddings(msgspec.Struct, frozen=True):
    """Reply of `POST /embeddings`."""

    data: list[WireEmbedding]
    model: str | None = None
    usage: WireUsage | None = None


class WireMessage(msgspec.Struct, frozen=True):
    """What a chat model said."""

    content: str | None = None
    refusal: str | None = None


class WireChoice(msgspec.Struct, frozen=True):
    """One of the answers of a chat model."""

    message: WireMessage
    finish_reason: str | None = None


class WireChat(msgspec.Struct, frozen=True):
    """Reply of `POST /chat/completions`."""

    choices: list[WireChoice]
    model: str | None = None
    usage: WireUsage | None = None


class WireModeration(msgspec.Struct, frozen=True):
    """The verdict on one text; some categories may be null."""

    flagged: bool
    categories: dict[str, bool | None]


class WireModerations(msgspec.Struct, frozen=True):
    """Reply of `POST /moderations`."""

    results: list[WireModeration]
    model: str | None = None


def decode(body: bytes, shape: type[T]) -> T:
    """Return the reply as `shape`. Not JSON, a field that lacks, a wrong type: WireError."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise WireError(f"a field lacks or has the wrong type: {_place(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("it is not JSON") from None


def _place(error: msgspec.ValidationError) -> str:
    """Return where a reply is wrong; msgspec names types and places, and fields of ours, never a value."""
    return str(error).replace("\n", " ")


def read_vectors(
    data: Sequence[WireEmbedding], count: int, dimensions: int, *, any_length: bool
) -> tuple[FloatMatrix, bool]:
    """Return `count` unit vectors, shape (count, dimensions), placed by index, and whether they came as unit vectors.

    Refused: another count, indices that are not exactly 0..count-1, another width, a value that is not finite, zero,
    and, without `any_length`, a length that is not 1. Unit vectors are still divided by their float64 length.
    """
    if len(data) != count:
        raise WireError(f"{len(data)} vectors for {count} texts")
    if {item.index for item in data} != set(range(count)):
        raise WireError(f"the indices are not 0 to {count - 1}")
    rows = np.empty((count, dimensions), dtype=np.float32)
    for item in data:
        numbers = _numbers(item.embedding)
        if len(numbers) != dimensions:
            raise WireError(f"a vector of {len(numbers)} numbers where {dimensions} were expected")
        rows[item.index] = numbers
    if not np.isfinite(rows).all():
        raise WireError("a vector holds a value that is not a finite number")
    # In float64: the square of a large float32 is no float32 any more.
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    if not (norms > 0.0).all():
        raise WireError("a vector is all zeros")
    unit = bool((np.abs(norms - 1.0) <= NORM_TOLERANCE).all())
    if not unit and not any_length:
        raise WireError("a vector is not of length 1")
    return (rows / norms[:, np.newaxis]).astype(np.float32), unit


def widths(data: Sequence[WireEmbedding]) -> set[int]:
    """Return the widths that occur."""
    return {len(_numbers(item.embedding)) for item in data}


def _numbers(embedding: str | list[float]) -> FloatMatrix:
    if isinstance(embedding, list):
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused as such
            return np.array(embedding, dtype=np.float32)
    try:
        packed = base64.b64decode(embedding, validate=True)
        return np.frombuffer(packed, dtype="<f4").astype(np.float32, copy=False)
    except (binascii.Error, ValueError):  # not base64, or no whole number of float32
        raise WireError("a vector is not base64 of float32 numbers") from None


def read_choice(reply: WireChat) -> tuple[str, FinishReason, str | None]:
    """Return text, finish reason and refusal of the first choice.

    Anything but a known end is `incomplete`: a tool call, no reason at all, or `stop` with neither text nor refusal.
    """
    if not reply.choices:
        raise WireError("it has no choices")
    choice = reply.choices[0]
    reason = _FINISH_REASONS.get(choice.finish_reason or "", "incomplete")
    if reason == "stop" and choice.message.content is None and not choice.message.refusal:
        reason = "incomplete"
    return choice.message.content or "", reason, choice.message.refusal or None


def read_verdicts(reply: WireModerations, count: int) -> tuple[Verdict, ...]:
    """Return one verdict per text. A text with any category set is flagged, whatever `flagged` says."""
    if len(reply.results) != count:
        raise WireError(f"{len(reply.results)} verdicts for {count} texts")
    found = []
    for result in reply.results:
        categories = tuple(name for name, is_set in result.categories.items() if is_set)
        found.append(Verdict(flagged=result.flagged or bool(categories), categories=categories))
    return tuple(found)
