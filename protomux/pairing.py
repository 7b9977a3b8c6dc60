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
    """A channel as the peer opened it, until our side of it is open.

    Attributes:
        number: the peer's number for it.
        protocol: the name under which the peer opened it, which may be an alias here.
        handshake: the bytes that came with its open.
        held: (type, payload) of messages that came before our side was open.
        held_size: what it counts for among the bytes that are held.
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
        "place",
        "protocol",
        "question",
        "size",
    )

    def __init__(self, number: int, protocol: str, handshake: bytes) -> None:
        self.number = number
        self.protocol = protocol
        self.handshake = handshake
        self.held: list[tuple[int, bytes]] | None = None  # most have none
        self.held_size = 0
        self.is_closed = False
        self.place: Rendezvous[OwnT] | None = None
        self.size = 0
        self.question: Inquiry | None = None


class Rendezvous(Generic[OwnT]):
    """Where both sides of one (protocol, id) meet.

    Attributes:
        reserved: how many of the peer's opens that wait are kept, from the first, for channels that
            were created when there was one and are not opened yet.
        offers: pair callbacks that run now; the unpaired are rejected when the last has ended.
        opened: channels of ours that are opened and not closed.
        last: the channel opened last, until it closes.
    """

    __slots__ = (
        "_aliases",
        "_incoming",
        "_key",
        "_merged_into",
        "_outgoing",
        "last",
        "offers",
        "opened",
        "reserved",
    )

    def __init__(self, key: Key) -> None:
        self._key = key
        self._aliases: tuple[Key, ...] = ()
        # Both exist while something is in them: most places have nobody who waits. A list, since
        # it has one entry at most, mostly, and a deque of one costs more than all the rest.
        self._outgoing: OrderedDict[int, OwnT | None] | None = None
        self._incoming: list[RemoteChannel[OwnT]] | None = None
        self.reserved = 0
        self.offers = 0
        self.opened = 0
        self.last: OwnT | None = None
        self._merged_into: Rendezvous[OwnT] | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every name that leads here."""
        return self._key, *self._aliases

    def add_keys(self, *keys: Key) -> None:
        """Further names lead here."""
        self._aliases += tuple(key for key in keys if key not in self.keys)

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
        return not (self.opened or self._outgoing or self._incoming or self.reserved or self.offers)

    @property
    def expects_answer(self) -> bool:
        """An open of ours has no answer yet."""
        return self._outgoing is not None

    def expect_answer(self, number: int, own: OwnT | None) -> None:
        """Our channel `number` waits for an answer to its open; None: it was closed meanwhile."""
        if self._outgoing is None:
            self._outgoing = OrderedDict()
        self._outgoing[number] = own

    def answer_first(self) -> tuple[int, OwnT | None]:
        """Our open that waits longest, of which there must be one, has its answer."""
        assert self._outgoing is not None
        answered = self._outgoing.popitem(last=False)
        self._outgoing = self._outgoing or None
        return answered

    def answer(self, number: int) -> OwnT | None:
        """Our open of `number`, which must wait, has its answer."""
        assert self._outgoing is not None
        own = self._outgoing.pop(number)
        self._outgoing = self._outgoing or None
        return own

    def wait(self, remote: RemoteChannel[OwnT]) -> None:
        """An open of the peer's waits for one of ours."""
        if self._incoming is None:
            self._incoming = []
        self._incoming.append(remote)

    def reserve(self) -> bool:
        """Keep the first unreserved open of the peer for a channel that is being created."""
        if self._incoming is None or len(self._incoming) <= self.reserved:
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
        if self._incoming is None:
            return None
        remote = self._incoming.pop(0)
        self._incoming = self._incoming or None
        return remote

    def release(self) -> None:
        """A channel that had a reservation needs it no more."""
        if self.reserved:  # else what it was for has waited for too long
            self.reserved -= 1

    def give_up(self, remote: RemoteChannel[OwnT]) -> bool:
        """Let an open go that has waited too long, reserved or not; tell whether it waited here."""
        waiting = self._incoming or []
        if remote not in waiting:
            return False
        waiting.remove(remote)
        self._incoming = waiting or None
        self.reserved = min(self.reserved, len(waiting))
        return True

    def take_unreserved(self) -> list[RemoteChannel[OwnT]]:
        """Remove and return the opens to reject: nobody was created for them."""
        waiting = self._incoming or []
        rest = waiting[self.reserved :]
        self._incoming = waiting[: self.reserved] or None
        return rest

    def absorb(self, other: Rendezvous[OwnT]) -> None:
        """Merge `other` into this place; whoever holds `other` finds here by `current`."""
        self.add_keys(*other.keys)
        if other._outgoing is not None:
            self._outgoing = self._outgoing or OrderedDict()
            self._outgoing.update(other._outgoing)
        if other._incoming is not None:
            self._incoming = (self._incoming or []) + other._incoming
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
                place.add_keys(key)
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
