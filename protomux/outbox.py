"""The messages of one loop tick, on their way into one frame. Knows sizes, no stream."""

from __future__ import annotations

from protomux.frames import encode_batch, encode_frame
from protomux.limits import Limits

__all__ = ["Outbox"]


def _uint_size(value: int) -> int:
    if value <= 0xFC:
        return 1
    return 3 if value <= 0xFFFF else 5 if value <= 0xFFFFFFFF else 9


class Outbox:
    """Collects (channel, body) pairs and makes frames of them: a batch, or a lone message."""

    __slots__ = ("_bodies", "_channel", "_limits", "size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bodies: list[tuple[int, bytes]] = []
        self._channel = -1
        self.size = 0
        """Bytes that the frame of what is collected would have, as a batch."""

    def add(self, channel: int, body: bytes) -> bytes | None:
        """Collect `body`; return the frame of what came before it, if that is full now.

        Full is the size at which the originals cut a batch, or where the body would make the
        frame larger than a stream can carry.
        """
        cut = None
        cost = _uint_size(len(body)) + len(body)
        switch = 1 + _uint_size(channel)
        if self.size >= self._limits.batch_size or (
            self._bodies and self.size + switch + cost > self._limits.frame_size
        ):
            cut = self.take()
        if not self._bodies:
            self.size = 1 + switch
        elif channel != self._channel:
            cost += switch
        self._channel = channel
        self._bodies.append((channel, body))
        self.size += cost
        return cut

    def take(self) -> bytes | None:
        """Return all that is collected as one frame, and forget it; None if there is nothing."""
        bodies = self._bodies
        if not bodies:
            return None
        self._bodies = []
        self.size = 0
        return encode_frame(*bodies[0]) if len(bodies) == 1 else encode_batch(bodies)
