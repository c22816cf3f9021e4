"""Twists of the stand-in for OpenAI's API: ways to spoil a good reply that a client must notice."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np

Reply = dict[str, Any]


def _vector(item: Reply) -> np.ndarray:
    given = item["embedding"]
    return np.frombuffer(base64.b64decode(given), "<f4").copy() if isinstance(given, str) else np.array(given, "<f4")


def _respell(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Reply], None]:
    """Change the last vector, in the form that it has."""

    def twist(reply: Reply) -> None:
        item = reply["data"][-1]
        changed = change(_vector(item)).astype("<f4")
        item["embedding"] = (
            base64.b64encode(changed.tobytes()).decode() if isinstance(item["embedding"], str) else changed.tolist()
        )

    return twist


def _first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda vector: np.concatenate([[value], vector[1:]])


def _set_items(key: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Reply], None]:
    return lambda reply: reply.__setitem__(key, change(reply[key]))


def _set_last(key: str, field: str, value: Any) -> Callable[[Reply], None]:
    return lambda reply: reply[key][-1].__setitem__(field, value)


_ANY_TWISTS: dict[str, Callable[[Reply], Any]] = {
    "other_model": lambda reply: reply.__setitem__("model", "another-model"),
    "no_usage": lambda reply: reply.pop("usage", None),
    "no_model": lambda reply: reply.pop("model", None),
}
TWISTS: dict[str, dict[str, Callable[[Reply], Any]]] = {
    "embeddings": {
        **_ANY_TWISTS,
        "fewer": _set_items("data", lambda data: data[:-1]),
        "more": _set_items("data", lambda data: [*data, {**data[-1], "index": len(data)}]),
        "doubled": _set_items("data", lambda data: [*data, data[-1]]),
        "empty": _set_items("data", lambda data: []),
        "reordered": _set_items("data", lambda data: data[::-1]),
        "duplicate_index": _set_last("data", "index", 0),
        "missing_index": lambda reply: reply["data"][-1].pop("index"),
        "null": _set_last("data", "embedding", None),
        "odd_base64": lambda reply: reply["data"][-1].update(embedding=reply["data"][-1]["embedding"][:-4] + "AAA="),
        "not_base64": _set_last("data", "embedding", "!!!!"),
        "nan": _respell(_first(float("nan"))),
        "inf": _respell(_first(float("inf"))),
        "wide": _respell(lambda vector: np.append(vector, 0.0)),
        "narrow": _respell(lambda vector: vector[:-1]),
        "zero": _respell(np.zeros_like),
        "unnormalised": _respell(lambda vector: vector * 1.5),
    },
    "chat": {
        **_ANY_TWISTS,
        "null_content": lambda reply: reply["choices"][0]["message"].update(content=None),
        "no_content": lambda reply: reply["choices"][0]["message"].pop("content"),
        "no_choices": _set_items("choices", lambda choices: []),
        "no_finish": lambda reply: reply["choices"][0].update(finish_reason=None),
    },
    "moderations": {
        **_ANY_TWISTS,
        "fewer": _set_items("results", lambda results: results[:-1]),
        "more": _set_items("results", lambda results: [*results, results[-1]]),
        "empty": _set_items("results", lambda results: []),
        "no_results": lambda reply: reply.pop("results"),
        "no_flagged": lambda reply: reply["results"][-1].pop("flagged"),
        "null_illicit": lambda reply: reply["results"][-1]["categories"].update(illicit=None),
        "flagged_without_category": _set_last("results", "flagged", True),
        "hidden_category": lambda reply: reply["results"][-1]["categories"].update(violence=True),
    },
    "models": {},
}
