"""What every command shares: the options they all have, and the service they work with."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import rich_click as click

from ragsvc.compose import House
from ragsvc.settings import Settings

Result = TypeVar("Result")
collection_option = click.option(
    "--collection", default="default", show_default=True, metavar="NAME", help="Where to look."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def run(settings: Settings, work: Callable[[House], Awaitable[Result]]) -> Result:
    """Do some work with a composed service, and close it.

    An interrupt that comes when the work is done, or too late to keep it from being done, takes nothing back.
    """
    done: list[Result] = []

    async def composed() -> None:
        async with contextlib.aclosing(House(settings)) as house:
            done.append(await work(house))

    try:
        asyncio.run(composed())
    except KeyboardInterrupt:
        if not done:
            raise
        sys.stderr.write("ragsvc: the interrupt came when the work was done; nothing is taken back\n")
    return done[0]
