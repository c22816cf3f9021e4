"""Reads what a client sent, strictly: whatever is wrong with it is a 400, 408, 413 or 415, never a 500.

Litestar's own reading is not used: it takes JSON under any content type, turns `"5"` into 5, takes the last of two
equal keys or parameters, and answers 500 to invalid UTF-8 and to 5,000 nested arrays.
"""

import asyncio
import json
import re
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException

from ragsvc.api.errors import BodyTimeout, ClientLeft, UnsupportedMediaType
from ragsvc.errors import BadRequest

T = TypeVar("T")
Shape = TypeVar("Shape", bound=msgspec.Struct)
AnyRequest = Request[Any, Any, Any]
BODY_SECONDS = 30.0
"""A whole body must have come by then."""
_MAX_PARAMETERS = 32
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_JSON_TYPE = re.compile(r'application/json\s*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?;?', re.ASCII | re.IGNORECASE)


async def read_json(request: AnyRequest, shape: type[Shape], *, seconds: float = BODY_SECONDS) -> Shape:
    """Return the request's body as a `shape`. Nothing of the body is read before its headers were found right.

    Raises BadRequest, UnsupportedMediaType, BodyTimeout, ClientLeft, or Litestar's RequestEntityTooLarge.
    """
    check_headers(request)
    try:
        async with asyncio.timeout(seconds):
            body = await request.body()
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {seconds:g} seconds") from None
    except InternalServerException:
        raise ClientLeft("the client left before its body had arrived") from None
    return decode(body, shape)


def check_headers(request: AnyRequest) -> None:
    """Raise UnsupportedMediaType unless the body is JSON in UTF-8, as it is.

    Strict on purpose: a browser sends other content types across origins without asking first.
    """
    given = request.headers.get("content-type", "")
    if not _JSON_TYPE.fullmatch(given.strip()):
        named = f"it is {given[:100]!r}" if given else "there is none"
        raise UnsupportedMediaType(f"the content type must be application/json in UTF-8; {named}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"the body must not be compressed; its content encoding is {encoding[:100]!r}")


def decode(body: bytes, shape: type[T]) -> T:
    """Return JSON bytes as a `shape`. Raises BadRequest that says what is wrong and where."""
    if not body:
        raise BadRequest("the body is empty; send a JSON object")
    try:
        value: T = _decoder(cast(Hashable, shape)).decode(body)
        json.loads(body.decode("utf-8"), object_pairs_hook=_once)
    except msgspec.DecodeError as error:
        raise BadRequest(_said(error)) from None
    except UnicodeError:
        raise BadRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError:  # of the second reading alone: what two readers take differently is refused
        raise BadRequest("the body is not plain JSON; another reader would not take it") from None
    return value


@cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)


def _once(pairs: list[tuple[str, object]]) -> None:
    """Refuse a key that stands twice in an object: two readers could take it for two different requests."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise BadRequest(f"the key {key[:100]!r} stands twice in the same object")
        seen.add(key)


def _said(error: msgspec.DecodeError) -> str:
    """Return msgspec's message in our form: `Expected `int` <= 50 - at `$.k`` becomes `k: expected `int` <= 50`."""
    message, _, place = str(error).partition(" - at ")
    path = place.strip("`").removeprefix("$").lstrip(".")
    if message[1:2].islower():
        message = message[:1].lower() + message[1:]
    return f"{path}: {message}" if path else message


def read_query(request: AnyRequest, shape: type[Shape]) -> Shape:
    """Return the query string as a `shape`; unknown and repeated parameters are refused. Raises BadRequest."""
    raw: bytes = request.scope["query_string"]
    if not raw:
        return convert_query((), shape)
    try:
        text = raw.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except UnicodeError:
        raise BadRequest("the query string is not percent-encoded UTF-8") from None
    except ValueError:
        raise BadRequest(f"the query string has more than {_MAX_PARAMETERS} parameters") from None
    return convert_query(pairs, shape)


def convert_query(pairs: Sequence[tuple[str, str]], shape: type[Shape]) -> Shape:
    """Return decoded parameters as a `shape`. Raises BadRequest."""
    values: dict[str, str | int] = {}
    integers = _integer_fields(shape)
    for name, value in pairs:
        if name in values:
            raise BadRequest(f"the parameter {name[:100]!r} is given twice")
        if "\0" in value:
            raise BadRequest(f"the parameter {name[:100]!r} has a NUL character in it")
        values[name] = int(value) if name in integers and _INTEGER.fullmatch(value) else value
    try:
        return msgspec.convert(values, shape)
    except msgspec.ValidationError as error:
        raise BadRequest(_said(error).replace("object contains unknown field", "unknown parameter")) from None


@cache
def _integer_fields(shape: type[msgspec.Struct]) -> frozenset[str]:
    described = msgspec.inspect.type_info(shape)
    fields = described.fields if isinstance(described, msgspec.inspect.StructType) else ()
    return frozenset(field.encode_name for field in fields if _is_integer(field.type))


def _is_integer(described: msgspec.inspect.Type) -> bool:
    if isinstance(described, msgspec.inspect.UnionType):
        return any(_is_integer(part) for part in described.types)
    if isinstance(described, msgspec.inspect.Metadata):
        return _is_integer(described.type)
    return isinstance(described, msgspec.inspect.IntType)
