"""Exact vectors in a file: float16, row = vector id, one file per embedding spec, shared by all generations.

The file is derived from the store and written by the builder alone, at the ends of segments; readers map it. A checksum
for each block of a segment's range stands in the segment's row, and is compared when a block is first touched: a block
that is damaged, missing or another collection's is never scored, its rows come from the store.
"""

import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from indexes.failpoints import point
from indexes.types import FloatMatrix, IdArray

HALF: Final = np.dtype("<f2")
"""How a vector is kept, here and in the store: IEEE 754 half precision, little-endian, which is 2 bytes a number."""
BLOCK_BYTES: Final = 1 << 16
"""Checked at once. A search touches some 200 rows: blocks of 64 KiB make that 13 MB, read and checked but once."""
_CHECKSUM: Final = np.dtype("<u4")
"""CRC-32 (ISO 3309, as zlib has it): finds every burst of up to 32 bits, and all but 2**-32 of anything else."""
_WINDOW_BYTES: Final = 4 << 20
_BATCH_BYTES: Final = 8 << 20
"""Of float32, that one batch of rows takes while an index is built."""

HalfMatrix = npt.NDArray[np.float16]
"""Vectors as they are kept, as rows."""


def units(stored: HalfMatrix) -> FloatMatrix:
    """Return vectors (n, dimensions) as they were kept as float32 of unit length again; a zero row stays zero."""
    vectors = _widened(stored)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    norms[norms == 0] = 1
    norms[norms >= _INFINITE] = np.nan
    vectors /= norms[:, None]
    return vectors


_INFINITE: Final = 65_536.0
"""What `_widened` makes of infinity, which float16 can't hold otherwise."""


def _widened(stored: HalfMatrix) -> FloatMatrix:
    """Return float16 as float32, each number exactly; infinities and NaN become numbers from 65,536 on.

    Twice as fast as numpy's conversion: exponent and fraction are shifted to where float32 has them, and the exponent's
    other bias is a multiplication, exact for subnormal numbers too (F. Giesen, "Half to float done quic(k)", 2012).
    """
    bits = stored.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(~0x7000_0000)  # what the sign left behind on its way up
    vectors: FloatMatrix = bits.view(np.float32)
    vectors *= np.float32(2.0**112)
    return vectors


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows of one segment stand in the file, and which block each is in."""

    dimensions: int
    first: int
    """Id of its first row; blocks begin there."""
    last: int

    @property
    def row_bytes(self) -> int:
        """Size of a vector."""
        return self.dimensions * HALF.itemsize

    @property
    def block_rows(self) -> int:
        """Rows of a block: whole ones, at least one."""
        return max(1, BLOCK_BYTES // self.row_bytes)

    @property
    def rows(self) -> int:
        """Rows of the range, those without a vector included."""
        return self.last - self.first + 1

    @property
    def blocks(self) -> int:
        """Blocks of the range; the last one may be shorter."""
        return -(-self.rows // self.block_rows)

    @property
    def start(self) -> int:
        """Offset of the range in the file."""
        return self.first * self.row_bytes

    @property
    def end(self) -> int:
        """Offset behind the range."""
        return (self.last + 1) * self.row_bytes

    def checksums(self, rows: HalfMatrix, block: int = 0) -> bytes:
        """Return those of consecutive blocks whose rows (n, dimensions) are given, from the start of `block` on."""
        size = self.block_rows
        starts = range(0, min(len(rows), self.rows - block * size), size)
        return np.array(
            [zlib.crc32(np.ascontiguousarray(rows[at : at + size]).data) for at in starts], _CHECKSUM
        ).tobytes()


class VectorMap:
    """The file of one embedding spec, for the one process that holds the build lock."""

    def __init__(self, path: Path, dimensions: int) -> None:
        """`path` need not exist yet."""
        self.path = path
        self._dimensions = dimensions

    def write(
        self, first: int, last: int, batches: Callable[[int, int], Iterator[tuple[IdArray, HalfMatrix]]]
    ) -> tuple[IdArray, bytes]:
        """Make the rows first..last those of `batches`, durably; return their ids and the checksums of the blocks.

        `batches(a, b)` gives ids (n,), rising, and rows (n, dimensions) of the vectors with a <= id <= b; ids without a
        vector become zero rows. Only what differs is written, so a range that is right already costs no write. Raises
        OSError.
        """
        layout = Layout(self._dimensions, first, last)
        all_ids, checksums = [np.empty(0, np.int64)], bytearray()
        _remove_unusable(self.path)
        with _opened(self.path, os.O_RDWR | os.O_CREAT) as descriptor:
            for start, stop in windows(layout):
                ids, rows = _gathered(layout, start, stop, batches)
                all_ids.append(ids)
                checksums += layout.checksums(rows, (start - first) // layout.block_rows)
                self._put(descriptor, start * layout.row_bytes, rows)
            if os.fstat(descriptor).st_size < layout.end:
                os.ftruncate(descriptor, layout.end)
            point("map.sync")
            os.fsync(descriptor)
        return np.concatenate(all_ids), bytes(checksums)

    def zero(self, ids: IdArray) -> None:
        """Erase the rows of `ids`, durably. Raises OSError; a file or row that is not there needs no erasing."""
        row = Layout(self._dimensions, 0, 0).row_bytes
        _remove_unusable(self.path)
        if not self.path.exists():
            return
        with _opened(self.path, os.O_RDWR) as descriptor:
            size = os.fstat(descriptor).st_size
            for one in ids.tolist():
                if one * row < size:
                    point("map.zero")
                    _write_all(descriptor, one * row, bytes(min(row, size - one * row)))
            point("map.sync")
            os.fsync(descriptor)

    def _put(self, descriptor: int, offset: int, rows: HalfMatrix) -> None:
        data = rows.tobytes()
        here = os.pread(descriptor, len(data), offset)
        if here == data or (not here and not rows.view(np.uint16).any()):
            return  # a hole reads as zeros
        point("map.write")
        _write_all(descriptor, offset, data)


class MappedRows:
    """The exact vectors of one segment. Satisfies `ExactRows`, and `BuildRows` where it was given its ids.

    Memory that is mapped is the system's to keep or drop. To read it beyond the end of its file would end the process
    (SIGBUS), so the file's size is asked for first. Safe from many threads.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        checksums: bytes,
        stored: Callable[[IdArray], HalfMatrix],
        on_damage: Callable[[], None],
        ids: IdArray | None = None,
    ) -> None:
        """`stored` returns the rows of ids from the store; `on_damage` is told, each time, of a block that is wrong.

        A file that is missing or too short is damage like any other.
        """
        self.layout = layout
        self.ids = np.empty(0, np.int64) if ids is None else ids
        self._stored, self._on_damage = stored, on_damage
        self._checksums = np.frombuffer(checksums, _CHECKSUM)
        self._good = np.zeros(layout.blocks, np.bool_)
        mapped = _mapped(path, layout) if len(self._checksums) == layout.blocks else None
        self._memory = mapped and mapped[0]
        self._rows = mapped and mapped[1]
        if self._rows is None:
            on_damage()

    @property
    def dimensions(self) -> int:
        """Width of each vector."""
        return self.layout.dimensions

    @property
    def size(self) -> int:
        """Number of rows that have a vector, as they were when the segment was built."""
        return len(self.ids)

    def take(self, ids: IdArray) -> FloatMatrix:
        """Return the vectors of `ids`, shape (len(ids), dimensions): see `ExactRows`."""
        if self._rows is None:
            return units(self._stored(ids))
        if self._is_cut():
            self._on_damage()
            return units(self._stored(ids))
        at = ids - self.layout.first
        wrong = self._wrong(at // self.layout.block_rows)
        rows = self._rows[at]
        if wrong is not None:
            self._on_damage()
            rows[wrong] = self._stored(ids[wrong])
        return units(rows)

    def batches(self) -> Iterator[tuple[IdArray, FloatMatrix]]:
        """Yield all rows, some MB at a time: see `BuildRows`."""
        step = max(1, _BATCH_BYTES // (2 * self.layout.row_bytes))
        for start in range(0, len(self.ids), step):
            ids = self.ids[start : start + step]
            yield ids, self.take(ids)

    def damaged(self) -> IdArray:
        """Return the numbers of all blocks that are wrong, every one of them read."""
        blocks = np.arange(self.layout.blocks)
        if self._rows is None or self._is_cut():
            return blocks
        return blocks[[not self._matches(block) for block in blocks.tolist()]]

    def _is_cut(self) -> bool:
        """Whether the file was cut short since it was mapped; then nothing that was checked before holds any more."""
        assert self._memory is not None  # noqa: S101 - asked only where the file is mapped
        cut = self._memory.size() < self.layout.end
        if cut:
            self._good[:] = False
        return cut

    def _wrong(self, blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
        """Return which of the rows stand in blocks that are wrong; None for none, as nearly always."""
        unknown = ~self._good[blocks]
        if not unknown.any():
            return None
        for block in np.unique(blocks[unknown]).tolist():
            self._good[block] = self._matches(block)
        wrong: npt.NDArray[np.bool_] = ~self._good[blocks]
        return wrong if wrong.any() else None

    def _matches(self, block: int) -> bool:
        assert self._rows is not None  # noqa: S101 - asked only where the file is mapped
        start = block * self.layout.block_rows
        return zlib.crc32(self._rows[start : start + self.layout.block_rows].data) == int(self._checksums[block])


def windows(layout: Layout) -> Iterator[tuple[int, int]]:
    """Yield the range as (first id, last id) of whole blocks, some MB at a time."""
    step = layout.block_rows * max(1, _WINDOW_BYTES // (layout.block_rows * layout.row_bytes))
    for start in range(layout.first, layout.last + 1, step):
        yield start, min(start + step - 1, layout.last)


def _gathered(
    layout: Layout, start: int, stop: int, batches: Callable[[int, int], Iterator[tuple[IdArray, HalfMatrix]]]
) -> tuple[IdArray, HalfMatrix]:
    rows = np.zeros((stop - start + 1, layout.dimensions), HALF)
    found = [np.empty(0, np.int64)]
    for ids, vectors in batches(start, stop):
        rows[ids - start] = vectors
        found.append(ids)
    return np.concatenate(found), rows


def _mapped(path: Path, layout: Layout) -> tuple[mmap.mmap, HalfMatrix] | None:
    """Map a range, read-only; None where the file is not there or ends before it."""
    start = layout.start - layout.start % mmap.ALLOCATIONGRANULARITY
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < layout.end:
                return None
            memory = mmap.mmap(file.fileno(), layout.end - start, access=mmap.ACCESS_READ, offset=start)
    except (OSError, ValueError):  # the latter where it was cut short between the two
        return None
    rows = np.frombuffer(memory, HALF, layout.rows * layout.dimensions, layout.start - start)
    return memory, rows.reshape(layout.rows, layout.dimensions)


def _remove_unusable(path: Path) -> None:
    """Remove what stands in the place of the file and can't be one: it is derived, and is made anew."""
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        remove(path)


def remove(path: Path) -> None:
    """Remove what stands in the place of a derived file, a folder too, if anything does. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, offset: int, data: bytes) -> None:
    """Write all of `data`: a disk that fills up may take a part first."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
