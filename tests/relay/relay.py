"""A UDP relay on loopback that impairs what it carries. Knows sockets and the loop, no UDX.

What is due at most `EARLY` from now goes at once, so one wakeup serves a bunch of datagrams. A
loop on epoll rounds its timers up to a millisecond: `loop` makes one that does not, for a relay
that has a process of its own.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias

from tests.relay.link import Link, Relayed

__all__ = ["Address", "Lane", "Relay", "loop"]

EARLY: Final = 0.0005
"""Seconds."""
_AT_ONCE: Final = 64
"""Datagrams that are taken from one socket before the others get their turn."""
_BUFFER: Final = 4 * 2**20
"""Bytes that the kernel is asked to hold for each socket: what it drops no path has lost."""
_SO_MEMINFO: Final = 55
"""Of Linux: nine numbers about a socket, the last of which counts what the kernel dropped."""

Address: TypeAlias = tuple[str, int]
_Due: TypeAlias = tuple[float, int, Callable[[bytes], object], bytes]


def loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers are good to some microseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class _End:
    """One of the two sockets of a lane: what its endpoint sends goes in, what is for it out."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.headers = 48 if family == socket.AF_INET6 else 28
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self.socket.bind((host, 0))
        self.endpoint: Address | None = None
        self.unsent = 0

    @property
    def address(self) -> Address:
        host, port = self.socket.getsockname()[:2]
        return host, port

    def know(self, endpoint: Address) -> None:
        """Send to `endpoint` from now on, and hear nobody else."""
        self.socket.connect(endpoint)
        self.endpoint = endpoint

    def send(self, datagram: bytes) -> None:
        """Pass a datagram on; what the endpoint cannot be reached with is lost, and counted."""
        if self.endpoint is None:
            self.unsent += 1
            return
        try:
            self.socket.send(datagram)
        except OSError:  # a full buffer, or an endpoint that was closed
            self.unsent += 1

    def take(self, buffer: memoryview) -> bytes | None:
        """Return the next datagram that came, None if there is none; learn whose it is."""
        while True:
            try:
                if self.endpoint is not None:
                    return bytes(buffer[: self.socket.recv_into(buffer)])
                size, sender = self.socket.recvfrom_into(buffer)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError:  # the echo of a send to an endpoint that was closed
                continue
            self.know(sender[:2])
            return bytes(buffer[:size])

    @property
    def overruns(self) -> int:
        """Datagrams that the kernel dropped, since we did not fetch them in time."""
        if sys.platform != "linux":
            return 0
        known = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        return int(struct.unpack("9I", known)[8])


class Lane(NamedTuple):
    """One flow through the relay.

    Attributes:
        left: where endpoint A sends to, which takes it for B.
        right: where endpoint B sends to, which takes it for A.
    """

    left: Address
    right: Address


class Relay:
    """Carries datagrams between pairs of endpoints; all of its lanes share two links.

    `back` is as `there` unless it is given. Use it as an async context manager. An endpoint whose
    address is not given is whoever sends first; what is for it before that is lost.

    Attributes:
        there: the link from A to B; back: from B to A.
        lanes: where to send to.
    """

    def __init__(
        self,
        there: Relayed = Relayed(),
        back: Relayed | None = None,
        *,
        seed: int = 0,
        lanes: int = 1,
        host: str = "127.0.0.1",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self.there = Link(there, f"{seed} there", now)
        self.back = Link(there if back is None else back, f"{seed} back", now)
        self._ends = [(_End(host), _End(host)) for _ in range(lanes)]
        self.lanes: Sequence[Lane] = [Lane(a.address, b.address) for a, b in self._ends]
        self._due: list[_Due] = []
        self._order = count()
        self._buffer = memoryview(bytearray(65536))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def left(self) -> Address:
        """Where endpoint A of the first lane sends to."""
        return self.lanes[0].left

    @property
    def right(self) -> Address:
        """Where endpoint B of the first lane sends to."""
        return self.lanes[0].right

    def know(self, a: Address | None, b: Address | None, lane: int = 0) -> None:
        """Tell where the endpoints of a lane are; None for one that is to be learned."""
        for end, endpoint in zip(self._ends[lane], (a, b), strict=True):
            if endpoint is not None:
                end.know(endpoint)

    def restart(self) -> None:
        """Count the seconds of blackouts from now on."""
        now = self._loop.time()
        self.there.restart(now)
        self.back.restart(now)

    def set_dark(self, is_dark: bool) -> None:
        """Lose everything in both directions from now on, or no more."""
        self.there.is_dark = self.back.is_dark = is_dark

    @property
    def waiting(self) -> int:
        """Datagrams that are on the way."""
        return len(self._due)

    def counters(self) -> dict[str, object]:
        """Return what became of all datagrams, as JSON has it.

        Besides the counters of each link: `overruns`, which the kernel dropped before us, and
        `unsent`, whose endpoint was not known or did not take them. A measurement with many of
        these is none.
        """
        ends = [end for pair in self._ends for end in pair]
        return {
            "there": self.there.counters.as_dict(),
            "back": self.back.counters.as_dict(),
            "overruns": sum(end.overruns for end in ends),
            "unsent": sum(end.unsent for end in ends),
        }

    async def __aenter__(self) -> Self:
        for a, b in self._ends:
            self._loop.add_reader(a.socket, self._carry, a, b, self.there)
            self._loop.add_reader(b.socket, self._carry, b, a, self.back)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for pair in self._ends:
            for end in pair:
                self._loop.remove_reader(end.socket)
                end.socket.close()

    def _carry(self, source: _End, target: _End, link: Link) -> None:
        now = self._loop.time()
        for _ in range(_AT_ONCE):
            datagram = source.take(self._buffer)
            if datagram is None:
                break
            for at, one in link.offer(datagram, source.headers, now):
                heapq.heappush(self._due, (at, next(self._order), target.send, one))
        self._deliver()

    def _deliver(self) -> None:
        due = self._due
        until = self._loop.time() + EARLY
        while due and due[0][0] <= until:
            _, _, send, datagram = heapq.heappop(due)
            send(datagram)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            if self._due and self._timer.when() == self._due[0][0]:
                return
            self._timer.cancel()
            self._timer = None
        if self._due:
            self._timer = self._loop.call_at(self._due[0][0], self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._deliver()
