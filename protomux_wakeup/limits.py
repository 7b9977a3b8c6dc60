"""The bounds of a `Wakeup`, beside those of the muxes under it."""

from __future__ import annotations

from dataclasses import dataclass

import protomux

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(protomux.Limits):
    """What one `Wakeup` may hold; its streams are held to the fields of `protomux.Limits`.

    Attributes:
        queued_events: entries that may wait in one `Session.events()` for the application, where
            an event counts as one and an announce as one more for each of its writers. The peer
            whose message does not fit any more loses its stream. Default 262,144, some 50 MB at
            worst.
    """

    queued_events: int = 262_144
