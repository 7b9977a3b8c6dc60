"""Who waits for whom: opens of ours and opens of the peer's, by protocol and id.

Knows no bytes and calls nobody. One `Rendezvous` is the place where the two sides of a
(protocol, id) meet, first come first paired; aliases are further names of one place. Every open
of the peer leaves here exactly once, paired or rejected, because the peer counts on an answer
before it lets go of its channel's number.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeAlias, TypeVar

__all__ = ["Inquiry", "Key", "PairingTable", "RemoteChannel", "Rendezvous"]

Key: TypeAlias = tuple[str, bytes | None]
"""(protocol, id)"""

OwnT = TypeVar("OwnT")


class Inquiry(Protocol):
    """A pair callback that was asked about an open and has not ended."""

    def cancel(self) -> None:
        """Nobody waits for its answer any more."""
        ...

    def paired(self) -> None:
        """What it was asked about is paired."""
        ...


class RemoteChannel(Generic[OwnT]):
    """A channel as the peer opened it.

    Attributes:
        number: the peer's number for it.
        protocol: the name under which the peer opened it, which may be an alias here.
        handshake: the bytes that came with its open.
        held: (type, payload) of messages that came before our side was open; None from then on.
        held_size: what it counts for among the bytes that are held.
        own: our channel, once one has opened for it.
        is_closed: the peer closed it while it still waited.
        place: where it waits for one of ours.
        size: bytes of its open, while it waits.
        question: the pair callback that was asked about it, while that runs.
    """

    __slots__ = (
        "handshake",
        "held",
        "held_size",
        "is_closed",
        "number",
        "own",
        "place",
        "protocol",
        "question",
        "size",
    )

    def __init__(self, number: int, protocol: str, handshake: bytes) -> None:
        self.number = number
        self.protocol = protocol
        self.handshake = handshake
        self.held: list[tuple[int, bytes]] | None = []
        self.held_size = 0
        self.own: OwnT | None = None
        self.is_closed = False
        self.place: Rendezvous[OwnT] | None = None
        self.size = 0
        self.question: Inquiry | None = None


class Rendezvous(Generic[OwnT]):
    """Where both sides of one (protocol, id) meet.

    Attributes:
        keys: every name that leads here.
        outgoing: our opens that have no answer yet, by our number; None in place of a channel
            that we closed meanwhile.
        incoming: the peer's opens that no channel of ours has opened for yet. A list, since most
            have one entry at most, and a deque of one costs more than all the rest.
        reserved: how many of `incoming` are kept, from the first, for channels that were
            created when there was one and are not opened yet.
        offers: pair callbacks that run now; the unpaired are rejected when the last has ended.
        opened: channels of ours that are opened and not closed.
        last: the channel opened last, until it closes.
    """

    __slots__ = (
        "_merged_into",
        "incoming",
        "keys",
        "last",
        "offers",
        "opened",
        "outgoing",
        "reserved",
    )

    def __init__(self, key: Key) -> None:
        self.keys = [key]
        self.outgoing: OrderedDict[int, OwnT | None] = OrderedDict()
        self.incoming: list[RemoteChannel[OwnT]] = []
        self.reserved = 0
        self.offers = 0
        self.opened = 0
        self.last: OwnT | None = None
        self._merged_into: Rendezvous[OwnT] | None = None

    @property
    def current(self) -> Rendezvous[OwnT]:
        """This place, or the one that an alias merged it into."""
        place = self
        while place._merged_into is not None:
            place = place._merged_into
        return place

    @property
    def is_idle(self) -> bool:
        """Nobody waits here and nothing is open."""
        return not (self.opened or self.outgoing or self.incoming or self.reserved or self.offers)

    def reserve(self) -> bool:
        """Keep the first unreserved open of the peer for a channel that is being created."""
        if len(self.incoming) <= self.reserved:
            return False
        self.reserved += 1
        return True

    def take_incoming(self, has_reservation: bool) -> RemoteChannel[OwnT] | None:
        """Pair a channel of ours that opens now: the peer's open that waits longest, if any.

        It is always the first, whomever that was reserved for, because the peer takes the next
        open of ours for the answer to its own first.
        """
        if has_reservation:
            self.release()
        return self.incoming.pop(0) if self.incoming else None

    def release(self) -> None:
        """A channel that had a reservation needs it no more."""
        if self.reserved:  # else what it was for has waited for too long
            self.reserved -= 1

    def give_up(self, remote: RemoteChannel[OwnT]) -> bool:
        """Let an open go that has waited too long, reserved or not; tell whether it waited here."""
        if remote not in self.incoming:
            return False
        self.incoming.remove(remote)
        self.reserved = min(self.reserved, len(self.incoming))
        return True

    def take_unreserved(self) -> list[RemoteChannel[OwnT]]:
        """Remove and return the opens to reject: nobody was created for them."""
        rest = []
        while len(self.incoming) > self.reserved:
            rest.append(self.incoming.pop())
        rest.reverse()
        return rest

    def absorb(self, other: Rendezvous[OwnT]) -> None:
        """Merge `other` into this place; whoever holds `other` finds here by `current`."""
        for key in other.keys:
            if key not in self.keys:
                self.keys.append(key)
        self.outgoing.update(other.outgoing)
        self.incoming.extend(other.incoming)
        self.reserved += other.reserved
        self.offers += other.offers
        self.opened += other.opened
        self.last = self.last or other.last
        other._merged_into = self


class PairingTable(Generic[OwnT]):
    """Every rendezvous of a mux that is not idle."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: dict[Key, Rendezvous[OwnT]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def find(self, protocol: str, id: bytes | None) -> Rendezvous[OwnT] | None:
        """Return the place of (protocol, id), None where nobody waits and nothing is open."""
        return self._places.get((protocol, id))

    def at(
        self, protocol: str, id: bytes | None, aliases: tuple[str, ...] = ()
    ) -> Rendezvous[OwnT]:
        """Return the place of (protocol, id), made if there is none; aliases lead to it too."""
        key = (protocol, id)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Rendezvous(key)
        for alias in aliases:
            key = (alias, id)
            other = self._places.get(key)
            if other is place:
                continue
            if other is None:
                place.keys.append(key)
            else:
                place.absorb(other)
            for name in place.keys:
                self._places[name] = place
        return place

    def forget_if_idle(self, place: Rendezvous[OwnT]) -> None:
        """Drop `place` when nothing is left there."""
        if place.is_idle:
            for key in place.keys:
                if self._places.get(key) is place:
                    del self._places[key]

    def clear(self) -> None:
        """Drop everything."""
        self._places.clear()
