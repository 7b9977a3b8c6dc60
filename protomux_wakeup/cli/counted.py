"""A framed stream that counts what goes out. Knows the stream that it stands before."""

from __future__ import annotations

from protomux.streams import FramedStream, FrameReceiver

__all__ = ["CountedStream"]


class CountedStream:
    """Passes everything on to another `FramedStream`.

    Attributes:
        frames: frames that were written.
        size: bytes in them.
    """

    def __init__(self, stream: FramedStream) -> None:
        self._stream = stream
        self.frames = 0
        self.size = 0

    @property
    def is_initiator(self) -> bool:
        """As of the stream."""
        return self._stream.is_initiator

    @property
    def handshake_hash(self) -> bytes | None:
        """As of the stream."""
        return self._stream.handshake_hash

    @property
    def remote_public_key(self) -> bytes | None:
        """As of the stream."""
        return self._stream.remote_public_key

    @property
    def receiver(self) -> FrameReceiver | None:
        """As of the stream."""
        return self._stream.receiver

    def set_receiver(self, receiver: FrameReceiver) -> None:
        """Hand the frames of the stream to `receiver`."""
        self._stream.set_receiver(receiver)

    def write(self, frame: bytes) -> bool:
        """Count `frame`, and write it."""
        self.frames += 1
        self.size += len(frame)
        return self._stream.write(frame)

    def pause_reading(self) -> None:
        """Pause the stream."""
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Let the stream go on."""
        self._stream.resume_reading()

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def abort(self, error: Exception | None = None) -> None:
        """Abort the stream."""
        self._stream.abort(error)

    async def wait_closed(self) -> None:
        """Wait until the stream is gone."""
        await self._stream.wait_closed()
