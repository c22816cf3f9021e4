"""Jupyter notebooks of versions 3 and 4."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.readers.registry import read
from ingest.types import Document
from tests.ingest.readers.documents import check, outline, reason_of


def notebook(*cells: Any, **metadata: Any) -> Document:
    whole = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": list(cells)}
    return check(read("a.ipynb", json.dumps(whole).encode()))


def test_cells_are_read_in_order_with_their_numbers() -> None:
    """Markdown headings open sections, sources and plain outputs are text, each cell is a position."""
    document = notebook(
        {"cell_type": "markdown", "source": ["\n", "# Übung\n", "text ![p](data:image/png;base64,AAAA)\n", "## Part"]},
        {"cell_type": "code", "source": "", "outputs": []},
        {
            "cell_type": "code",
            "source": ["x = 1\n", "# not a heading"],
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["\x1b[31mred\x1b[0m\n"]},
                {
                    "output_type": "display_data",
                    "data": {"image/png": "QUJD", "text/plain": "<Figure size 6x4 with 1 Axes>"},
                },
                {"output_type": "execute_result", "data": {"text/plain": ["   a\n", "0  1"], "text/html": "<table>"}},
                {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["long"]},
            ],
        },
        {"cell_type": "raw", "source": "raw"},
        language_info={"name": "python"},
    )
    assert document.text == (
        "# Übung\ntext ![p]()\n## Part\n\nx = 1\n# not a heading\n\nred\n\na\n0  1\n\nValueError: no\n\nraw"
    )
    assert outline(document) == [(("Übung",), "# Übung\ntext"), (("Übung", "Part"), "## Part\n\nx =")]
    assert [(document.text[mark.start :][:5], mark.position) for mark in document.marks] == [
        ("# Übu", {"cell": 1}),
        ("x = 1", {"cell": 3}),
        ("raw", {"cell": 4}),
    ]
    assert document.title == "Übung"
    assert document.metadata == {"cells": 4, "language": "python"}


def test_long_outputs_are_cut_at_a_line() -> None:
    """Of ten thousand lines the first few thousand characters stay."""
    lines = [f"line {number}\n" for number in range(10_000)]
    text = notebook({"cell_type": "code", "source": "x", "outputs": [{"output_type": "stream", "text": lines}]}).text
    assert 3_000 < len(text) < 4_010
    assert text.splitlines()[-1] in {line.strip() for line in lines}


def test_version_3_is_read() -> None:
    """Worksheets, heading cells, `input` and `pyout` are the old names of the same."""
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Old"]},
        {"cell_type": "code", "input": ["y"], "outputs": [{"output_type": "pyout", "text": ["42"]}]},
    ]
    document = check(read("a.ipynb", json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}]}).encode()))
    assert document.text == "Old\n\ny\n\n42"
    assert document.sections[0].heading_path == ("Old",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"words", "damaged"),
        (b'{"cells": [{"source": "x"}]', "damaged"),
        (b"[1]", "damaged"),
        (b'{"cells": {}}', "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"cells": [' + b"9" * 10_000 + b"]}", "damaged"),
        (b'{"cells": []}', "empty"),
        (b'{"cells": [1, null, {}, {"source": 7, "outputs": [3]}, {"source": "x"}]}', ""),
        (b'{"worksheets": [1, {"cells": [{"input": "x", "outputs": {}}]}]}', ""),
        (b'{"cells": [{"source": "\\ud83d \\u0000x"}]}', ""),
    ],
)
def test_what_is_no_notebook_is_damaged(data: bytes, reason: str) -> None:
    """Broken JSON and JSON of another shape are told; odd cells are stepped over."""
    assert reason_of("a.ipynb", data) == reason


JSON = st.recursive(
    st.none() | st.integers() | st.text(st.characters(categories=None), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cell_type", "source", "outputs", "data", "text/plain", "text", "level"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4), JSON)
def test_any_cells_are_survived(cells: list[object], metadata: object) -> None:
    """Whatever the shapes of cells and metadata, a valid document or a reason comes out."""
    data = json.dumps({"cells": cells, "metadata": metadata}).encode()
    assert reason_of("a.ipynb", data) in ("", "empty")
