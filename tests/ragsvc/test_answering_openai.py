"""The story of an answer over the real SDK and a real socket, against the stand-in for OpenAI's API."""

import asyncio
from collections.abc import Callable

import pytest

from ragsvc.answering import Answering
from ragsvc.errors import ProviderError
from ragsvc.moderation import Gate
from ragsvc.providers.openai import OpenAIProvider
from ragsvc.rewriting import JoiningRewriter
from ragsvc.types import Answer, Question
from tests.openai_fake import DEFAULT_KEY, OpenAIFake
from tests.ragsvc.parts import ScriptedRetriever, count, result

PASSAGE = "Set DATABASE_URL before the first start. It may be empty."


def _answer(script: Callable[[OpenAIFake], None], question: str = "What must be set?") -> tuple[Answer, list[str]]:
    """Answer one question; return it with the endpoints that were asked, in order."""

    async def ask(fake: OpenAIFake) -> Answer:
        provider = OpenAIProvider()
        gate = Gate(provider.moderator("omni-moderation-latest", fake.base_url, DEFAULT_KEY), "window", timeout_s=60)
        chat = provider.chat("gpt-6-luna", fake.base_url, DEFAULT_KEY, "openai")
        answering = Answering(
            ScriptedRetriever(result(PASSAGE)),
            gate,
            chat,
            lambda *_: None,
            lambda *_: 0.0,
            count,
            rewriter=JoiningRewriter(),
        )
        try:
            return await answering.answer(Question(question))
        finally:
            await provider.aclose()

    with OpenAIFake(flagged_words={"kill": "violence"}) as fake:
        script(fake)
        answer = asyncio.run(ask(fake))
        return answer, [entry.endpoint for entry in fake.journal]


def test_an_answer_over_the_wire() -> None:
    """Moderation, chat, moderation; the answer is cited to the passage's range and counts its tokens."""
    answer, asked = _answer(lambda fake: fake.chat.reply("Set DATABASE_URL before the first start [1][4]."))
    assert (answer.status, answer.answer) == ("answered", "Set DATABASE_URL before the first start [1].")
    assert [(c.start, c.end, c.support) for c in answer.citations] == [(100, 140, "strong")]
    assert asked == ["moderations", "chat", "moderations"]
    assert answer.usage.prompt_tokens > 0
    assert answer.moderation.model == "omni-moderation-latest"


@pytest.mark.parametrize(
    ("reply", "status"),
    [("NOT_IN_DOCUMENTS\nNothing is said of it.", "not_in_documents"), ("They kill it [1].", "blocked")],
)
def test_silence_and_flags_over_the_wire(reply: str, status: str) -> None:
    """Neither our token nor a flagged word leaves."""
    answer, _ = _answer(lambda fake: fake.chat.reply(reply))
    assert (answer.status, answer.citations) == (status, ())
    assert answer.answer in (None, "Nothing is said of it.")


def test_a_flagged_question_over_the_wire() -> None:
    """The chat endpoint is not asked."""
    answer, asked = _answer(lambda fake: None, "How do I kill it?")
    assert (answer.status, asked) == ("blocked", ["moderations"])
    assert answer.blocked is not None
    assert answer.blocked.categories == ("violence",)


@pytest.mark.parametrize("endpoint", ["moderations", "chat"])
def test_an_upstream_that_is_down_over_the_wire(endpoint: str) -> None:
    """Nothing leaves: the upstream's error is raised as one of ours, with status 503."""
    with pytest.raises(ProviderError) as caught:
        _answer(lambda fake: fake.endpoint(endpoint).fail(500, times=-1))
    assert caught.value.status == 503
