"""What a manager knows of one backend beside its states. Knows no other backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from protomux_wakeup.host.backends.engine import EngineError, News, Running
from protomux_wakeup.host.backends.errors import NotReady
from protomux_wakeup.host.backends.history import History
from protomux_wakeup.host.backends.idle import Idle
from protomux_wakeup.host.backends.store import StoredBackend
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    SpawnConfig,
    TerminationReason,
)

__all__ = ["Backend", "Record"]


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """A backend at one moment.

    Attributes:
        backend_id: its id.
        key: that it is for; made up where the request had none.
        tag: what it runs; None for a cluster that was not told.
        created: when it was asked for, in seconds since 1970.
        state: the latest.
        connections: how many are open through the proxy.
        address: the loopback address and the port that it is told to listen at; None where it is
            not reached through us, is about to be started, or has ended.
    """

    backend_id: str
    key: str
    tag: str | None
    created: float
    state: BackendState
    connections: int
    address: tuple[str, int] | None


class Record:
    """A backend, from its first state on, and who needs it.

    Attributes:
        backend_id, key, tag, created: see `Backend`.
        launch: what was asked of the engine; None where it has ended.
        life: its states.
        idle: who is connected, and whether it is for nobody; of a backend that is not reached
            through us, that is not for us to say.
        starting: what starts it; None where an earlier manager has.
        failure: why it could not be started.
        is_leaving: it was asked to end.
        is_finishing: it was told that no more news will come.
    """

    def __init__(self, stored: StoredBackend) -> None:
        """Be what is in the store. What the engine has for it comes by `runs()`."""
        launch = stored.launch
        self.backend_id: Final = stored.backend_id
        self.key: Final = stored.key
        self.tag: Final = stored.tag
        self.created: Final = stored.created
        self.launch = launch
        self.life: Final = History(stored.states)
        spawn = launch.request.spawn if launch is not None else None
        self._limits = spawn if isinstance(spawn, SpawnConfig) else SpawnConfig()
        self.idle: Final = Idle(self._limits.max_idle_seconds, self._was_idle)
        self.starting: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        self.is_leaving = False
        self.is_finishing = False
        self._is_overdue = False
        self._running: Running | None = None
        self._wanted: list[Callable[[Running], object]] = []  # until it runs
        self._lifetime: asyncio.TimerHandle | None = None
        # What it was told of and has not acknowledged.
        news = launch.news if launch is not None else ()
        self._open: dict[tuple[bytes, bytes], int] = {}
        self._hears_news = bool(news)
        self._note(news)

    @property
    def backend(self) -> Backend:
        """What it is at this moment."""
        return Backend(
            backend_id=self.backend_id,
            key=self.key,
            tag=self.tag,
            created=self.created,
            state=self.life.state,
            connections=self.idle.connections,
            address=self._running.address if self._running is not None else None,
        )

    @property
    def running(self) -> Running | None:
        """What the engine has given for it; None before it is started, and when it has ended."""
        return self._running

    @property
    def is_going(self) -> bool:
        """Tell whether it is about to end, or has ended: nobody is sent there any more."""
        return self.is_leaving or not self.life.status.is_before(BackendStatus.TERMINATING)

    # Its life

    def limit(self, now: float) -> None:
        """End it when it is past its limits, it being `now` in seconds since 1970.

        Nobody is connected: who was lost the connection with the manager, and gets the time to come
        again.
        """
        if self.life.status is BackendStatus.READY:
            self.idle.begin()
        seconds = self._limits.lifetime_limit_seconds
        if seconds is not None:
            left = max(0.0, self.created + seconds - now)
            loop = asyncio.get_running_loop()
            self._lifetime = loop.call_later(left, self._was_long)

    def runs(self, running: Running) -> None:
        """The engine has started it, or has found it."""
        if self.life.is_over:
            return
        self._running = running
        if running.address is None:  # who is connected only the cluster knows, and it has the limit
            self.idle.seconds = None
            self.idle.touch()
        wanted, self._wanted = self._wanted, []
        for want in wanted:
            want(running)

    def moved(self, state: BackendState) -> None:
        """It is in that later state."""
        if state.status is BackendStatus.READY:
            self.idle.begin()
        elif state.status is BackendStatus.TERMINATED:
            self._running = None
            self.launch = None
            self._wanted.clear()
            self._open.clear()
            self.stop()
        self.life.add(state)

    def stop(self) -> None:
        """Let its limits be."""
        self.idle.stop()
        if self._lifetime is not None:
            self._lifetime.cancel()
            self._lifetime = None

    async def started(self) -> None:
        """Wait until the engine has taken it; raises EngineError where it could not."""
        if self.starting is not None:
            await asyncio.wait((self.starting,))
        if self.failure is not None:
            raise EngineError(str(self.failure)) from self.failure

    async def address(self) -> tuple[str, int]:
        """Wait until it is ready, and return where it is. Raises NotReady where it will not be."""
        await self.life.ready()
        if self.starting is not None:  # a state may come before the engine has said where it is
            await asyncio.wait((self.starting,))
        if self.backend.address is None:
            raise NotReady("expected a backend that is reached through us, and has not ended")
        return self.backend.address

    def terminate(self, reason: TerminationReason, *, hard: bool) -> None:
        """Ask it to end, or make it."""
        self.is_leaving = True
        self._want(lambda running: running.terminate(reason, hard=hard))

    def _want(self, want: Callable[[Running], object]) -> None:
        if self._running is not None:
            want(self._running)
        elif not self.life.is_over:
            self._wanted.append(want)

    # Its news

    def deliver(self, news: Sequence[News]) -> bool:
        """Tell it of `news`; False where it takes none any more."""
        if self.is_going or (news and self.is_finishing):
            return False
        if news:
            self._hears_news = True
            self._note(news)
            self._want(lambda running: running.deliver(news))
            self.idle.touch()
        return True

    def acknowledged(self, news: Iterable[News]) -> None:
        """It has done what was to be done for these."""
        for topic, key, length in news:
            if self._open.get((topic, key), length + 1) <= length:
                del self._open[topic, key]
        self.idle.touch()

    def finish(self) -> None:
        """Tell it that no more news will come."""
        if not self.is_finishing and not self.life.is_over:
            self.is_finishing = True
            self._want(lambda running: running.finish())
            command = self.launch.command if self.launch is not None else None
            if self.idle.seconds is not None and command is not None:
                self.idle.seconds = command.grace
            self.idle.touch()

    def _note(self, news: Iterable[News]) -> None:
        for topic, key, length in news:
            self._open[topic, key] = max(length, self._open.get((topic, key), 0))

    # Its limits

    def _was_idle(self) -> None:
        if self._hears_news and not self.is_finishing:
            self.finish()  # it may end by itself, when it has done what it was told of
        elif self._open and not self._is_overdue:
            # It may be at work; but the next one, with later news, waits for its end.
            self._is_overdue = True
            self.idle.seconds = self._limits.max_idle_seconds
            self.idle.touch()
        else:
            self.terminate(TerminationReason.SWEPT, hard=False)

    def _was_long(self) -> None:
        self.terminate(TerminationReason.SWEPT, hard=False)
