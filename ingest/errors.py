"""Errors of the ingest, one tree.

IngestError
├── PathError             the folder or file to index is missing, empty, or not to be indexed
│   └── TooManyRemovals   the run would remove most of the source: needs --allow-empty
├── RunLocked             another run holds this source's lock
├── SpecChanged           the collection went over to another IndexSpec while the run was prepared
├── InputRefused          the provider refuses a text itself; the run goes on without its document
├── SettingsError         chunk size, overlap or limits make no sense
├── VocabularyError       the shipped vocabulary is missing or damaged
└── Rejected              one document can't be read; carries the contract's reason
    └── NotGiven          the system, or a limit, does not give its bytes or its reader; tried again in every run
"""

from ingest.types import RejectionReason


class IngestError(Exception):
    """Root of the tree."""


class PathError(IngestError):
    """The path to index is missing, empty, or not to be indexed."""


class TooManyRemovals(PathError):
    """The run would remove more than half of the source, and at least 20 documents."""


class RunLocked(IngestError):
    """Another run holds the lock of this source."""


class SpecChanged(IngestError):
    """The collection went over to another IndexSpec while the run was prepared: nothing was sent."""


class InputRefused(IngestError):
    """The provider understood the request and refuses what is in it; sent again unchanged it would be refused again."""


class SettingsError(IngestError):
    """Chunk size, overlap or limits make no sense; the message names them."""


class VocabularyError(IngestError):
    """The shipped vocabulary is missing or damaged."""


class Rejected(IngestError):
    """A reader's word that it can't make text of a document."""

    def __init__(self, reason: RejectionReason, detail: str = "") -> None:
        """`reason` is the contract's; `detail` says more, without any of the document's text."""
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: RejectionReason = reason
        self.detail = detail


class NotGiven(Rejected):
    """The bytes of a file, or what its reader needs, can't be had, or not now: no reader has judged them."""
