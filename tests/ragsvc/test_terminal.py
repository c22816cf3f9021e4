"""What the terminal prints of where a passage stands."""

import pytest

from indexes.types import Mark, SearchResult
from ragsvc import terminal
from tests.ragsvc.parts import hit


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"path": "a.txt"}, "a.txt [5:9]"),
        ({"path": "a.pdf", "page": 7}, "a.pdf, page 7 [5:9]"),
        ({"path": "a.md", "heading_path": ("Install", "Linux")}, "a.md, Install > Linux [5:9]"),
        (
            {"path": "a.xlsx", "heading_path": ("Parts",), "marks": (Mark(0, {"sheet": "Parts", "row": 12}),)},
            "a.xlsx, sheet Parts, row 12 [5:9]",
        ),
        ({"path": "a.pdf", "page": 7, "heading_path": ("Method",)}, "a.pdf, page 7 [5:9]"),
        ({"path": "a.md", "heading_path": ("a\nb", "c" * 500)}, f"a.md, a b > {'c' * 113}… [5:9]"),
    ],
)
def test_a_hit_says_where_it_is(changes: dict[str, object], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The path comes with the page, the position or the headings, whatever the format has."""
    terminal.print_hits(SearchResult((hit("text", 5, **changes),), 1, {}))
    assert f"1. {shown}  score" in capsys.readouterr().out
