"""A tree that changes at random: after each run the collection equals what a fresh index of the same files gives."""

import asyncio
import hashlib
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.types import Chunk, ChunkSpec, EmbeddingSpec, IndexSpec, Mode
from ingest import pipeline, preparing
from ingest.protocols import Embedded, RequestLimits
from ingest.readers import registry
from ingest.types import IngestOptions, IngestReport
from tests.ingest.trees import Tree

SPEC = IndexSpec(EmbeddingSpec("counting", 16), ChunkSpec(tokens=48, overlap=8))
OPTIONS = IngestOptions(inputs=8, concurrency=2)
MODES: tuple[Mode, ...] = ("lexical", "dense", "hybrid")


class Embedder:
    """Deterministic unit vectors; remembers every text it was sent, and breaks off after some requests if told to."""

    spec = SPEC.embedding
    limits = RequestLimits()

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.left: int | None = None
        """Requests that are still answered; None is all of them."""
        self.failure: type[BaseException] = ConnectionError

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        await asyncio.sleep(0)
        if self.left is not None:
            if self.left == 0:
                raise self.failure
            self.left -= 1
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        self.sent += keys
        return Embedded(np.stack([_vector(key) for key in keys]), len(texts))

    async def embed_query(self, text: str) -> Embedded:
        raise NotImplementedError


def _vector(key: bytes) -> np.ndarray:
    vector = np.random.default_rng(int.from_bytes(key[:8], "little")).standard_normal(16).astype(np.float32)
    return vector / np.linalg.norm(vector)


class History:
    """One collection that follows a tree, and what is known of every text that was ever sent for it."""

    def __init__(self, base: Path, files: int, seed: int) -> None:
        self.base, self.rng = base, random.Random(seed)
        self.tree = Tree(base / "tree", files, seed)
        self.embedder = Embedder()
        self.collection = Collection.create(base / "store", "abc123", SPEC, delta_rows=max(20, files // 4))
        self._ever: set[bytes] = set()
        self._cuts: dict[tuple[str, bytes], tuple[str, tuple[Chunk, ...]]] = {}
        self._ids: dict[str, tuple[bytes, str, int]] = {}

    def index(self, path: Path | None = None) -> IngestReport:
        """Index the tree, or a part of it."""
        return _index(path or self.tree.root, self.collection, self.embedder, self.base / "locks")

    def index_broken_off(self) -> None:
        """Index the tree with a provider that breaks off, or until someone interrupts it; then open the store anew."""
        self.embedder.left = self.rng.randrange(3)
        self.embedder.failure = self.rng.choice((ConnectionError, asyncio.CancelledError))
        with suppress(ConnectionError, asyncio.CancelledError):
            self.index()
        self.embedder.left = None
        self.collection.close()
        self.collection = Collection.open(self.base / "store", delta_rows=20)
        lost = set(self.embedder.sent) - self.collection.known_vectors(SPEC.embedding, list(set(self.embedder.sent)))
        assert len(lost) <= OPTIONS.inputs * OPTIONS.concurrency  # at most what was in flight is paid for again
        self.embedder.sent = [key for key in self.embedder.sent if key not in lost]

    def check(self) -> None:
        """Compare documents and chunks with the files, and what was sent with what is new in them."""
        expected = {path.relative_to(self.tree.root).as_posix(): path.read_bytes() for path in self.tree.files()}
        cut = {path: self._cut(path, data) for path, data in expected.items()}
        assert _dump(self.collection) == {
            path: (text, [(c.start, c.end, c.tokens, c.heading_path, c.embedded_hash) for c in chunks])
            for path, (text, chunks) in cut.items()
        }
        self._ever |= {chunk.embedded_hash for _, chunks in cut.values() for chunk in chunks}
        assert len(self.embedder.sent) == len(set(self.embedder.sent))
        assert set(self.embedder.sent) <= self._ever
        assert self.collection.status().missing_vectors == 0
        self._check_ids(expected)

    def check_nothing_new(self) -> None:
        """Run once more: nothing is sent and nothing is written."""
        sent = len(self.embedder.sent)
        report = self.index()
        assert (report.applied, report.plan.renamed, report.plan.removed) == (0, (), ())
        assert len(self.embedder.sent) == sent

    def check_search(self, folder: Path, queries: int) -> None:
        """Compare search results of all modes with those of a collection that is made new."""
        with Collection.create(folder, "zzz999", SPEC) as fresh:
            _index(self.tree.root, fresh, Embedder(), self.base / "locks")
            assert _dump(fresh) == _dump(self.collection)
            for number in range(queries):
                query = " ".join(self.rng.choices(self.tree.words, k=3)) if number % 4 else "向量 文件"
                vector = _vector(query.encode().ljust(8))
                for mode in MODES:
                    found = [_hits(collection, query, vector, mode) for collection in (self.collection, fresh)]
                    assert found[0] == found[1], (query, mode)
                    assert found[0] or mode == "lexical"

    def _cut(self, path: str, data: bytes) -> tuple[str, tuple[Chunk, ...]]:
        key = (path.rpartition(".")[2], hashlib.sha256(data).digest())
        if key not in self._cuts:
            document = registry.read(path, data)
            self._cuts[key] = document.text, preparing.cut(document, SPEC)
        return self._cuts[key]

    def _check_ids(self, expected: dict[str, bytes]) -> None:
        """A path whose bytes did not change keeps its document and version."""
        infos, _ = self.collection.documents(None, 1_000_000, None)
        now = {info.path: (expected[info.path], info.id, info.version) for info in infos}
        for path, (data, document_id, version) in now.items():
            before = self._ids.get(path)
            if before is not None and before[0] == data:
                assert (document_id, version) == before[1:], path
        self._ids = now


def _index(path: Path, collection: Collection, embedder: Embedder, locks: Path) -> IngestReport:
    with preparing.prepare(path, collection, locks, OPTIONS) as prepared:
        return asyncio.run(pipeline.apply(prepared, collection, embedder, OPTIONS))


def _dump(collection: Collection) -> dict[str, tuple[str, list[tuple[object, ...]]]]:
    """Return path -> text and chunks, as they stand in the store."""
    with collection._store.read() as connection:
        texts = connection.execute(
            """SELECT v.id, d.path, t.text FROM document d JOIN document_version v ON v.document_id = d.id
               JOIN version_text t ON t.version_id = v.id"""
        ).fetchall()
        rows = connection.execute(
            """SELECT c.version_id, c.start, c."end", c.tokens, c.heading_path, e.embedded_hash
               FROM chunk c JOIN chunk_embedding e ON e.chunk_id = c.id ORDER BY c.version_id, c.ordinal"""
        ).fetchall()
        orphans = connection.execute(
            "SELECT count(*) FROM chunk WHERE version_id NOT IN (SELECT id FROM document_version)"
        )
        assert orphans.fetchone()[0] == 0
    chunks: dict[int, list[tuple[object, ...]]] = {version_id: [] for version_id, _, _ in texts}
    for version_id, start, end, tokens, heading_path, embedded_hash in rows:
        chunks[version_id].append((start, end, tokens, tuple(json.loads(heading_path)), embedded_hash))
    assert len({path for _, path, _ in texts}) == len(texts)
    return {path: (text, chunks[version_id]) for version_id, path, text in texts}


def _hits(collection: Collection, query: str, vector: np.ndarray, mode: Mode) -> list[tuple[object, ...]]:
    """Return the hits without ids and versions."""
    found = collection.search(query, None if mode == "lexical" else vector, 10, mode)
    return [
        (hit.path, hit.start, hit.end, hit.text, round(hit.score, 5), sorted((p.path, p.start) for p in hit.also))
        for hit in found.hits
    ]


def _follow(base: Path, files: int, changes: int, seed: int, fresh_every: int) -> None:
    history = History(base, files, seed)
    history.index()
    history.check()
    for number in range(1, changes + 1):
        done = [history.tree.change() for _ in range(history.rng.choice((1, 1, 2, 4)))]
        try:
            if number % 7 == 3:
                history.index_broken_off()
            if number % 5 == 4:
                history.index(history.rng.choice(history.tree.folders()))
            history.index()
            history.check()
            if number % 10 == 0:
                history.check_nothing_new()
            if number % fresh_every == 0 or number == changes:
                history.check_search(base / f"fresh-{number}", 8)
        except BaseException as error:
            error.add_note(f"seed {seed}, change {number}: {', '.join(done)}")
            raise
    assert history.collection.status().segments > 0
    history.collection.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_changing_tree_equals_a_fresh_index_after_each_run(tmp_path, seed):
    """60 files changed 25 times are after each run what a fresh index gives, and no text is ever paid for twice."""
    _follow(tmp_path, files=60, changes=25, seed=seed, fresh_every=12)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_large_changing_tree_equals_a_fresh_index_after_each_run(tmp_path):
    """2,000 files changed 200 times are after each run what a fresh index gives: documents, chunks and hits."""
    _follow(tmp_path, files=2000, changes=200, seed=3, fresh_every=20)
