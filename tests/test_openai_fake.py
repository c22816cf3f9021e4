"""The stand-in for OpenAI's API itself: a client proven against a lax stand-in is proven against nothing."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import openai_fake_rules as rules
from tests.openai_fake import OpenAIFake, spawned

SPEC = Path(__file__).parent.parent.parent / "shared/data/openai_spec/openapi.json"
SMALL = "text-embedding-3-small"


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIFake]:
    with OpenAIFake() as fake:
        yield fake


@pytest.fixture
def fake(running: OpenAIFake) -> OpenAIFake:
    running.reset()
    return running


def call(base_url: str, path: str, body: Any = None, key: str = "sk-fake", method: str | None = None) -> Any:
    """Return the status and the JSON of an answer, by plain HTTP: nothing of the SDK hides what is sent."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(base_url + path, data, headers, method=method)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"input": []}, 400, "$.input"),
        ({"input": ""}, 400, "$.input"),
        ({"input": ["a", ""]}, 400, "$.input"),
        ({"input": ["a"] * 2049}, 400, "$.input"),
        ({"input": "a " * 8193}, 400, "maximum context length is 8192 tokens"),
        ({"input": ["a " * 8000] * 38}, 400, "max 300000 tokens per request"),
        ({"dimensions": 0}, 400, "dimensions"),
        ({"dimensions": 1537}, 400, "dimensions"),
        ({"model": "text-embedding-ada-002", "dimensions": 8}, 400, "does not support specifying dimensions"),
        ({"model": "nobody"}, 404, "does not exist"),
        ({"encoding_format": "int8"}, 400, "encoding_format"),
        ({"truncate": True}, 400, "truncate"),
    ],
)
def test_wrong_embedding_requests_are_refused(fake: OpenAIFake, change: Any, status: int, word: str) -> None:
    """Each published limit of an embeddings request is kept, with OpenAI's words."""
    got, body = call(fake.base_url, "/embeddings", {"model": SMALL, "input": "a", **change})
    assert got == status
    assert word in body["error"]["message"]
    assert set(body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"max_tokens": 5}, "max_completion_tokens"),
        ({"temperature": 0.2}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "robot"),
        ({"stream_options": {"include_usage": True}}, "stream"),
        ({"top_k": 5}, "top_k"),
    ],
)
def test_wrong_chat_requests_are_refused(fake: OpenAIFake, change: Any, word: str) -> None:
    """A reasoning model takes neither `max_tokens` nor a temperature, and nobody takes unknown fields."""
    body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Hello"}], **change}
    status, reply = call(fake.base_url, "/chat/completions", body)
    assert status == 400
    assert word in reply["error"]["message"]


def test_keys_and_paths(fake: OpenAIFake) -> None:
    """Without the right key it is 401, on a wrong method 405, on another path 404."""
    assert call(fake.base_url, "/models", key="wrong")[1]["error"]["code"] == "invalid_api_key"
    assert call(fake.base_url, "/models", key=" ")[0] == 401
    assert call(fake.base_url, "/embeddings", method="GET")[0] == 405
    assert call(fake.base_url, "/nothing", {})[0] == 404
    assert call(fake.base_url, "/models/gpt-6-luna")[1]["id"] == "gpt-6-luna"


def test_texts_that_share_words_are_near(fake: OpenAIFake) -> None:
    """The vectors mean something: the related text is nearer, in English and in Chinese; shortened ones are unit."""
    texts = ["The database needs a password.", "Which password does the database take?", "Bread bakes at 230 degrees."]
    texts += ["数据库需要密码。", "数据库的密码是什么？", "面包要烤三十分钟。"]
    for dimensions in (1536, 256):
        _, reply = call(fake.base_url, "/embeddings", {"model": SMALL, "input": texts, "dimensions": dimensions})
        vectors = np.array([item["embedding"] for item in reply["data"]])
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        likeness = vectors @ vectors.T
        assert likeness[0, 1] > likeness[0, 2] + 0.2
        assert likeness[3, 4] > likeness[3, 5] + 0.2
    assert reply["usage"]["prompt_tokens"] == sum(map(rules.count_tokens, texts))


def test_the_default_chat_answers_from_the_passages() -> None:
    """It finds passages in the usual forms, cites the right one, and says when there is none."""
    forms = ('<passage n="{n}" title="x">\n{text}\n</passage>', "[{n}] {text}", "Passage {n} (x.md)\n{text}")
    texts = ["Bread bakes at 230 degrees. It rests first.", "Intro. Set DATABASE_URL before the first start. More."]
    for form in forms:
        passages = "\n\n".join(form.format(n=n, text=text) for n, text in enumerate(texts, 1))
        for question, expected in (
            ("What must be set before the first start?", "Set DATABASE_URL before the first start. [2]"),
            ("Who painted the Mona Lisa?", rules.NOT_IN_DOCUMENTS),
        ):
            messages = [{"role": "user", "content": f"{passages}\n\nQuestion: {question}"}]
            assert rules.answer_from_passages({"messages": messages}) == expected


def test_a_stream_ends_with_reason_usage_and_done(fake: OpenAIFake) -> None:
    """The chunks of a stream carry the whole text, then the finish reason, then usage, then [DONE]."""
    fake.chat.reply("Hello brave new world.")
    body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    request = urllib.request.Request(
        f"{fake.base_url}/chat/completions",
        json.dumps({**body, "stream_options": {"include_usage": True}}).encode(),
        {"Authorization": "Bearer sk-fake"},
    )
    with urllib.request.urlopen(request) as answer:
        lines = [line.removeprefix("data: ") for line in answer.read().decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == "Hello brave new world."
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_as_a_process_it_is_scripted_over_http() -> None:
    """A process of its own takes scripts and shows its journal, and refuses a script that it does not know."""
    with spawned("--key", "sk-other") as base_url:
        control = base_url.removesuffix("/v1")
        body = {"model": SMALL, "input": ["a", "b"]}
        script = {"faults": {"embeddings": [{"status": 503, "message": "overloaded"}]}}
        assert call(control, "/_fake/script", script)[0] == 200
        assert call(base_url, "/embeddings", body, "sk-other")[0] == 503
        assert call(base_url, "/embeddings", body, "sk-other")[0] == 200
        journal = call(control, "/_fake/journal")[1]
        assert [entry["status"] for entry in journal["requests"]] == [503, 200]
        assert journal["totals"]["embeddings_inputs"] == 4
        assert call(control, "/_fake/script", {"faults": {"embeddings": [{"twist": "purple"}]}})[0] == 400
        assert call(control, "/_fake/journal", method="DELETE")[0] == 200
        assert call(control, "/_fake/journal")[1] == {"totals": {}, "requests": []}


@pytest.mark.skipif(not SPEC.is_file(), reason="the published interface (shared/data/openai_spec) is not here")
def test_fields_are_the_published_ones(fake: OpenAIFake) -> None:
    """Request fields, and the required fields of replies, are those of OpenAI's own published interface."""
    schemas = json.loads(SPEC.read_text())["components"]["schemas"]

    def properties(schema: Any) -> set[str]:
        schema = schemas[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
        return set(schema.get("properties", {})).union(*map(properties, schema.get("allOf", [])))

    for name, fields in (
        ("CreateEmbeddingRequest", rules.EMBEDDING_FIELDS),
        ("CreateChatCompletionRequest", rules.CHAT_FIELDS),
        ("CreateModerationRequest", rules.MODERATION_FIELDS),
    ):
        assert properties(schemas[name]) == fields
    result = schemas["CreateModerationResponse"]["properties"]["results"]["items"]
    assert set(result["properties"]["categories"]["properties"]) == set(rules.CATEGORIES)
    message = {"role": "user", "content": "Hi"}
    for path, body, name in (
        ("/embeddings", {"model": SMALL, "input": "a"}, "CreateEmbeddingResponse"),
        ("/chat/completions", {"model": "gpt-6-luna", "messages": [message]}, "CreateChatCompletionResponse"),
        ("/moderations", {"input": ["a"]}, "CreateModerationResponse"),
    ):
        assert set(schemas[name]["required"]) <= set(call(fake.base_url, path, body)[1])
