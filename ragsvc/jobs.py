"""What a job is: work that was accepted, outlives the process that accepted it, and is done once.

A job is `queued`, then `running` while the process that holds its collection's job lock works on it, `waiting` while an
upstream lets it wait, and at last `done`, `failed` or `cancelled`. `running` with a free lock means that its process
died: whoever takes the lock goes on. The jobs of one collection run one after another, in the order of their
acceptance: so of two uploads of one path the later one stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ingest.types import RejectionReason

JobKind = Literal["upload"]
JobState = Literal["queued", "running", "waiting", "done", "failed", "cancelled"]
FINISHED: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})
FileState = Literal["pending", "applied", "unchanged", "rejected", "withdrawn", "cancelled"]
"""`withdrawn`: its document was removed by hand before the job came to it. `cancelled`: with its job."""
EventKind = Literal["accepted", "started", "resumed", "waiting", "rejected", "withdrawn", "done", "failed", "cancelled"]
Metadata = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class NewFile:
    """A document that was received: its bytes are on the disk."""

    path: str
    content_hash: bytes
    """SHA-256 of its bytes."""
    start: int
    """Where its bytes begin in the job's file."""
    size: int
    received_ns: int
    """Wall-clock time."""


@dataclass(frozen=True, slots=True)
class JobFile(NewFile):
    """A document of a job, and what became of it."""

    state: FileState
    reason: RejectionReason | None
    """Why it was rejected."""
    detail: str
    document_id: str | None
    deaths: int
    """How often a process died while it read this document."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands."""

    id: str
    kind: JobKind
    collection_id: str
    collection: str
    """The collection's name when the job was accepted."""
    state: JobState
    metadata: Metadata
    """Of an upload: what its documents are given."""
    done: int
    """Documents that are decided."""
    total: int
    inputs_done: int
    """Texts embedded, of `inputs_total`, in the attempt under way or the last one."""
    inputs_total: int
    tokens: int
    cost_usd: float | None
    """None when the price of the model is not known."""
    error_code: str | None
    error: str | None
    """Why it waits, or failed."""
    attempts: int
    """Begun without an orderly end: more than one means that processes died of it, or were killed."""
    cancelling: bool
    created_at: str
    started_at: str | None
    finished_at: str | None

    @property
    def finished(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in FINISHED


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A step of a job's life."""

    at: str
    kind: EventKind
    path: str | None
    detail: str
