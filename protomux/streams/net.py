"""Secret streams over TCP, Unix sockets and UDX. Knows how to connect and to listen, no crypto.

Named and shaped after `asyncio.open_connection` and `asyncio.start_server`.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Awaitable, Callable
from typing import Final, Unpack

from protomux import udx
from protomux.crypto import KeyPair
from protomux.streams.secret import SecretStream, SecretStreamOptions
from protomux.streams.server import (
    Accept,
    AsyncioListener,
    Listener,
    OnStream,
    Server,
    UdxListener,
    connect_stream,
)

__all__ = [
    "OnStream",
    "Server",
    "open_connection",
    "open_udx_connection",
    "open_unix_connection",
    "start_server",
    "start_udx_server",
    "start_unix_server",
]

ANYWHERE: Final = ("0.0.0.0", 0)
"""Any IPv4 address of this machine, and any free port."""


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


async def open_udx_connection(
    host: str,
    port: int,
    *,
    id: int,
    remote_id: int,
    local: tuple[str, int] | udx.Socket = ANYWHERE,
    is_initiator: bool = True,
    **options: Unpack[SecretStreamOptions],
) -> SecretStream:
    """Open a secret stream over UDX with the peer at `host`:`port`, and return it when it is open.

    UDX has no handshake of its own, so both sides have to know each other's address and stream id
    before, and begin within `Limits.handshake_time` of each other.

    Args:
        host: the peer's, by name or number.
        port: the peer's.
        id: our number of the stream, 0 to 2^32 - 1.
        remote_id: the peer's number of it.
        local: where to bind a socket, which closes half a minute after an orderly end of the
            stream; or the socket to use, which is better for who comes again.
        is_initiator: exactly one side is.
        options: as for `open_connection`.

    Raises OSError where no socket can be bound, or the host is unknown; ValueError for an id that
    is none or taken; HandshakeError or StreamClosed where the stream cannot be opened.
    """
    stream = SecretStream(is_initiator, **options)
    socket = await _bound(local)
    try:
        host, port = await _resolved(socket, host, port)
        connect_stream(socket, id, stream, (remote_id, host, port))
    finally:
        if socket is not local:
            socket.close_when_idle()
    return await _opened(stream)


async def start_udx_server(
    on_stream: OnStream,
    host: str,
    port: int,
    *,
    id: int,
    remote_id: int,
    local: tuple[str, int] | udx.Socket = ANYWHERE,
    **options: Unpack[SecretStreamOptions],
) -> Server:
    """Wait for the one peer at `host`:`port`, as its responder, one stream after the other.

    The next stream may begin when the last one is over: at once after an orderly end, in a minute
    or two where the peer went without a word. All else as `start_server` and
    `open_udx_connection`.
    """
    socket = await _bound(local)
    is_owner = socket is not local

    async def listen(accept: Accept) -> Listener:
        remote = remote_id, *await _resolved(socket, host, port)
        return UdxListener(socket, accept, id, remote, is_owner=is_owner)

    try:
        return await _listening(on_stream, options, listen)
    except BaseException:
        if is_owner:
            socket.close()
        raise


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

    async def listen(accept: Accept) -> Listener:
        return AsyncioListener(await loop.create_server(accept, host, port, start_serving=False))

    return await _listening(on_stream, options, listen)


async def start_unix_server(
    on_stream: OnStream,
    path: str | os.PathLike[str],
    **options: Unpack[SecretStreamOptions],
) -> Server:
    """Listen on a Unix socket at `path`; all else as `start_server`."""
    loop = asyncio.get_running_loop()

    async def listen(accept: Accept) -> Listener:
        return AsyncioListener(
            await loop.create_unix_server(accept, os.fspath(path), start_serving=False)
        )

    return await _listening(on_stream, options, listen)


async def _listening(
    on_stream: OnStream,
    options: SecretStreamOptions,
    listen: Callable[[Accept], Awaitable[Listener]],
) -> Server:
    # One identity for all peers, also where none is given; and a wrong option is an error now,
    # not at the first peer.
    options = {**options, "key_pair": options.get("key_pair") or KeyPair.generate()}
    SecretStream(False, **options)
    server = Server(on_stream, options)
    server._listener = await listen(server._accept)
    try:
        await server._listener.start_serving()
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


async def _bound(local: tuple[str, int] | udx.Socket) -> udx.Socket:
    return local if isinstance(local, udx.Socket) else await udx.create_socket(*local)


async def _resolved(socket: udx.Socket, host: str, port: int) -> tuple[str, int]:
    """Return the IP address of `host` that `socket` can reach."""
    family = socket.get_extra_info("socket").family
    loop = asyncio.get_running_loop()
    flags = sockets.AI_V4MAPPED if family == sockets.AF_INET6 else 0
    found = await loop.getaddrinfo(host, port, family=family, type=sockets.SOCK_DGRAM, flags=flags)
    address: udx.Address = found[0][4]
    return address[0], address[1]
