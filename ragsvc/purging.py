"""Erases a document for good: from its collection's store and files, from the jobs, from bodies that wait.

Every step may be killed and repeated. What is still to be done stands in the collection (`indexes.purges`);
the same command, the next `index` and a server go on with it.
"""

from dataclasses import dataclass

import structlog

from indexes.collection import Collection
from indexes.errors import IndexesError, NotFound, StoreTooNew
from indexes.failpoints import point
from ragsvc.errors import RagsvcError
from ragsvc.inbox import Inbox
from ragsvc.job_store import JobStore
from ragsvc.upload_run import ROOT

ERASE_SECONDS = 30.0
"""How long readers may keep the log of `service.db`."""
_log = structlog.stdlib.get_logger("ragsvc.purging")


@dataclass(frozen=True, slots=True)
class Purged:
    """What was erased. The path is None where the rows were removed before, and not by hand."""

    document_id: str
    path: str | None
    uploaded: bool
    shared: int
    """Its passages that other documents hold, too, and keep."""


def begin(collection: Collection, jobs: JobStore, inbox: Inbox, document_id: str) -> Purged:
    """Remove a document and what jobs hold of it. For who keeps jobs from making documents visible.

    One that was removed before is purged as well: vectors, words and free bytes still hold it. Where an earlier attempt
    has done so there is nothing to do. Raises NotFound for what never was here, or is erased.
    """
    path = None
    try:
        document = collection.document(document_id)
        path = document.path if document.source == ROOT else None
    except NotFound:
        if not collection.purges.was_removed(document_id):
            if all(purge.document_id != document_id for purge in collection.purges.pending()):
                raise
            return Purged(document_id, None, uploaded=False, shared=0)
    # Before the rows of the collection go, which alone know the path: a kill in between leaves all to be repeated.
    _strip(collection, jobs, inbox, document_id, path)
    point("purge.sweep")
    inbox.sweep(jobs.unfinished)  # bodies that killed processes left: what is in them nobody knows
    rows = collection.purges.begin(document_id)
    _strip(collection, jobs, inbox, document_id, path)  # what was accepted meanwhile
    return Purged(document_id, rows.path, rows.source == ROOT, rows.shared)


def complete(collection: Collection, jobs: JobStore, document_id: str) -> None:
    """Erase what a purge left in files. Raises StoreBusy, StorageBusy, RunGoesOn: to be repeated later."""
    purge = collection.purges.erase(document_id)
    point("purge.jobs")
    jobs.strip(collection.id, document_id, None)
    point("purge.service_slack")
    jobs.erase_slack(ERASE_SECONDS)
    collection.purges.end(purge)


def look_after(collection: Collection, jobs: JobStore, keep_days: float) -> None:
    """Complete what killed purges left, and collect garbage once a day. What fails is logged and tried again later.

    Costs two reads of a row where there is nothing to do.
    """
    try:
        for purge in collection.purges.pending():
            complete(collection, jobs, purge.document_id)
            _log.info("a purge is complete", document=purge.document_id)
        collection.garbage.collect_if_due(keep_days)
    except StoreTooNew:
        raise
    except (IndexesError, RagsvcError, OSError) as error:
        _log.warning("leftovers can't be removed now", collection=collection.id, error=str(error))


def _strip(collection: Collection, jobs: JobStore, inbox: Inbox, document_id: str, path: str | None) -> None:
    if path is not None:
        point("purge.withdraw")
        jobs.withdraw(collection.id, path)
    for job_id, start, size in jobs.bodies_of(collection.id, document_id, path):
        point("purge.body")
        inbox.erase(job_id, start, size)
    point("purge.strip")
    jobs.strip(collection.id, document_id, path)
