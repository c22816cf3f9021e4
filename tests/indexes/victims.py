"""Child processes that do one operation on a collection and kill themselves at a named step of it.

They are forked from one process that has everything imported, and write a line before they die or end.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexes import failpoints
from indexes.collection import Collection
from indexes.types import ChangeSet, DocumentRename
from tests.indexes.corpus import SPEC, STAT, upsert
from tests.indexes.specs import LINES, OTHER, PAIRS, chunks_under, go_to, vectors_under

SPECS = (SPEC, PAIRS, OTHER, LINES)
Operation = list[Any]
"""A name of OPERATIONS, and what the function takes after the collection: nothing but JSON."""


def put(collection: Collection, source_id: int, path: str, text: str, replaces: list[Any] | None) -> None:
    spec = collection.spec
    chunks = chunks_under(spec, text)
    keys = sorted({chunk.embedded_hash for chunk in chunks})
    collection.add_vectors(spec.embedding, keys, vectors_under(spec, keys))
    one = upsert(path, text, None if replaces is None else (replaces[0], replaces[1]), chunks=chunks)
    collection.apply(ChangeSet(source_id, upserts=(one,)))
    collection.fold_if_due()


def remove(collection: Collection, document_id: str) -> None:
    collection.remove_document(document_id)


def rename(collection: Collection, source_id: int, document_id: str, path: str) -> None:
    collection.apply(ChangeSet(source_id, renames=(DocumentRename(document_id, path, STAT),)))


def fold(collection: Collection) -> None:
    collection.fold()


def compact(collection: Collection) -> None:
    collection._segments.compact()


def mend(collection: Collection) -> None:
    """Find what is damaged, and make it whole."""
    collection.settle()


def publish(collection: Collection, number: int) -> None:
    go_to(collection, SPECS[number])


def garbage(collection: Collection) -> None:
    collection.garbage.collect(0)


_ALL = (put, remove, rename, fold, compact, mend, publish, garbage)
OPERATIONS: dict[str, Callable[..., None]] = {function.__name__: function for function in _ALL}


def work(folder: str, delta_rows: int, die_at: int, kind: str, operation: Operation) -> None:
    """Run in the child."""
    left = [die_at]

    def step(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.install(step)
    name, *arguments = operation
    with Collection.open(Path(folder), delta_rows=delta_rows, kind=kind) as collection:
        OPERATIONS[name](collection, *arguments)


class Victims:
    """Starts children, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.indexes.victims"]
        self._server = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def killed(self, folder: Path, delta_rows: int, die_at: int, kind: str, operation: Operation) -> bool:
        """Do an operation in a child; say whether it was killed at its step `die_at`, or ended before."""
        self._server.stdin.write(f"{json.dumps([str(folder), delta_rows, die_at, kind, operation])}\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        assert code in (0, -signal.SIGKILL), f"{operation} ended with {code}"
        return code != 0

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()


def serve() -> None:
    """Fork a child for each line of arguments."""
    import faiss  # noqa: F401 - what the children would each import

    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                work(*json.loads(line))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
