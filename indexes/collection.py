"""`Collection`: one named corpus in one folder. Keeps store and index in step; all calls are safe from many threads."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from indexes import (
    store_backup,
    store_changes,
    store_documents,
    store_generations,
    store_recutting,
    store_rejections,
    store_search,
    store_vectors,
    store_words,
)
from indexes.current_snapshot import CurrentSnapshot
from indexes.errors import Conflict, InvalidVectors, SpecMismatch, StoreNotFound
from indexes.garbage import Garbage
from indexes.generations import AUTO, DELTA_ROWS, Segments
from indexes.publishing import Generations
from indexes.purges import Purges
from indexes.search import Query, Remembered, require_valid, search
from indexes.segment_files import SegmentFiles
from indexes.snapshots import last_row
from indexes.store import Store
from indexes.store_backup import Contents
from indexes.store_changes import Serving
from indexes.store_vectors import Head
from indexes.types import (
    ApplyReport,
    ChangeSet,
    CollectionStatus,
    DocumentInfo,
    EmbeddingSpec,
    Filter,
    FloatMatrix,
    FloatVector,
    IndexSpec,
    Manifest,
    Mode,
    SearchResult,
    Source,
    SourceKind,
    StoredDocument,
    TextSlice,
)

_UNIT_TOLERANCE = 1e-2
_HASH_BYTES = 32
_ID = re.compile(r"[a-z0-9]{6}")


class Collection:
    """Documents, their text, words and vectors, and the search over them. `create` or `open` one; `close` it.

    Satisfies `ingest.protocols.ChunkSource` and `ChunkSink`. Every write is one durable transaction; what another
    process commits is seen by the next call.
    """

    generations: Generations
    """In service, kept, and prepared; satisfies `ingest.protocols.GenerationPort`."""
    garbage: Garbage
    """What nothing uses any more."""
    purges: Purges
    """Documents that are erased for good."""

    def __init__(self, store: Store, folder: Path, collection_id: str, delta_rows: int, kind: str) -> None:
        self._store, self._folder = store, folder
        self._files = SegmentFiles(store, folder)
        if not store.read_only:
            try:
                self._files.make_folders()
            except BaseException:
                store.close()
                raise
        self._segments = Segments(store, self._files, kind, delta_rows)
        self._id = collection_id
        self._remembered = Remembered()
        self._current = CurrentSnapshot(store, self._files, self._segments, self._remembered.visibility)
        self.generations = Generations(store, self._segments)
        self.garbage = Garbage(store, self._segments, folder)
        self.purges = Purges(store, self._segments, folder)

    @classmethod
    def create(
        cls, folder: Path, collection_id: str, spec: IndexSpec, *, delta_rows: int = DELTA_ROWS, kind: str = AUTO
    ) -> Self:
        """Make an empty collection, generation 1 of `spec`; `collection_id` is six characters a-z0-9.

        Raises Conflict where there is one. A creation that was killed is completed by the same call.
        """
        if not _ID.fullmatch(collection_id):
            raise ValueError(f"a collection's id is six of a-z0-9, not {collection_id!r}")
        store = Store.create(folder)
        try:
            _initialise(store, collection_id, spec)
        except BaseException:
            store.close()
            raise
        return cls(store, folder, collection_id, delta_rows, kind)

    @classmethod
    def open(cls, folder: Path, *, delta_rows: int = DELTA_ROWS, kind: str = AUTO) -> Self:
        """Open a collection; its new segments will be of `kind`.

        Raises StoreNotFound, StoreTooNew (nothing is changed) or StoreDamaged.
        """
        store = Store.open(folder)
        try:
            collection_id = _prepare(store)
        except BaseException:
            store.close()
            raise
        return cls(store, folder, collection_id, delta_rows, kind)

    def close(self) -> None:
        """Close the files. Calls that are under way end first or fail cleanly."""
        self._current.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The six characters that stand in the ids of its documents."""
        return self._id

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder

    @property
    def spec(self) -> IndexSpec:
        """The spec in service: new documents are cut and embedded by it."""
        return self._head().spec

    @property
    def generation(self) -> int:
        """The number of the generation in service."""
        return self._head().generation

    def _head(self) -> Head:
        with self._store.read() as connection:
            return store_vectors.head(connection)

    # Sources and what is known of them

    def sources(self) -> tuple[Source, ...]:
        """Return the sources of the collection, oldest first."""
        with self._store.read() as connection:
            return store_documents.sources(connection)

    def add_source(self, root: str, kind: SourceKind) -> Source:
        """Return the source with that root, made if it is new.

        Raises SourceOverlap where the root contains, or lies in, the root of another source.
        """
        with self._store.read() as connection:
            known = store_documents.known_source(connection, root)
        if known is not None:
            return known
        with self._store.write() as connection:
            return store_documents.insert_source(connection, root, kind)

    def remove_source(self, source_id: int) -> None:
        """Remove a source with its documents. Raises NotFound."""
        with store_changes.changing(self._store) as connection:
            store_changes.remove_source(connection, source_id)

    def manifest(self, source_id: int, under: str = "") -> Manifest:
        """Return what is known of a source, or of the folder `under` (a relative path) of it. Raises NotFound."""
        with self._store.read() as connection:
            found = store_documents.manifest(connection, source_id, under)
            return replace(found, rejected=store_rejections.known(connection, source_id, under))

    def removed_by_hand(self, source_id: int) -> frozenset[str]:
        """Return the paths that were removed by hand and have not come back since."""
        with self._store.read() as connection:
            return store_documents.removed_by_hand(connection, source_id)

    def known_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes]) -> frozenset[bytes]:
        """Return those of `hashes` (of embedded texts) whose vector is stored."""
        with self._store.read() as connection:
            spec_id = store_vectors.known_embedding_spec_id(connection, spec)
            return frozenset() if spec_id is None else store_vectors.known_vectors(connection, spec_id, hashes)

    def vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes]) -> dict[bytes, FloatVector]:
        """Return the stored unit vectors of those of `hashes` (of embedded texts) that have one under `spec`."""
        with self._store.read() as connection:
            spec_id = store_vectors.known_embedding_spec_id(connection, spec)
            if spec_id is None:
                return {}
            return store_vectors.vectors_of(connection, spec_id, spec.dimensions, hashes)

    def unembedded(self, spec: IndexSpec, after: int = 0) -> tuple[StoredDocument, ...]:
        """Return visible documents with chunks under `spec` that have no vector, a page of them, with those chunks."""
        with self._store.read() as connection:
            spec_ids = store_generations.known_spec_ids(connection, spec)
            return store_recutting.unembedded(connection, spec_ids, after)

    # Writing

    def add_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes], vectors: FloatMatrix) -> None:
        """Keep vectors (n, dimensions) under the 32-byte hashes of their texts; known ones are left as they are.

        Raises InvalidVectors for another shape, values that are not finite, or lengths outside 1 +- 1e-2: then none
        is kept.
        """
        vectors = _checked(spec, hashes, vectors)
        if not len(hashes):
            return
        with self._store.write() as connection:
            store_vectors.insert_vectors(connection, store_vectors.embedding_spec_id(connection, spec), hashes, vectors)

    def apply(self, changes: ChangeSet) -> ApplyReport:
        """Make the changes visible, all of them, in one transaction. An empty set writes nothing.

        An upsert or rename whose document is not what the plan saw, or whose path was removed by hand since, is left
        out and reported as a conflict. Vectors may come later: until then a chunk is found by its words. Raises
        NotFound for an unknown source, SpecMismatch for upserts that were cut by another spec than the one in service,
        and ValueError for a text with lone surrogates.
        """
        if not changes:
            return ApplyReport({})
        store_changes.require_storable(changes)
        with store_changes.changing(self._store) as connection:
            head = store_vectors.head(connection)
            if changes.upserts and changes.spec not in (None, head.spec):
                raise SpecMismatch(
                    f"the collection went over to generation {head.generation} while documents were cut for another: "
                    "repeat the command"
                )
            serving = Serving(self._id, head.embedding_spec_id, head.chunk_spec_id)
            return store_changes.apply(connection, changes, serving)

    def remove_document(self, document_id: str, by_hand: bool = True) -> None:
        """Remove a document; `by_hand` is remembered until its path comes back. Raises NotFound."""
        with store_changes.changing(self._store) as connection:
            removed = store_changes.remove_document(connection, document_id)
            if by_hand:
                store_changes.remember_removal(connection, document_id, *removed)

    def fold(self) -> bool:
        """Turn the delta into a segment; say whether there was anything to fold and nobody else was building."""
        return self._segments.fold()

    def fold_if_due(self) -> bool:
        """Turn the delta into a segment when it has grown past its limit; say whether it did.

        Where others change the segments meanwhile, or write for long, it did not: it is due again, and nothing is lost.
        """
        return self._segments.fold_if_due()

    def rebuild_segments(self, files: frozenset[str]) -> bool:
        """Build segments anew from the store, by the names of their files; say whether nobody else was building."""
        return self._segments.rebuild(files)

    # Reading

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
        """Return at most `k` hits, best first: passages, each shown once with all its other places.

        `vector` has shape (dimensions,) and unit length; lexical search needs none. Scores are cosines (dense), BM25
        (lexical) or the mean of both, each stretched to 0..1 (hybrid: `indexes.fusion`). `dense_weight` 0 takes the
        dense leg's vote away and still shows its scores. Raises InvalidQuery.
        """
        asked = Query(query, vector, k, mode, where, dense_weight)
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            require_valid(asked, head.spec.embedding.dimensions)
            result = search(connection, self._current.covering(connection, head), self._remembered, head, asked)
        self._current.wake_if_stale(head)
        return result

    def load(self) -> None:
        """Load the segments, and what filters need, now, so that no search waits for them."""
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            self._current.covering(connection, head)
            self._remembered.visibility.load(connection, head)
        self._current.wake_if_stale(head)

    def settle(self, seconds: float = 60.0) -> bool:
        """Wait until new segments are loaded and damaged ones rebuilt, at most so long; say whether they are."""
        self.load()
        return self._current.settle(seconds)

    def documents(
        self, source: str | None, limit: int, after: str | None
    ) -> tuple[tuple[DocumentInfo, ...], str | None]:
        """Return up to `limit` documents by source and path, of the source with that root if given, and a cursor.

        Pass the cursor as `after` for the next page; None ends the list. Raises NotFound for an unknown root and
        InvalidQuery for a bad limit or cursor.
        """
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            return store_documents.documents(connection, head.chunk_spec_id, source, limit, after)

    def document(self, document_id: str) -> DocumentInfo:
        """Return one document. Raises NotFound."""
        with self._store.read() as connection:
            return store_documents.document(connection, store_vectors.head(connection).chunk_spec_id, document_id)

    def text(self, document_id: str, start: int = 0, end: int | None = None, version: int | None = None) -> TextSlice:
        """Return characters `start` to `end` of a document's text, of its `version` if given.

        Raises NotFound, VersionGone when that version is not the visible one, InvalidQuery for a range outside it.
        """
        with self._store.read() as connection:
            return store_documents.text(connection, document_id, start, end, version)

    def status(self) -> CollectionStatus:
        """Return figures of the collection, of one moment."""
        with self._store.read() as connection:
            head = store_vectors.head(connection)
            segments = store_vectors.segments(connection, head.generation)
            documents, stale = store_search.document_counts(connection)
            chunks = store_words.rows(connection, head.chunk_spec_id)
            missing = self._remembered.visibility.missing(connection, head)
            rejected = store_rejections.count(connection)
            vectors = store_vectors.count_vectors(connection, head.embedding_spec_id)
            delta = store_vectors.count_vectors(connection, head.embedding_spec_id, last_row(segments))
        return CollectionStatus(
            generation=head.generation,
            spec=head.spec,
            documents=documents,
            stale_documents=stale,
            rejected_files=rejected,
            chunks=chunks,
            vectors=vectors,
            missing_vectors=missing,
            segments=len(segments),
            delta_rows=delta,
            bytes=self._store.bytes_on_disk() + self._files.bytes_on_disk(),
        )

    def backup(self, file: Path, *, overwrite: bool = False) -> Contents:
        """Write everything but what is derived into one file. See `indexes.store_backup.write`."""
        return store_backup.write(self._store, file, overwrite=overwrite)


def _initialise(store: Store, collection_id: str, spec: IndexSpec) -> None:
    with store.write() as connection:
        if store_vectors.collection_id(connection) is not None:
            raise Conflict(f"there is already a collection at {store.path}; open it instead")
        store_words.rebuild(connection)
        store_vectors.insert_generation(connection, spec)
        store_vectors.set_collection_id(connection, collection_id)


def _prepare(store: Store) -> str:
    """Return the collection's id, with the words rebuilt where another release wrote them."""
    with store.read() as connection:
        collection_id = store_vectors.collection_id(connection)
        current = store_words.are_current(connection)
    if collection_id is None:
        raise StoreNotFound(f"the collection at {store.path} was not completely created; create it again")
    if not current:
        with store.write() as connection:
            store_words.rebuild(connection)
    return collection_id


def _checked(spec: EmbeddingSpec, hashes: Sequence[bytes], vectors: FloatMatrix) -> FloatMatrix:
    """Return the vectors as float32, or raise InvalidVectors; ValueError for a key that is no hash."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.shape != (len(hashes), spec.dimensions):
        raise InvalidVectors(f"vectors of shape {vectors.shape}, expected ({len(hashes)}, {spec.dimensions})")
    if any(len(text_hash) != _HASH_BYTES for text_hash in hashes):
        raise ValueError(f"a vector's key is a hash of {_HASH_BYTES} bytes")
    norms = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) <= _UNIT_TOLERANCE))
    if len(bad):
        raise InvalidVectors(f"vector {bad[0]} has length {norms[bad[0]]}: it must be finite and of unit length")
    return vectors
