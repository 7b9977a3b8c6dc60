"""The messages of one loop tick, on their way into one frame and into the stream.

Knows when to write, and how much may wait; nothing of channels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final
from weakref import WeakKeyDictionary, ref

from protomux.errors import LimitExceeded
from protomux.frames import FrameBuilder
from protomux.limits import Limits
from protomux.speedups import twin
from protomux.streams.base import FramedStream

__all__ = ["FRAME_OVERHEAD", "FrameWriter"]

FRAME_OVERHEAD = 64
"""More than a frame adds to the longest message: its integers have 9 bytes at most each."""


@twin
class TickEnd:
    """The end of a loop's tick: what is to be flushed then, by one call of the loop for all."""

    __slots__ = ("__weakref__", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[FrameWriter, Context]] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> TickEnd:
        """Return the one of `loop`, which lasts as long as somebody has it."""
        known = _tick_ends.get(loop)
        found = None if known is None else known()
        if found is None:
            found = cls()
            _tick_ends[loop] = ref(found)
        return found

    def add(self, writer: FrameWriter, loop: asyncio.AbstractEventLoop) -> None:
        """Flush `writer` then, in the context of this call. The same loop each time."""
        self._waiting.append((writer, copy_context()))
        if len(self._waiting) == 1:
            loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._waiting = self._waiting, []
        interrupted: BaseException | None = None
        for writer, context in waiting:
            try:
                context.run(writer.flush)
            except Exception as error:
                self._report(error, loop)
            except BaseException as error:  # the others lose nothing by it
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _report(self, error: Exception, loop: asyncio.AbstractEventLoop) -> None:
        message = "what was sent during a tick could not be written"
        loop.call_exception_handler({"message": message, "exception": error})


# Weak both ways: a writer that waits leads to the loop.
_tick_ends: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, ref[TickEnd]]] = WeakKeyDictionary()


@twin
class FrameWriter:
    """Writes what is sent during a loop tick at its end, or when the last cork is gone.

    `on_drain()` is called whenever `drained` has become True again, `fail(error)` when the stream
    loses a frame or does not keep up with more than `Limits.unsent_most` bytes.

    Attributes:
        drained: the stream keeps up, and not too much waits for the end of the tick.
    """

    __slots__ = (
        "_builder",
        "_corks",
        "_drain_is_owed",
        "_fail",
        "_flush_is_due",
        "_is_closed",
        "_is_ready",
        "_limits",
        "_longest",
        "_loop",
        "_on_drain",
        "_stream",
        "_tick_end",
        "_unsent",
        "_unsent_size",
        "drained",
    )

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
        self._tick_end = TickEnd.of(loop)
        self._builder = FrameBuilder(limits.batch_size, limits.batch_messages, limits.frame_size)
        self._longest = limits.frame_size - FRAME_OVERHEAD
        self._unsent_size: float = min(limits.unsent_size, 2**62)  # the twin's have 64 bits
        self.drained = True
        self._corks = 0
        self._flush_is_due = False
        self._is_ready = True
        self._unsent = 0
        self._drain_is_owed = False
        self._is_closed = False

    def check_size(self, size: int) -> None:
        """Raise LimitExceeded for a message whose bytes a frame cannot carry."""
        if size > self._longest:
            raise LimitExceeded(f"expected a message of at most {self._longest} bytes, got {size}")

    def send(self, channel: int, body: bytes) -> bool:
        """Take `body` for the next frame; False: better wait for `on_drain`."""
        if len(body) > self._longest:
            self.check_size(len(body))
        if self._is_closed:
            return False
        builder = self._builder
        cut = builder.add(channel, body)
        if cut is not None:
            self._write(cut)
            self.drained = self._is_ready
        if not self._flush_is_due and self._corks == 0:
            self._flush_soon()
        if self._is_ready and builder.size <= self._unsent_size:
            return True
        self.drained = False
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
        if self._builder.size:
            self._flush_soon()

    def set_ready(self, is_ready: bool) -> None:
        """The stream takes more, or does not."""
        self._is_ready = is_ready
        if is_ready:
            self._unsent = 0
            self._drain()
        else:
            self.drained = False
            self._drain_is_owed = True

    def close(self) -> None:
        """Write nothing more, and forget what waits."""
        self._is_closed = True
        self._builder.take()
        self.drained = self._is_ready

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._tick_end.add(self, self._loop)

    def flush(self) -> None:
        """Write what is there, unless it is held back by a cork."""
        self._flush_is_due = False
        if self._corks:
            return
        frame = self._builder.take()
        if frame is not None:
            self._write(frame)
            self._drain()

    def _write(self, frame: bytes) -> None:
        if self._is_closed:
            return
        try:
            if not self._is_ready:
                self._count_unsent(len(frame))
            if not self._stream.write(frame):
                self._is_ready = self.drained = False
                self._drain_is_owed = True
        except Exception as error:  # a stream that loses a frame is of no use any more
            self._fail(error)

    def _count_unsent(self, size: int) -> None:
        """So much more waits for a peer that does not read."""
        self._unsent += size
        if self._unsent > self._limits.unsent_most:
            raise LimitExceeded(
                f"expected a peer that reads, {self._unsent} bytes wait for it and at most "
                f"{self._limits.unsent_most} may"
            )

    def _drain(self) -> None:
        self.drained = self._is_ready and self._builder.size <= self._unsent_size
        if self._drain_is_owed and self.drained:
            self._drain_is_owed = False
            self._on_drain()
