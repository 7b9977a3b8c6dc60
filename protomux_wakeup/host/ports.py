"""A private Unix socket that one process can use once, and the mux over it. Knows no message.

The path is a secret of the directory, which is closed to other users; who connects first is let
in, if it is a process of our own user, and the path is gone then.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket as sockets
from contextlib import suppress
from typing import Final

from protomux import Protomux
from protomux.streams import SecretStream
from protomux_wakeup.host.errors import ForeignPeer
from protomux_wakeup.host.places import socket_path
from protomux_wakeup.host.unix import check_peer, connected_socket, listening_socket

__all__ = ["Port", "use_port"]


class Port:
    """Waits for the one who uses it.

    Attributes:
        path: of the socket.
    """

    def __init__(self, directory: str) -> None:
        """Listen at a new path in `directory`. Raises OSError where it cannot."""
        self.path: Final = socket_path(directory, f"port-{secrets.token_hex(3)}")
        self._listener = listening_socket(self.path, is_for_all=False)

    async def accept(self) -> Protomux:
        """Return the mux to the one who has come; the path is gone then."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                connection, _ = await loop.sock_accept(self._listener)
                try:
                    check_peer(connection, ())
                    break
                except ForeignPeer:
                    connection.close()
        finally:
            self.close()
        return await _opened(SecretStream(False), connection)

    def close(self) -> None:
        """Wait for nobody any longer."""
        self._listener.close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)


async def use_port(path: str) -> Protomux:
    """Connect to the port at `path`, which nobody else can use then, and return the mux.

    Raises OSError where nobody listens there, ForeignPeer where another user does, HandshakeError
    or StreamClosed where the stream cannot be opened.
    """
    return await _opened(SecretStream(True), connected_socket(path, ()))


async def _opened(stream: SecretStream, connection: sockets.socket) -> Protomux:
    """Return the mux over `connection`, which is ours to close."""
    try:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: stream, sock=connection)
        await stream.wait_opened()
    except BaseException:
        stream.abort()
        connection.close()
        raise
    return Protomux(stream)
