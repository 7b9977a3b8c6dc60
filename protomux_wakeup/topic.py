"""A topic: everybody, here and elsewhere, who shares one capability. Knows no timer.

Sessions are the members on this side, peers those on the other, one per stream. The topic opens
the channels, checks the proofs, and tells its sessions what the peers do.

A peer is *pending* from our open until its proof was checked. Only then does it exist for
sessions and counters: a wrong proof closes the channel first, and a closed channel delivers
nothing, whatever came along with the open.

The topic is active while one of its sessions is, and tells its peers when that changes. With no
session and no active peer it is idle, and its host may collect it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, TypeAlias

from protomux import Channel, Protomux
from protomux.channel import Handlers
from protomux.streams import FramedStream
from protomux_wakeup import messages
from protomux_wakeup.capability import Capability
from protomux_wakeup.carrier import Carrier
from protomux_wakeup.messages import Handshake, Info, Lookup, Writer
from protomux_wakeup.metrics import Stats
from protomux_wakeup.peer import Peer

__all__ = ["Member", "Topic", "TopicHost", "handlers"]


class Member(Protocol):
    """What a topic needs of a session: to be told of events, each of which is a method here."""

    @property
    def is_active(self) -> bool:
        """The session wants news."""
        ...

    def arrived(self, is_active: bool, peer: Peer, /) -> None:
        """`peer` has proved the capability."""
        ...

    def turned(self, is_active: bool, peer: Peer, /) -> None:
        """`peer` has become active, or inactive."""
        ...

    def left(self, was_active: bool, peer: Peer, /) -> None:
        """`peer` is gone."""
        ...

    def announced(self, writers: list[Writer], peer: Peer, /) -> None:
        """`peer` told us of `writers`."""
        ...

    def looked_up(self, lookup: Lookup, peer: Peer, /) -> None:
        """`peer` asked us."""
        ...

    def ended(self, _what: None, _peer: None, /) -> None:
        """The session is not of the topic any more."""
        ...


_Event: TypeAlias = Literal["arrived", "turned", "left", "announced", "looked_up", "ended"]
"""What a `Member` is told of, by the method of that name."""


_News: TypeAlias = tuple[tuple[Member, ...], _Event, Any, Any]
"""Whom to tell, of what, and the two arguments of that method."""


class TopicHost(Protocol):
    """What a topic needs of its `Wakeup`."""

    @property
    def stats(self) -> Stats:
        """Where the topic counts."""
        ...

    @property
    def carriers(self) -> Iterable[Carrier]:
        """The streams to open the topic on."""
        ...

    def when_open(self, stream: FramedStream | Protomux, then: Callable[[Carrier], None]) -> None:
        """Call `then` with the carrier of `stream`, when that is open."""
        ...

    def peer_asked(self, peer: Peer) -> None:
        """`peer` is to prove the capability, or its channel to close."""
        ...

    def peer_answered(self, peer: Peer) -> None:
        """`peer` has proved the capability, or its channel has closed."""
        ...

    def topic_idle(self, topic: Topic) -> None:
        """`topic` could be collected."""
        ...

    def topic_busy(self, topic: Topic) -> None:
        """`topic` is in use again."""
        ...

    def topic_destroyed(self, topic: Topic) -> None:
        """`topic` is no more."""
        ...


def handlers(announce_entries: int) -> Handlers:
    """Return what the channels of all topics do with messages.

    An announce may have so many entries.
    """
    return Handlers.of(
        [
            (messages.lookup, _looked_up),
            (messages.AnnounceEncoding(announce_entries), _announced),
            (messages.info, _informed),
        ]
    )


# The hooks of a peer's channel. None of them holds a topic, so there is one of each for all.


def _opened(handshake: Handshake, channel: Channel) -> None:
    channel.user_data.topic.peer_opened(channel.user_data, handshake)


def _closed(_is_remote: bool, channel: Channel) -> None:
    channel.user_data.topic.peer_closed(channel.user_data)


def _looked_up(lookup: Lookup, channel: Channel) -> None:
    peer = channel.user_data
    topic = peer.topic
    topic._stats.wire_lookup.rx += 1
    peer.carrier.asked()
    topic._tell(topic.sessions, "looked_up", lookup, peer)


def _announced(writers: list[Writer], channel: Channel) -> None:
    peer = channel.user_data
    topic = peer.topic
    topic._stats.wire_announce.rx += 1
    peer.carrier.announced(len(writers))
    topic._tell(topic.sessions, "announced", writers, peer)


def _informed(info: Info, channel: Channel) -> None:
    peer = channel.user_data
    topic = peer.topic
    topic._stats.wire_info.rx += 1
    peer.carrier.asked()
    if info.active is not peer.is_active:
        topic._mark(peer, info.active)
        topic._tell(topic.sessions, "turned", info.active, peer)


class Topic:
    """One capability's sessions and peers.

    Attributes:
        id: 32 bytes, the name of the topic on the wire.
        capability: the secret.
        is_active: one of its sessions is active.
        is_destroyed: it was collected, or its `Wakeup` was destroyed.
        sessions: its sessions, in the order in which they were made.
    """

    __slots__ = (
        "__weakref__",
        "_active_peers",
        "_active_sessions",
        "_handlers",
        "_host",
        "_is_idle",
        "_is_telling",
        "_news",
        "_peers",
        "_peers_view",
        "_stats",
        "capability",
        "id",
        "is_active",
        "is_destroyed",
        "sessions",
    )

    def __init__(
        self,
        host: TopicHost,
        capability: Capability,
        is_active: bool,
        handlers: Handlers,
    ) -> None:
        self.id = capability.id
        self.capability = capability
        self.is_active = is_active
        self.is_destroyed = False
        self.sessions: tuple[Member, ...] = ()
        self._host = host
        self._stats = host.stats
        self._handlers = handlers
        self._peers: dict[FramedStream, Peer] = {}  # a peer goes to the end when it is proven
        self._peers_view: tuple[Peer, ...] | None = ()
        self._active_peers = 0
        self._active_sessions = 0
        self._is_idle = False
        self._news: deque[_News] | None = None
        self._is_telling = False

    def __repr__(self) -> str:
        return (
            f"<Topic {self.id.hex()[:16]} {'active' if self.is_active else 'inactive'} "
            f"{len(self.sessions)} sessions {len(self.peers)} peers>"
        )

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The proven peers, in the order in which they came."""
        if self._peers_view is None:
            self._peers_view = tuple([each for each in self._peers.values() if not each.is_pending])
        return self._peers_view

    @property
    def pending_peers(self) -> tuple[Peer, ...]:
        """Peers that were asked for their proof and have not answered."""
        return tuple([each for each in self._peers.values() if each.is_pending])

    def peer_of(self, stream: FramedStream) -> Peer | None:
        """Return the peer, pending or proven, on `stream`."""
        return self._peers.get(stream)

    # Sessions

    def add_session(self, session: Member) -> None:
        """Make `session` a member."""
        self._stats.sessions_opened += 1
        self.sessions += (session,)
        self._active_sessions += session.is_active
        self._refresh()

    def remove_session(self, session: Member) -> None:
        """Let `session` go."""
        if session in self.sessions:
            self.sessions = tuple([each for each in self.sessions if each is not session])
            self._stats.sessions_closed += 1
            self._active_sessions -= session.is_active
            self._refresh()
            self._tell((session,), "ended", None, None)

    def session_changed(self, session: Member) -> None:
        """`session` has become active, or inactive."""
        self._active_sessions += 1 if session.is_active else -1
        self._refresh()

    def _refresh(self) -> None:
        """Tell the peers if the topic has become active, or inactive."""
        is_active = self._active_sessions > 0
        if is_active is not self.is_active:
            self.is_active = is_active
            for peer in self.pending_peers + self.peers:
                peer.send_info(is_active)
            if is_active:
                self.connect_all()
        self._check_idle()

    def destroy(self) -> None:
        """Close every channel and end every session."""
        if self.is_destroyed:
            return
        self.is_destroyed = True
        self._stats.topics_gcd += 1
        for peer in self.peers + self.pending_peers:
            peer.channel.close()
        self._stats.sessions_closed += len(self.sessions)
        self._tell(self.sessions, "ended", None, None)
        self.sessions = ()
        self._host.topic_destroyed(self)

    # Peers

    def add_stream(self, stream: FramedStream | Protomux) -> None:
        """Open the topic on `stream`, when that is open."""
        self._host.when_open(stream, self.connect)

    def connect_all(self) -> None:
        """Open the topic on every stream where it is not open."""
        for carrier in list(self._host.carriers):
            self.connect(carrier)

    def connect(self, carrier: Carrier) -> None:
        """Open the topic on one stream; answers the peer if that has opened it already."""
        stream = carrier.mux.stream
        handshake_hash = stream.handshake_hash
        if stream in self._peers or handshake_hash is None or self.is_destroyed:
            return
        peer = Peer(self, carrier)
        channel = carrier.mux.create_channel(
            messages.PROTOCOL,
            self.id,
            handshake=messages.handshake,
            messages=self._handlers,
            user_data=peer,
            on_open=_opened,
            on_close=_closed,
        )
        if channel is None:
            return
        peer.channel = channel
        self._peers[stream] = peer
        self._host.peer_asked(peer)
        proof = self.capability.prove(stream.is_initiator, handshake_hash)
        channel.open(Handshake(messages.VERSION, proof, self.is_active))

    def peer_opened(self, peer: Peer, handshake: Handshake) -> None:
        """Both sides have opened the channel of `peer`: see whether it knows the capability."""
        stream = peer.stream
        assert stream.handshake_hash is not None
        if not self.capability.verify(
            handshake.capability, not stream.is_initiator, stream.handshake_hash
        ):
            peer.carrier.proved_wrong()
            peer.channel.close()
            return
        self._host.peer_answered(peer)
        self._peers[stream] = self._peers.pop(stream)
        self._peers_view = None
        peer.channel.handshake = None  # it has done its work, and there may be many
        self._stats.peers_added += 1
        peer.is_pending = False
        if handshake.active:
            self._mark(peer, True)
        self._tell(self.sessions, "arrived", handshake.active, peer)

    def peer_closed(self, peer: Peer) -> None:
        """The channel of `peer` is closed."""
        peer.remove()
        del self._peers[peer.stream]
        if peer.is_pending:
            self._host.peer_answered(peer)
            return
        self._peers_view = None
        self._stats.peers_removed += 1
        was_active = peer.is_active
        if was_active:
            self._mark(peer, False)
        self._tell(self.sessions, "left", was_active, peer)

    def _mark(self, peer: Peer, is_active: bool) -> None:
        """Count `peer` as active from now on, or no more."""
        peer.is_active = is_active
        self._active_peers += 1 if is_active else -1
        self._check_idle()

    def _tell(self, sessions: tuple[Member, ...], event: _Event, what: Any, peer: Any) -> None:
        """Tell each of `sessions` of `event`, about `what` of `peer`.

        What a hook brings about by itself waits until all sessions know of the event before it,
        so that each sees every peer come before it goes.
        """
        if self._is_telling:
            if self._news is None:
                self._news = deque()
            self._news.append((sessions, event, what, peer))
            return
        self._is_telling = True
        try:
            # By the type: a session may have attributes of the application's own.
            for session in sessions:
                getattr(type(session), event)(session, what, peer)
            if self._news is not None:
                self._tell_news(self._news)
        finally:
            self._is_telling = False

    def _tell_news(self, news: deque[_News]) -> None:
        """Tell what came about meanwhile, and by that."""
        while news:
            sessions, event, what, peer = news.popleft()
            for session in sessions:
                getattr(type(session), event)(session, what, peer)
        self._news = None

    def _check_idle(self) -> None:
        is_idle = not self.sessions and self._active_peers == 0 and not self.is_destroyed
        if is_idle is not self._is_idle:
            self._is_idle = is_idle
            if is_idle:
                self._host.topic_idle(self)
            else:
                self._host.topic_busy(self)
