"""What came in, for one who waits for it."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """What comes in, for one who takes it."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self._came = asyncio.Event()

    def push(self, item: T) -> None:
        """Add `item` behind the others."""
        self.items.append(item)
        self._came.set()

    async def take(self, count: int) -> list[T]:
        """Remove and return the next `count` items; waits until there are as many."""
        while len(self.items) < count:
            self._came.clear()
            await self._came.wait()
        taken = self.items[:count]
        del self.items[:count]
        return taken

    async def next(self) -> T:
        """Remove and return the next item."""
        return (await self.take(1))[0]
