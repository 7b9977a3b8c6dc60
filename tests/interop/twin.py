"""What a case holds: its side of the connection, its talk with Node, and what it logs.

The twin of twin.mjs: `Peer` here and `Twin` there have the same methods with the same meaning.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, Unpack

from protomux import Channel, Protomux, encoding
from protomux.encoding import Encoding
from protomux.streams import SecretStream, Server, open_connection, start_server
from protomux.streams.secret import SecretStreamOptions

from .inbox import Inbox
from .udx import Link, Udx
from .wire import Frame, describe

__all__ = [
    "CLOSED_BY_REMOTE",
    "CLOSED_BY_US",
    "Event",
    "Inbox",
    "Lines",
    "Mux",
    "Peer",
    "Watched",
    "message",
    "protocols",
    "watch",
]

HOST = "127.0.0.1"

Event = tuple[Any, ...]
"""("open", handshake), ("message", type, value), ("close", is_remote) or ("destroy",)."""

CLOSED_BY_US: list[Event] = [("close", False), ("destroy",)]
CLOSED_BY_REMOTE: list[Event] = [("close", True), ("destroy",)]


def message(value: object, type: int = 0) -> Event:
    """Return the event of a message."""
    return ("message", type, value)


class Lines(Protocol):
    """The way to the Node process."""

    def say(self, line: Mapping[str, Any]) -> None:
        """Send one line."""
        ...

    def queue(self, name: str) -> Inbox[Any]:
        """What Node said under `name`; its port is under "port"."""
        ...


class Mux(Protomux):
    """A mux with `frames`, every frame that came in, and with fences (see `Peer.fence`)."""

    def __init__(self, stream: SecretStream, **options: Any) -> None:
        self.frames: Inbox[Frame] = Inbox()
        super().__init__(stream, **options)
        self.fences = 0
        self.gates: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self.pair("fence", callback=self._reach_fence)

    async def _reach_fence(self, id: bytes | None) -> None:
        assert id is not None
        await self.gates[id[0]].wait()

    def frame_received(self, frame: bytes) -> None:
        """Note the frame, and handle it."""
        self.frames.push(describe(frame))
        super().frame_received(frame)

    @property
    def entries(self) -> list[str]:
        """What stood in all the frames that nobody took."""
        return [entry for frame in self.frames.items for entry in frame.entries]


class Watched:
    """A channel that logs its life."""

    def __init__(self, channel: Channel, log: Inbox[Event]) -> None:
        self.channel = channel
        self.log = log

    def send(self, value: object, type: int = 0) -> bool:
        """Send a message of `type`."""
        return self.channel.messages[type].send(value)


def watch(
    mux: Protomux,
    protocol: str,
    *,
    types: Sequence[Encoding[Any] | None] = (encoding.string,),
    **options: Any,
) -> Watched:
    """Create a channel whose hooks log; `types` are its messages, None for a skipped one."""
    log: Inbox[Event] = Inbox()

    def on_message(type: int) -> Any:
        return lambda value, _: log.push(("message", type, value))

    options = {
        "messages": [
            None if each is None else (each, on_message(type)) for type, each in enumerate(types)
        ],
        "on_open": lambda handshake, _: log.push(("open", handshake)),
        "on_close": lambda is_remote, _: log.push(("close", is_remote)),
        "on_destroy": lambda _: log.push(("destroy",)),
        **options,
    }
    channel = mux.create_channel(protocol, **options)
    assert channel is not None, f"no channel for {protocol}"
    return Watched(channel, log)


def protocols(mux: Protomux) -> list[str]:
    """Return the protocols of the channels that a mux has, in the order it gives them."""
    return [channel.protocol for channel in mux]


class Peer:
    """The Python side of one case.

    Attributes:
        initiator: this side is the initiator, and dials.
        opener: this side opens, the other one is opened to.
        options: what else the case was parametrised with; Node has it too.
        udx: for streams over UDX.
        logged: what the package logged as an error; a case that expects it clears it.
    """

    def __init__(self, lines: Lines, *, initiator: bool, opener: bool, options: Any) -> None:
        self.initiator = initiator
        self.opener = opener
        self.options: Mapping[str, Any] = options
        self.logged: list[str] = []
        self._lines = lines
        self._port: int | None = None
        self._server: Server | None = None
        self._accepted: Inbox[SecretStream] = Inbox()
        self._listener: socket.socket | None = None
        self._streams: list[SecretStream] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.udx = Udx(self)
        self._link: Link | None = None

    # With Node

    def tell(self, name: str, data: object = None) -> None:
        """Say `name` to the other side's `hear`."""
        self._lines.say({"sync": name, "data": data})

    async def hear(self, name: str) -> Any:
        """Wait until the other side tells `name`; return what it told."""
        return await self._lines.queue(name).next()

    async def sync(self, name: str, data: object = None) -> Any:
        """Pass a barrier together with the other side; return the other side's `data`."""
        self.tell(name, data)
        return await self.hear(name)

    # TCP and secret streams

    async def stream(self, **options: Unpack[SecretStreamOptions]) -> SecretStream:
        """Return the next secret stream between the two processes, open.

        The responder listens once, with the options of the first call.
        """
        if self._is_over_udx:
            stream = await self.dial(**options)
            await stream.wait_opened()
            return stream
        if self.initiator:
            stream = await open_connection(HOST, await self.port(), **options)
        else:
            if self._server is None:
                self._server = await start_server(self._accepted.push, HOST, 0, **options)
                self._listens(self._server.sockets[0])
            stream = await self._accepted.next()
        self._streams.append(stream)
        return stream

    async def dial(self, **options: Unpack[SecretStreamOptions]) -> SecretStream:
        """Return a secret stream over the next connection, its handshake under way."""
        if self._is_over_udx:
            if self._link is None:
                self._link = await self.udx.link()
            (stream,) = await self.udx.connect(
                self._link,
                [len(self._streams)],
                lambda *_: SecretStream(self.initiator, **options),
            )
            self._streams.append(stream)
            return stream
        _, stream = await asyncio.get_running_loop().create_connection(
            lambda: SecretStream(self.initiator, **options), sock=await self._connected()
        )
        self._streams.append(stream)
        return stream

    async def tcp(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the next TCP connection between the two processes, as it is."""
        reader, writer = await asyncio.open_connection(sock=await self._connected())
        self._writers.append(writer)
        return reader, writer

    @property
    def _is_over_udx(self) -> bool:
        return self.options.get("over") == "udx"

    async def _connected(self) -> socket.socket:
        """The next TCP connection, for who does not want the servers of the package."""
        loop = asyncio.get_running_loop()
        if self.initiator:
            connection = socket.socket()
            connection.setblocking(False)
            await loop.sock_connect(connection, (HOST, await self.port()))
            return connection
        if self._listener is None:
            self._listener = socket.create_server((HOST, 0), backlog=128)
            self._listener.setblocking(False)
            self._listens(self._listener)
        connection, _ = await loop.sock_accept(self._listener)
        return connection

    async def port(self) -> int:
        """Return where the other side listens."""
        if self._port is None:
            port: int = await self._lines.queue("port").next()
            self._port = port
        return self._port

    def _listens(self, listener: socket.socket) -> None:
        self._lines.say({"port": listener.getsockname()[1]})

    async def close(self) -> None:
        """Leave nothing behind."""
        for stream in self._streams:
            stream.abort()
            await stream.wait_closed()
        for writer in self._writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        await self.udx.close()

    # The mux

    async def fence(self, mux: Mux) -> None:
        """Pass a barrier inside the stream together with the other side.

        All that the other one had sent before it has been handled here then. It takes a channel,
        which stays open.
        """
        number = mux.fences
        mux.fences += 1
        channel = mux.create_channel("fence", bytes([number]))
        assert channel is not None
        # In a frame of its own: an original that gets it in a batch holds back all that it has to
        # send until its pair callback ends, and that ends only when Node comes to the fence, which
        # may depend on what is held back.
        mux._writer.flush()
        channel.open()
        mux._writer.flush()
        mux.gates[number].set()
        assert await channel.wait_opened(), "the fence did not open"

    async def meet(
        self,
        mux: Protomux,
        protocol: str,
        *,
        id: bytes | None = None,
        open: Any = None,
        **options: Any,
    ) -> Watched:
        """Return one watched channel between the two sides.

        The opener opens it once the other side is ready to be opened to, which answers in its
        pair callback. `open` is this side's handshake.
        """

        def create() -> Watched:
            watched = watch(mux, protocol, id=id, **options)
            watched.channel.open(open)
            return watched

        if self.opener:
            await self.hear(f"meet {protocol}")
            return create()
        created: Inbox[Watched] = Inbox()
        mux.pair(protocol, id, callback=lambda _: created.push(create()))
        self.tell(f"meet {protocol}")
        return await created.next()
