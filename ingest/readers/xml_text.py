"""XML of any kind: the texts of its elements in the order of the document, and feeds (RSS, Atom) item by item.

An element with words of its own is a line, with the elements in it; elements that hold nothing but others are set
apart by blank lines. A `title` opens a section. Attributes are left out, except those that are text by their name, and
except where a document has no other words. A page in XHTML is read as HTML.
"""

import re
from dataclasses import replace

from ingest.errors import Rejected
from ingest.readers import hypertext
from ingest.readers.decoding import clean, decode
from ingest.readers.flow import BLOCK, LINE, Flow
from ingest.readers.sections import Heading
from ingest.readers.xml_tree import Node, parse
from ingest.types import Document

NAME = "xml"
VERSION = 1

_DECLARED = re.compile(rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w:.-]{1,40})")
_TITLES = ("title", "head", "heading")
_TEXT_ATTRIBUTES = frozenset(("alt", "caption", "label", "summary", "text", "title"))
_UNREAD = frozenset(("script", "style"))
_AS_IT_STANDS = frozenset(("code", "listing", "pre", "programlisting", "screen", "verbatim"))
_LINE_LENGTH = 4_000
"""An element with words and elements is one line up to here; a longer one is read as a container."""
_FEEDS = frozenset(("rss", "feed", "rdf"))
_ITEMS = frozenset(("item", "entry"))
_BODIES = ("encoded", "content")
_SUMMARIES = ("description", "summary", "subtitle", "tagline")
_DATES = ("pubdate", "published", "updated", "date", "issued", "modified")


def read(data: bytes, content_type: str) -> Document:
    """Read XML; the title is the first element of that name. What is not well-formed is read as far as it goes.

    Raises Rejected `encoding`, `no_text` or `limit`.
    """
    declared = _DECLARED.search(data, 0, 400)
    decoded = decode(data, declared[1].decode("ascii") if declared else "")
    top, leniently = parse(decoded.text)
    root = next(top.children(), top)
    if root.name == "html":
        page = hypertext.read(decoded.text.encode(), content_type)
        return replace(page, metadata=decoded.metadata, reader=f"{NAME}-{VERSION}")
    flow = Flow()
    metadata: dict[str, str | int | float | bool] = dict(decoded.metadata)
    if leniently:
        metadata["xml"] = leniently
    if _is_feed(root):
        metadata["items"] = _feed(flow, root)
    else:
        _Walk(flow).node(top, 0)
    if not flow.length:
        _attributes(flow, top)
    if not flow.length:
        raise Rejected("empty", "its elements hold no text")
    return Document(
        text=flow.text,
        sections=flow.sections(),
        content_type=content_type,
        title=flow.first_heading(),
        metadata=metadata,
        reader=f"{NAME}-{VERSION}",
        marks=tuple(flow.marks),
    )


class _Walk:
    """Puts a tree's texts into a flow."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._before = BLOCK

    def node(self, node: Node, level: int) -> None:
        """Add an element: as a line, or as a container with its title first."""
        if node.name in _UNREAD:
            return
        for key, value in node.attributes.items():
            if key in _TEXT_ATTRIBUTES:
                self._add(_one_line(value))
        if node.name in _AS_IT_STANDS:
            self._flow.add(node.text())
        elif _is_line(node):
            self._add(_one_line(_spaced(node)))
        else:
            self._container(node, level)

    def _container(self, node: Node, level: int) -> None:
        self._before = BLOCK
        title = node.child(*_TITLES) if level else None
        words = _one_line(title.text()) if title else ""
        if words and title:
            self._flow.heading(level, words)
            self._before = BLOCK
        for part in node.parts:
            if isinstance(part, str):
                self._add(_one_line(part))
            elif part is not title or not words:
                self.node(part, level + 1)
        self._before = BLOCK

    def _add(self, line: str) -> None:
        if self._flow.add(line, self._before):
            self._before = LINE


def _is_line(node: Node) -> bool:
    """Whether an element is read as one line: it has words of its own, or no elements, and is not too long."""
    if not any(isinstance(part, Node) for part in node.parts):
        return True
    return any(isinstance(part, str) and part.strip() for part in node.parts) and _is_short(node)


def _is_short(node: Node) -> bool:
    """Whether all texts below, and as many parts, stay within a line; no more than that is looked at."""
    left = _LINE_LENGTH
    waiting = [node]
    while waiting and left >= 0:
        for part in waiting.pop().parts:
            left -= len(part) if isinstance(part, str) else 1
            if left < 0:
                break
            if isinstance(part, Node):
                waiting.append(part)
    return left >= 0


def _spaced(node: Node) -> str:
    """Return all texts below; elements in elements without words of their own don't run into each other."""
    pieces: list[str] = []
    own = any(isinstance(part, str) and part.strip() for part in node.parts)
    for part in node.parts:
        if isinstance(part, str):
            pieces.append(part)
        elif part.name not in _UNREAD:
            pieces.append(_spaced(part) if own else f" {_spaced(part)} ")
    return "".join(pieces)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _attributes(flow: Flow, root: Node) -> None:
    """Add the attributes' values, a line for each element: what a table kept in attributes has to say."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        flow.add(" | ".join(_one_line(value) for value in node.attributes.values() if value.strip()), LINE)
        waiting += reversed(list(node.children()))


def _is_feed(root: Node) -> bool:
    return root.name in _FEEDS and any(node.name in _ITEMS or node.name == "channel" for node in root.children())


def _feed(flow: Flow, root: Node) -> int:
    """Add a feed: its title and description, then each item with title, author and time, and its words."""
    channel = root.child("channel") or root
    flow.heading(1, _words(channel, "title"))
    _rendered(flow, _with_words(channel, _SUMMARIES))
    items = [node for parent in {id(root): root, id(channel): channel}.values() for node in parent.children()]
    items = [node for node in items if node.name in _ITEMS]
    for number, item in enumerate(items, start=1):
        flow.mark({"item": number})
        _item(flow, item)
    return len(items)


def _item(flow: Flow, item: Node) -> None:
    title = hypertext.render(_words(item, "title")).text
    if title:
        flow.heading(2, title)
    else:
        flow.headings.append(Heading(flow.next_start, 2, ""))
    author = item.child("creator", "author")
    name = _one_line((author.child("name") or author).text()) if author else ""
    time = next((words for key in _DATES if (words := _words(item, key))), "")
    flow.add(" · ".join(part for part in (name, time) if part))
    body, summary = _with_words(item, _BODIES), _with_words(item, _SUMMARIES)
    if summary is not None and (body is None or not _begins_alike(summary, body)):
        _rendered(flow, summary)
    _rendered(flow, body)
    flow.add(", ".join(words for words in (_category(node) for node in item.children()) if words))


def _begins_alike(summary: Node, body: Node) -> bool:
    """Whether a summary is but the beginning of the body."""
    short, long = (_one_line(hypertext.render(_markup(node)).text) for node in (summary, body))
    return not short or long.startswith(short[: max(40, len(short) // 2)])


def _rendered(flow: Flow, node: Node | None) -> None:
    """Add what is HTML in a feed, escaped or as elements, as the text that people read."""
    if node is None:
        return
    page = hypertext.render(clean(_markup(node)))
    start = flow.next_start
    text = page.text.lstrip()
    if flow.add(text):
        skipped = len(page.text) - len(text)
        for heading in page.headings:
            flow.headings.append(Heading(start - skipped + heading.start, heading.level + 2, heading.text))


def _markup(node: Node) -> str:
    """Return an element's content as HTML: Atom may hold it as elements, RSS holds it as text."""
    if not any(node.children()):
        return node.text()
    return "".join(
        part.replace("&", "&amp;").replace("<", "&lt;")
        if isinstance(part, str)
        else f"<{part.name}>{_markup_inside(part)}</{part.name}>"
        for part in node.parts
    )


def _markup_inside(node: Node) -> str:
    return _markup(node) if any(node.children()) else node.text().replace("&", "&amp;").replace("<", "&lt;")


def _category(node: Node) -> str:
    return _one_line(node.attributes.get("label") or node.attributes.get("term") or node.text()) * (
        node.name == "category"
    )


def _with_words(node: Node, names: tuple[str, ...]) -> Node | None:
    """Return the element right below that says something, by the first of the names: media have `content` too."""
    for name in names:
        for child in node.children():
            if child.name == name and child.text().strip():
                return child
    return None


def _words(node: Node, name: str) -> str:
    child = node.child(name)
    return _one_line(child.text()) if child else ""
