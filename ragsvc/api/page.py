"""The OpenAPI document as a page for people: plain HTML, no script, nothing loaded from anywhere."""

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

import msgspec

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow:auto;padding:.7rem;border:1px solid}"
    "table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}"
)
CSP = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy of the page: its own style and nothing else."""


def page(document: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p>{escape(info['description'])}</p>",
        '<p>For programs: <a href="/schema/openapi.json">/schema/openapi.json</a></p>',
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.extend(_operation(method, path, operation))
    parts.append("<h2>Shapes</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f'<h3 id="{escape(name)}">{escape(name)}</h3><pre>{_json(schema)}</pre>')
    return "\n".join([*parts, "</body></html>"])


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p><table>"
    for parameter in operation.get("parameters", ()):
        limits = _json(parameter["schema"])
        yield f"<tr><th>{escape(parameter['in'])} <code>{escape(parameter['name'])}</code></th><td>{limits}</td></tr>"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<tr><th>body</th><td>{escape(kind)} {_shape(content['schema'])}</td></tr>"
    for status, response in operation["responses"].items():
        kinds = ", ".join(
            f"{escape(kind)} {_shape(body['schema'])}" for kind, body in response.get("content", {}).items()
        )
        yield f"<tr><th>{escape(status)}</th><td>{escape(response['description'])}: {kinds}</td></tr>"
    yield "</table>"


def _shape(schema: dict[str, Any]) -> str:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return f'<a href="#{escape(name)}">{escape(name)}</a>' if name else ""


def _json(value: object) -> str:
    return escape(msgspec.json.format(msgspec.json.encode(value)).decode())
