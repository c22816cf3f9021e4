"""Collections over HTTP: listed, shown, made, removed."""

from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from indexes.errors import StoreError
from ragsvc.api import schemas
from ragsvc.api.document_schemas import CollectionOut, CollectionRequest, CollectionsResponse, collection_out
from ragsvc.api.errors import BadSpec
from ragsvc.api.handling import Api, api_of, nothing, sent
from ragsvc.api.operations import JSON, Operation
from ragsvc.api.reading import AnyRequest, read_json, read_query
from ragsvc.errors import ConfigurationError, UnknownCollection
from ragsvc.specs import new_spec

_NAME_PARAMETER = {"name": "Name of a collection."}
_FIELDS = {
    "RAGSVC_EMBEDDING_DIMENSIONS": "`dimensions`",
    "RAGSVC_CHUNK_TOKENS": "`chunk_tokens`",
    "RAGSVC_CHUNK_OVERLAP": "`overlap_tokens`",
}
"""What a request calls what the settings call so."""


@get(
    "/collections",
    opt={
        "operation": Operation(
            "list_collections", "List the collections", gives={JSON: CollectionsResponse}, problems=(400, 503)
        )
    },
)
async def list_collections(request: AnyRequest) -> ASGIApp:
    """List all collections."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)

    def read() -> CollectionsResponse:
        listed = []
        for name in api.service.library.names():
            try:
                listed.append(_shown(api, name))
            except (UnknownCollection, StoreError):
                if name in api.service.library.names():
                    raise
                continue  # removed meanwhile
        return CollectionsResponse(collections=listed)

    return sent(await api.readers.run(read))


@get(
    "/collections/{name:str}",
    opt={
        "operation": Operation(
            "show_collection",
            "Show one collection",
            gives={JSON: CollectionOut},
            problems=(400, 404, 503),
            path=_NAME_PARAMETER,
        )
    },
)
async def show_collection(request: AnyRequest) -> ASGIApp:
    """Show one collection."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)
    name = str(request.path_params["name"])
    return sent(await api.readers.run(lambda: _shown(api, name)))


def _shown(api: Api, name: str) -> CollectionOut:
    return collection_out(name, api.service.library.open(name).status())


@post(
    "/collections",
    opt={
        "operation": Operation(
            "create_collection",
            "Make a collection with its own way of cutting and embedding",
            gives={JSON: CollectionOut},
            status=201,
            problems=(400, 403, 408, 409, 413, 415, 422, 503),
            body=CollectionRequest,
        )
    },
)
async def create_collection(request: AnyRequest) -> ASGIApp:
    """Make a collection."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)
    body = await read_json(request, CollectionRequest, seconds=api.limits.body_seconds)

    def create() -> CollectionOut:
        try:
            spec = new_spec(
                api.service.settings,
                model=body.embedding_model,
                dimensions=body.dimensions,
                tokens=body.chunk_tokens,
                overlap=body.overlap_tokens,
            )
        except ConfigurationError as error:
            said = str(error)
            for setting, field in _FIELDS.items():
                said = said.replace(setting, field)
            raise BadSpec(said) from None
        return collection_out(body.name, api.service.library.create(body.name, spec).status())

    made = await api.writers.run(create)
    return sent(made, 201, location=f"/collections/{made.name}")


@delete(
    "/collections/{name:str}",
    status_code=200,
    opt={
        "operation": Operation(
            "remove_collection",
            "Remove a collection with all its documents and vectors, and cancel its jobs",
            gives={},
            status=204,
            problems=(400, 403, 404, 409, 503),
            path=_NAME_PARAMETER,
        )
    },
)
async def remove_collection(request: AnyRequest) -> ASGIApp:
    """Remove a collection."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)
    name = str(request.path_params["name"])
    await api.writers.run(lambda: api.service.library.remove(name))
    return nothing()


ROUTES: tuple[HTTPRouteHandler, ...] = (list_collections, show_collection, create_collection, remove_collection)
