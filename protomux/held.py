"""How much is held for channels that are not open here yet. Knows bytes, no channel."""

from __future__ import annotations

from protomux.errors import LimitExceeded
from protomux.limits import Limits
from protomux.streams.base import FramedStream

__all__ = ["HELD_OVERHEAD", "HeldBytes"]

HELD_OVERHEAD = 512
"""What a held message counts for besides its bytes, as in the original."""


class HeldBytes:
    """Pauses the reading of a stream while more than `Limits.held_size` bytes are held of it.

    Attributes:
        size: bytes that are held now.
    """

    __slots__ = ("_is_paused", "_limits", "_stream", "size")

    def __init__(self, stream: FramedStream, limits: Limits) -> None:
        self.size = 0
        self._stream = stream
        self._limits = limits
        self._is_paused = False

    def add(self, size: int) -> None:
        """So many bytes more are held; raises LimitExceeded when that is too much altogether."""
        self.size += size
        if self.size > self._limits.held_most:
            raise LimitExceeded(
                f"expected at most {self._limits.held_most} bytes of messages for channels that "
                f"are not open here, got {self.size}"
            )
        if not self._is_paused and self.size > self._limits.held_size:
            self._is_paused = True
            self._stream.pause_reading()

    def release(self, size: int) -> None:
        """So many bytes are held no more."""
        self.size -= size
        if self._is_paused and self.size <= self._limits.held_size:
            self._is_paused = False
            self._stream.resume_reading()
