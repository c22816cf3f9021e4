"""Measure chunking: speed beside bare encoding, fullness, coverage, and how far an edit spreads.

Run from the repository's root: `python -m benchmarks.chunking`. Without the shared data it makes its own texts.
"""

import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import regex

from indexes.types import ChunkSpec
from ingest.chunking import Slice, chunk
from ingest.tokens import encoding
from ingest.types import Section
from tests.ingest import corpora
from tests.ingest.corpora import Sample

SPEC = ChunkSpec(tokens=512, overlap=64)
REPEATS = 3
GOAL = 1.4
INSERTS = 1000


def main() -> None:
    """Print everything, a line per text."""
    english, spans, chinese = (
        real(corpora.markdown_tree, "the index holds what a query asks for. "),
        real(lambda: corpora.corpus("chunkeval_spans"), "an answer stands on the characters it cites. "),
        real(lambda: corpora.corpus("cmrc2018_trial"), "索引保存全部向量。查询只返回存在的文档，"),
    )
    print(f"{SPEC.tokens}/{SPEC.overlap}, best of {REPEATS}")
    speed("English, 10 MB, one section a text", repeated(corpora.whole(english), 10_000_000))
    speed("English, 10 MB, headings", repeated(corpora.with_headings(english), 10_000_000))
    speed("English, 10 MB, one text", [Sample("\n\n".join(english * 20)[:10_000_000])])
    speed("Chinese, 3 MB, one section a text", repeated(corpora.whole(chinese), 3_000_000))
    speed("Chinese, 3 MB, one text", [Sample("\n".join(chinese * 20)[:1_000_000])])
    spread("English, one section a text", corpora.whole(english))
    spread("English, headings", corpora.with_headings(english))
    spread("spans", corpora.whole(spans))


def real(load: Callable[[], list[str]], otherwise: str) -> list[str]:
    """Return the real texts, or made ones."""
    try:
        return load()
    except FileNotFoundError:
        rng = random.Random(0)
        return ["".join(otherwise * rng.randint(3, 9) + "\n\n" for _ in range(100)) for _ in range(50)]


def repeated(samples: Sequence[Sample], size: int) -> list[Sample]:
    """Repeat the samples until they have `size` bytes."""
    total = sum(len(sample.text.encode()) for sample in samples)
    return list(samples) * max(1, round(size / total))


def speed(name: str, samples: Sequence[Sample]) -> None:
    """Print seconds and what became of the texts."""
    encode = encoding().encode_ordinary
    bare = ours = plain = float("inf")
    for _ in range(REPEATS):
        began = time.process_time()
        for sample in samples:
            encode(sample.text)
        bare = min(bare, time.process_time() - began)
        began = time.process_time()
        cut = [chunk(sample.text, sample.sections, SPEC) for sample in samples]
        ours = min(ours, time.process_time() - began)
        began = time.process_time()
        windows = [window for sample in samples for window in by_offsets(sample.text)]
        plain = min(plain, time.process_time() - began)
    distinct = {sample.text: (sample, pieces) for sample, pieces in zip(samples, cut, strict=True)}.values()
    pieces = [piece for slices in cut for piece in slices]
    tokens = [piece.tokens for piece in pieces]
    long = [piece.tokens for slices in cut if len(slices) > 3 for piece in slices[:-1]]
    parted = sum("\ufffd" in window for window in windows)
    print(
        f"{name}: {ours:.2f} s, {ours / bare:.2f} x bare encoding ({bare:.2f} s; goal {GOAL} x; a plain cutter "
        f"{plain / bare:.2f} x, {parted} of its {len(windows)} chunks with a parted character); {len(pieces)} chunks, "
        f"mean {np.mean(tokens):.0f} tokens, fill {np.mean(tokens) / SPEC.tokens:.2f} "
        f"(texts of more than 3: {np.mean(long or [0]) / SPEC.tokens:.2f}; greedy packing: {greedy(distinct):.2f}); "
        f"broken graphemes {sum(broken(*each) for each in distinct)}, "
        f"coverage {np.mean([covered(*each) for each in distinct]):.0%}"
    )


def by_offsets(text: str) -> list[str]:
    """Cut as a plain cutter does: windows of tokens, wherever they begin and end."""
    known = encoding()
    ids = known.encode_ordinary(text)
    step = SPEC.tokens - SPEC.overlap
    return [known.decode(ids[start : start + SPEC.tokens]) for start in range(0, max(1, len(ids) - SPEC.overlap), step)]


def greedy(distinct: Sequence[tuple[Sample, list[Slice]]]) -> float:
    """Return the mean fill if every section's tokens were packed to the limit, its last slice aside."""
    fresh, fills = SPEC.tokens - SPEC.overlap, []
    for sample, _ in distinct:
        for section in sample.sections or (Section(0, len(sample.text)),):
            size = len(encoding().encode_ordinary(sample.text[section.start : section.end]))
            more = max(0, -(-(size - SPEC.tokens) // fresh))
            fills += [SPEC.tokens] * more + [size - more * fresh]
    return float(np.mean(fills)) / SPEC.tokens


def broken(sample: Sample, slices: Sequence[Slice]) -> int:
    """Return how many edges part a grapheme."""
    ends = {match.end() for match in regex.finditer(r"\X", sample.text)} | {0}
    return sum((piece.start not in ends) + (piece.end not in ends) for piece in slices)


def covered(sample: Sample, slices: Sequence[Slice]) -> float:
    """Return the share of characters that stand in a slice."""
    seen = np.zeros(len(sample.text), dtype=bool)
    for piece in slices:
        seen[piece.start : piece.end] = True
    return float(seen.mean())


def spread(name: str, samples: Sequence[Sample]) -> None:
    """Print how many chunks an insert makes new."""
    new = list(corpora.inserts(samples, INSERTS, SPEC))
    print(
        f"{name}, {INSERTS} inserts: new chunks median {np.median(new):.0f}, mean {np.mean(new):.2f}, "
        f"p99 {np.percentile(new, 99):.0f}, most {max(new)}"
    )


if __name__ == "__main__":
    main()
