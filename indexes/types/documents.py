"""Documents, where they come from, and what they are cut into."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SourceKind = Literal["folder", "file", "upload"]
DocumentState = Literal["indexed", "stale"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where documents come from: a real absolute path of a folder or a file, or `upload`."""

    id: int
    root: str
    kind: SourceKind


def run_lock_name(root: str) -> str:
    """Return the name of the lock file of runs over the source with that root."""
    return f"run-{hashlib.sha256(root.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.lock"


@dataclass(frozen=True, slots=True)
class FileStat:
    """What is remembered of a file so that it need not be read again while nothing changed."""

    size: int
    mtime_ns: int
    inode: int
    scanned_ns: int
    """Wall-clock time (ns) just before the file was read; a file modified within 2 s of it is not trusted."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One document of a source as the collection knows it."""

    document_id: str
    path: str
    """Relative to the source's root, with `/`."""
    version: int
    content_hash: bytes
    """SHA-256 of the file's bytes."""
    stat: FileStat
    state: DocumentState
    reader: str
    """Name and version of the reader that made the text."""


UNSEEN = FileStat(0, 0, 0, 0)
"""The stat of a file that was not judged by its bytes."""


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file that is not indexed, remembered so that it need not be read again while nothing changed."""

    path: str
    """Relative to the source's root, with `/`."""
    reason: str
    detail: str
    stat: FileStat = UNSEEN
    readers: str = ""
    """Fingerprint of the readers that judged its bytes; empty where others refused the file: it is tried again."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a collection holds of one source (or of one folder below it), by path."""

    source: Source
    entries: Mapping[str, ManifestEntry]
    rejected: Mapping[str, RejectedFile] = field(default_factory=dict)
    """What the last run listed as rejected; a document that stands at such a path is stale."""
    changes: int = 0
    """The collection's count of changes as of which this was read; 0 where the collection had no such source."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a document: `document.text[start:end]` is its text, always."""

    ordinal: int
    start: int
    end: int
    tokens: int
    """Tokens (cl100k_base) of the slice alone."""
    heading_path: tuple[str, ...]
    page: int | None
    """1-based; None where the format has no pages."""
    text_hash: bytes
    """`text_hash` of the slice: equal passages in several places are shown once."""
    embedded_hash: bytes
    """`text_hash` of what was embedded: template of title, heading path and slice."""


Position = Mapping[str, str | int]
"""Where something stands in its file, in the file's own terms: {"slide": 3}, {"sheet": "Budget", "row": 12}."""


@dataclass(frozen=True, slots=True)
class Mark:
    """From `start` on, up to the next mark, a document's text stands at `position`, below `heading_path`."""

    start: int
    position: Position
    """Empty where the format has none."""
    heading_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SectionStart:
    """From `start` up to the next one, or to the end, a document's text is one section of those it is cut by."""

    start: int
    heading_path: tuple[str, ...] = ()
    page: int | None = None
    """1-based; None where the format has no pages."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A visible version as the store has it: what is needed to cut or to embed it again without its file."""

    key: int
    """Rises along a listing: pass that of the last one as `after` for those behind it."""
    document_id: str
    version: int
    path: str
    title: str
    text: str
    sections: tuple[SectionStart, ...]
    """As in `DocumentUpsert`; for a text that an earlier release stored, as its chunks and marks tell them."""
    chunks: tuple[Chunk, ...]
    """Those that the listing is about."""


@dataclass(frozen=True, slots=True)
class DocumentCut:
    """The chunks of one version of a document under an IndexSpec, in order."""

    document_id: str
    version: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """A document as it is listed."""

    id: str
    path: str
    source: str
    """Root of its source, or `upload`."""
    title: str
    chunks: int
    """Under the ChunkSpec in service."""
    version: int
    state: DocumentState
    state_reason: str | None
    """Why it is `stale`, else None."""
    content_type: str
    content_hash: str
    """Hexadecimal SHA-256 of the file's bytes."""
    size: int
    """Bytes of the file."""
    characters: int
    modified_at: str
    """Of the file, RFC 3339, UTC."""
    indexed_at: str
    reader: str
    metadata: Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class TextSlice:
    """A piece of a document version's text."""

    document_id: str
    version: int
    start: int
    end: int
    text: str
