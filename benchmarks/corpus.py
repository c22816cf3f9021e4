"""A corpus for the benchmarks: distinct documents of about 6 KB, the same ones at every run.

`write(folder)` writes 300 documents, 1.8 MB in all. They are cut from docs_tree_en, where it is kept beside the
repository, at the ends of its paragraphs; where more is asked for than it holds, its texts come again as further
editions, each paragraph marked so that no two chunks are the same text. Without it, texts are made.
"""

import random
from collections.abc import Iterator
from pathlib import Path

DOCUMENTS = 300
DOCUMENT_BYTES = 6_000
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "docs_tree_en" / "files"
QUESTIONS = (
    "How do I declare a query parameter?",
    "What is dependency injection?",
    "How are background tasks run?",
    "How can I return a custom response status code?",
    "Where do I put the settings of an application?",
    "How do I test a WebSocket?",
    "What does the response model do?",
    "How are files uploaded?",
)
"""Each has an answer in docs_tree_en."""


def write(folder: Path, documents: int = DOCUMENTS) -> list[Path]:
    """Write `documents` Markdown files below `folder`, 50 to a folder, and return their paths."""
    written = []
    for number, text in zip(range(documents), texts(), strict=False):
        path = folder / f"part-{number // 50:03d}" / f"document-{number:05d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def texts() -> Iterator[str]:
    """Yield documents of about `DOCUMENT_BYTES`, without end; no two are the same."""
    number, parts, size = 0, list[str](), 0
    for paragraph in _paragraphs():
        parts.append(paragraph)
        size += len(paragraph.encode()) + 2
        if size >= DOCUMENT_BYTES - 200:
            yield f"# Document {number}\n\n" + "\n\n".join(parts) + "\n"
            number, parts, size = number + 1, [], 0


def _paragraphs() -> Iterator[str]:
    """Yield paragraphs without end, none longer than a document; from the second edition on each says which it is."""
    first = _real() or _made()
    edition = 1
    while True:
        for number, paragraph in enumerate(first):
            yield paragraph if edition == 1 else f"{paragraph}\n(edition {edition}, paragraph {number})"
        edition += 1


def _real() -> list[str]:
    found = []
    for path in sorted(SHARED.rglob("*.md")):
        found += [each[:DOCUMENT_BYTES] for each in path.read_text("utf-8").split("\n\n") if each.strip()]
    return found


def _made() -> list[str]:
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(8_000)]
    weights = [1 / (rank + 2) for rank in range(len(words))]
    found = []
    for number in range(4_000):
        said = [" ".join(rng.choices(words, weights, k=rng.randint(6, 20))).capitalize() + "." for _ in range(4)]
        asked = QUESTIONS[number % len(QUESTIONS)].rstrip("?").lower()
        heading = f"## {words[number % len(words)].capitalize()}\n\n" if number % 4 == 0 else ""
        found.append(heading + " ".join(said) + (f" This tells {asked}." if number % 7 == 0 else ""))
    return found
