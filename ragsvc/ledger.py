"""What was spent, by whom, on what: the rows, and the buffer that commits many of them at once."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from ragsvc.errors import RagsvcError
from ragsvc.types import Role

Purpose = Literal["ask", "ingest", "nightly", "moderation", "verify"]
Dimension = Literal["day", "purpose", "role", "model", "provider", "collection"]
"""What usage can be grouped by; a day is one of UTC."""

FLUSH_SECONDS = 0.2
"""How long a row may wait for others before it is committed: what a kill can lose."""
_LONGEST_PAUSE = 30.0
"""Seconds between two tries while the disk refuses: the pause doubles with each."""
_MOST_WAITING = 100_000
"""Rows kept while the disk refuses them; beyond, the oldest are given up, and the log says so."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One request to a provider, paid for or failed."""

    purpose: Purpose
    role: Role
    model: str
    provider: str
    """`openai` or `local`."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    """None when the model's price is unknown."""
    collection: str | None = None
    """Id of the collection, where it was for one."""
    outcome: str = "ok"
    """`ok`, or the problem code of what went wrong."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """With a time zone."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums over the entries that agree in what they are grouped by."""

    group: Mapping[Dimension, str | None]
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    """Of the requests whose price is known."""
    unpriced: int
    """Requests whose price is not known."""


class LedgerBuffer:
    """Rows on their way to the store. `add` costs an append; a timer commits all that came within `FLUSH_SECONDS`."""

    def __init__(self, write: Callable[[Sequence[LedgerEntry]], None], seconds: float = FLUSH_SECONDS) -> None:
        """`write` stores rows in one transaction, or raises RagsvcError and has stored none."""
        self._write, self._seconds = write, seconds
        self._pause = seconds
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[LedgerEntry] = []
        self._timer: threading.Timer | None = None
        self._closed = False

    def add(self, entry: LedgerEntry) -> None:
        """Take a row; it is committed soon, in the order in which rows came."""
        with self._guard:
            if self._closed:
                _log.error("a row of the ledger came after its end and is given up: %s", entry)
                return
            self._waiting.append(entry)
            self._arm()

    def flush(self) -> None:
        """Commit what waits now. Raises RagsvcError; the rows then wait for the next try."""
        with self._writing:
            with self._guard:
                entries, self._waiting = self._waiting, []
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            if not entries:
                return
            try:
                self._write(entries)
            except BaseException:
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                self._keep(entries)
                raise
            self._pause = self._seconds

    def close(self) -> None:
        """Commit what waits, and try no more: rows that can't be written now are given up, and RagsvcError raised."""
        with self._guard:
            self._closed = True
        self.flush()

    def _arm(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = threading.Timer(self._pause, self._flush_quietly)
            self._timer.daemon = True
            self._timer.start()

    def _keep(self, entries: list[LedgerEntry]) -> None:
        with self._guard:
            self._waiting = [*entries, *self._waiting]
            lost = len(self._waiting) - _MOST_WAITING
            if lost > 0:
                del self._waiting[:lost]
                _log.error("%d rows of the ledger are given up: the store refuses them", lost)
            self._arm()

    def _flush_quietly(self) -> None:
        try:
            self.flush()
        except RagsvcError as error:
            _log.warning("the ledger is not written yet, trying again: %s", error)
