"""Token buckets: how much may come in a while. Knows numbers and a clock that is handed in."""

from __future__ import annotations

from math import inf

from protomux.speedups import twin
from protomux_wakeup.limits import Rate

__all__ = ["Meter", "TokenBucket"]


@twin
class TokenBucket:
    """Fills with `rate.per_second` up to `rate.burst`; what comes takes from it.

    It may be overdrawn: what has come cannot be sent back, so the next has to wait for it.
    """

    __slots__ = ("_burst", "_level", "_per_second", "_since")

    def __init__(self, rate: Rate, now: float) -> None:
        self._burst, self._per_second = rate
        self._level: float = rate.burst
        self._since = now

    def take(self, cost: float, now: float) -> float:
        """Take `cost`; return the seconds until there is nothing owed, 0 if there is not."""
        level = self._level + (now - self._since) * self._per_second
        self._since = now
        self._level = level = (level if level < self._burst else self._burst) - cost
        if level >= 0:
            return 0.0
        return -level / self._per_second if self._per_second else inf

    def take_if_there(self, cost: float, now: float) -> bool:
        """Take `cost` if so much is there; tell whether it was."""
        self.take(0, now)
        if self._level < cost:
            return False
        self._level -= cost
        return True


@twin
class Meter:
    """Bounds messages, and what is in them, by a bucket of each."""

    __slots__ = ("_entries", "_messages")

    def __init__(self, messages: Rate, entries: Rate, now: float) -> None:
        self._messages = TokenBucket(messages, now)
        self._entries = TokenBucket(entries, now)

    def take(self, entries: float, now: float) -> float:
        """Take a message of so many entries; return the seconds until nothing is owed for it."""
        return max(self._messages.take(1, now), self._entries.take(entries, now))
