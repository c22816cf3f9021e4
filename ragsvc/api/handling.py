"""What the handlers share: the parts they work with, their limits, and how an answer is sent."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from litestar.response.base import ASGIResponse

from ragsvc.api.errors import UnknownDocument
from ragsvc.api.operations import JSON, Schema
from ragsvc.api.reading import AnyRequest
from ragsvc.api.waiting import Places, Readers
from ragsvc.service import Service

_DOCUMENT_ID = re.compile(r"doc_[0-9a-z_-]{1,64}", re.ASCII)
DOCUMENT_ID = {"document_id": "Id of a document, as in a hit, a citation or a list."}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much; the defaults are the contract's."""

    answer_seconds: float = 30.0
    """To the answer of `/ask` and `/search`."""
    heartbeat_seconds: float = 15.0
    body_seconds: float = 30.0
    body_bytes: int = 1 << 20
    """A question of 4,000 characters with 20 turns of history is far below it."""
    read_seconds: float = 10.0
    read_threads: int = 8
    reads: int = 256
    """Reads under way or waiting."""
    upload_seconds: float = 900.0
    """For a whole upload; 50 MB over a line of half a megabit a second."""
    idle_seconds: float = 30.0
    """Between two pieces of an upload."""
    uploads: int = 64
    """Bodies that are received at once."""
    wait_seconds: float = 300.0
    """For the documents of an upload with `wait=true`."""
    write_threads: int = 4
    write_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Api:
    """What the handlers work with; it stands in the application's state."""

    service: Service
    limits: Limits
    readers: Readers
    writers: Readers
    """For what changes the disk, and may take longer."""
    receiving: Places
    describe: Callable[[], Schema]
    """The OpenAPI document."""


def api_of(request: AnyRequest) -> Api:
    """Return the Api of the request's application."""
    api: Api = request.app.state["api"]
    return api


def sent(body: msgspec.Struct, status: int = 200, **headers: str) -> ASGIResponse:
    """Return a response in JSON."""
    return ASGIResponse(body=msgspec.json.encode(body), media_type=JSON, status_code=status, headers=headers)


def nothing() -> ASGIResponse:
    """Return a 204."""
    return ASGIResponse(status_code=204)


def document_id_of(request: AnyRequest) -> str:
    """Return the document id of the path. Raises UnknownDocument for what can be none."""
    given = str(request.path_params["document_id"])
    if not _DOCUMENT_ID.fullmatch(given):
        raise UnknownDocument("There is no such document or source.")
    return given
