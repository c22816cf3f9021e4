"""The story of one answer, from the question to what leaves."""

import asyncio
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragsvc.answering import Answering, events, house_sentence, read_reply
from ragsvc.errors import EmbeddingUnavailable, RateLimited, UpstreamMalformed
from ragsvc.moderation import Gate
from ragsvc.providers.local_chat import LocalChat
from ragsvc.rewriting import ChatRewriter, JoiningRewriter
from ragsvc.types import (
    NOT_IN_DOCUMENTS,
    Answer,
    Blocked,
    BlockedEvent,
    ChatReply,
    CitationsEvent,
    DoneEvent,
    MetaEvent,
    Question,
    TextEvent,
    Turn,
)
from tests.ragsvc.parts import ScriptedChat, ScriptedModerator, ScriptedRetriever, count, passages, result, texts

PASSAGE = "Set DATABASE_URL before the first start. It may be empty."
REPLY = "Set DATABASE_URL before the first start [1]."


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def _stored(document_id: str, version: int, start: int, end: int) -> str | None:
    """What a store with PASSAGE in it returns for the hits of these tests, which begin at 100; other texts are gone."""
    return ("·" * 100 + PASSAGE)[start:end] if document_id == "doc_1" else None


def _answer(
    chat: object,
    moderator: ScriptedModerator | None = None,
    retriever: ScriptedRetriever | None = None,
    question: Question | None = None,
    price: float | None = 0.25,
    rewriter: object = None,
) -> Answer:
    gate = Gate(moderator or ScriptedModerator(), "window")
    retriever = retriever or ScriptedRetriever(result(PASSAGE))
    answering = Answering(
        retriever,
        gate,
        chat,
        _stored,
        lambda model, sent, received: price,
        count,
        _Clock(),
        rewriter=rewriter or JoiningRewriter(),
    )  # type: ignore[arg-type]
    return asyncio.run(answering.answer(question or Question("What must be set?")))


def test_an_answer_is_cited_and_judged() -> None:
    """Every field of the contract's answer comes from the part that knows it."""
    moderator = ScriptedModerator()
    answer = _answer(ScriptedChat(REPLY), moderator)
    assert (answer.status, answer.answer, answer.blocked) == ("answered", REPLY, None)
    (citation,) = answer.citations
    assert (citation.marker, citation.support, citation.start) == (1, "strong", 100)
    assert citation.quote == "Set DATABASE_URL before the first start."
    assert (answer.model, answer.provider, answer.generation) == ("scripted-chat-2026", "openai", 7)
    assert (answer.moderation.model, answer.moderation.mode) == ("scripted-moderator", "window")
    assert answer.moderation.checks == sum(map(len, moderator.requests)) == 2
    assert answer.moderation.covered == len(REPLY)
    assert (answer.usage.embedding_tokens, answer.usage.prompt_tokens, answer.usage.cost_usd) == (9, 1000, 0.5)
    assert answer.id.startswith("ans_")
    assert set(answer.timings_ms) == {"moderate", "retrieve", "chat", "total"}
    assert answer.timings_ms["total"] >= answer.timings_ms["chat"] > 0


@pytest.mark.parametrize(("stored", "kept"), [(PASSAGE[:40], 1), (None, 1), ("Another text.", 0), ("", 0)])
def test_a_citation_is_compared_with_the_stored_text(stored: str | None, kept: int) -> None:
    """A quote that is not the stored text is not sent; a version that is gone stands by the search's snapshot."""
    gate = Gate(ScriptedModerator(), "window")
    answering = Answering(
        ScriptedRetriever(result(PASSAGE)),
        gate,
        ScriptedChat(REPLY),
        lambda *_: stored,
        lambda *_: 0.0,
        count,
        rewriter=JoiningRewriter(),
    )  # type: ignore[arg-type]
    answer = asyncio.run(answering.answer(Question("What must be set?")))
    assert (answer.answer, len(answer.citations)) == (REPLY, kept)


@pytest.mark.parametrize(
    ("said", "refusal", "reason"),
    [
        ("NOT_IN_DOCU[99]MENTS secret word [1].", None, "stop"),
        ("Yes [1]. NOT_IN_[3]DOCUMENTS", None, "stop"),
        ("NOT_IN_DOCUMENTS\nNOT_IN_DOCU[7]MENTS", None, "stop"),
        ("", "NOT_IN_[3]DOCUMENTS sorry", "stop"),
        ("NOT\\_IN\\_DOC", None, "length"),
        ("not_in_doc", None, "length"),
        ("> NOT_IN_DOC", None, "length"),
        ("**NOT_IN_DOCUMENT", None, "length"),
    ],
)
def test_the_token_does_not_leave_in_pieces(said: str, refusal: str | None, reason: str) -> None:
    """Neither joined by a marker that is removed, nor cut off, nor in other spellings."""
    reply = ChatReply(said, reason, refusal, "m", 1, 1)  # type: ignore[arg-type]
    text = read_reply(reply, passages(PASSAGE), "What?").text.replace("\\", "").upper()
    assert NOT_IN_DOCUMENTS not in text
    assert "NOT_IN_DOC" not in text


def test_an_unknown_price_makes_the_cost_unknown() -> None:
    """A part without a price is not counted as free; where nothing was paid for the cost is 0."""
    assert _answer(ScriptedChat(REPLY), price=None).usage.cost_usd is None
    blocked = _answer(
        ScriptedChat(REPLY), ScriptedModerator("What"), ScriptedRetriever(result(), seconds=30), price=None
    )
    assert blocked.usage.cost_usd == 0.0


def test_a_flagged_question_never_reaches_the_chat() -> None:
    """It is blocked, its search is cancelled, and the history is judged with it."""
    for question in (Question("a bad one"), Question("fine", history=(Turn("user", "a bad one"),))):
        chat = ScriptedChat(REPLY)
        retriever = ScriptedRetriever(result(PASSAGE), seconds=30)
        answer = _answer(chat, ScriptedModerator("bad", seconds=0.01), retriever, question)
        assert (answer.status, answer.answer, answer.citations) == ("blocked", None, ())
        assert answer.blocked == Blocked("question", ("bad",))
        assert (chat.prompts, retriever.finished, answer.generation) == ([], 0, 0)


def test_a_search_that_was_paid_for_is_counted_in_a_blocked_answer() -> None:
    """The query's embedding runs beside the moderation: when it is done first, its tokens are in the usage."""
    answer = _answer(ScriptedChat(REPLY), ScriptedModerator("What", seconds=0.05))
    assert (answer.status, answer.usage.embedding_tokens) == ("blocked", 9)


def test_moderation_and_search_run_side_by_side() -> None:
    """The search begins before the moderator has answered."""
    order: list[str] = []

    class Ordered(ScriptedModerator):
        async def check(self, texts):  # type: ignore[no-untyped-def]
            verdict = await super().check(texts)
            order.append("judged")
            return verdict

    _answer(
        ScriptedChat(REPLY), Ordered(seconds=0.01), ScriptedRetriever(result(PASSAGE), lambda: order.append("search"))
    )
    assert order[:2] == ["search", "judged"]


def test_a_flagged_answer_does_not_leave() -> None:
    """Neither its text nor its citations."""
    answer = _answer(ScriptedChat(REPLY), ScriptedModerator("DATABASE_URL"))
    assert (answer.status, answer.answer, answer.citations) == ("blocked", None, ())
    assert answer.blocked == Blocked("answer", ("DATABASE_URL",))
    assert answer.moderation.covered == 0
    assert "DATABASE" not in str([answer.answer, answer.citations])


def test_what_leaves_is_what_was_judged() -> None:
    """Markers and our token are removed before the judgement, so that no removal makes a word that nobody judged."""
    answer = _answer(ScriptedChat("It ki[9]lls, it mai[8]ms [1]."), ScriptedModerator("kills"))
    assert answer.status == "blocked"
    answer = _answer(ScriptedChat(f"It ki{NOT_IN_DOCUMENTS}lls [1]."), ScriptedModerator("kills"))
    assert answer.status == "blocked"


@pytest.mark.parametrize("failing", ["moderator", "retriever"])
def test_a_failing_part_fails_the_answer(failing: str) -> None:
    """An upstream's error is raised as it is; the chat is not asked."""
    chat = ScriptedChat(REPLY)
    moderator, retriever = ScriptedModerator(), ScriptedRetriever(result(PASSAGE))
    expected: type[Exception] = RateLimited
    if failing == "moderator":
        moderator = ScriptedModerator(failure=RateLimited("slow down"))
    else:
        expected = EmbeddingUnavailable

        def fail() -> None:
            raise EmbeddingUnavailable("no embedder")

        retriever = ScriptedRetriever(result(PASSAGE), fail)
    with pytest.raises(expected):
        _answer(chat, moderator, retriever)
    assert chat.prompts == []


def test_without_hits_no_chat_is_asked() -> None:
    """The documents do not hold the answer, said in one sentence of ours, judged like any other text."""
    chat = ScriptedChat(REPLY)
    moderator = ScriptedModerator()
    answer = _answer(chat, moderator, ScriptedRetriever(result()))
    assert (answer.status, answer.answer, answer.citations) == ("not_in_documents", house_sentence("?"), ())
    assert chat.prompts == []
    assert moderator.requests[-1] == (house_sentence("?"),)
    chinese = _answer(chat, None, ScriptedRetriever(result()), Question("谁写了这本书？"))
    assert chinese.answer == house_sentence("谁写了这本书？") != house_sentence("Who?") == house_sentence("だれの本？")


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("NOT_IN_DOCUMENTS", None),
        ("\n NOT_IN_DOCUMENTS\n", None),
        ('"NOT_IN_DOCUMENTS".', None),
        ("**NOT_IN_DOCUMENTS**\n\nThe price is missing [1].", "The price is missing."),
        ("NOT_IN_DOCUMENTS: the price is missing.", "the price is missing."),
        ("`NOT\\_IN\\_DOCUMENTS`\nNOT_IN_DOCUMENTS twice", "twice"),
        ("not_in_documents — 没有。", "没有。"),
    ],
)
def test_silence_is_understood(reply: str, rest: str | None) -> None:
    """However the model dresses the token: no citations, the rest of the reply or our own sentence, no token."""
    answer = _answer(ScriptedChat(reply))
    assert (answer.status, answer.citations) == ("not_in_documents", ())
    assert answer.answer == (rest or house_sentence("?"))


@given(
    texts("NOT_IN_DOCUMENTS", "NOT_IN_", "DOCUMENTS", "not_in_documents", "NOT\\_IN", "[1]"),
    st.sampled_from(["stop", "length"]),
)
@example("x NOT_NOT_IN_DOCUMENTSIN_DOCUMENTS", "stop")
def test_the_token_never_leaves(text: str, finish: str) -> None:
    """Wherever it stands, also where a removal would put it together again."""
    reply = ChatReply(text, finish, None, "m", 1, 1)  # type: ignore[arg-type]
    try:
        draft = read_reply(reply, passages(PASSAGE), "Where?")
    except UpstreamMalformed:
        assert not text.strip()
        assert finish == "stop"
        return
    assert not re.search(r"NOT\\?_IN\\?_DOCUMENTS", draft.text, re.IGNORECASE)
    assert draft.text.strip() or draft.status == "incomplete"


def test_a_content_filter_is_the_providers_block() -> None:
    """What came before the filter does not leave."""
    answer = _answer(ScriptedChat("Half an ans", "content_filter"))
    assert (answer.status, answer.answer, answer.blocked) == ("blocked", None, Blocked("answer", ("provider",)))


def test_a_refusal_is_judged_and_cites_nothing() -> None:
    """The model's refusal is shown; a flagged one is blocked like any text."""
    answer = _answer(ScriptedChat("", refusal="I can't help with that [1]."))
    assert (answer.status, answer.answer, answer.citations) == ("refused", "I can't help with that.", ())
    assert _answer(ScriptedChat("", refusal="No, bad."), ScriptedModerator("bad")).status == "blocked"


@pytest.mark.parametrize("finish", ["length", "incomplete"])
def test_a_cut_off_answer_is_incomplete(finish: str) -> None:
    """What is there is judged, cited and shown; of a token that was cut off nothing is shown."""
    answer = _answer(ScriptedChat(f"{REPLY} It", finish))
    assert (answer.status, answer.answer, len(answer.citations)) == ("incomplete", f"{REPLY} It", 1)
    for text in ("", "NOT_IN_DOC"):
        answer = _answer(ScriptedChat(text, finish))
        assert (answer.status, answer.answer, answer.citations) == ("incomplete", "", ())


def test_an_empty_answer_makes_no_sense() -> None:
    """A model that says it is done and said nothing failed; that is an upstream error, not an answer."""
    with pytest.raises(UpstreamMalformed, match="empty"):
        _answer(ScriptedChat(" \n"))


def test_broken_characters_are_mended() -> None:
    """Surrogates, which no UTF-8 body can carry, are joined or replaced; NUL is a character like others."""
    answer = _answer(ScriptedChat("\ud83d\ude00 \ud83d x\x00 [1]"))
    assert answer.answer == "😀 \ufffd x\x00 [1]"
    answer.answer.encode()


def test_moderation_off_is_said_in_the_answer() -> None:
    """No judge, no checks, nothing covered."""
    answering = Answering(
        ScriptedRetriever(result(PASSAGE)),
        Gate(None, "off"),
        ScriptedChat(REPLY),
        _stored,
        lambda *_: 0.0,
        count,
        rewriter=JoiningRewriter(),
    )  # type: ignore[arg-type]
    answer = asyncio.run(answering.answer(Question("What?")))
    summary = answer.moderation
    assert (summary.model, summary.mode, summary.checks, summary.covered) == (None, "off", 0, 0)
    assert answer.answer == REPLY


def test_the_local_chat_answers_without_a_model() -> None:
    """The same course with the local chat: a quote with its citation, for nothing; or that it is not there."""
    question = Question("Which variable must be set before the first start, DATABASE_URL?")
    answer = _answer(LocalChat(), question=question)
    assert (answer.status, answer.provider, answer.model) == ("answered", "local", "extractive")
    assert (answer.answer, answer.citations[0].quote) == (f"{PASSAGE[:40]} [1]", PASSAGE[:40])
    other = _answer(LocalChat(), question=Question("How do I bake sourdough bread?"))
    assert (other.status, other.citations) == ("not_in_documents", ())


def test_events_come_in_the_contracts_order() -> None:
    """meta, text, citations, done; a blocked answer: meta, blocked; an empty one has no text event."""
    answer = _answer(ScriptedChat(REPLY))
    meta, text, citations, done = events(answer)
    assert meta == MetaEvent(answer.id, "default", 7, "scripted-chat-2026")
    assert text == TextEvent(REPLY, len(REPLY))
    assert citations == CitationsEvent(answer.citations)
    assert done == DoneEvent("answered", answer.usage, answer.moderation, answer.timings_ms)
    blocked = _answer(ScriptedChat(REPLY), ScriptedModerator("first"))
    assert list(events(blocked))[1:] == [BlockedEvent("answer", ("first",), 0)]
    empty = list(events(_answer(ScriptedChat("", "length"))))
    assert [type(event) for event in empty] == [MetaEvent, CitationsEvent, DoneEvent]


CONVERSATION = (Turn("user", "How do I start it with Docker?"), Turn("assistant", "Set `DATABASE_URL` first [1]."))
FOLLOW_UP = Question("And how do I undo that?", history=CONVERSATION)
REWRITTEN = "How do I undo DATABASE_URL with Docker?"


def test_a_follow_up_is_searched_for_by_its_rewriting() -> None:
    """The query goes to the search and into the answer; the prompt has the user's own words; both calls are paid."""
    rewriting, chat, retriever = ScriptedChat(REWRITTEN), ScriptedChat(REPLY), ScriptedRetriever(result(PASSAGE))
    answer = _answer(chat, None, retriever, FOLLOW_UP, rewriter=ChatRewriter(rewriting, count))
    assert (retriever.queries, answer.search_query) == ([REWRITTEN], REWRITTEN)
    (prompt,) = chat.prompts
    assert (prompt.question, prompt.query) == (FOLLOW_UP.text, REWRITTEN)
    assert [message.content for message in prompt.messages[1:3]] == [turn.content for turn in CONVERSATION]
    assert FOLLOW_UP.text in prompt.messages[-1].content
    assert REWRITTEN not in "".join(message.content for message in prompt.messages)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.cost_usd) == (2000, 100, 0.75)
    assert answer.moderation.checks == 5  # the question and two turns, the query, the answer
    assert list(answer.timings_ms) == ["moderate", "rewrite", "retrieve", "chat", "total"]
    assert next(events(answer)) == MetaEvent(answer.id, "default", 7, "scripted-chat-2026", REWRITTEN)


def test_a_question_that_stands_alone_is_not_rewritten() -> None:
    """With or without history it goes to the search as it stands, beside its moderation; no model rewrites it."""
    rewriting, retriever = ScriptedChat(REWRITTEN), ScriptedRetriever(result(PASSAGE))
    for history in ((), CONVERSATION):
        question = Question("Which variable must be set before the first start?", history=history)
        answer = _answer(ScriptedChat(REPLY), None, retriever, question, rewriter=ChatRewriter(rewriting, count))
        assert (answer.search_query, retriever.queries.pop()) == (None, question.text)
        assert "rewrite" not in answer.timings_ms
    assert rewriting.prompts == []


def test_a_flagged_conversation_is_not_sent_to_be_rewritten() -> None:
    """A flag in question or history ends the answer before a rewriting model, an embedder or a chat has seen it."""
    rewriting, retriever = ScriptedChat(REWRITTEN), ScriptedRetriever(result(PASSAGE))
    for word in ("undo", "Docker", "DATABASE_URL"):
        answer = _answer(
            ScriptedChat(REPLY), ScriptedModerator(word), retriever, FOLLOW_UP, rewriter=ChatRewriter(rewriting, count)
        )
        assert (answer.status, answer.blocked) == ("blocked", Blocked("question", (word,)))
    assert (rewriting.prompts, retriever.queries) == ([], [])


def test_a_flagged_rewriting_blocks_the_question() -> None:
    """What harmless turns were put together to is judged like a question, and is not shown."""
    chat, moderator = ScriptedChat(REPLY), ScriptedModerator("undo DATABASE_URL")
    answer = _answer(chat, moderator, None, FOLLOW_UP, rewriter=ChatRewriter(ScriptedChat(REWRITTEN), count))
    assert (answer.status, answer.blocked) == ("blocked", Blocked("question", ("undo DATABASE_URL",)))
    assert (answer.search_query, chat.prompts) == (None, [])
    assert moderator.requests == [(FOLLOW_UP.text, *(turn.content for turn in CONVERSATION)), (REWRITTEN,)]
    assert answer.usage.prompt_tokens == 1000


def test_a_question_that_comes_back_unchanged_was_searched_as_it_stands() -> None:
    """The model found that it stands alone: nothing to show, nothing to judge again, the call is paid."""
    moderator, retriever = ScriptedModerator(), ScriptedRetriever(result(PASSAGE))
    same = ChatRewriter(ScriptedChat("and how do I undo that"), count)
    answer = _answer(ScriptedChat(REPLY), moderator, retriever, FOLLOW_UP, rewriter=same)
    assert (answer.search_query, retriever.queries) == (None, [FOLLOW_UP.text])
    assert len(moderator.requests) == 2
    assert answer.usage.prompt_tokens == 2000


def test_a_rewriting_that_fails_fails_the_answer() -> None:
    """The provider's error is raised as it is: no search by worse words takes its place in silence."""

    class Down(ScriptedChat):
        async def complete(self, prompt, max_tokens):  # type: ignore[no-untyped-def]
            raise RateLimited("slow down")

    retriever = ScriptedRetriever(result(PASSAGE))
    with pytest.raises(RateLimited):
        _answer(ScriptedChat(REPLY), None, retriever, FOLLOW_UP, rewriter=ChatRewriter(Down(), count))
    assert retriever.queries == []
