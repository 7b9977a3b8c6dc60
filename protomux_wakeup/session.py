"""A session: one application's interest in one topic. Knows hooks and events, no channel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final, Self, TypeAlias
from weakref import WeakSet

from protomux import Protomux
from protomux.hooks import is_pending, settle
from protomux.streams import FramedStream
from protomux_wakeup import messages
from protomux_wakeup.events import (
    Announced,
    Event,
    EventStream,
    LookedUp,
    PeerActive,
    PeerAdded,
    PeerInactive,
    PeerRemoved,
)
from protomux_wakeup.limits import Limits
from protomux_wakeup.messages import Lookup, Writer
from protomux_wakeup.peer import Peer, announce_body
from protomux_wakeup.topic import Topic

__all__ = ["HOOKS", "Hook", "Session", "collect_hooks"]

_log = logging.getLogger("protomux_wakeup")

Hook: TypeAlias = Callable[..., object]
"""A hook of a session, plain or async."""

HOOKS: Final = (
    "on_peer_add",
    "on_peer_remove",
    "on_peer_active",
    "on_peer_inactive",
    "on_announce",
    "on_lookup",
    "on_destroy",
)
"""Names of the hooks."""


def collect_hooks(handler: object, hooks: Mapping[str, Hook | None]) -> dict[str, Hook]:
    """Return the hooks by name: methods of `handler`, and `hooks` in front of them.

    Raises TypeError for a name that is no hook, and for a hook that cannot be called.
    """
    found: dict[str, Hook] = {}
    for name in HOOKS:
        hook = getattr(handler, name, None)
        if hook is not None:
            found[name] = hook
    for name, hook in hooks.items():
        if name not in HOOKS:
            raise TypeError(f"expected a hook of {', '.join(HOOKS)}, got {name!r}")
        if hook is not None:
            found[name] = hook
    for name, hook in found.items():
        if not callable(hook):
            raise TypeError(f"expected {name} to be callable, got {hook!r}")
    return found


class Session:
    """One application's interest in one topic. Made by `Wakeup.session`.

    As a context manager, sync or async, it is destroyed on the way out.

    Attributes:
        topic: the topic, shared with other sessions of the same capability.
        is_active: this session wants news.
        is_destroyed: it was destroyed, or its `Wakeup` was.
    """

    __slots__ = (
        "__dict__",  # for the application's own attributes
        "__weakref__",
        "_events",
        "_limits",
        "is_active",
        "is_destroyed",
        "topic",
        *(f"_{name}" for name in HOOKS),
    )

    _on_announce: Hook | None
    _on_destroy: Hook | None

    def __init__(
        self, topic: Topic, is_active: bool, hooks: Mapping[str, Hook], limits: Limits
    ) -> None:
        self.topic: Final = topic
        self.is_active = is_active
        self.is_destroyed = False
        for name in HOOKS:
            setattr(self, f"_{name}", hooks.get(name))
        self._limits = limits
        self._events: WeakSet[EventStream] | None = None  # most sessions use hooks alone

    def __repr__(self) -> str:
        state = "destroyed" if self.is_destroyed else "active" if self.is_active else "inactive"
        return f"<Session {self.topic.id.hex()[:16]} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The proven peers of the topic."""
        return self.topic.peers

    def has_stream(self, stream: FramedStream | Protomux) -> bool:
        """Tell whether the topic has a peer, pending or proven, on `stream`."""
        return self.get_peer(stream) is not None

    def get_peer(self, stream: FramedStream | Protomux) -> Peer | None:
        """Return the topic's peer on `stream`; it may be pending."""
        return self.topic.peer_of(stream.stream if isinstance(stream, Protomux) else stream)

    def add_stream(self, stream: FramedStream | Protomux) -> None:
        """Open this one topic on `stream` when that is open, also while the topic is inactive."""
        if not self.is_destroyed:
            self.topic.add_stream(stream)

    def lookup(self, peer: Peer, hash: bytes | None = None) -> bool:
        """Ask `peer` which logs have grown; `hash` (32 bytes) is for the peer's `on_lookup`.

        A pending peer is asked as well; it answers once both sides have proved the capability.
        Returns False where nothing was sent, or where it is better to wait with more.
        """
        if self.is_destroyed or peer.is_removed:
            return False
        return peer.send_lookup(Lookup(hash))

    def lookup_by_stream(self, stream: FramedStream | Protomux, hash: bytes | None = None) -> bool:
        """As `lookup`, for the peer on `stream` if there is one."""
        peer = self.get_peer(stream)
        return peer is not None and self.lookup(peer, hash)

    def broadcast_lookup(self, hash: bytes | None = None) -> None:
        """As `lookup`, for every peer of the topic, pending ones included."""
        for peer in self.topic.pending_peers + self.topic.peers:
            self.lookup(peer, hash)

    def announce(self, peer: Peer, writers: Iterable[tuple[bytes, int]]) -> bool:
        """Tell `peer` which logs have grown: `Writer`s, or (32-byte key, length) pairs.

        Returns False where nothing was sent, since the peer is gone or has not proved the
        capability, or where it is better to wait with more. Raises EncodingError for a key of
        another size, a length that is none, or more than 0x100000 entries.
        """
        if self.is_destroyed or peer.is_removed or peer.is_pending:
            return False
        if not isinstance(writers, list):
            writers = messages.writers_of(writers)
        return peer.send_announce(writers, announce_body(writers, self._limits.announce_entries))

    def announce_by_stream(
        self, stream: FramedStream | Protomux, writers: Iterable[tuple[bytes, int]]
    ) -> bool:
        """As `announce`, for the peer on `stream` if there is one."""
        peer = self.get_peer(stream)
        return peer is not None and self.announce(peer, writers)

    def broadcast_announce(self, writers: Iterable[tuple[bytes, int]]) -> None:
        """As `announce`, for every proven peer of the topic."""
        if self.is_destroyed or not self.topic.peers:
            return
        if not isinstance(writers, list):
            writers = messages.writers_of(writers)
        body = announce_body(writers, self._limits.announce_entries)
        for peer in self.topic.peers:
            if not (peer.is_removed or self.is_destroyed):  # by the hook of another
                peer.send_announce(writers, body)

    def active(self) -> None:
        """Want news: the topic opens on streams where it is not, and tells its peers."""
        self._set_active(True)

    def inactive(self) -> None:
        """Want no news for now: the topic keeps its peers and answers others."""
        self._set_active(False)

    def _set_active(self, is_active: bool) -> None:
        if not self.is_destroyed and is_active is not self.is_active:
            self.is_active = is_active
            self.topic.session_changed(self)

    def destroy(self) -> None:
        """Leave the topic. Without sessions and active peers it is collected after a while."""
        if not self.is_destroyed:
            self.is_destroyed = True
            self.topic.remove_session(self)

    def events(self) -> EventStream:
        """Return an async iterator over what happens from now on, until the session ends.

        Beside the hooks, not instead of them. What waits in it is bounded by
        `Limits.queued_events`.
        """
        events = EventStream(self._limits.queued_events)
        if self.is_destroyed:
            events.end()
        else:
            if self._events is None:
                self._events = WeakSet()
            self._events.add(events)
        return events

    # For the topic.

    def arrived(self, is_active: bool, peer: Peer) -> None:
        """`peer` has proved the capability."""
        self._emit("_on_peer_add", PeerAdded, peer)
        if is_active:
            self._emit("_on_peer_active", PeerActive, peer)

    def turned(self, is_active: bool, peer: Peer) -> None:
        """`peer` has become active, or inactive."""
        if is_active:
            self._emit("_on_peer_active", PeerActive, peer)
        else:
            self._emit("_on_peer_inactive", PeerInactive, peer)

    def left(self, was_active: bool, peer: Peer) -> None:
        """`peer` is gone."""
        if was_active:
            self._emit("_on_peer_inactive", PeerInactive, peer)
        self._emit("_on_peer_remove", PeerRemoved, peer)

    def announced(self, writers: list[Writer], peer: Peer) -> None:
        """`peer` told us of `writers`."""
        if self._events is not None:
            self._emit("_on_announce", Announced, peer, writers)
        elif not self.is_destroyed:  # the short way to what comes most
            hook = self._on_announce
            if hook is not None:
                peer.channel.run_hook(hook, (writers, peer, self))

    def looked_up(self, lookup: Lookup, peer: Peer) -> None:
        """`peer` asked us."""
        self._emit("_on_lookup", LookedUp, peer, lookup)

    def ended(self, _what: None, _peer: None) -> None:
        """The session is not of the topic any more."""
        self.is_destroyed = True
        for events in list(self._events or ()):
            events.end()
        hook = self._on_destroy
        if hook is None:
            return
        try:
            result = hook(self)
            if is_pending(result):
                settle(result, asyncio.get_running_loop(), self._destroy_settled)
        except Exception as error:
            self._destroy_settled(None, error)

    def _destroy_settled(self, _result: object, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            _log.error("on_destroy of %r failed", self, exc_info=error)

    def _emit(self, name: str, event: Callable[..., Event], peer: Peer, *said: object) -> None:
        """Queue `event(peer, *said)` where somebody iterates, and call the hook of that `name`."""
        if self.is_destroyed:
            return
        if self._events is not None:
            self._queue(event(peer, *said))
        hook: Hook | None = getattr(self, name)
        if hook is not None:
            peer.channel.run_hook(hook, (*said, peer, self))

    def _queue(self, event: Event) -> None:
        for events in list(self._events or ()):
            guilty = events.put(event)
            if guilty is not None:
                most = self._limits.queued_events
                guilty.overflow("entries that wait for the application", most)
