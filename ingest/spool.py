"""Parsed documents kept between planning and paying: in memory while small, then in a temporary file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from indexes.types import DocumentUpsert

_IN_MEMORY = 64 * 1024 * 1024
_LENGTH = 8


class Spool:
    """An append-only list of documents that need not fit in memory. Its file has no name and dies with the process."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` takes the temporary file, None the platform's place."""
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115 - closed by close()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(DocumentUpsert)
        self.count = 0

    def append(self, document: DocumentUpsert) -> None:
        """Keep one document."""
        packed = self._encoder.encode(document)
        self._file.write(len(packed).to_bytes(_LENGTH, "little"))
        self._file.write(packed)
        self.count += 1

    def __iter__(self) -> Iterator[DocumentUpsert]:
        """Yield the documents in order."""
        self._file.seek(0)
        while head := self._file.read(_LENGTH):
            yield self._decoder.decode(self._file.read(int.from_bytes(head, "little")))

    def close(self) -> None:
        """Drop everything."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
