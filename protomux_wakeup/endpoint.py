"""Where peers are met: connecting and listening at an address, leaving. Knows no topic."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, TypeVar, Unpack

from protomux import ProtomuxError
from protomux.streams import (
    SecretStream,
    SecretStreamOptions,
    Server,
    open_connection,
    open_udx_connection,
    open_unix_connection,
    start_server,
    start_udx_server,
    start_unix_server,
)
from protomux_wakeup.address import Address, TcpAddress, UdpAddress, UnixAddress

__all__ = [
    "KEEP_ALIVE",
    "LEAVING",
    "EndpointError",
    "close_streams",
    "connect",
    "listening",
    "own_addresses",
    "reason",
    "remote_address",
]

T = TypeVar("T")

KEEP_ALIVE: Final = 5.0
"""Seconds of silence after which something is sent, so that the loss of a peer is noticed; the
number is hyperdht's."""

LEAVING: Final = 2.0
"""Seconds that peers are given to close their side when we leave."""


class EndpointError(ProtomuxError):
    """No stream came about, or nothing listens.

    Attributes:
        code: the name of the system's error ("ECONNREFUSED"), None where it was none.
    """

    def __init__(self, what: str, error: OSError | ProtomuxError | UnicodeError) -> None:
        super().__init__(f"{what}: {reason(error)}")
        number = error.errno if isinstance(error, OSError) else None
        self.code = None if number is None else errno.errorcode.get(number)


def reason(error: BaseException) -> str:
    """Return what went wrong, in words for a user."""
    if isinstance(error, OSError):
        if error.errno is not None and error.errno in errno.errorcode:
            return os.strerror(error.errno)
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__


async def connect(address: Address, **options: Unpack[SecretStreamOptions]) -> SecretStream:
    """As `protomux.streams.open_connection`, to an address of any kind.

    Raises EndpointError where no stream comes about.
    """
    try:
        if isinstance(address, UnixAddress):
            return await open_unix_connection(address.path, **options)
        if isinstance(address, UdpAddress):
            return await _open_udx_connection(address, options)
        return await open_connection(address.host, address.port, **options)
    except (OSError, ProtomuxError, UnicodeError) as error:  # the last for what is no host name
        raise EndpointError(f"cannot connect to {address}", error) from error


@asynccontextmanager
async def listening(
    on_stream: Callable[[SecretStream], object],
    address: Address,
    **options: Unpack[SecretStreamOptions],
) -> AsyncIterator[Server]:
    """As `protomux.streams.start_server`, on an address of any kind, until the context ends.

    Raises EndpointError where it cannot listen.
    """
    try:
        if isinstance(address, UnixAddress):
            server = await start_unix_server(on_stream, address.path, **options)
        elif isinstance(address, UdpAddress):
            server = await _start_udx_server(on_stream, address, options)
        else:
            server = await start_server(on_stream, address.host, address.port, **options)
    except (OSError, UnicodeError) as error:
        raise EndpointError(f"cannot listen on {address}", error) from error
    with _socket_file(address):
        async with server:
            yield server


async def _open_udx_connection(address: UdpAddress, options: SecretStreamOptions) -> SecretStream:
    async def start(local: tuple[str, int]) -> SecretStream:
        return await open_udx_connection(
            *address.server,
            id=address.visitor_id,
            remote_id=address.server_id,
            local=local,
            **options,
        )

    return await _started(start, address.visitor)


async def _start_udx_server(
    on_stream: Callable[[SecretStream], object], address: UdpAddress, options: SecretStreamOptions
) -> Server:
    async def start(local: tuple[str, int]) -> Server:
        return await start_udx_server(
            on_stream,
            *address.visitor,
            id=address.server_id,
            remote_id=address.visitor_id,
            local=local,
            **options,
        )

    return await _started(start, address.server)


async def _started(start: Callable[[tuple[str, int]], Awaitable[T]], own: TcpAddress) -> T:
    """Start at an address of ours; behind a NAT, whose that is, at the port alone."""
    try:
        return await start((own.host, own.port))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return await start(("::" if ":" in own.host else "0.0.0.0", own.port))


@contextmanager
def _socket_file(address: Address) -> Iterator[None]:
    """Remove the file of a Unix socket when the context ends, as Python does from 3.13 on."""
    if not isinstance(address, UnixAddress):
        yield
        return
    inode = os.stat(address.path).st_ino
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.stat(address.path).st_ino == inode:  # else somebody else listens there now
                os.unlink(address.path)


def own_addresses(server: Server, address: Address) -> list[Address]:
    """Return where `server` listens, which was told to listen on `address`."""
    if isinstance(address, UdpAddress):
        return [address]  # half of which is the visitor's
    return [_address(socket.getsockname()) for socket in server.sockets]


def remote_address(stream: SecretStream) -> Address:
    """Return where the peer of an open `stream` is."""
    assert stream.transport is not None
    return _address(stream.transport.get_extra_info("peername"))


def _address(name: object) -> Address:
    if isinstance(name, tuple):
        host, port, *_ = name  # IPv6 adds two numbers
        return TcpAddress(host, port)
    return UnixAddress(str(name))  # a client's is empty


async def close_streams(streams: Iterable[SecretStream], within: float = LEAVING) -> bool:
    """Flush and close `streams`; abort those whose peers have not closed in so many seconds.

    Returns True if there was none to abort.
    """
    streams = list(streams)

    async def all_closed() -> None:
        await asyncio.gather(*(stream.wait_closed() for stream in streams))

    for stream in streams:
        stream.close()
    try:
        async with asyncio.timeout(within):
            await all_closed()
    except TimeoutError:
        return False
    else:
        return True
    finally:
        for stream in streams:
            stream.abort()
        await all_closed()  # at once
