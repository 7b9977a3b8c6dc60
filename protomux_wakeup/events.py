"""What happens in a session, as values to iterate over. Knows a queue, no peer's doings."""

from __future__ import annotations

import asyncio
from collections import deque
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
        self._size -= size
        return event

    async def aclose(self) -> None:
        """Take no more events, and drop those that wait."""
        self._events.clear()
        self.end()

    # For the session.

    def put(self, event: Event) -> bool:
        """Queue `event`; False if it was refused because too much waits already.

        That a peer became inactive or is gone is never refused: it follows on something that was
        taken, or on the refusal that costs the peer its stream.
        """
        if self._has_ended:
            return True
        size = 1 + len(event.writers) if isinstance(event, Announced) else 1
        is_bounded = not isinstance(event, PeerInactive | PeerRemoved)
        if is_bounded and self._events and self._size + size > self._most:
            return False
        self._events.append((event, size))
        self._size += size
        self._news.set()
        return True

    def end(self) -> None:
        """There will be no more events."""
        self._has_ended = True
        self._news.set()
