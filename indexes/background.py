"""One thread beside the searches, for what none of them may wait for."""

import logging
import threading
import time
from collections.abc import Callable

from indexes.errors import IndexesError

log = logging.getLogger("indexes")

_PAUSE = 1.0
"""Seconds after work that could not be finished (another process builds, the disk is full) before it is tried again."""
_LONGEST_PAUSE = 60.0
"""The pause doubles with each failure: a rebuild may be long, and a bad disk stays bad."""
_CLOSING_SECONDS = 10.0


class Background:
    """Does its work when it is woken, once for any number of calls meanwhile. Safe from many threads.

    The thread is started when it is first needed, and does not keep the process alive: all it does may be killed.
    """

    def __init__(self, work: Callable[[], bool]) -> None:
        """`work` says whether it is finished; otherwise it is called again a moment after the next `wake`."""
        self._work = work
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted = self._busy = self._closed = False
        self._not_before, self._pause = 0.0, _PAUSE

    def wake(self) -> None:
        """Have the work done soon. Returns at once."""
        with self._changed:
            if self._closed or self._wanted or time.monotonic() < self._not_before:
                return
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ragsvc-index", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settle(self, seconds: float) -> bool:
        """Wait until nothing is to be done, at most so long; say whether that was reached."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._wanted or self._busy), seconds)

    def close(self) -> None:
        """Let what has begun end, for a while, and begin nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSING_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    self._wanted = False
                    self._changed.notify_all()
                    return
                self._wanted, self._busy = False, True
            try:
                finished = self._work()
            except (IndexesError, OSError) as error:
                # The answers are right without it, so it is only logged, and tried again.
                log.warning("segments can't be renewed (%s); searches go on with what there is", error)
                finished = False
            except Exception:  # a bug, and no reason to end the thread
                log.exception("segments could not be renewed; searches go on with what there is")
                finished = False
            with self._changed:
                self._busy = False
                self._not_before = 0.0 if finished else time.monotonic() + self._pause
                self._pause = _PAUSE if finished else min(2 * self._pause, _LONGEST_PAUSE)
                self._changed.notify_all()
