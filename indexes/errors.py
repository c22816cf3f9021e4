"""Errors of the index, one tree.

IndexesError
├── InvalidQuery          the caller's filter, mode, k or vector makes no sense
├── NotFound              no such document or source
│   └── VersionGone       the document is there, that version is not
├── Conflict
│   ├── SpecMismatch      vectors or chunks of another spec than the collection's
│   ├── SourceOverlap     a root that contains, or lies in, a known root in a way that is not allowed
│   ├── StoreBusy         another writer held the database for longer than the wait
│   └── RunGoesOn         a run may still rely on, or bring, what was to go
├── InvalidVectors        wrong shape, not finite, not of unit length
└── StoreError            the files themselves
    ├── StoreNotFound     no collection in that folder
    ├── StoreDamaged      the database, or a derived file that could not be rebuilt, is damaged
    ├── StoreTooNew       written by a newer release: refused unchanged
    ├── StoreClosed       closed, removed or replaced while it was used: open it again by its name
    └── StorageFull       the disk is full, read-only or failing, or no descriptor is left: nothing was changed
"""

import errno


class IndexesError(Exception):
    """Root of the tree."""


class InvalidQuery(IndexesError):
    """The caller's filter, mode, k or vector makes no sense; the message names it."""


class NotFound(IndexesError):
    """No such document or source."""


class VersionGone(NotFound):
    """The document is there, but the asked version is not any more."""


class Conflict(IndexesError):
    """The state of the collection does not allow it."""


class SpecMismatch(Conflict):
    """Vectors or chunks of another spec than the collection's."""


class SourceOverlap(Conflict):
    """A root would contain a known root."""


class StoreBusy(Conflict):
    """Another writer held the database for longer than the wait."""


class RunGoesOn(Conflict):
    """A run is going on that may still rely on, or bring, what was to go."""


class InvalidVectors(IndexesError):
    """Vectors of the wrong shape, with values that are not finite, or not of unit length."""


class StoreError(IndexesError):
    """The files of a collection."""


class StoreNotFound(StoreError):
    """There is no collection in that folder."""


class StoreDamaged(StoreError):
    """The database is damaged, or a derived file could not be rebuilt from it."""


class StoreTooNew(StoreError):
    """The store was written by a newer release; it is left unchanged."""


class StoreClosed(StoreError):
    """The collection was closed, removed or replaced while it was used; what was asked was not done."""


class StorageFull(StoreError):
    """The disk is full, read-only or failing, or no file descriptor is left; nothing was changed."""


NO_STORAGE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE),
        *(errno.EROFS, errno.EACCES, errno.EPERM),
    }
)
"""What an OSError says when there is nothing to write to: no room, no right, no descriptor, or a disk that fails."""
