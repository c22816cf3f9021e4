"""What answering needs from others. `Embedder` is the ingest's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from indexes.types import (
    CollectionStatus,
    DocumentInfo,
    Filter,
    FloatVector,
    IndexSpec,
    Mode,
    SearchResult,
    Source,
    TextSlice,
)
from ragsvc.types import ChatReply, Moderated, Prompt, Question, Rewritten


class ChatModel(Protocol):
    """A prompt to a reply."""

    @property
    def model(self) -> str:
        """Name of the model, as configured."""
        ...

    @property
    def provider(self) -> str:
        """`openai` or `local`."""
        ...

    async def complete(self, prompt: Prompt, max_tokens: int) -> ChatReply:
        """Answer `prompt.question` from `prompt.passages` with at most `max_tokens` tokens, markers [n] included.

        A reply that begins with the line `NOT_IN_DOCUMENTS` says that the passages do not hold the answer.
        """
        ...


class QueryRewriter(Protocol):
    """A follow-up to a query that stands alone."""

    async def rewrite(self, question: Question) -> Rewritten:
        """Return the query for a question that needs its history. Question and history have passed the gate."""
        ...


class Moderator(Protocol):
    """Texts to verdicts."""

    @property
    def model(self) -> str:
        """Name of the model, as configured."""
        ...

    async def check(self, texts: Sequence[str]) -> Moderated:
        """Judge each text; one verdict per text, in order."""
        ...


class DocumentReader(Protocol):
    """What is read of one collection besides searching it. Every call blocks: call it in a worker thread."""

    @property
    def generation(self) -> int:
        """Number of the generation in service."""
        ...

    def sources(self) -> tuple[Source, ...]:
        """Return the sources of the collection."""
        ...

    def documents(
        self, source: str | None, limit: int, after: str | None
    ) -> tuple[tuple[DocumentInfo, ...], str | None]:
        """Return at most `limit` documents (of a source's root) past the cursor `after`, and the next cursor.

        Raises indexes.errors.InvalidQuery for a cursor that was never given.
        """
        ...

    def document(self, document_id: str, /) -> DocumentInfo:
        """Return one document. Raises indexes.errors.NotFound."""
        ...

    def text(self, document_id: str, /, start: int, end: int | None, version: int | None) -> TextSlice:
        """Return a piece of a document's text. Raises NotFound, VersionGone, InvalidQuery for a range outside it."""
        ...

    def status(self) -> CollectionStatus:
        """Return figures of the collection."""
        ...


class DocumentLibrary(Protocol):
    """The collections of this service. Every call blocks: call it in a worker thread."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all collections."""
        ...

    def open(self, name: str, /) -> DocumentReader:
        """Return the collection of that name. Raises UnknownCollection."""
        ...

    def of_document(self, document_id: str, /) -> DocumentReader:
        """Return the collection that a document id belongs to. Raises indexes.errors.NotFound."""
        ...

    def create(self, name: str, spec: IndexSpec) -> DocumentReader:
        """Make a collection. Raises BadRequest for a name that may not be, CollectionExists."""
        ...

    def remove(self, name: str) -> None:
        """Remove a collection for good. Raises UnknownCollection, and CollectionBusy while it is written."""
        ...


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Hits of one snapshot of a collection, and what finding them cost."""

    result: SearchResult
    collection: str
    embedding_model: str
    embedding_tokens: int


class Retriever(Protocol):
    """A query to hits."""

    async def retrieve(self, query: str, collection: str, k: int, mode: Mode, where: Filter | None) -> Retrieved:
        """Return at most `k` hits, best first."""
        ...


class SearchableCollection(Protocol):
    """What retrieval needs of a collection; `indexes.collection.Collection` is one."""

    @property
    def spec(self) -> IndexSpec:
        """The spec in service."""
        ...

    def search(
        self,
        query: str,
        vector: FloatVector | None,
        k: int,
        mode: Mode,
        where: Filter | None = None,
        *,
        dense_weight: float = 1.0,
    ) -> SearchResult:
        """Return at most `k` hits of one snapshot. Blocking. `dense_weight` 0 leaves the order to the words."""
        ...


class Library(Protocol):
    """Names to collections."""

    def open(self, name: str) -> SearchableCollection:
        """Return the collection of that name. Blocking. Raises UnknownCollection."""
        ...


@runtime_checkable
class LanguageBound(Protocol):
    """An embedder that knows only some languages."""

    def speaks(self, text: str) -> bool:
        """Whether vectors of this text mean anything."""
        ...
