"""Secret streams over real sockets, for tests."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from protomux.streams import SecretStream


async def connect(stream: SecretStream, end: socket.socket) -> None:
    """Let `stream` run over a connected socket."""
    await asyncio.get_running_loop().create_connection(lambda: stream, sock=end)


async def secret_pair(
    initiator: dict[str, Any] | None = None, responder: dict[str, Any] | None = None
) -> tuple[SecretStream, SecretStream]:
    """Return two streams over a socket pair, their handshake under way."""
    a, b = SecretStream(True, **(initiator or {})), SecretStream(False, **(responder or {}))
    ends = socket.socketpair()
    for stream, end in zip((a, b), ends, strict=True):
        await connect(stream, end)
    return a, b


class RawSocket:
    """The other end of a stream's socket, byte by byte."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        end.setblocking(False)
        self._loop = asyncio.get_running_loop()

    async def read(self, count: int) -> bytes:
        """Read exactly so many bytes."""
        data = b""
        async with asyncio.timeout(5):
            while len(data) < count:
                more = await self._loop.sock_recv(self.socket, count - len(data))
                assert more, "the stream closed"
                data += more
        return data

    async def read_message(self) -> bytes:
        """Read one message behind its length."""
        return await self.read(int.from_bytes(await self.read(3), "little"))

    async def read_end(self) -> None:
        """Read until the other side has closed."""
        async with asyncio.timeout(5):
            try:
                while await self._loop.sock_recv(self.socket, 65536):
                    pass
            except ConnectionResetError:
                pass

    async def write(self, data: bytes) -> None:
        """Write all of `data`."""
        await self._loop.sock_sendall(self.socket, data)

    async def write_message(self, message: bytes) -> None:
        """Write one message behind its length."""
        await self.write(len(message).to_bytes(3, "little") + message)

    def end(self) -> None:
        """End our half."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


async def secret_and_raw(is_initiator: bool, **options: Any) -> tuple[SecretStream, RawSocket]:
    """Return a stream and the raw other end of its socket."""
    ours, theirs = socket.socketpair()
    stream = SecretStream(is_initiator, **options)
    await connect(stream, ours)
    return stream, RawSocket(theirs)
