"""What a mux needs of a stream, and what all streams of this package share.

A `FramedStream` stands to frames as an asyncio transport stands to bytes, a `FrameReceiver` as a
protocol does. Anyone can write one; neither has to inherit from anything here.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

__all__ = ["BaseStream", "FrameReceiver", "FramedStream"]

_log = logging.getLogger("protomux")


class FrameReceiver(Protocol):
    """Where a stream's frames go."""

    def frame_received(self, frame: bytes, /) -> None:
        """One whole frame, in order; may be empty."""
        ...

    def pause_writing(self) -> None:
        """The stream's buffer is full: better wait with writing."""
        ...

    def resume_writing(self) -> None:
        """The stream's buffer has drained."""
        ...

    def connection_lost(self, error: Exception | None, /) -> None:
        """The stream is gone, called once: None after an orderly close from both sides."""
        ...


class FramedStream(Protocol):
    """Frames both ways, in order, whole, between two peers who share a handshake hash.

    A stream calls its receiver from the event loop only, never from inside a call of the
    receiver's to the stream: what `write`, `resume_reading` or `abort` bring about comes in a
    later tick. (`pause_writing` may come from inside `write`, as asyncio's transports do it.)
    """

    @property
    def is_initiator(self) -> bool:
        """This side began the handshake; exactly one side did."""
        ...

    @property
    def handshake_hash(self) -> bytes | None:
        """64 bytes that only the two ends of this very stream know alike; None before."""
        ...

    @property
    def remote_public_key(self) -> bytes | None:
        """The peer's 32-byte key; None before it is known."""
        ...

    @property
    def receiver(self) -> FrameReceiver | None:
        """Who gets the frames; they wait while it is None."""
        ...

    def set_receiver(self, receiver: FrameReceiver, /) -> None:
        """Hand all frames from now on to `receiver`."""
        ...

    def write(self, frame: bytes, /) -> bool:
        """Send one frame; False: better wait for `resume_writing`.

        What is written to a stream that has closed is dropped.
        """
        ...

    def pause_reading(self) -> None:
        """Deliver no frame until `resume_reading`."""
        ...

    def resume_reading(self) -> None:
        """Deliver frames again."""
        ...

    def close(self) -> None:
        """Flush, end this side, and close when the peer has ended its own.

        What is written until the end of this loop tick still leaves, because a mux writes at the
        end of the tick what its channels sent during it.
        """
        ...

    def abort(self, error: Exception | None = None, /) -> None:
        """Close at once; what is not sent is lost.

        The receiver is told of `error`, or of a StreamClosed: None would be an orderly close, after
        which what has come is still taken.
        """
        ...

    async def wait_closed(self) -> None:
        """Wait until the stream is gone; raises nothing, whatever ended it."""
        ...


class BaseStream(ABC):
    """The receiving half that every stream here shares: who gets frames, when, and the end."""

    __slots__ = (
        "__weakref__",
        "_closed",
        "_is_lost",
        "_is_paused",
        "_loop",
        "_pump_is_due",
        "_receiver",
        "error",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.error: Exception | None = None
        """What ended the stream; None while it lives and after an orderly close."""
        self._loop = loop
        self._receiver: FrameReceiver | None = None
        self._is_paused = False
        self._is_lost = False
        self._pump_is_due = False
        self._closed: asyncio.Event | None = None

    @property
    def receiver(self) -> FrameReceiver | None:
        """Who gets the frames; they wait while it is None."""
        return self._receiver

    def set_receiver(self, receiver: FrameReceiver) -> None:
        """Hand all frames from now on to `receiver`; tell it if the stream is gone already."""
        self._receiver = receiver
        if self._is_lost:
            self._loop.call_soon(receiver.connection_lost, self.error)
        else:
            self._pump_soon()

    def pause_reading(self) -> None:
        """Deliver no frame until `resume_reading`."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Deliver frames again, from the next loop tick on."""
        self._is_paused = False
        self._pump_soon()

    async def wait_closed(self) -> None:
        """Wait until the stream is gone; raises nothing: `error` says what ended it."""
        if not self._is_lost:
            if self._closed is None:
                self._closed = asyncio.Event()
            await self._closed.wait()

    @abstractmethod
    def abort(self, error: Exception | None = None) -> None:
        """Close at once; what is not sent is lost.

        The receiver is told of `error`, or of StreamClosed.
        """

    @abstractmethod
    def _pump(self) -> None:
        """Deliver what has come, while `_can_deliver`."""

    def _end_soon(self, end: Callable[[], None]) -> None:
        """Call `end` after all that is sent in this loop tick was written.

        The next tick is not enough: what is sent in this one after the close is written there.
        """
        self._loop.call_soon(self._loop.call_soon, end)

    @property
    def _can_deliver(self) -> bool:
        return self._receiver is not None and not self._is_paused and not self._is_lost

    def _pump_soon(self) -> None:
        if not self._pump_is_due:
            self._pump_is_due = True
            self._loop.call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._pump_is_due = False
        if not self._is_lost:
            self._pump()

    def _deliver(self, frame: bytes) -> None:
        assert self._receiver is not None
        try:
            self._receiver.frame_received(frame)
        except Exception as error:
            self.abort(error)

    def _lose(self, error: Exception | None) -> None:
        """The stream is gone."""
        if self._is_lost:
            return
        self._is_lost = True
        self.error = error
        if self._closed is not None:
            self._closed.set()
        if self._receiver is not None:
            try:
                self._receiver.connection_lost(error)
            except Exception:
                _log.exception("the receiver of %r failed at its end", self)
