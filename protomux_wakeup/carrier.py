"""A stream as a `Wakeup` uses it: its mux, and how much its peer may say. Knows no topic."""

from __future__ import annotations

from typing import Final, Protocol

from protomux import LimitExceeded, Protomux
from protomux_wakeup.limits import Limits
from protomux_wakeup.metrics import Stats
from protomux_wakeup.throttle import Meter, TokenBucket

__all__ = ["Carrier", "CarrierHost"]

_WRONG_PROOF: Final = 64
"""Opens that a wrong proof counts for: an honest peer has none, a hostile one makes us hash."""


class CarrierHost(Protocol):
    """What a carrier needs of its `Wakeup`."""

    def topic_asked(self, carrier: Carrier, id: bytes | None) -> object:
        """The peer opens a topic that is not open here; an awaitable answers later."""
        ...

    def carrier_lost(self, carrier: Carrier) -> None:
        """The stream is gone."""
        ...


class Carrier:
    """One stream of a `Wakeup`, from the first topic on it until it is gone.

    Attributes:
        mux: the mux of the stream.
        limits: the bounds of the `Wakeup`.
        stats: where it counts.
        is_shared: all active topics are opened on it, not only single ones.
    """

    __slots__ = (
        "_announces",
        "_host",
        "_lookups",
        "_loop",
        "_topics",
        "is_shared",
        "limits",
        "mux",
        "stats",
    )

    def __init__(
        self,
        mux: Protomux,
        limits: Limits,
        stats: Stats,
        host: CarrierHost,
    ) -> None:
        self.mux = mux
        self.limits = limits
        self.stats = stats
        self.is_shared = False
        self._host = host
        self._loop = mux.loop
        now = self._loop.time()
        self._announces = Meter(limits.announces, limits.entries, now)
        self._lookups = TokenBucket(limits.lookups, now)
        self._topics = TokenBucket(limits.asked_topics, now)

    # For the mux, which is told of both.

    def on_pair(self, id: bytes | None) -> object:
        """The peer opens what nobody here waits for."""
        return self._host.topic_asked(self, id)

    def on_close(self, _error: Exception | None) -> None:
        """The stream is gone."""
        self._host.carrier_lost(self)

    # For the topics.

    def announced(self, entries: int) -> None:
        """The peer announced so many entries."""
        seconds = self._announces.take(entries, self._loop.time())
        if seconds:
            self.mux.pause_reading(seconds)

    def asked(self) -> None:
        """The peer sent a lookup, or an info."""
        seconds = self._lookups.take(1, self._loop.time())
        if seconds:
            self.mux.pause_reading(seconds)

    def may_open(self) -> bool:
        """Tell whether the peer may open one more topic by itself."""
        return self._topics.take_if_there(1, self._loop.time())

    def proved_wrong(self) -> None:
        """The peer sent a wrong proof."""
        self._topics.take(_WRONG_PROOF, self._loop.time())

    def overflow(self, what: str, most: int) -> None:
        """Destroy the stream: its peer is past a bound of `most` such things."""
        self.mux.destroy(LimitExceeded(f"expected at most {most} {what}, one more came"))
