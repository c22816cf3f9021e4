"""Keys of new rows: few pages a change, moved over by folds, found in both parts of their index, never twice."""

import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from indexes import failpoints, store_filing
from indexes.collection import Collection
from indexes.types import ChangeSet, Source
from tests.indexes.corpus import EMBEDDING, embedded_hash, put, query_vector, upsert, vectors_of


def unfiled(collection: Collection) -> dict[str, int]:
    with collection._store.read() as connection:
        return {table: store_filing.unfiled(connection, table) for table, _ in store_filing.KEYS}


def lines(name: str, count: int) -> str:
    return "".join(f"{name} line {n}\n" for n in range(count))


def told(collection: Collection) -> tuple[object, ...]:
    """What is found by a hash: other places of a passage, known vectors, what is missing, what a document shares."""
    hits = collection.search("apple", query_vector("same\n"), 50, "hybrid").hits
    keys = [embedded_hash("", text) for text in ("same\n", "a line 1\n", "b line 1\n", "nowhere\n")]
    return (
        [(hit.path, hit.text, hit.score, hit.also) for hit in hits],
        collection.known_vectors(EMBEDDING, keys),
        {key: value.tolist() for key, value in collection.vectors(EMBEDDING, keys).items()},
        collection.status().missing_vectors,
        collection.unembedded(collection.spec),
    )


def test_an_addition_writes_the_same_few_pages_however_many_rows_there_are(collection, source, folder: Path) -> None:
    """In proportion to what is added: new keys share pages, those of 20,000 others are not touched for them."""
    for number in range(4):
        put(collection, source, upsert(f"many-{number}", lines(f"many {number}", 5_000)))
    collection.fold()
    with sqlite3.connect(folder / "store.db") as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    put(collection, source, upsert("new", lines("new", 100)))
    assert 16_384 < (folder / "store.db-wal").stat().st_size < 45 * 16_384


def test_a_fold_files_every_key_and_nothing_else_changes(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether keys are new, filed, or partly filed, in steps that equal hashes overfill, the same is found by them."""
    monkeypatch.setattr(store_filing, "KEYS_A_STEP", 3)
    put(collection, source, upsert("a", lines("a", 5) + "same\n"), upsert("b", "same\n" * 8 + "apple\n"))
    collection.apply(ChangeSet(source.id, upserts=(upsert("c", "apple without vector\n"),)))
    before = told(collection)
    assert before[1] == {embedded_hash("", "same\n"), embedded_hash("", "a line 1\n")}
    assert unfiled(collection) == {"vector_key": 7, "chunk_embedding": 16, "chunk": 16}
    with collection._store.write() as connection:
        assert store_filing.file_step(connection, "chunk", "text_hash")
    assert told(collection) == before
    assert collection.fold()
    assert unfiled(collection) == {"vector_key": 0, "chunk_embedding": 0, "chunk": 0}
    assert told(collection) == before
    put(collection, source, upsert("d", "same\napple\nb line 1\n"))
    assert unfiled(collection) == {"vector_key": 1, "chunk_embedding": 3, "chunk": 3}
    with Collection.open(collection.folder) as again:
        assert told(again) == told(collection)
        also = next(hit.also for hit in again.search("x", query_vector("same\n"), 1, "dense").hits)
        assert sorted(place.path for place in also) == ["b"] * 8 + ["d"]


def test_what_a_killed_filing_left_is_filed_by_the_next_fold(collection: Collection, source: Source) -> None:
    """A fold that ends between any two of its steps leaves a store that answers the same."""
    for stop in range(1, 4):
        put(collection, source, upsert(f"doc-{stop}", lines(f"{stop}", 5)))
        before = told(collection)
        reached: list[str] = []

        def hook(name: str, reached: list[str] = reached, stop: int = stop) -> None:
            reached.extend([name] if name == "segment.file-keys" else [])
            if len(reached) == stop:
                raise KeyboardInterrupt

        failpoints.install(hook)
        try:
            with pytest.raises(KeyboardInterrupt):
                collection.fold()
        finally:
            failpoints.install(None)
        assert sum(unfiled(collection).values()) > 0
        assert told(collection) == before
    put(collection, source, upsert("last", "one\n"))
    assert collection.fold()
    assert sum(unfiled(collection).values()) == 0


def test_a_text_has_one_vector_and_a_vector_one_key(collection: Collection, source: Source, folder: Path) -> None:
    """One that is stored, filed or not, or comes twice at once, is left as it is; a key goes with its vector."""
    keys = [bytes([n]) * 32 for n in range(4)]
    collection.add_vectors(EMBEDDING, keys[:2], vectors_of(keys[:2]))
    collection.fold()
    collection.add_vectors(EMBEDDING, keys[2:3], vectors_of(keys[2:3]))
    first = collection.vectors(EMBEDDING, keys)
    again = [*keys, keys[3]]
    collection.add_vectors(EMBEDDING, again, vectors_of([key[::-1][:31] + b"x" for key in again]) * np.float32(-1))
    assert {key: collection.vectors(EMBEDDING, keys)[key].tolist() for key in first} == {
        key: vector.tolist() for key, vector in first.items()
    }
    assert unfiled(collection)["vector_key"] == 2
    with sqlite3.connect(folder / "store.db") as raw:
        assert raw.execute("SELECT count(*), count(DISTINCT vector_id) FROM vector_key").fetchone() == (4, 4)
    raw.close()
    collection.garbage.collect(0)
    with sqlite3.connect(folder / "store.db") as raw:
        assert raw.execute("SELECT (SELECT count(*) FROM vector), (SELECT count(*) FROM vector_key)").fetchone() == (
            0,
            0,
        )
    raw.close()
    assert collection.known_vectors(EMBEDDING, keys) == frozenset()


def test_a_long_filing_gives_other_writers_their_turn(
    collection: Collection, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Very many keys may be new, as after a publication: between two steps on a table the lock is free for a while."""
    monkeypatch.setattr(store_filing, "KEYS_A_STEP", 2)
    put(collection, source, upsert("a", lines("a", 12)))
    pauses: list[float] = []
    committed = 0.0

    def hook(name: str) -> None:
        nonlocal committed
        if name == "store.committed":
            committed = time.monotonic()
        if name == "segment.file-keys":
            pauses.append(time.monotonic() - committed)

    failpoints.install(hook)
    try:
        assert collection.fold()
    finally:
        failpoints.install(None)
    assert len(pauses) > 3 * len(store_filing.KEYS)
    assert sum(pause < 0.005 for pause in pauses) <= len(store_filing.KEYS)
