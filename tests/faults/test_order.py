"""What is acknowledged has been synced: read off the system calls, since no kill of a process can show it.

A killed process leaves all that it wrote, synced or not; a machine that loses its power does not. The order is the
one of the store's log: pages to the log, the log synced, then the acknowledgement; the file synced before its log
begins anew; a segment synced, renamed, its folder synced, then published.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.broken import WRITERS
from tests.faults.nursery import Nursery, Order, memory_folder, nursery, why_not_traced

NOT_TRACED = why_not_traced()
pytestmark = pytest.mark.skipif(NOT_TRACED is not None, reason=str(NOT_TRACED))
CALLS = "write,writev,pwrite64,ftruncate,fsync,fdatasync,rename,unlink"
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (\S+)")
_FILE = re.compile(r"^\d+<([^>]*)>")
_NAMES = re.compile(r'"([^"]+)"')
_OFFSET = re.compile(r", (\d+)$")


def unsynced(lines: list[str], folder: Path, witness: Path) -> Iterator[str]:
    """Yield what was acknowledged, or begun anew, before what it stands on had been synced."""
    dirty: set[str] = set()
    store, log = f"{folder}/store.db", f"{folder}/store.db-wal"
    for line in lines:
        call, arguments, result = match.groups() if (match := _CALL.match(line)) else ("", "", "-1")
        if result.startswith("-") or result == "?":
            continue
        found = _FILE.match(arguments)
        path = found.group(1) if found else ""
        if call == "writev" and path == str(witness):
            if r"\"done\"" in arguments or r"\"kept\"" in arguments:
                yield from (f"{name} at {arguments[-40:]}" for name in sorted(dirty - {store, f"{store}-shm"}))
        elif call in ("write", "pwrite64", "ftruncate") and path.startswith(f"{folder}/") and "/locks/" not in path:
            if path == log and store in dirty and _OFFSET.search(arguments).group(1) == "0":
                yield f"the log begins anew while {store} is not synced"
            dirty.add(path)
        elif call in ("fsync", "fdatasync"):
            dirty.discard(path)
        elif call == "rename":
            old, new = _NAMES.findall(arguments)
            if old in dirty:
                yield f"{old} is renamed and not synced"
            dirty.add(str(Path(new).parent))
        elif call == "unlink":
            name = _NAMES.findall(arguments)[0]
            if name == log and store in dirty:
                yield f"the log is removed while {store} is not synced"
            dirty.discard(name)


@pytest.fixture(scope="module")
def clients() -> Iterator[Nursery]:
    with nursery() as started:
        yield started


@pytest.mark.parametrize("seed", [None, 1])
def test_what_is_acknowledged_is_synced(clients, seed):
    """Before each acknowledgement the log, the segments and their folder are synced, and the file before a new log."""
    with memory_folder() as room:
        order = Order(str(room / "collection"), str(room / "witness"), seed, traced=True)
        lines = clients.trace(order, CALLS, room / "calls")
        assert len(lines) > 300
        assert list(unsynced(lines, room / "collection", room / "witness")) == []


def test_a_store_that_does_not_sync_is_caught(clients):
    """The null control: with `synchronous=OFF` the kills find nothing, and the order of calls is wrong."""
    name = "does not sync"
    assert WRITERS[name].trips is None
    with memory_folder() as room:
        order = Order(str(room / "collection"), str(room / "witness"), traced=True, broken=name)
        lines = clients.trace(order, CALLS, room / "calls")
        assert any("store.db-wal" in found for found in unsynced(lines, room / "collection", room / "witness"))
