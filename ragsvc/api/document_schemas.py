"""What goes over the wire about uploads, jobs and collections; the functions at the end are pure."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from indexes.types import CollectionStatus
from ragsvc.api.problems import said_of
from ragsvc.api.schemas import MAX_LISTED, CollectionName, DocumentListed, Request, Response
from ragsvc.jobs import EventKind, FileState, Job, JobEvent, JobFile, JobKind, JobState
from ragsvc.uploads import MAX_PATH, Outcome

MAX_DIMENSIONS = 8192
_Bytes = Annotated[str, Meta(extra_json_schema={"contentMediaType": "application/octet-stream"})]
MetadataText = Annotated[
    str,
    Meta(
        max_length=65_536,
        description="A JSON object of texts, numbers, true and false that every document of the upload is given: a "
        "search can filter by it.",
        examples=['{"team": "pumps", "year": 2026}'],
    ),
]


class UploadQuery(Request):
    """Where an upload goes, and whether its end is waited for."""

    path: (
        Annotated[
            str, Meta(max_length=4 * MAX_PATH, description="Path of the document that a raw body is. Not for forms.")
        ]
        | None
    ) = None
    collection: CollectionName | None = None
    metadata: MetadataText | None = None
    wait: Annotated[Literal["true", "false"], Meta(description="Wait up to 300 s for the documents to be there.")] = (
        "false"
    )


class RemovalQuery(Request):
    """How a document is removed."""

    purge: Annotated[
        Literal["true", "false"],
        Meta(description="Erase it for good, from every file; takes a while. 409: repeat the request."),
    ] = "false"


class UploadForm(Request):
    """An upload as a form. The file name of each part is the path of its document, folders included."""

    file: Annotated[list[_Bytes], Meta(min_length=1, description="Up to 1,000 documents, each with a file name.")]
    collection: CollectionName = "default"
    metadata: MetadataText | None = None


class JobsQuery(Request):
    """Which jobs to list."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = 100
    after: Annotated[str, Meta(max_length=100, description="`next` of the page before.")] | None = None


class CollectionRequest(Request):
    """A collection to be made; what is not given is as the settings have it."""

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
    embedding_model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    chunk_tokens: Annotated[int, Meta(ge=16, le=8000)] | None = None
    overlap_tokens: Annotated[int, Meta(ge=0, le=4000)] | None = None


class JobOut(Response):
    """A job as it is listed."""

    id: str
    kind: JobKind
    collection: str
    state: JobState
    done: int
    total: int
    cost_usd: float | None
    error: str | None
    created_at: str


class JobFileOut(Response):
    """A document of a job."""

    path: str
    state: FileState
    document_id: str | None
    reason: str | None
    detail: str


class JobEventOut(Response):
    """A step of a job's life."""

    at: str
    kind: EventKind
    path: str | None
    detail: str


class ProgressOut(Response):
    """Texts embedded in the attempt under way, of those that had no vector yet."""

    inputs_done: int
    inputs_total: int


class JobResponse(JobOut):
    """One job with all that is known of it."""

    error_code: str | None
    tokens: int
    cancelling: bool
    started_at: str | None
    finished_at: str | None
    progress: ProgressOut
    files: list[JobFileOut]
    events: list[JobEventOut]


class JobAccepted(Response):
    """What was sent is safe and will be indexed by this job."""

    job: JobOut


class JobsResponse(Response):
    """A page of jobs, newest first; `next` goes into `after` for the page behind it."""

    jobs: list[JobOut]
    next: str | None


class RejectedOut(Response):
    """A document that is not indexed, and why."""

    path: str
    reason: str
    detail: str


class UploadResponse(Response):
    """What became of an upload that was waited for."""

    documents: list[DocumentListed]
    rejected: list[RejectedOut]


class CollectionOut(Response):
    """A collection, what it is made by, and its figures."""

    name: str
    state: Literal["ready"]
    generation: int
    embedding_model: str
    dimensions: int
    chunk_tokens: int
    overlap_tokens: int
    documents: int
    stale_documents: int
    chunks: int
    missing_vectors: int
    bytes: int


class CollectionsResponse(Response):
    """All collections, by name."""

    collections: list[CollectionOut]


def job_out(job: Job) -> JobOut:
    """Return a job as it is listed."""
    out = msgspec.convert(job, JobOut, from_attributes=True)
    out.error = None if job.error_code is None else said_of(job.error_code, job.error or "")
    return out


def jobs_response(jobs: Iterable[Job], after: str | None) -> JobsResponse:
    """Return a page of jobs."""
    return JobsResponse(jobs=[job_out(job) for job in jobs], next=after)


def job_response(job: Job, files: Sequence[JobFile], events: Sequence[JobEvent]) -> JobResponse:
    """Return one job."""
    return JobResponse(
        **msgspec.structs.asdict(job_out(job)),
        error_code=job.error_code,
        tokens=job.tokens,
        cancelling=job.cancelling and not job.finished,
        started_at=job.started_at,
        finished_at=job.finished_at,
        progress=ProgressOut(inputs_done=job.inputs_done, inputs_total=job.inputs_total),
        files=[msgspec.convert(file, JobFileOut, from_attributes=True) for file in files],
        events=[msgspec.convert(event, JobEventOut, from_attributes=True) for event in events],
    )


def upload_response(outcome: Outcome) -> UploadResponse:
    """Return what became of an upload."""
    return UploadResponse(
        documents=[msgspec.convert(document, DocumentListed, from_attributes=True) for document in outcome.documents],
        rejected=[
            RejectedOut(path=file.path, reason=file.reason or "crash", detail=file.detail) for file in outcome.rejected
        ],
    )


def collection_out(name: str, status: CollectionStatus) -> CollectionOut:
    """Return one collection."""
    embedding, chunks = status.spec.embedding, status.spec.chunks
    return CollectionOut(
        name=name,
        state="ready",
        generation=status.generation,
        embedding_model=embedding.model,
        dimensions=embedding.dimensions,
        chunk_tokens=chunks.tokens,
        overlap_tokens=chunks.overlap,
        documents=status.documents,
        stale_documents=status.stale_documents,
        chunks=status.chunks,
        missing_vectors=status.missing_vectors,
        bytes=status.bytes,
    )
