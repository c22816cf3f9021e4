"""One suite for every Embedder, ChatModel and Moderator: each implementation is a row, compared by value.

A row is an async context manager that is given a running stand-in for OpenAI's API (local ones do not need it) and
yields the implementation. To add one, write its function and name it in EMBEDDERS, CHATS or MODERATORS.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest

from indexes.types import EmbeddingSpec, Hit, LegScore
from ingest.protocols import Embedder
from ragsvc.governor import GovernedChat, GovernedEmbedder, GovernedModerator, Governor
from ragsvc.protocols import ChatModel, Moderator
from ragsvc.providers.openai import OpenAIProvider
from ragsvc.types import NOT_IN_DOCUMENTS, Message, Passage, Prompt
from tests.openai_fake import OpenAIFake

T = TypeVar("T")
Row = Callable[[OpenAIFake], AbstractAsyncContextManager[T]]


@asynccontextmanager
async def openai_provider() -> AsyncIterator[OpenAIProvider]:
    provider = OpenAIProvider()
    try:
        yield provider
    finally:
        await provider.aclose()


def openai_embedder(model: str, dimensions: int) -> Row[Embedder]:
    @asynccontextmanager
    async def row(fake: OpenAIFake) -> AsyncIterator[Embedder]:
        async with openai_provider() as provider:
            yield provider.embedder(EmbeddingSpec(model, dimensions), fake.base_url, fake.key)

    return row


@asynccontextmanager
async def governed_embedder(fake: OpenAIFake) -> AsyncIterator[Embedder]:
    async with openai_embedder("text-embedding-3-small", 1536)(fake) as inner:
        yield GovernedEmbedder(inner, Governor(), "ingest")


@asynccontextmanager
async def openai_chat(fake: OpenAIFake) -> AsyncIterator[ChatModel]:
    async with openai_provider() as provider:
        yield provider.chat("gpt-6-luna", fake.base_url, fake.key, "openai")


@asynccontextmanager
async def governed_chat(fake: OpenAIFake) -> AsyncIterator[ChatModel]:
    async with openai_chat(fake) as inner:
        yield GovernedChat(inner, Governor())


@asynccontextmanager
async def openai_moderator(fake: OpenAIFake) -> AsyncIterator[Moderator]:
    async with openai_provider() as provider:
        yield provider.moderator("omni-moderation-latest", fake.base_url, fake.key)


@asynccontextmanager
async def governed_moderator(fake: OpenAIFake) -> AsyncIterator[Moderator]:
    async with openai_moderator(fake) as inner:
        yield GovernedModerator(inner, Governor())


@dataclass(frozen=True)
class ModeratorRow:
    """A moderator, and a text that it must flag, with the category."""

    make: Row[Moderator]
    bad_text: str
    category: str


EMBEDDERS: dict[str, Row[Embedder]] = {
    "openai-small": openai_embedder("text-embedding-3-small", 1536),
    "openai-large-256": openai_embedder("text-embedding-3-large", 256),
    "openai-ada": openai_embedder("text-embedding-ada-002", 1536),
    "governed": governed_embedder,
}
CHATS: dict[str, Row[ChatModel]] = {"openai": openai_chat, "governed": governed_chat}
MODERATORS: dict[str, ModeratorRow] = {
    "openai": ModeratorRow(openai_moderator, "FLAGME-violence", "violence"),
    "governed": ModeratorRow(governed_moderator, "FLAGME-hate/threatening", "hate/threatening"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIFake]:
    with OpenAIFake() as fake:
        yield fake


@pytest.fixture
def fake(running: OpenAIFake) -> OpenAIFake:
    running.reset()
    return running


def use(row: Row[Any], fake: OpenAIFake, work: Callable[[Any], Awaitable[T]]) -> T:
    async def inner() -> T:
        async with row(fake) as made:
            return await work(made)

    return asyncio.run(inner())


# Embedders

TEXTS = [
    "The database password is read from the environment at start.",
    "Bake the bread for thirty minutes at 230 degrees.",
    "Penguins live in the southern hemisphere.",
    "<|endoftext|> is ordinary text, and so is 👩‍👩‍👧‍👦.",
    "数据库的密码从环境变量读取。",
    "a\x00b",
    "x",
]


@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors_are_unit_rows_in_the_order_of_the_texts(fake: OpenAIFake, name: str) -> None:
    """A batch gives each text the vector that the text has alone: float32, of length 1, in place."""

    async def work(embedder: Embedder) -> None:
        batch = await embedder.embed_documents(TEXTS)
        assert batch.vectors.dtype == np.float32
        assert batch.vectors.shape == (len(TEXTS), embedder.spec.dimensions)
        assert np.abs(np.linalg.norm(batch.vectors.astype(np.float64), axis=1) - 1).max() < 1e-5
        singles = np.concatenate([(await embedder.embed_documents([text])).vectors for text in TEXTS])
        likeness = batch.vectors @ singles.T
        assert np.diag(likeness).min() > 0.9999
        assert (likeness.argmax(axis=1) == np.arange(len(TEXTS))).all()
        backwards = (await embedder.embed_documents(TEXTS[::-1])).vectors[::-1]
        assert (batch.vectors * backwards).sum(axis=1).min() > 0.9999

    use(EMBEDDERS[name], fake, work)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_same_text_has_the_same_vector(fake: OpenAIFake, name: str) -> None:
    """Twice in one batch and again later: one vector."""

    async def work(embedder: Embedder) -> None:
        first = (await embedder.embed_documents([TEXTS[0], TEXTS[1], TEXTS[0]])).vectors
        again = (await embedder.embed_documents([TEXTS[0]])).vectors
        assert np.allclose(first[0], first[2], atol=1e-6)
        assert np.allclose(first[0], again[0], atol=1e-5)
        assert not np.allclose(first[0], first[1], atol=0.1)

    use(EMBEDDERS[name], fake, work)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_query_finds_the_text_that_answers_it(fake: OpenAIFake, name: str) -> None:
    """Queries and documents share a space: the nearest document is the one about the query."""

    async def work(embedder: Embedder) -> None:
        documents = (await embedder.embed_documents(TEXTS[:3])).vectors
        for place, query in enumerate(
            ["Where is the database password read?", "How long do I bake bread?", "Where do penguins live?"]
        ):
            asked = await embedder.embed_query(query)
            assert asked.vectors.shape == (1, embedder.spec.dimensions)
            assert (documents @ asked.vectors[0]).argmax() == place

    use(EMBEDDERS[name], fake, work)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_tokens_are_counted(fake: OpenAIFake, name: str) -> None:
    """Tokens are above zero, grow with the text, and a batch pays what its texts pay."""

    async def work(embedder: Embedder) -> None:
        singles = [(await embedder.embed_documents([text])).tokens for text in TEXTS[:3]]
        assert min(singles) > 3
        assert (await embedder.embed_documents(TEXTS[:3])).tokens == sum(singles)
        assert (await embedder.embed_documents([TEXTS[0] * 5])).tokens > 3 * singles[0]
        assert (await embedder.embed_query(TEXTS[0])).tokens > 3

    use(EMBEDDERS[name], fake, work)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_limits_make_sense(fake: OpenAIFake, name: str) -> None:
    """A call carries at least one whole input of the spec's size; no texts are no rows and no tokens."""

    async def work(embedder: Embedder) -> None:
        limits = embedder.limits
        assert limits.inputs >= 1
        assert 1 <= limits.tokens_per_input <= embedder.spec.input_limit
        assert limits.tokens >= limits.tokens_per_input
        none = await embedder.embed_documents([])
        assert none.vectors.shape == (0, embedder.spec.dimensions)
        assert none.tokens == 0

    use(EMBEDDERS[name], fake, work)


# Chats


def prompt(question: str, *texts: str) -> Prompt:
    """Return a prompt like the service's: instructions, numbered passages fenced as data, the question."""
    passages = tuple(Passage(number, hit(number, text)) for number, text in enumerate(texts, 1))
    shown = "\n\n".join(f'<passage n="{p.number}" path="{p.hit.path}">\n{p.hit.text}\n</passage>' for p in passages)
    messages = (
        Message("system", f"Answer from the passages, cite [n], else begin with the line {NOT_IN_DOCUMENTS}."),
        Message("user", f"{shown}\n\nQuestion: {question}"),
    )
    weights = dict.fromkeys(re.findall(r"\w+", question.lower()), 2.0)
    return Prompt(question, passages, messages, tokens=200, term_weights=weights)


def hit(number: int, text: str) -> Hit:
    return Hit(
        rank=number, score=0.5, document_id=f"doc_{number}", version=1, path=f"{number}.md", title="",
        heading_path=(), page=None, start=0, end=len(text), text=text, dense=LegScore(number, 0.3),
        lexical=LegScore(number, 3.0), also=(),
    )  # fmt: skip


PASSAGES = (
    "Penguins live in the southern hemisphere. They eat fish.",
    "Every server needs a key. Set DATABASE_URL before the first start of the server. Then run it.",
)


@pytest.mark.parametrize("name", CHATS)
def test_an_answer_carries_the_marker_of_its_passage(fake: OpenAIFake, name: str) -> None:
    """The reply stands on the passage that holds the answer, and on no passage that was not given."""

    async def work(chat: ChatModel) -> None:
        reply = await chat.complete(prompt("What must be set before the first start of the server?", *PASSAGES), 500)
        assert "DATABASE_URL" in reply.text
        assert {int(n) for n in re.findall(r"\[(\d+)\]", reply.text)} == {2}
        assert (reply.finish_reason, reply.refusal) == ("stop", None)
        assert reply.model
        assert reply.prompt_tokens >= 0
        assert reply.completion_tokens >= 0
        assert chat.model
        assert chat.provider in ("openai", "local")

    use(CHATS[name], fake, work)


@pytest.mark.parametrize("name", CHATS)
def test_silence_when_the_passages_do_not_hold_the_answer(fake: OpenAIFake, name: str) -> None:
    """The reply begins with the line NOT_IN_DOCUMENTS."""

    async def work(chat: ChatModel) -> None:
        reply = await chat.complete(prompt("Who painted the ceiling of the Sistine Chapel?", *PASSAGES), 500)
        assert reply.text.splitlines()[0].strip() == NOT_IN_DOCUMENTS

    use(CHATS[name], fake, work)


# Moderators


@pytest.mark.parametrize("name", MODERATORS)
def test_one_verdict_for_each_text_in_order(fake: OpenAIFake, name: str) -> None:
    """Equal texts, an empty one and a flagged one each have their own verdict, at their place."""
    row = MODERATORS[name]

    async def work(moderator: Moderator) -> None:
        texts = ["Kill the process, then restart the server.", row.bad_text, "", "Hello.", row.bad_text]
        got = await moderator.check(texts)
        assert [verdict.flagged for verdict in got.verdicts] == [False, True, False, False, True]
        for text, verdict in zip(texts, got.verdicts, strict=True):
            assert verdict.categories == ((row.category,) if text == row.bad_text else ())
        assert got.model
        assert moderator.model
        assert (await moderator.check([])).verdicts == ()

    use(row.make, fake, work)
