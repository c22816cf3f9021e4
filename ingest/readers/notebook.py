"""Jupyter notebooks: the cells in order, Markdown, source and what the source printed.

Headings of Markdown cells open sections; each cell is a position. Of the outputs, plain text is kept within a bound;
pictures, HTML and widgets are left out. Format: https://nbformat.readthedocs.io (version 4, and 3 with worksheets).
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from ingest.errors import Rejected
from ingest.readers import markdown
from ingest.readers.decoding import clean, decode
from ingest.readers.flow import Flow
from ingest.readers.sections import Heading
from ingest.types import Document

NAME = "notebook"
VERSION = 1

_OUTPUT_CHARACTERS = 4_000
"""Of one output: the head of a printed table says what it is; a log of ten thousand lines says no more."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_OBJECT = re.compile(r"<[\w.]+(?: [^\n<>]*)?>")  # <Figure size 640x480 with 1 Axes>
_PICTURE = re.compile(r"\(data:image/[^()\s]*\)")


def read(data: bytes, content_type: str) -> Document:
    """Read a notebook; the title is its metadata's, else the first heading.

    Raises Rejected `damaged` for what is no notebook, `no_text`, `encoding` or `limit`.
    """
    decoded = decode(data)
    notebook = _parse(decoded.text)
    flow = Flow()
    metadata: dict[str, str | int | float | bool] = dict(decoded.metadata)
    number = 0
    for number, cell in enumerate(_cells(notebook), start=1):
        flow.mark({"cell": number})
        _add_cell(flow, cell)
    if not flow.length:
        raise Rejected("empty", "its cells are empty")
    metadata["cells"] = number
    about = _object(notebook.get("metadata"))
    language = _object(about.get("language_info")).get("name") or _object(about.get("kernelspec")).get("language")
    if isinstance(language, str):
        metadata["language"] = clean(language)[:100]
    title = about.get("title")
    return Document(
        text=flow.text,
        sections=flow.sections(),
        content_type=content_type,
        title=" ".join(clean(title).split())[:300] if isinstance(title, str) else flow.first_heading(),
        metadata=metadata,
        reader=f"{NAME}-{VERSION}",
        marks=tuple(flow.marks),
    )


def _parse(text: str) -> dict[str, Any]:
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Rejected("damaged", f"not readable as JSON ({type(error).__name__})") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells", notebook.get("worksheets")), list):
        raise Rejected("damaged", "JSON, but not a notebook: it has no list of cells")
    return notebook


def _cells(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    sheets = [notebook] if isinstance(notebook.get("cells"), list) else notebook["worksheets"]
    for sheet in sheets:
        for cell in _list(_object(sheet).get("cells")):
            if isinstance(cell, dict):
                yield cell


def _add_cell(flow: Flow, cell: dict[str, Any]) -> None:
    source = clean(_text(cell.get("source", cell.get("input")))).strip()
    kind = cell.get("cell_type")
    if kind == "heading":  # version 3
        level = cell.get("level")
        flow.heading(level if isinstance(level, int) and 1 <= level <= 6 else 1, source)
    elif kind == "markdown":
        source = _PICTURE.sub("()", source)
        start = flow.next_start
        if flow.add(source):
            for heading in markdown.headings_of(source):
                flow.headings.append(Heading(start + heading.start, heading.level, heading.text))
    else:
        flow.add(source)
        for output in _list(cell.get("outputs")):
            flow.add(_output(_object(output)))


def _output(output: dict[str, Any]) -> str:
    """Return what an output says in plain text, at most _OUTPUT_CHARACTERS of it."""
    data = _object(output.get("data"))
    if output.get("output_type") in ("error", "pyerr"):
        text = ": ".join(part for part in (_text(output.get("ename")), _text(output.get("evalue"))) if part)
    else:
        text = _text(data.get("text/plain")) or _text(data.get("text/markdown")) or _text(output.get("text"))
    text = clean(_COLOURS.sub("", text)).strip()
    if _OBJECT.fullmatch(text):
        return ""
    if len(text) > _OUTPUT_CHARACTERS:
        end = text.rfind("\n", 0, _OUTPUT_CHARACTERS)
        text = text[: end if end > 0 else _OUTPUT_CHARACTERS]
    return text


def _text(value: object) -> str:
    """Join what the format gives as a string or as a list of lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
