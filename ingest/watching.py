"""When to look at a folder again: the one door to `watchfiles`.

A notice says no more than that something happened; what it was is found by comparing the folder with what is known of
it, as in any other run. So nothing depends on notices being complete or true: a folder on a disk that gives none (some
network file systems) is looked at every SWEEP_S seconds, one for which the system has no watches left every POLL_S.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from ingest.walk import is_skipped

Identity = tuple[int, int] | None
"""Device and inode; None where there is nothing."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds."""

    quiet: float = 1.0
    """Nothing may happen for so long before changes are looked at: a save is several steps, a copy many."""
    longest: float = 10.0
    """They are looked at after so long, quiet or not."""
    sweep: float = 60.0
    """Without any notice, the folder is looked at after so long."""
    poll: float = 5.0
    """The same, where the system gives no notices."""


def moments(path: Path, left_out: Collection[str] = (), pace: Pace = Pace()) -> AsyncGenerator[None, None]:
    """Yield, without end, whenever the folder (or file) at `path` should be looked at.

    That is: once as soon as changes are noticed, then after changes that came to rest, when what stands at `path` is
    gone, and when it is back or was replaced. Changes below names that a walk skips, and below the real paths
    `left_out`, are nobody's business. What changes while the caller is looking is told afterwards.
    """
    return _moments(Path(os.path.realpath(path)), left_out, pace)


async def _moments(path: Path, left_out: Collection[str], pace: Pace) -> AsyncGenerator[None, None]:
    concerns = _concerns(path, left_out)
    while True:
        seen = _identity(path)
        if seen is None:
            yield
            while _identity(path) is None:  # noqa: ASYNC110 - nobody tells when a folder comes back
                await asyncio.sleep(pace.quiet)
            continue
        try:
            async with aclosing(_noticed(path, seen, concerns, pace)) as times:
                async for _ in times:
                    yield
        except FileNotFoundError:
            continue  # gone between two looks
        except OSError:
            async with aclosing(_polled(path, seen, pace)) as times:
                async for _ in times:
                    yield


async def _noticed(
    path: Path, seen: Identity, concerns: Callable[[object, str], bool], pace: Pace
) -> AsyncGenerator[None, None]:
    """Yield when the watch is set up, after changes, and now and then, until something else stands at `path`."""
    last: float | None = None
    async with aclosing(_notices(path, concerns, pace, folder=_is_folder(path))) as notices:
        async for happened in notices:
            if _identity(path) != seen:
                return
            if happened or last is None or time.monotonic() - last >= pace.sweep:
                yield
                last = time.monotonic()


async def _notices(
    path: Path, concerns: Callable[[object, str], bool], pace: Pace, *, folder: bool
) -> AsyncGenerator[bool, None]:
    """Yield True after changes that came to rest, False where there was none for a while."""
    import watchfiles  # only a run that goes on watching needs it

    found = watchfiles.awatch(
        path if folder else path.parent,  # an editor puts another file in the place of a file
        watch_filter=concerns,
        debounce=round(pace.longest * 1000),
        step=round(pace.quiet * 1000),
        rust_timeout=round(pace.quiet * 1000),
        yield_on_timeout=True,
        recursive=folder,
        ignore_permission_denied=True,
        force_polling=False,
    )
    async with aclosing(found):
        async for changes in found:
            yield bool(changes)


async def _polled(path: Path, seen: Identity, pace: Pace) -> AsyncGenerator[None, None]:
    while _identity(path) == seen:
        yield
        await asyncio.sleep(pace.poll)


def _concerns(path: Path, left_out: Collection[str]) -> Callable[[object, str], bool]:
    """Return what says of a change at an absolute path whether a walk of `path` would see it."""
    root = str(path)
    prefix = root.rstrip("/") + "/"

    def concerns(_: object, changed: str) -> bool:
        if changed == root:
            return True
        if not changed.startswith(prefix):
            return False
        if any(changed == folder or changed.startswith(f"{folder}/") for folder in left_out):
            return False
        return not any(is_skipped(name) for name in changed.removeprefix(prefix).split("/"))

    return concerns


def _is_folder(path: Path) -> bool:
    return path.is_dir()


def _identity(path: Path) -> Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
