"""Waiting by loop ticks, for what happens inside this process without an event of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def ticks(count: int = 10) -> None:
    """Let a few loop ticks pass: memory streams need one for each hop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(happened: Callable[[], object]) -> None:
    """Look in every loop tick whether it has `happened`, for twenty seconds at most."""
    async with asyncio.timeout(20):
        while not happened():  # noqa: ASYNC110 - there is no event to wait for, this is the point
            await asyncio.sleep(0)
