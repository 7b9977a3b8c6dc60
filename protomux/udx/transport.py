"""A stream as an asyncio.Transport. Knows a protocol above and a socket below, no packet.

What one wakeup of the socket brings is collected, and given to the protocol as one piece: so the
protocol is only called from the loop, and never from inside a call of its own.

It behaves as asyncio's transports over TCP do, with these differences. The protocol is called from
`connect` on, since there is no handshake that could fail. What counts as written for
`pause_writing` is what has not been sent; `get_write_buffer_size` also counts what was not
acknowledged. `close` keeps the stream until the peer has all of it; then the protocol is told, and
the peer has `CLOSE_TIME` to end its own half.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable
from math import inf
from time import monotonic
from typing import Any, Final, Protocol, cast

from protomux.encoding import BytesLike
from protomux.udx.datagrams import Address
from protomux.udx.packet import Packet
from protomux.udx.stream import Life, Stream

__all__ = ["CLOSE_TIME", "Carrier", "UdxTransport", "as_bytes"]

CLOSE_TIME: Final = 30.0
"""Seconds for which the peer may go on sending, which nobody takes, when it has acknowledged all
of a stream that was closed; then it is destroyed."""

_HIGH_WATER: Final = 256 * 1024
"""Bytes that wait to be sent before the protocol is paused; as in libudx."""

_MOST_AT_ONCE: Final = 256 * 1024
"""Bytes that are given to the protocol at once, of those that waited while it paused."""


class Carrier(Protocol):
    """The socket of a transport, as far as a transport knows it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        ...

    def send_to(self, address: Address, datagrams: list[bytes], *, in_pieces: bool = False) -> None:
        """Send them; in IP fragments where the path needs that, or never."""
        ...

    def resolve(self, host: str, port: int) -> Address:
        """Return the address as this socket has it; ValueError for what is none."""
        ...

    def touch(self, transport: UdxTransport, /) -> None:
        """`flush` the transport before the loop waits again."""
        ...

    def adopt(self, transport: UdxTransport, /) -> None:
        """`transport` sends by this socket from now on; ValueError if its number is taken."""
        ...

    def forget(self, transport: UdxTransport, /) -> None:
        """The stream is over, and its number free."""
        ...

    def get_extra_info(self, name: str, default: Any = None, /) -> Any:
        """As a transport's."""
        ...


class UdxTransport(asyncio.Transport):
    """One stream of a `Socket`, which makes it.

    Attributes:
        id: our number of the stream.
    """

    def __init__(
        self, carrier: Carrier, id: int, protocol: asyncio.BaseProtocol | None, window: int
    ) -> None:
        super().__init__()
        self.id: Final = id
        self._carrier = carrier
        self._carriers = [carrier]  # by which packets may come
        self._loop: Final = carrier.loop
        self._protocol = protocol
        self._stream: Final = Stream(id, self, monotonic(), window=window)
        self._address: Address | None = None
        self._addresses: set[Address] = set()  # of the peer, now and before; without flow and scope
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        # reading
        self._arrived: list[bytes] = []
        self._held = bytearray()  # it waits for the protocol
        self._messages: list[bytes] = []
        self._is_made = False  # connection_made was called
        self._is_paused = False
        self._eof_is_due = False
        self._late_error: Exception | None = None  # of the end, when all that came was taken
        # writing
        self._outgoing: list[bytes] = []
        self._high = _HIGH_WATER
        self._low = _HIGH_WATER // 4
        self._protocol_is_paused = False
        # the end
        self._is_closing = False
        self._is_lost = False  # connection_lost is or will be called
        self._error: Exception | None = None
        self._close_deadline: asyncio.TimerHandle | None = None
        self._released = asyncio.Event()

    def __repr__(self) -> str:
        return f"<UdxTransport {self._stream!r} at {self._address}>"

    # What the application does

    def connect(self, remote_id: int, host: str, port: int) -> None:
        """Connect with the stream `remote_id` of the peer at `host`, an IP address, and `port`.

        Nothing is sent for it. Raises ValueError for an address or an id that is none, RuntimeError
        for a stream that is connected, or has no protocol.
        """
        if self._protocol is None:
            raise RuntimeError("expected a protocol to be set before connect")
        if self._stream.life is not Life.CREATED:
            raise RuntimeError("expected a stream that was not connected before")
        self._set_address(_address(self._carrier, remote_id, host, port))
        self._stream.connect(remote_id, monotonic(), ip_version=self._ip_version)
        self._loop.call_soon(self._make)
        self._carrier.touch(self)

    def change_remote(
        self, remote_id: int, host: str, port: int, socket: Carrier | None = None
    ) -> None:
        """Go on with the peer at another address, and by another `socket` if one is given.

        Packets from the addresses before are taken as well from now on.
        """
        if self._stream.life is not Life.OPEN:
            raise RuntimeError("expected a stream that is connected")
        carrier = socket or self._carrier
        address = _address(carrier, remote_id, host, port)
        if carrier not in self._carriers:
            carrier.adopt(self)
            self._carriers.append(carrier)
        self._carrier = carrier
        self._set_address(address)
        self._stream.change_remote(remote_id, monotonic(), ip_version=self._ip_version)
        self._carrier.touch(self)

    def _set_address(self, address: Address) -> None:
        self._address = address
        self._addresses.add(address[:2])

    @property
    def _ip_version(self) -> int:
        assert self._address is not None
        host = ipaddress.ip_address(self._address[0].partition("%")[0])
        is_mapped = host.version == 6 and host.ipv4_mapped is not None
        return 4 if is_mapped else host.version

    def set_keep_alive(self, seconds: float) -> None:
        """Ask the peer for a sign of life after so long a silence of ours; 0 turns it off.

        So that what stands between remembers the path; that the peer is gone, only data finds out.
        """
        if not seconds >= 0:
            raise ValueError(f"expected 0 seconds or more, got {seconds}")
        self._stream.set_keep_alive(seconds, monotonic())
        self._carrier.touch(self)

    @property
    def max_message_size(self) -> int:
        """Bytes of the largest message that may be sent now: what one packet holds."""
        return self._stream.most_message

    def send_message(self, data: BytesLike) -> None:
        """Send `data` as one packet, which may be lost, come twice, or in any order.

        It arrives as the peer's `protocol.message_received(data)`. Raises LimitExceeded beyond
        `max_message_size`. What is sent before `connect`, or after the end, is dropped.
        """
        self._stream.send_message(as_bytes(data))
        self._carrier.touch(self)

    # asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "peername", "udx" (the `Stream`), or what the socket has under `name`."""
        match name:
            case "peername":
                return self._address or default
            case "udx":
                return self._stream
            case _:
                return self._carrier.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to `protocol` from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who gets what comes."""
        return cast(asyncio.BaseProtocol, self._protocol)

    def is_closing(self) -> bool:
        """Tell whether `close` or `abort` was called, or the stream is gone."""
        return self._is_closing or self._is_lost

    def is_reading(self) -> bool:
        """Tell whether the protocol gets what comes."""
        return not self._is_paused and not self.is_closing()

    def pause_reading(self) -> None:
        """Hold what comes; the window that the peer is told shrinks by it."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Give the protocol what comes again."""
        if self._is_paused:
            self._is_paused = False
            self._loop.call_soon(self._deliver)

    def write(self, data: BytesLike) -> None:
        """Send `data`. Raises RuntimeError after `write_eof`."""
        if self.is_closing():
            return
        if self._stream.is_ending:
            raise RuntimeError("cannot write after write_eof")
        self._stream.write(as_bytes(data))
        self._carrier.touch(self)
        if self._stream.queued > self._high:
            self._update_writing()

    def writelines(self, list_of_data: Iterable[BytesLike]) -> None:
        """Send them one after the other."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Tell that a stream has halves that end by themselves."""
        return True

    def write_eof(self) -> None:
        """End our half, behind all that was written."""
        if not self._is_lost:
            self._stream.end()
            self._carrier.touch(self)

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the peer has not acknowledged."""
        return self._stream.waiting

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return at how many bytes the protocol is resumed and paused."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set at how many bytes that were not sent the protocol is paused and resumed."""
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"expected high ({high}) >= low ({low}) >= 0")
        self._high, self._low = high, low
        self._update_writing()

    def close(self) -> None:
        """Send what was written and END; the protocol gets nothing more but `connection_lost`.

        That comes when the peer has acknowledged all.
        """
        if self._is_closing or self._is_lost:
            return
        self._is_closing = True
        self._discard()
        if self._stream.life is Life.CREATED:
            self.abort()
            return
        self._stream.end()
        self._carrier.touch(self)
        self._check_end()

    def abort(self) -> None:
        """Destroy the stream: the peer is told, and what it has not acknowledged may be lost."""
        self._is_closing = True
        if self._stream.life in (Life.CREATED, Life.OPEN):
            self._stream.destroy()
            self._carrier.touch(self)
        self._lose(None)

    async def wait_released(self) -> None:
        """Wait until the number is free for another stream, some time after the end of this one.

        A stream that ended in order answers for a while what its peer sends again; unless that is
        the beginning of another stream.
        """
        await self._released.wait()

    # What the socket does

    @property
    def is_replaceable(self) -> bool:
        """The stream is over, and only lingers."""
        return self._is_lost and self._stream.is_replaceable

    def give_way(self) -> None:
        """Another stream has the number now."""
        self._stream.destroy()
        self.release()

    def datagram_received(self, packet: Packet, address: Address, now: float) -> bool:
        """A packet with our number came from `address`; False if that is not the peer's."""
        if address[:2] not in self._addresses:
            return False
        current = self._address
        is_current = current is not None and address[:2] == current[:2]
        self._stream.receive(packet, now, is_current=is_current)
        return True

    def flush(self, now: float) -> None:
        """Give the protocol what came, and the socket what goes out."""
        if self._arrived or self._messages or self._eof_is_due:
            self._deliver()
        self._stream.flush(now)
        outgoing = self._outgoing
        if outgoing:
            self._outgoing = []
            assert self._address is not None
            self._carrier.send_to(self._address, outgoing)
        if self._protocol_is_paused:
            self._update_writing()
        self._arm(now)

    def _arm(self, now: float) -> None:
        """Be called at the deadline; a timer that is early asks again, which is rarely."""
        at = self._stream.deadline
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(max(at - now, 0.0), self._on_timer)
        elif self._stream.life is Life.CLOSED:
            self.release()

    def leave(self, carrier: Carrier) -> None:
        """A socket has closed: let go of it, and of all if it was the one we send by."""
        if carrier is self._carrier:
            self.release()
        else:
            carrier.forget(self)
            self._carriers.remove(carrier)

    def release(self) -> None:
        """Let the number go, and all that waits for time."""
        for timer in (self._timer, self._close_deadline):
            if timer is not None:
                timer.cancel()
        for carrier in self._carriers:
            carrier.forget(self)
        self._released.set()

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, inf
        now = monotonic()
        if self._stream.deadline <= now:
            self._stream.on_timer(now)
        self.flush(now)

    # Host: what the stream does

    def transmit(self, datagram: bytes) -> None:
        """Keep it until the end of `flush`."""
        self._outgoing.append(datagram)

    def transmit_in_pieces(self, datagram: bytes) -> None:
        """Send it by itself."""
        assert self._address is not None
        self._carrier.send_to(self._address, [datagram], in_pieces=True)

    def data_received(self, data: bytes) -> None:
        """Keep it until `_deliver`."""
        if self._is_closing:
            return
        if self._is_paused or self._held or not self._is_made:
            self._hold(data)
        else:
            self._arrived.append(data)

    def _hold(self, data: bytes) -> None:
        self._held += data
        self._stream.unread += len(data)

    def eof_received(self) -> None:
        """Tell the protocol when it has all that came before."""
        self._eof_is_due = True

    def message_received(self, data: bytes) -> None:
        """Keep it until `_deliver`; messages do not wait for a protocol that pauses."""
        self._messages.append(data)

    def acknowledged(self) -> None:
        """See whether that was all."""
        self._check_end()

    def closed(self, error: Exception | None) -> None:
        """The stream is over; in order if there is no error.

        What was acknowledged to a peer that has ended is given to the protocol all the same.
        """
        if error is not None and self._eof_is_due and not self._is_closing:
            self._late_error = error
        elif error is not None or self._is_closing:
            self._lose(error)

    # What the protocol is told

    def _make(self) -> None:
        assert self._protocol is not None
        self._is_made = True
        self._call(self._protocol.connection_made, self)
        self._update_writing()
        self._deliver()

    def _deliver(self) -> None:
        """Give the protocol what it may have."""
        protocol = self._protocol
        messages, self._messages = self._messages, []
        if messages and self._is_made and not self._is_closing:
            take_message = getattr(protocol, "message_received", None)
            if take_message is not None:
                for message in messages:
                    self._call(take_message, message)
        arrived = self._arrived
        if arrived:
            self._arrived = []
            data = b"".join(arrived)
            if self._is_paused:  # by what a message brought about
                self._hold(data)
            else:
                self._give(data)
        while self._held and self._may_give:
            with memoryview(self._held) as view:
                data = bytes(view[:_MOST_AT_ONCE])
            del self._held[: len(data)]
            self._stream.taken(len(data))
            self._carrier.touch(self)
            self._give(data)
        if self._eof_is_due and not self._held and self._may_give:
            self._eof_is_due = False
            stays_open = self._call(cast(asyncio.Protocol, protocol).eof_received)
            if self._late_error is not None:
                self._lose(self._late_error)
            elif not stays_open:
                self.close()

    @property
    def _may_give(self) -> bool:
        return self._is_made and not self._is_paused and not self.is_closing()

    def _give(self, data: bytes) -> None:
        protocol = self._protocol
        if self.is_closing():
            return
        if isinstance(protocol, asyncio.Protocol):
            self._call(protocol.data_received, data)
        else:
            self._call(self._fill, cast(asyncio.BufferedProtocol, protocol), data)

    def _fill(self, protocol: asyncio.BufferedProtocol, data: bytes) -> None:
        left = memoryview(data)
        while left and not self.is_closing():
            buffer = memoryview(protocol.get_buffer(len(left)))
            size = min(len(buffer), len(left))
            if not size:
                raise RuntimeError("get_buffer() returned an empty buffer")
            buffer[:size] = left[:size]
            protocol.buffer_updated(size)
            left = left[size:]

    def _call(self, method: Any, *arguments: Any) -> Any:
        """Call the protocol; what it raises ends the stream, as with asyncio's transports."""
        try:
            return method(*arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._loop.call_exception_handler(
                {
                    "message": f"the protocol of {self!r} failed",
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
            self.abort()
            return None

    def _update_writing(self) -> None:
        queued = self._stream.queued
        if not self._is_made:
            return
        if queued > self._high and not self._protocol_is_paused:
            self._protocol_is_paused = True
            if self._protocol is not None:
                self._call(self._protocol.pause_writing)
        elif queued <= self._low and self._protocol_is_paused:
            self._protocol_is_paused = False
            if self._protocol is not None and not self._is_lost:
                self._call(self._protocol.resume_writing)

    # The end

    def _discard(self) -> None:
        """What came and was not taken is nobody's."""
        self._arrived.clear()
        self._messages.clear()
        self._eof_is_due = False
        if self._held:
            self._stream.taken(len(self._held))
            self._held.clear()

    def _check_end(self) -> None:
        """After `close`, and when the peer has all of ours: the protocol's part is over."""
        if not self._is_closing or self._is_lost:
            return
        if self._stream.has_ended or self._stream.life is not Life.OPEN:
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._error = error
        self._discard()
        if self._stream.life is Life.OPEN:
            self._close_deadline = self._loop.call_later(CLOSE_TIME, self._cut)
        if self._address is not None:
            self._loop.call_soon(self._tell_lost)

    def _cut(self) -> None:
        """The peer had its time to end its half."""
        self._stream.destroy()
        self._carrier.touch(self)

    def lose(self, carrier: Carrier, error: Exception | None) -> None:
        """A socket is gone: the end, unless there is another by now."""
        if carrier is not self._carrier:
            return
        if self._stream.life is not Life.CLOSED:
            self._stream.destroy()
        self._lose(error)
        self._carrier.touch(self)

    def _tell_lost(self) -> None:
        assert self._protocol is not None
        self._call(self._protocol.connection_lost, self._error)


def as_bytes(data: BytesLike) -> bytes:
    """Return `data` as it is now. Raises TypeError for what holds no bytes."""
    return data if isinstance(data, bytes) else bytes(memoryview(data))


def _address(carrier: Carrier, remote_id: int, host: str, port: int) -> Address:
    if not 0 <= remote_id < 2**32:
        raise ValueError(f"expected a remote_id from 0 to 2**32 - 1, got {remote_id}")
    return carrier.resolve(host, port)
