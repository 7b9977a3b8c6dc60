"""A peer that speaks the wire by itself: it writes frames byte by byte and keeps what comes."""

from __future__ import annotations

import asyncio

from protomux.encoding import optional_buffer, string, uint
from protomux.frames import CONTROL, SWITCH, Control, iter_batch
from protomux.streams import FramedStream


class RawPeer:
    """The receiver of one end of a stream."""

    def __init__(self, stream: FramedStream) -> None:
        self.stream = stream
        self.frames: list[bytes] = []
        self.is_lost = False
        self.error: Exception | None = None
        self._news = asyncio.Event()
        stream.set_receiver(self)

    def frame_received(self, frame: bytes) -> None:
        self.frames.append(frame)
        self._news.set()

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.error = error
        self._news.set()

    async def wait_frames(self, count: int) -> list[bytes]:
        """Wait until so many frames came, and take them."""
        async with asyncio.timeout(5):
            while len(self.frames) < count:
                assert not self.is_lost, self.error
                self._news.clear()
                await self._news.wait()
        taken, self.frames = self.frames, []
        return taken

    async def wait_lost(self) -> None:
        """Wait until the stream is gone."""
        async with asyncio.timeout(5):
            while not self.is_lost:
                self._news.clear()
                await self._news.wait()

    def bodies(self) -> list[tuple[int, bytes]]:
        """Take all that came as (channel, body) pairs, batches taken apart."""
        taken, self.frames = self.frames, []
        pairs = []
        for frame in taken:
            channel, position = uint.decode(frame, 0, len(frame))
            if channel == CONTROL and frame[position] == Control.BATCH:
                for inner, type, start, end in iter_batch(frame, position + 1, len(frame)):
                    if type != SWITCH:
                        pairs.append((inner, uint.encode(type) + frame[start:end]))
            else:
                pairs.append((channel, frame[position:]))
        return pairs

    def open(
        self, number: int, protocol: str, id: bytes | None = None, handshake: bytes = b""
    ) -> None:
        """Send an open."""
        self.stream.write(
            b"\x00\x01"
            + uint.encode(number)
            + string.encode(protocol)
            + optional_buffer.encode(id)
            + handshake
        )

    def reject(self, number: int) -> None:
        """Send a reject of the mux's open `number`."""
        self.stream.write(b"\x00\x02" + uint.encode(number))

    def close(self, number: int) -> None:
        """Send a close of our channel `number`."""
        self.stream.write(b"\x00\x03" + uint.encode(number))

    def message(self, number: int, type: int, payload: bytes = b"") -> None:
        """Send a message on our channel `number`."""
        self.stream.write(uint.encode(number) + uint.encode(type) + payload)
