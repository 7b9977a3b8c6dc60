"""A timer for silence. Knows a clock and a callback, not what is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["IdleTimer"]


class IdleTimer:
    """Calls back whenever `seconds` have gone by without a `touch`; 0 seconds: never.

    A touch only reads the clock; the timer finds out when it fires whether it came too early.
    """

    __slots__ = ("_callback", "_handle", "_loop", "_touched", "seconds")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self.seconds = 0.0
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._touched = 0.0

    def start(self, seconds: float) -> None:
        """Begin to count from now; takes the place of what ran before."""
        self.stop()
        self.seconds = seconds
        self.touch()
        if seconds > 0:
            self._handle = self._loop.call_later(seconds, self._fire)

    def touch(self) -> None:
        """Count from now."""
        self._touched = self._loop.time()

    def stop(self) -> None:
        """Do not call back any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        due = self._touched + self.seconds
        if due <= self._loop.time():
            self.touch()
            due = self._touched + self.seconds
            self._handle = self._loop.call_at(due, self._fire)
            self._callback()
        else:
            self._handle = self._loop.call_at(due, self._fire)
