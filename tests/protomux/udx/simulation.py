"""Two streams and the path between them, in virtual time: no socket, no loop, no wait.

Every random choice is drawn from one seed, so whatever happens happens again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from math import inf
from random import Random

from protomux.udx.packet import Type, decode_packet
from protomux.udx.stream import Life, Stream
from tests.path import Path

__all__ = ["Path", "Side", "Simulation"]


class Side:
    """A stream's host: what it got, and what it is told to send."""

    def __init__(self, simulation: Simulation, id: int, path: Path) -> None:
        self.simulation = simulation
        self.path = path
        self.stream = Stream(id, self, simulation.now)
        self.peer: Side
        self.received = bytearray()
        self.messages: list[bytes] = []
        self.ends = 0
        self.closings: list[Exception | None] = []
        self.sent = 0
        self.lost = 0
        self.highest = -1
        self.is_reading = True
        self.timer = inf
        self._free_at = 0.0

    def transmit(self, datagram: bytes) -> None:
        self._transmit(datagram, self.path.largest)

    def transmit_in_pieces(self, datagram: bytes) -> None:
        self._transmit(datagram, len(datagram) + 28)

    def _transmit(self, datagram: bytes, largest: int) -> None:
        simulation, path = self.simulation, self.path
        random, now = simulation.random, simulation.now
        self.sent += 1
        self._check_windows(datagram)
        size = len(datagram) + 28
        begin = max(self._free_at, now)
        if (
            random.random() < path.loss
            or size > largest
            or path.blackout[0] <= now < path.blackout[1]
            or (begin - now) * path.rate > path.queue
        ):
            self.lost += 1
            return
        self._free_at = begin + size / path.rate
        for _ in range(2 if random.random() < path.duplication else 1):
            at = self._free_at + path.delay + random.random() * path.jitter
            simulation.at(at, lambda: self.peer.arrive(datagram))

    def _check_windows(self, datagram: bytes) -> None:
        """What goes out for the first time is inside the peer's window, and ours."""
        packet = decode_packet(datagram)
        assert packet is not None
        if not packet.type & (Type.DATA | Type.END):
            return
        stream = self.stream
        is_new = packet.seq == stream.recovery.next_seq - 1 and packet.seq > self.highest
        if is_new:
            self.highest = packet.seq
            out = sum(len(each.payload) for each in stream.recovery.out)
            assert out <= stream.peer_window
            # A probe for losses may go out beyond the congestion window, RFC 8985 section 7.3.
            assert len(stream.recovery.in_flight) <= stream.congestion.window + 1

    def arrive(self, datagram: bytes) -> None:
        packet = decode_packet(datagram)
        assert packet is not None
        assert packet.stream_id == self.stream.id
        self.stream.receive(packet, self.simulation.now)
        self.flush()

    def read_all(self) -> None:
        """The application takes what it had left, and goes on."""
        self.is_reading = True
        self.stream.taken(self.stream.unread)
        self.flush()

    def flush(self) -> None:
        self.stream.flush(self.simulation.now)
        self.arm()

    def arm(self) -> None:
        deadline = self.stream.deadline
        if deadline < self.timer:
            self.timer = deadline
            self.simulation.at(deadline, self._fire)

    def _fire(self) -> None:
        now = self.simulation.now
        if now < self.timer:
            return
        self.timer = inf
        if self.stream.deadline <= now:
            self.stream.on_timer(now)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.is_reading:
            self.stream.unread += len(data)

    def eof_received(self) -> None:
        self.ends += 1

    def message_received(self, data: bytes) -> None:
        self.messages.append(data)

    def acknowledged(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.closings.append(error)


class Simulation:
    """A clock, two sides, and what is on the way."""

    def __init__(self, seed: int, there: Path = Path(), back: Path | None = None) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.steps = 0
        self._order = count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.a = Side(self, 1, there)
        self.b = Side(self, 2, there if back is None else back)
        self.a.peer, self.b.peer = self.b, self.a
        self.a.stream.connect(2, 0.0)
        self.b.stream.connect(1, 0.0)

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time, next(self._order), call))

    def run(self, until: Callable[[], bool], most: float = 300.0) -> None:
        """Let time pass until something holds; AssertionError after `most` seconds."""
        while not until():
            assert self._due, f"nothing more happens at {self.now:.3f} s"
            self.now, _, call = heapq.heappop(self._due)
            assert self.now <= most, f"not after {most} s"
            self.steps += 1
            call()

    @property
    def is_over(self) -> bool:
        return all(side.stream.life in (Life.LINGERING, Life.CLOSED) for side in (self.a, self.b))
