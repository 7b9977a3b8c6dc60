"""A WebSocket through the proxy: bytes, both ways, until one side ends. Knows no frame.

Text and binary, fragments, pings, close codes and extensions are what the two ends make of them,
and no message has to fit in memory. Each way at most two buffers are held: then the side that is
ahead waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import ClientResponse, StreamReader, hdrs, web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from protomux_wakeup.host.backends.answers import cut

__all__ = ["tunnel"]

_BUFFER: Final = 64 * 1024


class _Inlet:
    """What a protocol of aiohttp gives its bytes to, once the connection has changed its own."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


async def tunnel(
    request: web.BaseRequest,
    answer: ClientResponse,
    headers: CIMultiDict[str],
    *,
    stall: float,
) -> web.StreamResponse:
    """Answer `request` with `headers`, as the backend has by `answer`, and join the two.

    Ends when one of them ends, or takes nothing for `stall` seconds while there is something for
    it; then both connections are closed.
    """
    loop = asyncio.get_running_loop()
    connection = answer.connection
    if connection is None or connection.protocol is None:
        raise ConnectionResetError("one side has gone before the two were joined")
    response = web.StreamResponse(status=101, headers=headers)
    response.headers[hdrs.UPGRADE] = "websocket"
    response.headers[hdrs.CONNECTION] = "Upgrade"
    response.force_close()
    await response.prepare(request)
    upward = StreamReader(request.protocol, _BUFFER, loop=loop)
    request.protocol.set_parser(cast(Any, _Inlet(upward)))
    downward = StreamReader(connection.protocol, _BUFFER, loop=loop)
    connection.protocol.set_parser(_Inlet(downward), downward)
    pumps = {
        loop.create_task(_pump(upward, StreamWriter(connection.protocol, loop).write, stall)),
        loop.create_task(_pump(downward, response.write, stall)),
    }
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
    if any(not pump.cancelled() and pump.exception() is not None for pump in pumps):
        cut(request)
    return response


async def _pump(
    reader: StreamReader, write: Callable[[bytes], Awaitable[None]], stall: float
) -> None:
    async for data in reader.iter_any():
        async with asyncio.timeout(stall):
            await write(data)
