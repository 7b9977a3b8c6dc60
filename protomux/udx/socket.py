"""A UDP socket that carries many streams. Knows the event loop and which stream a packet is for.

Everything that comes at once is taken at once, and answered together: one wakeup of the loop is one
acknowledgement a stream, however many packets it brought. The time is the monotonic clock's, which
asyncio's loops have as well: uvloop's own has milliseconds, in which a round trip may take none.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket as sockets
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Self, TypeAlias

from protomux.encoding import BytesLike
from protomux.errors import StreamClosed
from protomux.udx.datagrams import Address, Datagrams
from protomux.udx.packet import decode_packet
from protomux.udx.stream import WINDOW
from protomux.udx.transport import UdxTransport, as_bytes

__all__ = ["LEAST_WINDOW", "OnDatagram", "Socket", "Tap", "create_socket"]

_log = logging.getLogger("protomux")

OnDatagram: TypeAlias = Callable[[bytes, Address], object]
"""on_datagram(data, address): a datagram came that is no UDX packet."""

Tap: TypeAlias = Callable[[Address, Address, bytes], object]
"""tap(source, destination, datagram): a packet of a stream goes out, or has come."""

LEAST_WINDOW: Final = 16 * 1024
"""Bytes of the least receive window: the peer's first packets come before it was told of it, and
cannot be cut into others afterwards."""

_MOST_SECONDS: Final = 0.005
"""Of reading in one wakeup: then others get their turn."""


async def create_socket(
    host: str = "0.0.0.0", port: int = 0, *, on_datagram: OnDatagram | None = None
) -> Socket:
    """Return a UDP socket bound to `host` and `port` (0: any free one).

    One for "::" carries IPv4 as well, where the system has both. `on_datagram(data, address)` gets
    what is no UDX packet, such as the messages of a DHT.

    Raises OSError where it cannot be bound, NotImplementedError for an event loop without
    `add_reader` (Windows' default one).
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=sockets.SOCK_DGRAM, flags=sockets.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    bound = sockets.socket(family, kind, protocol)
    try:
        if family == sockets.AF_INET6:
            with suppress(OSError):
                bound.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, host != "::")
        bound.bind(address)
        return Socket(bound, loop, on_datagram)
    except BaseException:
        bound.close()
        raise


class Socket:
    """A UDP socket and its streams; `create_socket` makes one.

    As a context manager it is closed on the way out.

    Attributes:
        loop: the event loop.
        on_datagram: called with what is no UDX packet, and where it came from; None drops it.
        tap: called with every packet of a stream that goes out or comes; None for nobody, and when
            it has failed.
    """

    def __init__(
        self,
        bound: sockets.socket,
        loop: asyncio.AbstractEventLoop,
        on_datagram: OnDatagram | None = None,
    ) -> None:
        self.loop: Final = loop
        self.on_datagram = on_datagram
        self.tap: Tap | None = None
        self._datagrams = Datagrams(bound)
        self._family = bound.family
        self._address: Address = bound.getsockname()
        self._transports: dict[int, UdxTransport] = {}
        self._touched: dict[UdxTransport, None] = {}
        self._flush_is_due = False
        self._is_closed = False
        self._closes_when_idle = False
        self._closed = asyncio.Event()
        # When its loop has ended: what lingered is nothing to warn of.
        weakref.finalize(self, bound.close)
        loop.add_reader(bound.fileno(), self._read)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self._transports)} streams"
        return f"<udx.Socket {self._address[:2]} {state}>"

    @property
    def address(self) -> Address:
        """Where it is bound, as `getsockname` has it: (host, port) and more for IPv6."""
        return self._address

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "sockname" or "socket", as asyncio's transports do."""
        match name:
            case "sockname":
                return self._address
            case "socket":
                return self._datagrams.socket
            case _:
                return default

    def create_stream(
        self,
        id: int,
        protocol: asyncio.BaseProtocol | None = None,
        *,
        window: int = WINDOW,
    ) -> UdxTransport:
        """Return a stream that is `id` to the peer, still to be connected.

        Args:
            id: 0 to 2^32 - 1, and of no other stream of this socket. Who does not know it can send
                nothing to the stream: a random one keeps strangers out. One that has closed in
                order gives way.
            protocol: gets what comes; may be set later, before `connect`. An `asyncio.Protocol`
                that may have `message_received(data)` as well.
            window: bytes that the peer may send before they were taken, `LEAST_WINDOW` or more.

        Raises ValueError for an id or window that is none, or an id that is taken; StreamClosed if
        the socket has closed.
        """
        if self._is_closed:
            raise StreamClosed("expected a socket that is open")
        if not 0 <= id < 2**32:
            raise ValueError(f"expected an id from 0 to 2**32 - 1, got {id}")
        holder = self._transports.get(id)
        if holder is not None and not holder.is_replaceable:
            raise ValueError(f"expected an id that no stream of this socket has, got {id}")
        if not LEAST_WINDOW <= window < 2**32:
            raise ValueError(f"expected a window from {LEAST_WINDOW} to 2**32 - 1, got {window}")
        transport = UdxTransport(self, id, protocol, window)
        self._transports[id] = transport
        if holder is not None:
            holder.give_way()
        return transport

    def send(self, data: BytesLike, address: Address) -> None:
        """Send a datagram that is no packet of a stream to `address`, (host, port)."""
        if not self._is_closed:
            self._datagrams.send(self.resolve(*address[:2]), [as_bytes(data)])
            self._watch_writable()

    def close(self) -> None:
        """Destroy all streams, and close at once."""
        if self._is_closed:
            return
        self._closes_when_idle = False  # the last stream goes now, and must not begin this anew
        for transport in list(self._transports.values()):
            transport.lose(self, StreamClosed("the socket was closed"))
        self._flush_touched()
        self._is_closed = True
        for transport in list(self._transports.values()):  # those that wait for a full buffer
            transport.leave(self)
        descriptor = self._datagrams.socket.fileno()
        self.loop.remove_reader(descriptor)
        self.loop.remove_writer(descriptor)
        self._datagrams.close()
        self.loop.call_soon(self._closed.set)  # after connection_lost

    def close_when_idle(self) -> None:
        """Close when the last stream is gone."""
        self._closes_when_idle = True
        if not self._transports:
            self.close()

    async def wait_closed(self) -> None:
        """Wait until it is closed, and the protocols of its streams were told."""
        await self._closed.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    # Carrier: what the transports do

    def resolve(self, host: str, port: int) -> Address:
        """Return the address as this socket has it; ValueError for what is none."""
        if not 0 < port < 2**16:
            raise ValueError(f"expected a port from 1 to 65535, got {port}")
        wrong = f"expected an IP address that {self._address[0]} can reach, got {host!r}"
        try:
            ipaddress.ip_address(host)  # getaddrinfo takes much more: "", "1.2.3"
        except ValueError:
            raise ValueError(wrong) from None
        flags = sockets.AI_NUMERICHOST | sockets.AI_NUMERICSERV
        if self._family == sockets.AF_INET6:
            flags |= sockets.AI_V4MAPPED
        try:
            found = sockets.getaddrinfo(
                host, port, family=self._family, type=sockets.SOCK_DGRAM, flags=flags
            )
        except sockets.gaierror:
            raise ValueError(wrong) from None
        address: Address = found[0][4]
        return address

    def send_to(self, address: Address, datagrams: list[bytes], *, in_pieces: bool = False) -> None:
        """Send packets of a stream; in IP fragments where the path needs that, or never."""
        if self._is_closed:
            return
        if self.tap is not None:
            for datagram in datagrams:
                self._show(self._address, address, datagram)
        if in_pieces:
            with self._datagrams.fragmenting():
                self._datagrams.send(address, datagrams)
        else:
            self._datagrams.send(address, datagrams)
        self._watch_writable()

    def touch(self, transport: UdxTransport) -> None:
        """`flush` it before the loop waits again."""
        self._touched[transport] = None
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush_touched)

    def adopt(self, transport: UdxTransport) -> None:
        """It sends by this socket from now on; ValueError if its number is taken here."""
        if self._is_closed:
            raise StreamClosed("expected a socket that is open")
        if self._transports.setdefault(transport.id, transport) is not transport:
            raise ValueError(f"expected a socket without a stream {transport.id}")

    def forget(self, transport: UdxTransport) -> None:
        """The stream is over, and its number free."""
        if self._transports.get(transport.id) is transport:
            del self._transports[transport.id]
        if self._closes_when_idle and not self._transports:
            self.close()

    # The loop

    def _read(self) -> None:
        now = monotonic()
        datagrams = self._datagrams
        try:
            while (received := datagrams.receive()) is not None:
                self._take(*received, now)
                if monotonic() - now > _MOST_SECONDS:
                    break
        except OSError as error:  # of the interface, or the memory: what was lost comes again
            _log.debug("reading from %r failed: %s", self, error)
        self._flush_touched()

    def _take(self, address: Address, data: memoryview, size: int, now: float) -> None:
        transports, touched = self._transports, self._touched
        whole = len(data)
        for start in range(0, whole, size) if whole else (0,):
            datagram = data[start : start + size]
            packet = decode_packet(datagram)
            if packet is None:
                self._take_other(datagram, address)
                continue
            transport = transports.get(packet.stream_id)
            if transport is None:
                continue
            if self.tap is not None:
                self._show(address, self._address, bytes(datagram))
            if transport.datagram_received(packet, address, now):
                touched[transport] = None

    def _show(self, source: Address, destination: Address, datagram: bytes) -> None:
        """Let the tap see a packet; one that fails sees no more."""
        if self.tap is not None:
            try:
                self.tap(source, destination, datagram)
            except Exception:
                self.tap = None
                _log.exception("the tap of %r failed, and is taken off", self)

    def _take_other(self, datagram: memoryview, address: Address) -> None:
        if self.on_datagram is None:
            return
        try:
            self.on_datagram(bytes(datagram), address)
        except Exception:
            _log.exception("on_datagram failed for a datagram from %s", address)

    def _flush_touched(self) -> None:
        self._flush_is_due = False
        touched = self._touched
        now = monotonic()
        while touched and not self._datagrams.is_blocked:
            transport = next(iter(touched))
            del touched[transport]
            transport.flush(now)

    def _watch_writable(self) -> None:
        if self._datagrams.is_blocked:
            # What came would only wait for the answers to go out.
            descriptor = self._datagrams.socket.fileno()
            self.loop.remove_reader(descriptor)
            self.loop.add_writer(descriptor, self._drain)

    def _drain(self) -> None:
        self._datagrams.drain()
        if not self._datagrams.is_blocked:
            descriptor = self._datagrams.socket.fileno()
            self.loop.remove_writer(descriptor)
            self.loop.add_reader(descriptor, self._read)
            self._flush_touched()
