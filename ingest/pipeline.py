"""The paid half of a run: embed what is missing, and make every document visible as soon as it is whole."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from indexes.types import ChangeSet, DocumentUpsert, RejectedFile, StoredDocument
from ingest import template
from ingest.embedding import EmbeddingQueue, Pending
from ingest.errors import SpecChanged
from ingest.preparing import Prepared
from ingest.protocols import CollectionPort, Embedder
from ingest.types import DEFAULTS, IngestEvent, IngestOptions, IngestReport, OnEvent, Rejection, ignore

_GROUP_DOCUMENTS = 64
_GROUP_CHARACTERS = 4_000_000
_MOST_WAITING = 512
"""Documents that may wait for vectors at once."""
_ROUNDS = 5
"""How often vectors that others delete are paid for again before the document is left to the next run."""
_REFUSED = "the embedding provider refuses a part of its text"


async def apply(
    prepared: Prepared,
    collection: CollectionPort,
    embedder: Embedder,
    options: IngestOptions = DEFAULTS,
    on_event: OnEvent = ignore,
) -> IngestReport:
    """Pay for the missing vectors and make every document visible as soon as it is whole.

    After a failure of the provider, documents that are whole are still applied, then the failure is raised; the same
    command again pays only for what is missing. Raises NotFound when the source is removed meanwhile: what was read
    of it does not come back. Raises SpecChanged where the collection went over to another spec before; where it does so
    under the run, what the collection raises. The same command goes on under that spec.
    """
    started = time.monotonic()
    if embedder.spec != prepared.spec.embedding:
        raise SpecChanged("the collection went over to another spec while the run was prepared: repeat the command")
    source_id = prepared.changes.source_id
    if not source_id:  # a known one is not made again: it may have been removed meanwhile, and is to stay so
        source_id = (await asyncio.to_thread(collection.add_source, prepared.root, prepared.kind)).id
    work = _Application(prepared, collection, source_id, embedder, options, on_event)
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
        removed_by_hand=tuple(work.removed_by_hand),
        rejected=(*prepared.plan.rejected, *work.rejected),
        seconds=time.monotonic() - started,
    )


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
    removed_by_hand: list[str] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    queue: EmbeddingQueue = field(init=False)
    _embedded: int = 0
    _waiting: deque[DocumentUpsert] = field(default_factory=deque)
    _asked: set[bytes] = field(default_factory=set)
    _vanished: set[bytes] = field(default_factory=set)
    """Texts whose vector was stored when the run was prepared, and was deleted since."""
    _returned: list[DocumentUpsert] = field(default_factory=list)
    """Documents that were left out for that."""

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
                if len(self._returned) >= _MOST_WAITING:
                    await self._ask_again()
            await self.queue.flush()
            await self._apply_whole()
            await self._ask_again()
        except Exception:
            await self.queue.settle()
            await self._apply_whole()
            raise
        await self._reject_refused()
        if self.prepared.plan.missing:
            await self._embed_missing()

    async def _ask_again(self) -> None:
        """Pay for vectors that were deleted since the run counted on them, and apply their documents."""
        for _ in range(_ROUNDS):
            if not self._returned:
                return
            returned, self._returned = self._returned, []
            for document in returned:
                hashes = [chunk.embedded_hash for chunk in document.chunks]
                known = await asyncio.to_thread(self.collection.known_vectors, self.prepared.spec.embedding, hashes)
                self._vanished.update(set(hashes) - known)
                self._asked -= set(hashes) - known
                await self._ask_for(document)
                self._waiting.append(document)
            await self.queue.flush()
            await self._apply_whole()
        self.conflicts.extend(document.path for document in self._returned)

    async def _embed_missing(self) -> None:
        """Send the planned texts of documents that did not change; a rejected one goes on being found by words."""
        try:
            async for document in self._unembedded():
                await self._ask_for(document)
            await self.queue.flush()
        except Exception:
            await self.queue.settle()
            raise
        if self.queue.refused:
            async for document in self._unembedded():
                if not self.queue.refused.isdisjoint(chunk.embedded_hash for chunk in document.chunks):
                    self.rejected.append(Rejection(document.path, "limit", f"{_REFUSED}; it is found by words alone"))
        await asyncio.to_thread(self.collection.fold_if_due)

    async def _unembedded(self) -> AsyncIterator[StoredDocument]:
        after = 0
        while documents := await asyncio.to_thread(self.collection.unembedded, self.prepared.spec, after):
            for document in documents:
                yield document
            # There may be as many as the collection has: what was stored so far is not to wait in memory.
            await asyncio.to_thread(self.collection.fold_if_due)
            after = documents[-1].key

    async def _ask_for(self, document: DocumentUpsert | StoredDocument) -> None:
        name = self.prepared.spec.embedding.template
        for chunk in document.chunks:
            key = chunk.embedded_hash
            if (key in self.prepared.wanted or key in self._vanished) and key not in self._asked:
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
                await self._apply(self._upserts(whole))
                whole = []
        if whole:
            await self._apply(self._upserts(whole))

    def _upserts(self, documents: Sequence[DocumentUpsert]) -> ChangeSet:
        prepared = self.prepared
        return ChangeSet(
            self.source_id,
            upserts=tuple(documents),
            as_of=prepared.changes.as_of,
            spec=prepared.spec,
            needs_vectors=self.options.needs_vectors,
        )

    async def _reject_refused(self) -> None:
        """List the documents that hold a text the provider refuses; the version they had before stays, as stale."""
        refused = [Rejection(document.path, "limit", _REFUSED) for document in self._waiting]
        self.rejected.extend(refused)
        stale = tuple((kept.replaces[0], "limit") for kept in self._waiting if kept.replaces is not None)
        # Of an upload nothing is remembered: nobody looks for it again.
        kept_in_mind = () if self.prepared.kind == "upload" else refused
        rejections = tuple(RejectedFile(one.path, one.reason, one.detail) for one in kept_in_mind)
        await self._apply(ChangeSet(self.source_id, stale=stale, rejections=rejections))

    def _is_whole(self, document: DocumentUpsert) -> bool:
        return self.queue.outstanding.isdisjoint(chunk.embedded_hash for chunk in document.chunks)

    async def _apply(self, changes: ChangeSet) -> None:
        if not changes:
            return
        report = await asyncio.to_thread(self.collection.apply, changes)
        self.applied += len(report.documents)
        self.removed_by_hand += report.removed_by_hand
        left_out = set(report.incomplete)
        self._returned.extend(document for document in changes.upserts if document.path in left_out)
        for path in report.conflicts:
            self.conflicts.append(path)
            self.on_event(IngestEvent("conflict", path=path))
        if changes.upserts:
            self.on_event(IngestEvent("applied", self.applied, self.prepared.spool.count))
            await asyncio.to_thread(self.collection.fold_if_due)

    def _stored(self, inputs: int) -> None:
        self._embedded += inputs
        self.on_event(IngestEvent("embedded", self._embedded, len(self.prepared.wanted)))
