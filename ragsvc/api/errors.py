"""Errors that only HTTP knows; they hang in the service's tree and carry their problem code and status.

RagsvcError
└── ApiError
    ├── UnknownDocument        404: an id that is not even of the form of ours
    ├── BodyTimeout            408: the body did not arrive in time
    ├── UnsupportedMediaType   415
    ├── NotSupported           422: understood, and not served by this release
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


class UnsupportedMediaType(ApiError):
    """The body is not JSON in UTF-8, or is compressed."""

    code = "unsupported_media_type"
    status = 415


class NotSupported(ApiError):
    """A field that the contract knows and this release does not serve."""

    code = "not_supported"
    status = 422


class ClientLeft(ApiError):
    """The client closed the connection; its work was cancelled. The status (499) is for the log alone."""

    code = "client_left"
    status = 499


class NotReady(ApiError):
    """The service can't answer yet."""

    code = "not_ready"
    status = 503
