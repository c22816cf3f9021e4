"""Takes an upload off the wire and onto the disk: bounded in size and time, nothing of it held in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar.exceptions import InternalServerException

from ragsvc.api.document_schemas import UploadQuery
from ragsvc.api.errors import BodyTimeout, BodyTooLarge, ClientLeft, UnsupportedMediaType
from ragsvc.api.form import Begin, End, Form, boundary_of
from ragsvc.api.handling import Api
from ragsvc.api.reading import AnyRequest, decode
from ragsvc.errors import BadRequest
from ragsvc.inbox import Delivery
from ragsvc.jobs import Job, Metadata
from ragsvc.uploads import check_metadata, upload_path

_FRAMING = 1 << 20
"""Bytes that a form may have beside its documents' limit."""
_PIECE = 1 << 20
"""Bytes that go to a thread at once."""


class _Wanted(msgspec.Struct):
    """Where the documents go and what they are given, once all is read."""

    collection: str
    metadata: Metadata


async def receive(request: AnyRequest, api: Api, query: UploadQuery) -> Job:
    """Take the body and return the job that was accepted for it: all of it is durable by then.

    Raises BadRequest, UnsupportedMediaType, BodyTooLarge, BodyTimeout, ClientLeft, and what `Uploads` raises.
    """
    boundary = boundary_of(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("the body must not be compressed; send the document as it is")
    if boundary is None and query.path is None:
        raise BadRequest("a raw body needs ?path=, the document's name; or send a form (multipart/form-data)")
    if boundary is not None and query.path is not None:
        raise BadRequest("?path= is for a raw body; in a form the file name of each part is the path")
    raw_path = None if query.path is None else upload_path(query.path)
    early = _wanted(query, {})
    uploads = api.service.uploads
    if boundary is None or query.collection is not None:
        await api.readers.run(lambda: uploads.check(early.collection))
    most = uploads.max_bytes + (0 if boundary is None else _FRAMING)
    expected = _announced(request, most)
    with api.receiving.place():
        delivery = await api.writers.run(lambda: uploads.open(expected))
        try:
            filling = _Filling(delivery, api)
            pieces = _pieces(request, api, most)
            fields = await (_take_form(boundary, pieces, filling) if boundary else _take_raw(raw_path, pieces, filling))
            wanted = _wanted(query, fields)
            return await asyncio.shield(
                api.writers.run(lambda: uploads.accept(delivery, wanted.collection, wanted.metadata))
            )
        finally:
            # Not among the writers, who refuse when they are many: what is not discarded counts as promised for ever.
            await asyncio.shield(asyncio.to_thread(delivery.discard))


def _wanted(query: UploadQuery, fields: dict[str, str]) -> _Wanted:
    """Put query and form together. Raises BadRequest where both name something."""
    for name in fields:
        if getattr(query, name) is not None:
            raise BadRequest(f"`{name}` is given both in the query and in the form; give it once")
    collection = fields.get("collection", query.collection)
    text = fields.get("metadata", query.metadata)
    return _Wanted(
        collection="default" if collection is None else _named(collection),
        metadata={} if text is None else check_metadata(_object(text)),
    )


def _named(collection: str) -> str:
    if not 1 <= len(collection) <= 200:
        raise BadRequest("`collection` is the name of a collection, of up to 200 characters")
    return collection


def _object(text: str) -> dict[str, Any]:
    try:
        return decode(text.encode("utf-8"), dict[str, Any])
    except BadRequest as error:
        raise BadRequest(f"metadata: {str(error).replace('the body', 'the text')}") from None


def _announced(request: AnyRequest, most: int) -> int:
    """Return how many bytes will come at most. Raises BodyTooLarge."""
    given = request.headers.get("content-length", "")
    announced = int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else most
    if announced > most:
        raise BodyTooLarge(_too_large(most))
    return announced


def _too_large(most: int) -> str:
    return f"the body is larger than {most >> 20} MiB, the limit here (RAGSVC_MAX_BODY_MB); send fewer documents"


async def _pieces(request: AnyRequest, api: Api, most: int) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Raises BodyTooLarge, BodyTimeout, ClientLeft."""
    stream = request.stream()
    loop = asyncio.get_running_loop()
    ends = loop.time() + api.limits.upload_seconds
    taken = 0
    while True:
        try:
            async with asyncio.timeout_at(min(ends, loop.time() + api.limits.idle_seconds)):
                piece = await anext(stream, b"")
        except TimeoutError:
            raise BodyTimeout("the body did not arrive in time; send it again, faster or in parts") from None
        except InternalServerException:
            raise ClientLeft("the client left before its body had arrived") from None
        if not piece:
            return
        taken += len(piece)
        if taken > most:
            raise BodyTooLarge(_too_large(most))
        yield piece


@dataclass(slots=True)
class _Filling:
    """Writes to a delivery in large pieces."""

    delivery: Delivery
    api: Api
    _waiting: list[bytes] = field(default_factory=list)
    _size: int = 0

    async def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _PIECE:
            await self.flush()

    async def flush(self) -> None:
        if self._waiting:
            data, self._waiting, self._size = b"".join(self._waiting), [], 0
            await self.api.writers.run(lambda: self.delivery.write(data))

    async def end(self) -> None:
        await self.flush()
        self.delivery.end()


async def _take_raw(path: str | None, pieces: AsyncIterator[bytes], filling: _Filling) -> dict[str, str]:
    filling.delivery.begin(path or "")
    async for piece in pieces:
        await filling.write(piece)
    await filling.end()
    return {}


async def _take_form(boundary: str, pieces: AsyncIterator[bytes], filling: _Filling) -> dict[str, str]:
    form = Form(boundary)
    paths: set[str] = set()
    async for piece in pieces:
        for event in form.feed(piece):
            if isinstance(event, Begin):
                path = upload_path(event.name)
                if path in paths:
                    raise BadRequest(f"two parts have the file name {path[:100]!r}; each is the path of a document")
                paths.add(path)
                filling.delivery.begin(path)
            elif isinstance(event, End):
                await filling.end()
            else:
                await filling.write(event)
    form.close()
    return form.fields
