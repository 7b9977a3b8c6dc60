"""A stream as a `Wakeup` uses it: its mux, and how much its peer may say. Knows no topic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protomux import LimitExceeded, Protomux
from protomux_wakeup.limits import Limits
from protomux_wakeup.metrics import Stats
from protomux_wakeup.throttle import TokenBucket

__all__ = ["Carrier"]


_WRONG_PROOF: Final = 64
"""Opens that a wrong proof counts for: an honest peer has none, a hostile one makes us hash."""


class Carrier:
    """One stream of a `Wakeup`, from the first topic on it until it is gone.

    Attributes:
        mux: the mux of the stream.
        limits: the bounds of the `Wakeup`.
        stats: where it counts.
        on_pair: what the mux was told to call for wakeup channels; None unless `is_shared`.
        on_close: what the mux was told to call at its end.
    """

    __slots__ = (
        "_announces",
        "_entries",
        "_lookups",
        "_topics",
        "limits",
        "mux",
        "on_close",
        "on_pair",
        "stats",
    )

    def __init__(
        self,
        mux: Protomux,
        limits: Limits,
        stats: Stats,
        on_close: Callable[[Exception | None], object],
    ) -> None:
        self.mux = mux
        self.limits = limits
        self.stats = stats
        self.on_pair: Callable[[bytes | None], object] | None = None
        self.on_close = on_close
        now = mux.loop.time()
        self._announces = TokenBucket(limits.announces, now)
        self._entries = TokenBucket(limits.entries, now)
        self._lookups = TokenBucket(limits.lookups, now)
        self._topics = TokenBucket(limits.asked_topics, now)

    @property
    def is_shared(self) -> bool:
        """All active topics are opened on it, not only single ones."""
        return self.on_pair is not None

    def announced(self, entries: int) -> None:
        """The peer announced so many entries."""
        now = self.mux.loop.time()
        seconds = self._announces.take(1, now)
        longer = self._entries.take(entries, now)
        if seconds or longer:
            self._pause(max(seconds, longer))

    def asked(self) -> None:
        """The peer sent a lookup, or an info."""
        self._pause(self._lookups.take(1, self.mux.loop.time()))

    def may_open(self) -> bool:
        """Tell whether the peer may open one more topic by itself."""
        return self._topics.take_if_there(1, self.mux.loop.time())

    def proved_wrong(self) -> None:
        """The peer sent a wrong proof."""
        self._topics.take(_WRONG_PROOF, self.mux.loop.time())

    def overflow(self, what: str, most: int) -> None:
        """Destroy the stream: its peer is past a bound of `most` such things."""
        self.mux.destroy(LimitExceeded(f"expected at most {most} {what}, one more came"))

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self.mux.pause_reading(seconds)
