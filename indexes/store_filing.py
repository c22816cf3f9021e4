"""The statements that file the keys of new rows. Each function runs in its caller's transaction.

An index of hashes has a small part for new rows (`filed` 0) and a large one: in the small one the keys of an addition
share a few pages, in the large one each would change a page of its own, of 16 KB. They go over many at a time, in the
order of the hashes, as a log-structured merge tree's do (O'Neil et al., "The log-structured merge-tree", 1996, with two
components).
"""

from collections.abc import Sequence
from typing import Final

from indexes.store import Connection

KEYS: Final[Sequence[tuple[str, str]]] = (
    ("vector_key", "text_hash"),
    ("chunk_embedding", "embedded_hash"),
    ("chunk", "text_hash"),
)
"""The tables with such an index, and their hashes."""
KEYS_A_STEP = 4_096
"""About how many one transaction files: at a million rows it changes a third of the index's pages, some 20 MB."""


def unfiled(connection: Connection, table: str) -> int:
    """Return how many rows of one of the KEYS are not filed."""
    count: int = connection.execute(f"SELECT count(*) FROM {table} WHERE filed = 0").fetchone()[0]  # noqa: S608
    return count


def file_step(connection: Connection, table: str, key: str) -> bool:
    """File the first keys, by their order, of one of the KEYS; say whether more are left."""
    last = connection.execute(
        f"SELECT {key} FROM {table} WHERE filed = 0 ORDER BY {key} LIMIT 1 OFFSET ?",  # noqa: S608 - constants
        (KEYS_A_STEP - 1,),
    ).fetchone()
    where, values = (f"AND {key} <= ?", last) if last else ("", ())
    connection.execute(f"UPDATE {table} SET filed = 1 WHERE filed = 0 {where}", values)  # noqa: S608 - constants
    return last is not None
