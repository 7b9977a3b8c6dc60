"""A framed stream whose frames are written down. Knows the stream below it and a capture."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from protomux.dissect.capture import CaptureWriter
from protomux.dissect.conversation import Direction
from protomux.streams.base import FramedStream, FrameReceiver

__all__ = ["RecordedStream"]


class RecordedStream:
    """Passes everything on between a `FramedStream` and its receiver, and records the frames.

    Give it to a mux in the place of the stream, before anybody else is the stream's receiver. A
    stream that never opens leaves nothing in the capture. What else the stream has (`wait_opened`,
    `public_key`, `error`, ...) can be reached through this.
    """

    def __init__(self, stream: FramedStream, capture: CaptureWriter) -> None:
        """Record `stream` from now on; raises ValueError if it has a receiver already."""
        if stream.receiver is not None:
            raise ValueError(f"expected a stream without a receiver, got {stream!r}")
        self.stream: Final = stream
        self._capture = capture
        self._receiver: FrameReceiver | None = None
        self._number: int | None = None
        self._early: list[bytes] = []
        self._is_over = False
        wait_opened: Callable[[], Awaitable[None]] | None = getattr(stream, "wait_opened", None)
        if wait_opened is not None:
            # Not by __getattr__: who asks whether there is one may look without it.
            self.wait_opened = wait_opened
        self._note_start()

    def __repr__(self) -> str:
        return f"<RecordedStream {self.stream!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def is_initiator(self) -> bool:
        """As of the stream."""
        return self.stream.is_initiator

    @property
    def handshake_hash(self) -> bytes | None:
        """As of the stream."""
        return self.stream.handshake_hash

    @property
    def remote_public_key(self) -> bytes | None:
        """As of the stream."""
        return self.stream.remote_public_key

    @property
    def receiver(self) -> FrameReceiver | None:
        """Who gets the frames."""
        return self._receiver

    def set_receiver(self, receiver: FrameReceiver) -> None:
        """Hand all frames from now on to `receiver`."""
        self._receiver = receiver
        self.stream.set_receiver(_Tap(self, receiver))

    def write(self, frame: bytes) -> bool:
        """Write `frame`, and record it."""
        is_drained = self.stream.write(frame)
        self._note(Direction.OUT, frame)
        return is_drained

    def pause_reading(self) -> None:
        """Pause the stream."""
        self.stream.pause_reading()

    def resume_reading(self) -> None:
        """Let the stream go on."""
        self.stream.resume_reading()

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()

    def abort(self, error: Exception | None = None) -> None:
        """Abort the stream."""
        self.stream.abort(error)

    async def wait_closed(self) -> None:
        """Wait until the stream is gone."""
        await self.stream.wait_closed()

    # What happens to the stream.

    def _received(self, frame: bytes) -> None:
        self._note(Direction.IN, frame)

    def _lost(self, error: Exception | None) -> None:
        number = self._note_start()
        if number is not None and not self._is_over:
            self._capture.end(number, error)
        self._is_over = True
        self._early.clear()

    def _note(self, direction: Direction, frame: bytes) -> None:
        if self._is_over:
            return
        number = self._note_start()
        if number is None:
            self._early.append(frame)  # the stream holds it as well, until it opens
        else:
            self._capture.frame(number, direction, frame)

    def _note_start(self) -> int | None:
        """Return the number of the stream in the capture; None while it is not open."""
        handshake_hash, key = self.stream.handshake_hash, self.stream.remote_public_key
        if self._number is None and handshake_hash is not None and key is not None:
            self._number = self._capture.start(self.stream.is_initiator, handshake_hash, key)
            for frame in self._early:
                self._capture.frame(self._number, Direction.OUT, frame)
            self._early.clear()
        return self._number


class _Tap:
    """Stands between a stream and its receiver."""

    def __init__(self, recorded: RecordedStream, receiver: FrameReceiver) -> None:
        self._recorded = recorded
        self._receiver = receiver

    def frame_received(self, frame: bytes) -> None:
        self._recorded._received(frame)
        self._receiver.frame_received(frame)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._recorded._lost(error)
        self._receiver.connection_lost(error)
