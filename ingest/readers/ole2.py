"""OLE2 files (DOC, XLS, PPT, MSG and encrypted office documents): which kind one is. Their text is not read.

Format: [MS-CFB], https://learn.microsoft.com/en-us/openspecs/windows_protocols/ms-cfb.
"""

import struct
from collections.abc import Iterator
from typing import Final

MARK: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

_ENTRY: Final = 128
_IN_HEADER: Final = 109  # sector numbers of the allocation table that the header has room for
_MAX_ENTRIES: Final = 10_000
_LAST: Final = 0xFFFFFFFA  # higher numbers are marks, not sectors


def streams(data: bytes) -> frozenset[str]:
    """Return the names of what lies at the top of an OLE2 file, as far as they can be read."""
    try:
        entries = list(_entries(data))
    except (struct.error, IndexError, UnicodeDecodeError):
        return frozenset()
    names: set[str] = set()
    seen: set[int] = set()
    ahead = [entries[0][3]] if entries else []
    while ahead:  # siblings form a binary tree
        number = ahead.pop()
        if number < len(entries) and number not in seen:
            seen.add(number)
            name, left, right, _ = entries[number]
            names.add(name)
            ahead += (left, right)
    return frozenset(names)


def _entries(data: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Yield the directory's entries: name, left and right sibling, child."""
    for number, sector in enumerate(_directory(data)):
        for at in range(0, len(sector) - _ENTRY + 1, _ENTRY):
            (length,) = struct.unpack_from("<H", sector, at + 64)
            name = sector[at : at + max(0, min(length, 64) - 2)].decode("utf-16-le", "replace")
            left, right, child = struct.unpack_from("<III", sector, at + 68)
            yield name, left, right, child
        if number * len(sector) > _MAX_ENTRIES * _ENTRY:
            return


def _directory(data: bytes) -> Iterator[bytes]:
    """Yield the sectors of the directory, as the allocation table chains them."""
    (shift,) = struct.unpack_from("<H", data, 30)
    size = 1 << min(max(shift, 9), 12)
    (sector,) = struct.unpack_from("<I", data, 48)
    table = struct.unpack_from(f"<{_IN_HEADER}I", data, 76)
    visited: set[int] = set()
    while sector < _LAST and sector not in visited:
        visited.add(sector)
        yield data[(sector + 1) * size : (sector + 2) * size]
        block, place = divmod(sector, size // 4)
        if block >= _IN_HEADER:
            return
        (sector,) = struct.unpack_from("<I", data, (table[block] + 1) * size + place * 4)
