"""Bitmaps of filters against the join in SQL that they stand for, whatever happened to documents and vectors before."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from indexes import publishing, store_search, store_vectors, store_visibility, store_words, visibility
from indexes.collection import Collection
from indexes.snapshots import Snapshot
from indexes.store import Connection, Store
from indexes.store_search import Condition, condition
from indexes.store_vectors import Head
from indexes.types import (
    ChangeSet,
    ChunkSpec,
    Comparison,
    DocumentCut,
    DocumentRename,
    EmbeddingSpec,
    Filter,
    IndexSpec,
    Source,
)
from indexes.visibility import Visibility
from tests.indexes.corpus import EMBEDDING, SPEC, STAT, chunks_of, embed, put, upsert, vector_of, vectors_of

FILTERS: tuple[Filter | None, ...] = (
    None,
    Comparison("path", "prefix", "d/"),
    Comparison("n", "eq", 1),
    Comparison("n", "eq", True),
    Comparison("n", "ne", 1),
    Comparison("source", "eq", "/elsewhere"),
)
NAMES = st.sampled_from(["a", "b", "d/x", "d/y"])
TEXTS = st.lists(st.sampled_from(["apple", "bread", "cloud", "drum", "eagle"]), min_size=1, max_size=4).map("\n".join)
OTHER_SPEC = IndexSpec(EMBEDDING, ChunkSpec(8, 0))
OTHER_MODEL = IndexSpec(EmbeddingSpec("other-model", 8), SPEC.chunks)


def where(filter_: Filter | None) -> Condition | None:
    return None if filter_ is None else condition(filter_)


def check(known: Visibility, connection: Connection, head: Head, *filters: Filter | None) -> None:
    """What is known equals the join, vectors aside that are gone; and the number of those missing is exact."""
    rows = connection.execute("SELECT id FROM vector WHERE embedding_spec_id = ?", (head.embedding_spec_id,)).fetchall()
    there = np.zeros(head.last_vector_id + 1, np.bool_)
    there[[row[0] for row in rows]] = True
    for asked in filters:
        expected = store_search.allowed_vectors(connection, head, condition(asked))
        found = known.allowed(connection, head, where(asked))
        assert found.dtype == np.bool_
        assert (found & there).tolist() == expected.tolist(), asked
        assert len(found) == len(expected)
    assert known.missing(connection, head) == store_search.missing_vectors(connection, head)


class VisibilityMachine(RuleBasedStateMachine):
    """One memory beside a store that changes; some transactions stay open, and go on seeing what they saw."""

    def __init__(self) -> None:
        super().__init__()
        self.patched = pytest.MonkeyPatch()
        self.root = Path(tempfile.mkdtemp())
        self.documents: dict[str, tuple[str, int, str]] = {}
        self.known = Visibility()
        self.open_reads = ExitStack()
        self.old: list[tuple[Connection, Head]] = []

    @initialize(slack=st.sampled_from([0, 10_000]), bulk=st.sampled_from([3, 50_000]), kept=st.sampled_from([1, 16]))
    def create(self, slack: int, bulk: int, kept: int) -> None:
        self.patched.setattr(visibility, "_SLACK", slack)
        self.patched.setattr(visibility, "_BULK", bulk)
        self.patched.setattr(visibility, "KEPT_BITMAPS", kept)
        self.patched.setattr(store_visibility, "_VERSIONS_A_STATEMENT", 2)
        self.patched.setattr(store_visibility, "_ROWS_A_STATEMENT", 2)
        self.collection = Collection.create(self.root / "c", "abc123", SPEC)
        self.store = Store.open(self.root / "c")
        self.source = self.collection.add_source("/d", "folder")

    @rule(path=NAMES, text=TEXTS, embedded=st.booleans(), n=st.sampled_from([1, True, 1.0, "1", 2]))
    def put(self, path: str, text: str, embedded: bool, n: object) -> None:
        old = self.documents.get(path)
        if old:
            self.set_state(old[0], "live")
        one = upsert(path, text, old and old[:2], metadata={"n": n})
        if embedded:
            embed(self.collection, one)
        report = self.collection.apply(ChangeSet(self.source.id, upserts=(one,)))
        self.documents[path] = (report.documents[path], old[1] + 1 if old else 1, text)

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(self.documents)))
        self.collection.remove_document(self.documents.pop(path)[0])

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), to=NAMES)
    def rename(self, data: st.DataObject, to: str) -> None:
        path = data.draw(st.sampled_from(sorted(self.documents)))
        if to not in self.documents:
            moved = DocumentRename(self.documents[path][0], to, STAT)
            assert not self.collection.apply(ChangeSet(self.source.id, renames=(moved,))).conflicts
            self.documents[to] = self.documents.pop(path)

    @rule()
    def embed_all(self) -> None:
        chunks = [chunk for _, _, text in self.documents.values() for chunk in chunks_of(text)]
        keys = sorted({chunk.embedded_hash for chunk in chunks})
        self.collection.add_vectors(self.collection.spec.embedding, keys, vectors_of(keys))

    @rule(text=TEXTS)
    def embed_before_any_chunk(self, text: str) -> None:
        embed(self.collection, upsert("nowhere", text))

    @rule()
    def drop_unreferenced_vectors(self) -> None:
        with self.store.write() as connection:
            connection.execute("DELETE FROM vector WHERE text_hash NOT IN (SELECT embedded_hash FROM chunk_embedding)")

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), state=st.sampled_from(["live", "staged"]))
    def stage_or_show(self, data: st.DataObject, state: str) -> None:
        """A version that waits is not visible, and its chunks are not new when it becomes so."""
        self.set_state(self.documents[data.draw(st.sampled_from(sorted(self.documents)))][0], state)

    def set_state(self, document_id: str, state: str) -> None:
        with self.store.write() as connection:
            connection.execute("UPDATE document_version SET state = ? WHERE document_id = ?", (state, document_id))
            store_vectors.tick(connection)

    @rule(spec=st.sampled_from([SPEC, OTHER_SPEC, OTHER_MODEL]), back=st.booleans(), ahead=st.booleans())
    def serve(self, spec: IndexSpec, back: bool, ahead: bool) -> None:
        """Publish a generation, or go back to one; texts that are not cut for it are cut first."""
        cuts = [
            DocumentCut(one.document_id, one.version, chunks_of(one.text))
            for one in self.collection.generations.uncut(spec)
        ]
        if cuts:
            self.collection.generations.add_cuts(spec, cuts)
        if ahead:  # cut, not published: what it is embedded by stands beside the chunks of the generation in service
            return
        numbers = [one.number for one in self.collection.generations.listed() if one.spec == spec]
        if back and numbers:
            assert self.collection.generations.rollback(numbers[-1])
        else:
            assert self.collection.generations.publish(spec)

    @rule()
    def drop_retired(self) -> None:
        publishing.drop_retired(self.store)

    @rule()
    def begin(self) -> None:
        if len(self.old) < 3:
            connection = self.open_reads.enter_context(self.store.read())
            self.old.append((connection, store_vectors.head(connection)))

    @rule()
    def end_all(self) -> None:
        self.old.clear()
        self.open_reads.close()

    @rule(filters=st.lists(st.sampled_from(FILTERS), min_size=1, max_size=3))
    def search(self, filters: list[Filter | None]) -> None:
        with self.store.read() as connection:
            check(self.known, connection, store_vectors.head(connection), *filters)

    @precondition(lambda self: self.old)
    @rule(data=st.data(), filters=st.lists(st.sampled_from(FILTERS), min_size=1, max_size=3))
    def search_in_an_old_transaction(self, data: st.DataObject, filters: list[Filter | None]) -> None:
        check(self.known, *data.draw(st.sampled_from(self.old)), *filters)

    def teardown(self) -> None:
        self.open_reads.close()
        if hasattr(self, "store"):
            self.collection.close()
            self.store.close()
        self.patched.undo()
        shutil.rmtree(self.root)


TestVisibilityMachine = pytest.mark.timeout(240)(VisibilityMachine.TestCase)
TestVisibilityMachine.settings = settings(
    max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.soak
class TestVisibilityMachineForLong(VisibilityMachine.TestCase):
    settings = settings(
        max_examples=3000, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
    )


@contextmanager
def reading(collection: Collection) -> Iterator[tuple[Connection, Head]]:
    with collection._store.read() as connection:
        yield connection, store_vectors.head(connection)


def test_a_bitmap_is_remembered_until_documents_or_vectors_change(collection: Collection, source: Source) -> None:
    """The documents are scanned once for a filter, and again only after a change of documents or a new vector."""
    scans = []
    asked = condition(Comparison("path", "eq", "a"))
    known = Visibility()

    def found() -> list[int]:
        with reading(collection) as (connection, head):
            connection.set_trace_callback(lambda sql: scans.append(sql) if "json_group_array(v.id)" in sql else None)
            try:
                return np.flatnonzero(known.allowed(connection, head, asked)).tolist()
            finally:
                connection.set_trace_callback(None)

    keys = put(collection, source, upsert("a", "apple"), upsert("b", "bread"))
    first = found()
    assert (len(first), found(), len(scans)) == (1, first, 1)
    one = upsert("c", "late")
    collection.apply(ChangeSet(source.id, upserts=(one,)))
    assert (found(), found(), len(scans)) == (first, first, 2)
    embed(collection, one)
    assert (found(), found(), len(scans)) == (first, first, 3)
    collection.remove_document(keys["a"])
    assert (found(), len(scans)) == ([], 4)


def test_removed_chunks_are_dropped_and_waiting_ones_are_not(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of removed versions go when they are many; a transaction from before, and a staged version, miss nothing."""
    monkeypatch.setattr(visibility, "_SLACK", 0)
    known = Visibility()
    keys = put(collection, source, *(upsert(f"{n}", f"line {n}\n") for n in range(10)))
    with collection._store.write() as connection:
        connection.execute("UPDATE document_version SET state = 'staged' WHERE document_id = ?", (keys["0"],))
        store_vectors.tick(connection)
    with ExitStack() as stack:
        before, head_before = stack.enter_context(reading(collection))
        check(known, before, head_before, *FILTERS)
        assert len(known._columns.chunks) == 10
        brief = put(collection, source, *(upsert(f"brief/{n}", f"brief {n}\n") for n in range(20)))
        with reading(collection) as (connection, head):
            check(known, connection, head, *FILTERS)
        for key in (*brief.values(), *(keys[f"{n}"] for n in range(1, 10))):
            collection.remove_document(key)
        put(collection, source, upsert("new", "new\n"))
        with reading(collection) as (connection, head):
            check(known, connection, head, *FILTERS)
        assert len(known._columns.chunks) == 2  # the new one, and the one that waits
        known._bitmaps.clear()
        check(known, before, head_before, *FILTERS)
    with collection._store.write() as connection:
        connection.execute("UPDATE document_version SET state = 'live' WHERE document_id = ?", (keys["0"],))
        store_vectors.tick(connection)
    with reading(collection) as (connection, head):
        check(known, connection, head, *FILTERS)
        assert known.allowed(connection, head, None).sum() == 2


def test_another_generation_has_columns_of_its_own(collection: Collection, source: Source) -> None:
    """Once another generation is in service, its chunks are what filters speak of, and no join is needed for it."""
    put(collection, source, upsert("a", "apple\nbread\n"))
    known = Visibility()
    with reading(collection) as (connection, head):
        check(known, connection, head, *FILTERS)
    with collection._store.write() as connection:
        store_vectors.insert_generation(connection, OTHER_SPEC)
        store_vectors.tick(connection)
    with reading(collection) as (connection, head):
        check(known, connection, head, *FILTERS)
        assert known._columns.serves(head)
        assert not known.allowed(connection, head, None).any()


def test_equal_values_of_other_types_are_other_filters(collection: Collection, source: Source) -> None:
    """What is remembered for `1` is not the answer for `true`, though Python calls them equal."""
    put(collection, source, upsert("a", "apple", metadata={"n": 1}), upsert("b", "bread", metadata={"n": True}))
    for value, path in ((1, "a"), (True, "b"), (1.0, "a")):
        hits = collection.search("x", vector_of(b"somewhere"), 5, "dense", Comparison("n", "eq", value)).hits
        assert [hit.path for hit in hits] == [path]


def test_memory_is_bounded(collection: Collection, source: Source) -> None:
    """After any number of filters a chunk costs no more than is promised, and rows of removed chunks are dropped."""
    texts = "".join(f"line {n}\n" for n in range(2_000))
    put(collection, source, *(upsert(f"{n}", texts.replace("line", f"d{n}")) for n in range(10)))
    known = Visibility()
    with reading(collection) as (connection, head):
        for n in range(40):
            known.allowed(connection, head, condition(Comparison("path", "eq", f"{n}")))
    columns = known._columns
    held = sum(column.nbytes for column in (columns.chunks, columns.versions, columns.vectors))
    bitmaps = sum(bitmap.nbytes for bitmap in known._bitmaps.values())
    assert len(known._bitmaps) == visibility.KEPT_BITMAPS
    assert held + bitmaps <= visibility.BYTES_A_CHUNK * 20_000 + 8 * visibility.KEPT_BITMAPS
    for round_ in range(8):
        version = round_ + 1
        keys = {one.path: one.id for one in collection.documents(None, 20, None)[0]}
        put(collection, source, *(upsert(f"{n}", texts, (keys[f"{n}"], version)) for n in range(3)))
        with reading(collection) as (connection, head):
            check(known, connection, head, None)
    assert len(known._columns.chunks) <= 2 * 20_000 + visibility._SLACK + 6_000


def test_ids_beyond_four_bytes_are_kept_whole(collection: Collection, source: Source) -> None:
    """Ids above 2**32, which a store may reach by rewriting, are neither cut off nor mixed up."""
    put(collection, source, upsert("a", "apple"))
    known = Visibility()
    with reading(collection) as (connection, head):
        check(known, connection, head, *FILTERS)
    with collection._store.write() as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 5000000000 WHERE name = 'chunk'")
    for text in ("bread", "cloud"):
        collection.apply(ChangeSet(source.id, upserts=(upsert(text, text),)))
        with reading(collection) as (connection, head):
            check(known, connection, head, *FILTERS)
            check(Visibility(), connection, head, *FILTERS)
        embed(collection, upsert(text, text))
        with reading(collection) as (connection, head):
            check(known, connection, head, *FILTERS)
    assert known._columns.chunks.tolist() == [1, 5_000_000_001, 5_000_000_002]


def test_many_threads_find_the_same(collection: Collection, source: Source) -> None:
    """Searches from many threads beside a writer: each answer equals the join in its own transaction."""
    known, stop, failures = Visibility(), threading.Event(), list[BaseException]()

    def search() -> None:
        try:
            while not stop.is_set():
                with reading(collection) as (connection, head):
                    check(known, connection, head, *FILTERS[:3])
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        keys: dict[str, str] = {}
        for n in range(40):
            keys |= put(collection, source, upsert(f"d/{n}", f"apple {n}\nbread {n}\n"))
            if n % 3 == 2:
                collection.remove_document(keys.pop(f"d/{n - 2}"))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_removed_neighbours_are_left_out_at_the_second_look(collection: Collection, source: Source) -> None:
    """Where thousands of removed vectors lie nearest, the search asks for no more than twice."""
    near, far = vector_of(b"here"), -vector_of(b"here")
    keys = [bytes([n % 256, n // 256]) * 16 for n in range(3_000)]
    noise = np.random.default_rng(1).normal(size=(3_000, 8)) * 0.05
    rows = (near + noise) / np.linalg.norm(near + noise, axis=1, keepdims=True)
    collection.add_vectors(EMBEDDING, keys, rows.astype(np.float32))
    living = upsert("a", "one\ntwo\nthree\n")
    collection.add_vectors(EMBEDDING, [chunk.embedded_hash for chunk in living.chunks], np.stack([far] * 3))
    collection.apply(ChangeSet(source.id, upserts=(living,)))
    collection.search("x", near, 3, "dense")
    asked: list[int] = []
    nearest = Snapshot.nearest
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Snapshot, "nearest", lambda *given: asked.append(given[2]) or nearest(*given))
        assert len(collection.search("x", near, 3, "dense").hits) == 3
    assert len(asked) == 2


def test_the_number_of_rows_is_that_of_the_table(collection: Collection, source: Source) -> None:
    """What FTS5 keeps for its averages is the number of chunks in the table, above and below one byte's 127."""
    expected = 0
    for n, lines in enumerate([0, 1, 126, 1, 1, 200, 17_000]):
        put(collection, source, upsert(f"{n}", "".join(f"line {n} {line}\n" for line in range(lines))))
        expected += lines
        with reading(collection) as (connection, head):
            assert store_words.rows(connection, head.chunk_spec_id) == expected
            counted = f"SELECT count(*) FROM words_{head.chunk_spec_id}_docsize"
            assert connection.execute(counted).fetchone() == (expected,)
    key = next(one.id for one in collection.documents(None, 10, None)[0] if one.path == "6")
    collection.remove_document(key)
    assert collection.status().chunks == expected - 17_000


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16_383, 16_384, 2**31, 2**56 - 1, 2**56, 2**63, 2**64 - 1])
def test_varints_are_read_as_sqlite_writes_them(value: int) -> None:
    """Seven bits a byte with the high ones first, and a ninth byte of eight."""
    if value < 2**56:
        groups = [value >> shift & 0x7F for shift in range(49, -1, -7)]
        first = next((n for n, group in enumerate(groups) if group), 7)
        data = bytes([group | 0x80 for group in groups[first:-1]] + groups[-1:])
    else:
        data = bytes([value >> shift & 0x7F | 0x80 for shift in range(57, 7, -7)]) + bytes([value & 0xFF])
    assert store_words._varint(data + b"rest") == value


def test_chunks_that_came_and_went_between_two_looks_are_seen_by_who_sees_them(
    collection: Collection, source: Source
) -> None:
    """A transaction between two changes finds its version, though the columns were read before it and after it only."""
    known = Visibility()
    (key,) = put(collection, source, upsert("a", "apple")).values()
    with collection._store.read() as connection:
        check(known, connection, store_vectors.head(connection), *FILTERS)
    put(collection, source, upsert("a", "bread", (key, 1)))
    with collection._store.read() as between:
        head = store_vectors.head(between)
        put(collection, source, upsert("a", "cloud", (key, 2)))
        with collection._store.read() as connection:
            check(known, connection, store_vectors.head(connection), *FILTERS)
        check(known, between, head, *FILTERS)
