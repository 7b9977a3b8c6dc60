"""When the next packet may go out, so that they leave evenly. Knows a rate and a clock."""

from __future__ import annotations

from typing import Final

__all__ = ["Pacer"]

_BURST_SECONDS: Final = 0.004
"""What is saved up at most, in seconds of the rate: timers are no finer than 1 ms, often late."""

_BURST_PACKETS: Final = 10
"""And in packets, where that is more: those of an initial window leave at once, RFC 9002."""


_ROUNDING: Final = 1e-6
"""Packets that may be missing: a timer that was set for the next one must find it there."""


class Pacer:
    """A bucket of packets that fills at the pacing rate."""

    __slots__ = ("_credit", "_filled_at", "_rate")

    def __init__(self, now: float) -> None:
        self._credit = float(_BURST_PACKETS)
        self._filled_at = now
        self._rate = 1.0

    def fill(self, rate: float, now: float) -> None:
        """Packets are worth `rate` a second since the last time."""
        most = max(rate * _BURST_SECONDS, _BURST_PACKETS)
        self._credit = min(self._credit + (now - self._filled_at) * rate, most)
        self._filled_at = now
        self._rate = rate

    @property
    def packets(self) -> int:
        """How many may go out now."""
        return int(self._credit + _ROUNDING)

    @property
    def next_at(self) -> float:
        """When the next one may."""
        return self._filled_at + max(1 - self._credit, 0.0) / self._rate

    def spend(self, packets: int) -> None:
        """So many go out."""
        self._credit -= packets
