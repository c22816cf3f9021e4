"""The two rewriters: one asks a model once, one asks nobody."""

import asyncio
import json

import pytest

from ragsvc.protocols import QueryRewriter
from ragsvc.rewriting import REWRITE_TOKENS, ChatRewriter, JoiningRewriter
from ragsvc.types import Prompt, Question
from tests.ragsvc.followup_cases import turns
from tests.ragsvc.parts import ScriptedChat, count

QUESTION = Question("And how do I undo that?", history=turns("How do I close the red valve?", "Turn it clockwise [1]."))
JOINED = "How do I close the red valve? And how do I undo that?"


class _Limited(ScriptedChat):
    """Writes down how many tokens it was given."""

    async def complete(self, prompt: Prompt, max_tokens: int):  # type: ignore[no-untyped-def]
        self.given = max_tokens
        return await super().complete(prompt, max_tokens)


def test_without_a_model_the_turns_are_joined_for_nothing() -> None:
    """The query is the joined one, and there is no reply to pay for."""
    rewriter: QueryRewriter = JoiningRewriter()
    rewritten = asyncio.run(rewriter.rewrite(QUESTION))
    assert (rewritten.query, rewritten.reply) == (JOINED, None)


def test_a_model_is_asked_once_with_few_tokens() -> None:
    """The prompt holds the conversation, no passage, and an estimate of its own size for servers that tell none."""
    chat = _Limited("Query: How is the red valve opened?")
    rewriter: QueryRewriter = ChatRewriter(chat, count)
    rewritten = asyncio.run(rewriter.rewrite(QUESTION))
    assert (rewritten.query, rewritten.reply) == ("How is the red valve opened?", chat.reply)
    [prompt] = chat.prompts
    assert prompt.passages == ()
    assert prompt.tokens >= sum(count(message.content) for message in prompt.messages)
    assert json.loads(prompt.messages[1].content)["last_question"] == QUESTION.text
    assert chat.given == REWRITE_TOKENS


@pytest.mark.parametrize(
    ("said", "finish", "refusal"), [("", "length", None), ("", "stop", "No."), ("x", "stop", None)]
)
def test_a_reply_that_can_not_be_used_is_paid_and_replaced(said: str, finish: str, refusal: str | None) -> None:
    """Cut off in hidden reasoning, refused, or nonsense: the joined query, and the reply for its price."""
    chat = ScriptedChat(said, finish, refusal)
    rewritten = asyncio.run(ChatRewriter(chat, count).rewrite(QUESTION))
    assert (rewritten.query, rewritten.reply) == (JOINED, chat.reply)
