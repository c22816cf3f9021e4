"""The OpenAPI document, made of what each route says about itself (`opt["operation"]`) and of the wire's own types.

Litestar's generator is not used: it takes a handler's signature for the request, but ours read strictly by themselves;
it documents the framework's own error body; and its pages load scripts from elsewhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from ragsvc.api.problems import MEDIA_TYPE as PROBLEM_TYPE
from ragsvc.api.schemas import MAX_K, NoQuery, Problem

JSON = "application/json"
_REFERENCE = "#/components/schemas/{name}"
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes and gives."""

    name: str
    """The operationId."""
    summary: str
    gives: Mapping[str, type[msgspec.Struct] | None]
    """Content type -> the body of a good answer, None for text; empty for an answer without a body."""
    problems: tuple[int, ...]
    """Statuses that are answered with a problem, besides 500."""
    body: type[msgspec.Struct] | None = None
    body_type: str = JSON
    raw_body: bool = False
    """Whether any other content type is taken too, as bytes."""
    status: int = 200
    """Of the good answer."""
    also: Mapping[int, type[msgspec.Struct]] = field(default_factory=dict)
    """Other good answers, in JSON."""
    query: type[msgspec.Struct] = NoQuery
    path: Mapping[str, str] = field(default_factory=dict)
    """Parameters in the path -> what they are."""


@dataclass(frozen=True, slots=True)
class Route:
    """An operation and where it is served."""

    method: str
    """Lower case."""
    path: str
    """With `{name}` for a parameter."""
    operation: Operation


def document(routes: Iterable[Route]) -> Schema:
    """Return the OpenAPI 3.1 document of the routes, in their order."""
    routes = list(routes)
    shapes = _shapes(route.operation for route in routes)
    references, components = msgspec.json.schema_components(shapes, ref_template=_REFERENCE)
    refer = dict(zip(shapes, references, strict=True))
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = _operation(route.operation, refer, components)
    for shape in {route.operation.query for route in routes}:
        components.pop(shape.__name__, None)  # spelled out as parameters
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ragsvc",
            "version": version("ragsvc"),
            "description": "Search a folder of documents and ask about them. Every answer is cited to the characters "
            "it stands on and moderated. Errors are problems (RFC 9457); programs read their `code`. "
            f"At most {MAX_K} passages are found for a question.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _shapes(operations: Iterable[Operation]) -> list[type[msgspec.Struct]]:
    named: dict[type[msgspec.Struct], None] = {Problem: None}
    for operation in operations:
        for shape in (operation.body, operation.query, *operation.gives.values(), *operation.also.values()):
            if shape is not None:
                named[shape] = None
    return list(named)


def _operation(operation: Operation, refer: Mapping[Any, Schema], components: Mapping[str, Schema]) -> Schema:
    shown: Schema = {"operationId": operation.name, "summary": operation.summary}
    parameters = [
        {"name": name, "in": "path", "required": True, "description": said, "schema": {"type": "string"}}
        for name, said in operation.path.items()
    ]
    query = components.get(operation.query.__name__, {})
    parameters += [_parameter(name, schema, query) for name, schema in query.get("properties", {}).items()]
    if parameters:
        shown["parameters"] = parameters
    if operation.body is not None:
        content: Schema = {operation.body_type: {"schema": refer[operation.body]}}
        if operation.raw_body:
            content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        shown["requestBody"] = {"required": True, "content": content}
    shown["responses"] = {
        str(operation.status): _good(operation.status, operation.gives, refer),
        **{str(status): _good(status, {JSON: shape}, refer) for status, shape in operation.also.items()},
        **{str(status): _problem(status, refer) for status in sorted({*operation.problems, 500})},
    }
    return shown


def _parameter(name: str, schema: Schema, query: Schema) -> Schema:
    """Return a query parameter; one that may be absent has no `null` over the wire."""
    required = name in query.get("required", ())
    plain = {key: value for key, value in schema.items() if value is not None and key != "anyOf"}
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return {"name": name, "in": "query", "required": required, "schema": {**(choices[0] if choices else {}), **plain}}


def _good(status: int, gives: Mapping[str, type[msgspec.Struct] | None], refer: Mapping[Any, Schema]) -> Schema:
    shown: Schema = {"description": HTTPStatus(status).phrase}
    if gives:
        shown["content"] = {kind: _content(shape, refer) for kind, shape in gives.items()}
    return shown


def _content(shape: type[msgspec.Struct] | None, refer: Mapping[Any, Schema]) -> Schema:
    return {"schema": {"type": "string"} if shape is None else refer[shape]}


def _problem(status: int, refer: Mapping[Any, Schema]) -> Schema:
    shown: Schema = {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM_TYPE: {"schema": refer[Problem]}},
    }
    if status == 503:
        shown["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return shown
