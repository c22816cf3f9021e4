"""A query to hits: embed it by the spec in service, search, and make sure that both were the same spec."""

import asyncio
from collections.abc import Callable

from indexes.errors import InvalidVectors, SpecMismatch
from indexes.types import EmbeddingSpec, Filter, Mode, SearchResult
from ingest.protocols import Embedder
from ragsvc.errors import BadRequest, Overloaded
from ragsvc.protocols import LanguageBound, Library, Retrieved, SearchableCollection

_TRIES = 2


class Retrieval:
    """Finds hits in the collections of a library. A `Retriever`.

    `embedder_for` returns the embedder of a spec; it raises EmbeddingUnavailable where there is none, and then hybrid
    and dense searches fail: words alone are never passed off as meaning.
    """

    def __init__(self, library: Library, embedder_for: Callable[[EmbeddingSpec], Embedder]) -> None:
        self._library = library
        self._embedder_for = embedder_for

    async def retrieve(self, query: str, collection: str, k: int, mode: Mode, where: Filter | None) -> Retrieved:
        """Return at most `k` hits, best first. The search itself runs in a thread.

        Raises UnknownCollection, EmbeddingUnavailable, ProviderError, and Overloaded when the collection went over to
        another embedding twice while the query was on its way.
        """
        if not query.strip():
            raise BadRequest("the query is empty; say what to look for")
        opened = await asyncio.to_thread(self._library.open, collection)
        tokens = 0
        for _ in range(_TRIES):
            spec = opened.spec.embedding
            result, spent = await self._search(opened, spec, query, k, mode, where)
            tokens += spent
            if result is not None:
                return Retrieved(result, collection, spec.model, tokens)
        raise Overloaded(f"collection {collection} is being moved to another embedding; ask again")

    async def _search(
        self, opened: SearchableCollection, spec: EmbeddingSpec, query: str, k: int, mode: Mode, where: Filter | None
    ) -> tuple[SearchResult | None, int]:
        """Return the result and the tokens paid for; None when the collection left `spec` in the meantime."""
        if mode == "lexical":
            return await asyncio.to_thread(opened.search, query, None, k, mode, where), 0
        embedder = self._embedder_for(spec)
        embedded = await embedder.embed_query(query)
        foreign = isinstance(embedder, LanguageBound) and not embedder.speaks(query)
        dense_weight = 0.0 if foreign and mode == "hybrid" else 1.0
        try:
            result = await asyncio.to_thread(opened.search, query, embedded.vectors[0], k, mode, where, dense_weight)
        except (InvalidVectors, SpecMismatch):
            if opened.spec.embedding == spec:
                raise
            return None, embedded.tokens
        return result if opened.spec.embedding == spec else None, embedded.tokens
