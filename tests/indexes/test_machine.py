"""A collection against a plain dictionary: whatever is done in whatever order, both hold and find the same."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from indexes.collection import Collection
from indexes.types import ChangeSet, Comparison, DocumentRename
from tests.indexes.corpus import SPEC, STAT, WORDS, chunks_of, embed, query_vector, stored, upsert, vector_of

NAMES = st.sampled_from(["a", "b", "c", "d/x", "d/y", "d/ü"])
LINE = st.lists(st.sampled_from([*WORDS, "\0", "🙂", "中文"]), min_size=1, max_size=3).map(" ".join)
TEXT = st.lists(LINE, min_size=1, max_size=3).map("\n".join)


class CollectionMachine(RuleBasedStateMachine):
    """`documents` is the oracle: path -> (id, version, text); `known` holds the embedded hashes with a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.documents: dict[str, tuple[str, int, str]] = {}
        self.known: set[bytes] = set()
        self.by_hand: set[str] = set()

    @initialize()
    def create(self) -> None:
        Collection.create(self.root / "c", "abc123", SPEC).close()
        self.writer = Collection.open(self.root / "c", delta_rows=4)
        self.reader = Collection.open(self.root / "c")
        self.source = self.writer.add_source("/d", "folder")

    @rule(path=NAMES, text=TEXT, embedded=st.booleans())
    def put(self, path: str, text: str, embedded: bool) -> None:
        old = self.documents.get(path)
        one = upsert(path, text, old and old[:2])
        if embedded:
            embed(self.writer, one)
            self.known |= {chunk.embedded_hash for chunk in one.chunks}
        report = self.writer.apply(ChangeSet(self.source.id, upserts=(one,)))
        assert report.conflicts == ()
        identity, version = report.documents[path], old[1] + 1 if old else 1
        assert old is None or old[0] == identity
        self.documents[path] = (identity, version, text)
        self.by_hand.discard(path)

    @rule(path=NAMES, off=st.integers(1, 2))
    def conflict(self, path: str, off: int) -> None:
        old = self.documents.get(path)
        one = upsert(path, "never seen", (old[0], old[1] + off) if old else ("doc_gone", off))
        assert self.writer.apply(ChangeSet(self.source.id, upserts=(one,))).conflicts == (path,)

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        olds = data.draw(st.lists(st.sampled_from(sorted(self.documents)), min_size=1, max_size=3, unique=True))
        news = data.draw(st.lists(NAMES, min_size=len(olds), max_size=len(olds), unique=True))
        stay = self.documents.keys() - set(olds)
        if stay & set(news):
            return
        changes = tuple(DocumentRename(self.documents[old][0], new, STAT) for old, new in zip(olds, news, strict=True))
        assert self.writer.apply(ChangeSet(self.source.id, renames=changes)).conflicts == ()
        moved = {new: self.documents[old] for old, new in zip(olds, news, strict=True)}
        self.documents = {path: self.documents[path] for path in stay} | moved
        self.by_hand -= set(news)

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), by_hand=st.booleans())
    def remove(self, data: st.DataObject, by_hand: bool) -> None:
        path = data.draw(st.sampled_from(sorted(self.documents)))
        identity = self.documents.pop(path)[0]
        if by_hand:
            self.writer.remove_document(identity)
            self.by_hand.add(path)
        else:
            self.writer.apply(ChangeSet(self.source.id, removals=(identity,)))

    @rule()
    def embed_missing(self) -> None:
        for path, (_, _, text) in self.documents.items():
            embed(self.writer, upsert(path, text))
            self.known |= {chunk.embedded_hash for chunk in chunks_of(text)}

    @rule(due=st.booleans())
    def fold(self, due: bool) -> None:
        if due:
            self.writer.fold_if_due()
        else:
            self.writer.fold()

    @rule()
    def reopen(self) -> None:
        self.writer.close()
        self.writer = Collection.open(self.root / "c", delta_rows=4)

    @rule()
    def lose_segments(self) -> None:
        for path in (self.root / "c" / "segments").iterdir():
            path.write_bytes(b"lost")
        self.writer.close()
        self.writer = Collection.open(self.root / "c", delta_rows=4)

    @rule(word=st.sampled_from([*WORDS, "中文"]), under=st.sampled_from([None, "d/"]))
    def search_words(self, word: str, under: str | None) -> None:
        expected = {piece for path, piece, _ in self.pieces(under) if word in piece.split()}
        for collection in (self.writer, self.reader):
            hits = collection.search(word, None, 50, "lexical", self.where(under)).hits
            assert {hit.text for hit in hits} == expected
            assert len(hits) == len(expected)
            self.check_places(hits, under)

    @rule(seed=st.integers(0, 5), k=st.integers(1, 12), under=st.sampled_from([None, "d/"]))
    def search_vectors(self, seed: int, k: int, under: str | None) -> None:
        query = vector_of(bytes([seed]) * 8)
        scores = {
            piece: float(stored(query_vector(piece)) @ query)
            for _, piece, key in self.pieces(under)
            if key in self.known
        }
        best = sorted(scores.values(), reverse=True)[:k]
        for collection in (self.writer, self.reader):
            hits = collection.search("", query, k, "dense", self.where(under)).hits
            assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-5)
            assert [scores[hit.text] for hit in hits] == pytest.approx(best, abs=1e-5)
            self.check_places(hits, under)

    def pieces(self, under: str | None) -> list[tuple[str, str, bytes]]:
        return [
            (path, text[chunk.start : chunk.end], chunk.embedded_hash)
            for path, (_, _, text) in self.documents.items()
            if path.startswith(under or "")
            for chunk in chunks_of(text)
        ]

    def where(self, under: str | None) -> Comparison | None:
        return None if under is None else Comparison("path", "prefix", under)

    def check_places(self, hits, under: str | None) -> None:
        """A hit and its other places are all the places of its text, each once."""
        for hit in hits:
            found = [(hit.path, hit.start)] + [(place.path, place.start) for place in hit.also]
            places = [
                (path, chunk.start)
                for path, (_, _, text) in self.documents.items()
                if path.startswith(under or "")
                for chunk in chunks_of(text)
                if text[chunk.start : chunk.end] == hit.text
            ]
            assert sorted(found) == sorted(places)

    @invariant()
    def holds_the_same(self) -> None:
        if not hasattr(self, "reader"):
            return
        entries = self.reader.manifest(self.source.id).entries
        assert {path: (entry.document_id, entry.version) for path, entry in entries.items()} == {
            path: held[:2] for path, held in self.documents.items()
        }
        assert self.reader.removed_by_hand(self.source.id) == self.by_hand
        for identity, version, text in self.documents.values():
            assert self.reader.text(identity, version=version).text == text
        status, pieces = self.reader.status(), self.pieces(None)
        assert (status.documents, status.chunks, status.vectors) == (len(entries), len(pieces), len(self.known))
        assert status.missing_vectors == sum(key not in self.known for _, _, key in pieces)

    def teardown(self) -> None:
        if hasattr(self, "reader"):
            self.writer.close()
            self.reader.close()
        shutil.rmtree(self.root)


TestCollectionMachine = pytest.mark.timeout(120)(CollectionMachine.TestCase)
TestCollectionMachine.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.soak
class TestCollectionMachineForLong(CollectionMachine.TestCase):
    settings = settings(
        max_examples=2000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
    )
