"""The client connects, some at a time; each stream is open on both sides, then closed.

The listener closes a stream when it is open there, which tells the client that it was.
"""

from __future__ import annotations

import asyncio

from bench.peers.meeting import HOST
from bench.peers.talk import Arrivals, Talk, fail, say
from protomux.crypto import KeyPair
from protomux.streams import SecretStream, open_connection, start_server

__all__ = ["client", "listener"]


class _Handshakes(Arrivals):
    """Counts streams, and sums up their handshake hashes."""

    def note(self, stream: SecretStream) -> None:
        """A stream was open."""
        assert stream.handshake_hash is not None
        self.total += int.from_bytes(stream.handshake_hash[:4], "big")
        self.count += 1
        if self.count == self.expected:
            self.finish()


async def client(talk: Talk) -> None:
    """Connect."""
    port = talk.port
    assert port is not None
    keys = KeyPair.generate()
    opened = _Handshakes()

    async def connect(numbers: list[None]) -> None:
        while numbers:
            numbers.pop()
            stream = await open_connection(HOST, port, key_pair=keys)
            await stream.wait_closed()
            if stream.error is not None:
                fail(f"a stream ended with {stream.error!r}")
            opened.note(stream)

    async def connect_all(count: int) -> None:
        opened.expect(count)
        left = [None] * count
        await asyncio.gather(*(connect(left) for _ in range(talk.size["at_once"])))

    await talk.sync("ready")
    await connect_all(talk.size["warm"])
    await talk.sync("warm", tidy=True)
    talk.begin()
    await connect_all(talk.size["count"])
    await talk.sync("done")
    talk.end(began=True, ended=opened.ended)
    talk.finish(opened.count, opened.total)


async def listener(talk: Talk) -> None:
    """Take connections."""
    opened = _Handshakes()

    def take(stream: SecretStream) -> None:
        opened.note(stream)
        stream.close()

    server = await start_server(take, HOST)
    say({"port": server.sockets[0].getsockname()[1]})
    opened.expect(talk.size["warm"])
    await talk.sync("ready")
    await opened.wait()
    opened.expect(talk.size["count"])  # before the barrier: the client begins right behind it
    await talk.sync("warm", tidy=True)
    talk.begin()
    await opened.wait()
    await talk.sync("done")
    talk.end()
    talk.finish(opened.count, opened.total)
