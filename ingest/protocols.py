"""What the ingest needs from others: an embedder above it, a collection below it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from indexes.types import (
    ApplyReport,
    ChangeSet,
    DocumentCut,
    EmbeddingSpec,
    FloatMatrix,
    Generation,
    IndexSpec,
    Manifest,
    Source,
    SourceKind,
    StoredDocument,
)
from ingest.types import Document


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one embedding request may carry, all three at once."""

    inputs: int = 2048
    tokens_per_input: int = 8191
    tokens: int = 300_000
    """In sum over the inputs."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Validated vectors, one row per text in the order of the texts, float32 of unit length, and tokens paid for."""

    vectors: FloatMatrix
    tokens: int


class Embedder(Protocol):
    """Texts to vectors of one EmbeddingSpec."""

    @property
    def spec(self) -> EmbeddingSpec:
        """What its vectors are made by."""
        ...

    @property
    def limits(self) -> RequestLimits:
        """What one call may carry."""
        ...

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed up to `limits.inputs` texts in one request."""
        ...

    async def embed_query(self, text: str) -> Embedded:
        """Embed one query; shape (1, dimensions)."""
        ...


class Reader(Protocol):
    """Bytes to a Document."""

    def __call__(self, data: bytes, content_type: str) -> Document:
        """Read `data`; raise `ingest.errors.Rejected` with the contract's reason where that can't be done."""
        ...


class ChunkSource(Protocol):
    """What a run reads from a collection."""

    @property
    def spec(self) -> IndexSpec:
        """The spec in service: new documents are cut and embedded by it."""
        ...

    def sources(self) -> tuple[Source, ...]:
        """Return the sources of the collection."""
        ...

    def manifest(self, source_id: int, under: str = "") -> Manifest:
        """Return what is known of a source, or of the folder `under` (a relative path) of it."""
        ...

    def removed_by_hand(self, source_id: int) -> frozenset[str]:
        """Return the paths that were removed by hand and have not come back since."""
        ...

    def known_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes]) -> frozenset[bytes]:
        """Return those of `hashes` (of embedded texts) whose vector is stored."""
        ...

    def unembedded(self, spec: IndexSpec, after: int = 0) -> tuple[StoredDocument, ...]:
        """Return visible documents with chunks under `spec` that have no vector, a page of them, with those chunks."""
        ...


class ChunkSink(Protocol):
    """What a run writes to a collection. Each call is one durable transaction."""

    def add_source(self, root: str, kind: SourceKind) -> Source:
        """Return the source with that root, made if it is new. Raises SourceOverlap."""
        ...

    def add_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes], vectors: FloatMatrix) -> None:
        """Keep vectors (n, dimensions) under the hashes of their texts; known ones are left as they are."""
        ...

    def apply(self, changes: ChangeSet) -> ApplyReport:
        """Make the changes visible, all of them, in one transaction."""
        ...

    def fold_if_due(self) -> bool:
        """Turn the delta into a segment when it has grown past its limit; say whether it did."""
        ...


class CollectionPort(ChunkSource, ChunkSink, Protocol):
    """Both sides of a collection."""


class GenerationPort(Protocol):
    """What it takes to bring a collection to another IndexSpec, or back to an earlier one."""

    def before(self, number: int | None = None) -> Generation:
        """Return the generation that `rollback` would serve."""
        ...

    def uncut(self, spec: IndexSpec, after: int = 0) -> tuple[StoredDocument, ...]:
        """Return visible documents that are not cut by `spec` yet, a page of them, behind the key `after`."""
        ...

    def add_cuts(self, spec: IndexSpec, cuts: Sequence[DocumentCut]) -> int:
        """Store chunks under `spec`, invisible until it is published, and return of how many documents."""
        ...

    def publish(self, spec: IndexSpec, recut: Callable[[StoredDocument], DocumentCut] | None = None) -> int | None:
        """Put another IndexSpec in service and return its number; what comes in the last moment is cut by `recut`."""
        ...

    def rollback(self, number: int | None = None) -> int | None:
        """Serve a kept generation again and return its number; None where documents are not cut by its spec."""
        ...

    def drop_retired(self) -> None:
        """Take apart what only generations that are kept no longer needed."""
        ...
