"""Opens wakeup topics on one stream, few and many, and closes them again.

Two `Wakeup`s in this process share one stream. Each gets a session for every capability; the
clock runs from the first of these sessions until every peer is proven on both sides. Then one
side destroys its `Wakeup`, and the clock runs until the last peer is gone on the other.

With `--answer` only the initiator opens; the responder makes each session in `on_wakeup`, as a
node does that sleeps until somebody comes. Else both open at once, as two nodes do that have the
same topics when they meet.

The sizes take turns within each round, so that a machine that slows down slows both. What counts
is the ratio of the medians: a topic should cost the same however many there are.

How ours compares with the originals is for `compare` to tell: open-1k and the workloads after it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from protomux import Protomux
from protomux.crypto import discovery_key
from protomux.streams import FramedStream, SecretStream, memory_pair, open_connection, start_server
from protomux_wakeup import Peer, Session, Wakeup

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_parser"]

SIZES: Final = (1_000, 30_000)
ROUNDS: Final = 5
STALL: Final = 120.0
"""Seconds without a peer coming or going after which a run has failed."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("open", help="open and close many topics on one stream")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="TOPICS")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tcp", action="store_true", help="secret streams over loopback TCP")
    parser.add_argument("--answer", action="store_true", help="only the initiator opens")
    parser.add_argument("--memory", action="store_true", help="one more run of each, traced")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Setup:
    """How the two sides meet."""

    tcp: bool
    answer: bool


@dataclass
class Times:
    """Seconds for all topics of one size, a value for each round."""

    topics: int
    opened: list[float] = field(default_factory=list)
    closed: list[float] = field(default_factory=list)

    def per_topic(self, seconds: list[float]) -> dict[str, float]:
        each = [1e6 * second / self.topics for second in seconds]
        return {"min": min(each), "median": median(each), "max": max(each)}


class Side:
    """One of the two, counting the peers that come and go."""

    def __init__(self, stream: FramedStream, secrets: dict[bytes, bytes]) -> None:
        self.wakeup = Wakeup(self._woken)
        self.wakeup.add_stream(stream)
        self.mux = Protomux.of(stream)
        self.mux.add_close_callback(self._lost)
        self.peers = 0
        self._secrets = secrets
        self._moved = asyncio.Event()
        self._is_lost = False

    def open(self, capability: bytes) -> None:
        """Make a session."""
        self.wakeup.session(capability, self)

    def _woken(self, id: bytes, _mux: Protomux) -> None:
        self.open(self._secrets[id])

    def _lost(self, _error: Exception | None) -> None:
        self._is_lost = True
        self._moved.set()

    def on_peer_add(self, _peer: Peer, _session: Session) -> None:
        """A peer is proven."""
        self.peers += 1
        self._moved.set()

    def on_peer_remove(self, _peer: Peer, _session: Session) -> None:
        """A peer is gone."""
        self.peers -= 1
        self._moved.set()

    async def wait_for(self, peers: int) -> None:
        """Wait until there are so many peers."""
        while self.peers != peers:
            if self._is_lost:
                raise SystemExit(f"the stream was lost with {self.peers} peers of {peers}")
            self._moved.clear()
            async with asyncio.timeout(STALL):
                await self._moved.wait()

    def check_open(self, topics: int) -> None:
        """Fail unless every topic has one session here and one proven peer."""
        found = self.wakeup.topics.values()
        expect(len(found), topics, "topics")
        expect(sum(len(topic.sessions) for topic in found), topics, "sessions")
        expect(sum(len(topic.peers) for topic in found), topics, "peers")
        expect(sum(len(topic.pending_peers) for topic in found), 0, "pending peers")
        expect(len({id(peer) for topic in found for peer in topic.peers}), topics, "peers")
        expect(sum(1 for _ in self.mux), topics, "channels")
        expect(self.wakeup.stats.peers_added, topics, "peers added")
        expect(self.wakeup.stats.peers_removed, 0, "peers removed")

    def check_closed(self, topics: int) -> None:
        """Fail unless every peer is gone, and the mux is idle."""
        expect(self.wakeup.stats.peers_removed, topics, "peers removed")
        expect(sum(1 for _ in self.mux), 0, "channels")
        expect(self.mux.is_idle(), True, "idle mux")


def expect(found: int, expected: int, what: str) -> None:
    """Fail unless a count is right."""
    if found != expected:
        raise SystemExit(f"expected {expected} for {what}, got {found}")


@asynccontextmanager
async def joined(tcp: bool) -> AsyncIterator[tuple[FramedStream, FramedStream]]:
    """Two open streams joined together, the initiator first."""
    first: FramedStream
    second: FramedStream
    if tcp:
        accepted: asyncio.Future[SecretStream] = asyncio.get_running_loop().create_future()
        async with await start_server(accepted.set_result, "127.0.0.1") as server:
            first = await open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            second = await accepted
    else:
        first, second = memory_pair()
    try:
        yield first, second
    finally:
        first.close()
        await asyncio.gather(first.wait_closed(), second.wait_closed())


async def measure(topics: int, setup: Setup, times: Times | None) -> dict[str, float]:
    """Open and close so many topics once; return the bytes per topic, if they are traced."""
    capabilities = [os.urandom(32) for _ in range(topics)]
    secrets = {discovery_key(capability): capability for capability in capabilities}
    async with joined(setup.tcp) as streams:
        sides = [Side(stream, secrets) for stream in streams]
        gc.collect()
        traced = [tracemalloc.get_traced_memory()[0]]
        began = perf_counter()
        for side in sides[:1] if setup.answer else sides:
            for capability in capabilities:
                side.open(capability)
        for side in sides:
            await side.wait_for(topics)
        opened = perf_counter() - began
        for side in sides:
            side.check_open(topics)
        gc.collect()
        traced.append(tracemalloc.get_traced_memory()[0])
        began = perf_counter()
        sides[0].wakeup.destroy()
        await sides[1].wait_for(0)
        closed = perf_counter() - began
        sides[1].wakeup.destroy()
        for side in sides:
            side.check_closed(topics)
        gc.collect()
        traced.append(tracemalloc.get_traced_memory()[0])
    if times is not None:
        times.opened.append(opened)
        times.closed.append(closed)
    return {
        "open": (traced[1] - traced[0]) / topics / 2,  # the two sides share the process
        "left": (traced[2] - traced[0]) / topics / 2,
    }


def run(arguments: argparse.Namespace) -> None:
    """Run the bench and print what it found."""
    setup = Setup(arguments.tcp, arguments.answer)
    results = [Times(topics) for topics in arguments.sizes]
    for number in range(arguments.rounds):
        for times in results:
            print(
                f"round {number + 1} of {arguments.rounds}: {times.topics:,} topics ...",
                file=sys.stderr,
            )
            asyncio.run(measure(times.topics, setup, times))
    memory: list[dict[str, float]] = []
    if arguments.memory:
        for topics in arguments.sizes:
            print(f"memory: {topics:,} topics ...", file=sys.stderr)
            tracemalloc.start()
            memory.append(asyncio.run(measure(topics, setup, None)))
            tracemalloc.stop()
    report = summary(arguments, results, memory)
    print(json.dumps(report) if arguments.json else text(report))


def summary(
    arguments: argparse.Namespace, results: list[Times], memory: list[dict[str, float]]
) -> dict[str, Any]:
    """Return the figures; times are in microseconds for a topic, memory in bytes."""
    sizes: list[dict[str, Any]] = [
        {
            "topics": times.topics,
            "open": times.per_topic(times.opened),
            "close": times.per_topic(times.closed),
        }
        for times in results
    ]
    for size, traced in zip(sizes, memory, strict=False):
        size["bytes"] = traced
    return {
        "bench": "open",
        "stream": "tcp" if arguments.tcp else "memory",
        "opener": "initiator" if arguments.answer else "both",
        "rounds": arguments.rounds,
        "python": platform.python_version(),
        "sizes": sizes,
        "ratio": {
            what: sizes[-1][what]["median"] / sizes[0][what]["median"] for what in ("open", "close")
        },
    }


def text(report: dict[str, Any]) -> str:
    """Return the figures for a reader."""
    sizes = report["sizes"]
    lines = [
        f"Topics on one {report['stream']} stream, opened by {report['opener']}; "
        f"{report['rounds']} rounds, Python {report['python']}",
        "µs per topic, both sides together:",
        f"{'topics':>22}{'min':>10}{'median':>10}{'max':>10}",
    ]
    for what in ("open", "close"):
        for size in sizes:
            figures = "".join(f"{size[what][name]:>10.1f}" for name in ("min", "median", "max"))
            lines.append(f"{what:>8}{size['topics']:>14,}{figures}")
    lines += [
        f"{'memory':>8}{size['topics']:>14,}  "
        f"{size['bytes']['open']:,.0f} bytes per topic and side while open, "
        f"{size['bytes']['left']:,.0f} left after the close"
        for size in sizes
        if "bytes" in size
    ]
    lines.append(
        f"ratio {sizes[-1]['topics']:,} : {sizes[0]['topics']:,} of the medians: "
        f"open {report['ratio']['open']:.2f}, close {report['ratio']['close']:.2f}"
    )
    return "\n".join(lines)
