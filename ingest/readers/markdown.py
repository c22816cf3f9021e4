"""Markdown: the file's decoded text; sections from its ATX and setext headings.

A scanner of lines, by the block rules of CommonMark 0.31 as far as they decide whether a line is a heading: front
matter, fenced and indented code, HTML blocks and comments, lists and block quotes are stepped over. Front matter
stays in the text: it is content.
"""

import html
import re
from collections.abc import Iterator

from ingest.readers.decoding import decode
from ingest.readers.sections import Heading, by_headings, first_heading
from ingest.types import Document

NAME = "markdown"
VERSION = 2

_LINE = re.compile(r"[^\n\r]*(?:\r\n|\n|\r)?")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_CLOSING = re.compile(r"(?:^|[ \t]+)#+[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_ITEM = re.compile(r"( {0,3})([-+*]|\d{1,9}[.)])([ \t]+|$)")
_BREAK = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$")
_DEFINITION = re.compile(r" {0,3}\[[^\]]+\]:")
_FRONT_MATTER = re.compile(
    r"(---|\+\+\+)[ \t]*\r?\n(?=\s*[\w\"'.-]+[ \t]*[:=])(?s:(.*?))\r?\n(?:\1|\.\.\.)[ \t]*(?:\r?\n|$)"
)
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*([^\r\n]+)", re.MULTILINE)

# HTML blocks (CommonMark 4.6): how a kind begins and what its last line holds; a blank line where that is empty.
_HTML_BLOCKS = (
    (
        re.compile(r" {0,3}<(?:script|pre|style|textarea)(?:[\s>]|$)", re.IGNORECASE),
        ("</script>", "</pre>", "</style>", "</textarea>"),
    ),
    (re.compile(r" {0,3}<!--"), ("-->",)),
    (re.compile(r" {0,3}<\?"), ("?>",)),
    (re.compile(r" {0,3}<![A-Za-z]"), (">",)),
    (re.compile(r" {0,3}<!\[CDATA\["), ("]]>",)),
    (
        re.compile(
            r" {0,3}</?(?:address|article|aside|base|basefont|blockquote|body|caption|center|col|colgroup|dd|details"
            r"|dialog|dir|div|dl|dt|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hr|html"
            r"|iframe|legend|li|link|main|menu|menuitem|nav|noframes|ol|optgroup|option|p|param|search|section|summary"
            r"|table|tbody|td|tfoot|th|thead|title|tr|track|ul)(?:\s|/?>|$)",
            re.IGNORECASE,
        ),
        (),
    ),
)
_ANY_TAG = re.compile(r" {0,3}</?[A-Za-z][A-Za-z0-9-]*(?:\s[^<>]*)?/?>[ \t]*$")


def read(data: bytes, content_type: str) -> Document:
    """Read Markdown. Raises Rejected `encoding` or `limit`.

    The title is the front matter's, else the first heading.
    """
    decoded = decode(data)
    text = decoded.text
    headings = list(headings_of(text))
    return Document(
        text=text,
        sections=by_headings(text, headings),
        content_type=content_type,
        title=_front_title(text) or first_heading(headings),
        metadata=decoded.metadata,
        reader=f"{NAME}-{VERSION}",
    )


def headings_of(text: str) -> Iterator[Heading]:
    """Find the headings outside of lists and block quotes, in order."""
    front = _FRONT_MATTER.match(text)
    scanner = _Scanner()
    for found in _LINE.finditer(text, front.end() if front else 0):
        heading = scanner.line(found.start(), found[0].rstrip("\r\n"))
        if heading:
            yield heading


def plain(inline: str) -> str:
    """Return a heading's inline Markdown as plain text: marks, link targets, anchors and tags dropped."""
    inline = inline[:_INLINE_LENGTH]
    if not _MARKED.search(inline):
        return " ".join(inline.split())
    spans: list[str] = []

    def keep(text: str) -> str:
        spans.append(text)
        return f"\0{len(spans) - 1}\0"

    inline = _CODE_SPAN.sub(lambda found: keep(found[2].strip() or found[2]), inline)
    inline = _ESCAPED.sub(lambda found: keep(found[1]), inline)
    inline = _ANCHOR.sub("", inline)
    inline = _AUTOLINK.sub(lambda found: keep(found[1]), inline)
    inline = _TAG.sub("", inline)
    for link in _LINKS:
        inline = link.sub(r"\1", inline)
    for mark in _MARKS:
        inline = mark.sub(r"\2", inline)
    inline = html.unescape(inline)
    inline = _KEPT.sub(lambda found: spans[int(found[1])], inline)
    return " ".join(inline.split())


_INLINE_LENGTH = 2_000  # no heading is longer, and the patterns below may look at a character often
_MARKED = re.compile(r"[`\\{<\[*_~&\0]")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_ANCHOR = re.compile(r"[ \t]*\{[:#.][^{}]*\}[ \t]*$")
_AUTOLINK = re.compile(r"<([A-Za-z][A-Za-z0-9+.-]+:[^\s<>]*|[^\s<>@]+@[^\s<>@]+)>")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->", re.DOTALL)
_LINKS = (
    re.compile(r"!\[([^\[\]]*)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])"),
    re.compile(r"\[([^\[\]]*)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])"),
)
_MARKS = (
    re.compile(r"(\*{1,3})(?=[^\s*])([^*]*[^\s*])\1"),
    re.compile(r"(?<!\w)(_{1,3})(?=[^\s_])([^_]*(?:\b_\b[^_]*)*[^\s_])\1(?!\w)"),
    re.compile(r"(~~)(?=\S)([^~]*\S)\1"),
)
_KEPT = re.compile("\0(\\d+)\0")


class _Scanner:
    """Where in the block structure a line stands; fed with the lines in order."""

    def __init__(self) -> None:
        self._fence = ""
        self._html: tuple[str, ...] | None = None
        self._item_indent = 0
        self._paragraph: list[str] = []
        self._paragraph_start = 0
        self._nested = False
        self._blank = True

    def line(self, start: int, line: str) -> Heading | None:
        """Take a line without its end; return the heading that it is, or that it completes."""
        if self._inside_fence(line) or self._inside_html(line):
            return None
        if not line.strip():
            self._end_paragraph()
            self._blank = True
            return None
        heading = None
        if not self._inside_list(line):
            heading = self._top_level(start, line)
        self._blank = False
        return heading

    def _top_level(self, start: int, line: str) -> Heading | None:
        atx = _ATX.match(line)
        if atx:
            self._close()
            return Heading(start, len(atx[1]), plain(_CLOSING.sub("", (atx[2] or "")[:_INLINE_LENGTH])))
        setext = _SETEXT.match(line)
        if setext and self._paragraph and not self._nested:
            heading = Heading(self._paragraph_start, 1 if setext[1][0] == "=" else 2, plain("\n".join(self._paragraph)))
            self._close()
            return heading
        if _BREAK.match(line):
            self._close()
        elif not self._opens_block(line):
            self._continue_paragraph(start, line)
        return None

    def _opens_block(self, line: str) -> bool:
        fence = _FENCE.match(line)
        if fence:
            self._fence = fence[1]
            self._close()
            return True
        if line.lstrip(" ").startswith("<") and self._opens_html(line):
            self._close()
            return True
        item = _ITEM.match(line)
        if item and self._opens_item(item, line[item.end() :]):
            return True
        if line.lstrip(" ").startswith(">") and not line.startswith("    "):
            self._close()
            self._nested = True
            return True
        return False

    def _opens_item(self, item: re.Match[str], content: str) -> bool:
        numbered = item[2] not in "-+*" and item[2][:-1] != "1"
        if self._paragraph and not self._nested and (numbered or not content.strip()):
            return False  # neither an empty item nor a number other than 1 interrupts a paragraph
        self._close()
        self._item_indent = item.end() if content and len(item[3]) <= 4 else item.start(3) + 1
        fence = _FENCE.match(content)
        if fence:
            self._fence = fence[1]
        self._nested = bool(content.strip()) and not fence and not _ATX.match(content)
        return True

    def _opens_html(self, line: str) -> bool:
        for begins, ends in _HTML_BLOCKS:
            found = begins.match(line)
            if found:
                self._html = None if _holds(line[found.end() :], ends) else ends
                return True
        if not self._paragraph and not self._nested and _ANY_TAG.match(line):
            self._html = ()
            return True
        return False

    def _inside_fence(self, line: str) -> bool:
        if not self._fence:
            return False
        mark = line.strip()
        indent = len(line) - len(line.lstrip(" "))
        if mark and indent < self._item_indent and not line.startswith("\t"):
            self._fence = ""  # the item that the fence stands in has ended, and the fence with it
            return False
        if indent < 4 + self._item_indent and len(mark) >= len(self._fence) and not mark.strip(self._fence[0]):
            self._fence = ""
        return True

    def _inside_html(self, line: str) -> bool:
        if self._html is None:
            return False
        if _holds(line, self._html) if self._html else not line.strip():
            self._html = None
            self._blank = True
        return True

    def _inside_list(self, line: str) -> bool:
        """Whether an indented line belongs to the item before it; a line that doesn't ends the list after a blank."""
        if not self._item_indent:
            return False
        indent = len(line) - len(line.lstrip(" "))
        if line.startswith("\t") or indent >= self._item_indent:
            fence = _FENCE.match(line.strip())
            if fence:
                self._fence = fence[1]
            return True
        if self._blank or not self._nested:
            self._item_indent = 0
            self._nested = False
        return False

    def _continue_paragraph(self, start: int, line: str) -> None:
        if self._paragraph or self._nested:
            self._paragraph.append(line.strip())
        elif not line.startswith(("    ", "\t")) and not _DEFINITION.match(line):
            self._paragraph_start = start
            self._paragraph.append(line.strip())

    def _close(self) -> None:
        """End the paragraph and the list: a block of its own stands at the margin."""
        self._end_paragraph()
        self._item_indent = 0

    def _end_paragraph(self) -> None:
        self._paragraph = []
        self._nested = False


def _holds(line: str, ends: tuple[str, ...]) -> bool:
    return any(end in line.lower() for end in ends)


def _front_title(text: str) -> str:
    front = _FRONT_MATTER.match(text)
    found = front and _FRONT_TITLE.search(front[2])
    return found[1].strip().strip("\"'").strip()[:300] if found else ""
