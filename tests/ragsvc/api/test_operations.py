"""The OpenAPI document says what the routes do, and its page loads nothing."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from ragsvc.api.app import ROUTES, described
from ragsvc.api.operations import document
from ragsvc.api.page import page

CONTRACT = {
    ("post", "/ask"),
    ("post", "/search"),
    ("get", "/documents"),
    ("get", "/documents/{document_id}"),
    ("get", "/documents/{document_id}/text"),
    ("post", "/documents"),
    ("delete", "/documents/{document_id}"),
    ("get", "/collections"),
    ("post", "/collections"),
    ("get", "/collections/{name}"),
    ("delete", "/collections/{name}"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("delete", "/jobs/{job_id}"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/schema"),
}


@pytest.fixture(scope="module")
def spec(server):
    return server.get("/schema").json


def operations(spec):
    return {(method, path): shown for path, methods in spec["paths"].items() for method, shown in methods.items()}


def test_the_contracts_routes_are_described(server, spec):
    """Every route of the contract that is served is in the document, which is also at /schema/openapi.json."""
    assert spec["openapi"].startswith("3.1")
    assert set(operations(spec)) >= CONTRACT
    assert server.get("/schema/openapi.json").json == spec
    assert server.get("/schema", Accept="*/*").headers["content-type"] == "application/json"


def test_every_route_is_described_once(spec):
    """No handler is left out, and operation ids are distinct."""
    assert len(operations(spec)) == len(ROUTES)
    ids = [shown["operationId"] for shown in operations(spec).values()]
    assert len(set(ids)) == len(ids)


def test_problems_have_their_shape_and_type(spec):
    """Each error response of each route is the problem shape under its own content type; 503 names Retry-After."""
    for shown in operations(spec).values():
        errors = {status: response for status, response in shown["responses"].items() if status >= "400"}
        assert "500" in errors
        for status, response in errors.items():
            [(kind, content)] = response["content"].items()
            assert kind == "application/problem+json"
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert ("Retry-After" in response.get("headers", {})) == (status == "503")


def test_what_is_refused_to_other_sites_is_described(spec):
    """Every operation that may change something, and no other, says that it can be a 403."""
    for (method, _), shown in operations(spec).items():
        assert ("403" in shown["responses"]) == (method != "get")


def test_the_upload_is_described(spec):
    """POST /documents takes a form or bytes, answers 202 or 201; removals answer without a body."""
    upload = operations(spec)["post", "/documents"]
    assert set(upload["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    shapes = {status: upload["responses"][status]["content"]["application/json"]["schema"] for status in ("201", "202")}
    assert [shape["$ref"].rpartition("/")[2] for shape in shapes.values()] == ["UploadResponse", "JobAccepted"]
    for path in ("/documents/{document_id}", "/collections/{name}"):
        assert "content" not in operations(spec)["delete", path]["responses"]["204"]


def test_every_reference_leads_somewhere(spec):
    """No reference dangles and no component is left over."""
    named = set(re.findall(r"#/components/schemas/(\w+)", str(spec)))
    assert named == set(spec["components"]["schemas"])


def test_bodies_and_parameters_have_their_limits(spec):
    """The limits that a request is held to are in the document."""
    asks = spec["components"]["schemas"]["AskRequest"]
    assert asks["required"] == ["question"]
    assert asks["additionalProperties"] is False
    assert asks["properties"]["question"]["maxLength"] == 4000
    assert (asks["properties"]["k"]["minimum"], asks["properties"]["k"]["maximum"]) == (1, 50)
    listing = {given["name"]: given for given in operations(spec)["get", "/documents"]["parameters"]}
    assert listing["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert listing["source"]["schema"] == {"type": "string", "description": "Root of a source, or `upload`."}
    text = operations(spec)["get", "/documents/{document_id}/text"]["parameters"]
    assert [(given["name"], given["in"]) for given in text] == [
        ("document_id", "path"), ("start", "query"), ("end", "query"), ("version", "query"),
    ]  # fmt: skip
    assert set(operations(spec)["post", "/ask"]["responses"]["200"]["content"]) == {
        "application/json",
        "text/event-stream",
    }


def _fits(value, schema, spec):
    """A small reading of JSON Schema: references, types, required and unknown fields, choices."""
    if "$ref" in schema:
        schema = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return any(_fits(value, choice, spec) for choice in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    kind = schema.get("type")
    if kind == "null" or value is None:
        return kind == "null" and value is None
    if kind and not isinstance(value, kinds[kind]):
        return False
    if kind == "array":
        return all(_fits(item, schema.get("items", {}), spec) for item in value)
    if kind == "object":
        properties = schema.get("properties", {})
        return set(schema.get("required", ())) <= set(value) and all(
            _fits(item, properties[name], spec) for name, item in value.items() if name in properties
        )
    return True


def test_answers_fit_the_document(server, spec):
    """What the routes really send has the shape that the document promises."""
    sent = {
        ("post", "/ask"): server.post("/ask", {"question": "What?"}),
        ("post", "/search"): server.post("/search", {"query": "start"}),
        ("get", "/documents"): server.get("/documents"),
        ("get", "/readyz"): server.get("/readyz"),
    }
    for key, reply in sent.items():
        promised = operations(spec)[key]["responses"]["200"]["content"]["application/json"]["schema"]
        assert _fits(reply.json, promised, spec), key
    assert not _fits({"hits": [{}], "collection": "x", "generation": 1}, {"$ref": "SearchResponse"}, spec)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        given = dict(attrs)
        self.links += [given[name] for name in ("href", "src", "action", "data") if name in given]
        self.ids |= {given["id"]} if "id" in given else set()


def test_the_page_loads_nothing(server):
    """The page has no script and no outside address, links only within, and a policy that allows just its style."""
    reply = server.get("/schema", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert reply.headers["content-type"].startswith("text/html")
    html = reply.body.decode()
    assert not re.search(r"https?://|url\(|@import", html)
    found = _Links()
    found.feed(html)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "form"}
    assert {link.removeprefix("#") for link in found.links} <= found.ids | {"/schema/openapi.json"}
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in reply.headers["content-security-policy"]
    assert all(path.replace("{", "").split("/")[1] in html for _, path in CONTRACT)


def test_the_page_escapes_what_it_shows():
    """Names and descriptions are text on the page, never markup."""
    spec = document(described(ROUTES))
    spec["info"]["description"] = "<script>alert(1)</script>"
    spec["components"]["schemas"]["<b>"] = {"type": "</pre><script>"}
    assert "<script>" not in page(spec)
