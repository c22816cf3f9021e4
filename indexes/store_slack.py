"""Erases the slack of a SQLite file: bytes of its pages that belong to nothing, where what was deleted may still stand.

`secure_delete` zeroes the cells that are deleted, but not the copies that a page keeps in its unallocated gap when its
cells move to another page; and a file written without it keeps old bytes in free blocks, in free pages and behind the
end of overflow chains. SQLite has no call for these but VACUUM, which writes the whole file anew. Here they are zeroed
in place (see "Database File Format", sections 1.4 to 1.6, sqlite.org/fileformat2.html): bytes that no reader looks at,
so that a kill at any moment, and a write that is torn, leave a whole file.

It runs as a process of its own, which imports nothing of ours: closing any descriptor of a file ends all locks that
this process has on it (POSIX), those of SQLite's connections too.
"""

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_HEADER = 100
_INTERIOR_INDEX, _INTERIOR_TABLE, _LEAF_INDEX, _LEAF_TABLE = 2, 5, 10, 13
_BLOCK_PAGES = 256
_SLICE_SECONDS = 0.5
"""For so long writers wait; then they may go first, and the rest of the file follows."""
_BUSY_EXIT, _STORAGE_EXIT, _DAMAGED_EXIT = 75, 74, 65
_RETRY_SECONDS = 0.05


class SlackBusy(Exception):
    """Readers or writers held the file for longer than the wait."""


class SlackFailed(Exception):
    """The file can't be read or written."""


class SlackDamaged(SlackFailed):
    """The file is not what its own headers say: what belongs to nothing can't be told, and no more is written to it."""


def erase(path: Path, wait_seconds: float) -> int:
    """Bring the log into the file, empty it, zero all slack, durably; return how many bytes were not zero.

    Others may read and write meanwhile. Raises SlackBusy, SlackDamaged, SlackFailed.
    """
    done = subprocess.run(  # noqa: S603 - this file, by this interpreter
        [sys.executable, "-I", __file__, str(path), str(wait_seconds)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == _BUSY_EXIT:
        raise SlackBusy(f"{path} is in use: {done.stderr.strip()}")
    if done.returncode == _DAMAGED_EXIT:
        raise SlackDamaged(f"{path} is damaged: {done.stderr.strip()}")
    if done.returncode:
        raise SlackFailed(f"{path} can't be rewritten: {done.stderr.strip()}")
    return int(json.loads(done.stdout)["bytes"])


class Eraser:
    """One file, while it is worked on. In a process that has no other connection to it."""

    def __init__(self, path: Path, wait_seconds: float) -> None:
        """`wait_seconds` is how long others may keep it from going on."""
        self._log = Path(f"{path}-wal")
        self._wait = wait_seconds
        self._file = os.open(path, os.O_RDWR)  # never closed before the connection: see above
        self._connection = sqlite3.connect(path, timeout=min(wait_seconds, 5.0), isolation_level=None)
        self._connection.execute("PRAGMA synchronous = FULL")
        self.erased = 0

    def run(self) -> None:
        """Do the whole file, a slice at a time."""
        first: int | None = 1
        while first is not None:
            first = self.step(first)
        self._empty_log(time.monotonic() + self._wait)

    def step(self, first: int) -> int | None:
        """Do a slice that begins with page `first`; return the first page that is left, None at the end."""
        with self._quiet():
            left = self._slice(first)
            os.fsync(self._file)
            # A change of no content: what others hold of the file in memory, slack included, is dropped by it.
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            self._connection.execute(f"PRAGMA user_version = {version}")
        return left

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Hold the write lock while the log is empty: then nobody else has anything to write into the file."""
        until = time.monotonic() + self._wait
        while True:
            self._empty_log(until)
            self._connection.execute("BEGIN IMMEDIATE")
            if not self._log.exists() or not self._log.stat().st_size:
                break
            self._connection.execute("ROLLBACK")
            if time.monotonic() > until:
                raise SlackBusy("others write to it all the time")
        yield
        self._connection.execute("COMMIT")

    def _empty_log(self, until: float) -> None:
        while self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > until:
                raise SlackBusy("a reader of an older state does not end")
            time.sleep(_RETRY_SECONDS)

    def _slice(self, first: int) -> int | None:
        """Do some pages from `first` on; return the first that is left, None at the end."""
        until = time.monotonic() + _SLICE_SECONDS
        head = os.pread(self._file, _HEADER, 0)
        size = int.from_bytes(head[16:18], "big")
        size = 65_536 if size == 1 else size
        if any(head[52:56]):
            raise OSError("the file has pages that only auto_vacuum makes, which ours never have")
        pages = os.fstat(self._file).st_size // size
        trunks, free = self._free(head, size, pages)
        while first <= pages:
            count = min(_BLOCK_PAGES, pages - first + 1)
            block = memoryview(os.pread(self._file, count * size, (first - 1) * size))
            for number in range(first, first + len(block) // size):
                page = bytes(block[(number - first) * size : (number - first + 1) * size])
                if number in free:
                    ranges: Iterator[tuple[int, int]] = iter([(0, size)])
                elif number in trunks:
                    ranges = iter([(8 + 4 * trunks[number], size)])
                else:
                    ranges = self._of_tree(page, number, size, size - head[20])
                for start, end in ranges:
                    self._zero((number - 1) * size + start, page[start:end])
            first += count
            if time.monotonic() > until:
                break
        return first if first <= pages else None

    def _free(self, head: bytes, size: int, pages: int) -> tuple[dict[int, int], set[int]]:
        """Return the trunk pages of the list of free pages with the number of their leaves, and those leaves."""
        trunks: dict[int, int] = {}
        leaves: set[int] = set()
        trunk = int.from_bytes(head[32:36], "big")
        while 0 < trunk <= pages and trunk not in trunks:
            page = os.pread(self._file, size, (trunk - 1) * size)
            count = min(int.from_bytes(page[4:8], "big"), size // 4 - 2)
            trunks[trunk] = count
            leaves.update(struct.unpack_from(f">{count}I", page, 8))
            trunk = int.from_bytes(page[:4], "big")
        _require(not trunk and len(trunks) + len(leaves) == int.from_bytes(head[36:40], "big"), "its free pages")
        return trunks, leaves

    def _of_tree(self, page: bytes, number: int, size: int, usable: int) -> Iterator[tuple[int, int]]:
        """Yield the slack of a page of a tree. A page of an overflow chain is done with the cell that it belongs to.

        The first byte of such a page is the highest of a page number, 0 in any file of less than 2**25 pages.
        """
        at = _HEADER if number == 1 else 0
        kind = page[at]
        if kind not in (_INTERIOR_INDEX, _INTERIOR_TABLE, _LEAF_INDEX, _LEAF_TABLE):
            return
        block, cells, content = struct.unpack_from(">HHH", page, at + 1)
        pointers, content = at + (12 if kind in (_INTERIOR_INDEX, _INTERIOR_TABLE) else 8), content or 65_536
        _require(pointers + 2 * cells <= content <= usable, f"page {number}")
        yield pointers + 2 * cells, content
        behind = content
        while block:
            _require(behind <= block <= usable - 4, f"page {number}")
            following, length = struct.unpack_from(">HH", page, block)
            behind = block + length
            _require(4 <= length <= usable - block, f"page {number}")
            yield block + 4, behind
            block = following
        if kind != _INTERIOR_TABLE:
            before = 4 if kind == _INTERIOR_INDEX else 0
            least = 0x80 | min(_most_local(kind, usable) >> 7, 0x7F)  # first byte of an integer that is no less
            for pointer in struct.unpack_from(f">{cells}H", page, pointers):
                first, second = page[pointer + before], page[pointer + before + 1]
                if first >= least or (first >= 0x80 and second >= 0x80):  # else it is surely in the page whole
                    self._chain(page, pointer + before, kind, size, usable)

    def _chain(self, page: bytes, at: int, kind: int, size: int, usable: int) -> None:
        """Zero what stands behind the end of a cell's payload in the last page of its overflow chain."""
        payload, at = _varint(page, at)
        most = _most_local(kind, usable)
        if kind == _LEAF_TABLE:
            _, at = _varint(page, at)
        if payload <= most:
            return
        least = (usable - 12) * 32 // 255 - 23
        local = least + (payload - least) % (usable - 4)
        local = local if local <= most else least
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        rest = payload - local
        while rest > usable - 4:
            following = self._following(following, size)
            rest -= usable - 4
        start = (following - 1) * size + 4 + rest
        # Only the last page of a chain names none: a page of a tree begins with its kind.
        _require(not self._following(following, size), "a long row")
        self._zero(start, os.pread(self._file, usable - 4 - rest, start))

    def _following(self, page: int, size: int) -> int:
        """Return the page that a page of an overflow chain names as the next one, 0 in the last."""
        named = os.pread(self._file, 4, (page - 1) * size) if page > 1 else b""
        _require(len(named) == 4, "a long row")
        return int.from_bytes(named, "big")

    def _zero(self, start: int, found: bytes) -> None:
        dirty = len(found) - found.count(0)
        if dirty:
            self.erased += dirty
            os.pwrite(self._file, bytes(len(found)), start)


def _require(right: bool, what: str) -> None:
    if not right:
        raise SlackDamaged(f"{what} can't be what the file says")


def _most_local(kind: int, usable: int) -> int:
    """Return how many bytes of payload a cell keeps in its page at most."""
    return usable - 35 if kind == _LEAF_TABLE else (usable - 12) * 64 // 255 - 23


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """Return SQLite's variable-length integer at a position, and the position behind it."""
    value = 0
    for step in range(8):
        value = value << 7 | page[at + step] & 0x7F
        if page[at + step] < 0x80:
            return value, at + step + 1
    return value << 8 | page[at + 8], at + 9


def main(path: str, wait_seconds: str) -> int:
    """Run in the process of its own."""
    try:
        eraser = Eraser(Path(path), float(wait_seconds))
        eraser.run()
    except SlackBusy as error:
        print(error, file=sys.stderr)  # noqa: T201
        return _BUSY_EXIT
    except sqlite3.Error as error:
        print(error, file=sys.stderr)  # noqa: T201
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return _BUSY_EXIT
        return _DAMAGED_EXIT if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else _STORAGE_EXIT
    except (SlackDamaged, IndexError, struct.error) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return _DAMAGED_EXIT
    except OSError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return _STORAGE_EXIT
    print(json.dumps({"bytes": eraser.erased}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
