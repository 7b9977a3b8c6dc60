"""The relay does to datagrams what its paths say, and nothing else."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from math import inf
from typing import Any

import pytest

from tests.relay import Address, Link, Relay, Relayed
from tests.relay.relay import EARLY
from tests.ticking import until

LIMIT = 20.0
"""Seconds for one test."""
HEADERS = 28


class Endpoint(asyncio.DatagramProtocol):
    """A socket of a test's own, which keeps what comes and when."""

    def __init__(self) -> None:
        self.transport: asyncio.DatagramTransport
        self.arrived: list[tuple[float, bytes]] = []
        self._more = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def opened(cls, host: str = "127.0.0.1") -> AsyncIterator[Endpoint]:
        loop = asyncio.get_running_loop()
        transport, endpoint = await loop.create_datagram_endpoint(cls, local_addr=(host, 0))
        endpoint.transport = transport
        try:
            async with asyncio.timeout(LIMIT):
                yield endpoint
        finally:
            transport.close()

    @property
    def address(self) -> Address:
        host, port = self.transport.get_extra_info("sockname")[:2]
        return host, port

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.arrived]

    def datagram_received(self, data: bytes, _sender: Any) -> None:
        self.arrived.append((asyncio.get_running_loop().time(), data))
        self._more.set()

    async def wait(self, count: int) -> list[bytes]:
        while len(self.arrived) < count:
            self._more.clear()
            await self._more.wait()
        return self.data


def numbered(count: int, size: int = 100) -> list[bytes]:
    return [number.to_bytes(4) * (size // 4) for number in range(count)]


@asynccontextmanager
async def joined(
    there: Relayed = Relayed(delay=0), back: Relayed | None = None, **options: Any
) -> AsyncIterator[tuple[Relay, Endpoint, Endpoint]]:
    """Yield a relay and two endpoints that it knows."""
    async with (
        Relay(there, back, **options) as relay,
        Endpoint.opened() as a,
        Endpoint.opened() as b,
    ):
        relay.know(a.address, b.address)
        yield relay, a, b


def offered(link: Link, datagrams: list[bytes], spacing: float = 0.0) -> list[tuple[float, bytes]]:
    """Return what arrives of all, in the order in which it does."""
    arrived = [
        each
        for number, datagram in enumerate(datagrams)
        for each in link.offer(datagram, HEADERS, number * spacing)
    ]
    return sorted(arrived, key=lambda each: each[0])


# One direction


def test_a_good_path_only_delays() -> None:
    link = Link(Relayed(delay=0.25), "seed", 0.0)
    assert offered(link, [b"one", b"two"], 1.0) == [(0.25, b"one"), (1.25, b"two")]
    assert link.counters.passed == 2
    assert link.counters.lost == 0


def test_the_seed_and_the_order_of_arrival_decide() -> None:
    path = Relayed(delay=0.1, jitter=0.1, loss=0.1, duplication=0.1, reordering=0.1, corruption=0.1)
    datagrams = numbered(2_000)
    found = offered(Link(path, "1", 0.0), datagrams)
    assert found == offered(Link(path, "1", 0.0), datagrams)
    assert found != offered(Link(path, "2", 0.0), datagrams)
    assert [data for _, data in found] != datagrams


def test_what_a_blackout_takes_changes_nothing_for_the_others() -> None:
    path = Relayed(delay=0, loss=0.3, blackout=(2.0, 5.0))
    datagrams = numbered(20)
    dark = offered(Link(path, "1", 0.0), datagrams, 0.5)
    light = offered(Link(Relayed(delay=0, loss=0.3), "1", 0.0), datagrams, 0.5)
    assert dark == [(at, data) for at, data in light if not 2.0 <= at < 5.0]
    assert len(dark) < len(light)


@pytest.mark.parametrize(
    ("path", "counter"),
    [
        (Relayed(loss=0.2), "lost"),
        (Relayed(duplication=0.2), "duplicated"),
        (Relayed(corruption=0.2), "corrupted"),
        (Relayed(reordering=0.2), "overtaking"),
    ],
)
def test_the_part_that_is_wanted_is_hit(path: Relayed, counter: str) -> None:
    link = Link(path, "seed", 0.0)
    offered(link, numbered(10_000), 1.0)
    counters = link.counters.as_dict()
    assert 1_800 < counters.pop(counter) < 2_200
    assert counters.pop("passed") == (10_000 if counter != "lost" else 10_000 - link.counters.lost)
    del counters["queue_peak"]
    assert not any(counters.values())


def test_one_byte_is_changed() -> None:
    link = Link(Relayed(corruption=1), "seed", 0.0)
    places, changes = set(), set()
    for datagram in numbered(2_000, 8):
        ((_, data),) = link.offer(datagram, HEADERS, 0.0)
        ((place, was, now),) = (
            (place, was, now)
            for place, was, now in zip(count(), datagram, data, strict=False)
            if was != now
        )
        places.add(place)
        changes.add(was ^ now)
    assert places == set(range(8))
    assert len(changes) > 200
    assert link.offer(b"", HEADERS, 0.0) == ((0.02, b""),)


def test_what_overtakes_does_not_wait_for_the_delay() -> None:
    link = Link(Relayed(delay=5.0, reordering=0.5), "seed", 0.0)
    found = offered(link, numbered(100), 0.01)
    early = [at for at, _ in found if at < 1.0]
    assert len(early) == link.counters.overtaking
    assert [data for _, data in found] != numbered(100)
    assert sorted(data for _, data in found) == numbered(100)


def test_the_rate_spaces_and_its_queue_overflows() -> None:
    link = Link(Relayed(delay=1.0, rate=1_000, queue=350), "seed", 0.0)
    found = offered(link, numbered(10, 72))  # 100 bytes with the headers
    assert [at for at, _ in found] == pytest.approx([1.1, 1.2, 1.3, 1.4])
    assert [data for _, data in found] == numbered(10, 72)[:4]
    assert link.counters.overflowed == link.counters.lost == 6
    assert link.counters.queue_peak == pytest.approx(400)
    # It has run empty by then.
    assert link.offer(b"x" * 72, HEADERS, 10.0) == ((11.1, b"x" * 72),)


def test_large_packets_do_not_arrive() -> None:
    link = Link(Relayed(largest=1_400), "seed", 0.0)
    assert len(link.offer(bytes(1_372), 28, 0.0)) == 1
    assert not link.offer(bytes(1_373), 28, 0.0)
    assert not link.offer(bytes(1_372), 48, 0.0)  # IPv6


# Sockets


async def test_both_directions_are_carried() -> None:
    async with joined() as (relay, a, b):
        a.transport.sendto(b"to b", relay.left)
        b.transport.sendto(b"to a", relay.right)
        assert await b.wait(1) == [b"to b"]
        assert await a.wait(1) == [b"to a"]


async def test_endpoints_are_learned_from_what_they_send() -> None:
    async with Relay(Relayed(delay=0)) as relay, Endpoint.opened() as a, Endpoint.opened() as b:
        a.transport.sendto(b"too early", relay.left)
        await until(lambda: relay.counters()["unsent"])
        b.transport.sendto(b"here I am", relay.right)
        assert await a.wait(1) == [b"here I am"]
        a.transport.sendto(b"good", relay.left)
        assert await b.wait(1) == [b"good"]


async def test_ipv6_is_carried() -> None:
    async with (
        Relay(Relayed(delay=0), host="::1") as relay,
        Endpoint.opened("::1") as a,
        Endpoint.opened("::1") as b,
    ):
        relay.know(a.address, b.address)
        a.transport.sendto(b"six", relay.left)
        assert await b.wait(1) == [b"six"]


async def test_what_arrives_is_what_the_link_decided() -> None:
    path = Relayed(delay=0, loss=0.2, duplication=0.2, corruption=0.2)
    datagrams = numbered(500)
    expected = offered(Link(path, "7 there", 0.0), datagrams)
    async with joined(path, seed=7) as (relay, a, b):
        counters = relay.there.counters

        def done(count: int) -> bool:
            is_offered = counters.passed + counters.lost == count
            return is_offered and len(b.arrived) == counters.passed + counters.duplicated

        for first in range(0, len(datagrams), 50):  # no more at once than a socket holds
            for datagram in datagrams[first : first + 50]:
                a.transport.sendto(datagram, relay.left)
            await until(partial(done, first + 50))
        assert await b.wait(len(expected)) == [data for _, data in expected]
        assert relay.counters()["overruns"] == 0
        assert relay.counters()["unsent"] == 0


async def test_the_directions_have_paths_of_their_own() -> None:
    async with joined(Relayed(loss=1), Relayed(delay=0)) as (relay, a, b):
        a.transport.sendto(b"lost", relay.left)
        b.transport.sendto(b"comes", relay.right)
        assert await a.wait(1) == [b"comes"]
        await until(lambda: relay.there.counters.lost)
        assert not b.arrived


async def test_nothing_is_early() -> None:
    async with joined(Relayed(delay=0.05, rate=100_000)) as (relay, a, b):
        began = asyncio.get_running_loop().time()
        for datagram in numbered(10, 972):
            a.transport.sendto(datagram, relay.left)
        assert await b.wait(10) == numbered(10, 972)
        for number, (at, _) in enumerate(b.arrived):
            assert at - began >= 0.05 + 0.01 * (number + 1) - EARLY


async def test_lanes_share_the_rate_and_the_queue() -> None:
    path = Relayed(delay=0, rate=500, queue=900)  # two seconds for the first
    async with (
        joined(path, lanes=2) as (relay, a, b),
        Endpoint.opened() as c,
        Endpoint.opened() as d,
    ):
        relay.know(c.address, d.address, 1)
        a.transport.sendto(bytes(972), relay.left)
        await until(lambda: relay.there.counters.passed)
        c.transport.sendto(bytes(972), relay.lanes[1].left)
        await until(lambda: relay.there.counters.lost)
        assert await b.wait(1) == [bytes(972)]
        c.transport.sendto(b"now", relay.lanes[1].left)
        assert await d.wait(1) == [b"now"]
        assert len(b.arrived) == 1


async def test_darkness_is_switched_on_and_off() -> None:
    async with joined() as (relay, a, b):
        relay.set_dark(True)
        a.transport.sendto(b"lost", relay.left)
        b.transport.sendto(b"lost", relay.right)
        await until(lambda: relay.there.counters.lost and relay.back.counters.lost)
        relay.set_dark(False)
        a.transport.sendto(b"comes", relay.left)
        assert await b.wait(1) == [b"comes"]
        assert not a.arrived


async def test_blackouts_are_counted_from_the_restart() -> None:
    path = Relayed(delay=0, blackout=(0.0, inf))
    async with joined(Relayed(delay=0, blackout=(3600.0, inf)), path) as (relay, a, b):
        a.transport.sendto(b"comes", relay.left)
        assert await b.wait(1) == [b"comes"]
        relay.there.path = path
        relay.restart()
        a.transport.sendto(b"lost", relay.left)
        await until(lambda: relay.there.counters.lost)
        assert len(b.arrived) == 1


async def test_an_endpoint_that_has_gone_harms_nobody() -> None:
    async with joined() as (relay, a, b):
        b.transport.close()
        for _ in range(3):
            a.transport.sendto(b"to nobody", relay.left)
        await until(lambda: relay.there.counters.passed == 3 and not relay.waiting)
        async with Endpoint.opened() as another:
            relay.know(None, another.address)
            a.transport.sendto(b"hello", relay.left)
            assert await another.wait(1) == [b"hello"]


# The process


async def test_the_relay_is_a_process_too() -> None:
    async with Endpoint.opened() as a, Endpoint.opened() as b:
        options = {
            "there": {"delay": 0.001, "blackout": [3600, 3601]},
            "lanes": [{"a": a.address, "b": b.address}, {}],
            "seed": 3,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.relay", json.dumps(options)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            lanes = json.loads(await process.stdout.readline())["lanes"]
            assert len(lanes) == 2
            a.transport.sendto(b"there", tuple(lanes[0]["left"]))
            assert await b.wait(1) == [b"there"]
            b.transport.sendto(b"back", tuple(lanes[0]["right"]))
            assert await a.wait(1) == [b"back"]
            process.stdin.write(b"\n")
            counters = json.loads(await process.stdout.readline())
            assert counters["there"]["passed"] == counters["back"]["passed"] == 1
            assert counters["there"]["queue_peak"] == len(b"there") + HEADERS
            process.stdin.close()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
