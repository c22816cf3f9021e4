"""From a folder, or from documents that are given, to a run that is ready to be paid for.

Everything that changed is read and cut; nothing is written. A run holds the lock of its source, which dies with its
process.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from indexes.types import (
    UNSEEN,
    ChangeSet,
    Chunk,
    DocumentRename,
    DocumentUpsert,
    FileStat,
    IndexSpec,
    Manifest,
    ManifestEntry,
    Mark,
    Position,
    RejectedFile,
    SectionStart,
    Source,
    SourceKind,
    run_lock_name,
    text_hash,
)
from ingest import chunking, template, walk
from ingest.errors import NotGiven, Rejected, RunLocked
from ingest.plan import plan as compare
from ingest.protocols import CollectionPort
from ingest.readers import registry
from ingest.spool import Spool
from ingest.types import (
    DEFAULTS,
    Document,
    IngestEvent,
    IngestOptions,
    IngestPlan,
    OnEvent,
    Plan,
    Rejection,
    RejectionReason,
    ScannedFile,
    ignore,
)

Read = Callable[[ScannedFile], tuple[bytes, Document]]
"""A file to the SHA-256 of its bytes and what a reader makes of them. Raises Rejected, NotGiven without its bytes."""
_MOMENT = 0.2
"""Seconds: who only looks whether a run goes on holds its lock for less."""
_LOOKED_AT = 1 << 20
"""A file of more bytes is looked at before it is read whole: a film is not."""


@dataclass(frozen=True, slots=True)
class Given:
    """A document that comes to a run instead of being found by it: an upload, a text of a labelled corpus."""

    path: str
    stat: FileStat
    content_hash: bytes
    """SHA-256 of its bytes."""
    read: Callable[[], Document]
    """Raises Rejected."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to be applied."""

    root: str
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
    options: IngestOptions = DEFAULTS,
    on_event: OnEvent = ignore,
) -> Iterator[Prepared]:
    """Compare `path` with the collection, read what changed, and hold the source's lock until the block ends.

    Raises PathError, TooManyRemovals, RunLocked. `locks` is the folder of the lock files.
    """
    sources = collection.sources()
    target = walk.resolve(str(path), sources, allow_empty=options.allow_empty)
    root = str(target.root)
    with run_lock(locks, root), Spool(locks) as spool:
        source = _known(collection.sources(), root)  # asked again: the run that held the lock may have made it
        kind: SourceKind = "file" if source is None and target.root.is_file() else "folder"
        manifest = _manifest(collection, source, Source(0, root, kind), target.under)
        found = compare(
            walk.scan(target.root, target.under, options.left_out),
            manifest,
            lambda file: walk.hash_file(target.root, file, options.max_bytes),
            verify=options.verify,
            allow_empty=options.allow_empty,
            reader_changed=lambda entry: not registry.is_current(entry.path, entry.reader),
            still_refused=lambda known: known.readers == registry.FINGERPRINT and known.stat.size <= options.max_bytes,
        )

        def read(file: ScannedFile) -> tuple[bytes, Document]:
            if _LOOKED_AT < file.stat.size <= options.max_bytes:
                registry.refuse_by_start(file.path, walk.read_start(target.root, file, registry.START))
            data = walk.read(target.root, file, options.max_bytes)
            return walk.content_hash(data), registry.read(file.path, data)

        preparation = _Preparation(collection, collection.spec, read, spool)
        preparation.read(found, on_event)
        preparation.want_missing(found)
        yield preparation.finished(found, manifest, source)


@contextmanager
def prepare_given(
    given: Sequence[Given],
    root: str,
    collection: CollectionPort,
    locks: Path,
    on_event: OnEvent = ignore,
    unchanged: Callable[[ManifestEntry, Given], bool] = lambda entry, item: entry.content_hash == item.content_hash,
) -> Iterator[Prepared]:
    """Prepare to add documents, or to replace those at their paths, in the source `root` of kind `upload`.

    Nothing else of the source is touched; what is `unchanged` is left as it is. The paths differ. Holds the source's
    lock until the block ends. A document that can't be read is listed, and what stands at its path stays as it was.
    Raises RunLocked.
    """
    with run_lock(locks, root), Spool(locks) as spool:
        source = _known(collection.sources(), root)
        manifest = _manifest(collection, source, Source(0, root, "upload"), "")
        items = {item.path: item for item in given}
        entries = {path: manifest.entries[path] for path in items if path in manifest.entries}
        same = {path for path, entry in entries.items() if unchanged(entry, items[path])}
        files = [ScannedFile(item.path, item.stat) for item in given if item.path not in same]
        found = Plan(
            added=tuple(file for file in files if file.path not in entries),
            changed=tuple((entries[file.path], file) for file in files if file.path in entries),
            unchanged=len(same),
        )
        preparation = _Preparation(
            collection, collection.spec, lambda file: (items[file.path].content_hash, items[file.path].read()), spool
        )
        preparation.read(found, on_event)
        preparation.stale.clear()
        preparation.remembered.clear()  # nobody looks for what was given again
        yield preparation.finished(found, manifest, source)


def _known(sources: Sequence[Source], root: str) -> Source | None:
    return next((source for source in sources if source.root == root), None)


def _manifest(collection: CollectionPort, source: Source | None, new: Source, under: str) -> Manifest:
    return Manifest(new, {}) if source is None else collection.manifest(source.id, under)


@contextmanager
def run_lock(locks: Path, root: str) -> Iterator[None]:
    """Hold the lock of runs over a source until the block ends. Raises RunLocked."""
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not bound to a thread: a server takes it in one worker thread and gives it back in another.
    lock = FileLock(locks / run_lock_name(root), timeout=_MOMENT, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunLocked(f"another run is indexing {root}; wait for it to end, then repeat the command") from None
    try:
        yield
    finally:
        lock.release()


@dataclass(slots=True)
class _Preparation:
    """Reads and cuts documents into the spool, counting what their vectors would cost."""

    collection: CollectionPort
    spec: IndexSpec
    read_file: Read
    spool: Spool
    wanted: dict[bytes, int] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    stale: list[tuple[str, str]] = field(default_factory=list)
    remembered: dict[str, RejectedFile] = field(default_factory=dict)
    """What is to be known of the rejected files after this run, by path."""
    chunks: int = 0
    missing: int = 0
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
                if not isinstance(rejected, NotGiven):
                    self._remember(self.rejected[-1], file.stat, registry.FINGERPRINT)
            on_event(IngestEvent("planned", done, len(todo), file.path))
        for known, rejection in found.unreadable:
            self.reject(rejection, None if known is None else known.document_id)
        for known, refused in found.refused:
            self.rejected.append(Rejection(refused.path, cast(RejectionReason, refused.reason), refused.detail))
            self.remembered[refused.path] = refused
            if known is not None and known.state != "stale":
                self.stale.append((known.document_id, refused.reason))
        self._check_known()

    def want_missing(self, found: Plan) -> None:
        """Plan the vectors that documents lack which this run neither replaces nor removes, of whatever source.

        A rollback, or another generation, leaves such: their chunks are found by words alone until then.
        """
        name, after = self.spec.embedding.template, 0
        leaving = {entry.document_id for entry in (*found.removed, *(entry for entry, _ in found.changed))}
        while documents := self.collection.unembedded(self.spec, after):
            for document in documents:
                for chunk in document.chunks if document.document_id not in leaving else ():
                    if chunk.embedded_hash not in self.wanted:
                        header = template.header_tokens(name, document.title, chunk.heading_path)
                        self.wanted[chunk.embedded_hash] = header + chunk.tokens
                        self.missing += 1
            after = documents[-1].key

    def reject(self, rejection: Rejection, document_id: str | None) -> None:
        """List a file that can't be read; a document it had keeps its old version, as stale."""
        self.rejected.append(rejection)
        self._remember(rejection)
        if document_id is not None:
            self.stale.append((document_id, rejection.reason))

    def _remember(self, rejection: Rejection, stat: FileStat = UNSEEN, readers: str = "") -> None:
        path, detail = (text.encode(errors="replace").decode() for text in (rejection.path, rejection.detail))
        self.remembered[path] = RejectedFile(path, rejection.reason, detail, stat, readers)

    def finished(self, found: Plan, manifest: Manifest, known: Source | None) -> Prepared:
        """Return the run over the manifest's source; `known` is the same where the collection has it already."""
        source = manifest.source
        unread = {rejection.path for rejection in self.rejected}
        added = tuple(file.path for file in found.added if file.path not in unread)
        by_hand = self.collection.removed_by_hand(known.id) if known else frozenset()
        summary = IngestPlan(
            source=source.root,
            added=added,
            changed=tuple(file.path for _, file in found.changed if file.path not in unread),
            renamed=tuple((entry.path, file.path) for entry, file in found.renamed),
            removed=tuple(entry.path for entry in found.removed),
            unchanged=found.unchanged + len(found.touched),
            rejected=tuple(sorted(self.rejected, key=lambda rejection: rejection.path)),
            chunks=self.chunks,
            inputs=len(self.wanted),
            tokens=sum(self.wanted.values()),
            returned=tuple(path for path in added if path in by_hand),
            missing=self.missing,
        )
        changes = ChangeSet(
            source_id=known.id if known else 0,
            renames=tuple(DocumentRename(entry.document_id, file.path, file.stat) for entry, file in found.renamed),
            removals=tuple(entry.document_id for entry in found.removed),
            restats=tuple((entry.document_id, file.stat) for entry, file in found.touched),
            stale=tuple(self.stale),
            rejections=tuple(
                rejected for path, rejected in self.remembered.items() if manifest.rejected.get(path) != rejected
            ),
            forgotten=tuple(path for path in manifest.rejected if path not in self.remembered),
            as_of=manifest.changes,
        )
        return Prepared(source.root, source.kind, summary, changes, self.spool, frozenset(self.wanted), self.spec)

    def _document(self, file: ScannedFile, replaces: tuple[str, int] | None) -> DocumentUpsert:
        content_hash, document = self.read_file(file)
        return DocumentUpsert(
            path=file.path,
            replaces=replaces,
            content_hash=content_hash,
            stat=file.stat,
            content_type=document.content_type,
            title=document.title,
            text=document.text,
            metadata=document.metadata,
            reader=document.reader,
            chunks=cut(document, self.spec),
            marks=marks_of(document),
            sections=sections_of(document),
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


def sections_of(document: Document) -> tuple[SectionStart, ...]:
    """Return what a document's text is cut by, as it is stored: empty sections, which no cut sees, are left out."""
    return tuple(
        SectionStart(section.start, section.heading_path, section.page)
        for section in document.sections
        if section.start < section.end
    )


def marks_of(document: Document) -> tuple[Mark, ...]:
    """Return where each part of a document's text stands: its reader's marks, and the headings of its sections.

    A chunk may hold several small sections and knows only the headings that they share; a citation is to know its own.
    """
    paths = {section.start: section.heading_path for section in document.sections if section.start < section.end}
    if len({*paths.values()}) < 2 and not document.marks:
        return ()
    positions = {mark.start: mark.position for mark in document.marks}
    marks: list[Mark] = []
    position: Position = {}
    path: tuple[str, ...] = ()
    for start in sorted({*paths, *positions}):
        position, path = positions.get(start, position), paths.get(start, path)
        if not marks or (marks[-1].position, marks[-1].heading_path) != (position, path):
            marks.append(Mark(start, position, path))
    return tuple(marks)


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
