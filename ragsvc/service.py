"""What an entrance (HTTP, terminal) needs of the service: the parts that `compose` has put together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ragsvc.job_runner import JobRunner
from ragsvc.protocols import DocumentLibrary, Retriever
from ragsvc.settings import Settings
from ragsvc.types import Answer, Question, Readiness
from ragsvc.uploads import Uploads


class Answerer(Protocol):
    """A question to an answer."""

    async def answer(self, question: Question) -> Answer:
        """Return a whole answer, moderated, its citations checked."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service."""

    settings: Settings
    library: DocumentLibrary
    retriever: Retriever
    answering: Answerer
    ready: Callable[[], Readiness]
    """Blocks for a moment (it may read the disk), and never calls upstream."""
    uploads: Uploads
    runner: JobRunner
    """To be started and stopped with the entrance that takes uploads."""
