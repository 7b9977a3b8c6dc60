"""Notices that nobody has needed a backend for a while. Knows a timer, not what is done then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Idle"]


class Idle:
    """Calls `passed()` when nobody was connected for so many `seconds`, and nothing else was done.

    It does not count before `begin()`; None never does. After `passed()`, it counts anew when
    something is done.

    Attributes:
        seconds: see above; may be changed.
        connections: who is connected.
    """

    def __init__(self, seconds: float | None, passed: Callable[[], object]) -> None:
        self.seconds = seconds
        self.connections = 0
        self._passed = passed
        self._counts = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Count from now on."""
        self._counts = True
        self.touch()

    def enter(self) -> None:
        """Somebody has connected."""
        self.connections += 1
        self._cancel()

    def leave(self) -> None:
        """Somebody has gone."""
        self.connections -= 1
        self.touch()

    def touch(self) -> None:
        """Something was done."""
        self._cancel()
        if self._counts and not self.connections and self.seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.seconds, self._passed)

    def stop(self) -> None:
        """Count no more."""
        self._counts = False
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
