"""The UDX of a case: sockets that both processes know of, streams between them, what came by them.

The twin of udx.mjs. The choices `host`, `path` and `largest`, the bytes of the largest IP packet
that arrives, say how the two are connected. Where that is not directly, a relay in this process
stands between the sockets of both sides, and each of them sees its address as the other's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from hashlib import sha256, shake_256
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast

from protomux.udx import Socket, UdxTransport, create_socket
from protomux.udx.stream import WINDOW, Stream
from tests.relay import Relay, Relayed

from .inbox import Inbox

if TYPE_CHECKING:
    from .twin import Peer

P = TypeVar("P", bound=asyncio.BaseProtocol)

__all__ = ["BAD", "HOSTS", "PATHS", "End", "Link", "Udx"]

HOSTS: Final = ("127.0.0.1", "::1")
"""The values of the choice `host`."""

PATHS: Final = ("direct", "bad")
"""The values of the choice `path`."""

BAD: Final = Relayed(delay=0.03, jitter=0.04, loss=0.05, duplication=0.05, reordering=0.05)
"""Each way. Two datagrams may arrive in either order when less than the jitter is between them;
besides, some are not delayed at all."""

JITTERY: Final = replace(BAD, reordering=0.0)
"""Without those: a path that has carried something in no time is taken to be short, and little is
sent at once."""

_CHUNK: Final = 65536


class Link(NamedTuple):
    """A socket of ours, and where the other side's is reached from it."""

    socket: Socket
    host: str
    port: int


class End(asyncio.Protocol):
    """One end of a stream: what it got, and how it went.

    Attributes:
        transport: of the stream, set before it is connected.
        remote_id: the other side's number of the stream.
        size: bytes that came.
        messages: those that came.
    """

    def __init__(self, transport: UdxTransport, remote_id: int) -> None:
        self.transport = transport
        self.remote_id = remote_id
        self.size = 0
        self.messages: Inbox[bytes] = Inbox()
        self._got = sha256()
        self._grew = asyncio.Event()
        self._ended = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._lost = asyncio.Event()
        self._error: Exception | None = None

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        self._got.update(data)
        self._grew.set()

    def message_received(self, data: bytes) -> None:
        self.messages.push(data)

    def eof_received(self) -> bool:
        self._ended.set()
        return True  # our half has its own end

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._may_write.set()
        self._error = error
        self._lost.set()

    @property
    def core(self) -> Stream:
        """What the stream knows of itself."""
        return cast(Stream, self.transport.get_extra_info("udx"))

    @property
    def digest(self) -> str:
        """Of all that came."""
        return self._got.hexdigest()

    @property
    def is_lost(self) -> bool:
        """The stream is gone."""
        return self._lost.is_set()

    async def received(self, size: int) -> None:
        """Wait until so many bytes are there."""
        while self.size < size:
            self._grew.clear()
            await self._grew.wait()

    async def ended(self) -> None:
        """Wait until the other side has ended its half."""
        await self._ended.wait()

    async def closed(self) -> Exception | None:
        """Wait until the stream is gone; return the error that ended it, None if in order."""
        await self._lost.wait()
        return self._error

    async def pour(self, size: int) -> str:
        """Write so many bytes, as many as there is room for at a time; return their digest."""
        sent = sha256()
        for begin in range(0, size, _CHUNK):
            chunk = shake_256(f"{self.remote_id} {begin}".encode()).digest(
                min(_CHUNK, size - begin)
            )
            sent.update(chunk)
            self.transport.write(chunk)
            await self._may_write.wait()
        return sent.hexdigest()


class Udx:
    """Sockets, relays and streams of one case, over the path that its options tell."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._host = peer.options.get("host", HOSTS[0])
        self._path: Relayed | None = None
        if peer.options.get("path") == "bad":
            self._path = BAD
        elif peer.options.get("path") == "jittery":
            self._path = JITTERY
        elif "largest" in peer.options:
            self._path = Relayed(delay=0.002, largest=peer.options["largest"])
        self._relays: list[Relay] = []
        self._stack = AsyncExitStack()

    async def link(self, socket: Socket | None = None) -> Link:
        """Return a socket of ours, new or as given, that can reach the other side's."""
        if socket is None:
            socket = await self._stack.enter_async_context(await create_socket(self._host))
        ours = socket.address[1]
        theirs = await self._peer.hear("udx port")
        if self._path is not None:
            # What the original had sent to an old address, it sends there again by its new socket.
            for old in self._relays:
                old.know(None, (self._host, theirs))
            relay = Relay(self._path, seed=len(self._relays), host=self._host)
            self._relays.append(await self._stack.enter_async_context(relay))
            relay.know((self._host, ours), (self._host, theirs))
            ours, theirs = relay.right[1], relay.left[1]
        self._peer.tell("udx port", ours)
        return Link(socket, self._host, theirs)

    async def streams(self, link: Link, ids: Sequence[int], *, window: int = WINDOW) -> list[End]:
        """Return streams between both sides, connected. `ids` are ours."""
        return await self.connect(link, ids, End, window=window)

    async def connect(
        self,
        link: Link,
        ids: Sequence[int],
        make: Callable[[UdxTransport, int], P],
        *,
        window: int = WINDOW,
    ) -> list[P]:
        """Connect streams; what `make(transport, remote_id)` makes are their protocols."""
        transports = [link.socket.create_stream(id, window=window) for id in ids]
        remote_ids = await self._peer.sync("udx ids", ids)
        protocols = []
        # Then a protocol may send in connection_made: until its side of a stream is connected, the
        # original drops what comes for it.
        await self._peer.hear("udx connected")
        for transport, remote_id in zip(transports, remote_ids, strict=True):
            protocol = make(transport, remote_id)
            transport.set_protocol(protocol)
            transport.connect(remote_id, link.host, link.port)
            protocols.append(protocol)
        self._peer.tell("udx connected")
        return protocols

    async def close(self) -> None:
        """Leave nothing behind."""
        await self._stack.aclose()
