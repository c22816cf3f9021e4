r"""JSON and JSON Lines: the file's decoded text as one section, with readable characters.

Many writers escape all that is not ASCII: `"\u4e2d"`. Nobody searches for that, so such escapes become the characters
they stand for; those that JSON needs (quotes, backslashes, control characters, lone surrogates) stay. The result is
the same JSON value, in the same layout. A broken file is text all the same.
"""

import re

from ingest.readers.decoding import decode
from ingest.readers.sections import whole
from ingest.types import Document

NAME = "json"
VERSION = 2

# An escaped backslash is stepped over, so that `\\u0041` stays what it is.
_ESCAPES = re.compile(r"\\\\|(?:\\u[0-9a-fA-F]{4})+")
_UNIT = re.compile('[\x00-\x1f"\\\\\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]')


def read(data: bytes, content_type: str) -> Document:
    """Read JSON, valid or not. Raises Rejected `encoding` or `limit`."""
    decoded = decode(data)
    text = unescape(decoded.text)
    return Document(
        text=text,
        sections=whole(text),
        content_type=content_type,
        metadata=decoded.metadata,
        reader=f"{NAME}-{VERSION}",
    )


def unescape(text: str) -> str:
    r"""Replace `\uXXXX` by its character wherever JSON allows the character itself."""
    return _ESCAPES.sub(_characters, text) if "\\u" in text else text


def _characters(found: re.Match[str]) -> str:
    escapes = found[0]
    if escapes == "\\\\":
        return escapes
    units = b"".join(bytes.fromhex(unit) for unit in escapes[2:].split("\\u"))
    paired = units.decode("utf-16-be", "surrogatepass")
    return _UNIT.sub(lambda unit: f"\\u{ord(unit[0]):04x}", paired)
