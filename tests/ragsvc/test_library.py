"""Collections by name and by document id, across processes."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from indexes import failpoints
from indexes.collection import Collection
from indexes.errors import NotFound, StorageFull, StoreError
from indexes.types import ChangeSet, ChunkSpec, DocumentUpsert, EmbeddingSpec, FileStat, IndexSpec
from ragsvc.errors import BadRequest, CollectionBusy, CollectionExists, UnknownCollection
from ragsvc.job_store import JobStore
from ragsvc.jobs import NewFile
from ragsvc.library import UNLISTED, Library
from ragsvc.service_store import ServiceStore
from ragsvc.settings import LOCAL_DIMENSIONS, LOCAL_MODEL

SPEC = IndexSpec(EmbeddingSpec("test", 4))


@pytest.fixture
def open_library(tmp_path):
    """Makes libraries over one data directory, each like a process of its own."""
    stores, libraries = [], []

    def make() -> Library:
        store = ServiceStore.open(tmp_path / "data")
        library = Library(tmp_path / "data", store, lambda: SPEC, delta_rows=100)
        stores.append(store)
        libraries.append(library)
        return library

    yield make
    for library in libraries:
        library.close()
    for store in stores:
        store.close()


def _document() -> DocumentUpsert:
    return DocumentUpsert("a.txt", None, b"h" * 32, FileStat(1, 1, 1, 1), "text/plain", "", "Apples.", {}, "t", ())


def test_default_always_exists(open_library):
    """`default` is listed and opened in an empty data directory, and made once."""
    library = open_library()
    assert library.names() == ("default",)
    first = library.open("default")
    assert open_library().open("default").id == first.id


def test_a_blank_default_follows_the_settings_until_something_is_put_into_it(tmp_path):
    """Made by a look without a key, `default` is another one when a key is set; with a document it stays as it is."""

    def opened(model: str, dimensions: int, *, put: bool = False) -> str:
        store = ServiceStore.open(tmp_path / "data")
        spec = IndexSpec(EmbeddingSpec(model, dimensions))
        library = Library(tmp_path / "data", store, lambda: spec, delta_rows=100)
        collection = library.open("default")
        if put:
            source = collection.add_source("/d", "folder")
            collection.apply(ChangeSet(source.id, upserts=(_document(),)))
        library.close()
        store.close()
        return collection.id

    local, openai = (LOCAL_MODEL, LOCAL_DIMENSIONS), ("text-embedding-3-small", 1536)
    first = opened(*local)
    assert opened(*local) == first
    second = opened(*openai)
    assert second != first
    assert len(list((tmp_path / "data" / "collections").iterdir())) == 1
    opened(*openai, put=True)
    assert opened(*local) == second


def test_a_blank_collection_that_was_made_otherwise_or_has_a_job_stays(open_library, tmp_path):
    """Chunks of another size were somebody's choice, and an accepted upload is not lost with its collection."""
    library = open_library()
    made = library.create("default", IndexSpec(EmbeddingSpec(LOCAL_MODEL, LOCAL_DIMENSIONS), ChunkSpec(256, 0)))
    assert open_library().open("default").id == made.id
    store = ServiceStore.open(tmp_path / "data")
    JobStore(store).add_upload("job_1", made.id, (NewFile("a.txt", b"h" * 32, 0, 1, 1),), {})
    with pytest.raises(CollectionBusy, match="jobs"):
        store.remove_collection("default", idle=True)
    store.remove_collection("default")
    store.close()


STEPS = ("store.file", "store.log", "migrate.commit", "store.sync", "store.commit", "library.list")


@pytest.mark.parametrize("where", STEPS)
def test_a_creation_without_room_leaves_no_folder(open_library, tmp_path, where):
    """A disk that is full at some step of a creation: an error, no folder, and the same again succeeds."""
    library = open_library()
    library.open("default")

    def full(name: str) -> None:
        if name == where:
            raise OSError(errno.ENOSPC, "No space left on device")

    failpoints.install(full)
    try:
        with pytest.raises((StorageFull, OSError)):
            library.create("papers", SPEC)
    finally:
        failpoints.install(None)
    assert [path.name for path in (tmp_path / "data" / "collections").iterdir()] == [library.open("default").id]
    assert library.create("papers", SPEC).id == library.open("papers").id


def test_an_unknown_collection_is_refused_with_the_known_ones(open_library):
    """Opening or removing a name that is not there says which are."""
    library = open_library()
    library.create("papers", SPEC)
    with pytest.raises(UnknownCollection, match="default, papers"):
        library.open("paper")
    with pytest.raises(UnknownCollection):
        library.remove("paper")


def test_a_name_is_taken_once_and_leaves_no_folder_behind(open_library, tmp_path):
    """A second create of a name is refused, and what it had begun is gone."""
    library = open_library()
    library.create("papers", SPEC)
    folders = set((tmp_path / "data" / "collections").iterdir())
    with pytest.raises(CollectionExists):
        open_library().create("papers", SPEC)
    assert set((tmp_path / "data" / "collections").iterdir()) == folders


@pytest.mark.parametrize("name", ["", "Big", "a b", "../x", "a/b", "-a", "x" * 65])
def test_a_bad_name_is_refused(open_library, tmp_path, name):
    """A name that is no plain word is refused and leaves no folder behind."""
    with pytest.raises(BadRequest):
        open_library().create(name, SPEC)
    folder = tmp_path / "data" / "collections"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_document_id_leads_to_its_collection(open_library):
    """The collection of a document is found by its id alone; ids that name none are NotFound."""
    library = open_library()
    collection = library.create("papers", SPEC)
    source = collection.add_source("/somewhere", "folder")
    document_id = collection.apply(ChangeSet(source.id, upserts=(_document(),))).documents["a.txt"]
    assert open_library().of_document(document_id).id == collection.id
    for wrong in ("doc_zzzzzz0123456789abcdef", "doc_", "", "x" * 300, document_id.removeprefix("doc_")):
        with pytest.raises(NotFound):
            library.of_document(wrong)


def test_a_collection_that_is_being_written_is_not_removed(open_library):
    """While a run holds its lock, removing the collection is refused and changes nothing; afterwards it goes."""
    one, two = open_library(), open_library()
    opened = one.create("papers", SPEC)
    with FileLock(one.locks(opened) / "run-1.lock"), pytest.raises(CollectionBusy, match="papers"):
        two.remove("papers")
    assert two.open("papers").id == opened.id
    two.remove("papers")
    assert "papers" not in one.names()


@pytest.mark.parametrize("at", ["service.commit", "service.committed"])
def test_an_interrupted_removal_takes_the_folder_for_a_lost_one_never(open_library, tmp_path, at):
    """Behind its commit the folder stays marked as one that was to go; before it the collection is as it was."""
    library = open_library()
    folder = library.create("papers", SPEC).folder

    def interrupt(name: str) -> None:
        if name == at:
            raise KeyboardInterrupt

    failpoints.install(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            library.remove("papers")
    finally:
        failpoints.install(None)
    assert ("papers" in library.names()) == (at == "service.commit")
    if at == "service.committed":
        assert (folder / UNLISTED).exists()
    else:
        assert open_library().open("papers").folder == folder
        assert not (folder / UNLISTED).exists()


def test_what_another_process_removed_is_closed(open_library):
    """A collection removed by one library is closed by another that had it open, when that opens the next."""
    one, two = open_library(), open_library()
    one.create("papers", SPEC)
    opened, kept = two.open("papers"), two.open("default")
    one.remove("papers")
    two.create("books", SPEC)
    with pytest.raises(StoreError, match="closed"):
        opened.status()
    assert kept.status().documents == 0


def test_what_another_process_removed_is_gone(open_library, tmp_path):
    """A collection removed by one library is unknown to another that had it open, and its folder is gone."""
    one, two = open_library(), open_library()
    one.create("papers", SPEC)
    opened = two.open("papers")
    one.remove("papers")
    with pytest.raises(UnknownCollection):
        two.open("papers")
    assert not (tmp_path / "data" / "collections" / opened.id).exists()
    two.create("papers", SPEC)
    assert one.open("papers").id != opened.id


def test_a_slow_collection_holds_up_no_other(open_library, monkeypatch):
    """While the disk of one collection keeps its opening waiting, another one is opened; those who want it get one."""
    library = open_library()
    slow, quick = library.create("slow", SPEC).folder, library.create("quick", SPEC).id
    library.close()
    begun, going_on, opened = threading.Event(), threading.Event(), []
    open_collection = Collection.open

    def opening(folder, **values):
        if folder == slow:
            opened.append(folder)
            begun.set()
            assert going_on.wait(20)
        return open_collection(folder, **values)

    monkeypatch.setattr(Collection, "open", opening)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(library.open, "slow") for _ in range(2)]
        try:
            assert begun.wait(10)
            assert threads.submit(library.open, "quick").result(10).id == quick
            assert threads.submit(library.names).result(10) == ("default", "quick", "slow")
            assert not any(one.done() for one in waiting)
        finally:
            going_on.set()
        one, two = (each.result(10) for each in waiting)
    assert one is two
    assert opened == [slow]


def test_a_removal_waits_for_an_opening_and_closes_what_it_opened(open_library, monkeypatch):
    """Who is opening a collection when its row goes gets one that is closed: it is in nobody's table any more."""
    library, other = open_library(), open_library()
    folder = library.create("papers", SPEC).folder
    library.close()
    begun, going_on = threading.Event(), threading.Event()
    open_collection = Collection.open

    def opening(place, **values):
        opened = open_collection(place, **values)
        if place == folder:
            begun.set()
            assert going_on.wait(20)
        return opened

    monkeypatch.setattr(Collection, "open", opening)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(library.open, "papers")
        assert begun.wait(10)
        removing = threads.submit(library.remove, "papers")
        while "papers" in other.names():
            pass
        assert not removing.done()
        going_on.set()
        removing.result(10)
        opened = waiting.result(10)
    with pytest.raises(StoreError, match="closed"):
        opened.status()
