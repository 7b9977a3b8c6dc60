"""UDX against udx-native. The Node twins are in cases/udx.mjs.

`who` says who acts: the one that ends, destroys, moves or pauses. A `path` is direct, or leads
through a relay that loses, delays, doubles and reorders.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from itertools import islice
from typing import Final

from protomux.errors import StreamClosed
from protomux.udx import Address

from .harness import NO_ROLES, interop
from .inbox import Inbox
from .twin import Peer
from .udx import HOSTS, PATHS, End, Link

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE

IS_FULL: Final = os.environ.get("INTEROP_FULL") == "1"
"""Do what takes too long for every day as well."""

MUCH: Final = 100_000_000 if IS_FULL else 8_000_000
"""Bytes each way where there are to be many."""

WHO: Final = ("python", "node", "both")


def acts(peer: Peer) -> bool:
    return bool(peer.options["who"] != "node")


def is_direct(peer: Peer) -> bool:
    return bool(peer.options.get("path", "direct") == "direct")


async def meet(peer: Peer, count: int = 1) -> tuple[Link, list[End]]:
    """Return a socket of ours that can reach one of theirs, and streams between the two."""
    link = await peer.udx.link()
    return link, await peer.udx.streams(link, [1000 + number for number in range(count)])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what tells nobody that it has come."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def over(peer: Peer, *ends: End) -> None:
    """See them through their end in order, and Node through its own.

    The original forgets a stream that is over: if its last acknowledgement is lost, by the path or
    by the kernel when a thousand streams answer at once, nothing answers us for some seconds.
    """
    for end in ends:
        end.transport.close()
    for end in ends:
        assert await end.closed() is None
    await peer.sync("closed")


def agree(peer: Peer, *, direct: int, bad: int) -> int:
    """Return how much is to be sent over this path, and tell Node."""
    size = direct if is_direct(peer) else bad
    peer.tell("size", size)
    return size


async def give_and_take(peer: Peer, end: End, size: int) -> None:
    """Send so much and END, take as much and the other's, and see the stream over."""
    sent = await end.pour(size)
    end.transport.write_eof()
    await end.ended()
    assert end.size == size
    assert await peer.sync("sent", sent) == end.digest
    await over(peer, end)


@interop(ways=NO_ROLES, limit=120, path=PATHS, host=HOSTS)
async def test_both_ways_at_once(peer: Peer) -> None:
    size = agree(peer, direct=MUCH, bad=300_000)
    _, (end,) = await meet(peer)
    await give_and_take(peer, end, size)


async def exchange(peer: Peer, count: int) -> None:
    async def pour(number: int, end: End) -> str:
        sent = await end.pour(1000 + number * 7919 % 5000)
        end.transport.write_eof()
        await end.ended()
        return sent

    _, ends = await meet(peer, count)
    sent = await asyncio.gather(*(pour(*each) for each in enumerate(ends)))
    assert await peer.sync("sent", sent) == [end.digest for end in ends]
    await over(peer, *ends)


@interop(ways=NO_ROLES, path=PATHS)
async def test_two_streams(peer: Peer) -> None:
    await exchange(peer, 2)


@interop(ways=NO_ROLES, limit=60, path=PATHS)
async def test_a_thousand_streams(peer: Peer) -> None:
    await exchange(peer, agree(peer, direct=1000, bad=1000 if IS_FULL else 100))


@interop(ways=NO_ROLES)
async def test_the_least_and_the_largest_id(peer: Peer) -> None:
    link = await peer.udx.link()
    for end in await peer.udx.streams(link, [2**32 - 1, 0]):
        sent = await end.pour(1000)
        await end.received(1000)
        assert await peer.sync("sent", sent) == end.digest


@interop(ways=NO_ROLES, who=WHO, path=PATHS)
async def test_an_end(peer: Peer) -> None:
    _, (end,) = await meet(peer)
    if not acts(peer):
        await end.ended()
    await give_and_take(peer, end, 50 * KIBIBYTE)


@interop(ways=NO_ROLES, who=WHO)
async def test_an_end_without_data(peer: Peer) -> None:
    _, (end,) = await meet(peer)
    if not acts(peer):
        await end.ended()
    end.transport.write_eof()
    await end.ended()
    assert end.size == 0
    await over(peer, end)


@interop(ways=NO_ROLES, who=WHO, path=PATHS)
async def test_a_destroy(peer: Peer) -> None:
    async def fill(end: End) -> None:
        await end.pour(2 * KIBIBYTE)
        await end.received(2 * KIBIBYTE)

    _, ends = await meet(peer, 16)
    await asyncio.gather(*map(fill, ends))
    await peer.sync("filled")
    if acts(peer):
        for end in ends:
            end.transport.abort()
    # What says it is sent once, and may be lost.
    count = len(ends) if acts(peer) or is_direct(peer) else len(ends) // 2
    for closed in islice(asyncio.as_completed([end.closed() for end in ends]), count):
        error = await closed
        if peer.options["who"] != "both":
            assert (error is None) if acts(peer) else isinstance(error, StreamClosed)
    await peer.sync("destroyed")


@interop(ways=NO_ROLES, who=["python", "node"])
async def test_a_destroy_in_the_middle(peer: Peer) -> None:
    _, (end, other) = await meet(peer, 2)
    if acts(peer):
        await end.received(100 * KIBIBYTE)
        end.transport.abort()
        assert await end.closed() is None
    else:
        while not end.is_lost:
            await end.pour(100 * KIBIBYTE)
            await asyncio.sleep(0)
        assert isinstance(await end.closed(), StreamClosed)
    sent = await other.pour(20 * KIBIBYTE)
    await other.received(20 * KIBIBYTE)
    assert await peer.sync("sent", sent) == other.digest


@interop(ways=NO_ROLES, path=PATHS)
async def test_messages(peer: Peer) -> None:
    def message(number: int, sender: str) -> bytes:
        text = f"{sender} {number} ".encode()
        return (text * (1 + number * 11))[: len(text) + number * 11]

    _, (end,) = await meet(peer)
    for number in range(100):
        end.transport.send_message(message(number, "python"))
    sent = await end.pour(10 * KIBIBYTE)
    wanted = {message(number, "node") for number in range(100)}
    known = frozenset(wanted)
    left = 0 if is_direct(peer) else 25  # they may be lost, and come twice
    while len(wanted) > left:
        came = await end.messages.next()
        assert came in (wanted if is_direct(peer) else known)
        wanted.discard(came)
    await end.received(10 * KIBIBYTE)
    assert await peer.sync("sent", sent) == end.digest


@interop(ways=NO_ROLES, who=WHO, path=PATHS)
async def test_a_change_of_the_remote(peer: Peer) -> None:
    size = agree(peer, direct=MUCH // 4, bad=100_000)
    link, (end,) = await meet(peer)
    first = asyncio.create_task(end.pour(size))
    await end.received(size // 4)
    next = await peer.udx.link(None if acts(peer) else link.socket)
    end.transport.change_remote(end.remote_id, next.host, next.port, next.socket)
    await end.received(size)
    assert await peer.sync("first", await first) == end.digest
    if acts(peer):
        link.socket.close()
        await link.socket.wait_closed()
    await peer.sync("old ones closed")
    await end.pour(size)
    end.transport.write_eof()
    await end.ended()
    assert end.size == 2 * size
    await over(peer, end)


@interop(ways=NO_ROLES, path=PATHS)
async def test_a_full_window(peer: Peer) -> None:
    # Theirs never is: the original takes what comes, whether its reader pauses or not.
    window, size = (256 * KIBIBYTE, MEBIBYTE) if is_direct(peer) else (32 * KIBIBYTE, 100_000)
    peer.tell("size", size)
    link = await peer.udx.link()
    (end,) = await peer.udx.streams(link, [1], window=window)
    end.transport.pause_reading()
    await peer.sync("paused")
    await until(lambda: end.core.window < 1500)  # less than a packet, however large
    # It stays so while the stream goes on for all else.
    sent = await end.pour(20 * KIBIBYTE)
    assert await peer.hear("digest") == sent
    assert end.size == 0
    assert end.core.unread <= 2 * window  # what closes a gap lets what came behind it go on
    end.transport.resume_reading()
    await end.received(size)
    assert await peer.hear("sent") == end.digest
    end.transport.write_eof()
    await end.ended()
    await over(peer, end)


@interop(ways=NO_ROLES, path=PATHS)
async def test_a_reader_of_theirs_that_pauses(peer: Peer) -> None:
    size = agree(peer, direct=6 * MEBIBYTE, bad=100_000)
    _, (end,) = await meet(peer)
    sent = await end.pour(size)
    end.transport.write_eof()
    peer.tell("sent", sent)
    await end.ended()
    await over(peer, end)


@interop(ways=NO_ROLES, largest=[1500, 1400], host=HOSTS)
async def test_the_mtu(peer: Peer) -> None:
    size = agree(peer, direct=2_000_000, bad=0)
    mtu = 1500 if peer.options["largest"] == 1500 else 1200 + 6 * 32
    peer.tell("mtu", mtu)
    _, (end,) = await meet(peer)
    # How much data it takes depends on how many packets come between two probes.
    for number in range(1, 21):
        sent = await end.pour(size)
        await end.received(number * size)
        theirs = await peer.sync("sent", sent)
        assert number > 1 or theirs == end.digest
        mtus = {end.core.mtu.size, await peer.sync("mtu", end.core.mtu.size)}
        assert max(mtus) <= mtu
        if mtus == {mtu}:
            return
    raise AssertionError(f"expected an MTU of {mtu} on both sides, got {mtus}")


@interop(ways=NO_ROLES, path=["jittery"])
async def test_our_mtu_over_a_path_that_loses_and_reorders(peer: Peer) -> None:
    size = agree(peer, direct=0, bad=10_000_000)
    _, (end,) = await meet(peer)
    sent = await end.pour(size)
    await peer.sync("sent", sent)
    assert end.core.mtu.size == 1500


@interop(ways=NO_ROLES, who=["python", "node"])
async def test_keep_alive(peer: Peer) -> None:
    link, (end,) = await meet(peer)
    came = 0

    def tap(source: Address, _: Address, __: bytes) -> None:
        nonlocal came
        came += source[:2] == (link.host, link.port)

    link.socket.tap = tap
    if acts(peer):
        end.transport.set_keep_alive(0.02)
    # Their heartbeats, or what acknowledges ours.
    await until(lambda: came >= 5)
    await peer.sync("kept")
    assert end.size == 0
    end.transport.write_eof()
    await end.ended()
    await over(peer, end)


@interop(ways=NO_ROLES, host=HOSTS)
async def test_datagrams_of_ones_own(peer: Peer) -> None:
    link, _ = await meet(peer)
    came: Inbox[tuple[str, int]] = Inbox()
    link.socket.on_datagram = lambda data, source: came.push((data.decode(), source[1]))
    await peer.sync("listening")
    for each in ("one of python", "p", "p" * 1200):
        link.socket.send(each.encode(), (link.host, link.port))
    assert await came.take(3) == [(each, link.port) for each in ("one of node", "n", "n" * 1200)]
    await peer.sync("heard")
