"""The text that a reader collects block by block, with its headings and positions."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from indexes.types import Mark, Position
from ingest.errors import Rejected
from ingest.readers.decoding import MAX_CHARACTERS, clean
from ingest.readers.sections import Heading, by_headings, first_heading
from ingest.types import Section

BLOCK: Final = "\n\n"
"""Between paragraphs, tables, slides."""
LINE: Final = "\n"
"""Between the items of a list and the rows of a table."""
CELL: Final = " | "
"""Between the cells of a row."""

MAX_MARKS: Final = 500_000


@dataclass
class Flow:
    """The text so far. Separators are written when something follows them, so that none ends the text."""

    headings: list[Heading] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    length: int = 0
    """Characters so far."""
    _pieces: list[str] = field(default_factory=list)
    _position: Position | None = None

    def mark(self, position: Position) -> None:
        """Say where the next text stands in the file."""
        self._position = position

    def add(self, text: str, before: str = BLOCK) -> bool:
        """Add a block, behind the separator `before`; one of nothing but white space is left out. Return whether it
        was added.

        Raises Rejected `limit` for more than MAX_CHARACTERS or MAX_MARKS.
        """
        text = clean(text).strip()
        if not text:
            return False
        if self._pieces:
            self._pieces.append(before)
            self.length += len(before)
        if self._position is not None:
            if len(self.marks) >= MAX_MARKS:
                raise Rejected("limit", f"more than {MAX_MARKS:,} rows")
            self.marks.append(Mark(self.length, self._position))
            self._position = None
        self._pieces.append(text)
        self.length += len(text)
        if self.length > MAX_CHARACTERS:
            raise Rejected("limit", f"more than {MAX_CHARACTERS:,} characters")
        return True

    def heading(self, level: int, text: str) -> None:
        """Add a heading as a block; it opens a section."""
        text = " ".join(text.split())
        start = self.next_start
        if self.add(text):
            self.headings.append(Heading(start, level, text))

    def table(self, rows: Iterable[list[str]]) -> None:
        """Add a table as a block: a line for each row that is not empty."""
        before = BLOCK
        for cells in rows:
            if self.add(row(cells), before):
                before = LINE

    def margins(self, lines: Iterable[str]) -> None:
        """Add what headers and footers say as a section of its own: each line once."""
        before = BLOCK
        for line in dict.fromkeys(line.strip() for line in lines):
            if before == BLOCK:
                self.open_section()
            if self.add(line, before):
                before = LINE

    def open_section(self) -> None:
        """Open a section without a heading, outside of all others, with the next block."""
        self.headings.append(Heading(self.next_start, 0, ""))

    @property
    def next_start(self) -> int:
        """Where the next block will start behind a blank line."""
        return self.length + len(BLOCK) if self._pieces else 0

    @property
    def text(self) -> str:
        """What was collected."""
        return "".join(self._pieces)

    def sections(self) -> tuple[Section, ...]:
        """The text cut at its headings. Raises Rejected `limit`."""
        end = self.length
        return by_headings(self.text, [heading for heading in self.headings if heading.start < end])

    def first_heading(self) -> str:
        """The first heading's text, or ""."""
        return first_heading(self.headings)


def row(cells: list[str]) -> str:
    """Return a table's row as a line: the cells that are not empty, each on one line."""
    return CELL.join(words for cell in cells if (words := " ".join(cell.split())))
