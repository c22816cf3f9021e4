"""Stored texts cut again, without their files: what publishing another IndexSpec and going back to one have in common.

Nothing is sent anywhere: cutting and hashing cost time alone. What is cut stays unseen until its spec is in service.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from indexes.types import Chunk, ChunkSpec, DocumentCut, IndexSpec, StoredDocument, text_hash
from ingest import template
from ingest.errors import SettingsError
from ingest.preparing import cut, run_lock
from ingest.protocols import ChunkSource, GenerationPort
from ingest.types import Document, Section

CHUNKER: Final = ChunkSpec().chunker
"""The only algorithm that this release cuts by."""


@dataclass(frozen=True, slots=True)
class Served:
    """A generation that was put in service."""

    number: int
    documents: int
    """That were cut for it now."""


def publish(generations: GenerationPort, spec: IndexSpec) -> Served:
    """Cut every document by `spec`, put it in service, and take apart what is kept no longer.

    Killed, it goes on where it was by the same call; however many documents come meanwhile, it ends. Raises
    SettingsError for a spec that this release can't cut by.
    """
    documents = cut_all(generations, spec)

    def late(document: StoredDocument) -> DocumentCut:
        nonlocal documents
        documents += 1
        return _cut(document, spec)

    number = generations.publish(spec, late)
    assert number is not None  # noqa: S101 - nothing is left uncut
    generations.drop_retired()
    return Served(number, documents)


def rollback(generations: GenerationPort, collection: ChunkSource, locks: Path, number: int | None = None) -> Served:
    """Serve a kept generation again, by default the older one, with what was added or changed since cut by its spec.

    `locks` is the folder of the lock files: the last documents are cut and the generation is put in service while no
    run over a known source goes on, because such a run would be refused in the middle. Raises RunLocked; SettingsError
    where this release can't cut by that spec; and what the collection does where no such generation is kept.
    """
    wanted = generations.before(number)
    documents = cut_all(generations, wanted.spec)
    with ExitStack() as held:
        for source in collection.sources():
            held.enter_context(run_lock(locks, source.root))
        while True:
            documents += cut_all(generations, wanted.spec)
            served = generations.rollback(wanted.number)
            if served is not None:
                return Served(served, documents)


def cut_all(generations: GenerationPort, spec: IndexSpec) -> int:
    """Cut the visible documents that are not cut by `spec` yet; return how many there were."""
    after = documents = 0
    while page := generations.uncut(spec, after):
        documents += generations.add_cuts(spec, [_cut(document, spec) for document in page])
        after = page[-1].key
    return documents


def _cut(document: StoredDocument, spec: IndexSpec) -> DocumentCut:
    return DocumentCut(document.document_id, document.version, recut(document, spec))


def recut(document: StoredDocument, spec: IndexSpec) -> tuple[Chunk, ...]:
    """Return a stored document's chunks under `spec`, as they would be cut from its file.

    Chunks that it has under the same ChunkSpec stay as they are, and are prepared for another EmbeddingSpec. Raises
    SettingsError for a chunker or a template that this release does not know.
    """
    if document.chunks:
        return tuple(_prepared(chunk, document, spec.embedding.template) for chunk in document.chunks)
    if spec.chunks.chunker != CHUNKER:
        raise SettingsError(
            f"this release cuts by {CHUNKER} and can't cut {document.path} by {spec.chunks.chunker}: use the "
            "release that made that generation, or reembed"
        )
    return cut(Document(document.text, _sections(document), "", title=document.title), spec)


def _prepared(chunk: Chunk, document: StoredDocument, name: str) -> Chunk:
    text = document.text[chunk.start : chunk.end]
    return replace(chunk, embedded_hash=text_hash(template.render(name, document.title, chunk.heading_path, text)))


def _sections(document: StoredDocument) -> tuple[Section, ...]:
    starts = document.sections
    ends = [*(section.start for section in starts), len(document.text)][1:]
    return tuple(
        Section(section.start, end, section.heading_path, section.page)
        for section, end in zip(starts, ends, strict=True)
    )
