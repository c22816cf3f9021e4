"""A query to hits: embed it by the spec in service, search, and make sure that both were the same spec."""

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from indexes.errors import InvalidQuery, InvalidVectors, SpecMismatch, StoreClosed
from indexes.types import EmbeddingSpec, Filter, FloatVector, Mode, SearchResult
from ingest.protocols import Embedder
from ragsvc.errors import BadRequest, Overloaded
from ragsvc.protocols import LanguageBound, Library, Retrieved, SearchableCollection

_TRIES = 2
SEARCH_THREADS = min(4, max(2, os.cpu_count() or 2))
"""Searches at once. Half of a search runs under the interpreter's lock: of six threads on two cores, each search took
a quarter more CPU than of two."""
T = TypeVar("T")
_Asked = tuple[str, FloatVector, int, Mode, Filter | None]
"""Query, its vector, k, mode, filter."""


class Retrieval:
    """Finds hits in the collections of a library. A `Retriever`.

    `embedder_for` returns the embedder of a spec; it raises EmbeddingUnavailable where there is none, and then hybrid
    and dense searches fail: words alone are never passed off as meaning.
    """

    def __init__(self, library: Library, embedder_for: Callable[[EmbeddingSpec], Embedder]) -> None:
        self._library = library
        self._embedder_for = embedder_for
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="ragsvc-search")
        self._specs: dict[str, EmbeddingSpec] = {}

    def close(self) -> None:
        """Drop what waits; let what runs end by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def retrieve(self, query: str, collection: str, k: int, mode: Mode, where: Filter | None) -> Retrieved:
        """Return at most `k` hits, best first. The search itself runs in a thread.

        Raises UnknownCollection, EmbeddingUnavailable, ProviderError, and Overloaded when the collection went over to
        another embedding twice while the query was on its way.
        """
        if not query.strip():
            raise BadRequest("the query is empty; say what to look for")
        tokens = 0
        for _ in range(_TRIES):
            spec = await self._spec(collection)
            if mode == "lexical":
                found = await self._in_thread(lambda: self._by_words(collection, query, k, where))
                return Retrieved(found, collection, spec.model, tokens)
            vector, weight, spent = await self._embedded(spec, query, mode)
            tokens += spent
            search = partial(self._search, collection, spec, query, vector, k, mode, where, dense_weight=weight)
            result = await self._in_thread(search)
            if result is not None:
                return Retrieved(result, collection, spec.model, tokens)
        raise Overloaded(f"collection {collection} is being moved to another embedding, or replaced; ask again")

    async def _spec(self, collection: str) -> EmbeddingSpec:
        """Return the spec in service, as it was last seen: the search looks again, and says when it is another one."""
        if (known := self._specs.get(collection)) is not None:
            return known
        return await self._in_thread(lambda: self._look(self._open(collection), collection))

    def _look(self, opened: SearchableCollection, collection: str) -> EmbeddingSpec:
        spec = self._specs[collection] = opened.spec.embedding
        return spec

    def _open(self, collection: str) -> SearchableCollection:
        try:
            return self._library.open(collection)
        except BaseException:
            self._specs.pop(collection, None)
            raise

    def _by_words(self, collection: str, query: str, k: int, where: Filter | None) -> SearchResult:
        try:
            return self._open(collection).search(query, None, k, "lexical", where)
        except StoreClosed:  # removed or replaced meanwhile: what its name leads to now is searched
            return self._open(collection).search(query, None, k, "lexical", where)

    async def _embedded(self, spec: EmbeddingSpec, query: str, mode: Mode) -> tuple[FloatVector, float, int]:
        """Return the query's vector, the vote of the dense leg, and the tokens paid for."""
        embedder = self._embedder_for(spec)
        embedded = await embedder.embed_query(query)
        foreign = isinstance(embedder, LanguageBound) and not embedder.speaks(query)
        return embedded.vectors[0], 0.0 if foreign and mode == "hybrid" else 1.0, embedded.tokens

    def _search(
        self, collection: str, spec: EmbeddingSpec, *asked: *_Asked, dense_weight: float
    ) -> SearchResult | None:
        """Return what a search gives, None when the collection is not, or not any more, of `spec`."""
        opened = self._open(collection)
        with suppress(StoreClosed):  # removed or replaced meanwhile: the next try opens what its name leads to now
            if self._look(opened, collection) != spec:
                return None
            try:
                result = opened.search(*asked, dense_weight=dense_weight)
            except (InvalidVectors, InvalidQuery, SpecMismatch):
                if self._look(opened, collection) == spec:
                    raise
                return None
            return result if self._look(opened, collection) == spec else None
        return None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)
