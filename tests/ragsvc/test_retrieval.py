"""Retrieval: the query's vector and the collection's spec agree, and nothing is passed off as meaning."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from indexes.errors import InvalidVectors, StoreClosed, StoreError
from indexes.types import EmbeddingSpec, IndexSpec, SearchResult
from ingest.protocols import Embedded, RequestLimits
from ragsvc.errors import BadRequest, EmbeddingUnavailable, Overloaded, UnknownCollection
from ragsvc.protocols import Retrieved
from ragsvc.retrieval import Retrieval
from tests.ragsvc.parts import result

SMALL = EmbeddingSpec("small", 4)
LARGE = EmbeddingSpec("large", 8)
OTHER = EmbeddingSpec("other", 4)


class _Collection:
    """Holds vectors of one spec, and writes down how it was searched."""

    def __init__(self, spec: EmbeddingSpec = SMALL) -> None:
        self._spec: IndexSpec | None = IndexSpec(spec)
        self.searches: list[tuple[object, ...]] = []
        self.threads: set[int] = set()
        self.on_search: Callable[[], None] = lambda: None

    @property
    def spec(self) -> IndexSpec:
        if self._spec is None:
            raise StoreError("closed")
        return self._spec

    @spec.setter
    def spec(self, spec: IndexSpec) -> None:
        self._spec = spec

    def close(self) -> None:
        self._spec = None

    def search(self, query, vector, k, mode, where=None, dense_weight=1.0) -> SearchResult:  # type: ignore[no-untyped-def]
        self.threads.add(threading.get_ident())
        self.searches.append((query, None if vector is None else vector.shape, k, mode, where, dense_weight))
        self.on_search()
        if vector is not None and vector.shape != (self.spec.embedding.dimensions,):
            raise InvalidVectors(f"{vector.shape} in a collection of {self.spec.embedding}")
        return replace(result("x"), generation=len(self.searches))


class _Embedder:
    limits = RequestLimits()

    def __init__(self, spec: EmbeddingSpec) -> None:
        self.spec = spec

    async def embed_documents(self, texts: object) -> Embedded:
        raise AssertionError("a query is no document")

    async def embed_query(self, text: str) -> Embedded:
        return Embedded(np.ones((1, self.spec.dimensions), np.float32), 5)


class _EnglishEmbedder(_Embedder):
    def speaks(self, text: str) -> bool:
        return text.isascii()


class _Library:
    def __init__(self, collection: _Collection) -> None:
        self.collection = collection

    def open(self, name: str) -> _Collection:
        if name != "default" or self.collection is None:
            raise UnknownCollection(f"no collection {name}")
        return self.collection


def _retrieve(
    collection: _Collection, query: str = "what", mode: str = "hybrid", embedder: object = _Embedder
) -> Retrieved:
    retrieval = Retrieval(_Library(collection), embedder)  # type: ignore[arg-type]
    return asyncio.run(retrieval.retrieve(query, "default", 3, mode, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
def test_a_query_is_embedded_by_the_spec_in_service(mode: str) -> None:
    """Its vector has the collection's width, its tokens are counted, the search runs outside the event loop."""
    collection = _Collection(LARGE)
    retrieved = _retrieve(collection, mode=mode)
    assert collection.searches == [("what", (8,), 3, mode, None, 1.0)]
    assert (retrieved.embedding_model, retrieved.embedding_tokens, retrieved.collection) == ("large", 5, "default")
    assert threading.get_ident() not in collection.threads


def test_words_alone_ask_no_embedder() -> None:
    """Lexical search works where there is no embedder, and costs nothing."""
    collection = _Collection()
    retrieved = _retrieve(collection, mode="lexical", embedder=_unavailable)
    assert collection.searches == [("what", None, 3, "lexical", None, 1.0)]
    assert retrieved.embedding_tokens == 0


def _unavailable(spec: EmbeddingSpec) -> _Embedder:
    raise EmbeddingUnavailable(f"no embedder of {spec.model}; set OPENAI_API_KEY")


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
def test_without_an_embedder_there_is_no_silent_lexical_answer(mode: str) -> None:
    """Hybrid and dense fail, and the collection is not searched."""
    collection = _Collection()
    with pytest.raises(EmbeddingUnavailable):
        _retrieve(collection, mode=mode, embedder=_unavailable)
    assert collection.searches == []


def test_a_language_that_the_embedder_lacks_is_left_to_the_words() -> None:
    """The dense leg gets no weight in a hybrid search; a dense search is what was asked for, and stays."""
    collection = _Collection()
    _retrieve(collection, "什么", embedder=_EnglishEmbedder)
    _retrieve(collection, "what", embedder=_EnglishEmbedder)
    _retrieve(collection, "什么", mode="dense", embedder=_EnglishEmbedder)
    assert [search[-1] for search in collection.searches] == [0.0, 1.0, 1.0]


def test_a_generation_that_changes_on_the_way_is_asked_again() -> None:
    """Before or during the search: the hits come from the new generation with a vector of its spec, both paid for."""
    for at_embedding in (True, False):
        collection = _Collection()

        def change(collection: _Collection = collection) -> None:
            collection.spec = IndexSpec(LARGE)

        class Changing(_Embedder):
            async def embed_query(self, text: str, change: Callable[[], None] = change) -> Embedded:
                change()
                return await super().embed_query(text)

        collection.on_search = (lambda: None) if at_embedding else change
        retrieved = _retrieve(collection, embedder=Changing if at_embedding else _Embedder)
        assert (retrieved.embedding_model, retrieved.embedding_tokens) == ("large", 10)
        assert [search[1] for search in collection.searches] == ([(8,)] if at_embedding else [(4,), (8,)])


@pytest.mark.parametrize("closed", [True, False])
def test_a_collection_that_was_made_anew_is_searched_as_it_is_now(closed: bool) -> None:
    """Between two questions it was removed and made with another spec: the second question searches the new one."""
    old, new = _Collection(), _Collection(LARGE)
    library = _Library(old)

    async def ask_twice() -> list[Retrieved]:
        retrieval = Retrieval(library, _Embedder)
        first = await retrieval.retrieve("what", "default", 3, "hybrid", None)
        library.collection = new
        if closed:
            old.close()
        return [first, await retrieval.retrieve("what", "default", 3, "hybrid", None)]

    answers = asyncio.run(ask_twice())
    assert [answer.embedding_model for answer in answers] == ["small", "large"]
    assert [search[1] for search in old.searches + new.searches] == [(4,), (8,)]
    assert answers[1].embedding_tokens == 10  # the first embedding was by the spec that was last seen


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize("then", ["replaced", "removed"])
def test_a_collection_that_is_closed_under_a_search_is_opened_by_its_name_again(mode: str, then: str) -> None:
    """Replaced meanwhile, the new one is searched; removed meanwhile, it is unknown: never an error of the store."""
    old, new = _Collection(), _Collection()
    library = _Library(old)

    def close() -> None:
        library.collection = new if then == "replaced" else None  # type: ignore[assignment]
        raise StoreClosed("closed")

    old.on_search = close
    retrieval = Retrieval(library, _Embedder)
    asked = retrieval.retrieve("what", "default", 3, mode, None)  # type: ignore[arg-type]
    if then == "removed":
        with pytest.raises(UnknownCollection):
            asyncio.run(asked)
    else:
        assert asyncio.run(asked).result.hits
        assert len(new.searches) == 1


def test_vectors_of_another_model_are_not_compared() -> None:
    """Hits that were found while the collection went over to a model of the same width are thrown away."""
    collection = _Collection()

    def change() -> None:
        collection.spec = IndexSpec(OTHER)

    collection.on_search = change
    retrieved = _retrieve(collection)
    assert (retrieved.embedding_model, retrieved.result.generation) == ("other", 2)


def test_a_collection_that_keeps_changing_is_given_up() -> None:
    """Twice is enough: the caller is told to ask again."""
    collection = _Collection()

    def change() -> None:
        collection.spec = IndexSpec(LARGE if collection.spec.embedding == SMALL else SMALL)

    collection.on_search = change
    with pytest.raises(Overloaded, match="ask again"):
        _retrieve(collection)


def test_vectors_that_never_fit_are_a_bug_and_not_retried() -> None:
    """An embedder that breaks its spec is reported as it is."""
    collection = _Collection()
    with pytest.raises(InvalidVectors):
        _retrieve(collection, embedder=lambda spec: _Embedder(LARGE))
    assert len(collection.searches) == 1


@pytest.mark.parametrize("query", ["", " \n\t\u3000"])
def test_an_empty_query_is_refused(query: str) -> None:
    """It reaches neither embedder nor collection."""
    collection = _Collection()
    with pytest.raises(BadRequest):
        _retrieve(collection, query, embedder=_unavailable)
    assert collection.searches == []


def test_an_unknown_collection_is_said() -> None:
    """The library's error comes through."""
    with pytest.raises(UnknownCollection):
        asyncio.run(Retrieval(_Library(_Collection()), _Embedder).retrieve("q", "other", 3, "hybrid", None))
