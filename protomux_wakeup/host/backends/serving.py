"""The two listeners: the control API, and the way to backends. Knows no route.

They are two origins, so that the page of a backend cannot act on the control page. Requests are not
logged: what clients send has tokens in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import secrets
import socket as sockets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from aiohttp import web

from protomux_wakeup.address import TcpAddress
from protomux_wakeup.endpoint import EndpointError
from protomux_wakeup.host.backends.api import Control, Status
from protomux_wakeup.host.backends.connection import Connection
from protomux_wakeup.host.backends.http_limits import HttpLimits
from protomux_wakeup.host.backends.manager import Manager
from protomux_wakeup.host.backends.proxy import Proxy, Reach
from protomux_wakeup.host.backends.urls import Urls

__all__ = ["Address", "control_token", "listening", "proxying", "serving"]

Address: TypeAlias = tuple[str, int]
"""Where to listen: an address of this machine, and a port, 0 for any."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_BACKLOG: Final = 1_024
_SHARE: Final = 8
"""Of the descriptors that this process may have open, a listener takes this part at most. With two
for each connection through the proxy that leaves more than half of them for backends and files."""
_LOOK: Final = 1.0
"""Seconds between two looks at the connections that nothing is read from."""

_log = logging.getLogger("protomux_wakeup.host")
_silent: Final = logging.Logger("aiohttp", logging.CRITICAL + 1)
"""What aiohttp has to say is what clients do to it; what fails here is in our log."""


def control_token(state: Path) -> str:
    """Return the token of the control API, which the directory `state` has; made if there is none.

    One process at a time may make it.
    """
    path = state / "control-token"
    try:
        token = path.read_text(errors="replace")
    except FileNotFoundError:
        token = ""
    if _TOKEN.fullmatch(token) is None:
        token = secrets.token_urlsafe(32)
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "w") as writer:
            writer.write(token)
        new.replace(path)
    return token


@asynccontextmanager
async def serving(
    manager: Manager,
    control: Address,
    proxy: Address,
    *,
    token: str,
    status: Status | None = None,
    limits: HttpLimits = HttpLimits(),
) -> AsyncIterator[Urls]:
    """Serve `manager`, whose `urls` are set: at `control` who has `token`, at `proxy` all.

    `status` is what GET /status answers. Raises EndpointError where one cannot be listened at.
    """
    async with AsyncExitStack() as stack:
        api = Control(manager, token, limits, status=status)
        runner = web.AppRunner(
            api.application,
            shutdown_timeout=limits.closing,
            access_log=None,
            handler_cancellation=True,
        )
        manager.urls = Urls(
            control=await stack.enter_async_context(listening(runner, control, limits)),
            proxy=await stack.enter_async_context(proxying(manager, proxy, limits)),
        )
        stack.callback(api.close_streams)
        yield manager.urls


@asynccontextmanager
async def proxying(reach: Reach, address: Address, limits: HttpLimits) -> AsyncIterator[str]:
    """Serve the way to the backends of `reach` at `address`; yield the URL of it."""
    proxy = Proxy(reach, limits)
    try:
        server = web.Server(proxy.handle, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=limits.closing)
        async with listening(runner, address, limits) as url:
            yield url
    finally:
        await proxy.close()


def _settings(limits: HttpLimits) -> dict[str, Any]:
    return {
        "head": limits.head,
        "keepalive_timeout": limits.idle,
        "max_line_size": limits.line,
        "max_field_size": limits.line,
        "max_headers": limits.headers,
        "lingering_time": limits.closing,
        "auto_decompress": False,
        "access_log": None,
        "logger": _silent,
    }


@asynccontextmanager
async def listening(
    runner: web.BaseRunner, address: Address, limits: HttpLimits
) -> AsyncIterator[str]:
    """Let `runner` answer what comes to `address`; yield the URL of it."""
    loop = asyncio.get_running_loop()
    await runner.setup()
    handlers = runner.server
    assert handlers is not None

    room = _room(limits)

    def protocol() -> asyncio.Protocol:
        is_full = len(handlers.connections) >= room
        return _Full() if is_full else Connection(handlers, loop=loop, **_settings(limits))

    try:
        with _bound(address, limits) as listener:
            host, port = listener.getsockname()[:2]
            server = await loop.create_server(protocol, sock=listener, backlog=_BACKLOG)
            watching = loop.create_task(_watch(handlers))
            try:
                yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            finally:
                server.close()
                watching.cancel()
                await asyncio.wait((watching,))
    finally:
        await runner.cleanup()


def _room(limits: HttpLimits) -> int:
    """Return how many connections a listener takes."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return limits.connections
    return min(limits.connections, max(1, descriptors // _SHARE))


async def _watch(handlers: web.Server) -> None:
    """Cut those connections of which nobody else learns that the client has gone."""
    while True:
        await asyncio.sleep(_LOOK)
        for connection in handlers.connections:
            if isinstance(connection, Connection):
                connection.cut_if_gone()


class _Full(asyncio.Protocol):
    """Cuts a connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


@contextmanager
def _bound(address: Address, limits: HttpLimits) -> Iterator[sockets.socket]:
    host, port = address
    with sockets.socket(sockets.AF_INET6 if ":" in host else sockets.AF_INET) as listener:
        listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if hasattr(sockets, "TCP_USER_TIMEOUT"):
            # A connection that is closed goes, also where its peer never reads what is left.
            stall = int(limits.stall * 1000)
            listener.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, stall)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise EndpointError(f"cannot listen on {TcpAddress(host, port)}", error) from error
        yield listener
