"""A timer for silence. Knows a clock and a callback, not what is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["IdleTimer"]


class IdleTimer:
    """Calls back whenever `seconds` have gone by since `start` without a `touch`, until `stop`.

    A touch only reads the clock; the timer finds out when it fires whether it came too early.
    """

    __slots__ = ("_callback", "_handle", "_loop", "_touched", "seconds")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]
    ) -> None:
        self.seconds: Final = seconds
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._touched = 0.0

    def start(self) -> None:
        """Begin to count from now."""
        self.touch()
        self._handle = self._loop.call_at(self._touched + self.seconds, self._fire)

    def touch(self) -> None:
        """Count from now."""
        self._touched = self._loop.time()

    def stop(self) -> None:
        """Do not call back any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        is_due = self._touched + self.seconds <= self._loop.time()
        if is_due:
            self.touch()
        self._handle = self._loop.call_at(self._touched + self.seconds, self._fire)
        if is_due:
            self._callback()
