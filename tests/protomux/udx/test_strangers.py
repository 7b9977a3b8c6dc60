"""Who is not on the path, and guesses: packets from elsewhere to a socket with streams at work."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from random import Random

import pytest

from protomux.udx import Address
from protomux.udx.packet import Packet, Type, encode_packet
from tests.protomux.udx.protocol import LIMIT, Ends, stream_pair

WINDOW = 2**22
SIZE = 1_000_000
BURST = 8
STEP = 7


def flood(kind: str, id: int) -> Iterator[bytes]:
    """Yield packets of one kind for stream `id`."""
    random = Random(kind)
    for number in range(300):
        match kind:
            case "data":
                yield encode_packet(Packet(Type.DATA, id, WINDOW, number, 0, (), b"forged"))
            case "end":
                yield encode_packet(Packet(Type.END, id, WINDOW, number, 0))
            case "acks":
                yield encode_packet(Packet(0, id, 0, 0, number * 10))
            case "sacks":
                yield encode_packet(Packet(0, id, 0, 0, 0, [(number + 1, number * 9 + 2)]))
            case "window":
                yield encode_packet(Packet(0, id, 0, 2**31 - 1, 0))
            case "destroy":
                yield encode_packet(Packet(Type.DESTROY, id, WINDOW, number, 0))
            case "heartbeat":
                yield encode_packet(Packet(Type.HEARTBEAT, id, WINDOW, 0, 0))
            case "message":
                yield encode_packet(Packet(Type.MESSAGE, id, WINDOW, 0, 0, (), b"forged"))
            case "guessed":
                yield encode_packet(
                    Packet(random.randrange(64), random.randrange(2**32), 0, number, number)
                )
            case _:
                yield random.randbytes(random.randrange(60))


KINDS = (
    *("data", "end", "acks", "sacks", "window", "destroy", "heartbeat", "message"),
    *("guessed", "garbage"),
)


@asynccontextmanager
async def stranger(ends: Ends, kind: str) -> AsyncIterator[sockets.socket]:
    """Send packets of a kind to both sockets from somewhere else, while the streams are at work."""
    done = asyncio.Event()

    async def send() -> None:
        """A few at a time: so many that none of the others gets in would be another attack."""
        each = [
            (datagram, socket.address)
            for id, socket in enumerate(ends.sockets)
            for datagram in flood(kind, id)
        ]
        for begin in count(0, BURST):
            if done.is_set():
                break
            for place in range(begin, begin + BURST):
                outside.sendto(*each[place * STEP % len(each)])
            await asyncio.sleep(0.001)

    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as outside:
        outside.setblocking(False)
        outside.bind(("127.0.0.1", 0))
        sending = asyncio.create_task(send())
        try:
            yield outside
        finally:
            done.set()
            await sending


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_from_elsewhere_touches_a_stream(kind: str) -> None:
    data = Random(1).randbytes(SIZE)
    others: list[Address] = []
    async with stream_pair() as ends:
        ends.sockets[0].on_datagram = lambda data, address: others.append(address)
        async with asyncio.timeout(LIMIT), stranger(ends, kind) as outside:
            for stream in (ends.left, ends.right):
                stream.write(data)
                stream.write_eof()
            for log in (ends.at_left, ends.at_right):
                await log.has("eof", size=SIZE)
            where = outside.getsockname()
            # Whoever is answered could be somebody whose address was forged.
            with pytest.raises(BlockingIOError):
                outside.recv(2000)
        for log in (ends.at_left, ends.at_right):
            assert log.data == data
            assert not log.messages
            assert log.error is None
        if kind == "garbage":
            assert set(others) == {where}
        else:
            assert not others
