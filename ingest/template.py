"""The text that is embedded for a chunk, by the template's name in the EmbeddingSpec (pure).

`title-headings-1`: the title on a line, the headings on the next ("Install > Linux"), a blank line, the slice. A slice
often does not say what it is about; its title and headings do. Together they have at most 64 tokens, so that they
never outweigh the slice. Another form is another name: vectors made by two templates do not compare.
"""

from functools import lru_cache
from typing import Final

from ingest.errors import SettingsError
from ingest.tokens import count

HEADER_TOKENS: Final = 64
"""Most tokens of title and headings, line ends included."""

TITLE_TOKENS: Final = 24
"""What a title that is too long keeps beside headings."""

_JOINT: Final = " > "
_MORE: Final = "…"
_GLANCE: Final = 1000
"""Characters of a title or heading that are looked at; many times what 64 tokens show."""

KNOWN: Final = ("title-headings-1",)


def render(template: str, title: str, heading_path: tuple[str, ...], text: str) -> str:
    """Return what is embedded for the slice `text`; the slice alone where there is no title and no heading.

    Raises SettingsError for an unknown template.
    """
    return header(template, title, heading_path) + text


def header_tokens(template: str, title: str, heading_path: tuple[str, ...]) -> int:
    """Return the tokens of the header, 0 to 64. Raises SettingsError for an unknown template."""
    return count(header(template, title, heading_path))


@lru_cache(maxsize=4096)
def header(template: str, title: str, heading_path: tuple[str, ...]) -> str:
    """Return what stands before the slice, with its line ends, or "".

    A first heading that repeats the title is left out. What is too long keeps the beginnings of the title and of the
    innermost headings. Raises SettingsError for an unknown template.
    """
    if template not in KNOWN:
        raise SettingsError(f"unknown template {template!r}: known are {', '.join(KNOWN)}")
    name = _one_line(title)
    path = tuple(line for heading in heading_path if (line := _one_line(heading)))
    if path and path[0] == name:
        path = path[1:]
    whole = _lines(name, path)
    return whole if count(whole) <= HEADER_TOKENS else _shortened(name, path)


def _one_line(text: str) -> str:
    return " ".join(text[:_GLANCE].split())


def _lines(name: str, path: tuple[str, ...]) -> str:
    lines = [line for line in (name, _JOINT.join(path)) if line]
    return "\n".join(lines) + "\n\n" if lines else ""


def _shortened(name: str, path: tuple[str, ...]) -> str:
    """Return the header with the title's beginning and as many of the innermost headings as there is room for."""
    if not path:
        return _lines(_beginning(name, "", "\n\n", HEADER_TOKENS), ())
    if count(name) > TITLE_TOKENS:
        name = _beginning(name, "", "", TITLE_TOKENS)
    kept: tuple[str, ...] = (path[-1],)
    if count(_lines(name, kept)) > HEADER_TOKENS:
        return _lines(name, (_beginning(path[-1], f"{name}\n" if name else "", "\n\n", HEADER_TOKENS),))
    for heading in reversed(path[:-1]):
        if count(_lines(name, (_MORE, heading, *kept))) > HEADER_TOKENS:
            break
        kept = (heading, *kept)
    marked = (_MORE, *kept) if len(kept) < len(path) else kept
    return _lines(name, marked if count(_lines(name, marked)) <= HEADER_TOKENS else kept)


def _beginning(text: str, before: str, behind: str, limit: int) -> str:
    """Return the longest beginning of `text`, with a mark, that has `limit` tokens at most between its neighbours.

    It ends behind a word if one of the last few does.
    """
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(f"{before}{text[:middle]}{_MORE}{behind}") <= limit:
            low = middle
        else:
            high = middle - 1
    word = text.rfind(" ", low * 2 // 3, low + 1)
    at = word if word > 0 else low
    while at and count(f"{before}{text[:at]}{_MORE}{behind}") > limit:
        at -= 1
    return text[:at].rstrip() + _MORE
