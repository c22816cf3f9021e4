"""What answering needs from others. `Embedder` is the ingest's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from indexes.types import Filter, FloatVector, IndexSpec, Mode, SearchResult
from ragsvc.types import ChatReply, Moderated, Prompt


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


class Moderator(Protocol):
    """Texts to verdicts."""

    @property
    def model(self) -> str:
        """Name of the model, as configured."""
        ...

    async def check(self, texts: Sequence[str]) -> Moderated:
        """Judge each text; one verdict per text, in order."""
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
