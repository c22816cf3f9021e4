"""A purge is killed at every step: whoever goes on with it ends where an undisturbed one does, without a trace left.

The processes that purge are forked from one that has everything imported; the files are searched by this one, which
never has a connection to them.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.faults import canary


def purge(data_dir: str, document_id: str, how: str, die_at: int) -> None:
    """Run in the child: purge by the command, remove only, or look after the collection; die at the n-th step."""
    from indexes import failpoints
    from indexes.errors import NotFound

    reached = 0

    def step(name: str) -> None:
        nonlocal reached
        reached += 1
        if reached == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    house = canary.house_of(Path(data_dir))
    try:
        uploads = house.uploads
        failpoints.install(step)
        if how == "look_after":
            uploads.look_after("default")
        elif how == "remove":
            uploads.remove(document_id)
        else:
            try:
                uploads.purge(document_id)
            except NotFound:
                assert how == "again"
    finally:
        asyncio.run(house.aclose())


def look(data_dir: str) -> dict[str, object]:
    """Run in the child: what the collection answers."""
    house = canary.house_of(Path(data_dir))
    try:
        collection = house.library.open("default")
        documents = collection.documents(None, 100, None)[0]
        hits = collection.search("valve frost pumps", None, 50, "lexical").hits
        status = collection.status()
        jobs = house.uploads.jobs.jobs(100)[0]
        return {
            "documents": sorted(document.path for document in documents),
            "found": sorted((hit.path, hit.text, [place.path for place in hit.also]) for hit in hits),
            "status": [status.documents, status.chunks, status.vectors, status.missing_vectors, status.rejected_files],
            "jobs": [[job.state, job.done, job.total, dict(job.metadata)] for job in jobs],
            "pending": len(collection.purges.pending()),
        }
    finally:
        asyncio.run(house.aclose())


def serve() -> None:
    """Fork a child for each line of arguments; answer with its exit code, and what it found."""
    from ingest import tokens
    from ragsvc.logs import configure_logs

    tokens.encoding()
    configure_logs("json")  # to stderr
    for line in sys.stdin:
        arguments = json.loads(line)
        child = os.fork()
        if not child:
            code = 1
            try:
                if len(arguments) == 2:
                    Path(arguments[1]).write_text(json.dumps(look(arguments[0])))
                else:
                    purge(*arguments)
                code = 0
            finally:
                os._exit(code)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


class Children:
    """Starts children, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, *arguments: object) -> int:
        self.process.stdin.write(f"{json.dumps(arguments)}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def state(self, data_dir: Path) -> dict[str, object]:
        assert self.run(str(data_dir), f"{data_dir}.json") == 0
        return json.loads(Path(f"{data_dir}.json").read_text())


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.test_purge_kills"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield Children(process)
        process.stdin.close()


@pytest.fixture(scope="module")
def seed(tmp_path_factory) -> tuple[Path, str, list[bytes]]:
    """A data directory with the canary, its id, and the vectors that nobody else has."""
    data_dir = tmp_path_factory.mktemp("seed") / "data"
    data_dir.mkdir()
    document_id = canary.seeded(data_dir)
    return data_dir, document_id, canary.vectors_not_shared(data_dir)


@pytest.fixture(scope="module")
def removed(seed, children, tmp_path_factory) -> tuple[Path, str, list[bytes]]:
    """The same after the document was removed, and not purged: it is everywhere still."""
    data_dir = shutil.copytree(seed[0], tmp_path_factory.mktemp("removed") / "data")
    assert children.run(str(data_dir), seed[1], "remove", 0) == 0
    found = "\n".join(canary.traces(data_dir, seed[2]))
    assert all(word in found for word in (canary.WORDS[0], *canary.WORDS[3:]))
    assert found.count(".f16: float16 of vector") > 40
    return data_dir, *seed[1:]


@pytest.fixture(scope="module")
def undisturbed(seed, children, tmp_path_factory) -> dict[str, object]:
    """What an undisturbed purge leaves."""
    data_dir = shutil.copytree(seed[0], tmp_path_factory.mktemp("undisturbed") / "data")
    assert children.run(str(data_dir), seed[1], "command", 0) == 0
    assert canary.traces(data_dir, seed[2]) == []
    return children.state(data_dir)


def test_the_canary_is_everywhere_before(seed):
    """The search of the files finds what it looks for: each word, the path, vectors in the store and in their file."""
    data_dir, _, vectors = seed
    found = "\n".join(canary.traces(data_dir, vectors))
    assert all(f"store.db: {word} in utf-8" in found for word in canary.WORDS)
    assert all(f"service.db: {word} in utf-8" in found for word in (canary.WORDS[0], canary.WORDS[3]))
    bodies = [line for line in found.splitlines() if line.startswith("uploads/")]
    assert len({line.split(":")[0] for line in bodies if f"{canary.WORDS[4]} in utf-8" in line}) == 3
    assert found.count(".f16: float16 of vector") > 40
    assert any(term.startswith(canary.WORDS[2]) for term in canary.terms(data_dir))


def test_a_purge_leaves_the_other_documents(undisturbed):
    """The other documents keep their text, the passage they shared, and their vectors; the job's other file waits."""
    assert undisturbed["documents"] == sorted(canary.OTHERS)
    assert undisturbed["pending"] == 0
    assert undisturbed["status"][3] == 0
    assert any(canary.SHARED.strip() in text for _, text, _ in undisturbed["found"])
    assert [job[0::2] for job in undisturbed["jobs"]] == [["queued", 1], ["queued", 0], ["done", 1], ["done", 1]]


def killed_at(steps: Iterable[int], seed, children: Children, undisturbed: dict[str, object], tmp_path: Path) -> int:
    """Kill a purge before each of these steps, complete it, and compare; return how many steps were reached."""
    data_dir, document_id, vectors = seed
    reached = 0
    for die_at in steps:
        at = shutil.copytree(data_dir, tmp_path / str(die_at) / "data")
        if children.run(str(at), document_id, "command", die_at) == 0:
            break
        reached += 1
        if reached % 2:  # whoever writes next goes on with it; else the same command does
            assert children.run(str(at), document_id, "look_after", 0) == 0
        assert children.run(str(at), document_id, "again", 0) == 0
        assert canary.traces(at, vectors) == [], die_at
        assert not [term for term in canary.terms(at) if "zqx" in term], die_at
        assert children.state(at) == undisturbed, die_at
        shutil.rmtree(at.parent)
    return reached


def test_a_purge_after_a_plain_removal_ends_the_same(removed, children, undisturbed, tmp_path):
    """What was removed before is erased to the last byte by its id as well, also where that purge is killed."""
    at = shutil.copytree(removed[0], tmp_path / "whole" / "data")
    assert children.run(str(at), removed[1], "command", 0) == 0
    assert canary.traces(at, removed[2]) == []
    assert children.state(at) == undisturbed
    assert killed_at(range(2, 1000, 17), removed, children, undisturbed, tmp_path) >= 2


def test_a_purge_that_is_killed_ends_the_same(seed, children, undisturbed, tmp_path):
    """Killed before some of its steps, it is completed by the same command or by whoever writes next."""
    assert killed_at(range(3, 1000, 6), seed, children, undisturbed, tmp_path) >= 4


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_purge_that_is_killed_at_every_step_ends_the_same(seed, children, undisturbed, tmp_path):
    """Killed before its n-th step, for n = 1, 2, 3 ... until a purge ends without reaching it."""
    assert killed_at(range(1, 1000), seed, children, undisturbed, tmp_path) >= 24


if __name__ == "__main__":
    serve()
