"""The bounds of a `Wakeup`, beside those of the muxes under it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, NamedTuple

import protomux
from protomux.encoding import MAX_ARRAY

__all__ = ["Limits", "Rate"]


class Rate(NamedTuple):
    """How much may come at once, and how much a second in the long run.

    Attributes:
        burst: at once, after a while without any.
        per_second: in the long run.
    """

    burst: int
    per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(protomux.Limits):
    """What one `Wakeup` may hold; its streams are held to the fields of `protomux.Limits`.

    *Paused* means that nothing more of the stream is read until its peer is within the rate
    again, so TCP lets it wait; nothing is lost. Rates hold for a stream, whatever the number of
    topics on it, since a peer can have as many as it likes.

    Attributes:
        streams: streams of a `Wakeup`; one more is destroyed when it is added. Default 16,384.
        announces: announces of a stream; with more it is paused. Default 65,536 at once, twice
            the topics of the largest node that we measure with, and 16,384 a second.
        entries: entries of those announces, likewise. Default 262,144 at once, two of the largest
            announces, and 65,536 a second.
        lookups: lookups and infos of a stream, likewise. Default 65,536 at once and 1,024 a second:
            a lookup is small and its answer may not be.
        announce_entries: entries in one announce. Ours are sent in parts beyond it; one of a peer's
            that has more destroys its stream, before any of them is read. Default 131,072, four
            times the topics of the largest node that we measure with, and 0.1 s of work. (The
            encoding allows 1,048,576, and a frame has room for half of those.)
        merged_entries: logs of which news wait for one peer that does not keep up; one that is
            told of more while it does not counts as dead and is destroyed. There is one entry for a
            log, with the newest length. Default 1,048,576: what one announce can say can also wait.
        pending_peers: peers of all topics and streams that were asked for their proof and have
            not answered; one more closes the channel of the one that waits longest. Default
            1,048,576.
        proof_time: seconds that a peer has to prove the capability; then its channel is closed,
            and either side may open the topic again. Default 300: a peer that is there and does not
            answer for so long has lost its stream, or has a callback that never ends.
        asked_topics: opens of a stream that we had not sent one for, whether the topic is here or
            `on_wakeup` is asked about it; more are rejected unasked. One that brings a wrong proof
            counts 64 times. Default 65,536 at once, twice the topics of the largest node that we
            measure with, and 1,024 a second.
        queued_events: entries that may wait in one `Session.events()` for the application, where
            an event counts as one and an announce as one more for each of its writers; one event
            always may. When one does not fit, the stream of which most waits is destroyed, and what
            its peers said is dropped. Default 262,144, some 50 MB at worst.
    """

    streams: int = 16_384
    announces: Rate = Rate(65_536, 16_384)
    entries: Rate = Rate(262_144, 65_536)
    lookups: Rate = Rate(65_536, 1_024)
    announce_entries: int = 131_072
    merged_entries: int = MAX_ARRAY
    pending_peers: int = 1_048_576
    proof_time: float = 300.0
    asked_topics: Rate = Rate(65_536, 1_024)
    queued_events: int = 262_144

    def __post_init__(self) -> None:
        """Raise TypeError for what is no number and no `Rate`, ValueError for one below 0."""
        protomux.Limits.__post_init__(self)
        for name, default in _OWN.items():
            value = getattr(self, name)
            if isinstance(value, Rate) is not isinstance(default, Rate):
                raise TypeError(f"expected a value like {default!r} for {name}, got {value!r}")
            if not all(number >= 0 for number in (value if isinstance(value, Rate) else (value,))):
                raise ValueError(f"expected {name} of 0 or more, got {value!r}")


_OWN: Final = {
    field.name: field.default
    for field in fields(Limits)
    if field.name not in protomux.Limits.__dataclass_fields__
}
