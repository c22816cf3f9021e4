"""The data of the service: a question, its prompt, its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from indexes.types import Filter, Hit, Position

Role = Literal["embedding", "chat", "moderation"]
AnswerStatus = Literal["answered", "not_in_documents", "blocked", "refused", "incomplete"]
Support = Literal["strong", "weak"]
FinishReason = Literal["stop", "length", "content_filter", "incomplete"]

NOT_IN_DOCUMENTS = "NOT_IN_DOCUMENTS"
"""First line of a chat model's reply when the passages do not hold the answer. It never leaves the service."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a person asked, and where to look."""

    text: str
    collection: str = "default"
    k: int = 8
    filter: Filter | None = None
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One message to a chat model; `system` stands for instructions and is renamed by a provider that must."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A numbered hit in a prompt. Numbers start at 1 and are never changed."""

    number: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Prompt:
    """Question and passages, ready for a chat model, within the token budget."""

    question: str
    passages: tuple[Passage, ...]
    messages: tuple[Message, ...]
    tokens: int
    """Estimate (cl100k_base + 10 %) of the messages."""
    term_weights: Mapping[str, float] = field(default_factory=dict)
    """Inverse document frequency of the query's words, for the local chat."""
    query: str | None = None
    """What was searched for, where that is not the question."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What a chat model said."""

    text: str
    finish_reason: FinishReason
    refusal: str | None
    model: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A query that stands alone, made of a question and the turns before it."""

    query: str
    reply: ChatReply | None = None
    """The model's reply, for its price; None where no model was asked."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A moderator's word on one text."""

    flagged: bool
    categories: tuple[str, ...]
    """The flagged ones, by the moderator's names."""


@dataclass(frozen=True, slots=True)
class Moderated:
    """Verdicts in the order of the texts, and who gave them."""

    model: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Citation:
    """Where an answer stands. `quote` is the document version's text from `start` to `end`, checked."""

    marker: int
    support: Support
    document_id: str
    version: int
    path: str
    title: str
    page: int | None
    start: int
    end: int
    quote: str
    score: float
    heading_path: tuple[str, ...] = ()
    """Above the quote's beginning, from the outermost heading to the nearest."""
    position: Position | None = None
    """Where the quote begins in its file, in the file's own terms; None where the format has none."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a text does not leave."""

    side: Literal["question", "answer"]
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModerationSummary:
    """What was judged for one answer."""

    model: str | None
    """None with moderation off."""
    mode: Literal["window", "buffer", "off"]
    checks: int
    """Texts sent to the moderator."""
    covered: int
    """Code points of the answer that passed verdicts cover."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and dollars of one answer."""

    embedding_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    """None when the price of a model is unknown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer to a question, as the contract shows it."""

    id: str
    status: AnswerStatus
    answer: str | None
    citations: tuple[Citation, ...]
    blocked: Blocked | None
    moderation: ModerationSummary
    model: str
    provider: str
    collection: str
    generation: int
    """The one that was searched; 0 where the question was blocked and nothing was searched."""
    usage: Usage
    timings_ms: Mapping[str, int]
    search_query: str | None = None
    """What was searched for, judged; None where that is the question as it stands."""


@dataclass(frozen=True, slots=True)
class MetaEvent:
    """First event of a streamed answer."""

    id: str
    collection: str
    generation: int
    model: str
    search_query: str | None = None
    """As in `Answer`."""


@dataclass(frozen=True, slots=True)
class TextEvent:
    """Judged text: `delta` follows what was sent before, `end` is the code points released so far."""

    delta: str
    end: int


@dataclass(frozen=True, slots=True)
class CitationsEvent:
    """All citations, after the last text."""

    citations: tuple[Citation, ...]


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """Last event of an answer that was given."""

    status: AnswerStatus
    usage: Usage
    moderation: ModerationSummary
    timings_ms: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BlockedEvent:
    """Last event of a blocked answer: text shown from `withdraw_from` (code points) on is to be taken back."""

    side: Literal["question", "answer"]
    categories: tuple[str, ...]
    withdraw_from: int


AnswerEvent = MetaEvent | TextEvent | CitationsEvent | DoneEvent | BlockedEvent


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service can answer, and by what means. Told from memory and disk: nothing upstream is asked."""

    ready: bool
    provider: Mapping[Role, str]
    """Role -> `openai` or `local`."""
    collections: Mapping[str, int]
    """Name -> generation in service."""
    moderation: Literal["window", "buffer", "off"]
    degraded: tuple[str, ...] = ()
    """What does not work as it should, one sentence each."""
