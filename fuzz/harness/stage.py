"""Where a harness plays: a loop without time, whose failures are all seen. Knows no target."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from protomux import Protomux, ProtomuxError
from tests.stepped import SteppedLoop, WireEnd

__all__ = [
    "Deliberate",
    "Finding",
    "NullReceiver",
    "Stage",
    "check_error",
    "check_mux_is_empty",
    "stage",
]

_MOST_TICKS: Final = 20_000


class Finding(AssertionError):
    """Something happened that must not happen."""


class Deliberate(Exception):
    """What the hooks of a harness raise: their own mistake, which may destroy their stream."""


def check_error(error: BaseException | None) -> None:
    """Refuse an end that is neither orderly, nor a `ProtomuxError`, nor a hook's own."""
    if error is not None and not isinstance(error, ProtomuxError | Deliberate):
        raise Finding(f"expected a ProtomuxError, got {error!r}") from error


class NullReceiver:
    """Takes everything and does nothing."""

    def frame_received(self, frame: bytes) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, error: Exception | None) -> None: ...


class _Watch(logging.Handler):
    """Keeps the first error that was logged and must not have happened."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()  # also its reprs are under test
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, ProtomuxError | Deliberate):
            self.error = self.error or error


_LOGGERS: Final = tuple(map(logging.getLogger, ("protomux", "protomux_wakeup")))


class _Loop(SteppedLoop):
    """A stepped loop that knows its tasks, and fails where one fails unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[asyncio.Task[Any]] = []
        self.unseen: BaseException | None = None

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = super().create_task(coro, **options)
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unseen = self.unseen or context.get("exception") or Finding(context["message"])


class Stage:
    """One execution's loop.

    Attributes:
        loop: the running loop while the stage is up.
        waiting: futures that the harness' async hooks wait for.
    """

    def __init__(self) -> None:
        self.loop = _Loop()  # type: ignore[abstract]
        self.waiting: list[asyncio.Future[None]] = []
        self._ends: list[WireEnd] = []
        self._watch = _Watch()
        for logger in _LOGGERS:
            logger.addHandler(self._watch)

    def leave(self) -> None:
        """Watch what is logged no more."""
        for logger in _LOGGERS:
            logger.removeHandler(self._watch)

    def end(self, is_initiator: bool) -> WireEnd:
        """Return our end of a wire; what arrives there is what the harness puts in its inbox."""
        end, other = WireEnd(self.loop, is_initiator), WireEnd(self.loop, not is_initiator)
        end.other, other.other = other, end
        other.set_receiver(NullReceiver())
        self._ends.append(end)
        return end

    async def hang(self) -> None:
        """Wait until the script says otherwise."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.waiting.append(future)
        await future

    def release(self, which: int, how: int) -> None:
        """Let a hook that hangs return, raise, or be cancelled."""
        if not self.waiting:
            return
        future = self.waiting.pop(which % len(self.waiting))
        if future.done():
            return
        if how % 4 == 1:
            future.set_exception(Deliberate())
        elif how % 4 == 2:
            future.cancel()
        else:
            future.set_result(None)

    def pass_time(self, seconds: float) -> None:
        """Let timers become due, one by one, and what they bring about happen."""
        until = self.loop.now + seconds
        while due := [timer.when() for timer in self.loop.timers if timer.when() <= until]:
            self.loop.advance(max(min(due) - self.loop.now, 0.0))
            self.quiet()
        self.loop.advance(until - self.loop.now)

    def tick(self) -> bool:
        """Let one frame arrive at each end and one tick pass; tell whether anything happened."""
        arrived = [end.deliver() for end in self._ends]
        return any([self.loop.tick(), *arrived])

    def quiet(self) -> None:
        """Let everything happen that happens by itself."""
        for _ in range(_MOST_TICKS):
            if not self.tick():
                return
        raise Finding(f"not quiet after {_MOST_TICKS} ticks")

    def close(self) -> None:
        """Let go of every hook and leave; nothing may be left that runs, or has failed unseen."""
        while self.waiting:
            self.release(0, 0)
            self.quiet()
        self.quiet()
        for task in self.loop.tasks:
            if not task.done():
                raise Finding(f"left behind: {task!r}")
            if not task.cancelled():
                check_error(task.exception())
        if self.loop.timers:
            raise Finding(f"timers left: {self.loop.timers}")
        self.leave()
        for error in (self.loop.unseen, self._watch.error):
            if error is not None:
                raise Finding(f"failed unseen: {error!r}") from error


@contextmanager
def stage() -> Iterator[Stage]:
    """Set up a stage whose loop is the running one."""
    up = Stage()
    asyncio._set_running_loop(up.loop)
    try:
        yield up
        up.close()
    finally:
        up.leave()
        asyncio._set_running_loop(None)


def check_mux_is_empty(mux: Protomux) -> None:
    """Nothing is left in the tables of a mux whose stream is gone."""
    if list(mux) or not mux.is_idle():
        raise Finding(f"channels left: {list(mux)}")
    for name in type(mux._board).__slots__:
        table = getattr(mux._board, name)
        if hasattr(table, "__len__") and len(table) > 0:
            raise Finding(f"left in {name}: {table!r}")
