"""Frames on their way in: taken apart, some messages a tick, and none while reading is paused.

Knows batches and the turns of the event loop, nothing of channels.

One legal frame may hold millions of messages. After `SLICE` of them, or `TURN` seconds, the loop
gets a turn, so that no peer keeps the others waiting, and the stream is asked to wait meanwhile.
Who pauses the stream stops the next frame, who pauses the intake the batch in hand as well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Final, Protocol

from protomux.errors import LimitExceeded, ProtomuxError
from protomux.frames import CONTROL, SWITCH, Control, frame_head, iter_batch
from protomux.limits import Limits
from protomux.speedups import twin
from protomux.streams.base import FramedStream

__all__ = ["SLICE", "TURN", "Intake"]

SLICE: Final = 256
"""Messages after which the loop gets a turn: 1 to 3 ms without the application's hooks, and the
turn costs 1 % of that."""

TURN: Final = 0.005
"""Seconds after which it gets one too, looked at every `_LOOK` messages: hooks may be slow."""

_LOOK: Final = 16

_BREATH: Final = 1.0
"""Seconds without a pause after which a peer is taken to keep within its rates."""

_CONTROL_COST: Final = 8
"""An open costs as much as so many messages, with the channel that is made for it."""


class Receiver(Protocol):
    """Where the messages of one number go."""

    def deliver(self, type: int, data: bytes, start: int, end: int) -> None:
        """A message came; `data[start:end]` is the payload."""
        ...


class Route(Protocol):
    """What leads there."""

    @property
    def channel(self) -> Receiver:
        """Where they go."""
        ...


@twin
class Intake:
    """Hands on every message of a stream, in order.

    What its receivers raise, and whatever is wrong with a frame, goes to `fail(error)`.

    Attributes:
        routes: where messages go, by the number that they carry. Who sets it changes it as well.
        receive: receive(channel, type, data, start, end), for those of all other numbers; to be
            set before the first frame comes.
    """

    __slots__ = (
        "_bodies",
        "_count",
        "_ended",
        "_fail",
        "_frame",
        "_frames",
        "_frames_size",
        "_is_closed",
        "_left",
        "_limits",
        "_longest",
        "_loop",
        "_paused_since",
        "_paused_until",
        "_pauses",
        "_stream",
        "_stream_is_paused",
        "_stream_pauses",
        "_timer",
        "_turn_began",
        "_turn_is_due",
        "_until_look",
        "receive",
        "routes",
    )

    def __init__(
        self,
        stream: FramedStream,
        fail: Callable[[Exception], None],
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.routes: Mapping[int, Route] = {}
        self.receive: Callable[[int, int, bytes, int, int], None]
        self._stream = stream
        self._fail = fail
        self._limits = limits
        self._longest: float = min(limits.frame_size, 2**62)  # the twin's have 64 bits
        self._loop = loop
        self._pauses = 0
        self._stream_pauses = 0
        self._left = SLICE
        self._until_look = _LOOK
        self._turn_began = 0.0
        self._turn_is_due = False
        self._stream_is_paused = False
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._paused_since = self._paused_until = -inf
        self._ended: Callable[[], None] | None = None
        # the batch in hand
        self._frame = b""
        self._bodies: Iterator[tuple[int, int, int, int]] | None = None
        self._count = 0
        # of a stream that goes on for a while after it was asked to pause
        self._frames: deque[bytes] | None = None
        self._frames_size = 0

    def take(self, frame: bytes) -> None:
        """A frame came."""
        if self._is_closed:
            return
        if self._pauses or self._stream_pauses or self._turn_is_due or len(frame) > self._longest:
            self._keep(frame)
        else:
            self._take(frame)

    def pause(self) -> None:
        """Hand on nothing until `resume()` has been called as often.

        After the end, when nobody is left to wait for, what is not handed on is dropped.
        """
        self._pauses += 1
        if self._ended is not None:
            self.close()
        self._update_stream()

    def resume(self) -> None:
        """Undo one `pause()`; what waits is handed on in a later tick."""
        self._pauses -= 1
        if self._pauses == 0:
            self._yield()

    def pause_stream(self) -> None:
        """Take no new frame until `resume_stream()` has been called as often."""
        self._stream_pauses += 1
        self._update_stream()

    def resume_stream(self) -> None:
        """Undo one `pause_stream()`; what waits is handed on in a later tick."""
        self._stream_pauses -= 1
        if self._frames:
            self._yield()
        self._update_stream()

    def pause_for(self, seconds: float) -> None:
        """Hand on nothing for so many seconds; a longer pause of this kind goes on.

        Who is paused for `Limits.paused_time` without a second in between has no end of it.
        """
        if self._is_closed or self._ended is not None:
            return
        now = self._loop.time()
        until = now + seconds
        if now - self._paused_until > _BREATH:
            self._paused_since = now
        self._paused_until = max(self._paused_until, until)
        if until - self._paused_since > self._limits.paused_time:
            most = self._limits.paused_time
            self._fail(LimitExceeded(f"expected a peer that is paused for {most} s at most"))
            return
        if self._timer is None:
            self.pause()
        elif self._timer.when() >= until:
            return
        else:
            self._timer.cancel()
        self._timer = self._loop.call_at(until, self._end_pause)

    def end(self, ended: Callable[[], None]) -> None:
        """No more will come: call `ended()` when what did come was handed on.

        Only turns of the loop are waited for. Who said too much need not wait now; what nobody
        here will ever want is dropped.
        """
        if self._stop_timer():
            self._pauses -= 1
        if self._is_closed or self._pauses:
            self.close()
            ended()
            return
        self._ended = ended
        if not self._turn_is_due:
            self._hand_on()

    def close(self) -> None:
        """Hand on nothing more."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stop_timer()
        self._bodies = None
        self._frame = b""
        self._frames = None
        if self._ended is not None:
            self._loop.call_soon(self._ended)

    def _keep(self, frame: bytes) -> None:
        """Keep a frame for later, unless it is too large."""
        most = self._limits.frame_size
        if len(frame) > most:
            self._fail(_too_much(most, "bytes in a frame", len(frame)))
            return
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frame)
        self._frames_size += len(frame)
        if self._frames_size > most:
            self._fail(_too_much(most, "bytes while reading is paused", self._frames_size))

    def _take(self, frame: bytes) -> None:
        if not frame:
            self._count_step(1)
            return
        try:
            channel, type, position = frame_head(frame)
            if channel == CONTROL and type == Control.BATCH:
                self._frame = frame
                self._bodies = iter_batch(frame, position, len(frame))
                self._count = 0
                self._go_on(self._bodies)
                return
            self._count_step(1 if channel else _CONTROL_COST)
            route = self.routes.get(channel)
            if route is not None:
                route.channel.deliver(type, frame, position, len(frame))
            else:
                self.receive(channel, type, frame, position, len(frame))
        except Exception as error:  # an application's encoding may raise anything
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, ProtomuxError):
            # Its traceback holds the frame, as long as somebody keeps the error.
            error.__traceback__ = None
        self._bodies = None  # nothing that is behind it counts
        self._frame = b""
        self._fail(error)

    def _go_on(self, bodies: Iterator[tuple[int, int, int, int]]) -> None:
        """Hand on bodies of the batch in hand, until it or the turn is over."""
        frame, routes = self._frame, self.routes
        for channel, type, start, end in bodies:
            self._until_look = steps = self._until_look - (1 if channel else _CONTROL_COST)
            if steps <= 0:
                self._look()
            if type != SWITCH:
                self._count += 1
                route = routes.get(channel)
                if route is not None:
                    route.channel.deliver(type, frame, start, end)
                else:
                    self.receive(channel, type, frame, start, end)
            if self._is_closed:
                return
            if self._turn_is_due or self._pauses:
                self._check_count()
                return
        self._check_count()
        self._bodies = None
        self._frame = b""

    def _count_step(self, cost: int) -> None:
        """Count a message; look at the time when there were enough."""
        self._until_look -= cost
        if self._until_look <= 0:
            self._look()

    def _look(self) -> None:
        """Ask for a turn of the loop when the messages since the last were enough."""
        is_first = self._left == SLICE
        self._left -= _LOOK - self._until_look
        self._until_look = _LOOK
        if self._left <= 0:
            self._yield()
        elif is_first:
            self._turn_began = self._loop.time()
        elif self._loop.time() - self._turn_began > TURN:
            self._yield()

    def _check_count(self) -> None:
        most = self._limits.batch_messages
        if self._count > most:
            raise _too_much(most, "messages in a batch", self._count)

    def _yield(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._next_turn)
            self._update_stream()

    def _next_turn(self) -> None:
        self._turn_is_due = False
        self._left = SLICE
        self._until_look = _LOOK
        self._hand_on()

    def _hand_on(self) -> None:
        """Hand on what waits, while nobody objects."""
        while not (self._pauses or self._turn_is_due or self._is_closed):
            if self._bodies is not None:
                try:
                    self._go_on(self._bodies)
                except Exception as error:
                    self._refuse(error)
            elif self._frames and not self._stream_pauses:
                frame = self._frames.popleft()
                self._frames_size -= len(frame)
                self._take(frame)
            elif self._ended is not None:
                self._is_closed = True
                self._ended()
            else:
                break
        self._update_stream()

    def _update_stream(self) -> None:
        is_paused = self._pauses > 0 or self._stream_pauses > 0 or self._turn_is_due
        if is_paused is not self._stream_is_paused and not self._is_closed:
            self._stream_is_paused = is_paused
            if is_paused:
                self._stream.pause_reading()
            else:
                self._stream.resume_reading()

    def _end_pause(self) -> None:
        self._timer = None
        self.resume()

    def _stop_timer(self) -> bool:
        """End a pause for some time, if there is one; tell whether there was."""
        if self._timer is None:
            return False
        self._timer.cancel()
        self._timer = None
        return True


def _too_much(most: int, what: str, got: int) -> LimitExceeded:
    return LimitExceeded(f"expected at most {most} {what}, got {got}")
