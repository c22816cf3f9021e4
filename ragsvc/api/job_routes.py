"""Jobs over HTTP: listed, shown, cancelled."""

import re

from litestar import delete, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ragsvc.api import schemas
from ragsvc.api.document_schemas import (
    JobAccepted,
    JobResponse,
    JobsQuery,
    JobsResponse,
    job_out,
    job_response,
    jobs_response,
)
from ragsvc.api.handling import api_of, sent
from ragsvc.api.operations import JSON, Operation
from ragsvc.api.reading import AnyRequest, read_query
from ragsvc.errors import BadRequest, UnknownJob

_JOB_ID = re.compile(r"job_[0-9a-z]{1,64}", re.ASCII)
_ID_PARAMETER = {"job_id": "Id of a job."}


@get(
    "/jobs",
    opt={
        "operation": Operation(
            "list_jobs", "List jobs, newest first", gives={JSON: JobsResponse}, problems=(400, 503), query=JobsQuery
        )
    },
)
async def list_jobs(request: AnyRequest) -> ASGIApp:
    """List a page of jobs."""
    api = api_of(request)
    query = read_query(request, JobsQuery)
    jobs = api.service.uploads.jobs
    try:
        return sent(jobs_response(*await api.readers.run(lambda: jobs.jobs(query.limit, query.after))))
    except UnknownJob:
        raise BadRequest("after: not a cursor of ours, or its job is gone; start without it") from None


@get(
    "/jobs/{job_id:str}",
    opt={
        "operation": Operation(
            "show_job",
            "Show one job: its documents, its progress, what happened, what it cost",
            gives={JSON: JobResponse},
            problems=(400, 404, 503),
            path=_ID_PARAMETER,
        )
    },
)
async def show_job(request: AnyRequest) -> ASGIApp:
    """Show one job."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)
    job_id = _job_id(request)
    jobs = api.service.uploads.jobs
    shown = await api.readers.run(lambda: (jobs.job(job_id), jobs.files(job_id), jobs.events(job_id)))
    return sent(job_response(*shown))


@delete(
    "/jobs/{job_id:str}",
    status_code=200,
    opt={
        "operation": Operation(
            "cancel_job",
            "Cancel a job: 200 when it is cancelled, 202 when it stops at its next step; what is applied stays",
            gives={JSON: JobAccepted},
            also={202: JobAccepted},
            problems=(400, 403, 404, 409, 503),
            path=_ID_PARAMETER,
        )
    },
)
async def cancel_job(request: AnyRequest) -> ASGIApp:
    """Cancel a job."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)
    job_id = _job_id(request)
    job = await api.writers.run(lambda: api.service.uploads.cancel(job_id))
    await api.service.runner.cancelled(job_id)
    return sent(JobAccepted(job=job_out(job)), 200 if job.finished else 202)


def _job_id(request: AnyRequest) -> str:
    given = str(request.path_params["job_id"])
    if not _JOB_ID.fullmatch(given):
        raise UnknownJob("there is no such job; GET /jobs lists them")
    return given


ROUTES: tuple[HTTPRouteHandler, ...] = (list_jobs, show_job, cancel_job)
