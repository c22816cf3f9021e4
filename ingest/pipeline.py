"""One run over a folder: walk -> plan -> read -> chunk -> embed -> sink.

`prepare` reads and cuts everything that changed and says what it would cost; `apply` pays and makes it visible. Between
the two nothing is written. A run holds the lock of its source, which dies with its process.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from indexes.types import (
    ChangeSet,
    Chunk,
    DocumentRename,
    DocumentUpsert,
    IndexSpec,
    Manifest,
    Source,
    SourceKind,
    text_hash,
)
from ingest import chunking, template, walk
from ingest.embedding import EmbeddingQueue, Pending
from ingest.errors import Rejected, RunLocked
from ingest.plan import plan as compare
from ingest.protocols import CollectionPort, Embedder
from ingest.readers import registry
from ingest.spool import Spool
from ingest.types import Document, IngestEvent, IngestPlan, IngestReport, Plan, Rejection, ScannedFile

_GROUP_DOCUMENTS = 64
_GROUP_CHARACTERS = 4_000_000
_MOST_WAITING = 512
"""Documents that may wait for vectors at once."""
OnEvent = Callable[[IngestEvent], None]


def ignore(_: object) -> None:
    """Listen to nothing: the default of `on_event`."""


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
    max_bytes: int = 50 * 1024 * 1024
    """Of a file; a larger one is rejected unread."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to be applied."""

    root: Path
    kind: SourceKind
    plan: IngestPlan
    changes: ChangeSet
    """All that needs no vector; `source_id` is filled in when applied."""
    spool: Spool
    wanted: frozenset[bytes]
    """Hashes of the texts to be embedded."""
    spec: IndexSpec


@contextmanager
def prepare(
    path: Path,
    collection: CollectionPort,
    locks: Path,
    options: IngestOptions = IngestOptions(),
    on_event: OnEvent = ignore,
) -> Iterator[Prepared]:
    """Compare `path` with the collection, read what changed, and hold the source's lock until the block ends.

    Raises PathError, TooManyRemovals, RunLocked. `locks` is the folder of the lock files.
    """
    sources = collection.sources()
    target = walk.resolve(str(path), sources, allow_empty=options.allow_empty)
    source = next((known for known in sources if known.root == str(target.root)), None)
    with _run_lock(locks, target.root), Spool(locks) as spool:
        manifest = _manifest(collection, source, target)
        found = compare(
            walk.scan(target.root, target.under),
            manifest,
            lambda file: walk.hash_file(target.root, file, options.max_bytes),
            verify=options.verify,
            allow_empty=options.allow_empty,
            reader_changed=lambda entry: not registry.is_current(entry.path, entry.reader),
        )
        preparation = _Preparation(collection, collection.spec, target.root, options, spool)
        preparation.read(found, on_event)
        yield preparation.finished(found, source, manifest.source.kind)


async def apply(
    prepared: Prepared,
    collection: CollectionPort,
    embedder: Embedder,
    options: IngestOptions = IngestOptions(),
    on_event: OnEvent = ignore,
) -> IngestReport:
    """Pay for the missing vectors and make every document visible as soon as it is whole.

    After a failure of the provider, documents that are whole are still applied, then the failure is raised; the same
    command again pays only for what is missing.
    """
    started = time.monotonic()
    source = await asyncio.to_thread(collection.add_source, str(prepared.root), prepared.kind)
    work = _Application(prepared, collection, source.id, embedder, options, on_event)
    try:
        await work.run()
    except asyncio.CancelledError:
        await work.queue.cancel()
        raise
    on_event(IngestEvent("done", work.applied, prepared.spool.count))
    return IngestReport(
        plan=prepared.plan,
        embedded_inputs=work.queue.inputs,
        embedded_tokens=work.queue.tokens,
        requests=work.queue.requests,
        applied=work.applied,
        conflicts=tuple(work.conflicts),
        rejected=(*prepared.plan.rejected, *work.rejected),
        seconds=time.monotonic() - started,
    )


@contextmanager
def _run_lock(locks: Path, root: Path) -> Iterator[None]:
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = hashlib.sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    lock = FileLock(locks / f"run-{name}.lock", timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise RunLocked(f"another run is indexing {root}; wait for it to end, then repeat the command") from None
    try:
        yield
    finally:
        lock.release()


def _manifest(collection: CollectionPort, source: Source | None, target: walk.Target) -> Manifest:
    if source is None:
        return Manifest(Source(0, str(target.root), "file" if target.root.is_file() else "folder"), {})
    return collection.manifest(source.id, target.under)


@dataclass(slots=True)
class _Preparation:
    """Reads and cuts documents into the spool, counting what their vectors would cost."""

    collection: CollectionPort
    spec: IndexSpec
    root: Path
    options: IngestOptions
    spool: Spool
    wanted: dict[bytes, int] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    stale: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0
    _unchecked: dict[bytes, int] = field(default_factory=dict)

    def read(self, found: Plan, on_event: OnEvent) -> None:
        """Read every added and changed file."""
        todo = [(None, file) for file in found.added] + [(entry, file) for entry, file in found.changed]
        for done, (entry, file) in enumerate(todo, 1):
            replaces = None if entry is None else (entry.document_id, entry.version)
            try:
                self._keep(self._document(file, replaces))
            except Rejected as rejected:
                self.reject(Rejection(file.path, rejected.reason, rejected.detail), replaces and replaces[0])
            on_event(IngestEvent("planned", done, len(todo), file.path))
        for known, rejection in found.unreadable:
            self.reject(rejection, None if known is None else known.document_id)
        self._check_known()

    def reject(self, rejection: Rejection, document_id: str | None) -> None:
        """List a file that can't be read; a document it had keeps its old version, as stale."""
        self.rejected.append(rejection)
        if document_id is not None:
            self.stale.append((document_id, rejection.reason))

    def finished(self, found: Plan, source: Source | None, kind: SourceKind) -> Prepared:
        """Return the run."""
        unread = {rejection.path for rejection in self.rejected}
        added = tuple(file.path for file in found.added if file.path not in unread)
        by_hand = self.collection.removed_by_hand(source.id) if source else frozenset()
        summary = IngestPlan(
            source=str(self.root),
            added=added,
            changed=tuple(file.path for _, file in found.changed if file.path not in unread),
            renamed=tuple((entry.path, file.path) for entry, file in found.renamed),
            removed=tuple(entry.path for entry in found.removed),
            unchanged=found.unchanged + len(found.touched),
            rejected=tuple(self.rejected),
            chunks=self.chunks,
            inputs=len(self.wanted),
            tokens=sum(self.wanted.values()),
            returned=tuple(path for path in added if path in by_hand),
        )
        changes = ChangeSet(
            source_id=source.id if source else 0,
            renames=tuple(DocumentRename(entry.document_id, file.path, file.stat) for entry, file in found.renamed),
            removals=tuple(entry.document_id for entry in found.removed),
            restats=tuple((entry.document_id, file.stat) for entry, file in found.touched),
            stale=tuple(self.stale),
        )
        return Prepared(self.root, kind, summary, changes, self.spool, frozenset(self.wanted), self.spec)

    def _document(self, file: ScannedFile, replaces: tuple[str, int] | None) -> DocumentUpsert:
        data = walk.read(self.root, file, self.options.max_bytes)
        document = registry.read(file.path, data)
        return DocumentUpsert(
            path=file.path,
            replaces=replaces,
            content_hash=walk.content_hash(data),
            stat=file.stat,
            content_type=document.content_type,
            title=document.title,
            text=document.text,
            metadata=document.metadata,
            reader=document.reader,
            chunks=cut(document, self.spec),
        )

    def _keep(self, document: DocumentUpsert) -> None:
        self.spool.append(document)
        self.chunks += len(document.chunks)
        name = self.spec.embedding.template
        for chunk in document.chunks:
            if chunk.embedded_hash not in self.wanted:
                header = template.header_tokens(name, document.title, chunk.heading_path)
                self._unchecked[chunk.embedded_hash] = header + chunk.tokens
        if len(self._unchecked) >= 4096:
            self._check_known()

    def _check_known(self) -> None:
        known = self.collection.known_vectors(self.spec.embedding, list(self._unchecked))
        self.wanted.update((key, tokens) for key, tokens in self._unchecked.items() if key not in known)
        self._unchecked.clear()


def cut(document: Document, spec: IndexSpec) -> tuple[Chunk, ...]:
    """Cut a document by `spec.chunks`; each chunk knows the hash of what is embedded for it by `spec.embedding`."""
    name = spec.embedding.template
    chunks = []
    for ordinal, piece in enumerate(chunking.chunk(document.text, document.sections, spec.chunks)):
        text = document.text[piece.start : piece.end]
        embedded = template.render(name, document.title, piece.heading_path, text)
        chunks.append(
            Chunk(
                ordinal=ordinal,
                start=piece.start,
                end=piece.end,
                tokens=piece.tokens,
                heading_path=piece.heading_path,
                page=piece.page,
                text_hash=text_hash(text),
                embedded_hash=text_hash(embedded),
            )
        )
    return tuple(chunks)


@dataclass(slots=True)
class _Application:
    """Sends missing texts, and applies each document once all its vectors are stored."""

    prepared: Prepared
    collection: CollectionPort
    source_id: int
    embedder: Embedder
    options: IngestOptions
    on_event: OnEvent
    applied: int = 0
    conflicts: list[str] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    queue: EmbeddingQueue = field(init=False)
    _embedded: int = 0
    _waiting: deque[DocumentUpsert] = field(default_factory=deque)
    _asked: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.queue = EmbeddingQueue(
            self.embedder,
            self.collection,
            inputs=self.options.inputs,
            concurrency=self.options.concurrency,
            on_stored=self._stored,
        )

    async def run(self) -> None:
        """Apply everything."""
        await self._apply(replace(self.prepared.changes, source_id=self.source_id))
        try:
            for document in self.prepared.spool:
                await self._ask_for(document)
                self._waiting.append(document)
                if len(self._waiting) >= _GROUP_DOCUMENTS:
                    await self._apply_whole()
                if len(self._waiting) >= _MOST_WAITING:
                    await self.queue.flush()
                    await self._apply_whole()
            await self.queue.flush()
        except Exception:
            await self.queue.settle()
            await self._apply_whole()
            raise
        await self._apply_whole()
        await self._reject_refused()

    async def _ask_for(self, document: DocumentUpsert) -> None:
        name = self.prepared.spec.embedding.template
        for chunk in document.chunks:
            key = chunk.embedded_hash
            if key in self.prepared.wanted and key not in self._asked:
                self._asked.add(key)
                text = template.render(name, document.title, chunk.heading_path, document.text[chunk.start : chunk.end])
                header = template.header_tokens(name, document.title, chunk.heading_path)
                await self.queue.put(Pending(key, text, header + chunk.tokens))

    async def _apply_whole(self) -> None:
        """Apply the waiting documents that have all their vectors, in groups; the others go on waiting."""
        waiting = list(self._waiting)
        self._waiting.clear()
        whole: list[DocumentUpsert] = []
        for document in waiting:
            if not self._is_whole(document):
                self._waiting.append(document)
                continue
            whole.append(document)
            if len(whole) >= _GROUP_DOCUMENTS or sum(len(kept.text) for kept in whole) > _GROUP_CHARACTERS:
                await self._apply(ChangeSet(self.source_id, upserts=tuple(whole)))
                whole = []
        if whole:
            await self._apply(ChangeSet(self.source_id, upserts=tuple(whole)))

    async def _reject_refused(self) -> None:
        """List the documents that hold a text the provider refuses; the version they had before stays, as stale."""
        stale = []
        for document in self._waiting:
            self.rejected.append(Rejection(document.path, "limit", "the embedding provider refuses a part of its text"))
            if document.replaces is not None:
                stale.append((document.replaces[0], "limit"))
        await self._apply(ChangeSet(self.source_id, stale=tuple(stale)))

    def _is_whole(self, document: DocumentUpsert) -> bool:
        return self.queue.outstanding.isdisjoint(chunk.embedded_hash for chunk in document.chunks)

    async def _apply(self, changes: ChangeSet) -> None:
        if not changes:
            return
        report = await asyncio.to_thread(self.collection.apply, changes)
        self.applied += len(report.documents)
        for path in report.conflicts:
            self.conflicts.append(path)
            self.on_event(IngestEvent("conflict", path=path))
        if changes.upserts:
            self.on_event(IngestEvent("applied", self.applied, self.prepared.spool.count))
            await asyncio.to_thread(self.collection.fold_if_due)

    def _stored(self, inputs: int) -> None:
        self._embedded += inputs
        self.on_event(IngestEvent("embedded", self._embedded, len(self.prepared.wanted)))
