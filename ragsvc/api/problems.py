"""Errors to problems (RFC 9457): the only place where an exception gets its HTTP status, code and words.

An error that is the caller's own tells its message. The message of any other may name paths, hosts or an upstream's
words: it goes to the log, and the caller reads a fixed sentence. `type` is `about:blank`, so `title` is the phrase of
the status (RFC 9457, 4.2.1); programs read `code`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request
from litestar.exceptions import HTTPException
from litestar.response import Response
from litestar.types import Scope

import indexes.errors as index
import ingest.errors as ingest
import ragsvc.errors as service
from ragsvc.api.schemas import Problem

MEDIA_TYPE = "application/problem+json"
_log = structlog.stdlib.get_logger("ragsvc.api")


@dataclass(frozen=True, slots=True)
class Shown:
    """How an error looks from outside."""

    status: int
    code: str
    detail: str | None = None
    """None: the error's message is meant for the caller."""
    headers: Mapping[str, str] | None = None


INTERNAL = Shown(
    500, "internal", "Something went wrong here. The log has more under this request_id; please report it."
)
_FULL = "The disk is full, read-only or failing, or no file descriptor is left; nothing was changed."
_DAMAGED = "The collection's files can't be used; the log says why."

SHOWN: Mapping[type[Exception], Shown] = {
    index.InvalidQuery: Shown(400, "invalid_query"),
    index.NotFound: Shown(404, "not_found", "There is no such document or source."),
    index.VersionGone: Shown(
        409, "changed", "The document has changed and that version is gone; read the current one."
    ),
    index.Conflict: Shown(409, "conflict"),
    index.SpecMismatch: Shown(409, "spec_mismatch"),
    index.SourceOverlap: Shown(409, "source_overlap", "The source overlaps with a known one."),
    index.StoreBusy: Shown(409, "store_busy", "Another writer holds the collection; try again in a moment."),
    index.RunGoesOn: Shown(
        409, "run_goes_on", "It is removed; a run that may have read it before goes on. Repeat the request later."
    ),
    index.StoreError: Shown(503, "store_unavailable", _DAMAGED),
    index.StoreClosed: Shown(
        409, "collection_changed", "The collection was removed or replaced meanwhile; repeat the request."
    ),
    index.StoreTooNew: Shown(503, "store_too_new", "The collection was written by a newer release; update this one."),
    index.StorageFull: Shown(503, "storage_full", _FULL),
    ingest.PathError: Shown(422, "path", "There is nothing to index at that path."),
    ingest.TooManyRemovals: Shown(409, "too_many_removals"),
    ingest.RunLocked: Shown(409, "run_locked", "Another run of this source is going on; try again when it has ended."),
    ingest.SpecChanged: Shown(409, "spec_mismatch", "The collection went over to another generation; try again."),
    ingest.InputRefused: Shown(503, "upstream_refused", "An upstream refused the request; the log says why."),
    ingest.SettingsError: Shown(422, "chunk_settings"),
    ingest.VocabularyError: Shown(503, "vocabulary", "The token vocabulary is missing or damaged; reinstall ragsvc."),
    service.SourceRemoved: Shown(409, "source_removed", "The source was removed while it was indexed."),
    service.StorageBusy: Shown(
        409, "storage_busy", "Another process holds the service's store; try again in a moment."
    ),
    service.StorageFailed: Shown(503, "storage_failed", "The service's store can't be used; the log says why."),
    service.NoStorage: Shown(503, "storage_full", _FULL),
    service.UploadLost: Shown(503, "upload_lost", "What was sent is gone or damaged on the disk; send it again."),
    service.ProviderError: Shown(503, "upstream", "An upstream did not do what it was asked."),
    service.Unreachable: Shown(503, "upstream_unreachable", "An upstream can't be reached."),
    service.UpstreamTimeout: Shown(503, "upstream_timeout", "There was no answer in time; the work was stopped."),
    service.RateLimited: Shown(503, "upstream_rate_limited", "An upstream's rate limit is reached; try again later."),
    service.QuotaExhausted: Shown(
        503, "upstream_quota_exhausted", "The upstream account has no quota left; its operator must add some."
    ),
    service.AuthenticationFailed: Shown(
        503, "upstream_authentication", "An upstream refuses the service's key; its operator must set another."
    ),
    service.ModelNotFound: Shown(
        503, "upstream_model_not_found", "An upstream does not know the configured model; its operator must change it."
    ),
    service.EndpointMissing: Shown(
        503,
        "upstream_endpoint_missing",
        "An upstream lacks a needed endpoint; the operator must choose another server.",
    ),
    service.RequestRefused: Shown(503, "upstream_refused", "An upstream refused the request; the log says why."),
    service.UpstreamFailed: Shown(503, "upstream_failed", "An upstream failed; try again in a moment."),
    service.UpstreamMalformed: Shown(503, "upstream_malformed", "An upstream's answer made no sense; try again."),
}
"""By class; a subclass that is not named is shown like its nearest base. Service errors that are not here tell their
own message, with the code and status of their class."""

_FRAMEWORK: Mapping[int, Shown] = {
    400: Shown(400, "bad_request"),
    404: Shown(404, "not_found", "There is nothing at this path; GET /schema lists what there is."),
    405: Shown(
        405, "method_not_allowed", "This path does not take that method; the Allow header lists those it takes."
    ),
    413: Shown(413, "too_large", "The body is larger than this route takes."),
    415: Shown(415, "unsupported_media_type"),
}
RETRY_SECONDS = 1
"""Retry-After where nothing better is known and the same request may soon succeed."""
OPERATOR_SECONDS = 60
"""Retry-After where somebody has to do something first."""
_FOR_OPERATOR = (index.StoreError, ingest.VocabularyError, service.ConfigurationError, service.NoStorage, OSError)


def shown(error: Exception) -> Shown:
    """Return how `error` looks from outside; anything unknown is `INTERNAL`."""
    if isinstance(error, HTTPException):
        return _of_framework(error)
    if isinstance(error, ingest.Rejected):
        return Shown(422, error.reason, error.detail or None)
    for base in type(error).__mro__:
        if base in SHOWN:
            return SHOWN[base]
    if isinstance(error, service.RagsvcError) and error.status != INTERNAL.status:
        return Shown(error.status, error.code)
    if isinstance(error, OSError) and error.errno in index.NO_STORAGE:
        return SHOWN[index.StorageFull]
    return INTERNAL


def said_of(code: str, message: str) -> str:
    """Return what may be told of an error that only its code and message are left of, as of a job's."""
    fixed = {look.code: look.detail for look in (INTERNAL, *SHOWN.values()) if look.detail is not None}
    return fixed.get(code, _printable(message))


def _of_framework(error: HTTPException) -> Shown:
    known = _FRAMEWORK.get(error.status_code)
    if known is None:
        if error.status_code >= INTERNAL.status:
            return INTERNAL
        phrase = HTTPStatus(error.status_code).phrase
        known = Shown(error.status_code, phrase.lower().replace(" ", "_"), phrase)
    allow = (error.headers or {}).get("allow")
    return Shown(known.status, known.code, known.detail or error.detail, {"allow": allow} if allow else None)


def retry_after(error: Exception) -> int:
    """Return whole seconds, at least 1, after which the same request may succeed."""
    told = getattr(error, "retry_after", None)
    if isinstance(told, int | float) and math.isfinite(told) and told > 0:
        return min(math.ceil(told), 3600)
    waits_for_operator = isinstance(error, _FOR_OPERATOR) or getattr(error, "retryable", True) is False
    return OPERATOR_SECONDS if waits_for_operator else RETRY_SECONDS


def problem_of(error: Exception, request_id: str) -> tuple[Problem, dict[str, str]]:
    """Return the problem and the headers that go with it."""
    look = shown(error)
    headers = dict(look.headers or {})
    if look.status == 503:
        headers["retry-after"] = str(retry_after(error))
    if look.status == 408:
        headers["connection"] = "close"
    problem = Problem(
        title="Client Closed Request" if look.status == 499 else HTTPStatus(look.status).phrase,
        status=look.status,
        detail=look.detail if look.detail is not None else _printable(str(error)),
        code=look.code,
        request_id=request_id,
    )
    return problem, headers


def _printable(message: str) -> str:
    """Bound a message that may quote the caller's input, and make it encodable."""
    return message[:500].encode("utf-8", "replace").decode("utf-8")


def log_problem(error: Exception, problem: Problem) -> None:
    """Write down what the operator must know: bugs with their stack, refusals of others with their message."""
    if problem.status == 500:
        _log.error("unhandled error", exc_info=error)
    elif problem.status == 503:
        upstream = getattr(error, "upstream_code", None)
        _log.warning(
            "unavailable", code=problem.code, error=type(error).__name__, message=str(error), upstream=upstream
        )


def request_id_of(scope: Scope) -> str:
    """Return the id that the edge gave this request."""
    return str(scope["state"].get("request_id", ""))


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer any exception of a route, or of the framework before one, with its problem."""
    problem, headers = problem_of(error, request_id_of(request.scope))
    log_problem(error, problem)
    return Response(msgspec.json.encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
