"""A TCP connection that is passed on until so many bytes have gone one way, and then cut."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Cut(NamedTuple):
    """Where a connection is cut.

    Attributes:
        way: 0 counts what the client sends, 1 what the server sends.
        after: so many bytes pass that way, and no more.
        reset: by RST, else by FIN both ways.
    """

    way: int
    after: int
    reset: bool


class Relay:
    """Listens for one client, and connects it to the server at `port`.

    Attributes:
        port: where it listens.
        passed: bytes passed on, from the client and from the server.
        finished: set when all sockets are closed.
    """

    def __init__(self, port: int, cut: Cut | None = None) -> None:
        self.passed = [0, 0]
        self.finished = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._cut = cut
        self._is_cut = False
        self._server = ("127.0.0.1", port)
        self._ends: list[socket.socket] = []
        self._ended = [False, False]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept)

    def cut(self, *, reset: bool) -> None:
        """Pass on nothing more, and end the connection."""
        if self._is_cut:
            return
        self._is_cut = True
        for way, end in enumerate(self._ends):
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                continue
            self._loop.remove_writer(end)
            end.shutdown(socket.SHUT_WR)
            if not self._ended[way]:
                self._loop.add_reader(end, self._pass_on, way)
        if reset:
            self.close()

    def close(self) -> None:
        """Close all sockets."""
        for end in (self._listener, *self._ends):
            if end.fileno() >= 0:
                self._loop.remove_reader(end)
                self._loop.remove_writer(end)
                end.close()
        self.finished.set()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._ends = [client, socket.create_connection(self._server)]
        for way, end in enumerate(self._ends):
            end.setblocking(False)
            self._loop.add_reader(end, self._pass_on, way)
        if self._cut is not None and self._cut.after == 0:
            self.cut(reset=self._cut.reset)

    def _pass_on(self, way: int) -> None:
        source, target = self._ends[way], self._ends[1 - way]
        try:
            data = source.recv(65536)
            if not data:
                self._end(way)
            elif not self._is_cut:
                self._send(way, data, target)
        except ConnectionError:
            self.close()

    def _send(self, way: int, data: bytes, target: socket.socket) -> None:
        cut = self._cut
        if cut is not None and cut.way == way:
            data = data[: cut.after - self.passed[way]]
        self.passed[way] += len(data)
        with suppress(BlockingIOError):
            data = data[target.send(data) :]
        if data:  # the target does not read: nor do we, then
            self._loop.remove_reader(self._ends[way])
            self._loop.add_writer(target, self._send_rest, way, data, target)
        if cut is not None and cut.way == way and self.passed[way] == cut.after:
            self.cut(reset=cut.reset)

    def _send_rest(self, way: int, data: bytes, target: socket.socket) -> None:
        try:
            data = data[target.send(data) :]
        except ConnectionError:
            self.close()
            return
        self._loop.remove_writer(target)
        if data:
            self._loop.add_writer(target, self._send_rest, way, data, target)
        else:
            self._loop.add_reader(self._ends[way], self._pass_on, way)

    def _end(self, way: int) -> None:
        self._ended[way] = True
        self._loop.remove_reader(self._ends[way])
        if all(self._ended):
            self.close()
        elif not self._is_cut:
            self._ends[1 - way].shutdown(socket.SHUT_WR)
