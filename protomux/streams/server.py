"""What lets peers in: a `Server` with what listens for it. Knows streams and sockets, no address.

A `Listener` accepts connections, of asyncio's servers or of UDX; the server bounds how many of
them shake hands at once, and says which streams came of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self, TypeAlias, cast

from protomux import udx
from protomux.errors import LimitExceeded, StreamClosed
from protomux.hooks import settle
from protomux.limits import Limits
from protomux.streams.cipher import Decryptor
from protomux.streams.secret import SecretStream, SecretStreamOptions

__all__ = [
    "Accept",
    "AsyncioListener",
    "Listener",
    "OnStream",
    "Server",
    "UdxListener",
    "connect_stream",
]

_log = logging.getLogger("protomux")

OnStream: TypeAlias = Callable[[SecretStream], object]
"""on_stream(stream), plain or async: a peer has connected and its stream is open."""

Accept: TypeAlias = Callable[[], SecretStream]
"""Returns the stream of a connection that was accepted."""


class Server:
    """A listening socket and the streams that came in by it, after `asyncio.Server`.

    As a context manager it stops listening on the way out.
    """

    def __init__(self, on_stream: OnStream, options: SecretStreamOptions) -> None:
        self._on_stream = on_stream
        self._options = options
        self._limits = options.get("limits") or Limits()
        self._listener: Listener | None = None
        self._opening: dict[SecretStream, None] = {}  # the oldest first
        self._streams: set[SecretStream] = set()
        self._has_stopped = False
        self._quiet = asyncio.Event()

    @property
    def sockets(self) -> tuple[sockets.socket, ...]:
        """The listening sockets; empty when it is closed."""
        return () if self._listener is None else tuple(self._listener.sockets)

    def is_serving(self) -> bool:
        """Tell whether it accepts connections."""
        return self._listener is not None and self._listener.is_serving()

    def close(self) -> None:
        """Accept no more, and abort the handshakes in flight; open streams live on."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        for stream in list(self._opening):
            stream.abort()
        # What asyncio has accepted in this tick gets its stream in the next one, and fails there
        # if its server has closed by then: first no more, then the close.
        listener.stop_accepting()
        asyncio.get_running_loop().call_soon(self._stop, listener)

    def _stop(self, listener: Listener) -> None:
        listener.close()
        self._has_stopped = True
        self._note_quiet()

    def close_clients(self) -> None:
        """Close every open stream that came in here, in order."""
        for stream in list(self._streams):
            stream.close()

    def abort_clients(self) -> None:
        """Abort every open stream that came in here, at once."""
        for stream in list(self._streams):
            stream.abort()

    async def wait_closed(self) -> None:
        """Wait until it is closed and no handshake is in flight; open streams live on."""
        await self._quiet.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.wait_closed()

    def _accept(self) -> SecretStream:
        if self._opening and len(self._opening) >= self._limits.handshakes:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.abort(
                LimitExceeded(
                    f"expected at most {self._limits.handshakes} handshakes at once, another "
                    f"connection came"
                )
            )
        stream = _AcceptedStream(self, self._options)
        self._opening[stream] = None
        return stream

    def _opened(self, stream: SecretStream) -> None:
        self._opening.pop(stream, None)
        self._note_quiet()
        if not stream.is_open:
            return
        self._streams.add(stream)

        def settled(_result: object, error: BaseException | None) -> None:
            if isinstance(error, Exception):
                _log.error("on_stream failed for %r", stream, exc_info=error)
                stream.abort(error)

        try:
            result = self._on_stream(stream)
        except Exception as error:
            settled(None, error)
        else:
            settle(result, asyncio.get_running_loop(), settled)

    def _lost(self, stream: SecretStream) -> None:
        if stream not in self._streams:
            _log.debug("a peer did not get through the handshake: %s", stream.error)
        self._streams.discard(stream)
        self._opening.pop(stream, None)
        self._note_quiet()

    def _note_quiet(self) -> None:
        if self._has_stopped and not self._opening:
            self._quiet.set()


class _AcceptedStream(SecretStream):
    """A stream that tells its server when it opens and when it is gone."""

    __slots__ = ("_server",)

    def __init__(self, server: Server, options: SecretStreamOptions) -> None:
        super().__init__(False, **options)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._server.is_serving():  # it has closed since this connection was accepted
            self.abort()

    def _prove(self, decryptor: Decryptor) -> None:
        super()._prove(decryptor)
        self._loop.call_soon(self._server._opened, self)

    def _lose(self, error: Exception | None) -> None:
        super()._lose(error)
        self._server._lost(self)


class Listener(Protocol):
    """What a `Server` needs of what accepts its connections."""

    @property
    def sockets(self) -> Iterable[sockets.socket]:
        """Where it listens."""
        ...

    def is_serving(self) -> bool:
        """Tell whether it accepts connections."""
        ...

    async def start_serving(self) -> None:
        """Accept connections."""
        ...

    def stop_accepting(self) -> None:
        """Take no more; what was taken may still get its stream."""
        ...

    def close(self) -> None:
        """Listen no more."""
        ...


class AsyncioListener:
    """Lets in by an asyncio.Server."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.is_serving = server.is_serving
        self.start_serving = server.start_serving
        self.close = server.close

    @property
    def sockets(self) -> Iterable[sockets.socket]:
        """Where it listens."""
        return self._server.sockets

    def stop_accepting(self) -> None:
        """Take no more connections."""
        loop = self._server.get_loop()
        with suppress(NotImplementedError):  # of a loop without readers
            for listener in self._server.sockets:
                loop.remove_reader(listener)


class UdxListener:
    """Waits for one peer, whose address and stream ids are known, again and again."""

    def __init__(
        self,
        socket: udx.Socket,
        accept: Accept,
        id: int,
        remote: tuple[int, str, int],
        *,
        is_owner: bool,
    ) -> None:
        self._socket = socket
        self._accept = accept
        self._id = id
        self._remote = remote
        self._is_owner = is_owner
        self._task: asyncio.Task[None] | None = None
        self._transport: udx.UdxTransport | None = None

    @property
    def sockets(self) -> Iterable[sockets.socket]:
        """Where it listens."""
        return [self._socket.get_extra_info("socket")]

    def is_serving(self) -> bool:
        """Tell whether it waits."""
        return self._task is not None

    async def start_serving(self) -> None:
        """Wait for the peer."""
        transport = self._next()
        self._task = asyncio.create_task(self._serve(transport))

    def _next(self) -> udx.UdxTransport:
        doorstep = _Doorstep(self._accept)
        self._transport = connect_stream(self._socket, self._id, doorstep, self._remote)
        return self._transport

    async def _serve(self, transport: udx.UdxTransport) -> None:
        # Of somebody else's socket, who has closed it, or taken the number.
        with suppress(StreamClosed, ValueError):
            while True:
                await transport.wait_released()
                transport = self._next()
        self._task = None

    def stop_accepting(self) -> None:
        """Take no more connections."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        transport = self._transport
        if transport is not None and isinstance(transport.get_protocol(), _Doorstep):
            transport.abort()  # nobody has come

    def close(self) -> None:
        """Close the socket, if it is ours, after its last stream."""
        if self._is_owner:
            self._socket.close_when_idle()


class _Doorstep(asyncio.Protocol):
    """Where a stream begins when the peer's first bytes come: only then its time runs."""

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._transport: udx.UdxTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(udx.UdxTransport, transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._transport = None
        stream = self._accept()
        transport.set_protocol(stream)
        stream.connection_made(transport)
        stream.data_received(data)


def connect_stream(
    socket: udx.Socket, id: int, protocol: asyncio.Protocol, remote: tuple[int, str, int]
) -> udx.UdxTransport:
    """Return stream `id` of `socket`, connected with `remote`; where that fails there is none."""
    transport = socket.create_stream(id, protocol)
    try:
        transport.connect(*remote)
    except BaseException:
        transport.abort()
        raise
    return transport
