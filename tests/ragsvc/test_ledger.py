"""The buffer before the ledger: rows are written once, in order, many at a time, and kept while the store refuses."""

import logging
import threading
from collections.abc import Sequence

import pytest

from ragsvc import ledger
from ragsvc.errors import StorageFailed
from ragsvc.ledger import LedgerBuffer, LedgerEntry

NEVER = 3600.0


def entry(number: int) -> LedgerEntry:
    return LedgerEntry("ask", "chat", "m", "openai", input_tokens=number)


class Sink:
    """Takes groups of rows; refuses the first `failures` of them."""

    def __init__(self, failures: int = 0) -> None:
        self.groups: list[list[int]] = []
        self.failures = failures
        self.came = threading.Event()

    def __call__(self, entries: Sequence[LedgerEntry]) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageFailed("the disk is full")
        self.groups.append([row.input_tokens for row in entries])
        self.came.set()


def test_rows_are_written_together_and_in_order() -> None:
    """Nothing is written before the time, and then all rows in one group."""
    sink = Sink()
    buffer = LedgerBuffer(sink, NEVER)
    for number in range(5):
        buffer.add(entry(number))
    assert sink.groups == []
    buffer.flush()
    buffer.flush()
    assert sink.groups == [[0, 1, 2, 3, 4]]
    buffer.close()


def test_the_timer_writes_by_itself() -> None:
    """A row is written without anybody asking for it, and so is one that comes after that."""
    sink = Sink()
    buffer = LedgerBuffer(sink, 0.01)
    for number in range(2):
        sink.came.clear()
        buffer.add(entry(number))
        assert sink.came.wait(30)
    assert sink.groups == [[0], [1]]
    buffer.close()


def test_close_writes_what_waits_and_ends() -> None:
    """Closing commits the rest and leaves no timer; a row that comes later is given up with a word in the log."""
    sink = Sink()
    buffer = LedgerBuffer(sink, NEVER)
    buffer.add(entry(1))
    buffer.close()
    assert sink.groups == [[1]]
    assert buffer._timer is None
    buffer.add(entry(2))
    buffer.close()
    assert sink.groups == [[1]]


def test_refused_rows_wait_and_are_written_once(caplog: pytest.LogCaptureFixture) -> None:
    """While the store refuses, rows stay, before those that came meanwhile; the next try writes each of them once."""
    sink = Sink(failures=2)
    buffer = LedgerBuffer(sink, 0.01)
    with caplog.at_level(logging.WARNING):
        buffer.add(entry(1))
        assert sink.came.wait(30)
    assert sink.groups == [[1]]
    assert sum("trying again" in record.message for record in caplog.records) == 2
    buffer.close()

    def refuse(entries: Sequence[LedgerEntry]) -> None:
        held._write = sink
        held.add(entry(3))
        raise StorageFailed("the disk is full")

    held = LedgerBuffer(refuse, NEVER)
    held.add(entry(2))
    with pytest.raises(StorageFailed):
        held.flush()
    held.close()
    assert sink.groups == [[1], [2, 3]]


def test_a_close_that_fails_says_so() -> None:
    """Rows that can't be written at the end are an error, not silence, and no timer goes on trying."""
    buffer = LedgerBuffer(Sink(failures=9), NEVER)
    buffer.add(entry(1))
    with pytest.raises(StorageFailed):
        buffer.close()
    assert buffer._timer is None


def test_a_full_disk_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the bound the oldest rows are given up, and the log counts them."""
    monkeypatch.setattr(ledger, "_MOST_WAITING", 3)
    sink = Sink(failures=1)
    buffer = LedgerBuffer(sink, NEVER)
    for number in range(5):
        buffer.add(entry(number))
    with pytest.raises(StorageFailed):
        buffer.flush()
    buffer.close()
    assert sink.groups == [[2, 3, 4]]
    assert "2 rows of the ledger are given up" in caplog.text


def test_many_threads_lose_nothing() -> None:
    """Rows from many threads, with flushes among them, are each written exactly once."""
    sink = Sink()
    buffer = LedgerBuffer(sink, 0.001)

    def work(first: int) -> None:
        for number in range(first, first + 200):
            buffer.add(entry(number))
            if number % 50 == 0:
                buffer.flush()

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buffer.close()
    written = [number for group in sink.groups for number in group]
    assert sorted(written) == [1000 * n + i for n in range(6) for i in range(200)]
