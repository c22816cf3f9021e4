"""HTML: the visible text, blocks as lines, headings as sections. Nothing is fetched and no script runs.

Blocks are set apart by blank lines, list items and table rows by line ends, the cells of a row by ` | `; white space
is collapsed as a browser does, except in `<pre>`. Offsets are those of this text, not of the file.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ingest.errors import Rejected
from ingest.readers.decoding import Decoded, clean, decode
from ingest.readers.sections import Heading, by_headings, first_heading
from ingest.types import Document

NAME = "html"
VERSION = 2

_DECLARED = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w:.-]{1,40})|<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w:.-]{1,40})",
    re.IGNORECASE,
)
_DECLARED_WITHIN = 4096
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_MAX_NESTING = 10_000  # Lexbor's time grows with the square of the depth: 0.3 s here; browsers stop at 512
_SPACES = re.compile(r"[ \t\n\r\f]+")
_UNSEEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)

_DROPPED_NAMES = "script style noscript template head iframe object embed canvas svg math audio video datalist select"
_DROPPED = frozenset(_DROPPED_NAMES.split())
_BLOCKS_NAMES = (
    "address article aside blockquote body center details dialog div dl fieldset figure footer form h1 h2 "
    "h3 h4 h5 h6 header hgroup hr html main menu nav ol p pre search section summary table ul"
)
_BLOCKS = frozenset(_BLOCKS_NAMES.split())
_LINES = frozenset(("br", "caption", "dd", "dt", "figcaption", "legend", "li", "tbody", "tfoot", "thead", "tr"))
# Elements that others close, or that hold nothing: leaving them open does not nest.
_UNCLOSED_NAMES = (
    "p li dd dt td th tr tbody thead tfoot caption colgroup option optgroup rb rt rp html head body area base br col"
    " embed hr img input link meta source track wbr"
)
_UNCLOSED = frozenset(_UNCLOSED_NAMES.split())
_CELLS = frozenset(("td", "th"))
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_SEPARATORS = ("", " ", " | ", "\n", "\n\n")  # the stronger, the later
_ENDING_SPACES = (" ", "\t", "\n", "\r", "\f")


def read(data: bytes, content_type: str) -> Document:
    """Read HTML; the title is `<title>`, else the first heading. Raises Rejected `encoding` or `limit`."""
    decoded = decode_page(data)
    page = render(decoded.text)
    return Document(
        text=page.text,
        sections=by_headings(page.text, page.headings),
        content_type=content_type,
        title=page.title or first_heading(page.headings),
        metadata=decoded.metadata,
        reader=f"{NAME}-{VERSION}",
    )


def decode_page(data: bytes) -> Decoded:
    """Decode a page by what it declares. Raises Rejected `encoding` or `limit`."""
    declared = _DECLARED.search(data, 0, _DECLARED_WITHIN)
    return decode(data, (declared[1] or declared[2]).decode("ascii") if declared else "")


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a person reads of a page."""

    text: str
    headings: tuple[Heading, ...]
    title: str
    """`<title>`, else empty."""


def render(html: str) -> Rendered:
    """Return the visible text of HTML, a whole page or a fragment. Raises Rejected `limit`."""
    _require_shallow(html)
    tree = LexborHTMLParser(html)
    page = _Page()
    if tree.root is not None:
        _walk(tree.root, page)
    return Rendered(page.text(), tuple(page.headings), _title(tree))


def _require_shallow(text: str) -> None:
    """Refuse what is nested so deeply that parsing it would take minutes; judged by the tags left open."""
    left_open: Counter[str] = Counter()
    depth = 0
    for found in _TAG.finditer(text):
        tag = found[2].lower()
        if tag in _UNCLOSED:
            continue
        if not found[1]:
            left_open[tag] += 1
            depth += 1
        elif left_open[tag]:
            left_open[tag] -= 1
            depth -= 1
        if depth > _MAX_NESTING:
            raise Rejected("limit", f"more than {_MAX_NESTING:,} elements, one in another")


def _title(tree: LexborHTMLParser) -> str:
    node = tree.css_first("head > title")
    inner = node.first_child if node else None
    return " ".join(clean(inner.text_content or "").split())[:300] if inner else ""


def _walk(root: LexborNode, page: "_Page") -> None:
    """Visit the nodes in order, in a loop: a page may be nested deeper than Python's stack."""
    node: LexborNode | None = root
    while node is not None:
        child = page.enter(node)
        if child is None:
            page.leave(node)
            while node.next is None:
                node = node.parent
                if node is None or node.is_document_node:
                    return
                page.leave(node)
            child = node.next
        node = child


@dataclass
class _Page:
    """The text so far. Separators are written when something follows them, so that none ends the text."""

    headings: list[Heading] = field(default_factory=list)
    _pieces: list[str] = field(default_factory=list)
    _length: int = 0
    _separator: str = ""
    _preformatted: int = 0
    _heading: tuple[int, int] | None = None
    """Offset and piece where the open heading's text starts; None before its first character."""
    _in_heading: bool = False

    def text(self) -> str:
        """Return what was collected."""
        return "".join(self._pieces)

    def enter(self, node: LexborNode) -> LexborNode | None:
        """Take in a node; return its first child where that is to be visited."""
        if node.is_text_node:
            self._add(clean(node.text_content or ""))
        if not node.is_element_node:
            return None
        tag = node.tag or ""
        self._separate(tag)
        if tag == "pre":
            self._preformatted += 1
        if tag in _HEADINGS:
            self._in_heading, self._heading = True, None
        return None if tag in _DROPPED or _unseen(node) else node.first_child

    def leave(self, node: LexborNode) -> None:
        """Close a node that was entered."""
        tag = node.tag if node.is_element_node else None
        if tag is None or tag == "br":
            return
        if tag == "pre":
            self._preformatted -= 1
        if tag in _HEADINGS:
            if self._heading:
                start, piece = self._heading
                title = " ".join("".join(self._pieces[piece:]).split())
                self.headings.append(Heading(start, _HEADINGS[tag], title))
            self._in_heading, self._heading = False, None
        self._separate(tag)
        if tag in _CELLS:
            self._part(" | ")

    def _separate(self, tag: str) -> None:
        if tag in _BLOCKS or (tag == "br" and self._separator == "\n"):
            self._part("\n\n")
        elif tag in _LINES:
            self._part("\n")

    def _part(self, separator: str) -> None:
        """Ask for a separator before the next text; the strongest one asked for is written."""
        if _SEPARATORS.index(separator) > _SEPARATORS.index(self._separator):
            self._separator = separator

    def _add(self, text: str) -> None:
        words = text if self._preformatted else _SPACES.sub(" ", text)
        if not self._preformatted:
            if words.startswith(" "):
                self._part(" ")
            words = words.strip(" ")
        if words:
            self._write(words)
        if not self._preformatted and text.endswith(_ENDING_SPACES):
            self._part(" ")

    def _write(self, words: str) -> None:
        if self._pieces:
            self._pieces.append(self._separator)
            self._length += len(self._separator)
        self._separator = ""
        if self._in_heading and self._heading is None:
            self._heading = (self._length, len(self._pieces))
        self._pieces.append(words)
        self._length += len(words)


def _unseen(node: LexborNode) -> bool:
    attributes = node.attributes
    return "hidden" in attributes or bool(_UNSEEN_STYLE.search(attributes.get("style") or ""))
