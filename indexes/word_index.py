"""An index of words outside SQLite, for collections in which FTS5 is the slower leg. The only door to tantivy (extra).

It holds chunks as lines of words (`store_words.WordLines`), finds those that tell most for a query, and gives their
lines back; what they are worth exactly is computed from the lines (`indexes.bm25`). Rows are only ever added: what was
removed is the caller's to know.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import log1p
from pathlib import Path
from typing import TYPE_CHECKING, Final

from indexes.errors import StorageFull, StoreDamaged

if TYPE_CHECKING:
    import tantivy

_ID, _WORDS = "id", "words"
_BUFFER_BYTES: Final = 50_000_000
"""Of words in memory before a part of the index is written; one thread writes, two may merge."""
_SMALL_BUFFER_BYTES: Final = 15_000_000
"""The least that tantivy takes, for what is in memory anyway."""
_META, _MANAGED = "meta.json", ".managed.json"
REWRITTEN: Final = frozenset({_META, _MANAGED})
"""Files that `add` writes anew at each change; the others stay as they are, or go."""


@cache
def is_installed() -> bool:
    """Whether the extra `tantivy` is there, and can be used on this machine."""
    try:
        import tantivy  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class WordHit:
    """A chunk of a reader. `score` orders the hits of this reader alone: each has average lengths of its own."""

    chunk_id: int
    score: float
    address: "tantivy.DocAddress"


class WordReader:
    """What an index held at one moment. Safe from many threads; valid also when the index has changed since."""

    def __init__(self, index: "tantivy.Index") -> None:
        with _damage():
            self._searcher, self._schema = index.searcher(), index.schema
            self.rows: int = self._searcher.num_docs

    def holding(self, words: Sequence[str]) -> int:
        """Return how many chunks hold a word, or several as a phrase."""
        with _damage():
            if len(words) == 1:
                return int(self._searcher.doc_freq(_WORDS, words[0]))
            found = self._searcher.search(self._query(words), 1, count=True)
        count: int = found.count  # type: ignore[attr-defined]
        return count

    def best(self, terms: Iterable[tuple[Sequence[str], float]], most: int) -> list[WordHit]:
        """Return the `most` chunks that tell most for terms, best first.

        A term is a word, or several as a phrase, and what one chunk of average length gets for holding it once.
        """
        import tantivy

        with _damage():
            parts = [
                (tantivy.Occur.Should, tantivy.Query.boost_query(self._query(words), weight / own))
                for words, weight in terms
                if (own := self._own_weight(words)) > 0
            ]
            if not parts:
                return []
            hits = self._searcher.search(tantivy.Query.boolean_query(parts), most, count=False).hits
            ids = self._searcher.fast_field_values(_ID, [address for _, address in hits])
        return [
            WordHit(int(chunk_id or 0), score, address) for chunk_id, (score, address) in zip(ids, hits, strict=True)
        ]

    def lines(self, hits: Iterable[WordHit]) -> list[str]:
        """Return the lines of hits of this reader."""
        with _damage():
            return [self._searcher.doc(hit.address).get_first(_WORDS) or "" for hit in hits]

    def _query(self, words: Sequence[str]) -> "tantivy.Query":
        import tantivy

        if len(words) == 1:
            return tantivy.Query.term_query(self._schema, _WORDS, words[0], "freq")
        return tantivy.Query.phrase_query(self._schema, _WORDS, list(words))

    def _own_weight(self, words: Sequence[str]) -> float:
        """Return what tantivy itself gives a term: BM25's weight by its own counts, for a phrase that of all words."""
        counts = [int(self._searcher.doc_freq(_WORDS, word)) for word in words]
        if not all(counts):
            return 0.0
        return sum(log1p((self.rows - count + 0.5) / (count + 0.5)) for count in counts)


class WordsInMemory:
    """An index that grows with what is new. Not safe from many threads; its readers are."""

    def __init__(self) -> None:
        import tantivy

        with _damage():
            self._index = tantivy.Index(_schema())
            self._index.config_reader("manual")

    def extended(self, rows: Iterable[tuple[int, str]]) -> WordReader:
        """Add (chunk id, its line) and return a reader of all that is here."""
        with _damage():
            _write(self._index, rows, _SMALL_BUFFER_BYTES)
            self._index.reload()
        return WordReader(self._index)


def load(folder: Path) -> WordReader:
    """Open the index in `folder`, whose files were checked. Raises StoreDamaged."""
    import tantivy

    with _damage():
        index = tantivy.Index.open(str(folder))
        index.config_reader("manual")
    return WordReader(index)


def add(folder: Path, rows: Iterable[tuple[int, str]]) -> int:
    """Add (chunk id, its line) to the index in `folder`, made where there is none, and return how many there were.

    Only the index's own files are left there. None of before is changed but REWRITTEN, so they may be links. Raises
    StorageFull.
    """
    import tantivy

    with _no_room(folder):
        added = _write(tantivy.Index(_schema(), str(folder)), rows, _BUFFER_BYTES)
    parts = {part["segment_id"].replace("-", "") for part in json.loads((folder / _META).read_bytes())["segments"]}
    for path in folder.iterdir():
        if path.name not in REWRITTEN and path.name.split(".")[0] not in parts:
            path.unlink()
    return added


def _write(index: "tantivy.Index", rows: Iterable[tuple[int, str]], buffer_bytes: int) -> int:
    import tantivy

    writer, count = index.writer(heap_size=buffer_bytes, num_threads=1), 0
    try:
        for chunk_id, line in rows:
            document = tantivy.Document()
            document.add_unsigned(_ID, chunk_id)
            document.add_text(_WORDS, line)
            writer.add_document(document)
            count += 1
        writer.commit()
    finally:
        writer.wait_merging_threads()
    return count


def _schema() -> "tantivy.Schema":
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field(_ID, fast=True)
    builder.add_text_field(_WORDS, stored=True, tokenizer_name="whitespace", index_option="position")
    return builder.build()


@contextmanager
def _damage() -> Iterator[None]:
    with _panics():
        try:
            yield
        except (OSError, ValueError, KeyError) as error:  # tantivy's errors are ValueErrors of any kind
            raise StoreDamaged(f"the index of words can't be read: {error}") from error


@contextmanager
def _no_room(folder: Path) -> Iterator[None]:
    with _panics():
        try:
            yield
        except (OSError, ValueError) as error:
            raise StorageFull(f"{folder} can't be written: {error}; make room, nothing was changed") from error


@contextmanager
def _panics() -> Iterator[None]:
    """Take a panic of Rust's, which is no Exception, for damage."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise StoreDamaged(f"tantivy gave up: {error}") from error
