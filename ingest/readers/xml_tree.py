"""XML as a tree of names and texts: read strictly, or leniently where it is not well-formed. Nothing is expanded or
fetched: no entity but the five that XML has, no document type.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Union

from ingest.errors import Rejected

MAX_DEPTH = 200
MAX_ELEMENTS = 1_000_000

_TAG = re.compile(r"<(/?)([A-Za-z_][\w:.-]*)([^<>]*)>")
_ATTRIBUTE = re.compile(r"([\w:.-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_REFERENCE = re.compile(r"&(?:#(?:\d{1,7}|[xX][0-9a-fA-F]{1,6})|amp|lt|gt|quot|apos);")


@dataclass(slots=True)
class Node:
    """An element: its local name in small letters, its attributes by local name, its texts and elements in order."""

    name: str
    attributes: dict[str, str]
    parts: list[Union[str, "Node"]] = field(default_factory=list)

    def children(self) -> Iterator["Node"]:
        """Yield the elements right below."""
        return (part for part in self.parts if isinstance(part, Node))

    def child(self, *names: str) -> Union["Node", None]:
        """Return the first element right below with the first of these names that occurs."""
        for name in names:
            for node in self.children():
                if node.name == name:
                    return node
        return None

    def text(self) -> str:
        """Return all texts below, in order."""
        return "".join(part if isinstance(part, str) else part.text() for part in self.parts)


def parse(text: str) -> tuple[Node, str]:
    """Return the root and why it was read leniently ("not well-formed", "declares entities"), empty where it was not.

    The root of the tree is an element without a name that holds the document's own. Raises Rejected `limit`.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, XMLParser

    builder = _Builder()
    try:
        parser = XMLParser(target=builder)
        parser.feed(text)
        parser.close()
    except DefusedXmlException:
        return _leniently(text), "declares entities, which are not expanded"
    except ParseError:
        return _leniently(text), "not well-formed"
    return builder.root, ""


class _Builder:
    """A target for a parser's events."""

    def __init__(self) -> None:
        self.root = Node("", {})
        self._open = [self.root]
        self._elements = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise Rejected("limit", f"more than {MAX_ELEMENTS:,} elements")
        if len(self._open) > MAX_DEPTH:
            raise Rejected("limit", f"more than {MAX_DEPTH} elements, one in another")
        node = Node(_local(tag), {_local(key): value for key, value in attributes.items()})
        self._open[-1].parts.append(node)
        self._open.append(node)

    def end(self, tag: str) -> None:
        """Close the nearest open element of this name, and those in it; an end without a beginning is passed over."""
        name = _local(tag)
        for depth in range(len(self._open) - 1, 0, -1):
            if self._open[depth].name == name:
                del self._open[depth:]
                return

    def data(self, text: str) -> None:
        if text:
            self._open[-1].parts.append(text)

    def close(self) -> None:
        pass


def _local(name: str) -> str:
    """Return a name without its namespace, `{uri}name` or `prefix:name`, in small letters."""
    return re.split(r"[}:]", name)[-1].lower()


def _leniently(text: str) -> Node:
    """Take tags for tags and all else for text; comments, instructions and document types are dropped."""
    builder = _Builder()
    position = 0
    while (begin := text.find("<", position)) >= 0:
        builder.data(_unescape(text[position:begin]))
        if text.startswith("<![CDATA[", begin):
            end = _behind(text, "]]>", begin)
            builder.data(text[begin + 9 : end].removesuffix("]]>"))
        elif text.startswith("<!--", begin):
            end = _behind(text, "-->", begin)
        elif text.startswith("<?", begin):
            end = _behind(text, "?>", begin)
        elif text.startswith("<!", begin):
            end = _behind_document_type(text, begin)
        else:
            end = _tag(builder, text, begin)
        position = end
    builder.data(_unescape(text[position:]))
    return builder.root


def _tag(builder: _Builder, text: str, begin: int) -> int:
    found = _TAG.match(text, begin)
    if not found:
        builder.data("<")
        return begin + 1
    if found[1]:
        builder.end(found[2])
    else:
        attributes = {one[1]: _unescape(one[2] or one[3] or "") for one in _ATTRIBUTE.finditer(found[3][:10_000])}
        builder.start(found[2], attributes)
        if found[3].endswith("/"):
            builder.end(found[2])
    return found.end()


def _behind(text: str, mark: str, begin: int) -> int:
    end = text.find(mark, begin)
    return len(text) if end < 0 else end + len(mark)


def _behind_document_type(text: str, begin: int) -> int:
    end = _behind(text, ">", begin)
    subset = text.find("[", begin, end)  # no further: each of many declarations would be a search through the file
    return end if subset < 0 else _behind(text, "]>", subset)


def _unescape(text: str) -> str:
    return _REFERENCE.sub(lambda found: html.unescape(found[0]), text) if "&" in text else text
