"""The cost of a filter by the number of chunks: the join that it takes in SQL, and the bitmap of `indexes.visibility`.

`python -m benchmarks.filters [--chunks 40000 200000] [--folder FOLDER]` prints milliseconds, the median of REPEATS; of
the join and the first read, one. A folder keeps the collection for the next run. `scan` is a filter that was not asked
before, or the first search after documents changed; `kept` one that was. Answers are compared with the join's, bit
for bit.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import large_store
from indexes import store_search, store_vectors
from indexes.collection import Collection
from indexes.filters import parse_filter
from indexes.store import Store
from indexes.vector_index import Allowed
from indexes.visibility import Visibility

REPEATS = 5
FILTERS = {
    "nearly all pass (draft ne true)": {"key": "draft", "op": "ne", "value": True},
    "half pass (year gte 2010)": {"key": "year", "op": "gte", "value": 2010},
    "5 % pass (team eq)": {"key": "team", "op": "eq", "value": "team-7"},
    "1 % pass (path prefix)": {"key": "path", "op": "prefix", "value": "part-042/"},
}


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, nargs="+", default=[40_000, 200_000])
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)) / "collection"
        for chunks in sorted(asked.chunks):
            folder.parent.mkdir(parents=True, exist_ok=True)
            collection, source = large_store.open_store(folder)
            with collection:
                large_store.grow(collection, source, chunks)
                table(collection, folder)


def table(collection: Collection, folder: Path) -> None:
    """Print the costs of every filter."""
    status = collection.status()
    store = Store.open(folder)
    print(f"\n{status.chunks:,} chunks, {status.documents:,} documents; milliseconds")
    with store.read() as connection:
        head = store_vectors.head(connection)
        everything = store_search.condition(None)
        first = milliseconds(lambda: Visibility().load(connection, head), 1)
        joined = milliseconds(lambda: store_search.missing_vectors(connection, head), 1)
        known = Visibility()
        known.load(connection, head)
        counted = milliseconds(lambda: known.missing(connection, head), 1)
        print(f"  columns read at first {first:9.1f}")
        print(f"  missing vectors: join {joined:9.1f}   columns {counted:9.1f}")
        print(f"  {'':34}{'join':>9}{'scan':>9}{'kept':>9}{'passing':>10}")
        for name, value in {"no filter": None, **FILTERS}.items():
            where = everything if value is None else store_search.condition(parse_filter(value))
            answers: list[Allowed] = []
            join = milliseconds(
                lambda where=where, answers=answers: answers.append(  # type: ignore[misc]
                    store_search.allowed_vectors(connection, head, where)
                ),
                1,
            )
            expected = answers[0]
            moments = (replace(head, changes=head.changes + n) for n in range(1, REPEATS + 1))  # never asked at those
            scan = milliseconds(lambda where=where, moments=moments: known.allowed(connection, next(moments), where))  # type: ignore[misc]
            kept = milliseconds(lambda where=where: known.allowed(connection, head, where))  # type: ignore[misc]
            assert np.array_equal(known.allowed(connection, head, where), expected)
            print(f"  {name:34}{join:9.1f}{scan:9.1f}{kept:9.2f}{int(expected.sum()):10,}")
    store.close()


def milliseconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median of what a call takes."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)


if __name__ == "__main__":
    main()
