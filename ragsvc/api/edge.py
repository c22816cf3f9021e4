"""The outermost layer: what holds for every response, also for those that the framework makes before any route.

It gives the request its id, turns HEAD into GET (the server leaves the body out), adds the headers that keep a browser
from misusing an answer, checks the Host header where hosts are named, refuses what another site's page sends to change
something, and writes one log line a request: method, route,
status, time, bytes; never a query string, a body or a key.
"""

import re
import secrets
import time
from collections.abc import Collection, Iterable

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from ragsvc.api.errors import CrossSite
from ragsvc.api.problems import MEDIA_TYPE, log_problem, problem_of
from ragsvc.errors import BadRequest

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CSP = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _CSP),
)
"""Set unless the route set its own."""
_log = structlog.stdlib.get_logger("ragsvc.access")


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = None) -> None:
        """`hosts`: names by which the service may be called, without port; None for any.

        A service without keys on a loopback address needs them: a web page can make a name of its own point here
        (DNS rebinding), and then only the Host header tells that the request is not the user's.
        """
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower().encode() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._serve(exchange, receive)
            finally:
                exchange.log()

    async def _serve(self, exchange: "Exchange", receive: Receive) -> None:
        try:
            if self._hosts is not None:
                self._check_host(exchange.scope)
            check_site(exchange.scope)
            await self._app(exchange.scope, receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - the last place that can answer and log it
            problem, headers = problem_of(error, exchange.request_id)
            log_problem(error, problem)
            if exchange.status is None:
                response = ASGIResponse(
                    body=msgspec.json.encode(problem),
                    status_code=problem.status,
                    media_type=MEDIA_TYPE,
                    headers=headers,
                )
                await response(exchange.scope, receive, exchange.send)
            # else the response is left incomplete, and the server closes the connection: the client sees that it is cut

    def _check_host(self, scope: HTTPScope) -> None:
        given = [value for name, value in scope["headers"] if name == b"host"]
        name = re.sub(rb":[0-9]*\Z", b"", given[0]).lower() if len(given) == 1 else b""
        if self._hosts is not None and name not in self._hosts:
            raise BadRequest("the Host header does not name this service; call it by the name it is bound to")


def check_site(scope: HTTPScope) -> None:
    """Raise CrossSite for a request that may change something and that a page of another site sent.

    A browser sends forms and plain text across sites without asking first, and says so in headers that a page can't
    set. Who sends neither header is no browser. The order is that of Go's `net/http.CrossOriginProtection` (1.25):
    `Sec-Fetch-Site` where there is one, else the host of `Origin` against `Host`.
    """
    if scope["method"] in _SAFE_METHODS:
        return
    given = {name: value for name, value in scope["headers"] if name in (b"sec-fetch-site", b"origin", b"host")}
    site, origin = given.get(b"sec-fetch-site"), given.get(b"origin")
    if site is not None:
        foreign = site not in (b"same-origin", b"none")
    else:
        foreign = origin is not None and origin.partition(b"://")[2].lower() != given.get(b"host", b"").lower()
    if foreign:
        raise CrossSite("a page of another site sent this request; requests that change something are refused to it")


class Exchange:
    """One request and its response, as the edge sees them."""

    def __init__(self, scope: HTTPScope, send: Send) -> None:
        """Give the request its id: the client's, where that is sane, else a random one."""
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self.request_id = given.decode() if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        self.status: int | None = None
        self._method = scope["method"]
        self._bytes = 0
        self._started = time.perf_counter()
        self._send = send
        self.scope = scope
        if self._method == "HEAD":
            self.scope = {**scope, "method": "GET"}
        self.scope["state"]["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        """Pass a message on, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._headers(message["headers"])}
        elif message["type"] == "http.response.body":
            self._bytes += len(message["body"])
        await self._send(message)

    def _headers(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers = [(name, with_head(value) if name == b"allow" else value) for name, value in given]
        present = {name for name, _ in headers}
        headers.append((b"x-request-id", self.request_id.encode()))
        return headers + [header for header in _HEADERS if header[0] not in present]

    def log(self) -> None:
        """Write the access line."""
        route = self.scope.get("path_template") or "-"
        took = round((time.perf_counter() - self._started) * 1000, 1)
        _log.info("request", method=self._method, route=route, status=self.status, ms=took, bytes=self._bytes)


def with_head(allow: bytes) -> bytes:
    """Return an Allow header's methods, sorted, with HEAD where GET is allowed."""
    methods = {method.strip() for method in allow.split(b",")}
    return b", ".join(sorted(methods | {b"HEAD"} if b"GET" in methods else methods))
