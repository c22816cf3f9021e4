"""A stand-in for OpenAI's API on a real port of 127.0.0.1, as strict as the published interface.

In a test:     `with OpenAIFake() as fake: ... fake.base_url ... fake.embeddings.fail(429) ... fake.journal`
As a process:  `python -m tests.openai_fake --port 0` prints its base URL; `POST /_fake/script`, `GET /_fake/journal`
               and `DELETE /_fake/journal` do what the attributes do. `spawned()` starts one for a test.

`compatible=True` makes it a server of another maker: any model name, float vectors that are not of unit length, no
usage of embeddings, no `developer` role, no `max_completion_tokens`, no `store`.
"""

import argparse
import asyncio
import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests import openai_fake_rules as rules
from tests.openai_fake_rules import ApiError
from tests.openai_fake_twists import TWISTS

DEFAULT_KEY = "sk-fake"
Reply = dict[str, Any]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to the next `times` requests of an endpoint (-1: to all). What is not set is as it should be."""

    times: int = 1
    delay: float = 0.0
    """Seconds before the answer."""
    status: int | None = None
    """Answer with this status, and `code`, `type`, `message`, `param` in OpenAI's error shape, or with `body`."""
    code: str | None = None
    type: str | None = None
    message: str = "scripted by a test"
    headers: dict[str, str] = {}
    body: str | None = None
    content_type: str = "application/json"
    drop: bool = False
    """Reset the connection instead of answering."""
    half: bool = False
    """Announce the whole body, send half of it, close."""
    twist: str | None = None
    """One of the endpoint's TWISTS, done to a good reply."""
    text: str | None = None
    """What the chat says; with `finish_reason` and `refusal`."""
    finish_reason: str | None = None
    refusal: str | None = None
    cut_after: int | None = None
    """Reset a stream after so many chunks."""
    chunk_delay: float = 0.0
    """Seconds before each chunk of a stream."""


@dataclass(frozen=True)
class Entry:
    """One request as it came in, and the status it gets (0: none); written down before the answer is sent."""

    endpoint: str
    model: str | None
    inputs: list[str]
    tokens: int
    headers: dict[str, str]
    body: Any
    at: float
    """Seconds since the epoch."""
    status: int


class Endpoint:
    """What a test scripts of one endpoint: a queue of faults, first in, first out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._queue: deque[tuple[Fault, int]] = deque()
        self._lock = threading.Lock()

    def script(self, *faults: Fault) -> None:
        for fault in faults:
            if fault.twist is not None and fault.twist not in TWISTS[self.name]:
                raise ValueError(f"{self.name} has no twist {fault.twist!r}; it has {sorted(TWISTS[self.name])}")
            with self._lock:
                self._queue.append((fault, fault.times))

    def fail(self, status: int, **fields: Any) -> None:
        self.script(Fault(status=status, **fields))

    def quota(self, code: str | None = "insufficient_quota", kind: str = "insufficient_quota", times: int = 1) -> None:
        text = "You exceeded your current quota, please check your plan and billing details."
        self.fail(429, code=code, type=kind, message=text, times=times)

    def html(self, status: int = 200) -> None:
        self.fail(status, body="<html><body>Bad gateway</body></html>", content_type="text/html")

    def twist(self, name: str, times: int = 1) -> None:
        self.script(Fault(twist=name, times=times))

    def drop(self, times: int = 1) -> None:
        self.script(Fault(drop=True, times=times))

    def delay(self, seconds: float, times: int = 1) -> None:
        self.script(Fault(delay=seconds, times=times))

    def missing(self, status: int = 404) -> None:
        """The endpoint is not there at all, from now on."""
        body = '{"detail":"Not Found"}'
        self.fail(status, body=body, times=-1)

    def reply(self, text: str | None = None, **fields: Any) -> None:
        """For the chat: say this; `finish_reason` and `refusal` as given."""
        self.script(Fault(text=text, **fields))

    def take(self) -> Fault:
        with self._lock:
            if not self._queue:
                return Fault()
            fault, left = self._queue[0]
            if left == 1:
                self._queue.popleft()
            elif left > 1:
                self._queue[0] = (fault, left - 1)
            return fault

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()


class OpenAIFake:
    """The server, its script and its journal; as a context manager it runs in a thread of its own."""

    def __init__(
        self,
        *,
        key: str = DEFAULT_KEY,
        latency: float = 0.0,
        compatible: bool = False,
        flagged_words: dict[str, str] | None = None,
        responder: Callable[[Reply], str] = rules.answer_from_passages,
        port: int = 0,
    ) -> None:
        self.key, self.latency, self.compatible, self.responder = key, latency, compatible, responder
        self.flagged_words = dict(flagged_words or {})
        self.embeddings, self.chat = Endpoint("embeddings"), Endpoint("chat")
        self.moderations, self.models = Endpoint("moderations"), Endpoint("models")
        self.journal: deque[Entry] = deque(maxlen=100_000)
        self.totals: dict[str, int] = {}
        self._ids = itertools.count(1)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen(1024)  # from here on a client may connect; it is answered once the server runs
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.base_url = f"{self.url}/v1"

    # Running

    def serve(self, ready: Callable[[uvicorn.Server], None] = lambda server: None) -> None:
        """Serve until the server is told to stop."""
        config = uvicorn.Config(
            self._app, http=_Connection, interface="asgi3", proxy_headers=False, ws="none", lifespan="off",
            log_config=None, log_level="error",
            access_log=False, timeout_keep_alive=60, backlog=1024,
        )  # fmt: skip
        server = uvicorn.Server(config)
        ready(server)
        with self._socket:
            uvloop.run(server.serve(sockets=[self._socket]))

    def __enter__(self) -> Self:
        servers: list[uvicorn.Server] = []
        self._thread = threading.Thread(target=self.serve, args=(servers.append,), daemon=True)
        self._thread.start()
        while not servers or not servers[0].started:
            if not self._thread.is_alive():
                raise RuntimeError("the stand-in for OpenAI's API did not start")
            time.sleep(0.002)
        self._server = servers[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    # Script and journal

    def endpoint(self, name: str) -> Endpoint:
        found: Endpoint = getattr(self, name)
        return found

    def requests(self, endpoint: str) -> list[Entry]:
        return [entry for entry in list(self.journal) if entry.endpoint == endpoint]

    def inputs(self, endpoint: str = "embeddings") -> int:
        """How many inputs came in, in all."""
        return self.totals.get(f"{endpoint}_inputs", 0)

    def forget(self) -> None:
        """Empty the journal."""
        self.journal.clear()
        self.totals.clear()

    def reset(self) -> None:
        """Empty the script and the journal; the test words flag nothing but themselves again."""
        for name in TWISTS:
            self.endpoint(name).clear()
        self.flagged_words.clear()
        self.latency = 0.0
        self.forget()

    def _record(self, name: str, body: Any, texts: list[str], headers: dict[str, str], status: int) -> None:
        tokens = 0 if status >= 400 else sum(map(rules.count_tokens, texts))
        model = body.get("model") if isinstance(body, dict) else None
        self.journal.append(Entry(name, model, texts, tokens, headers, body, time.time(), status))
        for key, n in (("requests", 1), ("inputs", len(texts)), ("tokens", tokens)):
            self.totals[f"{name}_{key}"] = self.totals.get(f"{name}_{key}", 0) + n

    # Answering

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = _Exchange(scope, receive, send)
        if scope["path"].startswith("/_fake/"):
            await self._control(exchange)
            return
        exchange.headers = self._headers()
        raw = await exchange.body()
        name, body, texts, fault, error = _endpoint_of(scope["path"]), None, [], Fault(), None
        try:
            if name is None:
                raise ApiError(404, f"Invalid URL ({scope['method']} {scope['path']})", code="unknown_url")
            fault = self.endpoint(name).take()
            body, texts = self._read(exchange, name, raw)
        except ApiError as wrong:
            error, fault = wrong, Fault(delay=fault.delay)
        status = error.status if error else 0 if fault.drop else fault.status or 200
        self._record(name or "unknown", None if name == "models" else body, texts, exchange.sent_headers, status)
        if self.latency or fault.delay:
            await asyncio.sleep(self.latency + fault.delay)
        if error is not None:
            await exchange.answer(status, msgspec.json.encode(error.body()))
        else:
            assert name is not None
            await self._send(exchange, name, body, texts, fault)

    def _read(self, exchange: "_Exchange", name: str, raw: bytes) -> tuple[Reply, list[str]]:
        """Return the request's body and inputs; raise ApiError where the API would refuse it."""
        if (exchange.scope["method"] == "GET") != (name == "models"):
            raise ApiError(405, f"Not allowed to {exchange.scope['method']} on {exchange.scope['path']}")
        self._authorise(exchange)
        if name == "models":
            return self._models(exchange.scope["path"]), []
        body = _object(raw)
        return body, getattr(rules, f"check_{name}")(body, self.compatible)

    async def _send(self, exchange: "_Exchange", name: str, body: Reply, texts: list[str], fault: Fault) -> None:
        """Answer as scripted, else as it should be."""
        exchange.headers |= fault.headers
        if fault.drop:
            await exchange.drop()
        elif fault.body is not None:
            await exchange.answer(fault.status or 200, fault.body.encode(), fault.content_type)
        elif fault.status is not None:
            kind = fault.type or ("server_error" if fault.status >= 500 else "invalid_request_error")
            error = ApiError(fault.status, fault.message, kind, None, fault.code)
            await exchange.answer(fault.status, msgspec.json.encode(error.body()))
        else:
            reply = body if name == "models" else getattr(self, f"_{name}")(body, texts, fault)
            if fault.twist is not None:
                TWISTS[name][fault.twist](reply)
            if name == "chat" and body.get("stream"):
                await self._stream(exchange, body, reply, fault)
            else:
                await exchange.answer(200, msgspec.json.encode(reply), half=fault.half)

    def _authorise(self, exchange: "_Exchange") -> None:
        given = exchange.sent_headers.get("authorization", "")
        if not given.startswith("Bearer ") or not given[7:].strip():
            raise ApiError(401, "You didn't provide an API key.")
        if given[7:].strip() != self.key:
            message = f"Incorrect API key provided: {given[7:][:3]}***. You can find your API key in your account."
            raise ApiError(401, message, code="invalid_api_key")

    def _headers(self) -> dict[str, str]:
        return {
            "x-request-id": f"req_{next(self._ids):012x}",
            "openai-processing-ms": "1",
            "openai-version": "2020-10-01",
            "x-ratelimit-limit-requests": "5000",
            "x-ratelimit-remaining-requests": "4999",
            "x-ratelimit-reset-requests": "12ms",
            "x-ratelimit-limit-tokens": "1000000",
            "x-ratelimit-remaining-tokens": "999984",
            "x-ratelimit-reset-tokens": "6m0s",
        }

    def _embeddings(self, body: Reply, texts: list[str], fault: Fault) -> Reply:
        return rules.embeddings_reply(body, texts, self.compatible)

    def _chat(self, body: Reply, texts: list[str], fault: Fault) -> Reply:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        said = fault.text if fault.text is not None else "" if fault.refusal else self.responder(body)
        text, used, cut = rules.cut_to_tokens(said, limit)
        message = {"role": "assistant", "content": None if fault.refusal else text, "refusal": fault.refusal}
        reason = fault.finish_reason or ("length" if cut else "stop")
        choice = {"message": {**message, "annotations": []}, "logprobs": None, "finish_reason": reason}
        prompt = rules.prompt_tokens(texts)
        return {
            "id": f"chatcmpl-{next(self._ids):012x}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": i, **choice} for i in range(body.get("n") or 1)],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": used,
                "total_tokens": prompt + used,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "service_tier": "default",
        }

    def _moderations(self, body: Reply, texts: list[str], fault: Fault) -> Reply:
        results = [rules.moderation_result(text, self.flagged_words) for text in texts]
        model = body.get("model", "omni-moderation-latest")
        return {"id": f"modr-{next(self._ids):012x}", "model": model, "results": results}

    def _models(self, path: str) -> Reply:
        known = [*rules.EMBEDDING_MODELS, *rules.CHAT_MODELS, *rules.MODERATION_MODELS]
        cards = {
            name: {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "openai", "shutdown_date": None}
            for name in known
        }
        wanted = path.removeprefix("/v1/models").removeprefix("/")
        if not wanted:
            return {"object": "list", "data": list(cards.values())}
        if wanted not in cards:
            raise ApiError(404, f"The model '{wanted}' does not exist", param="model", code="model_not_found")
        return cards[wanted]

    async def _stream(self, exchange: "_Exchange", body: Reply, reply: Reply, fault: Fault) -> None:
        """Send the reply as server-sent events: the role, words, the finish reason, the usage if asked for, [DONE]."""
        wants_usage = (body.get("stream_options") or {}).get("include_usage", False)
        head = {**{key: reply[key] for key in ("id", "created", "model") if key in reply}}
        head |= {"object": "chat.completion.chunk", **({"usage": None} if wants_usage else {})}
        await exchange.start(200, "text/event-stream; charset=utf-8")
        for n, choices in enumerate(_deltas(reply)):
            if n == fault.cut_after:
                await exchange.drop()
                return
            if fault.chunk_delay:
                await asyncio.sleep(fault.chunk_delay)
            await exchange.more(b"data: " + msgspec.json.encode({**head, "choices": choices}) + b"\n\n")
        if wants_usage and "usage" in reply:
            last = {**head, "choices": [], "usage": reply["usage"]}
            await exchange.more(b"data: " + msgspec.json.encode(last) + b"\n\n")
        await exchange.more(b"data: [DONE]\n\n", last=True)

    async def _control(self, exchange: "_Exchange") -> None:
        """`/_fake/script` and `/_fake/journal`, for tests that run this as a process."""
        raw = await exchange.body()
        call = (exchange.scope["method"], exchange.scope["path"])
        if call == ("GET", "/_fake/journal"):
            journal = {"totals": self.totals, "requests": [asdict(entry) for entry in list(self.journal)]}
            await exchange.answer(200, msgspec.json.encode(journal))
        elif call == ("DELETE", "/_fake/journal"):
            self.forget()
            await exchange.answer(200, b"{}")
        elif call == ("POST", "/_fake/script"):
            try:
                self._apply(msgspec.json.decode(raw, type=_Script))
            except (msgspec.MsgspecError, ValueError, KeyError) as error:
                await exchange.answer(400, msgspec.json.encode({"error": str(error)}))
            else:
                await exchange.answer(200, b"{}")
        else:
            await exchange.answer(404, b"{}")

    def _apply(self, script: "_Script") -> None:
        if script.reset:
            self.reset()
        if script.latency is not None:
            self.latency = script.latency
        self.flagged_words |= script.flagged_words
        for name, faults in script.faults.items():
            if name not in TWISTS:
                raise ValueError(f"no endpoint {name!r}; there are {sorted(TWISTS)}")
            self.endpoint(name).script(*faults)


class _Script(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /_fake/script`."""

    faults: dict[str, list[Fault]] = {}
    flagged_words: dict[str, str] = {}
    latency: float | None = None
    reset: bool = False


class _Connection(HttpToolsProtocol):
    """Lets an exchange close its connection in the middle of an answer, which ASGI can't say."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"transport": self.transport}  # type: ignore[dict-item]


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.headers: dict[str, str] = {}
        self.sent_headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

    async def body(self) -> bytes:
        parts = []
        while True:
            message = await self._receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)

    async def start(self, status: int, content_type: str, length: int | None = None) -> None:
        headers = {"content-type": content_type, **self.headers}
        if length is not None:
            headers["content-length"] = str(length)
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def more(self, data: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def answer(
        self, status: int, data: bytes, content_type: str = "application/json", *, half: bool = False
    ) -> None:
        await self.start(status, content_type, len(data))
        if not half:
            await self.more(data, last=True)
            return
        await self.more(data[: len(data) // 2])
        await self._close("close")

    async def drop(self) -> None:
        await self._close("abort")

    async def _close(self, how: str) -> None:
        getattr(self.scope["extensions"]["transport"], how)()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _object(raw: bytes) -> Reply:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, "We could not parse the JSON body of your request.")
    return body


def _endpoint_of(path: str) -> str | None:
    routes = {"/v1/embeddings": "embeddings", "/v1/chat/completions": "chat", "/v1/moderations": "moderations"}
    return "models" if path == "/v1/models" or path.startswith("/v1/models/") else routes.get(path)


def _deltas(reply: Reply) -> Iterator[list[Reply]]:
    """The `choices` of each chunk of a streamed reply."""
    for choice in reply["choices"]:
        message, place = choice["message"], {"index": choice["index"], "logprobs": None, "finish_reason": None}
        yield [{**place, "delta": {"role": "assistant", "content": ""}}]
        if message.get("refusal"):
            yield [{**place, "delta": {"refusal": message["refusal"]}}]
        words = (message.get("content") or "").split(" ")
        for i, word in enumerate(words):
            if spoken := word if i == len(words) - 1 else f"{word} ":
                yield [{**place, "delta": {"content": spoken}}]
        if choice["finish_reason"] is not None:
            yield [{**place, "delta": {}, "finish_reason": choice["finish_reason"]}]


@contextmanager
def spawned(*options: str) -> Iterator[str]:
    """Run the stand-in as a process; yields its base URL."""
    command = [sys.executable, "-m", "tests.openai_fake", "--port", "0", *options]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().strip()
            if not base_url:
                raise RuntimeError("the stand-in for OpenAI's API did not start")
            yield base_url
        finally:
            process.send_signal(signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for OpenAI's API; prints its base URL")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default=DEFAULT_KEY)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--compatible", action="store_true", help="behave like a server of another maker")
    given = parser.parse_args()
    fake = OpenAIFake(
        key=given.key, latency=given.latency_ms / 1000, compatible=given.compatible, port=given.port
    )  # fmt: skip
    print(fake.base_url, flush=True)  # noqa: T201
    with suppress(KeyboardInterrupt):
        fake.serve()


if __name__ == "__main__":
    main()
