"""What answering needs from others. `Embedder` is the ingest's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from indexes.types import Filter, Mode, SearchResult
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
