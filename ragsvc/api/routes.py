"""The routes: each reads its request, calls the service, and shows what comes back."""

from typing import Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from indexes.types import DocumentInfo, TextSlice
from ragsvc.api import page, schemas, sse
from ragsvc.api.accept import preferred
from ragsvc.api.errors import NotSupported
from ragsvc.api.handling import DOCUMENT_ID, Api, api_of, document_id_of, sent
from ragsvc.api.operations import JSON, Operation
from ragsvc.api.reading import AnyRequest, read_json, read_query
from ragsvc.api.waiting import while_there

HTML = "text/html"


@post(
    "/ask",
    opt={
        "operation": Operation(
            "ask",
            "Answer a question from the documents, cited and moderated",
            gives={JSON: schemas.AskResponse, sse.MEDIA_TYPE: None},
            problems=(400, 403, 404, 408, 413, 415, 422, 503),
            body=schemas.AskRequest,
        )
    },
)
async def ask(request: AnyRequest) -> ASGIApp:
    """Answer a question; as events when `stream` is true or the client would rather have them."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)
    body = await read_json(request, schemas.AskRequest, seconds=api.limits.body_seconds)
    if body.response_format is not None:
        raise NotSupported("`response_format` is not served by this release; leave it out")
    question = schemas.question_of(body)
    seconds = api.limits.answer_seconds
    if body.stream or preferred(request.headers.get("accept", ""), (JSON, sse.MEDIA_TYPE)) == sse.MEDIA_TYPE:
        heartbeat = api.limits.heartbeat_seconds
        return sse.AnswerStream(lambda: api.service.answering.answer(question), seconds=seconds, heartbeat=heartbeat)
    answer = await while_there(api.service.answering.answer(question), request.receive, seconds=seconds)
    return sent(schemas.ask_response(answer))


@post(
    "/search",
    opt={
        "operation": Operation(
            "search",
            "Find passages by meaning, by words, or both",
            gives={JSON: schemas.SearchResponse},
            problems=(400, 403, 404, 408, 413, 415, 503),
            body=schemas.SearchRequest,
        )
    },
)
async def search(request: AnyRequest) -> ASGIApp:
    """Find passages."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)
    body = await read_json(request, schemas.SearchRequest, seconds=api.limits.body_seconds)
    query, where = schemas.readable(body.query, "query"), schemas.filter_of(body.filter)
    found = await while_there(
        api.service.retriever.retrieve(query, body.collection, body.k, body.mode, where),
        request.receive,
        seconds=api.limits.answer_seconds,
    )
    return sent(schemas.search_response(found))


@get(
    "/documents",
    opt={
        "operation": Operation(
            "list_documents",
            "List the documents of a collection",
            gives={JSON: schemas.DocumentsResponse},
            problems=(400, 404, 503),
            query=schemas.DocumentsQuery,
        )
    },
)
async def list_documents(request: AnyRequest) -> ASGIApp:
    """List a page of documents."""
    api = api_of(request)
    query = read_query(request, schemas.DocumentsQuery)

    def read() -> tuple[tuple[DocumentInfo, ...], str | None]:
        return api.service.library.open(query.collection).documents(query.source, query.limit, query.after)

    return sent(schemas.documents_response(*await api.readers.run(read)))


@get(
    "/documents/{document_id:str}",
    opt={
        "operation": Operation(
            "show_document",
            "Show one document",
            gives={JSON: schemas.DocumentResponse},
            problems=(400, 404, 503),
            path=DOCUMENT_ID,
        )
    },
)
async def show_document(request: AnyRequest) -> ASGIApp:
    """Show one document."""
    api = api_of(request)
    read_query(request, schemas.NoQuery)
    document_id = document_id_of(request)

    def read() -> DocumentInfo:
        return api.service.library.of_document(document_id).document(document_id)

    return sent(schemas.document_response(await api.readers.run(read)))


@get(
    "/documents/{document_id:str}/text",
    opt={
        "operation": Operation(
            "show_text",
            "Show a piece of a document's text: a citation's start, end and version give its quote",
            gives={JSON: schemas.TextResponse},
            problems=(400, 404, 409, 503),
            query=schemas.TextQuery,
            path=DOCUMENT_ID,
        )
    },
)
async def show_text(request: AnyRequest) -> ASGIApp:
    """Show a piece of a text."""
    api = api_of(request)
    query = read_query(request, schemas.TextQuery)
    document_id = document_id_of(request)

    def read() -> TextSlice:
        collection = api.service.library.of_document(document_id)
        return collection.text(document_id, start=query.start, end=query.end, version=query.version)

    return sent(schemas.text_response(await api.readers.run(read)))


@get(
    "/healthz",
    opt={"operation": Operation("alive", "Say that the process answers", {JSON: schemas.AliveResponse}, problems=())},
)
async def healthz() -> ASGIApp:
    """Say that the process answers."""
    return sent(schemas.AliveResponse())


@get(
    "/readyz",
    opt={
        "operation": Operation(
            "ready", "Say whether the service can answer, and by what means", {JSON: schemas.ReadyResponse}, (503,)
        )
    },
)
async def readyz(request: AnyRequest) -> ASGIApp:
    """Say whether the service can answer; asks nothing upstream."""
    api = api_of(request)
    return sent(schemas.ready_response(await api.readers.run(api.service.ready)))


@get(
    "/schema",
    opt={
        "operation": Operation(
            "schema", "Describe these operations: OpenAPI, or a page for people", {JSON: None, HTML: None}, problems=()
        )
    },
)
async def schema(request: AnyRequest) -> ASGIApp:
    """Describe the operations, as JSON or as a page, as the client prefers."""
    if preferred(request.headers.get("accept", ""), (JSON, HTML)) == JSON:
        return _described(api_of(request), {"vary": "accept"})
    shown = page.page(api_of(request).describe())
    return ASGIResponse(body=shown, media_type=HTML, headers={"vary": "accept", "content-security-policy": page.CSP})


@get(
    "/schema/openapi.json",
    opt={"operation": Operation("openapi", "Describe these operations as OpenAPI", {JSON: None}, problems=())},
)
async def openapi(request: AnyRequest) -> ASGIApp:
    """Describe the operations as JSON."""
    return _described(api_of(request), {})


def _described(api: Api, headers: dict[str, Any]) -> ASGIResponse:
    return ASGIResponse(body=msgspec.json.encode(api.describe()), media_type=JSON, headers=headers)


ROUTES: tuple[HTTPRouteHandler, ...] = (
    ask,
    search,
    list_documents,
    show_document,
    show_text,
    healthz,
    readyz,
    schema,
    openapi,
)
