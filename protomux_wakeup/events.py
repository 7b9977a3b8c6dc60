"""What happens in a session, as values to iterate over. Knows a queue, no peer's doings."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias

from protomux_wakeup.carrier import Carrier
from protomux_wakeup.messages import Lookup, Writer
from protomux_wakeup.peer import Peer

__all__ = [
    "Announced",
    "Event",
    "EventStream",
    "LookedUp",
    "PeerActive",
    "PeerAdded",
    "PeerInactive",
    "PeerRemoved",
]


@dataclass(frozen=True, slots=True)
class PeerAdded:
    """`peer` has proved the capability."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerRemoved:
    """`peer` is gone."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerActive:
    """`peer` has become active."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerInactive:
    """`peer` is not active any more."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Announced:
    """`peer` told us which logs have grown."""

    peer: Peer
    writers: list[Writer]


@dataclass(frozen=True, slots=True)
class LookedUp:
    """`peer` asks which logs have grown."""

    peer: Peer
    lookup: Lookup


Event: TypeAlias = PeerAdded | PeerRemoved | PeerActive | PeerInactive | Announced | LookedUp


class _Waiting(NamedTuple):
    """An event in the queue."""

    event: Event
    size: int
    can_be_dropped: bool


class EventStream:
    """The events of a session from the moment it was made; ends with the session.

    An async iterator for one task. Events wait in it, up to a bound, while nobody iterates. Who
    fills it loses its stream, and what waits of it is taken out: a peer that the application has
    not seen come is forgotten altogether, of the others only that they turn and leave is kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: deque[_Waiting] = deque()
        self._size = 0
        self._sizes: Counter[Carrier] = Counter()  # of what waits and can be dropped, by stream
        self._forgotten: set[Peer] = set()  # the application never hears of them
        self._still: set[Peer] = set()  # nor that these were active
        self._has_ended = False
        self._news = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._has_ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        waiting = self._events.popleft()
        self._uncount(waiting)
        return waiting.event

    async def aclose(self) -> None:
        """Take no more events, and drop those that wait."""
        self._events.clear()
        self._sizes.clear()
        self._size = 0
        self.end()

    # For the session.

    def put(self, event: Event) -> Carrier | None:
        """Queue `event`; return the stream that has to go, if that makes too much.

        That is the one of which most waits, this event included. If it is the event's own, the
        event is refused; if it is another, what waits of that one is dropped. That a peer became
        inactive or is gone is always queued, if the application hears of the peer at all.
        """
        peer = event.peer
        if self._has_ended or self._is_unheard(event):
            return None
        size = 1 + len(event.writers) if isinstance(event, Announced) else 1
        guilty = None
        is_bounded = not isinstance(event, PeerInactive | PeerRemoved)
        if is_bounded and self._events and self._size + size > self._most:
            guilty = self._guilty(peer.carrier, size)
            if guilty is peer.carrier:
                self._refuse(event)
                return guilty
            self._drop_news(guilty)
        can_be_dropped = not isinstance(event, PeerRemoved)
        self._events.append(_Waiting(event, size, can_be_dropped))
        self._size += size
        if can_be_dropped:
            self._sizes[peer.carrier] += size
        self._news.set()
        return guilty

    def _guilty(self, carrier: Carrier, size: int) -> Carrier:
        """Return the stream of which most would wait, with `size` more of `carrier`."""
        most = max(self._sizes, key=self._sizes.__getitem__, default=carrier)
        return carrier if self._sizes[carrier] + size >= self._sizes[most] else most

    def _is_unheard(self, event: Event) -> bool:
        """Tell whether the application is not to hear of `event`, for it has not of its like."""
        peer = event.peer
        if peer in self._forgotten:
            if isinstance(event, PeerRemoved):
                self._forgotten.discard(peer)
            return True
        if isinstance(event, PeerRemoved):
            self._still.discard(peer)
        elif isinstance(event, PeerInactive) and peer in self._still:
            self._still.discard(peer)
            return True
        return False

    def _refuse(self, event: Event) -> None:
        if isinstance(event, PeerAdded):
            self._forgotten.add(event.peer)
        elif isinstance(event, PeerActive):
            self._still.add(event.peer)

    def _drop_news(self, carrier: Carrier) -> None:
        """Take out what waits of `carrier`, so that what is left makes sense by itself."""
        by_peer: dict[Peer, list[Event]] = {}
        for event, _, _ in self._events:
            if event.peer.carrier is carrier:
                by_peer.setdefault(event.peer, []).append(event)
        kept: set[int] = set()
        for peer, events in by_peer.items():
            if any(isinstance(event, PeerAdded) for event in events):
                if not isinstance(events[-1], PeerRemoved):
                    self._forgotten.add(peer)
                continue
            turns = [event for event in events if isinstance(event, PeerActive | PeerInactive)]
            if len(turns) % 2:  # else they cancel each other out
                kept.add(id(turns[-1]))
            kept.update(id(event) for event in events if isinstance(event, PeerRemoved))
        left: deque[_Waiting] = deque()
        for waiting in self._events:
            if waiting.event.peer.carrier is not carrier:
                left.append(waiting)
                continue
            self._uncount(waiting)
            if id(waiting.event) in kept:
                left.append(waiting._replace(can_be_dropped=False))
                self._size += waiting.size
        self._events = left

    def _uncount(self, waiting: _Waiting) -> None:
        self._size -= waiting.size
        if waiting.can_be_dropped:
            carrier = waiting.event.peer.carrier
            self._sizes[carrier] -= waiting.size
            if not self._sizes[carrier]:
                del self._sizes[carrier]

    def end(self) -> None:
        """There will be no more events."""
        self._has_ended = True
        self._news.set()
