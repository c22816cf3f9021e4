"""Documents that are handed in: accepted durably, done by a job, removed so that no job brings them back."""

import contextlib
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from indexes.collection import Collection
from indexes.errors import NotFound, SpecMismatch
from indexes.filters import MAX_TEXT, is_metadata_key
from indexes.types import DocumentInfo, EmbeddingSpec
from ingest.protocols import Embedder
from ingest.types import IngestOptions
from ragsvc import purging
from ragsvc.errors import BadRequest, ConfigurationError, Interrupted, StorageBusy, UnknownCollection
from ragsvc.governor import Purpose
from ragsvc.inbox import Delivery, Inbox
from ragsvc.job_store import JobStore
from ragsvc.jobs import Job, JobFile, Metadata
from ragsvc.library import Library
from ragsvc.purging import Purged
from ragsvc.settings import Settings
from ragsvc.specs import check_agrees
from ragsvc.upload_run import APPLY_LOCK, ROOT, UploadRun

MAX_PATH = 1024
"""Code points."""
MAX_METADATA = 64
"""Keys."""
INBOX_BODIES = 20
"""So many of the largest bodies may wait to be indexed, over all processes of a data directory."""
KEEP_DAYS, KEEP_JOBS = 30.0, 10_000
"""How long, and how many, finished jobs are listed."""
_NOT_ERASED = (
    "interrupted: the document is removed and no search finds it, but it is not erased from every file yet; the same "
    "command, the next `ragsvc index` or a server does the rest"
)
_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an upload."""

    documents: tuple[DocumentInfo, ...]
    rejected: tuple[JobFile, ...]


class Uploads:
    """Takes documents in and out of collections. Every call blocks: call it in a worker thread."""

    def __init__(
        self,
        settings: Settings,
        library: Library,
        jobs: JobStore,
        embedder_for: Callable[[EmbeddingSpec, Purpose], Embedder],
    ) -> None:
        """`embedder_for` raises EmbeddingUnavailable."""
        self._settings, self._library, self.jobs, self._embedder_for = settings, library, jobs, embedder_for
        self.max_bytes = settings.max_body_mb * 1024 * 1024
        self._inbox = Inbox(settings.data_dir / "uploads", INBOX_BODIES * self.max_bytes, jobs.spooled_bytes)

    def check(self, collection: str) -> Collection:
        """Return the collection that an upload may go to.

        Raises UnknownCollection; EmbeddingUnavailable where its documents could not be embedded; SpecMismatch where
        a setting that was made explicitly differs from what the collection is made by.
        """
        opened = self._library.open(collection)
        try:
            check_agrees(self._settings, opened.spec, collection)
        except ConfigurationError as error:
            raise SpecMismatch(str(error)) from None
        self._embedder_for(opened.spec.embedding, "ingest")
        return opened

    def open(self, expected_bytes: int) -> Delivery:
        """Begin to receive a body. Raises Overloaded, StorageFull."""
        return self._inbox.open(expected_bytes)

    def accept(self, delivery: Delivery, collection: str, metadata: Metadata) -> Job:
        """Make a received body durable and its job known; when this returns, it will be done. Raises as `check`."""
        opened = self.check(collection)
        delivery.seal()
        return delivery.hand_over(lambda: self.jobs.add_upload(delivery.id, opened.id, delivery.files, metadata))

    def outcome(self, job: Job) -> Outcome:
        """Return what became of a job's documents: those that stand at their paths, and those that were rejected."""
        files = self.jobs.files(job.id)
        paths = {file.path for file in files if file.state in ("applied", "unchanged")}
        collection = self._library.of_id(job.collection_id)
        source = next((source for source in collection.sources() if source.root == ROOT), None)
        entries = collection.manifest(source.id).entries if source is not None and paths else {}
        found = []
        for path in sorted(paths & entries.keys()):
            try:
                found.append(collection.document(entries[path].document_id))
            except NotFound:  # removed between two lines of this
                continue
        return Outcome(tuple(found), tuple(file for file in files if file.state == "rejected"))

    def remove(self, document_id: str) -> DocumentInfo:
        """Remove a document and return what it was; an upload of its path that was accepted before stays undone.

        Raises NotFound, StorageBusy.
        """
        collection = self._library.of_document(document_id)
        document = collection.document(document_id)
        with self._applying(collection):
            collection.remove_document(document_id)
            if document.source == ROOT:
                self.jobs.withdraw(collection.id, document.path, document_id)
        return document

    def purge(self, document_id: str) -> Purged:
        """Remove a document and erase it from every file; the same call goes on where one was killed.

        Raises NotFound, StorageBusy; and StoreBusy, RunGoesOn, or on Ctrl-C Interrupted, where it is removed and
        something of it is still kept.
        """
        collection = self._library.of_document(document_id)
        purged: Purged | None = None
        try:
            with self._applying(collection):
                purged = purging.begin(collection, self.jobs, self._inbox, document_id)
            purging.complete(collection, self.jobs, document_id)
        except KeyboardInterrupt:
            if any(purge.document_id == document_id for purge in collection.purges.pending()):
                raise Interrupted(_NOT_ERASED) from None
            if purged is None:
                raise
        return purged

    def look_after(self, collection: str) -> None:
        """Complete purges, and collect garbage once a day. What can't be done now is logged and done later."""
        purging.look_after(self._library.open(collection), self.jobs, self._settings.keep_vectors_days)

    def remove_source(self, collection_name: str, source_id: int) -> None:
        """Remove a source with its documents; accepted uploads go with the source of uploads. Raises NotFound."""
        collection = self._library.open(collection_name)
        with self._applying(collection):
            uploaded = any(source.id == source_id and source.root == ROOT for source in collection.sources())
            collection.remove_source(source_id)
            if uploaded:
                self.jobs.withdraw(collection.id)

    @contextmanager
    def _applying(self, collection: Collection) -> Iterator[None]:
        """Keep jobs from making documents visible."""
        lock = FileLock(self._library.locks(collection) / APPLY_LOCK, timeout=10, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            raise StorageBusy("documents are being made visible; try again in a moment") from None
        try:
            yield
        finally:
            lock.release()

    def prepare(self, job: Job) -> UploadRun:
        """Return an attempt at a job. Raises UnknownCollection, EmbeddingUnavailable."""
        collection = self._library.of_id(job.collection_id)
        options = IngestOptions(inputs=self._settings.embed_batch, concurrency=self._settings.embed_concurrency)
        embedder = self._embedder_for(collection.spec.embedding, "ingest")
        return UploadRun(job, collection, self._library.locks(collection), self.jobs, self._inbox, embedder, options)

    def locks(self, collection_id: str) -> Path:
        """Return the folder of a collection's locks. Raises UnknownCollection."""
        return self._library.locks(self._library.of_id(collection_id))

    def tidy(self) -> None:
        """Remove bodies that no job needs, jobs that nobody asks for any more, and what collections need no more."""
        self._inbox.sweep(self.jobs.unfinished)
        self.jobs.forget(KEEP_DAYS, KEEP_JOBS)
        for name in self._library.names():
            with contextlib.suppress(UnknownCollection):  # removed meanwhile
                self.look_after(name)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job, or ask who works on it to stop. Raises UnknownJob, JobFinished."""
        job = self.jobs.cancel(job_id)
        if job.finished:
            self.ended(job_id)
        return job

    def ended(self, job_id: str) -> None:
        """Remove the body of a job that has ended."""
        self._inbox.drop(job_id)


def upload_path(given: str) -> str:
    """Return a document's path as it is kept: relative, `/` between its parts, in NFC. Nothing is opened by it.

    Raises BadRequest.
    """
    path = unicodedata.normalize("NFC", given)
    if not path or len(path) > MAX_PATH:
        raise BadRequest(f"a path has 1 to {MAX_PATH:,} characters; this one has {len(path):,}")
    if any(unicodedata.category(char) in _HIDDEN for char in path):
        raise BadRequest(f"the path {path[:100]!r} has control characters in it; remove them")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise BadRequest(f"the path {path[:100]!r} is not relative and plain: no empty part, no `.`, no `..`")
    return path


def check_metadata(given: Mapping[str, object]) -> Metadata:
    """Return a document's metadata. Raises BadRequest for what a filter could not find again."""
    if len(given) > MAX_METADATA:
        raise BadRequest(f"metadata: at most {MAX_METADATA} keys, not {len(given)}")
    checked: dict[str, str | int | float | bool] = {}
    for key, value in given.items():
        if not is_metadata_key(key):
            raise BadRequest(
                f"metadata: {key[:100]!r} can't be a key: letters, digits, `_`, `.` and `-`, up to 64, the first a "
                "letter or `_`, and none of the names that a document has anyway"
            )
        if not isinstance(value, str | int | float) or not _fits(value):
            raise BadRequest(
                f"metadata: {key} must be a text of up to {MAX_TEXT:,} characters, a number of 64 bits, true or false"
            )
        checked[key] = value
    return checked


def _fits(value: str | float) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and "\0" not in value
    return math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63
