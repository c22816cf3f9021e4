"""What goes over the wire, field by field as the contract has it; requests refuse fields that they do not know.

The functions at the end turn a request into the service's data and the service's data into a response; they are pure.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from indexes.filters import parse_filter
from indexes.types import DocumentInfo, DocumentState, Filter, Hit, LegScore, Mode, Position, TextSlice
from ragsvc.api.errors import NotReady
from ragsvc.errors import BadRequest
from ragsvc.protocols import Retrieved
from ragsvc.types import Answer, AnswerStatus, Question, Readiness, Support, Turn

MAX_QUESTION = 4000
"""Code points (contract)."""
MAX_K = 50
MAX_HISTORY = 20
MAX_LISTED = 1000

Words = Annotated[str, Meta(min_length=1, max_length=MAX_QUESTION)]
CollectionName = Annotated[str, Meta(min_length=1, max_length=200, description="Name of a collection.")]
Count = Annotated[int, Meta(ge=1, le=MAX_K, description="Most passages to find.")]
FilterObject = Annotated[
    dict[str, Any],
    Meta(
        description='`{"key", "op", "value"}` with op eq, ne, gt, gte, lt, lte, in, nin or prefix; or `{"and": [...]}` '
        'or `{"or": [...]}`: depth <= 5, <= 50 terms. Keys: path, source, content_type, modified_at, metadata.',
        examples=[{"key": "path", "op": "prefix", "value": "guide/"}],
    ),
]


FilePosition = Annotated[
    dict[str, str | int] | None,
    Meta(
        description="Where it begins in its file, in the file's own terms; null where the format has none.",
        examples=[{"sheet": "Budget", "row": 12}, {"slide": 3}],
    ),
]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A body or a query string; an unknown field is refused by its name."""


class TurnIn(Request):
    """An earlier message of the conversation."""

    role: Literal["user", "assistant"]
    content: str


class AskRequest(Request):
    """A question and where to look."""

    question: Words
    collection: CollectionName = "default"
    k: Count = 8
    filter: FilterObject | None = None
    history: Annotated[
        list[TurnIn], Meta(max_length=MAX_HISTORY, description="Earlier messages; a follow-up is searched with them.")
    ] = msgspec.field(default_factory=list)
    stream: Annotated[bool, Meta(description="Answer as server-sent events.")] = False
    response_format: Annotated[dict[str, Any] | None, Meta(description="Not served yet: 422 `not_supported`.")] = None


class SearchRequest(Request):
    """A query and where to look."""

    query: Words
    collection: CollectionName = "default"
    k: Count = 10
    mode: Mode = "hybrid"
    filter: FilterObject | None = None


class DocumentsQuery(Request):
    """Which documents to list."""

    collection: CollectionName = "default"
    source: Annotated[str, Meta(description="Root of a source, or `upload`.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = 100
    after: Annotated[str, Meta(max_length=1000, description="`next` of the page before.")] | None = None


class TextQuery(Request):
    """Which piece of a text, in code points."""

    start: Annotated[int, Meta(ge=0)] = 0
    end: Annotated[int, Meta(ge=0, description="Absent: the end of the text.")] | None = None
    version: Annotated[int, Meta(ge=1, description="Absent: the current one.")] | None = None


class NoQuery(Request):
    """A route without query parameters."""


class Response(msgspec.Struct):
    """A body that is sent; clients ignore fields that they do not know."""


class Leg(Response):
    """What one leg of the search said."""

    rank: int
    score: float


class Legs(Response):
    """Both legs; null where a leg did not find the passage."""

    dense: Leg | None
    lexical: Leg | None


class Place(Response):
    """Another place where the same passage stands."""

    document_id: str
    path: str
    start: int
    end: int


class HitOut(Response):
    """A passage that was found."""

    rank: int
    score: float
    document_id: str
    version: int
    path: str
    title: str
    page: int | None
    start: int
    end: int
    text: str
    legs: Legs
    also: list[Place]
    heading_path: list[str]
    position: FilePosition


class SearchResponse(Response):
    """What was found, best first."""

    hits: list[HitOut]
    collection: str
    generation: int


class CitationOut(Response):
    """Where an answer stands: the text route from `start` to `end` gives `quote`."""

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
    heading_path: list[str]
    position: FilePosition


class BlockedOut(Response):
    """Why a text was withheld."""

    side: Literal["question", "answer"]
    categories: list[str]


class ModerationOut(Response):
    """What was judged."""

    model: str | None
    mode: Literal["window", "buffer", "off"]
    checks: int
    covered: int


class UsageOut(Response):
    """Tokens and dollars."""

    embedding_tokens: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None


class AskResponse(Response):
    """A whole answer."""

    id: str
    status: AnswerStatus
    answer: str | None
    citations: list[CitationOut]
    blocked: BlockedOut | None
    moderation: ModerationOut
    model: str
    provider: str
    collection: str
    generation: int
    usage: UsageOut
    timings_ms: dict[str, int]
    search_query: str | None
    """What was searched for where `history` was needed for it; null where the question was searched as it stands."""


class DocumentListed(Response):
    """A document in a list."""

    id: str
    path: str
    source: str
    title: str
    chunks: int
    version: int
    state: DocumentState


class DocumentsResponse(Response):
    """A page of documents; `next` goes into `after` for the page behind it."""

    documents: list[DocumentListed]
    next: str | None


class DocumentResponse(DocumentListed):
    """One document with all that is known of it."""

    state_reason: str | None
    content_type: str
    content_hash: str
    size: int
    characters: int
    modified_at: str
    indexed_at: str
    reader: str
    metadata: dict[str, str | int | float | bool]


class TextResponse(Response):
    """A piece of a document's text."""

    document_id: str
    version: int
    start: int
    end: int
    text: str


class AliveResponse(Response):
    """The process answers."""

    status: Literal["alive"] = "alive"


class CollectionReady(Response):
    """A collection and the generation it serves."""

    name: str
    generation: int


class ReadyResponse(Response):
    """The service can answer, and by what means."""

    status: Literal["ready"]
    provider: dict[str, str]
    generation: int
    """Of the collection `default`."""
    collections: list[CollectionReady]
    moderation: Literal["window", "buffer", "off"]
    degraded: list[str]


class Problem(Response, kw_only=True):
    """RFC 9457: what went wrong. Programs read `code`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str


def question_of(body: AskRequest) -> Question:
    """Return the question of a request. Raises BadRequest, or InvalidQuery for its filter."""
    history = tuple(Turn(turn.role, _clean(turn.content, "history")) for turn in body.history)
    return Question(readable(body.question, "question"), body.collection, body.k, filter_of(body.filter), history)


def readable(text: str, field: str) -> str:
    """Return `text`. Raises BadRequest unless a person could read at least one character of it."""
    if not any(char.isprintable() and not char.isspace() for char in text):
        raise BadRequest(f"`{field}` has nothing to read in it; write at least one word")
    return _clean(text, field)


def _clean(text: str, field: str) -> str:
    if "\0" in text:
        raise BadRequest(f"`{field}` has a NUL character in it; remove it")
    return text


def filter_of(value: dict[str, Any] | None) -> Filter | None:
    """Return the filter of a request. Raises InvalidQuery."""
    return None if value is None else parse_filter(value)


def search_response(found: Retrieved) -> SearchResponse:
    """Return hits as the contract shows them."""
    hits = [_hit(hit) for hit in found.result.hits]
    return SearchResponse(hits=hits, collection=found.collection, generation=found.result.generation)


def _hit(hit: Hit) -> HitOut:
    return HitOut(
        rank=hit.rank,
        score=hit.score,
        document_id=hit.document_id,
        version=hit.version,
        path=hit.path,
        title=hit.title,
        page=hit.page,
        start=hit.start,
        end=hit.end,
        text=hit.text,
        legs=Legs(dense=_leg(hit.dense), lexical=_leg(hit.lexical)),
        also=[Place(document_id=at.document_id, path=at.path, start=at.start, end=at.end) for at in hit.also],
        heading_path=list(hit.heading_path),
        position=_position(hit.position_at(hit.start)),
    )


def _position(position: Position | None) -> dict[str, str | int] | None:
    return None if position is None else dict(position)


def _leg(leg: LegScore | None) -> Leg | None:
    return None if leg is None else Leg(rank=leg.rank, score=leg.score)


def ask_response(answer: Answer) -> AskResponse:
    """Return an answer as the contract shows it: the same fields by the same names."""
    return msgspec.convert(answer, AskResponse, from_attributes=True)


def documents_response(documents: Iterable[DocumentInfo], after: str | None) -> DocumentsResponse:
    """Return a page of documents."""
    listed = [msgspec.convert(document, DocumentListed, from_attributes=True) for document in documents]
    return DocumentsResponse(documents=listed, next=after)


def document_response(document: DocumentInfo) -> DocumentResponse:
    """Return one document."""
    return msgspec.convert(document, DocumentResponse, from_attributes=True)


def text_response(piece: TextSlice) -> TextResponse:
    """Return a piece of a text."""
    return msgspec.convert(piece, TextResponse, from_attributes=True)


def ready_response(readiness: Readiness) -> ReadyResponse:
    """Return what the service answers by. Raises NotReady."""
    if not readiness.ready:
        raise NotReady(f"the service can't answer yet: {_listed(readiness.degraded)}")
    return ReadyResponse(
        status="ready",
        provider={str(role): name for role, name in readiness.provider.items()},
        generation=readiness.collections.get("default", 0),
        collections=[CollectionReady(name=name, generation=at) for name, at in readiness.collections.items()],
        moderation=readiness.moderation,
        degraded=list(readiness.degraded),
    )


def _listed(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) or "still loading"
