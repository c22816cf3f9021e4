"""A labelled set as a collection of its own, below `<data_dir>/evaluations`, which no library lists.

One for each set and spec. The same set under the same spec is embedded once; specs that cut the set otherwise share the
vectors of the slices they have in common.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from indexes.collection import Collection
from indexes.errors import IndexesError, StoreNotFound
from indexes.types import EmbeddingSpec, FileStat, FloatVector, IndexSpec, text_hash
from ingest.errors import Rejected
from ingest.preparing import Given
from ingest.protocols import Embedded, Embedder, RequestLimits
from ingest.types import Document, Section
from ragsvc.labelled import LabelledSet, LabelledText
from ragsvc.protocols import LanguageBound
from ragsvc.settings import Settings

_QUERY_TEMPLATE = "query"
"""Queries' vectors are kept under a spec of their own: among those of passages they would be found by queries."""


class LabelledCollection(Collection):
    """A collection that takes the vectors its siblings have: they cut the same texts otherwise."""

    siblings: Sequence[Path] = ()
    locks: Path

    def known_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes]) -> frozenset[bytes]:
        """Return those of `hashes` whose vector is stored, here or in a sibling; from now on here."""
        known = super().known_vectors(spec, hashes)
        for folder in self.siblings:
            missing = [key for key in hashes if key not in known]
            if not missing:
                break
            found: dict[bytes, FloatVector] = {}
            with suppress(IndexesError), Collection.open(folder) as sibling:  # a damaged one has nothing to give
                found = sibling.vectors(spec, missing)
            if found:
                self.add_vectors(spec, list(found), np.stack(list(found.values())))
                known |= found.keys()
        return known


@contextmanager
def opened(settings: Settings, folder: Path, spec: IndexSpec, *, words_only: bool) -> Iterator[LabelledCollection]:
    """Open the collection of a set under a spec, made if it is new."""
    home = settings.data_dir / "evaluations" / _key(str(folder))
    embedding = "words" if words_only else _key(repr(spec.embedding))
    mine = home / f"{spec.chunks.tokens}-{spec.chunks.overlap}-{spec.chunks.chunker}-{embedding}"
    for part in (home.parent, home):
        part.mkdir(mode=0o700, exist_ok=True)
    try:
        collection = LabelledCollection.open(mine, delta_rows=settings.delta_rows, kind=settings.index_kind)
    except StoreNotFound:
        collection = LabelledCollection.create(
            mine, _key(mine.name)[:6], spec, delta_rows=settings.delta_rows, kind=settings.index_kind
        )
    collection.locks = mine / "locks"
    others = [path.parent for path in home.glob(f"*-{embedding}/store.db") if path.parent != mine]
    collection.siblings = [] if words_only else sorted(others)
    with collection:
        yield collection


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


class KnownQueries:
    """Embeds each query once and for all. Satisfies `ingest.protocols.Embedder` for `Retrieval`."""

    def __init__(self, collection: Collection, embedder: Embedder | None) -> None:
        """No embedder: only lexical searches are made."""
        self._collection, self._embedder = collection, embedder
        embedding = collection.spec.embedding
        self.spec, self.limits = embedding, RequestLimits() if embedder is None else embedder.limits
        self._kept_under = replace(embedding, template=_QUERY_TEMPLATE)
        self._vectors: dict[str, FloatVector] = {}

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that have no vector yet."""
        known = self._collection.known_vectors(self._kept_under, [text_hash(text) for text in texts])
        return [text for text in texts if text_hash(text) not in known]

    async def embed(self, texts: Sequence[str], concurrency: int) -> None:
        """Embed the unknown ones, `concurrency` at once, each as a question is; what arrived is kept at once."""
        assert self._embedder is not None  # noqa: S101 - without one nothing is embedded
        embedder, waiting = self._embedder, deque(self.unknown(texts))

        async def work() -> None:
            while waiting:
                text = waiting.popleft()
                try:
                    found = await embedder.embed_query(text)
                except Exception:
                    waiting.clear()  # what is in flight is paid for and kept; nothing more is sent
                    raise
                key = [text_hash(text)]
                await asyncio.to_thread(self._collection.add_vectors, self._kept_under, key, found.vectors)

        outcomes = await asyncio.gather(*(work() for _ in range(concurrency)), return_exceptions=True)
        for failure in filter(None, outcomes):
            raise failure
        kept = self._collection.vectors(self._kept_under, [text_hash(text) for text in texts])
        self._vectors = {text: kept[text_hash(text)] for text in texts}

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Nothing of a search embeds documents. Raises NotImplementedError."""
        raise NotImplementedError

    async def embed_query(self, text: str) -> Embedded:
        """Return the vector of a query that was embedded before; shape (1, dimensions)."""
        return Embedded(self._vectors[text][None, :], 0)

    def speaks(self, text: str) -> bool:
        """Whether the embedding model knows the text's script."""
        return self._embedder.speaks(text) if isinstance(self._embedder, LanguageBound) else True


def given(text: LabelledText) -> Given:
    """Return a text as a document: its text to the character, so that spans fit, its title beside it."""
    content = f"{text.title}\0{text.text}".encode()

    def read() -> Document:
        if not text.text.strip():
            raise Rejected("empty", "it has no text")
        return Document(text.text, (Section(0, len(text.text)),), "text/plain", title=text.title, reader="labelled-1")

    return Given(text.id, FileStat(len(content), 0, 0, 0), hashlib.sha256(content).digest(), read)


def forget_vanished(collection: Collection, labelled: LabelledSet) -> None:
    """Remove what the corpus no longer has, or has without a word: as a file, it would keep its last readable text."""
    for source in collection.sources():
        for path, entry in collection.manifest(source.id).entries.items():
            if path not in labelled.corpus or not labelled.corpus[path].text.strip():
                collection.remove_document(entry.document_id, by_hand=False)
