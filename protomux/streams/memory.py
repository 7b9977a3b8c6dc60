"""Two framed streams joined inside one process. Knows no bytes on any wire."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Final

from protomux.errors import StreamClosed
from protomux.streams.base import BaseStream

__all__ = ["MemoryStream", "memory_pair"]

HIGH_WATER: Final = 64 * 1024
"""Bytes on the way before the writer is asked to wait, as in asyncio's transports."""


class MemoryStream(BaseStream):
    """One end of a `memory_pair()`; open from the beginning.

    Attributes:
        is_initiator: True for one of the two.
        handshake_hash: 64 random bytes, the same at both ends.
        public_key, remote_public_key: 32 random bytes for each end.
        error: what ended the stream; None while it lives and after an orderly close.
    """

    _other: MemoryStream

    def __init__(
        self,
        is_initiator: bool,
        handshake_hash: bytes,
        public_key: bytes,
        remote_public_key: bytes,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop)
        self.is_initiator: Final = is_initiator
        self.handshake_hash: bytes | None = handshake_hash
        self.public_key: bytes | None = public_key
        self.remote_public_key: bytes | None = remote_public_key
        self._inbox: deque[bytes | None] = deque()  # None: the other end writes no more
        self._inbox_size = 0
        self._is_closing = False
        self._has_ended = False
        self._has_seen_end = False
        self._other_is_waiting = False

    def __repr__(self) -> str:
        state = "gone" if self._is_lost else "closing" if self._is_closing else "open"
        return f"<MemoryStream {'initiator' if self.is_initiator else 'responder'} {state}>"

    @property
    def is_open(self) -> bool:
        """Frames can be exchanged."""
        return not self._is_lost

    @property
    def is_closing(self) -> bool:
        """`close()` was called here, or the other end has closed, or the stream is gone."""
        return self._is_closing or self._is_lost

    async def wait_opened(self) -> None:
        """Return: this stream was open from the beginning. Raises StreamClosed if it is gone."""
        if self._is_lost:
            raise StreamClosed("the stream is gone") from self.error

    def write(self, frame: bytes) -> bool:
        """Send one frame; False: wait for `resume_writing`, or the stream has closed."""
        other = self._other
        if self._has_ended or self._is_lost:
            return False
        other._inbox.append(frame)
        other._inbox_size += len(frame)
        other._pump_soon()
        if other._inbox_size <= HIGH_WATER:
            return True
        if not other._other_is_waiting:
            other._other_is_waiting = True
            if self._receiver is not None:
                self._receiver.pause_writing()
        return False

    def close(self) -> None:
        """End this side after this loop tick; the stream is gone when the other end has too."""
        if not self.is_closing:
            self._is_closing = True
            self._end_soon(self._end)

    def abort(self, error: Exception | None = None) -> None:
        """Cut the stream at once, at both ends; what is on the way is lost."""
        if not self._is_lost:
            self._is_closing = self._has_ended = True
            self._inbox.clear()
            self._other._inbox.clear()
            error = error or StreamClosed("the stream was aborted")
            self._loop.call_soon(self._lose, error)
            self._loop.call_soon(self._other._lose, StreamClosed("the other end aborted"))

    def _end(self) -> None:
        if not self._has_ended and not self._is_lost:
            self._has_ended = True
            self._other._inbox.append(None)
            self._other._pump_soon()
            self._pump_soon()

    def _pump(self) -> None:
        # When this side has ended and has no receiver, nobody will ever want what comes.
        while self._inbox and (self._can_deliver or (self._has_ended and self._receiver is None)):
            frame = self._inbox.popleft()
            if frame is None:
                self._see_end()
                return
            self._inbox_size -= len(frame)
            if self._receiver is not None:
                self._deliver(frame)
        if self._other_is_waiting and self._inbox_size <= HIGH_WATER // 4:
            self._other_is_waiting = False
            receiver = self._other._receiver
            if receiver is not None and not self._other._is_lost:
                receiver.resume_writing()

    def _see_end(self) -> None:
        self._has_seen_end = True
        self.close()
        if self._other._has_seen_end:
            self._loop.call_soon(self._lose, None)
            self._loop.call_soon(self._other._lose, None)


def memory_pair(
    *, loop: asyncio.AbstractEventLoop | None = None
) -> tuple[MemoryStream, MemoryStream]:
    """Return two joined streams, the initiator first, open and with a handshake hash in common.

    They live in `loop`, the running one unless given.
    """
    loop = asyncio.get_running_loop() if loop is None else loop
    handshake_hash, first, second = os.urandom(64), os.urandom(32), os.urandom(32)
    initiator = MemoryStream(True, handshake_hash, first, second, loop)
    responder = MemoryStream(False, handshake_hash, second, first, loop)
    initiator._other, responder._other = responder, initiator
    return initiator, responder
