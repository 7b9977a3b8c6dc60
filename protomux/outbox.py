"""The messages of one loop tick, on their way into one frame and into the stream.

Knows sizes and when to write, nothing of channels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from protomux.errors import LimitExceeded
from protomux.frames import encode_batch, encode_frame
from protomux.limits import Limits
from protomux.streams.base import FramedStream

__all__ = ["FRAME_OVERHEAD", "FrameWriter", "Outbox"]

FRAME_OVERHEAD = 64
"""More than a frame adds to the longest message: its integers have 9 bytes at most each."""


def _uint_size(value: int) -> int:
    if value <= 0xFC:
        return 1
    return 3 if value <= 0xFFFF else 5 if value <= 0xFFFFFFFF else 9


class Outbox:
    """Collects (channel, body) pairs and makes frames of them: a batch, or a lone message."""

    __slots__ = ("_bodies", "_channel", "_limits", "size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bodies: list[tuple[int, bytes]] = []
        self._channel = -1
        self.size = 0
        """Bytes that the frame of what is collected would have, as a batch."""

    def add(self, channel: int, body: bytes) -> bytes | None:
        """Collect `body`; return the frame of what came before it, if that is full now.

        Full is the size at which the originals cut a batch, or where the body would make the
        frame larger than a stream can carry.
        """
        cut = None
        cost = _uint_size(len(body)) + len(body)
        switch = 1 + _uint_size(channel)
        if (
            self.size >= self._limits.batch_size
            or len(self._bodies) >= self._limits.batch_messages
            or (self._bodies and self.size + switch + cost > self._limits.frame_size)
        ):
            cut = self.take()
        if not self._bodies:
            self.size = 1 + switch
        elif channel != self._channel:
            cost += switch
        self._channel = channel
        self._bodies.append((channel, body))
        self.size += cost
        return cut

    def take(self) -> bytes | None:
        """Return all that is collected as one frame, and forget it; None if there is nothing."""
        bodies = self._bodies
        if not bodies:
            return None
        self._bodies = []
        self.size = 0
        return encode_frame(*bodies[0]) if len(bodies) == 1 else encode_batch(bodies)


class FrameWriter:
    """Writes what is sent during a loop tick at its end, or when the last cork is gone.

    `on_drain()` is called whenever `drained` has become True again, `fail(error)` when the stream
    loses a frame or does not keep up with more than `Limits.unsent_most` bytes.
    """

    def __init__(
        self,
        stream: FramedStream,
        on_drain: Callable[[], None],
        fail: Callable[[Exception], None],
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._stream = stream
        self._on_drain = on_drain
        self._fail = fail
        self._limits = limits
        self._loop = loop
        self._outbox = Outbox(limits)
        self._corks = 0
        self._flush_is_due = False
        self._is_ready = True
        self._unsent = 0
        self._drain_is_owed = False
        self._is_closed = False

    @property
    def drained(self) -> bool:
        """The stream keeps up, and not too much waits for the end of the tick."""
        return self._is_ready and self._outbox.size <= self._limits.unsent_size

    def check_size(self, size: int) -> None:
        """Raise LimitExceeded for a message whose bytes a frame cannot carry."""
        most = self._limits.frame_size - FRAME_OVERHEAD
        if size > most:
            raise LimitExceeded(f"expected a message of at most {most} bytes, got {size}")

    def send(self, channel: int, body: bytes) -> bool:
        """Take `body` for the next frame; False: better wait for `on_drain`."""
        self.check_size(len(body))
        if self._is_closed:
            return False
        cut = self._outbox.add(channel, body)
        if cut is not None:
            self._write(cut)
        if self._corks == 0:
            self._flush_soon()
        if self.drained:
            return True
        self._drain_is_owed = True
        return False

    def cork(self) -> None:
        """Write nothing until `uncork()` has been called as often."""
        self._corks += 1

    def uncork(self) -> None:
        """Undo one `cork()`."""
        if self._corks == 0:
            raise RuntimeError("expected a cork() before uncork()")
        self._corks -= 1
        if self._outbox.size:
            self._flush_soon()

    def set_ready(self, is_ready: bool) -> None:
        """The stream takes more, or does not."""
        self._is_ready = is_ready
        if is_ready:
            self._unsent = 0
            self._drain()
        else:
            self._drain_is_owed = True

    def close(self) -> None:
        """Write nothing more, and forget what waits."""
        self._is_closed = True
        self._outbox.take()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._corks:
            return
        frame = self._outbox.take()
        if frame is not None:
            self._write(frame)
            self._drain()

    def _write(self, frame: bytes) -> None:
        if self._is_closed:
            return
        if not self._is_ready:
            self._unsent += len(frame)
        try:
            if self._unsent > self._limits.unsent_most:
                raise LimitExceeded(
                    f"expected a peer that reads, {self._unsent} bytes wait for it and at most "
                    f"{self._limits.unsent_most} may"
                )
            if not self._stream.write(frame):
                self._is_ready = False
                self._drain_is_owed = True
        except Exception as error:  # a stream that loses a frame is of no use any more
            self._fail(error)

    def _drain(self) -> None:
        if self._drain_is_owed and self.drained:
            self._drain_is_owed = False
            self._on_drain()
