"""Bodies that were sent and are not indexed yet: one file a job, `<data directory>/uploads/<job id>`.

The documents of a job stand in its file one behind the other, so that a thousand of them cost one fsync. While a file
is being received its lock is held; the lock dies with the process, and a file that no unfinished job names and nobody
holds is a leftover.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from indexes.errors import NO_STORAGE, StorageFull
from indexes.failpoints import point
from ragsvc.errors import Overloaded, StorageFailed, UploadLost
from ragsvc.job_store import new_job_id
from ragsvc.jobs import NewFile

T = TypeVar("T")
_LOCK = ".lock"
_ZEROS = 1 << 20
"""Bytes a write."""


class Inbox:
    """The folder of received bodies. Safe for many threads and processes; every call blocks."""

    def __init__(self, folder: Path, most_bytes: int, kept_bytes: Callable[[], int]) -> None:
        """`most_bytes` may lie here and be under way; `kept_bytes` tells what accepted jobs keep."""
        self._folder, self._most_bytes, self._kept_bytes = folder, most_bytes, kept_bytes
        self._promised = 0
        self._guard = threading.Lock()

    def open(self, expected_bytes: int) -> "Delivery":
        """Begin to receive a body of at most so many bytes. Raises Overloaded when the inbox is full, StorageFull."""
        with self._guard:
            if self._kept_bytes() + self._promised + expected_bytes > self._most_bytes:
                raise Overloaded("too many uploads wait to be indexed; try again when some are done", retry_after=10.0)
            self._promised += expected_bytes
        try:
            with _translated(self._folder):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                return Delivery(self._folder, lambda: self._give_back(expected_bytes))
        except BaseException:
            self._give_back(expected_bytes)
            raise

    def read(self, job_id: str, file: NewFile) -> bytes:
        """Return the bytes of a document. Raises UploadLost where they are not there as they were received."""
        path = self._folder / job_id
        try:
            with path.open("rb") as body:
                body.seek(file.start)
                data = body.read(file.size)
        except FileNotFoundError:
            raise UploadLost(f"{path} is gone; send its documents again") from None
        if hashlib.sha256(data).digest() != file.content_hash:
            raise UploadLost(f"{path} is damaged; send its documents again")
        return data

    def erase(self, job_id: str, start: int, size: int) -> None:
        """Overwrite the bytes of one document of a job with zeros, durably; nothing where the body is gone."""
        path = self._folder / job_id
        with _translated(path), contextlib.suppress(FileNotFoundError), path.open("r+b", buffering=0) as body:
            body.seek(start)
            rest = min(size, max(0, path.stat().st_size - start))
            while rest:
                rest -= body.write(bytes(min(rest, _ZEROS))) or 0
            os.fsync(body.fileno())

    def drop(self, job_id: str) -> None:
        """Remove the body of a finished job."""
        point("inbox.drop")
        (self._folder / job_id).unlink(missing_ok=True)
        point("inbox.unlock")
        (self._folder / f"{job_id}{_LOCK}").unlink(missing_ok=True)

    def sweep(self, wanted: Callable[[], Collection[str]]) -> int:
        """Remove what neither belongs to a job of `wanted()` nor is being received; return how many bodies went."""
        found = {entry.name.removesuffix(_LOCK) for entry in self._folder.iterdir()} if self._folder.is_dir() else set()
        swept = 0
        for job_id in found - set(wanted()):
            with contextlib.suppress(Timeout), FileLock(self._folder / f"{job_id}{_LOCK}", timeout=0, mode=0o600):
                if job_id not in wanted():  # it may have been accepted between the two looks
                    self.drop(job_id)
                    swept += 1
        return swept

    def _give_back(self, promised: int) -> None:
        with self._guard:
            self._promised -= promised


class Delivery:
    """One body while it is being received. End it by `hand_over`, and by `discard` in any case.

    `begin`, `write` and `end` take one document after another; `seal` makes all of it durable.
    """

    def __init__(self, folder: Path, ended: Callable[[], None]) -> None:
        self.id = new_job_id()
        self.files: list[NewFile] = []
        self._path = folder / self.id
        # Not at once: a sweep may have seen the lock before it was taken, and holds it for a moment.
        self._lock = FileLock(folder / f"{self.id}{_LOCK}", timeout=10, mode=0o600, thread_local=False)
        self._lock.acquire()
        self._body = open(  # noqa: SIM115 - closed by seal or discard; no Path.open takes a mode
            self._path, "xb", buffering=0, opener=lambda path, flags: os.open(path, flags, 0o600)
        )
        self._ended: Callable[[], None] | None = ended
        self._fate = threading.Lock()
        self._guard = threading.Lock()
        self._name = ""
        self._start = self._at = 0
        self._hash = hashlib.sha256()

    def begin(self, path: str) -> None:
        """Begin a document."""
        self._name, self._start, self._hash = path, self._at, hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Take bytes of the document. Raises StorageFull."""
        with self._guard, _translated(self._path):
            point("inbox.write")
            rest = memoryview(data)
            while rest:
                rest = rest[self._body.write(rest) :]
            self._hash.update(data)
            self._at += len(data)

    def end(self) -> None:
        """End the document."""
        size = self._at - self._start
        self.files.append(NewFile(self._name, self._hash.digest(), self._start, size, time.time_ns()))

    def seal(self) -> None:
        """Make the body durable, its name included. Raises StorageFull."""
        with self._guard, _translated(self._path):
            point("inbox.sync")
            os.fsync(self._body.fileno())
            self._body.close()
            point("inbox.sync-folder")
            for folder in (self._path.parent, self._path.parent.parent):
                _sync_folder(folder)

    def hand_over(self, accept: Callable[[], T]) -> T:
        """Leave the body to the job that `accept` makes, and return the job."""
        with self._fate:
            if self._ended is None:
                raise StorageFailed("the body was discarded before it was accepted")
            point("inbox.accept")
            accepted = accept()
            point("inbox.accepted")
            self._close()
        return accepted

    def discard(self) -> None:
        """Remove the body; nothing where it was left to its job."""
        with self._fate:
            if self._ended is not None:
                self._path.unlink(missing_ok=True)
                self._close()

    def _close(self) -> None:
        with self._guard:
            self._body.close()
            ended, self._ended = self._ended, None
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)
        if ended is not None:
            ended()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_STORAGE:
            raise StorageFull(f"{path} can't be written: {error.strerror}; make room, then send it again") from error
        raise StorageFailed(f"{path} can't be written: {error}") from error
