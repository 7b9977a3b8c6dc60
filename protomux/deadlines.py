"""What must end in time. Knows a loop's clock and an order, not what it is that ends.

One duration holds for all, so the first to come is the first that is due: one timer will do,
however many wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from math import isfinite
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Calls `expire(item)` for every item that is still here `seconds` after it was added.

    Iterating gives the items, the oldest first.
    """

    __slots__ = ("_due", "_expire", "_loop", "_seconds", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, expire: Callable[[T], object]
    ) -> None:
        """Keep time by `loop`; with `seconds` of `math.inf` nothing ever expires."""
        self._loop = loop
        self._seconds = seconds
        self._expire = expire
        # While somebody waits. A dict would be slow to give its first.
        self._due: OrderedDict[T, float] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due or ())

    def __iter__(self) -> Iterator[T]:
        return iter(self._due or ())

    def __contains__(self, item: object) -> bool:
        return self._due is not None and item in self._due

    def add(self, item: T) -> None:
        """Begin to count for `item`; does nothing if it is here already."""
        if self._due is None:
            self._due = OrderedDict()
        if item not in self._due:
            self._due[item] = self._loop.time() + self._seconds
            self._arm()

    def discard(self, item: T) -> bool:
        """Let `item` go, if it is here; tell whether it was."""
        is_here = self._due is not None and self._due.pop(item, None) is not None
        if not self._due:
            self.clear()
        return is_here

    def clear(self) -> None:
        """Let all go."""
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and self._due and isfinite(self._seconds):
            self._timer = self._loop.call_at(next(iter(self._due.values())), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._due and next(iter(self._due.values())) <= now:
            item, _ = self._due.popitem(last=False)
            self._expire(item)
        self._arm()
