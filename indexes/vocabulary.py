"""How many chunks hold a word, remembered while documents stay the same: counting a frequent one walks all its rows."""

import threading
from collections.abc import Iterable
from typing import Final

from indexes import store_words
from indexes.store import Connection
from indexes.store_vectors import Head

KEPT_TERMS: Final = 8_192
"""Most terms whose count is remembered, about 1 MB."""


class Vocabulary:
    """What one collection's searches remember of its words. Safe from many threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._of: tuple[int, int] = (0, 0)
        self._counts: dict[str, int] = {}

    def counts(self, connection: Connection, head: Head, terms: Iterable[str]) -> dict[str, int]:
        """Return how many visible chunks hold each term (see `lexical.vocabulary_term`), in this transaction."""
        asked, of = set(terms), (head.chunk_spec_id, head.changes)
        with self._guard:
            known = {term: self._counts[term] for term in asked & self._counts.keys()} if self._of == of else {}
        missing = sorted(asked - known.keys())
        if not missing:
            return known
        found = store_words.chunks_with(connection, head.chunk_spec_id, missing)
        with self._guard:
            if self._of != of or len(self._counts) + len(found) > KEPT_TERMS:
                self._of, self._counts = of, {}
            self._counts |= found
        return known | found
