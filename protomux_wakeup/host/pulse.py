"""Notices that somebody does not answer any longer. Knows a timer, not what is asked.

Beats are counted, not seconds: a process that was stopped itself, or whose loop was busy, has
missed one beat when it goes on, however long that took, and the others get the time to answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Pulse"]


class Pulse:
    """Calls `beat()` every `interval` seconds, and `lost()` at the end of `most` silent ones.

    After that it begins to count anew. It runs from the beginning, until `stop()`. Without `most`
    it only beats. Where `beat()` returns a future, its result is a sign of life.

    Attributes:
        missed: beats since the last sign of life; 1 while the last one is still to be answered.
    """

    def __init__(
        self,
        interval: float,
        most: float = math.inf,
        *,
        beat: Callable[[], object],
        lost: Callable[[], object] = lambda: None,
    ) -> None:
        self._interval: Final = interval
        self._most: Final[float] = most
        self._beat = beat
        self._lost = lost
        self.missed = 0
        self._loop: Final = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.now()

    def heard(self) -> None:
        """There was a sign of life."""
        self.missed = 0

    def now(self) -> None:
        """Beat at once, and every interval from now on."""
        self.stop()
        self._timer = self._loop.call_later(self._interval, self._next)
        answer = self._beat()
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        if not answer.cancelled() and answer.exception() is None:
            self.heard()

    def stop(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self.missed += 1
        if self.missed >= self._most:
            self.missed = 0
            try:
                self._lost()
            finally:
                self._go_on()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._timer is not None:  # not stopped by what was called
            self.now()
