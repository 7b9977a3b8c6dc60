"""Muxes without an event loop: time passes when a test says so.

`SteppedLoop` runs what was put off to the end of the tick when `tick()` is called; `advance()` lets
time pass. `WireEnd` is a framed stream whose frames arrive when `deliver()` is called at the other
end, so a test decides what has crossed the wire and what has not.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from protomux.errors import StreamClosed
from protomux.streams import FrameReceiver


class SteppedLoop(asyncio.AbstractEventLoop):
    """An event loop that has nothing but `call_soon`, timers, and tasks that live on it.

    Attributes:
        now: seconds that have passed by `advance()`.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, timer)
        return timer

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A timer was cancelled."""

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        self._ready.append((callback, args))
        return asyncio.Handle(callback, args, self, context)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **_options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are not due and not cancelled."""
        return [timer for timer in self._timers if not timer.cancelled()]

    def advance(self, seconds: float) -> None:
        """Let so much time pass; what is due runs with the next tick."""
        self.now += seconds
        while self._timers and self._timers[0].when() <= self.now:
            self._ready.append((_run, (heapq.heappop(self._timers),)))

    def get_debug(self) -> bool:
        return False

    def tick(self) -> bool:
        """Run what is due, as one iteration of a loop does; tell whether there was anything."""
        due = len(self._ready)
        for _ in range(due):
            callback, args = self._ready.popleft()
            callback(*args)
        return due > 0


def _run(timer: asyncio.TimerHandle) -> None:
    if not timer.cancelled():
        timer._run()


class WireEnd:
    """One end of a wire, a FramedStream. `inbox` holds the frames that have not arrived."""

    remote_public_key: bytes | None = bytes(32)
    handshake_hash: bytes | None = bytes(64)
    other: WireEnd

    def __init__(self, loop: SteppedLoop, is_initiator: bool) -> None:
        self.loop = loop
        self.is_initiator = is_initiator
        self.inbox: deque[bytes] = deque()
        self.receiver: FrameReceiver | None = None
        self.is_paused = False
        self.is_gone = False
        self.error: Exception | None = None
        self.written: list[bytes] = []
        self.is_full = False

    def set_receiver(self, receiver: FrameReceiver) -> None:
        self.receiver = receiver

    def write(self, frame: bytes) -> bool:
        if self.is_gone:
            return False
        self.written.append(frame)
        self.other.inbox.append(frame)
        return not self.is_full

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def deliver(self) -> bool:
        """Let the next frame arrive here; tell whether one did."""
        if self.is_paused or self.is_gone or not self.inbox:
            return False
        assert self.receiver is not None
        self.receiver.frame_received(self.inbox.popleft())
        return True

    def close(self) -> None:
        self.abort()

    def abort(self, error: Exception | None = None) -> None:
        if self.is_gone:
            return
        for end, reason in ((self, error), (self.other, StreamClosed("the other end aborted"))):
            end.is_gone = True
            end.error = reason
            end.inbox.clear()
            assert end.receiver is not None
            self.loop.call_soon(end.receiver.connection_lost, reason)

    async def wait_closed(self) -> None:
        raise NotImplementedError("nothing waits on a stepped loop")


def wire(loop: SteppedLoop) -> tuple[WireEnd, WireEnd]:
    """Return the two ends of a wire."""
    a, b = WireEnd(loop, True), WireEnd(loop, False)
    a.other, b.other = b, a
    return a, b


def settle(loop: SteppedLoop, *ends: WireEnd) -> None:
    """Let everything arrive and everything due run, until nothing is left to do."""
    while any([loop.tick(), *(end.deliver() for end in ends)]):
        pass
