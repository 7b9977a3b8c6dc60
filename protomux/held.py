"""How much is held for channels that are not open here yet. Knows bytes, no channel."""

from __future__ import annotations

from protomux.intake import Intake
from protomux.limits import Limits

__all__ = ["HELD_OVERHEAD", "HeldBytes"]

HELD_OVERHEAD = 512
"""What a held message counts for besides its bytes, as in the original."""


class HeldBytes:
    """Pauses the stream while more than `Limits.held_size` bytes are held of it.

    With more than `Limits.held_most` the frame in hand stops as well. Not before that, because the
    open of another channel behind them may be what they wait for.

    Attributes:
        size: bytes that are held now.
    """

    __slots__ = ("_intake", "_is_paused", "_is_stopped", "_limits", "size")

    def __init__(self, intake: Intake, limits: Limits) -> None:
        self.size = 0
        self._intake = intake
        self._limits = limits
        self._is_paused = self._is_stopped = False

    def add(self, size: int) -> None:
        """So many bytes more are held."""
        self.size += size
        if not self._is_paused and self.size > self._limits.held_size:
            self._is_paused = True
            self._intake.pause_stream()
        if not self._is_stopped and self.size > self._limits.held_most:
            self._is_stopped = True
            self._intake.pause()

    def release(self, size: int) -> None:
        """So many bytes are held no more."""
        self.size -= size
        if self._is_stopped and self.size <= self._limits.held_most:
            self._is_stopped = False
            self._intake.resume()
        if self._is_paused and self.size <= self._limits.held_size:
            self._is_paused = False
            self._intake.resume_stream()
