"""Where peers are met: connecting, listening, letting in, leaving. Knows no topic."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Unpack

from protomux import ProtomuxError
from protomux.streams import (
    SecretStream,
    SecretStreamOptions,
    Server,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from protomux_wakeup.cli.process import Failure, reason
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import Address, TcpAddress, UnixAddress, short

__all__ = [
    "LEAVING",
    "allow_only",
    "close_streams",
    "connect",
    "listening",
    "own_addresses",
    "remote_address",
]

LEAVING: Final = 2.0
"""Seconds that peers are given to close their side when we leave."""


async def connect(address: Address, **options: Unpack[SecretStreamOptions]) -> SecretStream:
    """As `protomux.streams.open_connection`, to an address of either kind.

    Raises Failure where no stream comes about.
    """
    try:
        if isinstance(address, UnixAddress):
            return await open_unix_connection(address.path, **options)
        return await open_connection(address.host, address.port, **options)
    except (OSError, ProtomuxError) as error:
        raise Failure(f"cannot connect to {address}: {reason(error)}") from error


@asynccontextmanager
async def listening(
    on_stream: Callable[[SecretStream], object],
    address: Address,
    **options: Unpack[SecretStreamOptions],
) -> AsyncIterator[Server]:
    """As `protomux.streams.start_server`, on an address of either kind, until the context ends.

    Raises Failure where it cannot listen.
    """
    try:
        if isinstance(address, UnixAddress):
            server = await start_unix_server(on_stream, address.path, **options)
        else:
            server = await start_server(on_stream, address.host, address.port, **options)
    except OSError as error:
        raise Failure(f"cannot listen on {address}: {reason(error)}") from error
    with _socket_file(address):
        async with server:
            yield server


@contextmanager
def _socket_file(address: Address) -> Iterator[None]:
    """Remove the file of a Unix socket when the context ends, as Python does from 3.13 on."""
    if isinstance(address, TcpAddress):
        yield
        return
    inode = os.stat(address.path).st_ino
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.stat(address.path).st_ino == inode:  # else somebody else listens there now
                os.unlink(address.path)


def own_addresses(server: Server) -> list[Address]:
    """Return where `server` listens."""
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


def allow_only(keys: Collection[bytes], report: Reporter) -> Callable[[bytes], bool] | None:
    """Return a firewall that lets in peers with one of `keys`, and says whom it refused.

    None, which lets everybody in, where there are no keys.
    """
    if not keys:
        return None

    def is_refused(key: bytes) -> bool:
        if key in keys:
            return False
        report.say(
            "refused",
            f"{short(key)} is not on the --firewall list",
            {"peer": key.hex()},
            details=[f"public key {key.hex()}"],
        )
        return True

    return is_refused


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
