"""The story of one answer: moderate the question, retrieve, prompt, chat, cite, release.

A follow-up is judged before it is rewritten, because rewriting may send the whole conversation to a chat model. The
query it becomes is new text, which the answer shows: it is judged beside its own search, and a flag blocks the question
in whose name it was made.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ragsvc import prompting, queries
from ragsvc.citing import cite
from ragsvc.errors import UpstreamMalformed
from ragsvc.followups import needs_history
from ragsvc.moderation import Gate
from ragsvc.protocols import ChatModel, QueryRewriter, Retrieved, Retriever
from ragsvc.types import (
    NOT_IN_DOCUMENTS,
    Answer,
    AnswerEvent,
    AnswerStatus,
    Blocked,
    BlockedEvent,
    ChatReply,
    Citation,
    CitationsEvent,
    DoneEvent,
    MetaEvent,
    ModerationSummary,
    Passage,
    Question,
    Rewritten,
    TextEvent,
    Turn,
    Usage,
)

_log = logging.getLogger(__name__)
ANSWER_TOKENS = 6_000
"""Most tokens of a reply. A reasoning model's hidden tokens count as well; with the prompt's budget it stays below
16,384."""

Stored = Callable[[str, int, int, int], str | None]
"""Document id, version, start, end -> the stored text there; None for a version that is gone. May block."""
Pricing = Callable[[str, int, int], float | None]
"""Model name, input tokens, output tokens -> dollars, None for a model with no known price."""

_TOKEN = NOT_IN_DOCUMENTS.replace("_", r"\\?_")
_ANY_TOKEN = re.compile(_TOKEN, re.IGNORECASE)
_OPENING_TOKEN = re.compile(
    rf"[\s\"'`*_#>(\[“‘「-]*{_TOKEN}(?!\w)[ \t\"'`*_)\]”’」.:!,;。：，！\-–—]*\s*", re.IGNORECASE
)
_MARKUP = re.compile(r"[\s\"'`*#>(\[“‘「\\-]+|^_+")
"""What may stand around the token's beginning when a reply was cut off in it."""
_HAN = re.compile(r"[\u3400-\u9fff]")
_KANA = re.compile(r"[\u3040-\u30ff]")


@dataclass(slots=True)
class _Course:
    """What an answer has cost so far."""

    question: Question
    started: float
    query: str | None = None
    """What is searched for, where that is not the question; judged."""
    rewritten: Rewritten | None = None
    retrieved: Retrieved | None = None
    reply: ChatReply | None = None
    checks: int = 0
    judge: str | None = None
    covered: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Draft:
    """An answer before it is judged."""

    status: AnswerStatus
    text: str
    citations: tuple[Citation, ...] = ()
    blocked: Blocked | None = None


class Answering:
    """Answers questions from documents.

    `count` gives the tokens (cl100k_base) of a text; `clock` seconds that only grow.
    """

    def __init__(
        self,
        retriever: Retriever,
        gate: Gate,
        chat: ChatModel,
        stored: Stored,
        pricing: Pricing,
        count: Callable[[str], int],
        clock: Callable[[], float] = time.monotonic,
        *,
        rewriter: QueryRewriter,
    ) -> None:
        self._retriever = retriever
        self._rewriter = rewriter
        self._gate = gate
        self._chat = chat
        self._stored = stored
        self._pricing = pricing
        self._count = count
        self._clock = clock

    async def answer(self, question: Question) -> Answer:
        """Return the answer; whatever its status, every character of it has passed the gate.

        Raises UnknownCollection, EmbeddingUnavailable and ProviderError; an upstream that fails never gives an answer
        that was not judged, nor one without its passages.
        """
        course = _Course(question, self._clock())
        if needs_history(question.text, question.history):
            blocked = await self._rewrite_and_retrieve(course)
        else:
            blocked = await self._judge_and_retrieve(course, question.text, question.history)
        if blocked is not None:
            return self._finish(course, _Draft("blocked", "", blocked=blocked))
        return self._finish(course, await self._release(course, await self._draft(course)))

    async def _rewrite_and_retrieve(self, course: _Course) -> Blocked | None:
        """Judge a follow-up, rewrite it, and judge the new query while its hits are being found."""
        question = course.question
        if (blocked := await self._judge(course, question.text, question.history)) is not None:
            return blocked
        with self._timed(course, "rewrite"):
            course.rewritten = await self._rewriter.rewrite(question)
        query = course.rewritten.query
        if queries.is_same(query, question.text):
            course.retrieved = await self._retrieve(course, question.text)
            return None
        blocked = await self._judge_and_retrieve(course, query)
        course.query = None if blocked else query
        return blocked

    async def _judge_and_retrieve(self, course: _Course, query: str, history: tuple[Turn, ...] = ()) -> Blocked | None:
        """Judge a query while its hits are being found; a flag or a failure ends the search."""
        retrieval = asyncio.create_task(self._retrieve(course, query))
        try:
            blocked = await self._judge(course, query, history)
            if blocked is None:
                await retrieval
        finally:
            retrieval.cancel()
            (outcome,) = await asyncio.gather(retrieval, return_exceptions=True)
            if isinstance(outcome, Retrieved):  # also where the question is blocked and the search was done
                course.retrieved = outcome
        return blocked

    async def _judge(self, course: _Course, text: str, history: tuple[Turn, ...]) -> Blocked | None:
        with self._timed(course, "moderate"):
            checked = await self._gate.check_question(text, history)
        course.checks += checked.checks
        course.judge = checked.model
        return checked.blocked

    async def _retrieve(self, course: _Course, query: str) -> Retrieved:
        question = course.question
        with self._timed(course, "retrieve"):
            return await self._retriever.retrieve(query, question.collection, question.k, "hybrid", question.filter)

    async def _draft(self, course: _Course) -> _Draft:
        """Ask the chat model; without hits there is nothing to ask about."""
        question, retrieved = course.question, course.retrieved
        if retrieved is None or not retrieved.result.hits:
            return _Draft("not_in_documents", house_sentence(question.text))
        prompt = prompting.build(question, retrieved.result, prompting.PROMPT_TOKENS, self._count, course.query)
        with self._timed(course, "chat"):
            course.reply = await self._chat.complete(prompt, ANSWER_TOKENS)
        return await asyncio.to_thread(self._read, course.reply, prompt.passages, question.text)

    def _read(self, reply: ChatReply, passages: tuple[Passage, ...], question: str) -> _Draft:
        """Read a reply and keep the citations that stand (law 5)."""
        draft = read_reply(reply, passages, question)
        return replace(draft, citations=tuple(citation for citation in draft.citations if self._stands(citation)))

    def _stands(self, citation: Citation) -> bool:
        """Whether a quote is the stored text. A version replaced since the search stands by the search's snapshot."""
        stored = self._stored(citation.document_id, citation.version, citation.start, citation.end)
        if stored is None or stored == citation.quote:
            return True
        _log.error("a citation of %s is not its stored text and is left out", citation.document_id)
        return False

    async def _release(self, course: _Course, draft: _Draft) -> _Draft:
        """Return the draft as it may leave: judged, or blocked."""
        if draft.blocked is not None:
            return draft
        with self._timed(course, "moderate"):
            released = await self._gate.release(draft.text)
        course.checks += released.checks
        course.judge = released.model or course.judge
        course.covered = released.covered
        if released.text is None:
            return _Draft("blocked", "", blocked=released.blocked)
        return replace(draft, text=released.text)

    def _finish(self, course: _Course, draft: _Draft) -> Answer:
        parts = ("moderate", *(("rewrite",) if course.rewritten else ()), "retrieve", "chat")
        timings = {name: round(course.seconds.get(name, 0.0) * 1000) for name in parts}
        timings["total"] = round((self._clock() - course.started) * 1000)
        blocked = draft.status == "blocked"
        return Answer(
            id=f"ans_{secrets.token_hex(12)}",
            status=draft.status,
            answer=None if blocked else draft.text,
            citations=draft.citations,
            blocked=draft.blocked,
            moderation=ModerationSummary(course.judge, self._gate.mode, course.checks, course.covered),
            model=course.reply.model if course.reply else self._chat.model,
            provider=self._chat.provider,
            collection=course.question.collection,
            generation=course.retrieved.result.generation if course.retrieved else 0,
            usage=self._usage(course),
            timings_ms=timings,
            search_query=course.query,
        )

    def _usage(self, course: _Course) -> Usage:
        embedded = course.retrieved.embedding_tokens if course.retrieved else 0
        replies = [reply for reply in (course.rewritten and course.rewritten.reply, course.reply) if reply]
        prices = [
            self._pricing(reply.model, reply.prompt_tokens, reply.completion_tokens)
            for reply in replies
            if reply.prompt_tokens or reply.completion_tokens
        ]
        if course.retrieved and embedded:
            prices.append(self._pricing(course.retrieved.embedding_model, embedded, 0))
        known = [price for price in prices if price is not None]
        return Usage(
            embedded,
            sum(reply.prompt_tokens for reply in replies),
            sum(reply.completion_tokens for reply in replies),
            sum(known, 0.0) if len(known) == len(prices) else None,
        )

    @contextmanager
    def _timed(self, course: _Course, name: str) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            course.seconds[name] = course.seconds.get(name, 0.0) + self._clock() - began


def read_reply(reply: ChatReply, passages: tuple[Passage, ...], question: str) -> _Draft:
    """Return what a reply says: its status, its text without our own token, its checked citations.

    Raises UpstreamMalformed for a reply that says it is complete and is empty.
    """
    if reply.finish_reason == "content_filter":
        return _Draft("blocked", "", blocked=Blocked("answer", ("provider",)))
    if reply.refusal:
        return _Draft("refused", _plain(reply.refusal))
    text = _whole_characters(reply.text).strip()
    opening = _OPENING_TOKEN.match(text)
    if opening:
        return _Draft("not_in_documents", _plain(text[opening.end() :]) or house_sentence(question))
    complete = reply.finish_reason == "stop"
    if not complete and NOT_IN_DOCUMENTS.startswith(_MARKUP.sub("", text).upper()):
        return _Draft("incomplete", "")
    if not text:
        raise UpstreamMalformed(f"{reply.model} gave an empty answer; ask again, or set another RAGSVC_CHAT_MODEL")
    text, citations = _cited(text, passages)
    if not text.strip():
        return _Draft("not_in_documents", house_sentence(question))
    return _Draft("answered" if complete else "incomplete", text, citations)


def house_sentence(question: str) -> str:
    """Return what is said when the documents do not hold the answer and the model said nothing itself."""
    if _HAN.search(question) and not _KANA.search(question):
        return "这些文档中没有这个问题的答案。"
    return "The documents do not hold an answer to this question."


def events(answer: Answer) -> Iterator[AnswerEvent]:
    """Yield the events of a whole answer in the contract's order."""
    yield MetaEvent(answer.id, answer.collection, answer.generation, answer.model, answer.search_query)
    if answer.blocked is not None:
        yield BlockedEvent(answer.blocked.side, answer.blocked.categories, withdraw_from=0)
        return
    if answer.answer:
        yield TextEvent(answer.answer, len(answer.answer))
    yield CitationsEvent(answer.citations)
    yield DoneEvent(answer.status, answer.usage, answer.moderation, answer.timings_ms)


def _plain(text: str) -> str:
    """Return a text that cites nothing."""
    return _cited(_whole_characters(text), ())[0].strip()


def _cited(text: str, passages: tuple[Passage, ...]) -> tuple[str, tuple[Citation, ...]]:
    """Cite a text without our own token; a removed marker can bring the token together, hence the repetition."""
    while True:
        text, citations = cite(_without_token(text), passages)
        if _ANY_TOKEN.search(text) is None:
            return text, citations


def _without_token(text: str) -> str:
    """Return the text without our token, wherever it stands; what a removal brings together is looked at again."""
    while True:
        shorter = _ANY_TOKEN.sub("", text)
        if shorter == text:
            return text
        text = shorter


def _whole_characters(text: str) -> str:
    """Return the text with surrogate pairs joined and lone surrogates replaced: neither can be sent as UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
