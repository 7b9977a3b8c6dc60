"""The service in processes of its own, some of which are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protomux_wakeup import Writer

from .local import RemotePeer
from .members import Member, until_empty

CAPABILITY = b"\1" * 32


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def said(number: int, length: int) -> list[object]:
    return [key(number).hex(), length]


class Processes:
    """Members of one host."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._members: list[Member] = []

    async def start(self, watcher: str = "") -> Member:
        member = Member(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.protomux_wakeup.host.service_member",
                str(self._place / "host"),
                watcher,
                json.dumps({"state": str(self._place / "state")}),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )
        self._members.append(member)
        await member.event("joined")
        return member

    async def close(self) -> None:
        for member in self._members[::-1]:
            if member.is_alive:
                assert await member.leave() == 0
        await until_empty(self._place / "host")

    async def kill(self) -> None:
        for member in self._members:
            await member.kill()


@asynccontextmanager
async def processes(place: Path) -> AsyncIterator[Processes]:
    found = Processes(place)
    try:
        yield found
        await found.close()
    finally:
        await found.kill()


@pytest.fixture
async def peer() -> AsyncIterator[RemotePeer]:
    peer = RemotePeer(CAPABILITY)
    yield peer
    await peer.close()


@pytest.mark.parametrize("leads", [False, True])
async def test_a_watcher_that_was_killed_gets_what_it_missed_once(
    place: Path, peer: RemotePeer, leads: bool
) -> None:
    async with processes(place) as found:
        watcher = await found.start("gui") if leads else None
        other = await found.start()
        if watcher is None:
            watcher = await found.start("gui")
        await watcher.result("watch", CAPABILITY.hex())
        await other.result("connect", await peer.listen())
        await peer.asked.get()
        peer.announce((key(1), 1), (key(2), 2), (key(3), 3))
        assert [await watcher.result("next") for _ in range(2)] == [said(1, 1), said(2, 2)]
        await watcher.kill()
        peer.announce((key(4), 4), (key(1), 1))
        if leads:  # there is a new worker, which comes to the peer by itself
            await peer.asked.get()
        watcher = await found.start("gui")
        await watcher.result("watch", CAPABILITY.hex())
        # The second one was in hand.
        assert [await watcher.result("next") for _ in range(3)] == [
            said(2, 2),
            said(3, 3),
            said(4, 4),
        ]
        peer.announce((key(5), 5))
        assert await watcher.result("next") == said(5, 5)


async def test_a_worker_that_was_killed_is_missed_by_nobody(place: Path, peer: RemotePeer) -> None:
    async with processes(place) as found:
        watcher, other = await found.start(), await found.start("indexer")
        await watcher.result("watch", CAPABILITY.hex())
        address = await watcher.result("listen", "127.0.0.1:0")
        await watcher.result("connect", await peer.listen())
        await peer.asked.get()
        peer.announce((key(1), 1), (key(2), 1))
        assert await watcher.result("next") == said(1, 1)
        before = await other.result("status")
        await other.result("announce", CAPABILITY.hex(), [[key(7).hex(), 7]])
        os.kill(before["pid"], signal.SIGKILL)
        await peer.asked.get()  # by the next worker
        await watcher.result("status")  # which goes there when all is as before
        visitor = RemotePeer(CAPABILITY)
        await visitor.connect(address)
        visitor.session.broadcast_lookup()
        assert await visitor.heard.get() == [Writer(key(7), 7)]
        peer.announce((key(1), 1), (key(3), 1))
        assert [await watcher.result("next") for _ in range(2)] == [said(2, 1), said(3, 1)]
        after = await other.result("status")
        assert after["pid"] != before["pid"]
        assert after["public_key"] == before["public_key"]
        await visitor.close()


async def test_a_leader_that_leaves_hands_over(place: Path, peer: RemotePeer) -> None:
    async with processes(place) as found:
        leader, watcher = await found.start(), await found.start("gui")
        await watcher.result("watch", CAPABILITY.hex())
        await watcher.result("connect", await peer.listen())
        await peer.asked.get()
        assert await leader.leave() == 0
        await peer.asked.get()
        peer.announce((key(1), 1))
        assert await watcher.result("next") == said(1, 1)
