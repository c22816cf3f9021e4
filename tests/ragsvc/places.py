"""A data directory with a library and backups, as one process sees it, and work on it for processes that are killed."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from indexes.collection import Collection
from indexes.errors import StorageFull
from ragsvc.library import Library
from ragsvc.restoring import Backups
from ragsvc.service_store import ServiceStore
from tests.indexes.corpus import SPEC, put, upsert


@dataclass
class Place:
    """One process's view of a data directory."""

    data: Path
    store: ServiceStore
    library: Library
    backups: Backups

    def close(self) -> None:
        self.library.close()
        self.store.close()


@contextmanager
def at(data: Path | str) -> Iterator[Place]:
    data = Path(data)
    store = ServiceStore.open(data)
    library = Library(data, store, lambda: SPEC, delta_rows=100)
    place = Place(data, store, library, Backups(data, store, library, delta_rows=100))
    try:
        yield place
    finally:
        place.close()


def create(data: str, name: str) -> None:
    with at(data) as place:
        place.library.create(name, SPEC)


def remove(data: str, name: str) -> None:
    with at(data) as place:
        place.library.remove(name)


def back_up(data: str, file: str) -> None:
    with at(data) as place:
        place.backups.write("papers", Path(file), overwrite=True)


def restore(data: str, file: str, name: str, replace: str) -> None:
    with at(data) as place:
        place.backups.restore(Path(file), name, replace=replace == "replace")


def back_up_without_room(data: str, file: str) -> None:
    with pytest.raises(StorageFull):
        back_up(data, file)


def restore_without_room(data: str, file: str) -> None:
    with pytest.raises(StorageFull):
        restore(data, file, "papers", "replace")


def take_apart(data: str) -> None:
    with at(data) as place:
        place.library.open("papers").generations.drop_retired()


def migrate_store(folder: str) -> None:
    Collection.open(Path(folder)).close()


def migrate_service(folder: str) -> None:
    ServiceStore.open(Path(folder)).close()


def write_on(data: str, log: str) -> None:
    """Write two documents in one transaction, again and again, until killed; the log says what is about and done."""
    witness = os.open(log, os.O_WRONLY | os.O_APPEND)
    with at(data) as place:
        collection = place.library.open("papers")
        source = collection.sources()[0]
        for turn in itertools.count():
            os.write(witness, f"{turn}\n".encode())
            entries = collection.manifest(source.id).entries
            known = {path: (entry.document_id, entry.version) for path, entry in entries.items()}
            pair = [upsert(path, f"apple {turn}\n", known.get(path)) for path in ("x", "y")]
            put(collection, source, *pair)
            os.write(witness, b"done\n")
            if turn % 20 == 19:
                collection.fold()
