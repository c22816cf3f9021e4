"""What a search must find, by brute force over plain texts."""

from collections.abc import Iterator, Mapping

import numpy as np

from indexes.collection import Collection
from tests.indexes.corpus import EMBEDDING, WORDS, chunks_of, query_vector, stored

_NEAR = 1e-5
"""Scores that the store gives back may differ by so much: it sums in another order."""


def pieces_of(texts: Mapping[str, str]) -> dict[str, list[tuple[str, int]]]:
    """Return the text of each chunk with all its places (path, start)."""
    places: dict[str, list[tuple[str, int]]] = {}
    for path, text in texts.items():
        for chunk in chunks_of(text):
            places.setdefault(text[chunk.start : chunk.end], []).append((path, chunk.start))
    return places


def misfound(collection: Collection, texts: Mapping[str, str], words: tuple[str, ...] = WORDS) -> Iterator[str]:
    """Yield what a search finds otherwise than it should, in words: dense by value, lexical, places and texts."""
    places = pieces_of(texts)
    matrix = (
        np.stack([stored(query_vector(piece)) for piece in places]) if places else np.empty((0, EMBEDDING.dimensions))
    )
    for asked in ("anything", *list(places)[:2]):
        query = query_vector(asked)
        scores = dict(zip(places, (matrix @ query).tolist(), strict=True))
        ranked = sorted(scores, key=lambda piece: -scores[piece])
        for k in (2, len(places) + 5):
            hits = collection.search("", query, k, "dense").hits
            found = [hit.text for hit in hits]
            if found != ranked[:k]:
                yield f"dense {asked!r} k={k}: {found} and not {ranked[:k]}"
            elif any(abs(hit.score - scores[hit.text]) > _NEAR for hit in hits):
                yield f"dense {asked!r} k={k}: scores {[hit.score for hit in hits]}"
    for word in words:
        hits = collection.search(word, None, len(places) + 5, "lexical").hits
        expected = {piece for piece in places if word in piece.split()}
        if {hit.text for hit in hits} != expected or len(hits) != len(expected):
            yield f"lexical {word}: {[hit.text for hit in hits]} and not {sorted(expected)}"
    for hit in collection.search(" ".join(words), query_vector("anything"), len(places) + 5, "hybrid").hits:
        shown = [(hit.path, hit.start), *((place.path, place.start) for place in hit.also)]
        if sorted(shown) != sorted(places.get(hit.text, ())):
            yield f"{hit.text!r} is shown at {sorted(shown)}, it stands at {sorted(places.get(hit.text, ()))}"
        if texts.get(hit.path, "")[hit.start : hit.end] != hit.text:
            yield f"{hit.path} [{hit.start}:{hit.end}] is not {hit.text!r}"
