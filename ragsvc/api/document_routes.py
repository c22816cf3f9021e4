"""Documents in and out over HTTP."""

from litestar import delete, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ingest.errors import Rejected
from ragsvc.api.document_schemas import (
    JobAccepted,
    RemovalQuery,
    UploadForm,
    UploadQuery,
    UploadResponse,
    job_out,
    upload_response,
)
from ragsvc.api.errors import JobCancelled, JobFailed
from ragsvc.api.handling import DOCUMENT_ID, Api, api_of, document_id_of, nothing, sent
from ragsvc.api.operations import JSON, Operation
from ragsvc.api.reading import AnyRequest, read_query
from ragsvc.api.receiving import receive
from ragsvc.api.waiting import while_there
from ragsvc.errors import UpstreamTimeout
from ragsvc.jobs import Job


@post(
    "/documents",
    request_max_body_size=None,  # counted by `receive`
    opt={
        "operation": Operation(
            "upload",
            "Add documents, or replace those at their paths; each is indexed by a job that survives a restart",
            gives={JSON: JobAccepted},
            status=202,
            also={201: UploadResponse},
            problems=(400, 403, 404, 408, 409, 413, 415, 422, 503),
            body=UploadForm,
            body_type="multipart/form-data",
            raw_body=True,
            query=UploadQuery,
        )
    },
)
async def upload(request: AnyRequest) -> ASGIApp:
    """Accept documents; with `wait=true`, say what became of them."""
    api = api_of(request)
    query = read_query(request, UploadQuery)
    job = await receive(request, api, query)
    api.service.runner.wake()
    if query.wait == "true":
        job = await _awaited(request, api, job)
    if job.state == "done":
        return await _outcome(api, job)
    if job.state == "cancelled":
        raise JobCancelled("the job of this upload was cancelled; GET /jobs shows it")
    if job.state == "failed":
        raise JobFailed(f"the job of this upload failed: {job_out(job).error}")
    return sent(JobAccepted(job=job_out(job)), 202, location=f"/jobs/{job.id}")


async def _awaited(request: AnyRequest, api: Api, job: Job) -> Job:
    """Return the job once it is settled, or as it is after the longest wait. The job goes on when the client leaves."""
    runner, seconds = api.service.runner, api.limits.wait_seconds
    try:
        return await while_there(runner.settled(job.id), request.receive, seconds=seconds)
    except UpstreamTimeout:
        return await api.readers.run(lambda: api.service.uploads.jobs.job(job.id))


async def _outcome(api: Api, job: Job) -> ASGIApp:
    outcome = await api.readers.run(lambda: api.service.uploads.outcome(job))
    if job.total == 1 and outcome.rejected:
        file = outcome.rejected[0]
        raise Rejected(file.reason or "crash", file.detail)
    return sent(upload_response(outcome), 201)


@delete(
    "/documents/{document_id:str}",
    status_code=200,
    opt={
        "operation": Operation(
            "remove_document",
            "Remove a document; one of a folder returns with the next index while its file is there",
            gives={},
            status=204,
            problems=(400, 403, 404, 409, 503),
            path=DOCUMENT_ID,
            query=RemovalQuery,
        )
    },
)
async def remove_document(request: AnyRequest) -> ASGIApp:
    """Remove a document."""
    api = api_of(request)
    purge = read_query(request, RemovalQuery).purge == "true"
    document_id = document_id_of(request)
    uploads = api.service.uploads
    await api.writers.run(lambda: uploads.purge(document_id) if purge else uploads.remove(document_id))
    return nothing()


ROUTES: tuple[HTTPRouteHandler, ...] = (upload, remove_document)
