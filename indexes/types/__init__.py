"""The data of the house's ground floor: frozen, without behaviour beyond what its own fields say.

Offsets are Unicode code points into a document version's text; vectors are float32 of unit length; scores grow with
likeness, everywhere.
"""

from indexes.types.changes import ApplyReport, ChangeSet, DocumentRename, DocumentUpsert
from indexes.types.documents import (
    UNSEEN,
    Chunk,
    DocumentCut,
    DocumentInfo,
    DocumentState,
    FileStat,
    Manifest,
    ManifestEntry,
    Mark,
    Position,
    RejectedFile,
    SectionStart,
    Source,
    SourceKind,
    StoredDocument,
    TextSlice,
    run_lock_name,
)
from indexes.types.generations import CollectionStatus, Generation, Segment
from indexes.types.search import Comparison, Filter, Hit, Junction, LegScore, Mode, Neighbours, Place, SearchResult
from indexes.types.specs import ChunkSpec, EmbeddingSpec, FloatMatrix, FloatVector, IdArray, IndexSpec, text_hash

__all__ = [
    "UNSEEN",
    "ApplyReport",
    "ChangeSet",
    "Chunk",
    "ChunkSpec",
    "CollectionStatus",
    "Comparison",
    "DocumentCut",
    "DocumentInfo",
    "DocumentRename",
    "DocumentState",
    "DocumentUpsert",
    "EmbeddingSpec",
    "FileStat",
    "Filter",
    "FloatMatrix",
    "FloatVector",
    "Generation",
    "Hit",
    "IdArray",
    "IndexSpec",
    "Junction",
    "LegScore",
    "Manifest",
    "ManifestEntry",
    "Mark",
    "Mode",
    "Neighbours",
    "Place",
    "Position",
    "RejectedFile",
    "SearchResult",
    "SectionStart",
    "Segment",
    "Source",
    "SourceKind",
    "StoredDocument",
    "TextSlice",
    "run_lock_name",
    "text_hash",
]
