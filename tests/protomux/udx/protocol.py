"""A protocol that remembers, and pairs of streams on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from protomux.udx import Socket, UdxTransport, create_socket

__all__ = ["LIMIT", "Ends", "Log", "socket_pair", "stream_pair"]

LIMIT = 20.0
"""Seconds after which a test has failed."""


class Log(asyncio.Protocol):
    """Remembers what the transport tells it."""

    def __init__(self, *, stays_open: bool = True) -> None:
        self.transport: UdxTransport
        self.data = bytearray()
        self.messages: list[bytes] = []
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.stays_open = stays_open
        self.writable = asyncio.Event()
        self._changed = asyncio.Condition()
        self._more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(UdxTransport, transport)
        self.writable.set()
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._more.set()

    def message_received(self, message: bytes) -> None:
        self.messages.append(message)
        self._more.set()

    def eof_received(self) -> bool:
        self._note("eof")
        return self.stays_open

    def connection_lost(self, error: Exception | None) -> None:
        self.error = error
        self._note("lost")

    def pause_writing(self) -> None:
        self.writable.clear()
        self._note("paused")

    def resume_writing(self) -> None:
        self.writable.set()
        self._note("resumed")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self._more.set()

    async def has(self, call: str | None = None, *, size: int = 0, messages: int = 0) -> None:
        """Wait until it was called so, and has so much."""
        async with asyncio.timeout(LIMIT):
            while (
                (call is not None and call not in self.calls)
                or len(self.data) < size
                or len(self.messages) < messages
            ):
                self._more.clear()
                await self._more.wait()


@dataclass
class Ends:
    """Two streams that are connected with each other."""

    left: UdxTransport
    right: UdxTransport
    at_left: Log
    at_right: Log
    sockets: tuple[Socket, Socket]


@asynccontextmanager
async def socket_pair(host: str = "127.0.0.1") -> AsyncIterator[tuple[Socket, Socket]]:
    async with await create_socket(host) as left, await create_socket(host) as right:
        yield left, right


@asynccontextmanager
async def stream_pair(
    host: str = "127.0.0.1", *, at_left: Log | None = None, at_right: Log | None = None
) -> AsyncIterator[Ends]:
    async with socket_pair(host) as sockets:
        logs = at_left or Log(), at_right or Log()
        streams = [
            socket.create_stream(number, log)
            for number, (socket, log) in enumerate(zip(sockets, logs, strict=True))
        ]
        for number, stream in enumerate(streams):
            stream.connect(1 - number, *sockets[1 - number].address[:2])
        for log in logs:
            await log.has("made")
        yield Ends(streams[0], streams[1], *logs, sockets)
