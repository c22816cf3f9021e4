"""Derived files are damaged in every way, thousands of times: no answer is ever another one, and the files are mended.

Left out is what no process can withstand: a file that is cut short in the microseconds between the look at its size and
the reading (reading beyond its end is SIGBUS, by the system's rule), and bytes of a block that are changed in place
after the block was checked (it is checked when it is first touched; from then on it is memory like any other).
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.segment_files import SegmentFiles, kinds
from indexes.types import ChangeSet, ChunkSpec, Comparison, EmbeddingSpec, IndexSpec
from indexes.vector_map import Layout
from tests.indexes.corpus import WORDS, upsert

SPEC = IndexSpec(EmbeddingSpec("test-model", 256), ChunkSpec(16, 0))
FOLDS = (140, 40, 10)
"""Rows of the segments, too unlike to be merged, and the first of several blocks; a few more rows stay in the delta."""
DELTA = 4
PAGE = 4096
WITHIN = {"float16": 1e-3}
"""Scores of rows that are rounded and not brought to unit length again, and stretched by the fusion of both legs."""
Answers = list[tuple[list[str], list[float]]]
Damage = Callable[[random.Random, Path, "Template"], None]


def vector(seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal(SPEC.embedding.dimensions).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


QUERIES = [vector(seed) for seed in range(4)]


@dataclass(frozen=True)
class Template:
    """A sound collection, its answers, one like it with other texts, and its map of vectors as it was before."""

    kind: str
    folder: Path
    other: Path
    older: Path
    answers: Answers

    @property
    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in derived(self.folder))


def derived(folder: Path) -> list[Path]:
    """Everything that is made of the store."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("store.db") and path.parent.name != "locks"
    ]


def made(folder: Path, kind: str, salt: int, older: Path) -> None:
    with Collection.create(folder, "abc123", SPEC, kind=kind) as collection:
        source, number = collection.add_source("/data", "folder"), 0
        for part, rows in enumerate((*FOLDS, DELTA)):
            lines = [f"{WORDS[n % 10]} part{part} line{n} salt{salt}\n" for n in range(rows)]
            one = upsert(f"{'even' if part % 2 == 0 else 'odd'}/{part}", "".join(lines))
            keys = [chunk.embedded_hash for chunk in one.chunks]
            vectors = np.stack([vector(10_000 * salt + number + n) for n in range(rows)])
            collection.add_vectors(SPEC.embedding, keys, vectors)
            report = collection.apply(ChangeSet(source.id, upserts=(one,)))
            assert report.conflicts == ()
            number += rows
            if part < len(FOLDS):
                assert collection.fold()
            if part == 0:
                shutil.copytree(folder / "vectors", older)
        assert [segment.rows for segment in collection.generations.listed()[0].segments] == list(FOLDS)


def asked(collection: Collection) -> Answers:
    """The answers to queries of each form. So few rows are all candidates, so each block of vectors is touched."""
    results = [
        collection.search("", QUERIES[0], 20, "dense"),
        collection.search("", QUERIES[1], 10, "dense", Comparison("path", "prefix", "even/")),
        collection.search("grape part1", QUERIES[2], 10, "hybrid", Comparison("path", "prefix", "odd/")),
        collection.search("drum line7", QUERIES[3], 10, "hybrid"),
    ]
    return [([hit.text for hit in result.hits], [hit.score for hit in result.hits]) for result in results]


def differ(answers: Answers, expected: Answers, within: float) -> bool:
    """Whether an answer is another one: other hits, but for those that tie with the last, or other scores."""
    return any(_differs(*one, *other, within) for one, other in zip(answers, expected, strict=True))


def _differs(texts: list[str], scores: list[float], right: list[str], known: list[float], within: float) -> bool:
    if len(texts) != len(right) or not np.allclose(scores, known, rtol=0, atol=within):
        return True
    found, wanted = dict(zip(texts, scores, strict=True)), dict(zip(right, known, strict=True))
    if any(abs(found[text] - wanted[text]) > within for text in found.keys() & wanted.keys()):
        return True
    return any((found | wanted)[text] > known[-1] + within for text in found.keys() ^ wanted.keys())


# Ways of damage


def truncate(drawn: random.Random, path: Path, _: Template) -> None:
    os.truncate(path, drawn.randrange(path.stat().st_size))


def flip(drawn: random.Random, path: Path, _: Template) -> None:
    with path.open("r+b") as file:
        for _ in range(drawn.randint(1, 8)):
            at = drawn.randrange(path.stat().st_size)
            (byte,) = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte ^ 1 << drawn.randrange(8)]), at)


def pages(path: Path) -> range:
    return range(0, max(1, path.stat().st_size - PAGE), PAGE)


def noise(drawn: random.Random, path: Path, _: Template) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), drawn.randbytes(PAGE), drawn.choice(pages(path)))


def swap(drawn: random.Random, path: Path, _: Template) -> None:
    one, other = (drawn.choice(pages(path)) for _ in range(2))
    with path.open("r+b") as file:
        first, second = os.pread(file.fileno(), PAGE, one), os.pread(file.fileno(), PAGE, other)
        os.pwrite(file.fileno(), second, one)
        os.pwrite(file.fileno(), first, other)


def foreign(_: random.Random, path: Path, template: Template) -> None:
    """The file of the same purpose from a collection of the same shape; sound, but not ours."""
    theirs = sorted((template.other / path.parent.name).iterdir(), key=lambda one: number(one.name))
    ours = sorted((template.folder / path.parent.name).iterdir(), key=lambda one: number(one.name))
    place = [one.name for one in ours].index(path.name)
    replaced(path, theirs[place].read_bytes())


def number(name: str) -> int:
    return int(name.split("-", maxsplit=1)[0].split(".", maxsplit=1)[0])


def older(drawn: random.Random, path: Path, template: Template) -> None:
    """The map of vectors before the last folds; a segment's name is never used twice, so another segment of ours."""
    if path.parent.name == "vectors":
        replaced(path, (template.older / path.name).read_bytes())
    else:
        others = [one for one in (template.folder / path.parent.name).iterdir() if one.name != path.name]
        replaced(path, drawn.choice(sorted(others)).read_bytes())


def empty(_: random.Random, path: Path, __: Template) -> None:
    os.truncate(path, 0)


def remove(_: random.Random, path: Path, __: Template) -> None:
    path.unlink()


def folder_instead(_: random.Random, path: Path, __: Template) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


def append(drawn: random.Random, path: Path, _: Template) -> None:
    with path.open("ab") as file:
        file.write(drawn.randbytes(drawn.choice((1, 8, PAGE))))


def unreadable(_: random.Random, path: Path, __: Template) -> None:
    path.chmod(0)


def replaced(path: Path, data: bytes) -> None:
    """By another file of the name: what is mapped stays as it was."""
    beside = path.with_name("beside")
    beside.write_bytes(data)
    beside.replace(path)


DAMAGES: tuple[Damage, ...] = (
    *(truncate, flip, noise, swap, foreign, older, empty, remove, append, unreadable),
    folder_instead,
)
WHILE_SERVING: tuple[Damage, ...] = (foreign, older, remove, unreadable, truncate, empty, folder_instead)
WHILE_LOADED: tuple[Damage, ...] = (flip, noise, swap, append, truncate, empty)
"""Done in place, when the files are open and no block was looked at yet."""


@pytest.fixture(scope="module")
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small collections are copied, opened and mended."""
    shared = Path("/dev/shm")
    parent = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
    yield parent
    shutil.rmtree(parent)


@pytest.fixture(scope="module", params=sorted(kinds()))
def template(request: pytest.FixtureRequest, fast: Path) -> Template:
    kind, home = request.param, fast / request.param
    home.mkdir()
    made(home / "sound", kind, salt=1, older=home / "older")
    made(home / "other", kind, salt=2, older=home / "unused")
    with Collection.open(home / "sound") as collection:
        answers = asked(collection)
    assert [len(texts) for texts, _ in answers] == [20, 10, 10, 10]
    return Template(kind, home / "sound", home / "other", home / "older", answers)


def trial(template: Template, folder: Path, seed: int) -> str:
    """Damage one file of a copy, ask, mend, ask again; return what was done."""
    drawn, right = random.Random(f"{template.kind} {seed}"), (template.answers, WITHIN.get(template.kind, 1e-5))
    file = template.files[seed % len(template.files)]
    when = drawn.choice(("closed", "closed", "loaded", "serving"))
    damage = drawn.choice({"closed": DAMAGES, "loaded": WHILE_LOADED, "serving": WHILE_SERVING}[when])
    shutil.copytree(template.folder, folder)
    done = f"{template.kind}, trial {seed}: {damage.__name__} of {file} while {when}"
    if when == "closed":
        damage(drawn, folder / file, template)
    with Collection.open(folder, kind=template.kind) as collection:
        if when != "closed":
            collection.load()
        if when == "serving":
            asked(collection)  # so that every block was looked at
        if when != "closed":
            damage(drawn, folder / file, template)
        assert not differ(asked(collection), *right), done
        if seed % 3 == 0:
            collection.fold()  # a segment of the delta, merged with others or not, over what is damaged
            assert not differ(asked(collection), *right), done
        assert collection.settle(), done
    with Collection.open(folder, kind=template.kind) as collection:
        assert not differ(asked(collection), *right), done
        assert collection.settle(), done
        assert damage is unreadable or whole(collection, folder), done
    shutil.rmtree(folder)
    return done


def whole(collection: Collection, folder: Path) -> bool:
    """Whether every file that searches read is what its checksums say."""
    files = SegmentFiles(collection._store, folder)
    head = collection._head()
    right = True
    for segment in collection.generations.listed()[0].segments:
        files.require_whole(segment)
        layout = Layout(SPEC.embedding.dimensions, segment.first_id, segment.last_id)
        rows = files.rows(head.embedding_spec_id, layout, segment.checksums, lambda: None)
        right = right and not len(rows.damaged())
    return right


def test_no_damage_changes_an_answer(template: Template, fast: Path) -> None:
    """Damaged closed, loaded or serving, folded over or not: every answer by value, and then every file is whole."""
    done = [trial(template, fast / "trial", seed) for seed in range(500 // len(kinds()))]
    assert len(set(done)) > 100


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_damage_of_thousands_changes_an_answer(template: Template, fast: Path) -> None:
    """10,000 trials over all kinds."""
    for seed in range(1000, 1000 + -(-10_000 // len(kinds()))):
        trial(template, fast / "trial", seed)


def test_the_comparison_sees_a_wrong_answer(template: Template, fast: Path) -> None:
    """A file that is damaged and believed all the same is caught: the trials can fail."""
    answers = [(list(texts), list(scores)) for texts, scores in template.answers]
    answers[1][1][3] += 2e-3
    assert differ(answers, template.answers, 1e-3)
    answers[1] = ([*template.answers[1][0][:3], *template.answers[1][0][4:], "another text"], answers[1][1])
    assert differ(answers, template.answers, 1e-3)
    assert not differ(template.answers, template.answers, 1e-5)
