"""Index a path whenever it changes, until someone ends it or nothing but a person can help."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from indexes.errors import StorageFull, StoreBusy
from ingest.errors import PathError, RunLocked
from ragsvc.errors import (
    BudgetRefused,
    CollectionBusy,
    ProviderError,
    SourceRemoved,
    StorageBusy,
    StorageFailed,
)
from ragsvc.indexing import IndexOutcome

Look = Callable[[], Awaitable[IndexOutcome]]
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
_WAIT_FOR_CHANGE: Final = (PathError, BudgetRefused)
"""The folder is gone, empty, or has lost most of its files; a round would cost too much. Nothing was changed."""
_PASSES: Final = (RunLocked, StoreBusy, StorageFull, StorageBusy, StorageFailed, CollectionBusy)
"""Someone else is at work, or the disk is full: it passes."""


@dataclass(slots=True)
class Following:
    """Looks whenever it is told to. Between two rounds it holds no lock."""

    look: Look
    """One round: makes the collection equal to the path."""
    on_round: Callable[[IndexOutcome], None]
    """Told of every round that changed something, or rejected something else than before."""
    on_trouble: Callable[[str], None]
    """Told once what keeps a round from being done, and what happens next."""
    first_pause: float = FIRST_PAUSE_S
    _rejected: frozenset[tuple[str, str]] = frozenset()
    _told: str = ""

    async def follow(self, moments: AsyncIterator[None], first: IndexOutcome) -> None:
        """Do a round at each moment. `first` is the run before.

        Raises what only a person can mend: a quota, a key, settings. A provider that can't be reached is asked again
        after pauses of 5 s to 5 min.
        """
        self._rejected = _rejected(first)
        async for _ in moments:
            outcome = await self._round()
            if outcome is None:
                continue
            self._told = ""
            rejected = _rejected(outcome)
            if _changed(outcome) or rejected != self._rejected:
                self.on_round(outcome)
            self._rejected = rejected

    async def _round(self) -> IndexOutcome | None:
        pause = self.first_pause
        while True:
            try:
                return await self.look()
            except _WAIT_FOR_CHANGE as error:
                self._tell(f"{error}; nothing was changed, and watching goes on")
                return None
            except SourceRemoved as error:
                self._tell(f"{error}; watching goes on, and the next change of a file does that")
                return None
            except _PASSES as error:
                self._tell(f"{error}; it is tried again until it succeeds")
            except ProviderError as error:
                if not error.retryable:
                    raise
                self._tell(f"{error}; it is tried again until it succeeds")
                pause = max(pause, error.retry_after or 0.0)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _tell(self, trouble: str) -> None:
        if trouble != self._told:
            self.on_trouble(trouble)
        self._told = trouble


def _changed(outcome: IndexOutcome) -> bool:
    plan, report = outcome.plan, outcome.report
    return bool(
        plan.added or plan.changed or plan.renamed or plan.removed or plan.missing or (report and report.conflicts)
    )


def _rejected(outcome: IndexOutcome) -> frozenset[tuple[str, str]]:
    rejections = outcome.plan.rejected if outcome.report is None else outcome.report.rejected
    return frozenset((rejection.path, rejection.reason) for rejection in rejections)
