"""Puts the HTTP application together."""

from collections.abc import Collection, Iterable
from functools import cache

from litestar import Litestar, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from ragsvc.api import collection_routes, document_routes, job_routes, routes
from ragsvc.api.edge import Edge
from ragsvc.api.handling import Api, Limits
from ragsvc.api.operations import Route, Schema, document
from ragsvc.api.problems import handle
from ragsvc.api.waiting import Places, Readers
from ragsvc.service import Service

ROUTES: tuple[HTTPRouteHandler, ...] = (
    *routes.ROUTES,
    *document_routes.ROUTES,
    *collection_routes.ROUTES,
    *job_routes.ROUTES,
)


def create_app(service: Service, *, hosts: Collection[str] | None = None, limits: Limits | None = None) -> Litestar:
    """Return the application over a service.

    `hosts` are the names (without port) that a Host header may have, None for any: see `ragsvc.api.edge.Edge`.
    """
    limits = limits or Limits()
    readers = Readers(limits.read_threads, limits.reads, limits.read_seconds)
    writers = Readers(limits.write_threads, limits.reads, limits.write_seconds)
    receiving = Places(limits.uploads)

    @cache
    def describe() -> Schema:
        return document(described(ROUTES))

    app = Litestar(
        route_handlers=(*_options(ROUTES), *ROUTES),
        state=State({"api": Api(service, limits, readers, writers, receiving, describe)}),
        exception_handlers={Exception: handle},
        on_startup=[service.runner.start],
        on_shutdown=[service.runner.stop, readers.close, writers.close],
        request_max_body_size=limits.body_bytes,
        logging_config=None,
        openapi_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    app.asgi_handler = Edge(app.asgi_handler, hosts)
    return app


def _options(handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """Return what answers OPTIONS. Litestar's own names but the methods of the first handler of a path."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(handler.http_methods)
    return [_allowing(path, ", ".join(sorted(taken))) for path, taken in methods.items()]


def _allowing(path: str, allow: str) -> HTTPRouteHandler:
    @route(path, http_method="OPTIONS")
    async def options() -> ASGIApp:
        return ASGIResponse(status_code=204, headers={"allow": allow})

    return options


def described(handlers: Iterable[HTTPRouteHandler]) -> list[Route]:
    """Return what each handler says of itself. A handler without an operation is a KeyError: none goes undocumented."""
    return [
        Route(method.lower(), path.replace(":str}", "}"), handler.opt["operation"])
        for handler in handlers
        for path in sorted(handler.paths)
        for method in sorted(handler.http_methods)
    ]
