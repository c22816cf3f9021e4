"""What a collection is told to change, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from indexes.types.documents import Chunk, FileStat, Mark, RejectedFile, SectionStart
from indexes.types.specs import IndexSpec


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
