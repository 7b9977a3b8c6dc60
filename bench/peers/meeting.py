"""The streams between the two sides, over loopback TCP."""

from __future__ import annotations

import asyncio
from typing import Final, Self

from bench.peers.talk import Talk, say
from protomux.crypto import KeyPair
from protomux.streams import SecretStream, Server, open_connection, start_server
from protomux_wakeup import Limits, Rate

__all__ = ["HOST", "LIMITS", "Meeting"]

HOST: Final = "127.0.0.1"
AT_ONCE: Final = 16

_ANY: Final = Rate(1 << 40, 1e12)
LIMITS: Final = Limits(announces=_ANY, entries=_ANY, lookups=_ANY, asked_topics=_ANY)
"""The defaults bound how much a peer may say in a second; here it says as much as it can."""


class Meeting:
    """Makes streams: the client connects, the listener waits for as many."""

    def __init__(self, port: int | None) -> None:
        self._port = port
        self._server: Server | None = None
        self._accepted: asyncio.Queue[SecretStream] = asyncio.Queue()
        self._keys = KeyPair.generate()

    @classmethod
    async def begin(cls, talk: Talk) -> Self:
        """Listen, if that is our role, and say where."""
        meeting = cls(talk.port)
        if talk.port is None:
            meeting._server = await start_server(
                meeting._accepted.put_nowait, HOST, key_pair=meeting._keys
            )
            say({"port": meeting._server.sockets[0].getsockname()[1]})
        return meeting

    async def streams(self, count: int) -> list[SecretStream]:
        """Return so many new streams, open on both sides."""
        if self._port is None:
            return [await self._accepted.get() for _ in range(count)]
        port = self._port
        free = asyncio.Semaphore(AT_ONCE)

        async def connect() -> SecretStream:
            async with free:
                return await open_connection(HOST, port, key_pair=self._keys)

        return list(await asyncio.gather(*(connect() for _ in range(count))))

    async def stream(self) -> SecretStream:
        """Return one new stream."""
        (stream,) = await self.streams(1)
        return stream
