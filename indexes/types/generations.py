"""What serves the searches of a collection, and its figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from indexes.types.specs import IndexSpec


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
