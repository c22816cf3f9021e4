"""Errors that only HTTP knows; they hang in the service's tree and carry their problem code and status.

RagsvcError
└── ApiError
    ├── UnknownDocument        404: an id that is not even of the form of ours
    ├── BodyTimeout            408: the body did not arrive in time
    ├── CrossSite              403: another site's page sent a request that changes something
    ├── BodyTooLarge           413
    ├── UnsupportedMediaType   415
    ├── NotSupported           422: understood, and not served by this release
    ├── BadSpec                422: a collection can't be made that way
    ├── JobCancelled           409: the upload that was waited for was cancelled
    ├── JobFailed              503: the upload that was waited for failed
    ├── ClientLeft             499: nobody is there to read the answer
    └── NotReady               503: still loading, or something to load is missing
"""

from ragsvc.errors import RagsvcError


class ApiError(RagsvcError):
    """Root of the tree."""


class UnknownDocument(ApiError):
    """An id that no document has."""

    code = "not_found"
    status = 404


class BodyTimeout(ApiError):
    """The request body did not arrive in time."""

    code = "body_timeout"
    status = 408


class CrossSite(ApiError):
    """A page of another site sent a request that changes something."""

    code = "cross_site"
    status = 403


class BodyTooLarge(ApiError):
    """The body, or a part of it, is larger than may be."""

    code = "too_large"
    status = 413


class UnsupportedMediaType(ApiError):
    """The body is not JSON in UTF-8, or is compressed."""

    code = "unsupported_media_type"
    status = 415


class NotSupported(ApiError):
    """A field that the contract knows and this release does not serve."""

    code = "not_supported"
    status = 422


class BadSpec(ApiError):
    """A collection can't be made that way."""

    code = "collection_spec"
    status = 422


class JobCancelled(ApiError):
    """The upload that was waited for was cancelled."""

    code = "job_cancelled"
    status = 409


class JobFailed(ApiError):
    """The upload that was waited for failed."""

    code = "job_failed"
    status = 503


class ClientLeft(ApiError):
    """The client closed the connection; its work was cancelled. The status (499) is for the log alone."""

    code = "client_left"
    status = 499


class NotReady(ApiError):
    """The service can't answer yet."""

    code = "not_ready"
    status = 503
