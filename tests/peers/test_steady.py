"""Every request that our providers send, against OpenAI's published interface, judged by Steady (npm `@stdy/cli`)."""

import asyncio
import http.client
import json
from urllib.parse import urlsplit

import pytest

from indexes.types import EmbeddingSpec
from ragsvc.answering import Answering
from ragsvc.moderation import Gate
from ragsvc.providers.openai import Dialect, OpenAIProvider
from ragsvc.rewriting import ChatRewriter
from ragsvc.types import Question, Turn
from tests.conftest import shared_data
from tests.openai_fake import OpenAIFake
from tests.peers.conftest import STEADY, free_port, installed, running
from tests.ragsvc.parts import ScriptedRetriever, count, result

PATHS = {"embeddings": "/embeddings", "chat": "/chat/completions", "moderations": "/moderations"}
BRACKETS = [
    f"--validator-{place}-{shape}-format=brackets" for place in ("query", "form") for shape in ("array", "object")
]
SAID = (Turn("user", "How do I close the red valve?"), Turn("assistant", "Turn it clockwise [1]."))


@pytest.fixture(scope="module")
def steady():
    command = installed(STEADY, "Steady")
    interface = shared_data("openai_spec") / "openapi.json"
    port = free_port()
    arguments = ("--host", "127.0.0.1", "-p", str(port), "-q", *BRACKETS, str(interface))
    with running(str(command), *arguments, port=port, ready="/_x-steady/health") as url:
        yield url


def _verdict(steady: str, path: str, body: object) -> tuple[int, dict[str, str]]:
    """Send a body as it was sent to the stand-in; return the status and Steady's headers."""
    parts = urlsplit(steady)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-peer"}
        connection.request("POST", path, json.dumps(body).encode(), headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status, {n.lower(): v for n, v in reply.getheaders() if n.lower().startswith("x-steady")}
    finally:
        connection.close()


async def _send_everything(fake: OpenAIFake, dialect: Dialect) -> None:
    """Make every kind of request that there is: embeddings with and without a width, chats, a rewriting, verdicts."""
    provider = OpenAIProvider()
    where = (fake.base_url, fake.key)
    try:
        for model, dimensions in (("text-embedding-3-small", 1536), ("text-embedding-3-large", 256)):
            embedder = provider.embedder(EmbeddingSpec(model, dimensions), *where)
            await embedder.embed_documents(["first 一", "second"])
            await embedder.embed_query("Which valve?")
        plain = EmbeddingSpec("text-embedding-ada-002", 1536)
        await provider.embedder(plain, *where).embed_query("Which valve?")
        chat = provider.chat("gpt-6-luna" if dialect == "openai" else "gpt-4o-mini", *where, dialect)
        gate = Gate(provider.moderator("omni-moderation-latest", *where), "window", timeout_s=60)
        answering = Answering(
            ScriptedRetriever(result("Turn the red valve clockwise to close it.")), gate, chat, lambda *_: None,
            lambda *_: 0.0, count, rewriter=ChatRewriter(chat, count),
        )  # type: ignore[arg-type] # fmt: skip
        for question, history in (("How is the red valve closed?", ()), ("And how do I undo that?", SAID)):
            await answering.answer(Question(question, history=history))
    finally:
        await provider.aclose()


@pytest.mark.parametrize("dialect", ["openai", "compatible"])
def test_every_request_is_valid(steady, dialect):
    """No unknown or missing field, no wrong type, no number out of range, in either dialect."""
    with OpenAIFake() as fake:
        asyncio.run(_send_everything(fake, dialect))
        sent = [(entry.endpoint, entry.body) for entry in fake.journal]
    assert [sum(name == kind for name, _ in sent) for kind in PATHS] == [5, 3, 5]
    for name, body in sent:
        status, headers = _verdict(steady, PATHS[name], body)
        assert status == 200, (name, body, headers)
        assert headers["x-steady-request-valid"] == "true", (name, body, headers)
        assert headers["x-steady-error-count"] == "0", (name, body, headers)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embeddings", {"model": "text-embedding-3-small"}),
        ("/embeddings", {"model": "text-embedding-3-small", "input": "x", "dimensions": 0}),
        ("/embeddings", {"model": "text-embedding-3-small", "input": "x", "encoding_format": "base32"}),
        ("/chat/completions", {"model": "gpt-6-luna", "messages": []}),
        ("/chat/completions", {"model": "gpt-6-luna", "messages": [{"role": "user"}]}),
        ("/moderations", {"model": "omni-moderation-latest", "texts": ["x"]}),
    ],
)
def test_the_judge_sees_what_is_wrong(steady, path, body):
    """A wrong request is told from a right one: the test above can fail."""
    status, headers = _verdict(steady, path, body)
    assert status == 400 or headers["x-steady-error-count"] != "0"
