"""A peer of a topic: one stream on which the other side has the topic too. Knows its channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from protomux import Channel
from protomux.streams import FramedStream
from protomux_wakeup.messages import Info, Lookup, MessageType

__all__ = ["Peer", "PeerTopic"]


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
        stream: the stream, as it was given to the mux.
        topic: the topic.
        is_pending: the peer has not proved the capability yet. No hook sees such a peer.
        is_active: one of the peer's sessions is active.
        is_removed: the channel is closed; the peer will not come back as this object.
        user_data: the application's own, None at first.
        clock: the application's own, 0 at first; for what was last exchanged with the peer.
    """

    __slots__ = (
        "channel",
        "clock",
        "is_active",
        "is_pending",
        "is_removed",
        "stream",
        "topic",
        "user_data",
    )

    def __init__(self, topic: PeerTopic, stream: FramedStream) -> None:
        self.topic: Final = topic
        self.stream: Final = stream
        self.channel: Channel
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
    def remote_public_key(self) -> bytes | None:
        """The peer's 32-byte key on its stream."""
        return self.stream.remote_public_key

    # For the topic and its sessions; an application sends through its session.

    def send_lookup(self, lookup: Lookup) -> bool:
        """Ask the peer."""
        return self.channel.messages[MessageType.LOOKUP].send(lookup)

    def send_announce(self, writers: Iterable[tuple[bytes, int]]) -> bool:
        """Tell the peer."""
        return self.channel.messages[MessageType.ANNOUNCE].send(writers)

    def send_info(self, is_active: bool) -> bool:
        """Tell the peer whether our topic is active."""
        return self.channel.messages[MessageType.INFO].send(Info(is_active))
