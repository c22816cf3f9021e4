"""The data of the ingest: what a reader makes, what a run is, what it reports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from indexes.types import FileStat, ManifestEntry, Mark, RejectedFile

RejectionReason = Literal[
    "password",
    "no_text",
    "empty",
    "unsupported",
    "damaged",
    "too_large",
    "limit",
    "crash",
    "permission",
    "outside_root",
    "not_regular",
    "encoding",
]


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a document's text under one heading path, on one page.

    The sections of a document follow each other without a gap and cover its text; a heading stands at the start of
    the section it opens.
    """

    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    """Headings from the outermost to the nearest, as plain text."""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader makes of a file's bytes."""

    text: str
    """Valid Unicode without NUL and without lone surrogates; never empty."""
    sections: tuple[Section, ...]
    content_type: str
    title: str = ""
    """From the content only (first heading, <title>, metadata), else empty."""
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    reader: str = ""
    """Name and version of the reader."""
    marks: tuple[Mark, ...] = ()
    """Positions in the file's own terms (slide, sheet and row, cell, message), rising; pages stand in the sections."""


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """A regular file that a walk found."""

    path: str
    """Relative to the source's root, with `/`."""
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that is not indexed, and why."""

    path: str
    reason: RejectionReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk found below a root."""

    files: tuple[ScannedFile, ...]
    rejections: tuple[Rejection, ...]
    """Entries that are no file to read: outside_root, not_regular, permission, encoding (of the name), limit, damaged
    (the disk fails). A folder that can't be listed is one entry; what lies below it is not known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A folder against its manifest. The same bytes at a new path, when the old path is gone, are a rename."""

    added: tuple[ScannedFile, ...] = ()
    changed: tuple[tuple[ManifestEntry, ScannedFile], ...] = ()
    renamed: tuple[tuple[ManifestEntry, ScannedFile], ...] = ()
    removed: tuple[ManifestEntry, ...] = ()
    touched: tuple[tuple[ManifestEntry, ScannedFile], ...] = ()
    """Same bytes under the same path with another stat: nothing but the stat is written."""
    unchanged: int = 0
    unreadable: tuple[tuple[ManifestEntry | None, Rejection], ...] = ()
    """What can't be listed or read, the scan's rejections included, with the document that stands at that path: it
    keeps its old version and becomes stale."""
    refused: tuple[tuple[ManifestEntry | None, RejectedFile], ...] = ()
    """Files that readers rejected before and would reject again, as they are known, with the document at that path."""


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What a run is about to do and what it costs, before a token is paid."""

    source: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    """(old path, new path)."""
    removed: tuple[str, ...]
    unchanged: int
    rejected: tuple[Rejection, ...]
    chunks: int
    """Chunks of the added and changed documents."""
    inputs: int
    """Texts to be embedded: distinct, and not yet known."""
    tokens: int
    """Tokens (cl100k_base) of these inputs."""
    returned: tuple[str, ...] = ()
    """Added paths that had been removed by hand before."""
    missing: int = 0
    """Of the inputs: texts of documents that did not change, in any source, whose vectors are missing."""


EventKind = Literal["planned", "embedded", "applied", "rejected", "conflict", "done"]


@dataclass(frozen=True, slots=True)
class IngestEvent:
    """One step of a run, for progress bars and jobs. `done` and `total` count inputs for `embedded`, else documents."""

    kind: EventKind
    done: int = 0
    total: int = 0
    path: str | None = None


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What a run did."""

    plan: IngestPlan
    embedded_inputs: int
    embedded_tokens: int
    """As the provider counted them."""
    requests: int
    applied: int
    """Documents whose new version is visible."""
    conflicts: tuple[str, ...]
    """Paths whose document was changed or removed by someone else since the plan: nothing was done for them."""
    rejected: tuple[Rejection, ...]
    seconds: float
    removed_by_hand: tuple[str, ...] = ()
    """Those of the conflicts that were removed by hand: they stay so until the next run."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How a run behaves."""

    verify: bool = False
    """Hash every file, whatever its size and times say."""
    allow_empty: bool = False
    """Allow a run that removes most of the source."""
    inputs: int = 256
    """Texts a request."""
    concurrency: int = 4
    """Requests in flight."""
    needs_vectors: bool = True
    """Apply documents only with all their vectors; else they are found by their words alone."""
    max_bytes: int = 50 * 1024 * 1024
    """Of a file; a larger one is rejected unread."""
    left_out: frozenset[str] = frozenset()
    """Real paths of folders that are not looked into: the service's own data."""


DEFAULTS = IngestOptions()
OnEvent = Callable[[IngestEvent], None]


def ignore(_: object) -> None:
    """Listen to nothing: the default of `on_event`."""
