"""What the stand-in for OpenAI's API knows: which requests are right, and what a good answer to one is.

Everything here is a pure function of the request, so that two runs answer alike. Texts that share words get vectors
that are near each other; a chat answers with the sentence of the prompt's passages that shares most words with the
question.
"""

import base64
import gzip
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from importlib import resources
from typing import Any

import numpy as np
import tiktoken

EMBEDDING_MODELS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
CHAT_MODELS = ("gpt-6-luna", "gpt-6-sol", "gpt-5.4-mini", "gpt-5.4", "gpt-4o-mini", "gpt-4.1-mini")
MODERATION_MODELS = ("omni-moderation-latest", "omni-moderation-2024-09-26")
COMPATIBLE_DIMENSIONS = 384
MAX_INPUTS, MAX_TOKENS_PER_INPUT, MAX_TOKENS = 2048, 8192, 300_000
NOT_IN_DOCUMENTS = "NOT_IN_DOCUMENTS\nThe documents say nothing about this."
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
EMBEDDING_FIELDS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
MODERATION_FIELDS = frozenset({"input", "model"})
CHAT_FIELDS = frozenset(
    """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages
    metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
    stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity
    web_search_options""".split()  # noqa: SIM905
)
ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
_IMAGE_CATEGORIES = frozenset(
    {"self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "violence", "violence/graphic"}
)


@dataclass
class ApiError(Exception):
    """An answer other than 200, in the shape of OpenAI's errors."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


@lru_cache(maxsize=1)
def _encoding() -> tiktoken.Encoding:
    """cl100k_base from the shipped vocabulary, built here on its own: the stand-in does not trust the tested code."""
    packed = resources.files("ingest").joinpath("_vocab", "cl100k_base.tiktoken.gz").read_bytes()
    lines = gzip.decompress(packed).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    pattern = (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
        r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    )
    return tiktoken.Encoding(name="cl100k_fake", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


@lru_cache(maxsize=20_000)
def count_tokens(text: str) -> int:
    return len(_encoding().encode_ordinary(text))


# Embeddings --------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_COMMON = frozenset(
    """a about an and any are as at be been but by can did do does for from had has have how i if in into is it its me
    my no not of on or our she so than that the their them then there these they this to up use was we were what when
    where which who why will with would you your""".split()  # noqa: SIM905
)


def features(text: str) -> list[str]:
    """Words without their commonest endings, and pairs of Chinese, Japanese and Korean characters."""
    found = []
    for word in _WORD.findall(text.lower()):
        for run in _CJK.findall(word):
            found += [run[i : i + 2] for i in range(len(run) - 1)] or [run]
        if not _CJK.search(word):
            found.append(_stem(word))
    return found


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


@lru_cache(maxsize=100_000)
def _places(salt: str, feature: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    digest = blake2b(f"{salt}\0{feature}".encode("utf-8", "surrogatepass"), digest_size=24).digest()
    indices = np.frombuffer(digest[:16], dtype="<u2").astype(np.int64) % width
    signs = np.where(np.frombuffer(digest[16:], dtype=np.uint8) & 1, 1.0, -1.0)
    return indices, signs * (0.15 if feature in _COMMON else 1.0)


@lru_cache(maxsize=4096)
def embed(model: str, text: str, width: int, dimensions: int) -> bytes:
    """Return the float32 bytes of a unit vector: hashed words, a little noise, cut to `dimensions`, normalised."""
    vector = np.zeros(width)
    counted = Counter(features(text))
    if counted:
        places = [_places(model, feature, width) for feature in counted]
        weights = np.repeat([1 + math.log(n) for n in counted.values()], 8)
        signs = np.concatenate([sign for _, sign in places])
        vector = np.bincount(np.concatenate([index for index, _ in places]), weights * signs, minlength=width)
    seed = int.from_bytes(blake2b(f"{model}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest())
    noise = np.random.default_rng(seed).standard_normal(width)
    vector = vector / max(float(np.linalg.norm(vector)), 1.0) + 0.05 * noise / np.linalg.norm(noise)
    short = vector[:dimensions]
    return (short / np.linalg.norm(short)).astype("<f4").tobytes()


def check_embeddings(body: dict[str, Any], compatible: bool) -> list[str]:
    """Return the inputs as texts; raise ApiError as the API would."""
    _known_fields(body, EMBEDDING_FIELDS)
    model = _model(body, tuple(EMBEDDING_MODELS), compatible)
    if body.get("encoding_format", "float") not in ("float", "base64"):
        raise ApiError(400, "Invalid value for 'encoding_format'.", param="encoding_format")
    _check_dimensions(body, model, compatible)
    texts = _embedding_inputs(body.get("input"))
    counts = [count_tokens(text) for text in texts]
    for n in counts:
        if n > MAX_TOKENS_PER_INPUT:
            raise ApiError(
                400,
                f"This model's maximum context length is {MAX_TOKENS_PER_INPUT} tokens, however you requested {n} "
                f"tokens ({n} in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
            )
    if sum(counts) > MAX_TOKENS:
        kind = "max_tokens_per_request"
        raise ApiError(400, f"Requested {sum(counts)} tokens, max {MAX_TOKENS} tokens per request", kind, None, kind)
    return texts


def _check_dimensions(body: dict[str, Any], model: str, compatible: bool) -> None:
    if (wanted := body.get("dimensions")) is None:
        return
    if type(wanted) is not int or wanted < 1:
        raise ApiError(400, "Invalid value for 'dimensions': integer above minimum value expected", param="dimensions")
    if model == "text-embedding-ada-002":
        raise ApiError(400, "This model does not support specifying dimensions.")
    if wanted > width_of(model, compatible):
        raise ApiError(400, f"Invalid value for 'dimensions' = {wanted}. Must be less than or equal to the default.")


def _embedding_inputs(given: Any) -> list[str]:
    inputs = [given] if isinstance(given, str) or (isinstance(given, list) and _is_tokens(given)) else given
    wrong = ApiError(400, "'$.input' is invalid. Please check the API reference: /docs/api-reference.")
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_INPUTS:
        raise wrong
    texts = []
    for item in inputs:
        if isinstance(item, list) and item and _is_tokens(item):
            texts.append(_encoding().decode(item))
        elif isinstance(item, str) and item:
            texts.append(item)
        else:
            raise wrong
    return texts


def _is_tokens(items: list[Any]) -> bool:
    return bool(items) and all(type(item) is int for item in items)


def width_of(model: str, compatible: bool) -> int:
    return COMPATIBLE_DIMENSIONS if compatible else EMBEDDING_MODELS[model]


def embeddings_reply(body: dict[str, Any], texts: Sequence[str], compatible: bool) -> dict[str, Any]:
    """A compatible server gives floats of any length and no usage, whatever it is asked for."""
    width = width_of(body["model"], compatible)
    vectors = [embed(body["model"], text, width, body.get("dimensions") or width) for text in texts]
    if compatible:
        shown: list[Any] = [(np.frombuffer(raw, "<f4") * 3.0).tolist() for raw in vectors]
    elif body.get("encoding_format") == "base64":
        shown = [base64.b64encode(raw).decode() for raw in vectors]
    else:
        shown = [np.frombuffer(raw, "<f4").tolist() for raw in vectors]
    tokens = sum(map(count_tokens, texts))
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(shown)]
    reply: dict[str, Any] = {"object": "list", "data": data, "model": body["model"]}
    return reply if compatible else {**reply, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


# Chat --------------------------------------------------------------------------------------------------------------


def check_chat(body: dict[str, Any], compatible: bool) -> list[str]:
    """Return the messages' texts; raise ApiError as the API (or, if `compatible`, an older server) would."""
    _known_fields(body, CHAT_FIELDS - {"max_completion_tokens", "store"} if compatible else CHAT_FIELDS)
    model = _model(body, CHAT_MODELS, compatible)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(
            400, "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter"
        )
    texts = []
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in (ROLES - {"developer"} if compatible else ROLES):
            raise ApiError(400, f"Invalid value: '{role}'.", param=f"messages[{i}].role", code="invalid_value")
        texts.append(_content(message, i))
    if not compatible:
        _check_reasoning(body, model)
    for name in ("max_tokens", "max_completion_tokens", "n"):
        if body.get(name) is not None and (type(body[name]) is not int or body[name] < 1):
            raise ApiError(400, f"Invalid '{name}': integer below minimum value.", param=name)
    if body.get("stream_options") is not None and not body.get("stream"):
        raise ApiError(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    return texts


def _content(message: dict[str, Any], index: int) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message["role"] == "assistant":
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "\n".join(str(part.get("text", "")) for part in content)
    raise ApiError(400, "Invalid value for 'content': expected a string.", param=f"messages[{index}].content")


def _check_reasoning(body: dict[str, Any], model: str) -> None:
    if not re.match(r"gpt-[56]|o\d", model):
        return
    if body.get("max_tokens") is not None:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise ApiError(400, message, param="max_tokens", code="unsupported_parameter")
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1) and body.get("reasoning_effort") != "none":
            message = f"Unsupported value: '{name}' does not support {body[name]} with this model."
            raise ApiError(400, message, param=name, code="unsupported_value")


def prompt_tokens(texts: Iterable[str]) -> int:
    """An estimate: three tokens around each message, three to open the reply."""
    return 3 + sum(3 + count_tokens(text) for text in texts)


def cut_to_tokens(text: str, limit: int | None) -> tuple[str, int, bool]:
    """Return the text within `limit` tokens, how many it has, and whether it was cut."""
    tokens = _encoding().encode_ordinary(text)
    if limit is None or len(tokens) <= limit:
        return text, len(tokens), False
    return _encoding().decode(tokens[:limit], errors="ignore"), limit, True


_PASSAGES = (
    re.compile(r"<passage\b[^>]*?\b(?:n|number|id)\s*=\s*[\"']?(\d+)[^>]*>(.*?)</passage", re.DOTALL | re.IGNORECASE),
    re.compile(
        r"^\W{0,8}passage\W{1,3}(\d+)\b[^\n]*\n(.*?)(?=^\W{0,8}passage\W{1,3}\d+\b|^\W{0,4}question\b|\Z)",
        re.DOTALL | re.IGNORECASE | re.MULTILINE,
    ),
    re.compile(r"^\s*\[(\d+)\](.*?)(?=^\s*\[\d+\]|^\W{0,4}question\b|\Z)", re.DOTALL | re.IGNORECASE | re.MULTILINE),
)
_QUESTION = (
    re.compile(r"<question\b[^>]*>(.*?)</question", re.DOTALL | re.IGNORECASE),
    re.compile(r"^\W{0,4}question\W*[:：]\s*(.+)", re.IGNORECASE | re.MULTILINE),
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


def answer_from_passages(body: dict[str, Any]) -> str:
    """The default chat: the sentence of the numbered passages that shares most words with the question, and [n]."""
    texts = [_content(message, 0) for message in body["messages"] if message["role"] == "user"]
    asked = set(features(_question(texts[-1]))) - _COMMON if texts else set()
    best, words = "", 0.0
    for number, passage in _passages("\n".join(texts)):
        for sentence, said in _sentences(passage):
            share = len(asked & said) / max(len(asked), 1)
            if share > words and not sentence.endswith(("?", "？")):
                best, words = f"{sentence} [{number}]", share
    return best if words >= 0.5 else NOT_IN_DOCUMENTS


@lru_cache(maxsize=10_000)
def _sentences(passage: str) -> list[tuple[str, frozenset[str]]]:
    """The sentences of a passage with their words; kept, because benchmarks send the same passages again and again."""
    found = filter(None, map(str.strip, _SENTENCE_END.split(passage)))
    return [(sentence, frozenset(features(sentence))) for sentence in found]


def _passages(prompt: str) -> list[tuple[int, str]]:
    for pattern in _PASSAGES:
        if found := pattern.findall(prompt):
            return [(int(number), text) for number, text in found]
    return []


def _question(text: str) -> str:
    for pattern in _QUESTION:
        if found := pattern.findall(text):
            return str(found[-1])
    return (text.strip().splitlines() or [""])[-1]


# Moderation --------------------------------------------------------------------------------------------------------


def check_moderations(body: dict[str, Any], compatible: bool) -> list[str]:
    """Return one text per result; an array of parts is one text."""
    _known_fields(body, MODERATION_FIELDS)
    _model({"model": "omni-moderation-latest", **body}, MODERATION_MODELS, compatible)
    given = body.get("input")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(item, str) for item in given):
            return list(given)
        if all(isinstance(item, dict) and item.get("type") in ("text", "image_url") for item in given):
            return [" ".join(str(item.get("text", "")) for item in given)]
    raise ApiError(400, "'$.input' is invalid. Please check the API reference: /docs/api-reference.")


def moderation_result(text: str, flagged_words: Mapping[str, str]) -> dict[str, Any]:
    """Flags each category that a scripted word, or a test word like `FLAGME-violence`, stands for."""
    hit = {category for word, category in flagged_words.items() if word in text}
    hit |= {category for category in CATEGORIES if re.search(rf"FLAGME-{re.escape(category)}(?![\w/-])", text)}
    return {
        "flagged": bool(hit),
        "categories": {category: category in hit for category in CATEGORIES},
        "category_scores": {category: 0.97 if category in hit else 0.0001 for category in CATEGORIES},
        "category_applied_input_types": {
            category: ["text", "image"] if category in _IMAGE_CATEGORIES else ["text"] for category in CATEGORIES
        },
    }


# Both --------------------------------------------------------------------------------------------------------------


def _known_fields(body: dict[str, Any], known: frozenset[str]) -> None:
    for name in body:
        if name not in known:
            raise ApiError(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def _model(body: dict[str, Any], known: Sequence[str], compatible: bool) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter")
    if model not in known and not compatible:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise ApiError(404, message, code="model_not_found")
    return model
