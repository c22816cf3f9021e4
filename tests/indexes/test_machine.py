"""A collection against a plain dictionary: whatever is done in whatever order, both hold and find the same."""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from indexes import store_backup
from indexes.collection import Collection
from indexes.errors import NotFound
from indexes.segment_files import kinds
from indexes.types import ChangeSet, ChunkSpec, Comparison, DocumentRename, EmbeddingSpec, Filter, IndexSpec, Junction
from tests.indexes.corpus import SPEC, STAT, WORDS, stored, upsert, vector_of
from tests.indexes.specs import chunks_under, cut_all, go_to, vectors_under
from tests.indexes.victims import SPECS, Operation, Victims

NAMES = st.sampled_from(["a", "b", "c", "d/x", "d/y", "d/ü"])
LINE = st.lists(st.sampled_from([*WORDS, "\0", "🙂", "中文"]), min_size=1, max_size=3).map(" ".join)
TEXT = st.lists(LINE, min_size=1, max_size=3).map("\n".join)
ROOTS = ("/d", "/e")
SOURCES = st.sampled_from(ROOTS)
UNDER = st.sampled_from([None, "d/"])
DELTA_ROWS = 4
Key = tuple[str, str]
"""Root of the source, and path."""
Held = tuple[str, int, str]
"""Document id, version, text."""
Cut = tuple[ChunkSpec, EmbeddingSpec]


class CollectionMachine(RuleBasedStateMachine):
    """`documents` is the oracle; `known` holds the embedded hashes with a vector, `cuts` how a document is cut (by id).

    `spec` is in service.
    """

    kind = "auto"
    victims: Victims

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
        self.folder = self.root / "c"
        self.documents: dict[Key, Held] = {}
        self.known: dict[EmbeddingSpec, set[bytes]] = {spec.embedding: set() for spec in SPECS}
        self.cuts: dict[str, set[Cut]] = {}
        self.spec = SPEC
        self.folders = 0
        self.by_hand: set[Key] = set()
        # So that segments merge all the time.
        self.tiers = mock.patch.multiple("indexes.tiers", MAX_SEGMENTS=3, TIER_FACTOR=2)
        self.tiers.start()

    @initialize()
    def create(self) -> None:
        Collection.create(self.folder, "abc123", SPEC, kind=self.kind).close()
        self.reader = Collection.open(self.folder, kind=self.kind)
        self.writer = Collection.open(self.folder, delta_rows=DELTA_ROWS, kind=self.kind)
        self.sources = {root: self.writer.add_source(root, "folder") for root in ROOTS}

    # Documents

    @rule(root=SOURCES, path=NAMES, text=TEXT, embedded=st.booleans())
    def put(self, root: str, path: str, text: str, embedded: bool) -> None:
        old = self.documents.get((root, path))
        one = upsert(path, text, old and old[:2], chunks=chunks_under(self.spec, text))
        if embedded:
            self.embed(text)
        report = self.writer.apply(ChangeSet(self.sources[root].id, upserts=(one,)))
        assert report.conflicts == ()
        assert old is None or old[0] == report.documents[path]
        self.hold((root, path), report.documents[path], text)

    def hold(self, key: Key, identity: str, text: str) -> None:
        self.documents[key] = (identity, self.documents[key][1] + 1 if key in self.documents else 1, text)
        self.by_hand.discard(key)
        self.cuts[identity] = {(self.spec.chunks, self.spec.embedding)}

    def embed(self, text: str) -> None:
        keys = sorted(self.hashes(text, self.spec))
        self.writer.add_vectors(self.spec.embedding, keys, vectors_under(self.spec, keys))
        self.known[self.spec.embedding] |= set(keys)

    def hashes(self, text: str, spec: IndexSpec) -> set[bytes]:
        return {chunk.embedded_hash for chunk in chunks_under(spec, text)}

    @rule(root=SOURCES, path=NAMES, off=st.integers(1, 2))
    def conflict(self, root: str, path: str, off: int) -> None:
        old = self.documents.get((root, path))
        one = upsert(path, "never seen", (old[0], old[1] + off) if old else ("doc_gone", off))
        assert self.writer.apply(ChangeSet(self.sources[root].id, upserts=(one,))).conflicts == (path,)

    @precondition(lambda self: self.by_hand)
    @rule(data=st.data(), ago=st.integers(1, 3))
    def come_too_late(self, data: st.DataObject, ago: int) -> None:
        """What was planned before its path was removed by hand is not applied."""
        root, path = data.draw(st.sampled_from(sorted(self.by_hand)))
        source_id = self.sources[root].id
        with self.writer._store.read() as connection:
            removed = connection.execute(
                "SELECT changes FROM removed_by_hand WHERE source_id = ? AND path = ?", (source_id, path)
            ).fetchone()[0]
        late = ChangeSet(source_id, upserts=(upsert(path, "never seen"),), as_of=removed - ago)
        assert self.writer.apply(late).removed_by_hand == (path,)

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        root = data.draw(st.sampled_from(sorted({root for root, _ in self.documents})))
        here = {path: held for (of, path), held in self.documents.items() if of == root}
        olds = data.draw(st.lists(st.sampled_from(sorted(here)), min_size=1, max_size=3, unique=True))
        news = data.draw(st.lists(NAMES, min_size=len(olds), max_size=len(olds), unique=True))
        if (here.keys() - set(olds)) & set(news):
            return
        changes = tuple(DocumentRename(here[old][0], new, STAT) for old, new in zip(olds, news, strict=True))
        assert self.writer.apply(ChangeSet(self.sources[root].id, renames=changes)).conflicts == ()
        for old in olds:
            del self.documents[root, old]
        self.documents |= {(root, new): here[old] for old, new in zip(olds, news, strict=True)}
        self.by_hand -= {(root, new) for new in news}

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), by_hand=st.booleans())
    def remove(self, data: st.DataObject, by_hand: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.documents)))
        identity = self.documents.pop(key)[0]
        if by_hand:
            self.writer.remove_document(identity)
            self.by_hand.add(key)
        else:
            self.writer.apply(ChangeSet(self.sources[key[0]].id, removals=(identity,)))

    @rule(root=SOURCES)
    def drop_source(self, root: str) -> None:
        self.writer.remove_source(self.sources[root].id)
        self.sources[root] = self.writer.add_source(root, "folder")
        self.documents = {key: held for key, held in self.documents.items() if key[0] != root}
        self.by_hand = {key for key in self.by_hand if key[0] != root}

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def stage(self, data: st.DataObject) -> None:
        """A version that waits for its vectors is nowhere to be seen."""
        identity, version, _ = self.documents[data.draw(st.sampled_from(sorted(self.documents)))]
        with self.writer._store.write() as connection:
            known = {row[1] for row in connection.execute("PRAGMA table_info(document_version)")} - {"id"}
            names = ", ".join(sorted(known - {"number", "state"}))
            staged = connection.execute(
                f"""INSERT OR IGNORE INTO document_version (number, state, {names})
                    SELECT number + 1, 'staged', {names} FROM document_version WHERE document_id = ? AND number = ?""",
                (identity, version),
            )
            if staged.rowcount:
                values = (staged.lastrowid, "apple frost staged\n")
                connection.execute("INSERT INTO version_text (version_id, text) VALUES (?, ?)", values)

    @rule()
    def embed_missing(self) -> None:
        for _, _, text in self.documents.values():
            self.embed(text)

    # Generations

    @rule(spec=st.sampled_from(SPECS), embedded=st.booleans())
    def publish(self, spec: IndexSpec, embedded: bool) -> None:
        self.cut(spec, embedded)
        go_to(self.writer, spec, embed=embedded)
        self.serve(spec)

    @rule(embedded=st.booleans())
    def roll_back(self, embedded: bool) -> None:
        """To the generation before this one, with the documents as they are now."""
        numbers = [one.number for one in self.writer.generations.listed()]
        if self.writer.generation == min(numbers):
            with pytest.raises(NotFound):
                self.writer.generations.rollback()
            return
        wanted = self.writer.generations.before()
        self.cut(wanted.spec, embedded)
        cut_all(self.writer, wanted.spec, embed=embedded)
        assert self.writer.generations.rollback() == wanted.number
        self.spec = wanted.spec

    def cut(self, spec: IndexSpec, embedded: bool) -> None:
        for identity, _, text in self.documents.values():
            if (spec.chunks, spec.embedding) not in self.cuts[identity]:
                self.cuts[identity].add((spec.chunks, spec.embedding))
                self.known[spec.embedding] |= self.hashes(text, spec) if embedded else set()

    def serve(self, spec: IndexSpec) -> None:
        """Note what is in service; what no kept generation needs is taken apart."""
        self.spec = spec
        kept = [one.spec for one in self.writer.generations.listed()]
        chunks, embeddings = {one.chunks for one in kept}, {one.embedding for one in kept}
        for identity in self.cuts:
            self.cuts[identity] = {one for one in self.cuts[identity] if one[0] in chunks and one[1] in embeddings}

    @rule(number=st.integers(0, len(SPECS) - 1), die_at=st.integers(1, 12))
    def killed_while_publishing(self, number: int, die_at: int) -> None:
        """The old spec is in service, or the new one, whole; the same command again completes it."""
        spec, old = SPECS[number], self.spec
        killed = self.killed(["publish", number], die_at)
        assert self.reader.spec == spec or (killed and self.reader.spec == old)
        go_to(self.writer, spec)
        for _, _, text in self.documents.values():  # the child may have embedded all of them, or only some
            self.spec = spec
            self.embed(text)
        self.cut(spec, embedded=True)
        self.serve(spec)

    # What nothing uses any more

    @rule()
    def collect_garbage(self) -> None:
        for _ in range(2):
            self.writer.garbage.collect(0)
            time.sleep(0.002)  # what is put down in this very millisecond is not old enough
        self.forget()

    @rule(die_at=st.integers(1, 8))
    def killed_while_collecting(self, die_at: int) -> None:
        self.killed(["garbage"], die_at)
        self.collect_garbage()

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.documents)))
        identity, _, text = self.documents.pop(key)
        self.writer.purges.begin(identity)
        self.writer.purges.end(self.writer.purges.erase(identity))
        self.by_hand.discard(key)
        self.forget()
        line = max(text.split("\n"), key=len).encode()
        if len(line) > 20 and not any(line.decode() in text for _, _, text in self.documents.values()):
            assert not any(line in path.read_bytes() for path in self.folder.rglob("*") if path.is_file())

    def forget(self) -> None:
        """Only the vectors that a chunk of a document uses are left."""
        used: dict[EmbeddingSpec, set[bytes]] = {spec.embedding: set() for spec in SPECS}
        for identity, _, text in self.documents.values():
            for chunks, embedding in self.cuts[identity]:
                used[embedding] |= self.hashes(text, IndexSpec(embedding, chunks))
        self.known = {embedding: keys & used[embedding] for embedding, keys in self.known.items()}

    @rule()
    def back_up_and_restore(self) -> None:
        """Everything goes on from a backup, in another folder, without a derived file."""
        backup, old = self.root / "backup", self.folder
        assert self.writer.backup(backup, overwrite=True) == store_backup.inspect(backup)
        self.writer.close()
        self.reader.close()
        self.folders += 1
        self.folder = self.root / f"c{self.folders}"
        self.folder.mkdir()
        store_backup.install(backup, self.folder, "abc123")
        shutil.rmtree(old)
        self.reader = Collection.open(self.folder, kind=self.kind)
        self.writer = Collection.open(self.folder, delta_rows=DELTA_ROWS, kind=self.kind)

    # Segments

    @rule(due=st.booleans())
    def fold(self, due: bool) -> None:
        if due:
            self.writer.fold_if_due()
        else:
            self.writer.fold()

    @rule()
    def compact(self) -> None:
        self.writer._segments.compact()

    @rule(of=st.booleans())
    def settle(self, of: bool) -> None:
        assert (self.writer if of else self.reader).settle()

    @rule()
    def reopen(self) -> None:
        self.writer.close()
        self.writer = Collection.open(self.folder, delta_rows=DELTA_ROWS, kind=self.kind)

    @rule(
        which=st.lists(st.integers(0, 7), min_size=1, max_size=4),
        how=st.sampled_from(["remove", "junk", "cut", "flip"]),
        at=st.integers(0, 1 << 16),
        serving=st.booleans(),
    )
    def damage(self, which: list[int], how: str, at: int, serving: bool) -> None:
        """Lose files, or put others in their place; the processes that have them open go on, or begin anew."""
        files = sorted(self.derived())
        for path in {files[number % len(files)] for number in which} if files else ():
            content = bytearray(path.read_bytes())
            path.unlink()
            if how == "junk":
                content = bytearray(b"lost")
            elif how == "cut":
                del content[len(content) // 2 :]
            elif content:
                content[at % len(content)] ^= 1 << at % 8
            if how != "remove":
                path.write_bytes(content)
        if not serving:
            self.reopen()

    def derived(self) -> Iterator[Path]:
        for name in ("segments", "vectors"):
            yield from (self.folder / name).iterdir()

    # Killed processes: what they did is there as a whole or not at all

    @rule(root=SOURCES, path=NAMES, text=TEXT, die_at=st.integers(1, 12))
    def killed_while_putting(self, root: str, path: str, text: str, die_at: int) -> None:
        key, old = (root, path), self.documents.get((root, path))
        operation = ["put", self.sources[root].id, path, text, old and list(old[:2])]
        killed = self.killed(operation, die_at)
        entry = self.reader.manifest(self.sources[root].id).entries.get(path)
        after = entry is not None and entry.version == (old[1] + 1 if old else 1)
        assert after or killed
        keys, known = self.hashes(text, self.spec), self.known[self.spec.embedding]
        found = self.reader.known_vectors(self.spec.embedding, sorted(keys))
        assert found == keys or (not after and found == keys & known)
        known |= found
        if after:
            self.hold(key, entry.document_id, text)

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), die_at=st.integers(1, 3))
    def killed_while_removing(self, data: st.DataObject, die_at: int) -> None:
        root, path = data.draw(st.sampled_from(sorted(self.documents)))
        killed = self.killed(["remove", self.documents[root, path][0]], die_at)
        if path not in self.reader.manifest(self.sources[root].id).entries:
            del self.documents[root, path]
            self.by_hand.add((root, path))
        else:
            assert killed

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), new=NAMES, die_at=st.integers(1, 3))
    def killed_while_renaming(self, data: st.DataObject, new: str, die_at: int) -> None:
        root, old = data.draw(st.sampled_from(sorted(self.documents)))
        if (root, new) in self.documents:
            return
        killed = self.killed(["rename", self.sources[root].id, self.documents[root, old][0], new], die_at)
        if new in self.reader.manifest(self.sources[root].id).entries:
            self.documents[root, new] = self.documents.pop((root, old))
            self.by_hand.discard((root, new))
        else:
            assert killed

    @rule(what=st.sampled_from(["fold", "compact", "mend"]), die_at=st.integers(1, 15))
    def killed_while_building(self, what: str, die_at: int) -> None:
        self.killed([what], die_at)

    def killed(self, operation: Operation, die_at: int) -> bool:
        return self.victims.killed(self.folder, DELTA_ROWS, die_at, self.kind, operation)

    # What is found

    @rule(word=st.sampled_from([*WORDS, "中文"]), under=UNDER, root=st.sampled_from([None, *ROOTS]))
    def search_words(self, word: str, under: str | None, root: str | None) -> None:
        expected = {piece for _, piece, _ in self.pieces(under, root) if word in piece.split()}
        for collection in (self.writer, self.reader):
            hits = collection.search(word, None, 50, "lexical", self.where(under, root)).hits
            assert {hit.text for hit in hits} == expected
            assert len(hits) == len(expected)
            self.check_places(hits, under, root)

    @rule(seed=st.integers(0, 5), k=st.integers(1, 12), under=UNDER, root=st.sampled_from([None, *ROOTS]))
    def search_vectors(self, seed: int, k: int, under: str | None, root: str | None) -> None:
        query = vector_of(bytes([seed]) * 8)
        scores = {
            piece: float(stored(vector_of(key)) @ query)
            for _, piece, key in self.pieces(under, root)
            if key in self.known[self.spec.embedding]
        }
        best = sorted(scores.values(), reverse=True)[:k]
        within = 1e-3 if self.kind == "float16" else 1e-5
        for collection in (self.writer, self.reader):
            hits = collection.search("", query, k, "dense", self.where(under, root)).hits
            assert [hit.score for hit in hits] == pytest.approx(best, abs=within)
            assert [scores[hit.text] for hit in hits] == pytest.approx(best, abs=within)
            self.check_places(hits, under, root)

    def pieces(self, under: str | None = None, root: str | None = None) -> list[tuple[str, str, bytes]]:
        return [
            (path, text[chunk.start : chunk.end], chunk.embedded_hash)
            for (of, path), (_, _, text) in self.documents.items()
            if path.startswith(under or "") and root in (None, of)
            for chunk in chunks_under(self.spec, text)
        ]

    def where(self, under: str | None, root: str | None) -> Filter | None:
        terms = [Comparison("path", "prefix", under)] if under else []
        terms += [Comparison("source", "eq", root)] if root else []
        return Junction("and", tuple(terms)) if terms else None

    def check_places(self, hits, under: str | None, root: str | None) -> None:
        """A hit and its other places are all the places of its text, each once."""
        for hit in hits:
            found = [(hit.document_id, hit.path, hit.start)]
            found += [(place.document_id, place.path, place.start) for place in hit.also]
            places = [
                (identity, path, chunk.start)
                for (of, path), (identity, _, text) in self.documents.items()
                if path.startswith(under or "") and root in (None, of)
                for chunk in chunks_under(self.spec, text)
                if text[chunk.start : chunk.end] == hit.text
            ]
            assert sorted(found) == sorted(places)

    @invariant()
    def holds_the_same(self) -> None:
        if not hasattr(self, "sources"):
            return
        for root, source in self.sources.items():
            entries = self.reader.manifest(source.id).entries
            assert {path: (entry.document_id, entry.version) for path, entry in entries.items()} == {
                path: held[:2] for (of, path), held in self.documents.items() if of == root
            }
            removed = {path for of, path in self.by_hand if of == root}
            assert self.reader.removed_by_hand(source.id) == removed
        for identity, version, text in self.documents.values():
            assert self.reader.text(identity, version=version).text == text
        assert self.reader.spec == self.spec
        status, pieces = self.reader.status(), self.pieces()
        assert (status.documents, status.chunks, status.vectors) == (
            len(self.documents),
            len(pieces),
            len(self.known[self.spec.embedding]),
        )
        assert status.missing_vectors == sum(key not in self.known[self.spec.embedding] for _, _, key in pieces)

    def teardown(self) -> None:
        self.tiers.stop()
        if hasattr(self, "sources"):
            self.writer.close()
            self.reader.close()
            raw = sqlite3.connect(self.folder / "store.db")
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
            raw.close()
        shutil.rmtree(self.root)


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    victims = Victims()
    yield victims
    victims.close()


def run(kind: str, victims: Victims, examples: int, steps: int) -> None:
    machine = type("Machine", (CollectionMachine,), {"kind": kind, "victims": victims})
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["auto", *sorted(kinds())])
def test_a_collection_is_what_a_dictionary_is(kind: str, victims: Victims) -> None:
    """Whatever is done, by processes that live and that are killed, documents, words and vectors are the oracle's."""
    run(kind, victims, examples=20 if kind == "auto" else 6, steps=30)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["auto", *sorted(kinds())])
def test_a_collection_is_what_a_dictionary_is_for_long(kind: str, victims: Victims) -> None:
    """The same in 100,000 steps over all kinds."""
    run(kind, victims, examples=-(-1700 // (1 + len(kinds()))), steps=60)
