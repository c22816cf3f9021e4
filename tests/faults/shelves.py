"""The client of a data directory: it makes and removes collections, and takes jobs to their end.

Its steps may be repeated, as those of `steps`; its witness has `begin` and `done` of each.
"""

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from indexes.collection import Collection
from indexes.types import IndexSpec
from ragsvc.errors import CollectionExists, UnknownCollection
from ragsvc.job_store import JobStore
from ragsvc.jobs import NewFile
from ragsvc.library import Library
from ragsvc.service_store import ServiceStore
from tests.faults.checker import Kind
from tests.faults.client import Witness, read_witness
from tests.indexes.corpus import SPEC

SCRIPT: Sequence[tuple[str, str]] = (
    ("create", "papers"),
    ("create", "notes"),
    ("upload", "notes"),
    ("do", "notes"),
    ("remove", "papers"),
    ("create", "papers"),
    ("upload", "papers"),
    ("do", "papers"),
    ("upload", "papers"),
    ("remove", "notes"),
)
JOB = "job_of_{}_step_{}"


def after(steps: int) -> set[str]:
    """Return the names of the collections that there must be after so many steps."""
    names: set[str] = set()
    for deed, name in SCRIPT[:steps]:
        names = names | {name} if deed == "create" else names - {name} if deed == "remove" else names
    return names


def work(data_dir: Path, witness_path: Path, most: int | None = None) -> None:
    """Go on with the script where the witness ends."""
    first = max(read_witness(witness_path).done, 0)
    witness = Witness(witness_path)
    with closing(ServiceStore.open(data_dir)) as store, closing(library_of(data_dir, store)) as library:
        for number in range(first, len(SCRIPT) if most is None else min(first + most, len(SCRIPT))):
            witness.say(begin=number)
            do(library, store, number)
            witness.say(done=number)


def library_of(data_dir: Path, store: ServiceStore) -> Library:
    return Library(data_dir, store, lambda: SPEC, delta_rows=10)


def do(library: Library, store: ServiceStore, number: int) -> None:
    deed, name = SCRIPT[number]
    jobs = JobStore(store)
    if deed == "create":
        with suppress(CollectionExists):  # the kill came behind it
            library.create(name, SPEC)
    elif deed == "remove":
        with suppress(UnknownCollection):
            library.remove(name)
    elif deed == "upload":
        if JOB.format(name, number) not in jobs.unfinished():
            file = NewFile("a.md", b"hash", 0, 5, 1)
            jobs.add_upload(JOB.format(name, number), library.open(name).id, [file], {})
    else:
        collection = library.open(name)
        if job := jobs.claim(collection.id):
            jobs.applied(job.id, {"a.md": "doc_1"})
            jobs.finish(job.id, "done")


def _list_first() -> None:
    """A collection's row comes before its store."""

    def create(self: Library, name: str, spec: IndexSpec, *, exist_ok: bool = False) -> Collection:
        collection_id = f"{random.randrange(10**6):06d}"
        self._store.add_collection(collection_id, name)
        Collection.create(self._folder / collection_id, collection_id, spec).close()
        return self._opened(collection_id)

    Library.create = create


def _erase_first() -> None:
    """A collection's folder goes before its row."""
    inner = ServiceStore.remove_collection

    def remove(self: ServiceStore, name: str, *, idle: bool = False) -> str:
        [row] = [row for row in self.collections() if row.name == name]
        shutil.rmtree(self.path.parent / "collections" / row.folder)
        return inner(self, name, idle=idle)

    ServiceStore.remove_collection = remove


def _forget_jobs() -> None:
    """A job is finished in one transaction, its documents in another."""
    JobStore.applied = lambda self, job_id, documents: None


BROKEN: Mapping[str, tuple[Kind, Callable[[], None]]] = {
    "lists before it makes": ("lost", _list_first),
    "erases before it unlists": ("lost", _erase_first),
    "finishes a job in part": ("half_visible", _forget_jobs),
}
"""Broken on purpose, by name: the counter that must catch it."""
