"""Errors of the service, one tree; each class says its problem code, HTTP status and exit code.

RagsvcError
├── ConfigurationError          settings, or an unsafe bind                        exit 3
│   └── EmbeddingUnavailable    the collection's embedding model can't be reached   503, exit 3
├── UnknownCollection           404, exit 3
├── CollectionExists            409, exit 3
├── CollectionBusy              409, exit 3
├── SourceRemoved               409, exit 3
├── BadRequest                  400, exit 2
├── UnknownJob                  404, exit 2
├── JobFinished                 409: there is nothing left to cancel
├── BudgetRefused               exit 5
├── Interrupted                 Ctrl-C after a step that stays                     exit 130
├── StorageBusy                 service.db is held by another process              409, exit 3
├── StorageFailed               service.db is damaged                              503, exit 3
│   ├── NoStorage               the disk is full, read-only or failing, or no descriptor is left
│   └── UploadLost              an accepted body is gone or damaged
├── Overloaded                  503 + Retry-After
└── ProviderError               an upstream; exit 4
    ├── Unreachable             no connection, DNS, TLS
    │   └── UpstreamTimeout     no answer in time
    ├── RateLimited             429 of a rate; `retry_after` in seconds where told
    ├── QuotaExhausted          429 of the bill: never asked again by itself
    ├── AuthenticationFailed    401, 403
    ├── ModelNotFound           404 of a model
    ├── EndpointMissing         404, 405, 501 of an endpoint: this server lacks it
    ├── RequestRefused          400, 413, 422: the request itself; never repeated unchanged
    ├── UpstreamFailed          408, 409, 5xx
    └── UpstreamMalformed       an answer that makes no sense
"""

from typing import ClassVar

from ingest.errors import InputRefused


class RagsvcError(Exception):
    """Root of the tree. The message says what happened and what to do next."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1


class ConfigurationError(RagsvcError):
    """Settings that make no sense, or an unsafe bind."""

    code = "configuration"
    exit_code = 3


class EmbeddingUnavailable(ConfigurationError):
    """The collection's embedding model can't be used here: words can be searched, meaning can't."""

    code = "embedding_unavailable"
    status = 503


class UnknownCollection(RagsvcError):
    """No collection of that name."""

    code = "unknown_collection"
    status = 404
    exit_code = 3


class CollectionExists(RagsvcError):
    """A collection of that name is there already."""

    code = "collection_exists"
    status = 409
    exit_code = 3


class CollectionBusy(RagsvcError):
    """A run or a build of the collection goes on."""

    code = "collection_busy"
    status = 409
    exit_code = 3


class SourceRemoved(RagsvcError):
    """A source was removed by someone else while it was indexed."""

    code = "source_removed"
    status = 409
    exit_code = 3


class BadRequest(RagsvcError):
    """A request that can't be understood."""

    code = "bad_request"
    status = 400
    exit_code = 2


class UnknownJob(RagsvcError):
    """No job of that id."""

    code = "not_found"
    status = 404
    exit_code = 2


class JobFinished(RagsvcError):
    """The job has ended; there is nothing left to cancel."""

    code = "job_finished"
    status = 409
    exit_code = 2


class BudgetRefused(RagsvcError):
    """The run would cost more than it may."""

    code = "budget_refused"
    status = 429
    exit_code = 5


class Interrupted(RagsvcError):
    """Ctrl-C came when a part was done for good; the message says which, and who does the rest."""

    code = "interrupted"
    status = 503
    exit_code = 130


class StorageBusy(RagsvcError):
    """Another process held the service's database for longer than the wait."""

    code = "storage_busy"
    status = 409
    exit_code = 3


class StorageFailed(RagsvcError):
    """The service's database is damaged."""

    code = "storage_failed"
    status = 503
    exit_code = 3


class NoStorage(StorageFailed):
    """The disk is full, read-only or failing, or no file descriptor is left; nothing was changed."""

    code = "storage_full"


class UploadLost(StorageFailed):
    """The body of an accepted upload is gone or damaged: its job can't be done any more."""

    code = "upload_lost"


class Overloaded(RagsvcError):
    """Too much at once; try again after `retry_after` seconds."""

    code = "overloaded"
    status = 503

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        """`retry_after` in seconds."""
        super().__init__(message)
        self.retry_after = retry_after


class ProviderError(RagsvcError):
    """An upstream that did not do what it was asked.

    `retryable` says whether the same request may succeed later; `retry_after` (seconds) what the upstream asked for.
    """

    code = "upstream"
    status = 503
    exit_code = 4
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: float | None = None, upstream_code: str | None = None) -> None:
        """`upstream_code` is the upstream's own word, for logs."""
        super().__init__(message)
        self.retry_after = retry_after
        self.upstream_code = upstream_code


class Unreachable(ProviderError):
    """No connection."""

    code = "upstream_unreachable"
    retryable = True


class UpstreamTimeout(Unreachable):
    """No answer in time."""

    code = "upstream_timeout"


class RateLimited(ProviderError):
    """Too many requests or tokens a minute."""

    code = "upstream_rate_limited"
    retryable = True


class QuotaExhausted(ProviderError):
    """The account has no money or reached its limit."""

    code = "upstream_quota_exhausted"


class AuthenticationFailed(ProviderError):
    """The key is missing, wrong, or not allowed to."""

    code = "upstream_authentication"


class ModelNotFound(ProviderError):
    """The upstream does not know the model."""

    code = "upstream_model_not_found"


class EndpointMissing(ProviderError):
    """The upstream lacks the endpoint."""

    code = "upstream_endpoint_missing"


class RequestRefused(ProviderError, InputRefused):
    """The upstream understood and refused the request; an ingest then looks for the text that it refuses."""

    code = "upstream_refused"


class UpstreamFailed(ProviderError):
    """The upstream failed."""

    code = "upstream_failed"
    retryable = True


class UpstreamMalformed(ProviderError):
    """The upstream's answer makes no sense."""

    code = "upstream_malformed"
    retryable = True
