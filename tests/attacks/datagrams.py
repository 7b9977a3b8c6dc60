"""Streams over UDP: what a peer of one may send, and what somebody who only guesses its number.

The victim has a socket with streams to an address of ours, and has written to each of them. They
are over when the attack is, as an application's would be.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

from protomux.udx.packet import Packet, Range, Type, decode_packet, encode_packet
from tests.attacks.attack import Fate, Outcome, Target, attack

__all__ = ["Raid"]

_WINDOW: Final = 2**22
_FLOWS: Final = 8
_BURST: Final = 32
"""Packets after which the victim gets its turn."""

_PEER: Final = 1000
"""What our numbers of the streams are more than the victim's."""


class Raid:
    """Streams of the victim to a socket of ours.

    Attributes:
        path: the socket that they are connected with.
        outside: another one.
        ids: the victim's numbers of them.
        came: bytes of UDX that have come to either.
    """

    def __init__(self, target: Target, path: sockets.socket, outside: sockets.socket) -> None:
        self.path = path
        self.outside = outside
        self.ids = range(1, _FLOWS + 1)
        self.came = 0
        self.next: dict[int, int] = {}
        self._target = target
        self._address = ("127.0.0.1", 0)

    async def start(self) -> None:
        port = self.path.getsockname()[1]
        told = await self._target.ask({"flows": [[id, _PEER + id, port] for id in self.ids]})
        self._address = "127.0.0.1", told["port"]

    async def left(self) -> tuple[int, int]:
        """Return how many are still open, and how many bytes the victim took."""
        status = await self._target.ask({})
        return status["flows"], status["flow_bytes"]

    def read(self) -> None:
        """Take what has come; `next` is by stream the number that the victim sends next."""
        for socket in (self.path, self.outside):
            with suppress(BlockingIOError):
                while True:
                    data = socket.recv(2048)
                    self.came += len(data)
                    packet = decode_packet(data)
                    if packet is not None and packet.type & Type.DATA:
                        id = packet.stream_id - _PEER
                        self.next[id] = max(self.next.get(id, 0), packet.seq + 1)

    async def send(self, socket: sockets.socket, packets: Iterable[Packet]) -> int:
        """Send them; return how many bytes of UDX."""
        size = 0
        for number, packet in enumerate(packets):
            data = encode_packet(packet)
            with suppress(BlockingIOError):
                socket.sendto(data, self._address)
                size += len(data)
            if number % _BURST == 0:
                self.read()
                await asyncio.sleep(0.001)
        return size

    async def outcome(self, detail: str = "") -> Outcome:
        """Tell whether the streams are still there, and what the victim has believed."""
        self.read()
        open, taken = await self.left()
        if open < _FLOWS:
            return Outcome(Fate.DESTROYED, f"{_FLOWS - open} of {_FLOWS} streams")
        if taken:
            return Outcome(Fate.SERVED, f"{taken:,} bytes were taken for the peer's")
        return Outcome(Fate.IGNORED, detail)


@asynccontextmanager
async def raid(target: Target) -> AsyncIterator[Raid]:
    """Let the victim open its streams to us, and close them at the end."""
    kind = sockets.AF_INET, sockets.SOCK_DGRAM
    with sockets.socket(*kind) as path, sockets.socket(*kind) as outside:
        for socket in (path, outside):
            socket.bind(("127.0.0.1", 0))
            socket.setblocking(False)
        found = Raid(target, path, outside)
        await found.start()
        try:
            yield found
        finally:
            await target.ask({"flows": None})


async def _from_elsewhere(
    target: Target, size: int, make: Callable[[int, int], Packet], *, guessed: bool = False
) -> Outcome:
    async with raid(target) as found:
        ids = found.ids
        packets = (
            make(int.from_bytes(os.urandom(4), "little") if guessed else ids[n % _FLOWS], n)
            for n in range(size)
        )
        await found.send(found.outside, packets)
        before = found.came
        found.read()
        return await found.outcome() if before == found.came else await found.outcome("answered")


_ELSEWHERE: Final = Fate.IGNORED
_HARM: Final = (Fate.DESTROYED, Fate.SERVED)


@attack("udx-guessed-numbers", _ELSEWHERE, harms=_HARM, full=20_000, small=500)
async def guessed(target: Target, size: int) -> Outcome:
    """Packets of all types for numbers that are guessed."""
    return await _from_elsewhere(
        target, size, lambda id, n: Packet(n % 64, id, _WINDOW, 0, 0, (), b"forged"), guessed=True
    )


@attack("udx-destroy-from-elsewhere", _ELSEWHERE, harms=_HARM, full=2000, small=200)
async def destroy_from_elsewhere(target: Target, size: int) -> Outcome:
    """DESTROY under the right number from an address that is not the peer's."""
    return await _from_elsewhere(
        target, size, lambda id, n: Packet(Type.DESTROY, id, _WINDOW, 0, 0)
    )


@attack("udx-data-from-elsewhere", _ELSEWHERE, harms=_HARM, full=2000, small=200)
async def data_from_elsewhere(target: Target, size: int) -> Outcome:
    """Data under the right number from an address that is not the peer's."""
    return await _from_elsewhere(
        target, size, lambda id, n: Packet(Type.DATA, id, _WINDOW, n // _FLOWS, 0, (), b"forged")
    )


@attack("udx-early", Fate.IGNORED, full=30_000, small=2000)
async def early(target: Target, size: int) -> Outcome:
    """Packets of a few bytes behind one that never comes, with gaps."""
    async with raid(target) as found:
        packets = (
            Packet(Type.DATA, 1 + n % _FLOWS, _WINDOW, 1 + n // _FLOWS * 2, 0, (), b"early")
            for n in range(size)
        )
        await found.send(found.path, packets)
        return await found.outcome()


@attack("udx-ranges", Fate.IGNORED, full=20_000, small=500)
async def ranges(target: Target, size: int) -> Outcome:
    """Acknowledgements of all but the first packet, in ranges that change each time."""
    async with raid(target) as found:

        def make(n: int) -> Packet:
            id = 1 + n % _FLOWS
            end = found.next.get(id, 0)
            begin = 1 + n // _FLOWS % 2
            said: list[Range] = [(begin, end)] if begin < end else []
            return Packet(0, id, 2**32 - 1, 0, 0, said)

        await found.send(found.path, map(make, range(size)))
        return await found.outcome(f"{max(found.next.values(), default=0):,} packets were out")


@attack("udx-no-window", Fate.IGNORED, full=20_000, small=500)
async def no_window(target: Target, size: int) -> Outcome:
    """Acknowledgements with a window of 0 and of all by turns."""
    async with raid(target) as found:

        def make(n: int) -> Packet:
            id = 1 + n % _FLOWS
            window = 2**32 - 1 if n // _FLOWS % 2 else 0
            return Packet(0, id, window, 0, found.next.get(id, 0))

        await found.send(found.path, map(make, range(size)))
        return await found.outcome()


@attack("udx-replies", Fate.IGNORED, full=20_000, small=500)
async def replies(target: Target, size: int) -> Outcome:
    """Heartbeats to a stream with gaps, from a peer that has acknowledged nothing."""
    async with raid(target) as found:
        holes = (Packet(Type.DATA, 1, _WINDOW, 1 + 2 * n, 0, (), b"early") for n in range(60))
        await found.send(found.path, holes)
        await asyncio.sleep(0.1)
        found.read()
        before = found.came
        sent = await found.send(
            found.path, (Packet(Type.HEARTBEAT, 1, _WINDOW, 0, 0) for _ in range(size))
        )
        await asyncio.sleep(0.1)
        found.read()
        return await found.outcome(f"{(found.came - before) / sent:.1f} bytes for each")
