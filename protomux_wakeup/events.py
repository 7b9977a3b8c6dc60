"""What happens in a session, as values to iterate over. Knows a queue, no peer's doings."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import Self, TypeAlias

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


class EventStream:
    """The events of a session from the moment it was made; ends with the session.

    An async iterator for one task. Events wait in it, up to a bound, while nobody iterates.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: deque[tuple[Event, int]] = deque()
        self._size = 0
        self._sizes: Counter[Peer] = Counter()  # of what waits, by whom
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
        event, size = self._events.popleft()
        self._count(event.peer, -size)
        return event

    async def aclose(self) -> None:
        """Take no more events, and drop those that wait."""
        self._events.clear()
        self._sizes.clear()
        self._size = 0
        self.end()

    # For the session.

    def put(self, event: Event) -> Peer | None:
        """Queue `event`; return the peer that has to go, if that makes too much.

        That is the one of whom most waits, with this event. If it is the event's own, the event is
        refused; if it is another, room is made by dropping what that one said. That a peer became
        inactive or is gone is always queued: it follows on something that was.
        """
        if self._has_ended:
            return None
        peer = event.peer
        size = 1 + len(event.writers) if isinstance(event, Announced) else 1
        is_bounded = not isinstance(event, PeerInactive | PeerRemoved)
        guilty = None
        if is_bounded and self._events and self._size + size > self._most:
            guilty = max(self._sizes, key=self._sizes.__getitem__)
            if self._sizes[peer] + size >= self._sizes[guilty]:
                return peer
            self._drop_news(guilty)
        self._events.append((event, size))
        self._count(peer, size)
        self._news.set()
        return guilty

    def _drop_news(self, peer: Peer) -> None:
        """Drop what `peer` said, but not that it came and, in the end, what it is."""
        turns = [event for event, _ in self._events if event.peer is peer and _is_turn(event)]
        last_turn = turns[-1] if len(turns) % 2 else None
        kept: deque[tuple[Event, int]] = deque()
        for event, size in self._events:
            if (
                event.peer is not peer
                or event is last_turn
                or isinstance(event, PeerAdded | PeerRemoved)
            ):
                kept.append((event, size))
            else:
                self._count(peer, -size)
        self._events = kept

    def _count(self, peer: Peer, size: int) -> None:
        self._size += size
        self._sizes[peer] += size
        if self._sizes[peer] <= 0:
            del self._sizes[peer]

    def end(self) -> None:
        """There will be no more events."""
        self._has_ended = True
        self._news.set()


def _is_turn(event: Event) -> bool:
    return isinstance(event, PeerActive | PeerInactive)
