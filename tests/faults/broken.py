"""Writers that are broken on purpose, each as a real store once was: the harness must catch every one of them.

A zero from a harness that has caught nothing is worth nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from indexes import store, store_chunks, store_vectors
from indexes.collection import Collection
from indexes.failpoints import point
from indexes.types import ApplyReport, ChangeSet
from tests.faults.checker import Kind
from tests.indexes.corpus import upsert


@dataclass(frozen=True, slots=True)
class Writer:
    """One way of being broken."""

    trips: Kind | None
    """The counter that must catch it; None for what no kill of a process can show."""
    break_it: Callable[[], None]
    """Run in the client's process."""


def _commit_between(connection: store.Connection) -> None:
    connection.execute("COMMIT")
    point("broken")
    connection.execute("BEGIN IMMEDIATE")


def _two_transactions() -> None:
    """A document in one, its chunks in another."""
    inner = store_chunks.insert

    def insert(connection, *others):
        _commit_between(connection)
        inner(connection, *others)

    store_chunks.insert = insert


def _late(only_removals: bool) -> Callable[[], None]:
    """`apply` returns, and is therefore acknowledged, before it commits."""

    def break_it() -> None:
        inner, waiting = Collection.apply, list[ChangeSet]()

        def flushed(name: str) -> None:
            called = getattr(Collection, name)

            def call(self, *arguments, **named):
                while waiting:
                    inner(self, waiting.pop())
                return called(self, *arguments, **named)

            setattr(Collection, name, call)

        def apply(self: Collection, changes: ChangeSet) -> ApplyReport:
            if only_removals and not changes.removals:
                return inner(self, changes)
            waiting.append(changes)
            return ApplyReport({})

        for name in ("manifest", "search", "fold", "fold_if_due", "add_vectors", "close"):
            flushed(name)
        Collection.apply = apply

    return break_it


def _rename_by_copy() -> None:
    """The copy is committed before the old path goes."""
    inner = Collection.apply

    def apply(self: Collection, changes: ChangeSet) -> ApplyReport:
        for rename in changes.renames:
            copy = upsert(rename.path, self.text(rename.document_id).text)
            inner(self, ChangeSet(changes.source_id, upserts=(copy,)))
        gone = tuple(rename.document_id for rename in changes.renames)
        return inner(self, replace(changes, renames=(), removals=(*changes.removals, *gone)))

    Collection.apply = apply


def _placeholder() -> None:
    """A new path is taken by a document that nobody sent."""
    inner = Collection.apply

    def apply(self: Collection, changes: ChangeSet) -> ApplyReport:
        upserts = []
        for one in changes.upserts:
            if one.replaces is None:
                taken = inner(self, ChangeSet(changes.source_id, upserts=(upsert(one.path, "to come\n"),)))
                upserts.append(replace(one, replaces=(taken.documents[one.path], 1)))
            else:
                upserts.append(one)
        return inner(self, replace(changes, upserts=tuple(upserts)))

    Collection.apply = apply


def _published_first() -> None:
    """A segment's row is committed before its file has its name."""
    rename, write = Path.rename, store.Store.write
    waiting = list[tuple[Path, Path]]()

    def later(self: Path, target: Path) -> Path:
        if self.parent.name != "segments":
            return rename(self, target)
        kept = self.with_name(f"{self.name}.kept")
        rename(self, kept)
        waiting.append((kept, target))
        return target

    def wrapped(self):
        return _Then(write(self), lambda: [rename(*pair) for pair in waiting] and waiting.clear())

    Path.rename, store.Store.write = later, wrapped


class _Then:
    """A context that does one thing more when the inner one has ended."""

    def __init__(self, inner, then) -> None:
        self.inner, self.then = inner, then

    def __enter__(self):
        return self.inner.__enter__()

    def __exit__(self, *error: object) -> object:
        ended = self.inner.__exit__(*error)
        point("broken")
        self.then()
        return ended


def _range_first() -> None:
    """A segment's row says that it serves rows that its file does not hold yet."""
    inner = store_vectors.replace_segments

    def publish(connection, of, replaced, new):
        connection.execute(
            "UPDATE segment SET last_id = ? WHERE (generation, ordinal) IN "
            "(SELECT generation, max(ordinal) FROM segment WHERE generation = ?)",
            (new.last_id, of.generation),
        )
        _commit_between(connection)
        inner(connection, of, replaced, new)

    store_vectors.replace_segments = publish


def _vectors_with_documents() -> None:
    """Vectors are kept in memory until their document comes."""
    add, apply = Collection.add_vectors, Collection.apply
    waiting = list[tuple]()

    def later(self, *vectors):
        waiting.append(vectors)

    def flushed(self, changes):
        while waiting:
            add(self, *waiting.pop(0))
        return apply(self, changes)

    Collection.add_vectors, Collection.apply = later, flushed


def _unsynced() -> None:
    """Nothing is synced: what is committed stands in the memory of the kernel, which outlives the process."""
    connect = store.Store._connect

    def unsynced(self, *, readonly):
        connection = connect(self, readonly=readonly)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    store.Store._connect = unsynced


WRITERS: Mapping[str, Writer] = {
    "acknowledges before it commits": Writer("lost", _late(only_removals=False)),
    "removes after it said so": Writer("resurrected", _late(only_removals=True)),
    "renames by a copy": Writer("duplicate", _rename_by_copy),
    "takes a path by a placeholder": Writer("phantom", _placeholder),
    "writes a document in two transactions": Writer("half_visible", _two_transactions),
    "publishes a segment before its file": Writer("lost", _published_first),
    "publishes a range before its rows": Writer("wrong_answer", _range_first),
    "keeps vectors with their documents": Writer("paid_twice", _vectors_with_documents),
    "does not sync": Writer(None, _unsynced),
}
