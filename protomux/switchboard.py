"""Which number belongs to which channel, on both sides. Knows pairing and routing, no stream.

Control frames change who is paired with whom; messages go to their channel, or are held until it
is open here. Formats are in `frames`, the life of a channel in `channel`, who waits for whom in
`pairing`.

Numbers. Each side counts its own channels from 1 and takes freed numbers again, last freed first.
One is free when both sides are done with it: at the close of a paired channel, else only when the
peer has answered the open, by an open of its own or by a reject. So every open that the peer
sends is answered exactly once here too, and an open may only carry a number that is free or one
past the highest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from protomux.asking import PairCallbacks
from protomux.channel import Channel
from protomux.deadlines import Deadlines
from protomux.encoding import uint
from protomux.errors import LimitExceeded, ProtocolError
from protomux.frames import CONTROL, Control, close_body, decode_open, open_body, reject_body
from protomux.held import HELD_OVERHEAD, HeldBytes
from protomux.intake import Intake
from protomux.limits import Limits
from protomux.link import Announced, OwnLink
from protomux.outbox import FrameWriter
from protomux.pairing import Inquiry, PairingTable, RemoteChannel, Rendezvous

__all__ = ["Switchboard"]

# To ask an enum for its member takes Python 3.11 as long as a call.
_BATCH, _OPEN, _REJECT, _CLOSE = Control


class Switchboard:
    """The channels of one mux.

    Attributes:
        is_gone: the stream is being aborted; nothing is sent or received any more.
        is_lost: the stream is gone, and every channel closed.
        places: who waits for whom.
        pair_callbacks: whom to ask for a channel that the peer opens.
    """

    __slots__ = (
        "_free",
        "_highest",
        "_hooks",
        "_links",
        "_remote_highest",
        "_remotes",
        "_routes",
        "_unanswered",
        "_unopened",
        "_waiting",
        "_waiting_size",
        "fail",
        "held",
        "intake",
        "is_gone",
        "is_lost",
        "limits",
        "loop",
        "pair_callbacks",
        "places",
        "writer",
    )

    def __init__(
        self,
        writer: FrameWriter,
        intake: Intake,
        fail: Callable[[Exception], None],
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Send by `writer`, pause `intake`, and `fail(error)` to destroy the stream."""
        self.writer = writer
        self.intake = intake
        self.held = HeldBytes(intake, limits)
        self.fail = fail
        self.limits = limits
        self.loop = loop
        self.is_gone = False
        self.is_lost = False
        self.places: PairingTable[OwnLink] = PairingTable()
        self.pair_callbacks = PairCallbacks(loop, limits.pair_callbacks, fail)
        self._hooks = 0
        # our channels
        self._links: dict[int, OwnLink] = {}
        self._unopened: dict[OwnLink, None] = {}
        self._free: list[int] = []
        self._highest = 0
        self._unanswered: dict[int, Rendezvous[OwnLink]] = {}
        # the peer's channels
        self._remotes: dict[int, RemoteChannel[OwnLink]] = {}  # until our side is open
        self._routes: dict[int, OwnLink] = {}  # from then on
        intake.routes = self._routes
        self._remote_highest = 0
        self._waiting: Deadlines[RemoteChannel[OwnLink]] | None = None  # seldom does one wait
        self._waiting_size = 0

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[Channel]:
        return iter([link.channel for link in self._links.values()])

    @property
    def is_idle(self) -> bool:
        """No channel is open here and no open of ours waits for its answer."""
        return self._highest == len(self._free)

    def add(self, link: OwnLink, *, unique: bool) -> bool:
        """Take in a channel that was created; False if there is one of its name and `unique`.

        If an open of the peer waits for such a channel, it is kept for this one.
        """
        channel = link.channel
        # An alias may lead to opens that wait under it; else there is only to see who is there.
        place = (
            self.places.at(channel.protocol, channel.id, channel.aliases)
            if channel.aliases
            else self.places.find(channel.protocol, channel.id)
        )
        if place is not None:
            if unique and place.opened > 0:
                return False
            if place.reserve():
                link.has_reservation = True
                link.place = place
            self.places.forget_if_idle(place)
        self._unopened[link] = None
        return True

    def count_hooks(self, change: int) -> None:
        """Read nothing while more async hooks run than may."""
        was_busy = self._hooks > self.limits.hooks
        self._hooks += change
        is_busy = self._hooks > self.limits.hooks
        if is_busy and not was_busy:
            self.intake.pause()
        elif was_busy and not is_busy:
            self.intake.resume()

    def lose(self) -> None:
        """The stream is gone: every channel closes, and nothing is left of the peer."""
        self.is_gone = self.is_lost = True
        links = [*self._links.values(), *self._unopened]
        for table in (
            self._links,
            self._unopened,
            self._unanswered,
            self._remotes,
            self._routes,
        ):
            table.clear()
        self.pair_callbacks.clear()
        self.places.clear()
        self._free.clear()
        if self._waiting is not None:
            self._waiting.clear()
        self._highest = self._waiting_size = self.held.size = 0
        for link in links:
            link.remote = None
            link.remote_number = 0
            if not link.channel.is_closed:  # by the hook of another
                link.channel.end(is_remote=True)

    # Our channels.

    def open_own(self, link: OwnLink, handshake: bytes) -> None:
        """Open our side: pair it with the open that waits longest, or wait for an answer."""
        channel = link.channel
        del self._unopened[link]
        place = link.place = self.places.at(channel.protocol, channel.id, channel.aliases)
        remote = place.take_incoming(link.has_reservation)
        link.has_reservation = False
        number = link.number = self._free.pop() if self._free else self._next_number()
        self._links[number] = link
        place.opened += 1
        place.last = link
        if remote is None:
            place.expect_answer(number, link)
            self._unanswered[number] = place
            if channel.aliases:
                link.announced = Announced(channel.protocol, handshake)
            self._send_open(link, channel.protocol, handshake)
            return
        # Answer under the name that the peer used: it may not know our other one.
        self._waited(remote)
        if remote.question is not None:
            remote.question.paired()
        link.remote = remote
        self._send_open(link, remote.protocol, handshake)
        # on_open waits for the end of the tick, so that whoever opens the channel here can
        # finish setting it up.
        self.loop.call_soon(self._complete_later, link)

    def _next_number(self) -> int:
        self._highest += 1
        return self._highest

    def _send_open(self, link: OwnLink, protocol: str, handshake: bytes) -> None:
        self.writer.send(CONTROL, open_body(link.number, protocol, link.channel.id, handshake))

    def close_own(self, link: OwnLink) -> None:
        """Close our side, opened or not."""
        if self.is_lost:
            return
        if link.number == 0:
            del self._unopened[link]
            if link.has_reservation:
                place = link.place.current
                place.release()
                self._settle_place(place)
            return
        self.writer.send(CONTROL, close_body(link.number))
        self._unlink(link)

    def _close_remotely(self, link: OwnLink) -> None:
        self._unlink(link)
        if not link.channel.is_closed:
            link.channel.end(is_remote=True)

    def _unlink(self, link: OwnLink) -> None:
        """Take a channel that closes now out of every table, if it is still in them."""
        if self._links.pop(link.number, None) is None:
            return
        place = link.place = link.place.current
        place.opened -= 1
        if place.last is link:
            place.last = None
        number, link.number = link.number, 0
        remote, link.remote = link.remote, None
        if remote is not None:
            self._drop_remote(remote)
        elif link.remote_number:
            del self._routes[link.remote_number]
            link.remote_number = 0
        if number in self._unanswered:
            place.expect_answer(number, None)  # the number is free when the peer has answered
        else:
            self._free.append(number)
        self.places.forget_if_idle(place)

    def _complete_later(self, link: OwnLink) -> None:
        if self.is_gone or link.remote is None:
            return
        try:
            self._complete(link, link.remote)
        except Exception as error:  # as in frame_received
            self.fail(error)

    def _complete(self, link: OwnLink, remote: RemoteChannel[OwnLink]) -> None:
        """Both sides are open: tell the channel, then deliver what came meanwhile, in order."""
        channel = link.channel
        channel.complete(remote.handshake)
        # Grows when a stream delivers from inside a hook.
        for type, payload in remote.held or ():
            if self.is_gone or channel.is_closed:
                return
            channel.deliver(type, payload, 0, len(payload))
        if link.remote is not remote:  # a hook has closed the channel
            return
        self._drop_remote(remote)
        link.remote = None
        link.remote_number = remote.number
        self._routes[remote.number] = link
        if remote.is_closed:
            self._close_remotely(link)

    # The peer's channels.

    def receive(self, channel: int, type: int, data: bytes, start: int, end: int) -> None:
        """A message came that has no route: `data[start:end]` is its payload."""
        if channel == CONTROL:
            self._receive_control(type, data, start, end)
        elif (remote := self._remotes.get(channel)) is not None:
            self._hold(remote, type, data[start:end])
        # else it was in flight when the channel closed

    def _receive_control(self, type: int, data: bytes, start: int, end: int) -> None:
        if type == _BATCH:  # the outer one was taken apart by the intake
            raise ProtocolError("expected no batch inside a batch")
        if type == _OPEN:
            self._receive_open(data, start, end)
        elif type == _REJECT:
            self._receive_reject(uint.decode(data, start, end)[0])
        elif type == _CLOSE:
            self._receive_close(uint.decode(data, start, end)[0])

    def _receive_open(self, data: bytes, start: int, end: int) -> None:
        number, protocol, id, handshake = decode_open(data, start, end)
        if (
            number == CONTROL
            or number > self._remote_highest + 1
            or number in self._routes
            or number in self._remotes
        ):
            raise ProtocolError(
                f"invalid open: expected a free channel number from 1 to "
                f"{self._remote_highest + 1}, got {number}"
            )
        most = self.limits.name_size
        if 4 * len(protocol) > most or (id is not None and len(id) > most):  # perhaps
            longest = max(len(protocol.encode()), 0 if id is None else len(id))
            if longest > most:
                raise LimitExceeded(
                    f"expected a protocol and an id of at most {most} bytes, got one of {longest}"
                )
        self._remote_highest = max(self._remote_highest, number)
        remote: RemoteChannel[OwnLink]
        place = self.places.find(protocol, id)
        if place is None or not place.expects_answer:
            remote = RemoteChannel(number, protocol, data[handshake:end])
            remote.size = end - start
            self._receive_unexpected(place, remote, id)
            return
        remote = RemoteChannel(number, protocol, data[handshake:end])
        own_number, link = place.answer_first()
        del self._unanswered[own_number]
        if link is None:
            # We closed it before this answer came. An original overlooks a close that comes
            # while its pair callback runs, and would take the channel for open: say it again
            # before the number is used for another. Who knew it ignores this one.
            self.writer.send(CONTROL, close_body(own_number))
            self._free.append(own_number)
            self.places.forget_if_idle(place)
            return
        if link.announced is not None:
            if link.announced.protocol == protocol:
                link.announced = None
            else:
                link.announced.answered_as = protocol
        self._remotes[number] = remote
        link.remote = remote
        self._complete(link, remote)

    def _receive_unexpected(
        self,
        place: Rendezvous[OwnLink] | None,
        remote: RemoteChannel[OwnLink],
        id: bytes | None,
    ) -> None:
        """An open that nobody here has sent one for: it waits, or is rejected."""
        callback = self.pair_callbacks.find(remote.protocol, id)
        if self._waiting is None:
            self._waiting = Deadlines(self.loop, self.limits.waiting_time, self._give_up)
        if (
            (place is None and callback is None)  # nobody will ever want it
            or len(self._remotes) + len(self._routes) >= self.limits.channels
            or len(self._waiting) >= self.limits.waiting_opens
            or self._waiting_size + remote.size > self.limits.waiting_size
        ):
            self.writer.send(CONTROL, reject_body(remote.number))
            return
        remote.place = place = self.places.at(remote.protocol, id)
        self._remotes[remote.number] = remote
        self._waiting.add(remote)
        self._waiting_size += remote.size
        place.wait(remote)
        place.offers += 1
        remote.question = self.pair_callbacks.ask(callback, id, lambda: self._answered(remote))

    def _answered(self, remote: RemoteChannel[OwnLink]) -> None:
        """The pair callback that was asked about `remote` has said all that it will."""
        remote.question = None
        if not self.is_gone:
            assert remote.place is not None
            place = remote.place.current
            place.offers -= 1
            self._settle_place(place)

    def stop_asking(self, questions: Iterable[Inquiry]) -> None:
        """Reject what `questions` were asked about: whoever was to answer is not asked any more."""
        stopped = set(questions)
        for remote in list(self._waiting or ()):
            if remote.question in stopped:
                self._give_up(remote)

    def _give_up(self, remote: RemoteChannel[OwnLink]) -> None:
        """`remote` has waited for too long."""
        assert remote.place is not None
        place = remote.place.current
        question, remote.question = remote.question, None
        if question is not None:
            question.cancel()
            place.offers -= 1
        if place.give_up(remote):
            self._reject(remote)
        self._settle_place(place)

    def _reject(self, remote: RemoteChannel[OwnLink]) -> None:
        self._waited(remote)
        self._drop_remote(remote)
        self.writer.send(CONTROL, reject_body(remote.number))

    def _settle_place(self, place: Rendezvous[OwnLink]) -> None:
        """Reject what nobody here wants, once no pair callback can want it any more."""
        if place.offers == 0:
            for remote in place.take_unreserved():
                self._reject(remote)
        self.places.forget_if_idle(place)

    def _receive_reject(self, number: int) -> None:
        place = self._unanswered.pop(number, None)
        if place is not None:
            place = place.current
            link = place.answer(number)
            if link is None:
                self._free.append(number)
                self.places.forget_if_idle(place)
            else:
                self._close_remotely(link)
            return
        paired = self._links.get(number)
        announced = None if paired is None else paired.announced
        if paired is None or announced is None or announced.answered_as is None:
            raise ProtocolError(f"invalid reject: channel {number} does not wait for an answer")
        # We are paired through an alias, but the peer did not know the name that we had opened
        # under, and has dropped what came after. It knows its own name: begin again under that.
        paired.announced = None
        self._send_open(paired, announced.answered_as, announced.handshake)
        for body in announced.bodies:
            self.writer.send(number, body)

    def _receive_close(self, number: int) -> None:
        link = self._routes.get(number)
        if link is not None:
            self._close_remotely(link)
        elif (remote := self._remotes.get(number)) is not None:
            remote.is_closed = True  # the open is still to be answered, its messages delivered
        # else it is closed from both sides at once

    def _hold(self, remote: RemoteChannel[OwnLink], type: int, payload: bytes) -> None:
        if remote.is_closed:
            return
        if remote.held is None:
            remote.held = []
        remote.held.append((type, payload))
        size = len(payload) + HELD_OVERHEAD
        remote.held_size += size
        self.held.add(size)

    def _release_held(self, remote: RemoteChannel[OwnLink]) -> None:
        if remote.held is not None:
            size, remote.held_size, remote.held = remote.held_size, 0, None
            self.held.release(size)

    def _waited(self, remote: RemoteChannel[OwnLink]) -> None:
        assert self._waiting is not None
        self._waiting.discard(remote)
        self._waiting_size -= remote.size

    def _drop_remote(self, remote: RemoteChannel[OwnLink]) -> None:
        self._remotes.pop(remote.number, None)
        self._release_held(remote)
