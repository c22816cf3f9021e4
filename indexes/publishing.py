"""Generations in and out of service: each change is one transaction, and what it needs is prepared before, unseen.

Another IndexSpec is published when every visible document is cut by it; who cuts stands above (`ingest.recutting`).
SQLite decides all races: the transaction that puts a generation in service looks again for documents that came since.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeVar

from indexes import store_generations, store_recutting, store_vectors, store_words
from indexes.failpoints import point
from indexes.generations import Segments
from indexes.store import Connection, Store, give_way
from indexes.store_vectors import Head
from indexes.types import DocumentCut, Generation, IndexSpec, StoredDocument

Outcome = TypeVar("Outcome")
Recut = Callable[[StoredDocument], DocumentCut]
"""A visible document to its chunks under another IndexSpec; pure."""
_FEW = 8
"""Documents that are cut while every other writer waits."""
_FEW_CHARACTERS = 1_000_000
"""In all of them: some tenths of a second. A page of large documents ends before it has more than a few of them."""
_MOST_PAGES = 200
"""Then writers bring documents faster than they are cut, and must wait for it."""


class Generations:
    """The generations of one collection: the one in service, those that are kept, and the one that is prepared."""

    def __init__(self, store: Store, segments: Segments) -> None:
        self._store, self._segments = store, segments

    def listed(self) -> tuple[Generation, ...]:
        """Return all generations with their segments, oldest first."""
        with self._store.read() as connection:
            return store_vectors.generations(connection)

    def before(self, number: int | None = None) -> Generation:
        """Return the generation that `rollback` would serve. Raises NotFound as it does."""
        with self._store.read() as connection:
            current = store_vectors.head(connection).generation
            wanted = store_generations.older(connection, current, number)
            return next(one for one in store_vectors.generations(connection) if one.number == wanted)

    def uncut(self, spec: IndexSpec, after: int = 0) -> tuple[StoredDocument, ...]:
        """Return visible documents that are not cut by `spec` yet, a page of them, behind the key `after`."""
        with self._store.read() as connection:
            return store_recutting.uncut(connection, store_generations.known_spec_ids(connection, spec), after)

    def add_cuts(self, spec: IndexSpec, cuts: Sequence[DocumentCut]) -> int:
        """Store chunks under `spec`, invisible until it is published, and return of how many documents.

        A document whose version changed or went meanwhile is left out. Raises ValueError for chunks that contradict
        those that stand under the same ChunkSpec.
        """
        with _writing(self._store, "recut") as connection:
            ids = store_generations.spec_ids(connection, spec)
            store_generations.prepare(connection, ids)
            return sum(store_recutting.add_cut(connection, ids, cut) for cut in cuts)

    def publish(self, spec: IndexSpec, recut: Recut | None = None) -> int | None:
        """Put another IndexSpec in service, in one transaction, and return the number of its generation, a new one.

        Returns None where documents are not cut by it yet and no `recut` is given to cut the last ones: nothing was
        changed. `spec` in service already is left as it is. Generations beyond the last two before it are dropped.
        Raises StoreBusy where another process builds.

        Where nothing serves the vectors of its embedding spec yet, and a fold of them would be due, their segment is
        built first: else every process would hold them in its delta.

        With `recut` the documents that came meanwhile are cut here, the last of them in the transaction that publishes:
        under a steady stream of writes there would else always be another one, and the segment built in vain.
        """
        with self._store.read() as connection:
            if recut is None and _is_uncut(connection, spec):
                return None
            coming = _coming(connection, spec, self._segments.most_rows(spec.embedding))
        with nullcontext() if coming is None else self._segments.built_ahead(coming) as segment:
            if recut is not None:
                self._catch_up(spec, recut)
            with _writing(self._store, "publish") as connection:
                head = store_vectors.head(connection)
                if head.spec == spec:
                    return head.generation
                if recut is not None:
                    _cut_last(connection, spec, recut)
                elif _is_uncut(connection, spec):
                    return None
                store_vectors.tick(connection)
                number = store_generations.publish(connection, spec)
                if coming is not None and segment is not None and not store_vectors.segments(connection, number):
                    store_vectors.replace_segments(connection, replace(coming, generation=number), (), segment)
                return number

    def rollback(self, number: int | None = None) -> int | None:
        """Serve a kept generation again, in one transaction, and return its number; by default the older one.

        Returns None where documents are not cut by its spec: nothing was changed. Raises NotFound for a number that is
        not kept, or where no older one is.
        """
        with _writing(self._store, "rollback") as connection:
            head = store_vectors.head(connection)
            wanted = store_generations.older(connection, head.generation, number)
            if wanted == head.generation:
                return wanted
            if _is_uncut(connection, store_vectors.spec_of(connection, wanted)):
                return None
            store_vectors.tick(connection)
            store_generations.serve(connection, wanted)
            return wanted

    def drop_retired(self) -> None:
        """Take apart what only generations that are kept no longer needed: chunks, words, embedded hashes.

        In several transactions; what a kill leaves, the next call takes.
        """
        drop_retired(self._store)

    def _catch_up(self, spec: IndexSpec, recut: Recut) -> None:
        """Cut documents page by page, each in a transaction of its own, until few are left."""
        after = 0
        for _ in range(_MOST_PAGES):
            page = self.uncut(spec, after)
            if len(page) <= _FEW and sum(len(document.text) for document in page) <= _FEW_CHARACTERS:
                return
            self.add_cuts(spec, [recut(document) for document in page])
            after = page[-1].key


def _cut_last(connection: Connection, spec: IndexSpec, recut: Recut) -> None:
    """Cut all that is left in this transaction: nobody else can add a document until it ends."""
    ids, after = store_generations.spec_ids(connection, spec), 0
    while page := store_recutting.uncut(connection, ids, after):
        for document in page:
            store_recutting.add_cut(connection, ids, recut(document))
        after = page[-1].key


def _is_uncut(connection: Connection, spec: IndexSpec) -> bool:
    return store_recutting.any_uncut(connection, store_generations.known_spec_ids(connection, spec))


def _coming(connection: Connection, spec: IndexSpec, most_rows: int) -> Head | None:
    """Return what a generation would be in service with, where a segment is to be built for it."""
    embedding, chunks = store_generations.known_spec_ids(connection, spec)
    if embedding in store_vectors.served_embedding_specs(connection):
        return None
    if store_vectors.count_vectors(connection, embedding) <= most_rows:
        return None
    head = store_vectors.head(connection)
    return replace(head, revision=0, spec=spec, embedding_spec_id=embedding, chunk_spec_id=chunks)


def drop_retired(store: Store) -> None:
    """Take apart what no kept generation needs, in steps that leave others their turn."""
    with _writing(store, "retired") as connection:
        store_generations.drop_old(connection)
    while _step(store, "retired.words", store_generations.drop_words):
        pass
    with store.read() as connection:
        dropped = store_words.dropped(connection)
        unneeded = store_generations.unneeded_embedding_specs(connection)
    for chunk_spec_id in dropped:
        _in_steps(store, "retired.chunks", partial(store_generations.drop_chunks, chunk_spec_id=chunk_spec_id))
    for embedding_spec_id in unneeded:
        _in_steps(
            store, "retired.embedded", partial(store_generations.drop_embedded, embedding_spec_id=embedding_spec_id)
        )


def _in_steps(store: Store, name: str, drop: Callable[..., int | None]) -> None:
    """Call `drop(connection, after=...)` in transactions of its own until it returns None."""
    after: int | None = 0
    while after is not None:
        after = _step(store, name, partial(drop, after=after))


def _step(store: Store, name: str, drop: Callable[[Connection], Outcome]) -> Outcome:
    """Do one step, then give others their turn."""
    began = time.monotonic()
    with _writing(store, name) as connection:
        outcome = drop(connection)
    give_way(began)
    return outcome


@contextmanager
def _writing(store: Store, name: str) -> Iterator[Connection]:
    point(f"{name}.begin")
    with store.write() as connection:
        store_words.require_current(connection)
        yield connection
        point(f"{name}.commit")
    point(f"{name}.done")
