"""Processes in which monitors run: one waits for its order, so that a start is quick.

Knows how they are started and reaped, not what they are told. They go on when we end; one that has
no order yet notices, and ends too.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from typing import Final

from protomux_wakeup.host.backends.cgroups import Cgroup, place
from protomux_wakeup.host.backends.engine import EngineError
from protomux_wakeup.host.lines import LineConnection
from protomux_wakeup.host.processes import CONTROL, reap, spawn, stop

__all__ = ["Spare", "Spares"]


_AFTER_A_START: Final = 0.2
"""Seconds from a start until the next process is made to wait; that takes as long itself."""

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks whether something that was killed has ended."""


class Spare:
    """A process that waits for an order.

    Attributes:
        pid: of it.
        connection: by which it is told.
    """

    def __init__(self) -> None:
        """Start it; raises EngineError where that cannot be."""
        self._loop = asyncio.get_running_loop()
        self.connection: Final = LineConnection()
        self._cgroup = Cgroup.make(place())
        path = "" if self._cgroup is None else str(self._cgroup.path)
        ours, theirs = sockets.socketpair()
        with theirs:
            try:
                self.pid: Final = spawn("monitor", str(CONTROL), path, control=theirs.fileno())
            except OSError as error:
                ours.close()
                self.connection.abort()
                self.tidy()
                raise EngineError(f"cannot start a process: {error}") from error
        self.connection.attach(ours)
        self.has_ended: Final = asyncio.Event()
        self._file = os.pidfd_open(self.pid)
        self._loop.add_reader(self._file, self._ended)

    async def end(self) -> None:
        """End it, and wait until it has; what it was to become ends with it."""
        stop(self.pid)
        self.forget()
        pause = _FIRST_PAUSE
        while not reap(self.pid):  # noqa: ASYNC110 - it takes no time
            await asyncio.sleep(pause)
        while not self.tidy() and pause < _LONGEST_PAUSE:
            await asyncio.sleep(pause)
            pause *= 2

    def tidy(self) -> bool:
        """Remove what it leaves that was to become nothing; False where that is not over yet."""
        return self._cgroup is None or self._cgroup.remove()

    def forget(self) -> None:
        """Let it run, and take no note of its end."""
        self.connection.abort()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _ended(self) -> None:
        if reap(self.pid):
            self.forget()
            self.has_ended.set()


class Spares:
    """Has one process that waits, and knows of those that were given away until they end.

    Attributes:
        is_closed: it gives none any more.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self._next: Spare | None = None
        self._given: set[Spare] = set()
        self._timer: asyncio.TimerHandle | None = None

    def prepare_later(self) -> None:
        """See to it that one waits soon; until then the processor is for what was started."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_AFTER_A_START, self.prepare)

    def prepare(self) -> None:
        """See to it that one waits."""
        if self._next is not None and self._next.connection.is_closed:
            self._next.tidy()
            self._next = None
        if self._next is None:
            self._next = Spare()

    def take(self) -> Spare:
        """Return one, which nobody else gets."""
        self.prepare()
        assert self._next is not None
        spare, self._next = self._next, None
        self._given = {each for each in self._given if not each.has_ended.is_set()} | {spare}
        return spare

    async def close(self) -> None:
        """End the one that waits, and let go of the others."""
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for spare in self._given:
            spare.forget()
        self._given.clear()
        if self._next is not None:
            await self._next.end()
