"""Protomux: many channels over one framed stream. Knows numbers, pairing and batching.

Frames come in from the stream and are routed: control frames change who is paired with whom,
messages go to their channel, or are held until it is open here. What channels send is collected
and leaves as one frame at the end of the loop tick. Formats are in `frames`, the life of a
channel in `channel`, who waits for whom in `pairing`.

Numbers. Each side counts its own channels from 1 and takes freed numbers again, last freed first.
One is free when both sides are done with it: at the close of a paired channel, else only when the
peer has answered the open, by an open of its own or by a reject. So every open that the peer
sends is answered exactly once here too, and an open may only carry a number that is free or one
past the highest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from protomux.channel import Channel, MessageSpec
from protomux.encoding import BytesLike, Encoding, string, uint
from protomux.errors import EncodingError, LimitExceeded, ProtocolError, StreamClosed
from protomux.frames import (
    CONTROL,
    Control,
    Open,
    close_body,
    iter_batch,
    open_body,
    reject_body,
)
from protomux.held import HELD_OVERHEAD, HeldBytes
from protomux.hooks import settle
from protomux.limits import Limits
from protomux.outbox import FrameWriter
from protomux.pairing import Key, PairingTable, RemoteChannel, Rendezvous
from protomux.streams.base import FramedStream

__all__ = ["Protomux"]

_log = logging.getLogger("protomux")


def _key(protocol: str, id: BytesLike | None) -> Key:
    """Return the names of a place as the tables know them; EncodingError if they are none."""
    string.encode(protocol)
    if id is not None and not isinstance(id, bytes | bytearray | memoryview):
        raise EncodingError(f"expected an id of bytes or None, got {id!r}")
    return protocol, bytes(id) if id else None


class _Announced:
    """An open of ours under the first of several names, and what was sent after it."""

    __slots__ = ("bodies", "handshake", "protocol", "size")

    def __init__(self, protocol: str, handshake: bytes) -> None:
        self.protocol = protocol
        self.handshake = handshake
        self.bodies: list[bytes] = []
        self.size = 0

    def keep(self, body: bytes, limits: Limits) -> bool:
        """Keep `body` to send it again; False if that is more than the peer would hold."""
        self.bodies.append(body)
        self.size += len(body) + HELD_OVERHEAD
        return self.size <= limits.held_size


class _Link:
    """One channel of ours in its mux: its number, its place, and whom it is paired with."""

    __slots__ = ("announced", "channel", "has_reservation", "mux", "number", "place", "remote")

    def __init__(self, mux: Protomux) -> None:
        self.mux = mux
        self.channel: Channel
        self.place: Rendezvous[_Link]  # once it is opened, or has a reservation there
        self.number = 0
        self.remote: RemoteChannel[_Link] | None = None
        self.has_reservation = False
        self.announced: _Announced | None = None
        """Our open, while the peer may not know the name that it carries."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.mux._loop

    @property
    def drained(self) -> bool:
        return self.mux.drained

    def check_open(self, handshake: bytes) -> None:
        if self.mux._is_lost:
            raise StreamClosed("expected a stream to open a channel on, it is gone")
        channel = self.channel
        names = 4 * len(channel.protocol) + len(channel.id or b"")
        self.mux._writer.check_size(len(handshake) + names)

    def open(self, handshake: bytes) -> None:
        self.mux._open_own(self, handshake)

    def send(self, body: bytes) -> bool:
        is_drained = self.mux._writer.send(self.number, body)
        if self.announced is not None and not self.announced.keep(body, self.mux._limits):
            self.announced = None
        return is_drained

    def close(self) -> None:
        self.mux._close_own(self)

    def cork(self) -> None:
        self.mux.cork()

    def uncork(self) -> None:
        self.mux.uncork()

    def fail(self, error: Exception) -> None:
        self.mux.destroy(error)


class Protomux:
    """The multiplexer of one framed stream.

    Attributes:
        stream: the stream it runs on, a `protomux.streams.FramedStream`.

    Iterating a mux gives its channels that are opened here and not closed.
    """

    def __init__(
        self,
        stream: FramedStream,
        *,
        limits: Limits = Limits(),
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Become the receiver of `stream`.

        `loop` is the event loop whose ticks gather messages into batches, and which runs async
        hooks: the running one unless given. Raises ValueError if the stream has a receiver
        already: use `Protomux.of` where several parts of an application share a stream.
        """
        if stream.receiver is not None:
            raise ValueError(f"expected a stream without a receiver, got {stream!r}")
        self.stream = stream
        self._limits = limits
        self._loop = asyncio.get_running_loop() if loop is None else loop
        self._is_gone = False
        self._is_lost = False
        self._error: Exception | None = None
        self._close_callbacks: list[Callable[[Exception | None], object]] = []
        self._writer = FrameWriter(stream, self._drain, limits, self._loop)
        self._held = HeldBytes(stream, limits)
        # our channels
        self._links: dict[int, _Link] = {}
        self._unopened: dict[_Link, None] = {}
        self._free: list[int] = []
        self._highest = 0
        self._unanswered: dict[int, Rendezvous[_Link]] = {}
        # the peer's channels
        self._remotes: dict[int, RemoteChannel[_Link]] = {}
        self._remote_highest = 0
        self._waiting = 0
        self._waiting_size = 0
        # both
        self._places: PairingTable[_Link] = PairingTable()
        self._pair_callbacks: dict[Key, Callable[[bytes | None], object]] = {}
        stream.set_receiver(self)

    @classmethod
    def of(cls, stream: FramedStream | Protomux, *, limits: Limits = Limits()) -> Protomux:
        """Return the one mux of `stream`, made with `limits` if there is none yet."""
        if isinstance(stream, Protomux):
            return stream
        receiver = stream.receiver
        return receiver if isinstance(receiver, Protomux) else cls(stream, limits=limits)

    def __repr__(self) -> str:
        state = "gone" if self._is_gone else f"{len(self._links)} channels"
        return f"<Protomux {state} on {self.stream!r}>"

    def __iter__(self) -> Iterator[Channel]:
        return iter([link.channel for link in self._links.values()])

    @property
    def drained(self) -> bool:
        """False while the stream does not keep up, until `on_drain` of the channels."""
        return self._writer.drained

    def is_idle(self) -> bool:
        """Tell whether no channel is open here and no open of ours waits for its answer."""
        return self._highest == len(self._free)

    def is_opened(self, protocol: str, id: BytesLike | None = None) -> bool:
        """Tell whether a channel of (protocol, id) is opened here and not closed."""
        place = self._places.find(*_key(protocol, id))
        return place is not None and place.opened > 0

    def last_channel(self, protocol: str, id: BytesLike | None = None) -> Channel | None:
        """Return the channel of (protocol, id) that was opened last, unless it has closed."""
        place = self._places.find(*_key(protocol, id))
        return place.last.channel if place is not None and place.last is not None else None

    def pair(
        self,
        protocol: str,
        id: BytesLike | None = None,
        *,
        callback: Callable[[bytes | None], object],
    ) -> None:
        """Call `callback(id)`, plain or async, when the peer opens what nobody here waits for.

        Without an id it serves every id of the protocol that has no callback of its own. The
        peer is rejected if there is still no channel for it when the callback has ended; a
        callback that raises destroys the stream.
        """
        self._pair_callbacks[_key(protocol, id)] = callback

    def unpair(
        self,
        protocol: str,
        id: BytesLike | None = None,
        *,
        callback: Callable[[bytes | None], object] | None = None,
    ) -> None:
        """Forget the callback of (protocol, id), or only if it is `callback` still."""
        key = _key(protocol, id)
        if callback is None or self._pair_callbacks.get(key) is callback:
            self._pair_callbacks.pop(key, None)

    def create_channel(
        self,
        protocol: str,
        id: BytesLike | None = None,
        *,
        aliases: Iterable[str] = (),
        unique: bool = True,
        handshake: Encoding[Any] | None = None,
        messages: Iterable[MessageSpec] = (),
        user_data: Any = None,
        on_open: Callable[[Any, Channel], object] | None = None,
        on_close: Callable[[bool, Channel], object] | None = None,
        on_destroy: Callable[[Channel], object] | None = None,
        on_drain: Callable[[Channel], object] | None = None,
    ) -> Channel | None:
        """Create a channel; nothing is sent before its `open()`.

        Args:
            protocol: name that both sides know, with `aliases` as further names of it.
            id: binary id; None and no bytes at all are the same.
            unique: return None if a channel of (protocol, id) is opened here already.
            handshake: encoding of what goes along with the open, both ways.
            messages: the message types in order, each an encoding, (encoding, on_message), the
                keyword arguments of `Channel.add_message`, or None for one that is skipped.
            on_open: on_open(handshake, channel) when both sides are open.
            on_close: on_close(is_remote, channel).
            on_destroy: on_destroy(channel) when the last hook has ended after the close.
            on_drain: on_drain(channel) when the stream keeps up again after a False from `send`.

        Returns None too when the stream is gone. Raises EncodingError for a name or an id of
        the wrong type.
        """
        if self._is_gone:
            return None
        _, key = _key(protocol, id)
        aliases = tuple(aliases)
        link = _Link(self)
        link.channel = Channel(
            link,
            protocol,
            key,
            aliases=aliases,
            handshake=handshake,
            messages=messages,
            user_data=user_data,
            on_open=on_open,
            on_close=on_close,
            on_destroy=on_destroy,
            on_drain=on_drain,
        )
        # An alias may lead to opens that wait under it; else there is only to see who is there.
        place = (
            self._places.at(protocol, key, aliases) if aliases else self._places.find(protocol, key)
        )
        if place is not None:
            if unique and place.opened > 0:
                return None
            if place.reserve():
                link.has_reservation = True
                link.place = place
            self._places.forget_if_idle(place)
        self._unopened[link] = None
        return link.channel

    def cork(self) -> None:
        """Hold back what is sent until `uncork()` has been called as often."""
        self._writer.cork()

    def uncork(self) -> None:
        """Undo one `cork()`; after the last, all that was held leaves with this loop tick."""
        self._writer.uncork()

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Hold back what is sent inside the `with` block, also over several loop ticks."""
        self.cork()
        try:
            yield
        finally:
            self.uncork()

    def destroy(self, error: Exception | None = None) -> None:
        """Abort the stream at once; its receiver and its waiters are told of `error`.

        To flush and close in order, use `mux.stream.close()`.
        """
        if not self._is_gone:
            self._is_gone = True
            self._writer.close()
            self.stream.abort(error)

    def add_close_callback(self, callback: Callable[[Exception | None], object]) -> None:
        """Call `callback(error)` once when the stream is gone and all channels are closed.

        If that has happened already, it is called in the next loop tick.
        """
        if self._is_lost:
            self._loop.call_soon(callback, self._error)
        else:
            self._close_callbacks.append(callback)

    def remove_close_callback(self, callback: Callable[[Exception | None], object]) -> None:
        """Forget a `callback` that was added; does nothing if there is none."""
        if callback in self._close_callbacks:
            self._close_callbacks.remove(callback)

    # What the stream tells us.

    def frame_received(self, frame: bytes) -> None:
        """A frame came. Whatever is wrong with it ends in the stream's end, not in a raise."""
        if self._is_gone or not frame:
            return
        try:
            channel, position = uint.decode(frame, 0, len(frame))
            self._receive(channel, frame, position, len(frame), in_batch=False)
        except Exception as error:  # an application's encoding may raise anything
            self.destroy(error)

    def pause_writing(self) -> None:
        """The stream asks to wait with more frames."""
        self._writer.set_ready(False)

    def resume_writing(self) -> None:
        """The stream takes frames again."""
        self._writer.set_ready(True)

    def _drain(self) -> None:
        for channel in self:
            if not channel.is_closed:  # by the hook of another
                channel.drain()

    def connection_lost(self, error: Exception | None) -> None:
        """The stream is gone: every channel closes, and nothing is left of the peer."""
        self._is_gone = self._is_lost = True
        self._error = error
        links = [*self._links.values(), *self._unopened]
        for table in (self._links, self._unopened, self._unanswered, self._remotes):
            table.clear()
        self._pair_callbacks.clear()
        self._places.clear()
        self._writer.close()
        self._free.clear()
        self._highest = self._waiting = self._waiting_size = self._held.size = 0
        for link in links:
            link.remote = None
            if not link.channel.is_closed:  # by the hook of another
                link.channel.end(is_remote=True)
        callbacks, self._close_callbacks = self._close_callbacks, []
        for callback in callbacks:
            try:
                callback(error)
            except Exception:
                _log.exception("a close callback of %r failed", self)

    # Our channels.

    def _open_own(self, link: _Link, handshake: bytes) -> None:
        channel = link.channel
        del self._unopened[link]
        place = link.place = self._places.at(channel.protocol, channel.id, channel.aliases)
        remote = place.take_incoming(link.has_reservation)
        link.has_reservation = False
        number = link.number = self._free.pop() if self._free else self._next_number()
        self._links[number] = link
        place.opened += 1
        place.last = link
        if remote is None:
            place.outgoing[number] = link
            self._unanswered[number] = place
            if channel.aliases:
                link.announced = _Announced(channel.protocol, handshake)
            self._send_open(link, channel.protocol, handshake)
            return
        # Answer under the name that the peer used: it may not know our other one.
        self._waited(remote)
        remote.own, link.remote = link, remote
        self._send_open(link, remote.protocol, handshake)
        # on_open waits for the end of the tick, so that whoever opens the channel here can
        # finish setting it up.
        self._loop.call_soon(self._complete_later, link)

    def _next_number(self) -> int:
        self._highest += 1
        return self._highest

    def _send_open(self, link: _Link, protocol: str, handshake: bytes) -> None:
        self._writer.send(CONTROL, open_body(link.number, protocol, link.channel.id, handshake))

    def _close_own(self, link: _Link) -> None:
        if self._is_lost:
            return
        if link.number == 0:
            del self._unopened[link]
            if link.has_reservation:
                place = link.place.current
                place.reserved -= 1
                self._settle_place(place)
            return
        self._writer.send(CONTROL, close_body(link.number))
        self._unlink(link)

    def _close_remotely(self, link: _Link) -> None:
        self._unlink(link)
        if not link.channel.is_closed:
            link.channel.end(is_remote=True)

    def _unlink(self, link: _Link) -> None:
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
            self._free.append(number)
        elif number in self._unanswered:
            place.outgoing[number] = None  # the number is free when the peer has answered
        else:
            self._free.append(number)
        self._places.forget_if_idle(place)

    def _complete_later(self, link: _Link) -> None:
        if self._is_gone or link.remote is None:
            return
        try:
            self._complete(link, link.remote)
        except Exception as error:  # as in frame_received
            self.destroy(error)

    def _complete(self, link: _Link, remote: RemoteChannel[_Link]) -> None:
        """Both sides are open: tell the channel, then deliver what came meanwhile, in order."""
        channel = link.channel
        channel.complete(remote.handshake)
        held = remote.held
        assert held is not None
        for type, payload in held:  # grows when a stream delivers from inside a hook
            if self._is_gone or channel.is_closed:
                return
            channel.deliver(type, payload, 0, len(payload))
        remote.held = None
        remote.handshake = b""
        self._release_held(remote)
        if remote.is_closed and not channel.is_closed:
            self._close_remotely(link)

    # The peer's channels.

    def _receive(self, channel: int, data: bytes, start: int, end: int, *, in_batch: bool) -> None:
        type, position = uint.decode(data, start, end)
        if channel == CONTROL:
            self._receive_control(type, data, position, end, in_batch=in_batch)
            return
        remote = self._remotes.get(channel)
        if remote is None:
            return  # was in flight when the channel closed
        if remote.held is not None:
            self._hold(remote, type, data[position:end])
        elif remote.own is not None:
            remote.own.channel.deliver(type, data, position, end)

    def _receive_control(
        self, type: int, data: bytes, start: int, end: int, *, in_batch: bool
    ) -> None:
        if type == Control.BATCH:
            if in_batch:
                raise ProtocolError("expected no batch inside a batch")
            for channel, begin, stop in iter_batch(data, start, end):
                self._receive(channel, data, begin, stop, in_batch=True)
                if self._is_gone:
                    return
        elif type == Control.OPEN:
            self._receive_open(data, start, end)
        elif type == Control.REJECT:
            self._receive_reject(uint.decode(data, start, end)[0])
        elif type == Control.CLOSE:
            self._receive_close(uint.decode(data, start, end)[0])

    def _receive_open(self, data: bytes, start: int, end: int) -> None:
        number, protocol, id, handshake = Open.decode(data, start, end)
        if number == CONTROL or number > self._remote_highest + 1 or number in self._remotes:
            raise ProtocolError(
                f"invalid open: expected a free channel number from 1 to "
                f"{self._remote_highest + 1}, got {number}"
            )
        if max(len(protocol.encode()), len(id or b"")) > self._limits.name_size:
            raise LimitExceeded(
                f"expected a protocol and an id of at most {self._limits.name_size} bytes, "
                f"got {len(protocol.encode())} and {len(id or b'')}"
            )
        self._remote_highest = max(self._remote_highest, number)
        place = self._places.at(protocol, id)
        remote: RemoteChannel[_Link] = RemoteChannel(number, protocol, data[handshake:end])
        if place.outgoing:
            own_number, link = place.outgoing.popitem(last=False)
            del self._unanswered[own_number]
            if link is None:
                # We closed it before this answer came. An original overlooks a close that comes
                # while its pair callback runs, and would take the channel for open: say it again
                # before the number is used for another. Who knew it ignores this one.
                self._writer.send(CONTROL, close_body(own_number))
                self._free.append(own_number)
                self._places.forget_if_idle(place)
                return
            if link.announced is not None and link.announced.protocol == protocol:
                link.announced = None
            self._remotes[number] = remote
            remote.own, link.remote = link, remote
            self._complete(link, remote)
            return
        if (
            len(self._remotes) >= self._limits.channels
            or self._waiting >= self._limits.waiting_opens
            or self._waiting_size + end - handshake > self._limits.waiting_size
        ):
            self._writer.send(CONTROL, reject_body(number))
            self._places.forget_if_idle(place)
            return
        self._remotes[number] = remote
        self._waiting += 1
        self._waiting_size += end - handshake
        place.incoming.append(remote)
        place.offers += 1
        self._offer(place, protocol, id)

    def _offer(self, place: Rendezvous[_Link], protocol: str, id: bytes | None) -> None:
        """Ask the application for a channel of an open that nobody waits for."""

        def settled(_result: object, error: BaseException | None) -> None:
            if self._is_gone:
                return
            if isinstance(error, Exception):
                self.destroy(error)
                return
            current = place.current
            current.offers -= 1
            self._settle_place(current)

        callbacks = self._pair_callbacks
        callback = callbacks.get((protocol, id)) or callbacks.get((protocol, None))
        try:
            result = None if callback is None else callback(id)
        except asyncio.CancelledError as error:
            settled(None, error)
        else:
            settle(result, self._loop, settled)

    def _settle_place(self, place: Rendezvous[_Link]) -> None:
        """Reject what nobody here wants, once no pair callback can want it any more."""
        if place.offers == 0:
            for remote in place.take_unreserved():
                self._waited(remote)
                self._drop_remote(remote)
                self._writer.send(CONTROL, reject_body(remote.number))
        self._places.forget_if_idle(place)

    def _receive_reject(self, number: int) -> None:
        place = self._unanswered.pop(number, None)
        if place is not None:
            place = place.current
            link = place.outgoing.pop(number)
            if link is None:
                self._free.append(number)
                self._places.forget_if_idle(place)
            else:
                self._close_remotely(link)
            return
        paired = self._links.get(number)
        if paired is None or paired.announced is None or paired.remote is None:
            raise ProtocolError(f"invalid reject: channel {number} does not wait for an answer")
        # We are paired through an alias, but the peer did not know the name that we had opened
        # under, and has dropped what came after. It knows its own name: begin again under that.
        announced, paired.announced = paired.announced, None
        self._send_open(paired, paired.remote.protocol, announced.handshake)
        for body in announced.bodies:
            self._writer.send(number, body)

    def _receive_close(self, number: int) -> None:
        remote = self._remotes.get(number)
        if remote is None:
            return  # closed from both sides at once
        if remote.own is not None and remote.held is None:
            self._close_remotely(remote.own)
        else:
            remote.is_closed = True  # the open is still to be answered, its messages delivered

    def _hold(self, remote: RemoteChannel[_Link], type: int, payload: bytes) -> None:
        assert remote.held is not None
        if remote.is_closed:
            return
        remote.held.append((type, payload))
        size = len(payload) + HELD_OVERHEAD
        remote.held_size += size
        self._held.add(size)

    def _release_held(self, remote: RemoteChannel[_Link]) -> None:
        size, remote.held_size = remote.held_size, 0
        self._held.release(size)

    def _waited(self, remote: RemoteChannel[_Link]) -> None:
        self._waiting -= 1
        self._waiting_size -= len(remote.handshake)

    def _drop_remote(self, remote: RemoteChannel[_Link]) -> None:
        self._remotes.pop(remote.number, None)
        self._release_held(remote)
