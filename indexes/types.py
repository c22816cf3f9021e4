"""The data of the house's ground floor: frozen, without behaviour beyond what its own fields say.

Offsets are Unicode code points into a document version's text; vectors are float32 of unit length; scores grow with
likeness, everywhere.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatMatrix = npt.NDArray[np.float32]
"""Vectors as rows, shape (n, dimensions)."""
FloatVector = npt.NDArray[np.float32]
"""One vector, shape (dimensions,), or a row of scores."""
IdArray = npt.NDArray[np.int64]
"""Vector ids, shape (n,)."""

Mode = Literal["hybrid", "dense", "lexical"]
SourceKind = Literal["folder", "file", "upload"]
DocumentState = Literal["indexed", "stale"]


def text_hash(text: str) -> bytes:
    """Return the 32-byte key under which a text's vector and its duplicates are found (SHA-256 of its UTF-8)."""
    return hashlib.sha256(text.encode("utf-8")).digest()


def run_lock_name(root: str) -> str:
    """Return the name of the lock file of runs over the source with that root."""
    return f"run-{hashlib.sha256(root.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.lock"


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """What a vector is made by. Two vectors compare only when their specs are equal."""

    model: str
    dimensions: int
    template: str = "title-headings-1"
    """Name of the template that joins title, heading path and slice into the embedded text."""
    input_limit: int = 8191
    """Tokens that one embedded text may have, template included."""


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """How a text is cut."""

    tokens: int = 512
    """Most tokens (cl100k_base) in a chunk, overlap included."""
    overlap: int = 64
    """Tokens of the text before it, in the same section, that a chunk repeats at most."""
    chunker: str = "borders-1"
    """Version of the algorithm: another one may cut the same text elsewhere."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """One way of cutting and embedding; a generation serves exactly one."""

    embedding: EmbeddingSpec
    chunks: ChunkSpec = field(default_factory=ChunkSpec)


@dataclass(frozen=True, slots=True)
class Source:
    """Where documents come from: a real absolute path of a folder or a file, or `upload`."""

    id: int
    root: str
    kind: SourceKind


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
class DocumentUpsert:
    """A document version to become the visible one, whole, in the transaction that applies it.

    `replaces` is what the plan saw: the id and version to be replaced, or None for a path that had no document. If
    the collection holds something else by now, the upsert is a conflict and is not applied; so it is where the path was
    removed by hand since (`ChangeSet.as_of`), for then the removal was acknowledged last.
    """

    path: str
    replaces: tuple[str, int] | None
    content_hash: bytes
    stat: FileStat
    content_type: str
    title: str
    text: str
    metadata: Mapping[str, str | int | float | bool]
    reader: str
    chunks: tuple[Chunk, ...]
    marks: tuple[Mark, ...] = ()
    """Rising; none where all of the text stands below the same headings and the format has no positions."""
    sections: tuple[SectionStart, ...] = ()
    """What the text was cut by, rising from 0; none where all of it is one section without headings."""


@dataclass(frozen=True, slots=True)
class DocumentRename:
    """A document that keeps its id and version under another path."""

    document_id: str
    path: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Changes of one source, applied in one transaction: removals and renames first, then upserts."""

    source_id: int
    upserts: tuple[DocumentUpsert, ...] = ()
    renames: tuple[DocumentRename, ...] = ()
    removals: tuple[str, ...] = ()
    """Document ids."""
    restats: tuple[tuple[str, FileStat], ...] = ()
    """Documents whose file was touched without a change of its bytes; also ends the state `stale`."""
    stale: tuple[tuple[str, str], ...] = ()
    """Documents that can no longer be read, with the reason: the old version stays."""
    rejections: tuple[RejectedFile, ...] = ()
    """To be remembered, each in place of what is known of its path."""
    forgotten: tuple[str, ...] = ()
    """Paths that are rejected no more: gone, or to be read again. A path that gets a document is forgotten anyway."""
    as_of: int | None = None
    """`Manifest.changes` of what this was planned from: a path that was removed by hand after that gets no document.
    None: not known, and a removal is no obstacle."""
    needs_vectors: bool = False
    """Leave out upserts of which a vector is missing, and say so: it was deleted since they were cut."""
    spec: IndexSpec | None = None
    """What the upserts were cut by: if another one is in service by now, nothing is applied. None is not checked."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        documents = self.upserts or self.renames or self.removals or self.restats or self.stale
        return bool(documents or self.rejections or self.forgotten)


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What became of a change set."""

    documents: Mapping[str, str]
    """Path -> document id of each upsert that was applied."""
    conflicts: tuple[str, ...] = ()
    """Paths whose document changed or vanished since the plan: nothing was done for them."""
    removed_by_hand: tuple[str, ...] = ()
    """Those of the conflicts that were removed by hand since the plan."""
    incomplete: tuple[str, ...] = ()
    """Paths of upserts that were left out because a vector is missing (see `ChangeSet.needs_vectors`)."""


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
class Comparison:
    """`key op value` over a document's fields; see `indexes.filters` for keys and operators."""

    key: str
    op: str
    value: str | int | float | bool | tuple[str | int | float | bool, ...]


@dataclass(frozen=True, slots=True)
class Junction:
    """All (`and`) or any (`or`) of the terms. An empty `and` is everything, an empty `or` nothing."""

    op: Literal["and", "or"]
    terms: tuple["Filter", ...]


Filter = Comparison | Junction


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest vectors to one query, best first; ties by id. At most `k`, fewer where fewer exist."""

    ids: IdArray
    scores: FloatVector
    """Cosine (inner product of unit vectors)."""


@dataclass(frozen=True, slots=True)
class LegScore:
    """What one leg of the search said of a hit."""

    rank: int
    """1-based."""
    score: float
    """Cosine for the dense leg, BM25 (higher is better) for the lexical one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Another place where the same passage stands."""

    document_id: str
    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that answers a query, with all that a citation needs."""

    rank: int
    """1-based."""
    score: float
    document_id: str
    version: int
    path: str
    title: str
    heading_path: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str
    dense: LegScore | None
    lexical: LegScore | None
    also: tuple[Place, ...]
    marks: tuple[Mark, ...] = ()
    """Those that hold for [start, end); the first may begin before it."""
    tokens: int | None = None
    """Of `text` (cl100k_base), as counted when it was cut; None where that is not known."""

    def position_at(self, offset: int) -> Position | None:
        """Return where the text at `offset` stands in its file; None where the format has no positions."""
        mark = self._mark_at(offset)
        return mark.position or None if mark else None

    def heading_path_at(self, offset: int) -> tuple[str, ...]:
        """Return the headings above the text at `offset`: more of them than all of the passage shares."""
        mark = self._mark_at(offset)
        return mark.heading_path if mark else self.heading_path

    def _mark_at(self, offset: int) -> Mark | None:
        return next((mark for mark in reversed(self.marks) if mark.start <= offset), None)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits of one snapshot."""

    hits: tuple[Hit, ...]
    generation: int
    term_weights: Mapping[str, float]
    """Inverse document frequency of the query's words in this collection (see `indexes.lexical.words`)."""


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


@dataclass(frozen=True, slots=True)
class Segment:
    """An immutable file of vectors: it holds every vector of its spec with first_id <= id <= last_id at its making."""

    ordinal: int
    file: str
    """Name below the collection's `segments` folder."""
    kind: str
    rows: int
    first_id: int
    last_id: int
    sha256: str
    size: int
    """Of the file, in bytes."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """What the index found out about itself when it was verified: candidates, cells to look into."""
    checksums: bytes = b""
    """Of the blocks of its range in the file of exact vectors; see `indexes.vector_map`."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One IndexSpec in service and the segments that speed it up; newer vectors are in the delta."""

    number: int
    spec: IndexSpec
    segments: tuple[Segment, ...]
    current: bool
    created_at: str
    retired_at: str | None = None
    """When it ceased to be in service; None for the current one."""
    rows: int = 0
    """Vectors that a search over it looks through: those in segments and the newer ones."""


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """Figures of one collection."""

    generation: int
    spec: IndexSpec
    documents: int
    stale_documents: int
    rejected_files: int
    """Of all sources, as their last runs listed them."""
    chunks: int
    vectors: int
    """Under the EmbeddingSpec in service, unreferenced ones included."""
    missing_vectors: int
    """Chunks of visible documents that have no vector under the spec in service: found by words alone."""
    segments: int
    delta_rows: int
    bytes: int
    """Of the store and the segments on disk."""
