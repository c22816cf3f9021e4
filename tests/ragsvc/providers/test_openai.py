"""The OpenAI provider by the real SDK over a real port: what is sent, what is accepted, what a failure becomes."""

import asyncio
import base64
import importlib
import json
import logging
import pkgutil
import socket
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import httpx2
import numpy as np
import openai
import pytest

from indexes.types import EmbeddingSpec
from ingest.protocols import Embedded
from ragsvc import errors
from ragsvc.providers.openai import OpenAIProvider, dialect_of, translate
from ragsvc.providers.openai_errors import Call
from ragsvc.types import ChatReply, Message, Prompt
from tests import openai_fake_rules as rules
from tests.openai_fake import Fault, OpenAIFake

KEY = "sk-fake"
SMALL = EmbeddingSpec("text-embedding-3-small", 1536)
PROMPT = Prompt("Why?", (), (Message("system", "Be brief."), Message("user", "Why?")), tokens=7)
SECRET = "the-secret-text-of-a-document"
T = TypeVar("T")


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIFake]:
    with OpenAIFake() as fake:
        yield fake


@pytest.fixture
def fake(running: OpenAIFake) -> OpenAIFake:
    running.reset()
    return running


@pytest.fixture(scope="module")
def other_maker() -> Iterator[OpenAIFake]:
    with OpenAIFake(compatible=True) as fake:
        yield fake


def use(work: Callable[[OpenAIProvider], Awaitable[T]], timeout: float = 20.0) -> T:
    async def inner() -> T:
        provider = OpenAIProvider(timeout=timeout)
        try:
            return await work(provider)
        finally:
            await provider.aclose()

    return asyncio.run(inner())


def embed(
    fake: OpenAIFake, *texts: str, spec: EmbeddingSpec = SMALL, strict: bool = False, timeout: float = 20.0
) -> Embedded:
    async def work(provider: OpenAIProvider) -> Embedded:
        embedder = provider.embedder(spec, fake.base_url, fake.key, rules.count_tokens)
        provider.server(fake.base_url, fake.key).is_openai = strict
        return await embedder.embed_documents(texts)

    return use(work, timeout)


def chat(fake: OpenAIFake, **options: Any) -> ChatReply:
    options = {"model": "gpt-6-luna", "dialect": "openai", **options}
    return use(
        lambda p: p.chat(base_url=fake.base_url, api_key=fake.key, count=rules.count_tokens, **options).complete(
            PROMPT, 300
        )
    )


def moderate(fake: OpenAIFake, *texts: str) -> Any:
    return use(lambda p: p.moderator("omni-moderation-latest", fake.base_url, fake.key).check(texts))


# Embeddings


def test_vectors_are_the_ones_of_the_server(fake: OpenAIFake) -> None:
    """The rows are the server's vectors by value, in the order of the texts, float32, of length 1."""
    texts = [f"text number {n}" for n in range(40)]
    got = embed(fake, *texts, strict=True)
    expected = [np.frombuffer(rules.embed(SMALL.model, text, 1536, 1536), "<f4") for text in texts]
    assert got.vectors.dtype == np.float32
    assert np.abs(got.vectors - np.array(expected)).max() < 1e-6
    assert np.abs(np.linalg.norm(got.vectors.astype(np.float64), axis=1) - 1).max() < 1e-6
    assert got.tokens == sum(map(rules.count_tokens, texts))
    assert fake.requests("embeddings")[0].body["encoding_format"] == "base64"
    assert len(fake.requests("embeddings")) == 1


def test_golden_bytes(fake: OpenAIFake) -> None:
    """Base64 is little-endian float32: three known numbers come out as the values that other decoders give."""
    golden = base64.b64encode(b"\xcd\xcc\xcc\x3d\x00\x00\x80\xbe\x77\xcc\x2b\x32").decode()
    data = [{"object": "embedding", "index": 0, "embedding": golden}]
    fake.embeddings.fail(200, body=json.dumps({"object": "list", "model": SMALL.model, "data": data}))
    vector = embed(fake, "a", spec=EmbeddingSpec(SMALL.model, 3)).vectors[0]
    known = np.array([0.10000000149011612, -0.25, 9.99999993922529e-09])
    assert np.allclose(vector, known / np.linalg.norm(known), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("spec", "sent"),
    [
        (SMALL, 1536),
        (EmbeddingSpec("text-embedding-3-large", 256), 256),
        (EmbeddingSpec("text-embedding-ada-002", 1536), None),
    ],
)
def test_dimensions_are_sent_where_the_model_takes_them(fake: OpenAIFake, spec: EmbeddingSpec, sent: int) -> None:
    """`dimensions` goes with the text-embedding-3 models, and never with ada-002, which refuses the field."""
    assert embed(fake, "a", "b", spec=spec).vectors.shape == (2, spec.dimensions)
    assert fake.requests("embeddings")[0].body.get("dimensions") == sent


def test_an_unknown_model_is_asked_to_be_shorter_only_when_it_is_wider(other_maker: OpenAIFake) -> None:
    """A server's own width is learned from its first reply; from then on each call is one request."""

    async def work(provider: OpenAIProvider) -> list[int | None]:
        embedder = provider.embedder(EmbeddingSpec("nomic", 128), other_maker.base_url, KEY)
        other_maker.reset()
        for _ in range(2):
            assert (await embedder.embed_query("a")).vectors.shape == (1, 128)
        native = provider.embedder(EmbeddingSpec("nomic", 384), other_maker.base_url, KEY)
        await native.embed_query("a")
        return [entry.body.get("dimensions") for entry in other_maker.requests("embeddings")]

    assert use(work) == [None, 128, 128, None]


SPOILT = ["fewer", "more", "empty", "duplicate_index", "missing_index", "null", "not_base64", "nan", "inf"]
SPOILT += ["wide", "narrow", "zero", "doubled"]


@pytest.mark.parametrize(
    ("server", "twist"), [*((server, twist) for server in "ab" for twist in SPOILT), ("a", "odd_base64")]
)
def test_spoilt_vectors_are_refused(fake: OpenAIFake, other_maker: OpenAIFake, server: str, twist: str) -> None:
    """No reply with a wrong count, index, width or value is returned, in base64 (a) or as numbers (b)."""
    other_maker.reset()
    asked, spec = (fake, SMALL) if server == "a" else (other_maker, EmbeddingSpec("nomic", 384))
    asked.embeddings.twist(twist)
    with pytest.raises(errors.UpstreamMalformed, match="makes no sense") as caught:
        embed(asked, SECRET, "b", "c", spec=spec)
    assert SECRET not in str(caught.value)


def test_shuffled_vectors_are_placed_by_index(fake: OpenAIFake) -> None:
    """The order of the list in a reply means nothing."""
    straight = embed(fake, "a", "b", "c").vectors
    fake.embeddings.twist("reordered")
    assert np.array_equal(embed(fake, "a", "b", "c").vectors, straight)


def test_another_length_is_refused_from_openai_and_normalised_elsewhere(fake: OpenAIFake, caplog: Any) -> None:
    """From OpenAI's own host a vector that is not of length 1 is refused; elsewhere it is normalised, and warned of."""
    fake.embeddings.twist("unnormalised", times=2)
    with pytest.raises(errors.UpstreamMalformed, match="length 1"):
        embed(fake, "a", strict=True)
    with caplog.at_level(logging.WARNING):
        loose = embed(fake, "a").vectors
    assert "normalised" in caplog.text
    assert np.allclose(loose, embed(fake, "a").vectors, atol=1e-6)


def test_a_compatible_server_gives_numbers_and_no_usage(other_maker: OpenAIFake, caplog: Any) -> None:
    """Floats instead of base64, any length, no usage: accepted, tokens estimated, and warned of once."""
    spec = EmbeddingSpec("nomic", 384)

    async def work(provider: OpenAIProvider) -> Embedded:
        embedder = provider.embedder(spec, other_maker.base_url, KEY, rules.count_tokens)
        await embedder.embed_query("first")
        return await embedder.embed_documents(["one two", "three"])

    other_maker.reset()
    with caplog.at_level(logging.WARNING):
        got = use(work)
    assert got.tokens == 3
    assert np.allclose(np.linalg.norm(got.vectors, axis=1), 1, atol=1e-6)
    assert sum("normalised" in record.message for record in caplog.records) == 1


def test_another_model_name_is_told_once(fake: OpenAIFake, caplog: Any) -> None:
    """A reply that names another model is kept, and logged."""
    fake.embeddings.twist("other_model")
    with caplog.at_level(logging.WARNING):
        assert embed(fake, "a").vectors.shape == (1, 1536)
    assert "another model" in caplog.text


def test_no_texts_no_request(fake: OpenAIFake) -> None:
    """Nothing to embed or to judge costs nothing."""
    assert embed(fake).vectors.shape == (0, 1536)
    assert moderate(fake).verdicts == ()
    assert not fake.journal


# Chat


def test_the_two_dialects(fake: OpenAIFake, other_maker: OpenAIFake) -> None:
    """OpenAI gets `developer`, `max_completion_tokens` and `store: false`; others `system` and `max_tokens`."""
    fake.chat.reply("Because [1].")
    reply = chat(fake)
    assert (reply.text, reply.finish_reason, reply.refusal) == ("Because [1].", "stop", None)
    assert (reply.model, reply.prompt_tokens, reply.completion_tokens) == ("gpt-6-luna", 14, 4)
    body = fake.requests("chat")[0].body
    assert set(body) == {"model", "messages", "max_completion_tokens", "store"}
    assert body["store"] is False
    assert [message["role"] for message in body["messages"]] == ["developer", "user"]
    other_maker.reset()
    assert chat(other_maker, model="llama", dialect=None).finish_reason == "stop"
    body = other_maker.requests("chat")[0].body
    assert set(body) == {"model", "messages", "max_tokens"}
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("fault", "text", "reason", "refusal"),
    [
        (Fault(text="cut", finish_reason="length"), "cut", "length", None),
        (Fault(text="", finish_reason="length"), "", "length", None),
        (Fault(text="", finish_reason="content_filter"), "", "content_filter", None),
        (Fault(text="x", finish_reason="tool_calls"), "x", "incomplete", None),
        (Fault(refusal="I can't help with that."), "", "stop", "I can't help with that."),
        (Fault(text="x", twist="null_content"), "", "incomplete", None),
        (Fault(text="x", twist="no_content"), "", "incomplete", None),
        (Fault(text="x", twist="no_finish"), "x", "incomplete", None),
    ],
)
def test_ends_of_a_chat(fake: OpenAIFake, fault: Fault, text: str, reason: str, refusal: str | None) -> None:
    """Each way in which a reply can end has its own word; nothing unfinished passes for `stop`."""
    fake.chat.script(fault)
    reply = chat(fake)
    assert (reply.text, reply.finish_reason, reply.refusal) == (text, reason, refusal)


def test_a_chat_without_choices_or_usage(fake: OpenAIFake) -> None:
    """No choices is no answer; no usage is estimated, no model name is the configured one."""
    fake.chat.twist("no_choices")
    with pytest.raises(errors.UpstreamMalformed, match="no choices"):
        chat(fake)
    fake.chat.reply("Because of it.", twist="no_usage")
    fake.chat.reply("Because of it.", twist="no_model")
    assert (chat(fake).prompt_tokens, chat(fake).model) == (PROMPT.tokens, "gpt-6-luna")


def test_the_dialect_follows_the_host() -> None:
    """OpenAI's and Azure's hosts speak `openai`; a name that only looks like theirs does not."""
    own = [None, "https://api.openai.com/v1", "https://EU.API.OPENAI.COM/v1", "https://x.openai.azure.com/openai/v1"]
    others = ["http://127.0.0.1:8080/v1", "https://openai.com.evil.example/v1", "https://notopenai.com/v1"]
    assert {dialect_of(url) for url in own} == {"openai"}
    assert {dialect_of(url) for url in others} == {"compatible"}


# Moderation


def test_verdicts_stand_in_the_order_of_the_texts(fake: OpenAIFake) -> None:
    """A list of texts is one request, and each text has its own verdict, by the wire's category names."""
    got = moderate(fake, "fine", "FLAGME-hate/threatening and FLAGME-self-harm", "fine", "FLAGME-violence")
    assert [verdict.flagged for verdict in got.verdicts] == [False, True, False, True]
    assert set(got.verdicts[1].categories) == {"hate/threatening", "self-harm"}
    assert got.model == "omni-moderation-latest"
    assert len(fake.requests("moderations")) == 1


@pytest.mark.parametrize("twist", ["fewer", "more", "empty", "no_results", "no_flagged"])
def test_spoilt_verdicts_are_errors(fake: OpenAIFake, twist: str) -> None:
    """Whatever is not one verdict per text is an error, so that callers fail closed."""
    fake.moderations.twist(twist)
    with pytest.raises(errors.UpstreamMalformed):
        moderate(fake, "a", "b")


@pytest.mark.parametrize(
    ("twist", "flagged"), [("null_illicit", False), ("flagged_without_category", True), ("hidden_category", True)]
)
def test_odd_verdicts_are_read_on_the_safe_side(fake: OpenAIFake, twist: str, flagged: bool) -> None:
    """A null category is unset; flagged by word or by any category is flagged."""
    fake.moderations.twist(twist)
    assert moderate(fake, "a").verdicts[0].flagged is flagged


# Failures


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(status=400, code="context_length_exceeded", message=SECRET), errors.RequestRefused),
        (Fault(status=401, code="invalid_api_key"), errors.AuthenticationFailed),
        (Fault(status=403), errors.AuthenticationFailed),
        (Fault(status=402), errors.QuotaExhausted),
        (Fault(status=404, code="model_not_found"), errors.ModelNotFound),
        (Fault(status=404, message='model "x" not found, try pulling it first'), errors.ModelNotFound),
        (Fault(status=404), errors.EndpointMissing),
        (Fault(status=404, body="<html>no</html>", content_type="text/html"), errors.EndpointMissing),
        (Fault(status=405), errors.EndpointMissing),
        (Fault(status=501), errors.EndpointMissing),
        (Fault(status=408), errors.UpstreamFailed),
        (Fault(status=409), errors.UpstreamFailed),
        (Fault(status=413), errors.RequestRefused),
        (Fault(status=422, body='{"detail": "the-secret-text-of-a-document"}'), errors.RequestRefused),
        (Fault(status=418), errors.RequestRefused),
        (Fault(status=429, code="rate_limit_exceeded", type="tokens"), errors.RateLimited),
        (Fault(status=429, code="slow_down"), errors.RateLimited),
        (Fault(status=429, body="busy", content_type="text/plain"), errors.RateLimited),
        (Fault(status=500), errors.UpstreamFailed),
        (Fault(status=503, code="server_is_overloaded"), errors.UpstreamFailed),
        (Fault(status=529, body="<html>", content_type="text/html"), errors.UpstreamFailed),
        (Fault(drop=True), errors.Unreachable),
        (Fault(half=True), errors.Unreachable),
        (Fault(body="<html>a proxy</html>", content_type="text/html"), errors.UpstreamMalformed),
        (Fault(body='{"data": [{"index": 0,'), errors.UpstreamMalformed),
        (Fault(body=""), errors.UpstreamMalformed),
        (Fault(body="[]"), errors.UpstreamMalformed),
        (Fault(body="null"), errors.UpstreamMalformed),
        (Fault(body="[" * 100_000), errors.UpstreamMalformed),
        (Fault(body="x", headers={"content-encoding": "gzip"}), errors.UpstreamMalformed),
        (Fault(status=304, body=""), errors.UpstreamMalformed),
    ],
)
def test_each_failure_has_its_error(fake: OpenAIFake, fault: Fault, expected: type[errors.ProviderError]) -> None:
    """One request, one typed error that names the server, and neither the key nor a text in its message."""
    for endpoint, call in (
        ("embeddings", lambda: embed(fake, SECRET)),
        ("chat", lambda: chat(fake)),
        ("moderations", lambda: moderate(fake, SECRET)),
    ):
        fake.endpoint(endpoint).script(fault)
        with pytest.raises(errors.ProviderError) as caught:
            call()
        assert type(caught.value) is expected
        assert fake.url.removeprefix("http://") in str(caught.value)
        assert SECRET not in "".join(traceback.format_exception(caught.value))  # as a log would show it
        assert KEY not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(fake.requests(endpoint)) == 1


@pytest.mark.parametrize(
    "word",
    [
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
    ],
)
@pytest.mark.parametrize("place", ["code", "type"])
def test_an_exhausted_quota_is_no_rate_limit(fake: OpenAIFake, word: str, place: str) -> None:
    """Each word of the quota family, as code or as type, means QuotaExhausted, after exactly one request."""
    fake.embeddings.fail(429, **{place: word})
    with pytest.raises(errors.QuotaExhausted) as caught:
        embed(fake, "a")
    assert caught.value.upstream_code == word
    assert not caught.value.retryable
    assert len(fake.journal) == 1


def test_the_wait_that_a_server_asks_for(fake: OpenAIFake) -> None:
    """`Retry-After` reaches the error, in seconds."""
    fake.embeddings.fail(429, headers={"retry-after": "7"})
    with pytest.raises(errors.RateLimited) as caught:
        embed(fake, "a")
    assert caught.value.retry_after == 7.0


def test_no_server_and_no_answer(fake: OpenAIFake) -> None:
    """A closed port is Unreachable; an answer after the time limit is UpstreamTimeout, and does not hang."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with pytest.raises(errors.Unreachable):
            use(lambda p: p.moderator("m", url, KEY).check(["a"]))
    fake.embeddings.delay(30)
    with pytest.raises(errors.UpstreamTimeout):
        embed(fake, "a", timeout=0.2)


def test_a_trickle_ends_at_the_limit(fake: OpenAIFake) -> None:
    """The limit is one for the whole request: bytes that drip in do not prolong it."""
    fake.chat.script(Fault(text="word " * 200, chunk_delay=0.05))

    async def work(provider: OpenAIProvider) -> bytes:
        server = provider.server(fake.base_url, KEY)
        with server.failures("chat", "gpt-6-luna"):
            body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
            return await server.send("/chat/completions", body)

    with pytest.raises(errors.UpstreamTimeout):
        use(work, timeout=0.3)


def test_a_cancelled_call_is_cancelled(fake: OpenAIFake) -> None:
    """Cancelling is not an upstream's failure: it passes through, and the client goes on working."""
    fake.chat.delay(30)

    async def work(provider: OpenAIProvider) -> ChatReply:
        model = provider.chat("gpt-6-luna", fake.base_url, KEY, "openai")
        task = asyncio.create_task(model.complete(PROMPT, 100))
        while not fake.journal:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await model.complete(PROMPT, 100)

    assert use(work).finish_reason == "stop"


def test_lone_surrogates_can_not_be_sent(fake: OpenAIFake) -> None:
    """A text that is no Unicode is refused before it leaves, without its words in the message."""
    with pytest.raises(errors.RequestRefused, match="surrogates") as caught:
        embed(fake, SECRET + "\ud800")
    assert SECRET not in str(caught.value)
    assert not fake.journal


@pytest.mark.parametrize("key", ["sk-é", "sk\n", "two words"])
def test_a_key_that_is_none(key: str) -> None:
    """A key that no header can carry is a configuration error that does not show it."""
    with pytest.raises(errors.ConfigurationError) as caught:
        OpenAIProvider().server(None, key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://host:99999/v1", "http://[::1"])
def test_a_url_that_is_none(url: str) -> None:
    """A base URL that is none is a configuration error."""
    with pytest.raises(errors.ConfigurationError):
        OpenAIProvider().server(url, KEY)


def test_the_environment_is_not_read(fake: OpenAIFake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key none is borrowed from the environment, and no base URL either: settings decide alone."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", fake.base_url)
    with pytest.raises(errors.AuthenticationFailed):
        use(lambda p: p.moderator("omni-moderation-latest", fake.base_url, None).check(["a"]))
    assert KEY not in fake.journal[0].headers["authorization"]
    assert OpenAIProvider().server(None, None).host == "api.openai.com"


def test_one_client_for_a_server_and_key() -> None:
    """Roles share the connections of a server; another key is another client."""
    provider = OpenAIProvider()
    assert provider.server(None, "a") is provider.server("https://api.openai.com/v1/", "a")
    assert provider.server(None, "a") is not provider.server(None, "b")


# The SDK's exceptions, all of them

REQUEST = httpx2.Request("POST", "https://api.openai.com/v1/embeddings")
EXPECTED: dict[str, type[errors.ProviderError]] = {
    "APIConnectionError": errors.Unreachable,
    "APITimeoutError": errors.UpstreamTimeout,
    "BadRequestError": errors.RequestRefused,
    "AuthenticationError": errors.AuthenticationFailed,
    "OAuthError": errors.AuthenticationFailed,
    "PermissionDeniedError": errors.AuthenticationFailed,
    "NotFoundError": errors.EndpointMissing,
    "ConflictError": errors.UpstreamFailed,
    "UnprocessableEntityError": errors.RequestRefused,
    "RateLimitError": errors.RateLimited,
    "InternalServerError": errors.UpstreamFailed,
}
NEVER_OURS = frozenset(
    [
        "OpenAIError",
        "SubjectTokenProviderError",
        "APIError",
        "APIResponseValidationError",
        "APIStatusError",
        "LengthFinishReasonError",
        "ContentFilterFinishReasonError",
        "InvalidWebhookSignatureError",
        "WebSocketConnectionClosedError",
        "WebSocketQueueFullError",
        "StreamAlreadyConsumed",
        "MissingStreamClassError",
        "MissingDependencyError",
        "MutuallyExclusiveAuthError",
        "APIRemovedInV1",
        "_AmbiguousModuleClientUsageError",
        "AgentFilePreparationError",
        "AgentFileStagingError",
        "AgentOutputParseError",
        "AgentTurnResultError",
    ]
)
"""Classes that no call of ours raises, or only as their subclasses: they make no sense, and are said to."""


def exceptions_of_the_sdk() -> set[type[Exception]]:
    """Every exception class of the package's own modules, and every loaded subclass of OpenAIError."""
    heavy = {"types", "cli", "resources", "helpers", "lib", "__main__", "_vendor"}
    names = [f"openai.{module.name}" for module in pkgutil.iter_modules(openai.__path__) if module.name not in heavy]
    found: set[type[Exception]] = set()
    for name in ["openai", *names, "openai.lib.azure", "openai.lib._old_api"]:
        for value in list(vars(importlib.import_module(name)).values()):
            # type(value), because isinstance() would make the SDK's lazy proxies load all of it
            if issubclass(type(value), type) and issubclass(value, Exception) and value.__module__.startswith("openai"):
                found.add(value)
    kinds: list[type[Exception]] = [openai.OpenAIError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return found | {kind for kind in kinds if kind.__module__.startswith("openai")}


def sample(kind: type[Exception]) -> Exception:
    """Return an instance, made as the SDK makes it."""
    if issubclass(kind, openai.APIStatusError):
        status = getattr(kind, "status_code", 500 if kind is openai.InternalServerError else 302)
        response = httpx2.Response(status, request=REQUEST)
        if kind.__name__ == "OAuthError":
            return kind(response=response, body=None)  # type: ignore[call-arg]
        return kind("text", response=response, body=None)
    if issubclass(kind, openai.APIResponseValidationError):
        return kind(httpx2.Response(200, request=REQUEST), None)
    if issubclass(kind, openai.APITimeoutError):
        return kind(REQUEST)
    if issubclass(kind, openai.APIConnectionError):
        return kind(request=REQUEST)
    if issubclass(kind, openai.APIError):
        return kind("text", REQUEST, body=None)
    return kind.__new__(kind, "text")


def test_every_exception_of_the_sdk_has_its_error() -> None:
    """A class that a new release of the SDK brings fails here until someone has decided what it means."""
    kinds = exceptions_of_the_sdk()
    names = {kind.__name__ for kind in kinds}
    assert set(EXPECTED) <= names <= set(EXPECTED) | NEVER_OURS
    call = Call("embedding", "api.openai.com", "text-embedding-3-small")
    for kind in kinds:
        expected = EXPECTED.get(kind.__name__, errors.UpstreamMalformed)
        assert type(translate(sample(kind), call)) is expected, kind


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (json.JSONDecodeError("Expecting value", SECRET, 0), errors.UpstreamMalformed),
        (ValueError("No embedding data received"), errors.UpstreamMalformed),
        (AttributeError("'str' object has no attribute 'data'"), errors.UpstreamMalformed),
        (KeyError(SECRET), errors.UpstreamMalformed),
        (TimeoutError(), errors.UpstreamTimeout),
        (ConnectionResetError(), errors.Unreachable),
        (openai.APIError("x", REQUEST, body={"code": "insufficient_quota"}), errors.QuotaExhausted),
        (openai.APIError("x", REQUEST, body={"code": "rate_limit_exceeded"}), errors.RateLimited),
        (openai.APIError("x", REQUEST, body={"type": "server_error"}), errors.UpstreamFailed),
        (openai.APIError(SECRET, REQUEST, body={"code": SECRET + " "}), errors.UpstreamMalformed),
    ],
)
def test_what_else_the_sdk_raises(error: Exception, expected: type[errors.ProviderError]) -> None:
    """Errors that are not of the SDK's tree, and errors inside a stream, are translated as well."""
    got = translate(error, Call("chat", "host", "m"))
    assert type(got) is expected
    assert SECRET not in str(got)


def test_every_transport_error_is_unreachable_or_late() -> None:
    """Whatever the HTTP library raises is Unreachable, a timeout UpstreamTimeout, a bad encoding malformed."""
    kinds: list[type[Any]] = [httpx2.HTTPError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        error = kind.__new__(kind, "text")
        late = issubclass(kind, httpx2.TimeoutException)
        expected = errors.UpstreamTimeout if late else errors.Unreachable
        expected = errors.UpstreamMalformed if issubclass(kind, httpx2.DecodingError) else expected
        assert type(translate(error, Call("chat", "host", "m"))) is expected
