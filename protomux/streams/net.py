"""Secret streams over TCP and Unix sockets. Knows how to connect and to listen, no crypto.

Named and shaped after `asyncio.open_connection` and `asyncio.start_server`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias, Unpack

from protomux.crypto import KeyPair
from protomux.errors import LimitExceeded
from protomux.hooks import settle
from protomux.limits import Limits
from protomux.streams.cipher import Decryptor
from protomux.streams.secret import SecretStream, SecretStreamOptions

__all__ = [
    "OnStream",
    "Server",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]

_log = logging.getLogger("protomux")

OnStream: TypeAlias = Callable[[SecretStream], object]
"""on_stream(stream), plain or async: a peer has connected and its stream is open."""


async def open_connection(
    host: str, port: int, **options: Unpack[SecretStreamOptions]
) -> SecretStream:
    """Connect to `host`:`port` and return the stream when it is open.

    Options are those of `SecretStream`: key_pair, remote_public_key, pattern, firewall,
    keep_alive, timeout, limits.

    Raises OSError where the connection cannot be made, HandshakeError or StreamClosed where the
    stream cannot be opened over it.
    """
    loop = asyncio.get_running_loop()
    stream = SecretStream(True, **options)
    await loop.create_connection(lambda: stream, host, port)
    return await _opened(stream)


async def open_unix_connection(
    path: str | os.PathLike[str], **options: Unpack[SecretStreamOptions]
) -> SecretStream:
    """Connect to the Unix socket at `path`; all else as `open_connection`."""
    loop = asyncio.get_running_loop()
    stream = SecretStream(True, **options)
    await loop.create_unix_connection(lambda: stream, os.fspath(path))
    return await _opened(stream)


async def start_server(
    on_stream: OnStream,
    host: str | None = None,
    port: int = 0,
    **options: Unpack[SecretStreamOptions],
) -> Server:
    """Listen on `host`:`port` (port 0: any free one) and return the server.

    `on_stream(stream)`, plain or async, is called for every peer whom the firewall lets in and who
    has proved its key in this very handshake, by its header; when it raises, that stream is
    aborted with its error. Options are those of `open_connection`; the key pair is one for all
    streams, a random one unless given. A connection beyond `Limits.handshakes` whose handshake is
    not complete ends the oldest of those.

    Raises OSError where it cannot listen there.
    """
    loop = asyncio.get_running_loop()
    return await _listening(
        on_stream,
        options,
        lambda accept: loop.create_server(accept, host, port, start_serving=False),
    )


async def start_unix_server(
    on_stream: OnStream,
    path: str | os.PathLike[str],
    **options: Unpack[SecretStreamOptions],
) -> Server:
    """Listen on a Unix socket at `path`; all else as `start_server`."""
    loop = asyncio.get_running_loop()
    return await _listening(
        on_stream,
        options,
        lambda accept: loop.create_unix_server(accept, os.fspath(path), start_serving=False),
    )


async def _listening(
    on_stream: OnStream,
    options: SecretStreamOptions,
    listen: Callable[[Callable[[], SecretStream]], Awaitable[asyncio.Server]],
) -> Server:
    # One identity for all peers, also where none is given; and a wrong option is an error now,
    # not at the first peer.
    options = {**options, "key_pair": options.get("key_pair") or KeyPair.generate()}
    SecretStream(False, **options)
    server = Server(on_stream, options)
    server._server = await listen(server._accept)
    try:
        await server._server.start_serving()
    except BaseException:  # also where the caller was cancelled
        server.close()
        raise
    return server


async def _opened(stream: SecretStream) -> SecretStream:
    try:
        await stream.wait_opened()
    except BaseException:  # also where the caller was cancelled
        stream.abort()
        raise
    return stream


class Server:
    """A listening socket and the streams that came in by it, after `asyncio.Server`.

    As a context manager it stops listening on the way out.
    """

    def __init__(self, on_stream: OnStream, options: SecretStreamOptions) -> None:
        self._on_stream = on_stream
        self._options = options
        self._limits = options.get("limits") or Limits()
        self._server: asyncio.Server | None = None
        self._opening: dict[SecretStream, None] = {}  # the oldest first
        self._streams: set[SecretStream] = set()
        self._has_stopped = False
        self._quiet = asyncio.Event()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; empty when it is closed."""
        return () if self._server is None else tuple(self._server.sockets)

    def is_serving(self) -> bool:
        """Tell whether it accepts connections."""
        return self._server is not None and self._server.is_serving()

    def close(self) -> None:
        """Accept no more, and abort the handshakes in flight; open streams live on."""
        if self._server is None:
            return
        server, self._server = self._server, None
        for stream in list(self._opening):
            stream.abort()
        # What asyncio has accepted in this tick gets its stream in the next one, and fails there
        # if its server has closed by then: first no more, then the close.
        loop = server.get_loop()
        with suppress(NotImplementedError):  # of a loop without readers
            for listener in server.sockets:
                loop.remove_reader(listener)
        loop.call_soon(self._stop, server)

    def _stop(self, server: asyncio.Server) -> None:
        server.close()
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
