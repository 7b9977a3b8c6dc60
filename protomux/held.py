"""How much is held for channels that are not open here yet. Knows bytes, no channel."""

from __future__ import annotations

from protomux.streams.base import FramedStream

__all__ = ["HELD_OVERHEAD", "HeldBytes"]

HELD_OVERHEAD = 512
"""What a held message counts for besides its bytes, as in the original."""


class HeldBytes:
    """Pauses the reading of a stream while more than `most` bytes are held of it.

    Attributes:
        size: bytes that are held now.
    """

    __slots__ = ("_is_paused", "_most", "_stream", "size")

    def __init__(self, stream: FramedStream, most: int) -> None:
        self.size = 0
        self._stream = stream
        self._most = most
        self._is_paused = False

    def add(self, size: int) -> None:
        """So many bytes more are held."""
        self.size += size
        if not self._is_paused and self.size > self._most:
            self._is_paused = True
            self._stream.pause_reading()

    def release(self, size: int) -> None:
        """So many bytes are held no more."""
        self.size -= size
        if self._is_paused and self.size <= self._most:
            self._is_paused = False
            self._stream.resume_reading()
