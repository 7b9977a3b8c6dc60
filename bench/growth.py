"""Does an item cost the same among many? Time and memory at one, ten and a hundred times the size.

What grows, and what one item costs:

- streams: connected over loopback TCP with a full handshake, one topic opened on each, each told
  of one log.
- topics: taken, opened and proven on one stream that is open before.
- peers: of one topic, over streams in memory; proven, and each told of one log.
- codec: entries of one announce, encoded and decoded.
- telling: entries of one announce to a peer on a stream that is open before.

Both sides are in this process, so an item is counted with its cost on both. The sizes take turns
within each round, and the small ones are repeated and added up, so that what happens now and then
(a resize, a collection) counts with all of them. What stands for growth is the exponent: the slope
of the line through log cost over log size, by least squares, the median of the rounds. 1 is a cost
that grows with the size and no faster. The bar is for the time on the clock. Beside it stand the
exponents of the CPU's time, which tells whether other work on the machine was in the way, and of
that without the passes of Python's cycle collector. That looks at all objects again whenever there
are a quarter more, but hardly ever among few, so a large size pays for what a small one does not.

Memory is the peak of what Python allocated during the work, from one more run of each size, which
is traced; what libraries in C allocate by themselves is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from math import log
from pathlib import Path
from statistics import linear_regression, median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bench import report
from bench.loops import LOOPS, default_loop, loop_factory
from bench.soak import allow_files
from bench.versions import machine, versions
from protomux.streams import FramedStream, SecretStream, memory_pair, open_connection, start_server
from protomux_wakeup import Peer, Session, Wakeup, Writer
from protomux_wakeup.messages import announce

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["KINDS", "add_parser"]

ROUNDS: Final = 5
BAR: Final = 1.05
"""The largest exponent that counts as flat: 100 times the items cost 126 times as much, no more."""

AT_ONCE: Final = 16
"""Connections that are made at a time."""

REPEATS: Final = 20
"""How often a small size is measured in a round, at most."""

LIMIT: Final = 120.0
"""Seconds that one measurement may take."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("growth", help="time and memory against size")
    parser.add_argument(
        "kinds", nargs="*", choices=[*KINDS, []], metavar="KIND", help=", ".join(KINDS)
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scale", type=float, default=1.0, help="so much of each size; 1 is all")
    parser.add_argument("--loop", choices=LOOPS, default=default_loop())
    parser.add_argument(
        "--plot", type=Path, metavar="FOLDER", help="write growth.png and growth.svg there"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.set_defaults(run=run)


class Meter:
    """Takes the time, adding up, and the peak of memory.

    Attributes:
        seconds: on the clock.
        cpu: seconds of this process's CPU.
        own: those of them that were not the cycle collector's.
        peak: bytes that were allocated at most; 0 where nothing is traced.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu = 0.0
        self.own = 0.0
        self.peak = 0
        self._collecting = 0.0
        self._collection_began = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what happens inside."""
        gc.collect()
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        self._collecting = 0.0
        gc.callbacks.append(self._collected)
        cpu_before = process_time()
        began = perf_counter()
        yield
        self.seconds += perf_counter() - began
        cpu = process_time() - cpu_before
        gc.callbacks.remove(self._collected)
        self.cpu += cpu
        self.own += cpu - self._collecting
        self.peak = max(self.peak, tracemalloc.get_traced_memory()[1] - before)

    def _collected(self, phase: str, _info: Mapping[str, int]) -> None:
        if phase == "start":
            self._collection_began = process_time()
        else:
            self._collecting += process_time() - self._collection_began


class Node:
    """One `Wakeup`, counting its peers and the entries that they tell."""

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self.sessions: list[Session] = []
        self.told = 0
        self._peers = 0
        self._moved = asyncio.Event()

    def take(self, secrets: Sequence[bytes]) -> None:
        """Make sessions."""
        self.sessions += [self.wakeup.session(secret, self) for secret in secrets]

    async def proven(self, peers: int) -> None:
        """Wait until so many peers are there."""
        await self._until(lambda: self._peers == peers)

    async def heard(self, entries: int) -> None:
        """Wait until so many entries were told."""
        await self._until(lambda: self.told == entries)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._moved.clear()
            await self._moved.wait()

    def on_peer_add(self, _peer: Peer, _session: Session) -> None:
        self._peers += 1
        self._moved.set()

    def on_announce(self, writers: list[Writer], _peer: Peer, _session: Session) -> None:
        self.told += len(writers)
        self._moved.set()


async def grow_streams(size: int, meter: Meter) -> None:
    host, guest = Node(), Node()
    for node in (host, guest):
        node.take(secrets(1))
    streams: list[SecretStream] = []

    def accept(stream: SecretStream) -> None:
        streams.append(stream)
        host.wakeup.add_stream(stream)

    async with await start_server(accept, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        with meter.running():
            for first in range(0, size, AT_ONCE):
                some = range(first, min(size, first + AT_ONCE))
                opened = await asyncio.gather(*(open_connection("127.0.0.1", port) for _ in some))
                for stream in opened:
                    guest.wakeup.add_stream(stream)
                streams += opened
            await asyncio.gather(host.proven(size), guest.proven(size))
            host.sessions[0].broadcast_announce(entries(1))
            await guest.heard(size)
    for stream in streams:
        stream.close()
    await asyncio.gather(*(stream.wait_closed() for stream in streams))


async def grow_topics(size: int, meter: Meter) -> None:
    nodes = (Node(), Node())
    shared = secrets(size)
    async with connected() as streams:
        with meter.running():
            for node, stream in zip(nodes, streams, strict=True):
                node.take(shared)
                node.wakeup.add_stream(stream)
            await asyncio.gather(*(node.proven(size) for node in nodes))


async def grow_peers(size: int, meter: Meter) -> None:
    nodes = (Node(), Node())
    for node in nodes:
        node.take(secrets(1))
    pairs = [memory_pair() for _ in range(size)]
    with meter.running():
        for pair in pairs:
            for node, stream in zip(nodes, pair, strict=True):
                node.wakeup.add_stream(stream)
        await asyncio.gather(*(node.proven(size) for node in nodes))
        nodes[0].sessions[0].broadcast_announce(entries(1))
        await nodes[1].heard(size)
    for first, _ in pairs:
        first.close()
    await asyncio.gather(*(stream.wait_closed() for pair in pairs for stream in pair))


async def grow_codec(size: int, meter: Meter) -> None:
    writers = entries(size)
    with meter.running():
        data = announce.encode(writers)
        found, _ = announce.decode(data, 0, len(data))
    if found != writers:
        raise SystemExit(f"expected the {size:,} entries that were encoded, got others")


async def grow_telling(size: int, meter: Meter) -> None:
    nodes = (Node(), Node())
    writers = entries(size)
    async with connected() as streams:
        for node, stream in zip(nodes, streams, strict=True):
            node.take(secrets(1))
            node.wakeup.add_stream(stream)
        await asyncio.gather(*(node.proven(1) for node in nodes))
        with meter.running():
            session = nodes[0].sessions[0]
            session.announce(session.peers[0], writers)
            await nodes[1].heard(size)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[FramedStream, FramedStream]]:
    """Two ends of an open encrypted stream over loopback TCP."""
    accepted: asyncio.Future[SecretStream] = asyncio.get_running_loop().create_future()
    async with await start_server(accepted.set_result, "127.0.0.1") as server:
        first = await open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        second = await accepted
    yield first, second
    first.close()
    await asyncio.gather(first.wait_closed(), second.wait_closed())


def secrets(count: int) -> list[bytes]:
    return [sha256(number.to_bytes(4, "little")).digest() for number in range(count)]


def entries(count: int) -> list[Writer]:
    return [Writer(secret, number) for number, secret in enumerate(secrets(count))]


Grow: TypeAlias = Callable[[int, Meter], Awaitable[None]]
"""Does the work at a size."""


@dataclass(frozen=True)
class Kind:
    """What grows: the name of an item, and how many there are at the smallest size."""

    item: str
    smallest: int
    grow: Grow

    def sizes(self, scale: float) -> list[int]:
        """Return the smallest number of items, and ten and a hundred times as many."""
        smallest = max(1, round(self.smallest * scale))
        return [smallest, 10 * smallest, 100 * smallest]


KINDS: Final = {
    "streams": Kind("stream", 20, grow_streams),
    "topics": Kind("topic", 300, grow_topics),
    "peers": Kind("peer", 100, grow_peers),
    "codec": Kind("entry", 1_000, grow_codec),
    "telling": Kind("entry", 1_000, grow_telling),
}


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print what was found."""
    chosen = {name: kind for name, kind in KINDS.items() if name in (arguments.kinds or KINDS)}
    if "streams" in chosen:
        allow_files(2 * chosen["streams"].sizes(arguments.scale)[-1])
    try:
        with asyncio.Runner(loop_factory=loop_factory(arguments.loop)) as runner:
            kinds = [
                runner.run(measure(name, kind, arguments.scale, arguments.rounds))
                for name, kind in chosen.items()
            ]
    except TimeoutError:
        raise SystemExit(f"failed: expected a size to take less than {LIMIT:.0f} s") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    document = {
        "versions": versions(arguments.loop),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": arguments.rounds,
        "bar": BAR,
        "kinds": kinds,
    }
    if arguments.plot is not None:
        from bench import plot

        plot.plot_growth(document, arguments.plot)
    print(json.dumps(document) if arguments.json else report.growth_text(document))


async def measure(name: str, kind: Kind, scale: float, rounds: int) -> dict[str, Any]:
    """Measure one kind at all of its sizes; times and bytes are those of an item."""
    sizes = kind.sizes(scale)
    await grown(kind, sizes[1], 1)  # what only the first use costs
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    cpu: dict[int, list[float]] = {size: [] for size in sizes}
    own: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds):
        turn = number % len(sizes)
        for size in sizes[turn:] + sizes[:turn]:
            repeats = min(REPEATS, sizes[-1] // size)
            meter = await grown(kind, size, repeats)
            seconds[size].append(meter.seconds / repeats / size)
            cpu[size].append(meter.cpu / repeats / size)
            own[size].append(meter.own / repeats / size)
            tell(f"round {number + 1} of {rounds}: {size:,} {name}", seconds[size][-1])
    tracemalloc.start()
    try:
        peaks = {size: (await grown(kind, size, 1)).peak / size for size in sizes}
    finally:
        tracemalloc.stop()
    exponents = {
        what: [exponent({size: found[size][number] for size in sizes}) for number in range(rounds)]
        for what, found in (("time", seconds), ("cpu", cpu), ("own", own))
    }
    memory = exponent(peaks)
    return {
        "name": name,
        "item": kind.item,
        "sizes": [
            {
                "size": size,
                "seconds": seconds[size],
                "cpu": cpu[size],
                "own": own[size],
                "bytes": peaks[size],
            }
            for size in sizes
        ],
        "exponent": {
            **{
                what: {"min": min(found), "median": median(found), "max": max(found)}
                for what, found in exponents.items()
            },
            "memory": memory,
        },
        "met": median(exponents["time"]) <= BAR and memory <= BAR,
    }


async def grown(kind: Kind, size: int, repeats: int) -> Meter:
    """Do the work so often."""
    meter = Meter()
    for _ in range(repeats):
        async with asyncio.timeout(LIMIT):
            await kind.grow(size, meter)
    return meter


def exponent(each: Mapping[int, float]) -> float:
    """Return how fast the whole grows, from what an item costs at each size."""
    totals = [log(size * cost) for size, cost in each.items()]
    return linear_regression([log(size) for size in each], totals).slope


def tell(what: str, seconds: float) -> None:
    print(f"{what}: {seconds * 1e6:,.2f} µs each", file=sys.stderr, flush=True)
