"""Real texts for the tests and the benchmark of chunking, and the edits that are made to them."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.types import ChunkSpec
from ingest.chunking import chunk
from ingest.types import Section

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.*?)[ \t#]*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_WORDS = ("the", "index", "holds", "every", "vector", "that", "a", "query", "asks", "for", "and", "returns", "none")


@dataclass(frozen=True, slots=True)
class Sample:
    """A text with what a reader would say of its sections."""

    text: str
    sections: tuple[Section, ...] = ()


def whole(texts: Sequence[str]) -> list[Sample]:
    """Return each text as one section."""
    return [Sample(text) for text in texts]


def with_headings(texts: Sequence[str]) -> list[Sample]:
    """Return each text with the sections of its Markdown headings."""
    return [Sample(text, sections_of(text)) for text in texts]


def sections_of(markdown: str) -> tuple[Section, ...]:
    """Return the sections that the `#` headings outside of fenced code open."""
    fenced = [match.span() for match in _FENCE.finditer(markdown)]
    heads = [m for m in _HEADING.finditer(markdown) if not any(low <= m.start() < high for low, high in fenced)]
    found = [] if heads and heads[0].start() == 0 else [Section(0, heads[0].start() if heads else len(markdown))]
    path: list[tuple[int, str]] = []
    for head, behind in zip(heads, [*(m.start() for m in heads[1:]), len(markdown)], strict=False):
        path = [(level, title) for level, title in path if level < len(head[1])] + [(len(head[1]), head[2])]
        found.append(Section(head.start(), behind, tuple(title for _, title in path)))
    return tuple(found)


def markdown_tree() -> list[str]:
    """Return the texts of docs_tree_en. Raises FileNotFoundError where it is absent."""
    files = sorted((SHARED / "docs_tree_en" / "files").rglob("*.md"))
    if not files:
        raise FileNotFoundError(SHARED / "docs_tree_en")
    return [file.read_text("utf-8") for file in files]


def corpus(name: str) -> list[str]:
    """Return the texts of a corpus.jsonl. Raises FileNotFoundError where it is absent."""
    lines = (SHARED / name / "corpus.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines if line]


def inserts(samples: Sequence[Sample], times: int, spec: ChunkSpec, seed: int = 0) -> Iterator[int]:
    """Put a word, a sentence or a paragraph at a random place, `times` times; yield how many chunks are new each time.

    Places are drawn by length, so that long texts get more of them. A chunk is new when no chunk of the text before
    had the same characters: it is what would be embedded again.
    """
    rng = random.Random(seed)
    before: dict[int, set[str]] = {}
    headed = any(sample.sections for sample in samples)
    for number in rng.choices(range(len(samples)), [len(sample.text) for sample in samples], k=times):
        old = samples[number].text
        if number not in before:
            before[number] = _slices(old, headed, spec)
        new = _edited(old, rng)
        yield len(_slices(new, headed, spec) - before[number])


def _slices(text: str, headed: bool, spec: ChunkSpec) -> set[str]:
    return {text[piece.start : piece.end] for piece in chunk(text, sections_of(text) if headed else (), spec)}


def _edited(text: str, rng: random.Random) -> str:
    sentence = " ".join(rng.choices(_WORDS, k=rng.randint(6, 20))).capitalize() + "."
    kind = rng.choice(("word", "sentence", "paragraph"))
    mark = {"word": " ", "sentence": ". ", "paragraph": "\n\n"}[kind]
    place = text.find(mark, rng.randrange(len(text)))
    place = len(text) if place < 0 else place + len(mark)
    added = {
        "word": f"{rng.choice(_WORDS)} ",
        "sentence": f"{sentence} ",
        "paragraph": " ".join([sentence] * rng.randint(2, 6)) + "\n\n",
    }[kind]
    return text[:place] + added + text[place:]
