"""When a folder is looked at again: real folders, real notices. No test says how long anything takes."""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import Path

import pytest
import watchfiles

from ingest import watching
from ingest.watching import Pace, moments

PACE = Pace(quiet=0.1, longest=2.0, sweep=3600, poll=0.05)
Moments = AsyncGenerator[None, None]


def follow(path: Path, act: Callable[[Moments], Awaitable[None]], *left_out: str, pace: Pace = PACE) -> None:
    """Set up a watch, wait for its first moment, then act."""

    async def run() -> None:
        times = moments(path, left_out, pace)
        try:
            await anext(times)
            await act(times)
        finally:
            await times.aclose()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "docs" / "inner").mkdir(parents=True)
    (tmp_path / "docs" / "a.txt").write_text("a")
    return tmp_path / "docs"


def test_every_kind_of_change_brings_a_moment(folder):
    """Writing, saving by rename, deleting, a new folder with a file, and renaming a folder are all noticed."""

    async def act(times: Moments) -> None:
        def save_by_rename() -> None:
            (folder / "a.tmp").write_text("b")
            (folder / "a.tmp").replace(folder / "a.txt")

        def new_folder() -> None:
            (folder / "new" / "deep").mkdir(parents=True)
            (folder / "new" / "deep" / "c.txt").write_text("c")

        for change in (
            lambda: (folder / "inner" / "b.txt").write_text("b"),
            save_by_rename,
            new_folder,
            lambda: (folder / "new").rename(folder / "other"),
            lambda: (folder / "other" / "deep" / "c.txt").write_text("cc"),
            (folder / "inner" / "b.txt").unlink,
        ):
            change()
            await anext(times)

    follow(folder, act)


async def count_until(times: Moments, done: Callable[[], bool], changes: Iterable[Callable[[], object]]) -> int:
    """Make the changes one after another with pauses; return how many moments came until `done` was true at one."""
    count = 0

    async def listen() -> None:
        nonlocal count
        async for _ in times:
            count += 1
            if done():
                return

    listening = asyncio.create_task(listen())
    for change in changes:
        change()
        await asyncio.sleep(2 * PACE.quiet)
    await listening
    return count


def test_what_a_walk_skips_is_nobodys_business(folder):
    """Writing fifteen times below skipped names and the service's own data brings no moments; other changes do."""
    (folder / ".git").mkdir()
    (folder / "own").mkdir()
    skipped = (folder / ".git" / "index", folder / "own" / "store.db", folder / ".a.txt.swp")

    async def act(times: Moments) -> None:
        quiet = [lambda path=path: path.write_text("x") for path in skipped * 5]
        count = await count_until(times, (folder / "b").exists, [*quiet, lambda: (folder / "b").write_text("b")])
        assert count <= 3

    follow(folder, act, str(folder / "own"))


def test_a_burst_is_few_moments(folder):
    """A hundred files written in a row bring a few moments, not a hundred; the last one comes after the last file."""

    async def act(times: Moments) -> None:
        def burst() -> None:
            for number in range(100):
                (folder / f"{number}.txt").write_text("x")

        assert await count_until(times, (folder / "99.txt").exists, [burst]) <= 10

    follow(folder, act)


def test_a_folder_that_vanishes_and_comes_back_is_watched_again(folder):
    """A moment tells that the folder is gone, another that one is back in its place, and then its changes are told."""

    async def act(times: Moments) -> None:
        shutil.rmtree(folder)
        await anext(times)
        while folder.exists() is False:
            folder.mkdir()
            await anext(times)
        (folder / "b.txt").write_text("b")
        await anext(times)

    follow(folder, act)


def test_a_single_file_is_watched_through_renames(folder):
    """A file that is replaced by another of its name is told of again and again; its neighbours are not."""
    file = folder / "a.txt"

    async def act(times: Moments) -> None:
        for number in range(3):
            (folder / "beside").write_text(str(number))
            (folder / "beside").replace(file)
            await anext(times)
        (folder / "last").write_text("y")

    follow(file, act)


def test_without_notices_the_folder_is_looked_at_all_the_same(folder, monkeypatch):
    """Where the system has no watches left, moments come by themselves; and now and then where it has."""

    async def refused(*_: object, **__: object) -> AsyncGenerator[set[object], None]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield set()

    async def several(times: Moments) -> None:
        for _ in range(3):
            await anext(times)

    follow(folder, several, pace=Pace(quiet=0.05, longest=1, sweep=0.1, poll=0.05))
    monkeypatch.setattr(watchfiles, "awatch", refused)
    follow(folder, several)


def test_what_happens_during_a_look_is_told_afterwards(folder):
    """A change that is made while the caller is busy brings the next moment."""

    async def act(times: Moments) -> None:
        (folder / "b.txt").write_text("b")
        await asyncio.sleep(3 * PACE.quiet)  # nobody is listening
        await anext(times)

    follow(folder, act)


def test_only_what_lies_below_concerns_a_watch():
    """Names that merely begin like the folder's are not below it."""
    concerns = watching._concerns(Path("/a/docs"), ("/a/docs/own",))
    assert concerns(None, "/a/docs/inner/x.md")
    assert not any(concerns(None, f"/a/docs/{path}") for path in (".git/index", "own/store.db", "b/.env", "a/.x.swp"))
    assert [
        concerns(None, path) for path in ("/a/docs", "/a/docs/x", "/a/docs/owner", "/a/docs/own", "/a/docs2/x")
    ] == [
        True,
        True,
        True,
        False,
        False,
    ]
