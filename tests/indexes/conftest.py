"""A collection in a temporary folder, and its one source."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexes.collection import Collection
from indexes.types import Source
from tests.indexes.corpus import SPEC

# As the service has it; read when FAISS is loaded. For a few rows, threads that wait for each other are all the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def empty_collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new collection, to be copied: creating one waits for the disk several times."""
    folder = tmp_path_factory.mktemp("template") / "collection"
    Collection.create(folder, "abc123", SPEC).close()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's collection is, or will be."""
    return tmp_path / "collection"


@pytest.fixture
def memory(empty_collection: Path, tmp_path: Path) -> Iterator[Path]:
    """A new collection's folder where nothing waits for a disk, for tests of many orders and not of durability."""
    shared = Path("/dev/shm")
    parent = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else tmp_path))
    try:
        yield Path(shutil.copytree(empty_collection, parent / "collection"))
    finally:
        shutil.rmtree(parent)


@pytest.fixture
def collection(folder: Path, empty_collection: Path) -> Iterator[Collection]:
    shutil.copytree(empty_collection, folder)
    with Collection.open(folder) as opened:
        yield opened


@pytest.fixture
def source(collection: Collection) -> Source:
    return collection.add_source("/data/docs", "folder")
