"""Does one upload job: reads its documents, pays for what is missing, makes each visible once.

Safe to be killed at any instant: what was applied is found unchanged by the next attempt, vectors were kept on arrival.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock

from indexes.types import (
    ApplyReport,
    ChangeSet,
    EmbeddingSpec,
    FileStat,
    FloatMatrix,
    IndexSpec,
    Manifest,
    ManifestEntry,
    Source,
    SourceKind,
    StoredDocument,
)
from ingest import pipeline, preparing
from ingest.errors import NotGiven, Rejected
from ingest.preparing import Given, Prepared
from ingest.protocols import CollectionPort, Embedded, Embedder, RequestLimits
from ingest.readers import registry
from ingest.types import Document, IngestEvent, IngestOptions, Rejection
from ragsvc.errors import UploadLost
from ragsvc.inbox import Inbox
from ragsvc.indexing import price
from ragsvc.job_store import JobStore
from ragsvc.jobs import Job, JobFile, Metadata
from ragsvc.protocols import DocumentReader

T = TypeVar("T")
ROOT = "upload"
"""Root of the source that uploads make."""
APPLY_LOCK = "uploads.lock"
"""Held while documents of an upload become visible, and while one is removed: so that a removal that was acknowledged
is not undone by a job that had begun before it."""
MAX_DEATHS = 2
"""Processes that may die while they read a document before it is rejected as `crash`."""
_ROUNDS = 3


class Stopped(Exception):
    """The job is to stop; what was applied stays."""


class UploadedCollection(CollectionPort, DocumentReader, Protocol):
    """What a run needs of `indexes.collection.Collection`: to write, and to show a document."""


@dataclass(slots=True)
class UploadRun:
    """One attempt at a job. `work` it in the event loop; `stop` it from anywhere."""

    job: Job
    collection: UploadedCollection
    locks: Path
    jobs: JobStore
    inbox: Inbox
    embedder: Embedder
    options: IngestOptions
    inputs_done: int = 0
    inputs_total: int = 0
    _meter: "Meter" = field(init=False)
    _sink: "Sink" = field(init=False)

    def __post_init__(self) -> None:
        self._meter = Meter(self.embedder)
        self._sink = Sink(self.collection, self.jobs, self.job.id, self.locks / APPLY_LOCK)

    def stop(self) -> None:
        """Let nothing more be read or applied; the run ends by Stopped at its next step."""
        self._sink.stopping = True

    def note_progress(self) -> None:
        """Write down how far it is and what it cost. Blocks."""
        tokens = self._meter.take()
        self.jobs.progress(self.job.id, self.inputs_done, self.inputs_total, tokens, price(self._meter.spec, tokens))

    async def work(self) -> None:
        """Decide every document that is pending.

        Raises Stopped, RunLocked, and the provider's, the store's and the inbox's errors: then what is decided stays.
        """
        try:
            for _ in range(_ROUNDS):
                pending = [file for file in await in_thread(self._files) if file.state == "pending"]
                if not pending:
                    return
                await self._round(pending)
        finally:
            await in_thread(self.note_progress)
        raise RuntimeError(f"documents of {self.job.id} changed under the run {_ROUNDS} times")

    def _files(self) -> Sequence[JobFile]:
        return self.jobs.files(self.job.id)

    async def _round(self, pending: Sequence[JobFile]) -> None:
        uploads = {file.path: Upload(self, file) for file in pending}
        given = [upload.given() for upload in uploads.values()]

        def unchanged(entry: ManifestEntry, item: Given) -> bool:
            return uploads[item.path].is_at(entry)

        stack = ExitStack()
        try:
            prepared: Prepared = await in_thread(
                lambda: stack.enter_context(
                    preparing.prepare_given(given, ROOT, self._sink, self.locks, self._planned, unchanged)
                )
            )
            uploads.clear()
            self.inputs_total = len(prepared.wanted)
            report = await pipeline.apply(prepared, self._sink, self._meter, self.options, self._happened)
        finally:
            await in_thread(lambda: self._close(stack))
        await in_thread(lambda: self._conclude(prepared, report.rejected, pending))

    def _close(self, stack: ExitStack) -> None:
        with self._sink.guard:  # a thread may still be applying for a run that was cancelled
            stack.close()

    def _conclude(self, prepared: Prepared, rejected: Sequence[Rejection], pending: Sequence[JobFile]) -> None:
        self.jobs.rejected(self.job.id, rejected)
        touched = {*prepared.plan.added, *prepared.plan.changed, *(rejection.path for rejection in rejected)}
        self.jobs.unchanged(self.job.id, [file.path for file in pending if file.path not in touched])

    def _planned(self, _: IngestEvent) -> None:
        self.check()

    def _happened(self, event: IngestEvent) -> None:
        if event.kind == "embedded":
            self.inputs_done = event.done

    def check(self) -> None:
        """Raise Stopped when the run is to stop."""
        if self._sink.stopping:
            raise Stopped


@dataclass(slots=True)
class Upload:
    """One document of a job, on its way to the preparation."""

    run: UploadRun
    file: JobFile
    _read: Document | None = None

    def given(self) -> Given:
        """Return it as the preparation takes it."""
        received = self.file.received_ns
        stat = FileStat(size=self.file.size, mtime_ns=received, inode=0, scanned_ns=received)
        return Given(self.file.path, stat, self.file.content_hash, self.take)

    def is_at(self, entry: ManifestEntry) -> bool:
        """Whether a document that stands at its path is what it would become."""
        if entry.state != "indexed" or entry.content_hash != self.file.content_hash:
            return False
        if not registry.is_current(entry.path, entry.reader):
            return False
        known = self.run.collection.document(entry.document_id).metadata
        if _typed(known) == _typed(self.run.job.metadata):
            return True
        try:
            read = self.read()  # only the reader knows what of it is the document's own
        except Rejected:
            return False
        same = _typed(known) == _typed(read.metadata)
        self._read = None if same else read
        return same

    def take(self) -> Document:
        """Return what a reader makes of it, and keep nothing. Raises Rejected."""
        read, self._read = self._read, None
        return read or self.read()

    def read(self) -> Document:
        """Return what a reader makes of it, with the upload's metadata over the document's own. Raises Rejected."""
        run, file = self.run, self.file
        run.check()
        if file.deaths >= MAX_DEATHS:
            raise Rejected("crash", f"the process that read it died {file.deaths} times")
        data = self._body()
        wary = run.job.attempts > 1
        if wary:
            run.jobs.reading(run.job.id, file.path)
        document = None
        try:
            document = registry.read(file.path, data)
        finally:
            if wary:
                run.jobs.read(run.job.id, file.path)
        return replace(document, metadata={**document.metadata, **run.job.metadata})

    def _body(self) -> bytes:
        run, file = self.run, self.file
        try:
            return run.inbox.read(run.job.id, file)
        except UploadLost:
            if file.path in run.jobs.pending(run.job.id):
                raise
        raise NotGiven("limit", "it was removed for good while its job was under way")


def _typed(metadata: Metadata) -> dict[str, tuple[type, str | float]]:
    """Return metadata so that values of two kinds differ: a filter tells 1 from true, and Python does not."""
    return {key: (type(value), value) for key, value in metadata.items()}


class Sink:
    """A collection that keeps the job's books: what became visible, and what must not become so any more."""

    def __init__(self, collection: CollectionPort, jobs: JobStore, job_id: str, lock: Path) -> None:
        """`lock` is the collection's APPLY_LOCK."""
        self._collection, self._jobs, self._job_id, self._lock = collection, jobs, job_id, lock
        self.guard = threading.Lock()
        self.stopping = False

    @property
    def spec(self) -> IndexSpec:
        """The spec in service."""
        return self._collection.spec

    def sources(self) -> tuple[Source, ...]:
        """Return the sources."""
        return self._collection.sources()

    def manifest(self, source_id: int, under: str = "") -> Manifest:
        """Return what is known of a source."""
        return self._collection.manifest(source_id, under)

    def removed_by_hand(self, source_id: int) -> frozenset[str]:
        """Return the paths that were removed by hand."""
        return self._collection.removed_by_hand(source_id)

    def known_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes]) -> frozenset[bytes]:
        """Return the hashes whose vector is stored."""
        return self._collection.known_vectors(spec, hashes)

    def unembedded(self, spec: IndexSpec, after: int = 0) -> tuple[StoredDocument, ...]:
        """Return visible documents with chunks that have no vector."""
        return self._collection.unembedded(spec, after)

    def add_source(self, root: str, kind: SourceKind) -> Source:
        """Return the source, made if it is new."""
        return self._collection.add_source(root, kind)

    def add_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes], vectors: FloatMatrix) -> None:
        """Keep vectors; also after a stop, for they are paid."""
        self._collection.add_vectors(spec, hashes, vectors)

    def apply(self, changes: ChangeSet) -> ApplyReport:
        """Make visible what was not withdrawn, and write down that it is. Raises Stopped."""
        with self.guard, FileLock(self._lock, timeout=30, mode=0o600):
            if self.stopping:
                raise Stopped
            pending = self._jobs.pending(self._job_id)
            kept = tuple(upsert for upsert in changes.upserts if upsert.path in pending)
            report = self._collection.apply(replace(changes, upserts=kept))
            self._jobs.applied(self._job_id, report.documents)
        return report

    def fold_if_due(self) -> bool:
        """Turn the delta into a segment when it is due."""
        return self._collection.fold_if_due()


class Meter:
    """An Embedder that counts what it was charged."""

    def __init__(self, inner: Embedder) -> None:
        """Counts from 0."""
        self._inner = inner
        self._tokens = 0
        self._guard = threading.Lock()

    @property
    def spec(self) -> EmbeddingSpec:
        """What its vectors are made by."""
        return self._inner.spec

    @property
    def limits(self) -> RequestLimits:
        """What one call may carry."""
        return self._inner.limits

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed texts, and count."""
        embedded = await self._inner.embed_documents(texts)
        with self._guard:
            self._tokens += embedded.tokens
        return embedded

    async def embed_query(self, text: str) -> Embedded:
        """Embed a query; a run has none."""
        return await self._inner.embed_query(text)

    def take(self) -> int:
        """Return the tokens since the last call."""
        with self._guard:
            taken, self._tokens = self._tokens, 0
        return taken


async def in_thread(function: Callable[[], T]) -> T:
    """Return what `function` returns in a worker thread. A cancellation waits for the thread before it goes on."""
    future = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # looked at, so that nobody complains
        raise
