"""A process is killed at every step of a publication, a rollback and what they leave: the same call again completes it.

The child dies at point n of the story, n = 1, 2, 3 ... until it ends without reaching one. After each kill the store is
whole, what is in service answers for all documents, and the story told again ends as if nothing had happened.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexes import failpoints
from indexes.collection import Collection
from indexes.types import ChangeSet
from tests.indexes.corpus import SPEC, put, upsert
from tests.indexes.specs import LINES, OTHER, PAIRS, cut_all, query_under

TEXTS = {f"d{n}": "".join(f"apple bread{n} line{k}\n" for k in range(n + 1)) for n in range(5)}
ROOT = Path(__file__).parents[2]


def begin(folder: Path) -> None:
    """Make a collection with documents, two of them edited after a second generation came."""
    with Collection.create(folder, "abc123", SPEC, delta_rows=3) as collection:
        source = collection.add_source("/data", "folder")
        put(collection, source, *(upsert(path, text) for path, text in TEXTS.items()))
        collection.fold()


def publish(folder: Path) -> None:
    """Bring the collection to OTHER, segment and all."""
    with Collection.open(folder, delta_rows=3) as collection:
        if collection.spec != OTHER:
            cut_all(collection, OTHER)
            assert collection.generations.publish(OTHER) == 2
        collection.generations.drop_retired()
        collection.fold()


def go_back(folder: Path) -> None:
    """Serve generation 1 again, with the documents that came under 2."""
    with Collection.open(folder, delta_rows=3) as collection:
        cut_all(collection, SPEC)
        assert collection.generations.rollback(1) == 1


def collect(folder: Path) -> None:
    """Publish a fourth generation: the second goes, with its chunks, its words and its embedded hashes."""
    with Collection.open(folder, delta_rows=3) as collection:
        if collection.spec != PAIRS:
            cut_all(collection, PAIRS)
            assert collection.generations.publish(PAIRS) is not None
        collection.generations.drop_retired()
        collection.fold()


def after_publish(folder: Path) -> None:
    begin(folder)
    publish(folder)
    with Collection.open(folder) as collection:
        source = collection.sources()[0]
        entry = collection.manifest(source.id).entries["d1"]
        changed = upsert("d1", "apple newer\n", (entry.document_id, entry.version))
        collection.apply(ChangeSet(source.id, upserts=(changed, upsert("d9", "apple added\n"))))
        collection.remove_document(collection.manifest(source.id).entries["d4"].document_id)


def after_four(folder: Path) -> None:
    begin(folder)
    publish(folder)
    with Collection.open(folder) as collection:
        for spec in (LINES, SPEC):
            cut_all(collection, spec)
            collection.generations.publish(spec)


STORIES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "publish": (begin, publish),
    "rollback": (after_publish, go_back),
    "collect": (after_four, collect),
}


def serve() -> None:
    """Fork a child for each line of arguments: it starts in milliseconds, with everything imported."""
    for line in sys.stdin:
        name, folder, last = json.loads(line)
        child = os.fork()
        if not child:
            tell(STORIES[name][1], Path(folder), last)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


def tell(story: Callable[[Path], None], folder: Path, last: int) -> None:
    """Run in the child: die at point `last`, or end with 0 where there are fewer."""
    left = last

    def hook(_: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.install(hook)
    code = 1
    try:
        story(folder)
        code = 0
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.faults.test_generation_kills"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        yield running
        assert running.stdin is not None
        running.stdin.close()


def told(server: subprocess.Popen[str], *asked: Any) -> int:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{json.dumps(asked)}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def held(folder: Path) -> dict[str, str]:
    with Collection.open(folder) as collection:
        entries = collection.manifest(collection.sources()[0].id).entries
        return {path: collection.text(entry.document_id).text for path, entry in entries.items()}


def check(folder: Path, texts: dict[str, str]) -> dict[str, Any]:
    """Every document is whole under what is in service, in every view; return what a finished story looks like."""
    with Collection.open(folder) as collection:
        lines = sorted(line for text in texts.values() for line in text.splitlines(keepends=True))
        query = query_under(collection.spec, "anything")
        assert held(folder) == texts
        missing = collection.status().missing_vectors
        assert not missing
        for mode in ("dense", "lexical"):
            found = collection.search("apple", query, 200, mode).hits
            assert sorted(line for hit in found for line in hit.text.splitlines(keepends=True)) == lines, mode
        generations = [(one.number, one.spec, one.current) for one in collection.generations.listed()]
    raw = sqlite3.connect(folder / "store.db")
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    specs = raw.execute("SELECT tokens, id FROM chunk_spec WHERE chunker NOT LIKE 'dropped:%' ORDER BY 1").fetchall()
    words = {}
    for tokens, one in specs:
        raw.execute(f"INSERT INTO words_{one} (words_{one}) VALUES ('integrity-check')")
        chunks = raw.execute("SELECT count(*) FROM chunk WHERE chunk_spec_id = ?", (one,)).fetchone()[0]
        words[tokens] = raw.execute(f"SELECT count(*) FROM words_{one}_docsize").fetchone()[0], chunks
        assert words[tokens][0] == chunks
    count = "SELECT embedding_spec_id, count(*) FROM chunk_embedding GROUP BY 1 ORDER BY 1"
    embedded = raw.execute(count).fetchall()
    raw.close()
    return {"generations": generations, "words": words, "embedded": embedded}


@pytest.mark.parametrize("name", STORIES)
def test_a_kill_at_every_step_is_completed_by_the_same_call(
    name: str, tmp_path: Path, server: subprocess.Popen[str]
) -> None:
    """No document is lost, doubled or half visible at any point, and the end is that of an undisturbed run."""
    prepare, story = STORIES[name]
    made, undisturbed = tmp_path / "made", tmp_path / "undisturbed"
    prepare(made)
    texts = held(made)
    shutil.copytree(made, undisturbed)
    story(undisturbed)
    end = check(undisturbed, texts)
    for last in range(1, 100):
        folder = tmp_path / str(last)
        shutil.copytree(made, folder)
        code = told(server, name, str(folder), last)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        if name == "publish":  # what is in service serves all the while; before a rollback vectors may be missing
            check(folder, texts)
        assert held(folder) == texts
        story(folder)
        assert check(folder, texts) == end, last
    assert last > {"publish": 15, "rollback": 5, "collect": 15}[name]


if __name__ == "__main__":
    serve()
