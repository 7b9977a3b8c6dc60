"""One end of a flow of bare datagrams, in a process: `python -m bench.peers.datagrams OPTIONS`.

OPTIONS is a JSON object with `way` (one of `WAYS`), `loop`, `is_sender`, `count` and `size`. Out
goes {"port"}; in comes {"port"} of the other, upon which a sender begins; out go {"ready"} and
{"result"}. When stdin ends, so does the process.

The sender keeps `WINDOW` datagrams on the way, the receiver acknowledges every `ACKED`th with a
datagram of its own: so none is lost, and each side reads and writes as one of a stream would.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from time import monotonic_ns, process_time
from typing import Any, Final, Protocol, TypeAlias

import asyncio_dgram

from bench.loops import loop_factory
from bench.peers.talk import say

__all__ = ["WAYS", "has_segments"]

WINDOW: Final = 64
ACKED: Final = 16
_ACK: Final = bytes(20)
_AT_ONCE: Final = 64
"""Datagrams that are read in one wakeup."""
_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104

Address: TypeAlias = tuple[str, int]
Arrived: TypeAlias = Callable[[int], int]
"""Is told how many datagrams came, and returns how many are to be sent in answer."""


class Way(Protocol):
    """How datagrams come and go."""

    async def open(self, arrived: Arrived) -> Address: ...

    def know(self, address: Address) -> None: ...

    async def send(self, datagram: bytes, count: int) -> None: ...


class _Bare(asyncio.DatagramProtocol):
    """A DatagramProtocol on the loop's transport."""

    _transport: asyncio.DatagramTransport
    _arrived: Arrived
    _address: Address

    async def open(self, arrived: Arrived) -> Address:
        self._arrived = arrived
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        address: Address = self._transport.get_extra_info("sockname")
        return address

    def know(self, address: Address) -> None:
        self._address = address

    def datagram_received(self, _data: bytes, _sender: Any) -> None:
        for _ in range(self._arrived(1)):
            self._transport.sendto(_ACK, self._address)

    async def send(self, datagram: bytes, count: int) -> None:
        for _ in range(count):
            self._transport.sendto(datagram, self._address)


class _Dgram:
    """asyncio-dgram."""

    _stream: asyncio_dgram.aio.DatagramServer
    _address: Address
    _task: asyncio.Task[None]

    async def open(self, arrived: Arrived) -> Address:
        self._stream = await asyncio_dgram.bind(("127.0.0.1", 0))
        self._task = asyncio.ensure_future(self._read(arrived))
        host, port = self._stream.sockname[:2]
        return host, port

    def know(self, address: Address) -> None:
        self._address = address

    async def _read(self, arrived: Arrived) -> None:
        while True:
            await self._stream.recv()
            await self.send(_ACK, arrived(1))

    async def send(self, datagram: bytes, count: int) -> None:
        for _ in range(count):
            await self._stream.send(datagram, self._address)


class _Reader:
    """A socket of one's own on `add_reader`, with many datagrams read in one wakeup."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._address: Address
        self._arrived: Arrived

    async def open(self, arrived: Arrived) -> Address:
        self._arrived = arrived
        self._socket.bind(("127.0.0.1", 0))
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        address: Address = self._socket.getsockname()
        return address

    def know(self, address: Address) -> None:
        self._address = address

    def _read(self) -> None:
        count = 0
        try:
            while count < _AT_ONCE:
                self._socket.recvmsg(2048, 64)
                count += 1
        except BlockingIOError:
            pass
        self._answer(count)

    def _answer(self, count: int) -> None:
        for _ in range(self._arrived(count)):
            self._socket.sendto(_ACK, self._address)

    async def send(self, datagram: bytes, count: int) -> None:
        for _ in range(count):
            self._socket.sendto(datagram, self._address)


class _Segments(_Reader):
    """The same, with datagrams split and joined in the kernel (UDP_SEGMENT, UDP_GRO)."""

    def __init__(self) -> None:
        super().__init__()
        self._socket.setsockopt(_SOL_UDP, _UDP_GRO, 1)

    def _read(self) -> None:
        count = 0
        try:
            while count < _AT_ONCE:
                data, notes, _, _ = self._socket.recvmsg(65_536, 64)
                size = len(data)
                for level, kind, value in notes:
                    if (level, kind) == (_SOL_UDP, _UDP_GRO):
                        size = struct.unpack_from("H", value)[0]
                count += -(-len(data) // size)
        except BlockingIOError:
            pass
        self._answer(count)

    async def send(self, datagram: bytes, count: int) -> None:
        most = 65_000 // len(datagram)
        note = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("H", len(datagram)))]
        for first in range(0, count, most):
            parts = [datagram] * min(most, count - first)
            self._socket.sendmsg(parts, note, 0, self._address)


WAYS: Final[dict[str, Callable[[], Way]]] = {
    "protocol": _Bare,
    "asyncio-dgram": _Dgram,
    "reader": _Reader,
    "segments": _Segments,
}


def has_segments() -> bool:
    """Tell whether the kernel splits and joins datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.getsockopt(_SOL_UDP, _UDP_SEGMENT)
            probe.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        except OSError:
            return False
    return sys.platform == "linux"


class _Sender:
    """Sends until all are acknowledged."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._room = WINDOW
        self._has_room = asyncio.Event()

    def arrived(self, acks: int) -> int:
        self._room += acks * ACKED
        self._has_room.set()
        return 0

    async def run(self, way: Way, size: int) -> None:
        datagram = bytes(size)
        while self._left:
            burst = min(self._room, self._left)
            self._room -= burst
            self._left -= burst
            await way.send(datagram, burst)
            self._has_room.clear()
            while self._room < min(WINDOW, self._left or WINDOW) // 2:
                await self._has_room.wait()
                self._has_room.clear()
        while self._room < WINDOW:
            await self._has_room.wait()
            self._has_room.clear()


class _Receiver:
    """Counts and acknowledges."""

    def __init__(self, count: int) -> None:
        self._expected = count
        self._count = 0
        self._is_done = asyncio.Event()

    def arrived(self, count: int) -> int:
        acks = (self._count + count) // ACKED - self._count // ACKED
        self._count += count
        if self._count >= self._expected:
            self._is_done.set()
        return acks

    async def run(self) -> None:
        await self._is_done.wait()


async def _main(options: dict[str, Any]) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    way = WAYS[options["way"]]()
    side = (_Sender if options["is_sender"] else _Receiver)(options["count"])
    _, port = await way.open(side.arrived)
    say({"port": port})
    way.know(("127.0.0.1", json.loads(await lines.readline())["port"]))
    say({"ready": True})
    cpu, began = process_time(), monotonic_ns()
    await (side.run(way, options["size"]) if isinstance(side, _Sender) else side.run())
    say({"result": {"began": began, "ended": monotonic_ns(), "cpu": process_time() - cpu}})
    await lines.readline()
    os._exit(0)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    with asyncio.Runner(loop_factory=loop_factory(options["loop"])) as runner:
        runner.run(_main(options))
