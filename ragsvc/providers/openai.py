"""Embeddings, chat and moderation by OpenAI and by what speaks like it. The one door to the `openai` package.

The SDK's own retries are off: `ragsvc.governor` has the only retry loop. Replies are taken raw and decoded by
`openai_wire`, because the SDK validates nothing: it hands on fewer vectors than texts, NaN, or an HTML page.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import numpy as np
import openai

from indexes.types import EmbeddingSpec
from ingest.protocols import Embedded, RequestLimits
from ragsvc.errors import (
    ConfigurationError,
    ProviderError,
    RequestRefused,
    Unreachable,
    UpstreamMalformed,
    UpstreamTimeout,
)
from ragsvc.providers import openai_wire as wire
from ragsvc.providers.openai_errors import Call, Refusal, from_refusal
from ragsvc.settings import OPENAI_DIMENSIONS, OPENAI_URL
from ragsvc.types import ChatReply, Message, Moderated, Prompt, Role

Dialect = Literal["openai", "compatible"]
TIMEOUT = 60.0
"""Seconds for one request in all. The SDK's own 600 s would hold an ask far beyond its deadline."""
CONNECT_TIMEOUT = 5.0

_AZURE_HOSTS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")
_NO_KEY = "none"  # servers without keys ignore it; None would make the SDK read the environment
_log = logging.getLogger("ragsvc.providers.openai")
_KEY_ALONE: Any = {"security": {"bearer_auth": True}}
"""What the SDK's own methods for these endpoints ask for; its default is any key, an administrator's as well."""


def dialect_of(base_url: str | None) -> Dialect:
    """Return `openai` for OpenAI's and Azure's hosts, else `compatible`."""
    host = _hostname(base_url or OPENAI_URL)
    return "openai" if _is_openai(host) or host.endswith(_AZURE_HOSTS) else "compatible"


def _hostname(base_url: str) -> str:
    return (urlsplit(base_url).hostname or "").lower()


def _is_openai(host: str) -> bool:
    return host == "openai.com" or host.endswith(".openai.com")


class Server:
    """One server with one key: a client for it, and its name in messages."""

    def __init__(self, base_url: str | None, api_key: str | None, *, timeout: float = TIMEOUT) -> None:
        """`timeout`: seconds for one request in all. Raises ConfigurationError for a URL or key that can't be used."""
        url = base_url or OPENAI_URL
        _check(url, api_key)
        self.host = urlsplit(url).netloc.rpartition("@")[2]
        self.is_openai = _is_openai(_hostname(url))
        self._timeout = timeout
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=api_key or _NO_KEY,
            max_retries=0,
            timeout=httpx2.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout)),
        )
        # The SDK reads these from the environment, and would name them to every compatible server.
        self._client.organization = self._client.project = None

    async def send(self, path: str, body: Mapping[str, object]) -> bytes:
        """Send one request and return the body of its reply. Raises whatever the SDK raises.

        By the SDK's general `post`: its method for each endpoint builds the request's fields anew by their types, and
        models of the reply, which are not used. A call takes 0.80 ms of CPU instead of 0.93.
        """
        async with asyncio.timeout(self._timeout):
            reply = await self._client.post(path, body=body, cast_to=httpx2.Response, options=_KEY_ALONE)
        return reply.content

    @contextmanager
    def failures(self, role: Role, model: str) -> Iterator[None]:
        """Turn every failure inside into a ProviderError."""
        try:
            yield
        except ProviderError:
            raise
        except Exception as error:  # noqa: BLE001
            # The SDK raises more than its own tree. No chain: its errors hold the request and the server's message.
            raise translate(error, Call(role, self.host, model)) from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def _check(url: str, api_key: str | None) -> None:
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL):
        ok = False
    if not ok:
        raise ConfigurationError("the base URL is not one: set OPENAI_BASE_URL to something like https://host/v1")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ConfigurationError("the API key has characters that no key has: copy it again into OPENAI_API_KEY")


class OpenAIProvider:
    """Makes embedders, chats and moderators; those with the same server and key share one client.

    Belongs to one event loop. `aclose` closes all clients.
    """

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        """`timeout`: seconds for one request in all."""
        self._timeout = timeout
        self._servers: dict[tuple[str, str | None], Server] = {}

    def server(self, base_url: str | None, api_key: str | None) -> Server:
        """Return the server of that URL (None: OpenAI's own) and key."""
        key = ((base_url or OPENAI_URL).rstrip("/"), api_key)
        if key not in self._servers:
            self._servers[key] = Server(base_url, api_key, timeout=self._timeout)
        return self._servers[key]

    def embedder(
        self,
        spec: EmbeddingSpec,
        base_url: str | None,
        api_key: str | None,
        count: Callable[[str], int] | None = None,
    ) -> "OpenAIEmbedder":
        """Return an embedder; `count` estimates tokens for servers that do not tell them."""
        return OpenAIEmbedder(self.server(base_url, api_key), spec, count)

    def chat(
        self,
        model: str,
        base_url: str | None,
        api_key: str | None,
        dialect: Dialect | None = None,
        count: Callable[[str], int] | None = None,
    ) -> "OpenAIChat":
        """Return a chat model; without `dialect` the host decides."""
        return OpenAIChat(self.server(base_url, api_key), model, dialect or dialect_of(base_url), count)

    def moderator(self, model: str, base_url: str | None, api_key: str | None) -> "OpenAIModerator":
        """Return a moderator."""
        return OpenAIModerator(self.server(base_url, api_key), model)

    async def aclose(self) -> None:
        """Close all clients."""
        for server in self._servers.values():
            await server.aclose()
        self._servers.clear()


class OpenAIEmbedder:
    """Satisfies `ingest.protocols.Embedder`. A reply is returned whole and validated, or not at all."""

    def __init__(self, server: Server, spec: EmbeddingSpec, count: Callable[[str], int] | None = None) -> None:
        """`count` estimates tokens for servers that do not tell them."""
        self._server, self._spec, self._count = server, spec, count
        self._limits = RequestLimits(tokens_per_input=min(RequestLimits().tokens_per_input, spec.input_limit))
        native = OPENAI_DIMENSIONS.get(spec.model)
        # ada-002 refuses the field. What an unknown model gives by itself is learned from its first reply.
        self._asks_width: bool | None = None if native is None else native != spec.dimensions
        if spec.model.startswith("text-embedding-3-"):
            self._asks_width = True
        self._warned: set[str] = set()

    @property
    def spec(self) -> EmbeddingSpec:
        """What its vectors are made by."""
        return self._spec

    @property
    def limits(self) -> RequestLimits:
        """What one request may carry."""
        return self._limits

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed the texts in one request; no texts, no request. Raises a ProviderError."""
        if not texts:
            return Embedded(np.empty((0, self._spec.dimensions), dtype=np.float32), 0)
        with self._server.failures("embedding", self._spec.model):
            return self._read(await self._request(list(texts)), texts)

    async def embed_query(self, text: str) -> Embedded:
        """Embed one query; shape (1, dimensions). OpenAI's models make no difference between query and document."""
        return await self.embed_documents([text])

    async def _request(self, texts: list[str]) -> wire.WireEmbeddings:
        asked = self._asks_width  # as it was at the start: other requests learn at the same time
        reply = await self._send(texts, asks_width=bool(asked))
        if asked is None and len(found := wire.widths(reply.data)) == 1:
            # Once per process: a model that is wider by itself may know how to be shorter.
            self._asks_width = found != {self._spec.dimensions}
            if self._asks_width:
                reply = await self._send(texts, asks_width=True)
        return reply

    async def _send(self, texts: list[str], *, asks_width: bool) -> wire.WireEmbeddings:
        # base64 is a quarter of the bytes of numbers, and no Python float per value
        request: dict[str, object] = {"model": self._spec.model, "input": texts, "encoding_format": "base64"}
        if asks_width:
            request["dimensions"] = self._spec.dimensions
        return wire.decode(await self._server.send("/embeddings", request), wire.WireEmbeddings)

    def _read(self, reply: wire.WireEmbeddings, texts: Sequence[str]) -> Embedded:
        host, spec = self._server.host, self._spec
        vectors, unit = wire.read_vectors(
            reply.data, len(texts), spec.dimensions, any_length=not self._server.is_openai
        )
        if not unit:
            self._warn_once(f"{host} gives vectors of {spec.model} that are not of length 1: they are normalised")
        if reply.model and reply.model != spec.model:
            self._warn_once(f"{host} names another model than {spec.model} for its vectors: they are kept as asked for")
        tokens = reply.usage.prompt_tokens if reply.usage else None
        if tokens is None:
            tokens = sum(map(self._count, texts)) if self._count else 0
        return Embedded(vectors, tokens)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning(message)


class OpenAIChat:
    """Satisfies `ragsvc.protocols.ChatModel`.

    No temperature is sent: today's models refuse it. No reasoning effort either: which are allowed, and the default,
    depend on the model. Hidden reasoning counts as output: with too small a `max_tokens` the reply is empty, `length`.
    """

    def __init__(self, server: Server, model: str, dialect: Dialect, count: Callable[[str], int] | None = None) -> None:
        """`count` estimates tokens for servers that do not tell them."""
        self._server, self._model, self._dialect, self._count = server, model, dialect, count

    @property
    def model(self) -> str:
        """Name of the model, as configured."""
        return self._model

    @property
    def provider(self) -> str:
        """Always `openai`."""
        return "openai"

    async def complete(self, prompt: Prompt, max_tokens: int) -> ChatReply:
        """Send the prompt's messages; at most `max_tokens` tokens of output. Raises a ProviderError."""
        request: dict[str, object] = {
            "model": self._model,
            "messages": [self._message(message) for message in prompt.messages],
        }
        if self._dialect == "openai":
            request |= {"max_completion_tokens": max_tokens, "store": False}
        else:
            request["max_tokens"] = max_tokens
        with self._server.failures("chat", self._model):
            return self._read(await self._server.send("/chat/completions", request), prompt)

    def _message(self, message: Message) -> dict[str, str]:
        renamed = message.role == "system" and self._dialect == "openai"
        return {"role": "developer" if renamed else message.role, "content": message.content}

    def _read(self, body: bytes, prompt: Prompt) -> ChatReply:
        reply = wire.decode(body, wire.WireChat)
        text, reason, refusal = wire.read_choice(reply)
        usage = reply.usage or wire.WireUsage()
        said = usage.completion_tokens
        return ChatReply(
            text=text,
            finish_reason=reason,
            refusal=refusal,
            model=reply.model or self._model,
            prompt_tokens=prompt.tokens if usage.prompt_tokens is None else usage.prompt_tokens,
            completion_tokens=(self._count(text) if self._count else 0) if said is None else said,
        )


class OpenAIModerator:
    """Satisfies `ragsvc.protocols.Moderator`. Whatever is not a verdict per text is an error: callers fail closed."""

    def __init__(self, server: Server, model: str) -> None:
        """`model` such as `omni-moderation-latest`."""
        self._server, self._model = server, model

    @property
    def model(self) -> str:
        """Name of the model, as configured."""
        return self._model

    async def check(self, texts: Sequence[str]) -> Moderated:
        """Judge the texts in one request; no texts, no request. Raises a ProviderError."""
        if not texts:
            return Moderated(self._model, ())
        request = {"model": self._model, "input": list(texts)}
        with self._server.failures("moderation", self._model):
            reply = wire.decode(await self._server.send("/moderations", request), wire.WireModerations)
            return Moderated(reply.model or self._model, wire.read_verdicts(reply, len(texts)))


def translate(error: Exception, call: Call) -> ProviderError:
    """Return any failure of a call in the words of `ragsvc.errors`; what is not known makes no sense."""
    host = call.host
    match error:
        case openai.APIStatusError():
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            return from_refusal(_refusal(error, error.status_code, headers), call, time.time())
        case openai.APITimeoutError() | httpx2.TimeoutException() | TimeoutError():
            return UpstreamTimeout(f"{host} did not answer the {call.role} request in time; repeat in a while")
        case openai.APIConnectionError() if isinstance(error.__cause__, httpx2.DecodingError | UnicodeError):
            return translate(error.__cause__, call)
        case httpx2.DecodingError():
            reason = "it can't be unpacked"
        case openai.APIConnectionError() | httpx2.HTTPError() | httpx2.InvalidURL() | OSError():
            cause = type(error.__cause__ or error).__name__
            return Unreachable(
                f"no connection to {host} ({cause}); check the network and OPENAI_BASE_URL (or {call.setting}_BASE_URL)"
            )
        case UnicodeEncodeError():
            return RequestRefused(f"the {call.role} request has characters that can't be sent; remove lone surrogates")
        case openai.APIError() if error.code or error.type:
            return from_refusal(_refusal(error, None, {}), call, time.time())
        case wire.WireError():
            reason = str(error)
        case _:
            reason = type(error).__name__
    return UpstreamMalformed(
        f"{host} gave a reply to the {call.role} request that makes no sense: {reason}; nothing of it was used. "
        f"Repeat; if it stays so, check {call.setting}_BASE_URL and {call.setting}_MODEL"
    )


def _refusal(error: openai.APIError, status: int | None, headers: dict[str, str]) -> Refusal:
    code, kind, param = (value if isinstance(value, str) else None for value in (error.code, error.type, error.param))
    return Refusal(status, code, kind, param, error.message, headers)
