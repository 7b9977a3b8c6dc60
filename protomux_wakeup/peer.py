"""A peer of a topic: one stream on which the other side has the topic too. Knows its channel.

While the stream does not keep up, what the peer is told waits in a `Backlog` and leaves from there
when it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from protomux import Channel, LimitExceeded
from protomux.encoding import uint
from protomux.streams import FramedStream
from protomux_wakeup import messages
from protomux_wakeup.backlog import Backlog
from protomux_wakeup.carrier import Carrier
from protomux_wakeup.messages import Info, Lookup, MessageType

__all__ = ["Peer", "PeerTopic", "announce_body"]

# What a body begins with: its type. No channel of a peer needs `Message`s of its own for that.
_LOOKUP, _ANNOUNCE, _INFO = (
    uint.encode(type) for type in (MessageType.LOOKUP, MessageType.ANNOUNCE, MessageType.INFO)
)


def announce_body(writers: Sequence[tuple[bytes, int]], most: float) -> bytes | None:
    """Return the body of an announce; one is enough for many peers.

    None for more than `most` entries, which go in parts. Raises EncodingError as `announce` does.
    """
    body = _ANNOUNCE + messages.announce.encode(writers)
    return body if len(writers) <= most else None


class PeerTopic(Protocol):
    """What an application may ask of a peer's topic."""

    @property
    def id(self) -> bytes:
        """The topic's id, 32 bytes."""
        ...

    @property
    def is_active(self) -> bool:
        """One of our sessions of the topic is active."""
        ...

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The proven peers of the topic."""
        ...


class Peer:
    """The other side of a topic on one stream.

    Attributes:
        topic: the topic.
        carrier: the stream as the `Wakeup` uses it.
        is_pending: the peer has not proved the capability yet. No hook sees such a peer.
        is_active: one of the peer's sessions is active.
        is_removed: the channel is closed; the peer will not come back as this object.
        user_data: the application's own, None at first.
        clock: the application's own, 0 at first; for what was last exchanged with the peer.
    """

    __slots__ = (
        "_backlog",
        "_drained",
        "carrier",
        "channel",
        "clock",
        "is_active",
        "is_pending",
        "is_removed",
        "topic",
        "user_data",
    )

    def __init__(self, topic: PeerTopic, carrier: Carrier) -> None:
        self.topic: Final = topic
        self.carrier: Final = carrier
        self.channel: Channel
        self._backlog: Backlog | None = None
        self._drained: asyncio.Event | None = None
        self.is_pending = True
        self.is_active = False
        self.is_removed = False
        self.user_data: Any = None
        self.clock = 0

    def __repr__(self) -> str:
        key = self.remote_public_key
        states = [
            name
            for name, holds in (
                ("pending", self.is_pending),
                ("active", self.is_active),
                ("removed", self.is_removed),
            )
            if holds
        ]
        return f"<Peer {'?' if key is None else key.hex()[:16]} {' '.join(states) or 'inactive'}>"

    @property
    def stream(self) -> FramedStream:
        """The stream, as it was given to the mux."""
        return self.carrier.mux.stream

    @property
    def remote_public_key(self) -> bytes | None:
        """The peer's 32-byte key on its stream."""
        return self.stream.remote_public_key

    async def wait_drained(self) -> bool:
        """Wait until all that the peer was told is with its stream; False if it left before that.

        What is told while the stream does not keep up waits here, so wait for this before
        `stream.close()`, which flushes the stream alone. And wait for it after a False from
        `Session.announce` or `Session.lookup`: the stream keeps up again then. Not inside a cork,
        where nothing leaves.
        """
        if self._backlog is not None or not (self.is_removed or self.channel.drained):
            self.channel.on_drain = self._flush
            if self._drained is None:
                self._drained = asyncio.Event()
            await self._drained.wait()
        return not self.is_removed

    # For the topic and its sessions; an application sends through its session.

    def remove(self) -> None:
        """The channel is closed."""
        self.is_removed = True
        self._forget_backlog()

    # Each returns False where nothing more should be sent for now.

    def send_lookup(self, lookup: Lookup) -> bool:
        """Ask the peer."""
        if self._keeps_up:
            return self._send(lookup)
        messages.lookup.encode(lookup)  # what is wrong with it is raised now
        self._wait().look_up(lookup)
        return False

    def send_announce(self, writers: Sequence[tuple[bytes, int]], body: bytes | None) -> bool:
        """Tell the peer of `writers`, of which `body` is the `announce_body`."""
        channel = self.channel
        if body is not None and self._backlog is None and channel.drained:
            try:
                is_drained = channel.send_body(body)
            except LimitExceeded:
                pass  # too large for a frame, so it goes in parts
            else:
                self.carrier.stats.wire_announce.tx += 1
                return is_drained
        was_behind = self._backlog is not None
        backlog = self._wait()
        backlog.announce(writers)
        most = self.carrier.limits.merged_entries
        if was_behind and backlog.logs > most:
            self.carrier.overflow("logs of which news wait for a peer that does not read", most)
        self._flush()
        return False

    def send_info(self, is_active: bool) -> bool:
        """Tell the peer whether our topic is active."""
        info = Info(is_active)
        if self._keeps_up:
            return self._send(info)
        self._wait().inform(info)
        return False

    @property
    def _keeps_up(self) -> bool:
        return self._backlog is None and self.channel.drained

    def _send(self, message: Info | Lookup | list[tuple[bytes, int]]) -> bool:
        stats = self.carrier.stats
        if isinstance(message, list):
            is_drained = self.channel.send_body(_ANNOUNCE + messages.announce.encode(message))
            stats.wire_announce.tx += 1
        elif isinstance(message, Lookup):
            is_drained = self.channel.send_body(_LOOKUP + messages.lookup.encode(message))
            stats.wire_lookup.tx += 1
        else:
            is_drained = self.channel.send_body(_INFO + messages.info.encode(message))
            stats.wire_info.tx += 1
        return is_drained

    def _wait(self) -> Backlog:
        if self._backlog is None:
            self._backlog = Backlog()
            self.channel.on_drain = self._flush
        return self._backlog

    def _flush(self, _channel: Channel | None = None) -> None:
        """Send what waits while the stream keeps up."""
        backlog = self._backlog
        while self.channel.drained:
            message = None if backlog is None else backlog.take(self.carrier.mux.limits.frame_size)
            if message is None:
                self._forget_backlog()
                break
            self._send(message)

    def _forget_backlog(self) -> None:
        self._backlog = self.channel.on_drain = None
        if self._drained is not None:
            self._drained.set()
            self._drained = None
