"""What every command shares: the options they all have, and the service they work with."""

import asyncio
import contextlib
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
    """Do some work with a composed service, and close it."""

    async def composed() -> Result:
        async with contextlib.aclosing(House(settings)) as house:
            return await work(house)

    return asyncio.run(composed())
