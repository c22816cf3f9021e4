"""Stores that earlier releases wrote: opened, migrated, served as they were, and worked with; killed on the way."""

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from indexes.collection import Collection
from indexes.migrations import SCHEMA_VERSION
from indexes.types import ChangeSet
from ragsvc.job_store import JobStore
from ragsvc.jobs import NewFile
from ragsvc.service_store import ServiceStore
from tests.faults.killing import killed_at_statement
from tests.indexes.corpus import SPEC, embedded_hash, put, query_vector, upsert
from tests.indexes.stores.make import state

STORES = Path(__file__).with_name("stores")
RELEASED = [1, 2]


def unpacked(name: str, target: Path) -> Path:
    """Unpack a store of an earlier release, and return its folder."""
    with tarfile.open(STORES / f"{name}.tar.xz") as archive:
        archive.extractall(target, filter="data")
    return target / name.partition("-")[0]


def recorded(name: str) -> dict[str, object]:
    return json.loads((STORES / f"{name}.json").read_text(encoding="utf-8"))


def told(collection: Collection) -> dict[str, object]:
    """Return what a collection says of itself, as it comes back from JSON."""
    return json.loads(json.dumps(state(collection, query_vector("apple bread\n", "Frost")), ensure_ascii=False))


def schema(folder: Path) -> int:
    with sqlite3.connect(folder / "store.db") as raw:
        version = raw.execute("PRAGMA user_version").fetchone()[0]
    raw.close()
    return int(version)


def test_every_step_has_its_store() -> None:
    """There is a store for each schema that was ever committed as a step, and it has that schema."""
    assert len(RELEASED) + 1 == SCHEMA_VERSION, "make the store of the schema that was the newest (stores/README.md)"


@pytest.mark.parametrize("number", RELEASED)
def test_a_store_of_an_earlier_release_serves_what_it_served(tmp_path: Path, number: int) -> None:
    """Documents, texts, hits of both legs, vectors, marks and what was removed are those that the release recorded."""
    folder, said = unpacked(f"store-{number}", tmp_path), recorded(f"store-{number}")
    assert schema(folder) == number
    for _ in range(2):
        with Collection.open(folder) as collection:
            assert told(collection) == said
    assert schema(folder) == SCHEMA_VERSION


@pytest.mark.parametrize("number", RELEASED)
def test_a_store_of_an_earlier_release_can_be_worked_with(tmp_path: Path, number: int) -> None:
    """Its documents are edited, removed and folded: searches then give what a new store would."""
    folder, said = unpacked(f"store-{number}", tmp_path), recorded(f"store-{number}")
    with Collection.open(folder, delta_rows=4) as collection:
        docs = collection.sources()[0]
        ids = {document["path"]: document["id"] for document in said["documents"]}
        put(collection, docs, upsert("edited.txt", "eagle one\nfrost four\n", (ids["edited.txt"], 2)))
        collection.apply(ChangeSet(docs.id, removals=(ids["new-name.txt"],)))
        collection.remove_document(ids["kept.txt"])
        # Unpaid: the text that went with an edit comes back with its vector.
        known = embedded_hash("", "frost two\n")
        assert collection.known_vectors(SPEC.embedding, [known]) == {known}
        for folded in (False, True):
            assert {hit.text for hit in collection.search("four", None, 9, "lexical").hits} == {"frost four\n"}
            assert not collection.search("grape", None, 9, "lexical").hits
            best = collection.search("", query_vector("frost four\n"), 1, "dense").hits[0]
            assert (best.path, best.text, round(best.score, 2)) == ("edited.txt", "frost four\n", 1.0)
            texts = {hit.text for hit in collection.search("", query_vector("x"), 99, "dense").hits}
            assert "grape seven\n" not in texts
            assert {"drum and bread\n", "jungl\n"} < texts
            assert folded or collection.fold()
        [segment] = collection.generations.listed()[-1].segments
        assert segment.rows == collection.status().vectors
        assert collection.removed_by_hand(docs.id) == {"kept.txt"}


@pytest.mark.parametrize("number", RELEASED)
def test_segments_of_the_first_kind_are_dropped_and_their_vectors_served(tmp_path: Path, number: int) -> None:
    """After the migration no segment is named; all vectors are in the delta, and the next fold removes the old file."""
    folder = unpacked(f"store-{number}", tmp_path)
    [old] = (folder / "segments").iterdir()
    with Collection.open(folder) as collection:
        status = collection.status()
        assert (status.segments, status.delta_rows) == (0, status.vectors)
        assert collection.fold()
        assert not old.exists()
        assert told(collection) == recorded(f"store-{number}")


@pytest.mark.parametrize("number", RELEASED)
def test_a_migration_that_is_killed_leaves_a_store_that_can_be_opened(tmp_path: Path, number: int) -> None:
    """Killed before its nth statement, for every n: the store is at some step, whole, and the next opening ends it."""
    kept = unpacked(f"store-{number}", tmp_path)
    said, statement, at_steps = recorded(f"store-{number}"), 0, set()
    while True:
        statement += 1
        folder = tmp_path / str(statement)
        shutil.copytree(kept, folder)
        ended = not killed_at_statement(statement, "tests.ragsvc.places:migrate_store", str(folder))
        at_steps.add(schema(folder))
        with Collection.open(folder) as collection:
            assert told(collection) == said
        shutil.rmtree(folder)
        if ended:
            break
    assert statement > 20
    assert at_steps == set(range(number, SCHEMA_VERSION + 1))


def spoken(store: ServiceStore) -> dict[str, object]:
    jobs = JobStore(store)
    return {
        "collections": [[row.id, row.name, row.state, row.created_at] for row in store.collections()],
        "usage": [[row.requests, row.input_tokens, row.cost_usd, row.unpriced] for row in store.usage()],
        "jobs": {job.id: [job.state, job.done] for job in reversed(jobs.jobs(9)[0])},
    }


@pytest.mark.parametrize("number", [1, 2])
def test_a_service_store_of_an_earlier_release_serves_what_it_served(tmp_path: Path, number: int) -> None:
    """Collections (each in the folder of its id), spending and jobs are those recorded; uploads are taken and done."""
    folder = unpacked(f"service-{number}", tmp_path)
    store = ServiceStore.open(folder)
    assert spoken(store) == recorded(f"service-{number}")
    assert [row.folder for row in store.collections()] == [row.id for row in store.collections()]
    jobs = JobStore(store)
    jobs.add_upload("job_new", "def456", (NewFile("n.md", b"n" * 32, 0, 1, 1),), {})
    assert jobs.claim("def456").id == "job_new"
    if number == 2:
        assert jobs.claim("abc123").id == "job_open"
        assert [file.path for file in jobs.files("job_open")] == ["a.md", "b.md"]
    store.close()


@pytest.mark.parametrize("number", [1, 2])
def test_a_migration_of_the_service_store_that_is_killed_is_ended_by_the_next_opening(
    tmp_path: Path, number: int
) -> None:
    """Killed before its nth statement, for every n, nothing of `service.db` is lost."""
    kept = unpacked(f"service-{number}", tmp_path)
    statement, more = 0, True
    while more:
        statement += 1
        folder = tmp_path / str(statement)
        shutil.copytree(kept, folder)
        more = killed_at_statement(statement, "tests.ragsvc.places:migrate_service", str(folder))
        store = ServiceStore.open(folder)
        assert spoken(store) == recorded(f"service-{number}")
        store.close()
        shutil.rmtree(folder)
    assert statement > 8


@pytest.mark.parametrize("what", ["store", "service"])
@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "killed"])
def test_a_newer_one_is_refused_to_the_byte(tmp_path: Path, what: str, in_use: bool) -> None:
    """A newer release's file, its log and its shared memory stay as they are, also while a process has them open."""
    kept = unpacked(f"{what}-2", tmp_path / "old")
    folder = tmp_path / "new"
    name = "store.db" if what == "store" else "service.db"
    raw = sqlite3.connect(kept / name)
    raw.execute("PRAGMA user_version = 99")
    raw.execute("CREATE TABLE their_own (x)")
    raw.commit()
    if not in_use:
        shutil.copytree(kept, folder)
        raw.close()
    at = kept if in_use else folder
    before = hashes(at)
    assert {f"{name}-wal", f"{name}-shm"} < set(before)
    opening = {
        "store": "from indexes.collection import Collection; Collection.open(Path(sys.argv[1]))",
        "service": "from ragsvc.service_store import ServiceStore; ServiceStore.open(Path(sys.argv[1]))",
    }[what]
    code = f"import sys; from pathlib import Path; {opening}"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(at)], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert re.search("(StoreTooNew|ConfigurationError): .* has schema 99", done.stderr)
    assert {path: kept for path, kept in hashes(at).items() if path in before} == before
    raw.close()


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}
