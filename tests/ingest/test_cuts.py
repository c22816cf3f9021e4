"""Where cuts fall is part of what a collection was made with: chunker "borders-1" gives these slices for ever.

Moved cuts would make every stored chunk new, and cost its vector again. The digests are those of the first release.
"""

import hashlib
import random
from collections.abc import Sequence

import pytest

from indexes.types import ChunkSpec
from ingest.chunking import chunk
from tests.ingest import corpora
from tests.ingest.corpora import Sample

SPECS = (ChunkSpec(512, 64), ChunkSpec(128, 0), ChunkSpec(32, 16), ChunkSpec(16, 8))
MADE = "e9ac5c78b0fbefc48bb6220445c71b58"
SHARED = {
    "docs_tree_en": "756629d259577c2df527ef7b3f6229aa",
    "chunkeval_spans": "3aa83f89970e65ad84aa52095b86f17b",
    "cmrc2018_trial": "e1fac4e69462f838f068ddce9410baa9",
}

_PARTS = (
    *("word", "Another", "e.g.", "2.", "J.", "x" * 40, "'s", "1234567", "\u00e9te\u0301", "na\u00efve", "vector's"),
    *("索引", "保存全部向量", "。", "，", "「查询」", "！？", "…", "한국어", "ひらがな", "カタカナ", "ไทย", "नमस्ते"),
    *("👩‍👩‍👧", "🇩🇪🇫🇷", "🙂", "e" + "\u0301" * 30, "\u200b", "\u3000", "<|endoftext|>", "\x00"),
)
_ENDS = (
    " ",
    " ",
    " ",
    " ",
    ". ",
    ", ",
    "; ",
    "! ",
    "?",
    "\n",
    "\r\n",
    "\n\n",
    "\n \t\n\n",
    "",
    "...\n",
    '." ',
    "\t",
    "  ",
)


def made(seed: int) -> Sample:
    """Return a text of everything that a cutter may stumble over, with sections of its headings."""
    rng = random.Random(seed)
    parts = _PARTS if seed % 3 else _PARTS[:11]
    lines = []
    for _ in range(rng.randint(1, 40)):
        heading = "#" * rng.randint(1, 4) + " " + rng.choice(parts) + "\n\n" if rng.random() < 0.2 else ""
        lines.append(heading + "".join(rng.choice(parts) + rng.choice(_ENDS) for _ in range(rng.randint(0, 120))))
    text = "\n\n".join(lines)
    return Sample(text, corpora.sections_of(text) if text and seed % 2 else ())


def digest(samples: Sequence[Sample]) -> str:
    """Return a digest of all slices of the samples by all specs."""
    taken = hashlib.sha256()
    for sample in samples:
        for spec in SPECS:
            for piece in chunk(sample.text, sample.sections, spec):
                taken.update(repr((piece.start, piece.end, piece.tokens, piece.heading_path, piece.page)).encode())
    return taken.hexdigest()[:32]


def test_made_texts_are_cut_as_ever():
    """Texts of words, scripts, marks, emoji and blank lines in every order are cut where the first release cut them."""
    assert digest([made(seed) for seed in range(60)]) == MADE


@pytest.mark.parametrize("name", SHARED)
def test_real_texts_are_cut_as_ever(name):
    """English, Chinese and Markdown texts, with and without headings, are cut where the first release cut them."""
    try:
        texts = corpora.markdown_tree() if name == "docs_tree_en" else corpora.corpus(name)
    except FileNotFoundError:
        pytest.skip(f"{name} is not here")
    texts = [*texts[:40], "\n\n".join(texts)[:100_000]]
    assert digest([*corpora.whole(texts), *corpora.with_headings(texts)]) == SHARED[name]
