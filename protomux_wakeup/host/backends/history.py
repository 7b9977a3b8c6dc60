"""The states of one backend, and those who wait for them. Knows no store, no engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from protomux_wakeup.host.backends.errors import ManagerClosed, NotReady
from protomux_wakeup.host.backends.types import BackendState, BackendStatus

__all__ = ["Bell", "History"]


class Bell:
    """Wakes all who wait by then."""

    def __init__(self) -> None:
        self._rings = asyncio.Event()
        self._is_broken = False

    def ring(self) -> None:
        """Wake them."""
        self._rings.set()
        self._rings = asyncio.Event()

    def break_off(self) -> None:
        """Wake them, for the last time."""
        self._is_broken = True
        self._rings.set()

    async def wait(self) -> None:
        """Wait until it rings, or will not any more; raises ManagerClosed where that was so."""
        if self._is_broken:
            raise ManagerClosed("the manager of the backends has closed")
        await self._rings.wait()


class History:
    """What a backend has come through.

    Attributes:
        states: that it has been in, at least one, in order.
    """

    def __init__(self, states: Iterable[BackendState]) -> None:
        self.states = list(states)
        self._bell = Bell()

    @property
    def state(self) -> BackendState:
        """The latest."""
        return self.states[-1]

    @property
    def status(self) -> BackendStatus:
        """Of the latest state."""
        return self.state.status

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return self.status is BackendStatus.TERMINATED

    def add(self, state: BackendState) -> None:
        """It is in that later state."""
        self.states.append(state)
        self._bell.ring()

    def break_off(self) -> None:
        """What comes is for others to tell: who waits for it gets ManagerClosed."""
        self._bell.break_off()

    async def follow(self, after: BackendStatus | None) -> AsyncIterator[BackendState]:
        """Yield the states later than `after`, the past ones and then as they come, to the last."""
        seen = 0
        while True:
            while seen < len(self.states):
                state = self.states[seen]
                seen += 1
                if after is None or after.is_before(state.status):
                    yield state
            if self.is_over:
                return
            await self._bell.wait()

    async def ready(self) -> None:
        """Wait until it is ready; raises NotReady where it is past that."""
        while self.status.is_before(BackendStatus.READY):
            await self._bell.wait()
        if self.status is not BackendStatus.READY:
            raise NotReady(f"expected a backend that is ready, or will be; it is {self.status}")

    async def over(self) -> None:
        """Wait until it has ended."""
        while not self.is_over:
            await self._bell.wait()
