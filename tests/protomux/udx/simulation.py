"""Two streams and the path between them, in virtual time: no socket, no loop, no wait.

Every random choice is drawn from one seed, so whatever happens happens again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import inf
from random import Random

from protomux.udx.packet import Packet, decode_packet
from protomux.udx.sending import IP_OVERHEAD
from protomux.udx.stream import WINDOW, Life, Stream
from tests import path
from tests.protomux.udx.referee import ALIVE, Referee

__all__ = ["Path", "Side", "Simulation"]


@dataclass(frozen=True)
class Path(path.Path):
    """What happens to datagrams in one direction, and that some are overtaken.

    One that is corrupted is one that is lost: UDP's checksum does not let it through.

    Attributes:
        late, lateness: the part of them that takes longer, and by how many seconds.
    """

    late: float = 0.0
    lateness: float = 0.0


class Side:
    """A stream's host: what it got, and what it is told to send.

    Attributes:
        referee: sees all that happens here, and that it is by the rules; None where the peer is
            not honest.
        home: counts the addresses that it had.
        believed: the peer's, as far as this side knows.
    """

    def __init__(
        self, simulation: Simulation, id: int, path: Path, windows: tuple[int, int]
    ) -> None:
        self.simulation = simulation
        self.path = path
        self.stream = Stream(id, self, simulation.now, window=windows[0])
        self.referee: Referee | None = Referee(self.stream, windows, simulation.now)
        self.peer: Side
        self.home = self.believed = 0
        self.written = bytearray()
        self.received = bytearray()
        self.messages: list[bytes] = []
        self.ends = 0
        self.closings: list[Exception | None] = []
        self.sent = 0
        self.lost = 0
        self.is_reading = True
        self.timer = inf
        self._free_at = 0.0
        self._overhead = IP_OVERHEAD[4]

    @property
    def is_busy(self) -> bool:
        """It has something to send, or something that it has sent was not acknowledged."""
        stream = self.stream
        is_ending = stream.is_ending and not stream.has_ended
        return stream.life in ALIVE and (stream.waiting > 0 or is_ending)

    def write(self, data: bytes) -> None:
        if self.referee:
            self.referee.writes(self.simulation.now)
        self.stream.write(data)
        self.written += data

    def destroy(self) -> None:
        if self.referee:
            self.referee.destroys()
        self.stream.destroy()

    def transmit(self, datagram: bytes) -> None:
        self._transmit(datagram)

    def transmit_in_pieces(self, datagram: bytes) -> None:
        self._transmit(datagram, in_pieces=True)

    def _transmit(self, datagram: bytes, *, in_pieces: bool = False) -> None:
        simulation, way = self.simulation, self.path
        random, now = simulation.random, simulation.now
        self.sent += 1
        told = self.referee.sends(datagram, in_pieces, now) if self.referee else 0
        size = len(datagram) + self._overhead
        begin = max(self._free_at, now)
        if (
            random.random() < way.loss
            or (size > way.largest and not in_pieces)
            or way.blackout[0] <= now < way.blackout[1]
            or (begin - now) * way.rate > way.queue
        ):
            self.lost += 1
            return
        self._free_at = begin + size / way.rate
        home = self.home
        for _ in range(2 if random.random() < way.duplication else 1):
            at = self._free_at + way.delay + random.random() * way.jitter
            if way.late and random.random() < way.late:
                at += way.lateness
            simulation.at(at, lambda: self.peer.arrive(datagram, told, home))

    def arrive(self, datagram: bytes, told: int, home: int) -> None:
        """A datagram came from the peer's `home`, sent when the peer told of `told` bytes."""
        simulation = self.simulation
        simulation.arrivals += 1
        if simulation.tamper:
            datagram = simulation.tamper(self, datagram)
        packet = decode_packet(datagram)
        if packet is None or packet.stream_id != self.stream.id:
            assert simulation.tamper
            return
        now = simulation.now
        if self.referee:
            self.referee.gets(packet, told, home == self.believed, now)
        self.stream.receive(packet, now, is_current=home == self.believed)
        self.flush()

    def move(self, path: Path, back: Path, ip_version: int = 4) -> None:
        """The peer is somewhere else from now on, and this side is told so."""
        self.peer.path = back
        self.peer.home = self.believed + 1
        self.reroute(path, ip_version)

    def reroute(self, path: Path, ip_version: int = 4) -> None:
        """This side sends to another address of the peer, which goes on sending as it did."""
        now = self.simulation.now
        self.path = path
        self.believed += 1
        self._overhead = IP_OVERHEAD[ip_version]
        self.stream.change_remote(self.peer.stream.id, now, ip_version=ip_version)
        if self.referee:
            self.referee.moves(now, ip_version)
        self.flush()

    def read_all(self) -> None:
        """The application takes what it had left, and goes on."""
        self.is_reading = True
        self.read(self.stream.unread)

    def read(self, size: int) -> None:
        """The application takes so much of what it had left."""
        size = min(size, self.stream.unread)
        if self.referee:
            self.referee.reads(size)
        self.stream.taken(size)
        self.flush()

    def flush(self) -> None:
        now = self.simulation.now
        self.stream.flush(now)
        if self.referee:
            self.referee.settles(now)
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
            if self.referee:
                self.referee.wakes(now)
            self.stream.on_timer(now)
        self.flush()

    def data_received(self, data: bytes) -> None:
        begin = len(self.received)
        self.received += data
        if self.referee:
            assert self.peer.written.startswith(data, begin), f"wrong bytes from {begin} on"
            self.referee.hands_on(len(data), is_kept=not self.is_reading)
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
        if self.referee:
            self.referee.closes(error, self.simulation.now)


class Simulation:
    """A clock, two sides, and what is on the way.

    The `windows` are what the sides have room for, which they know of each other. Where the packets
    are not all `is_honest`, nobody looks whether all is by the rules.

    Attributes:
        now: seconds.
        arrivals: datagrams that have arrived.
        tamper: makes something else of a datagram that is about to arrive.
    """

    def __init__(
        self,
        seed: int,
        there: Path = Path(),
        back: Path | None = None,
        *,
        windows: tuple[int, int] = (WINDOW, WINDOW),
        is_honest: bool = True,
    ) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.arrivals = 0
        self.tamper: Callable[[Side, bytes], bytes] | None = None
        self._order = count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.a = Side(self, 1, there, windows)
        self.b = Side(self, 2, there if back is None else back, windows[::-1])
        if not is_honest:
            self.a.referee = self.b.referee = None
        self.a.peer, self.b.peer = self.b, self.a
        self.a.stream.connect(2, 0.0)
        self.b.stream.connect(1, 0.0)
        for side, window in zip((self.a, self.b), windows[::-1], strict=True):
            side.stream.receive(Packet(0, side.stream.id, window, 0, 0), 0.0)

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time, next(self._order), call))

    def step(self) -> bool:
        """Let the next thing happen; False if there is none."""
        if not self._due:
            return False
        self.now, _, call = heapq.heappop(self._due)
        call()
        return True

    def run(self, until: Callable[[], bool], most: float = 300.0) -> None:
        """Let time pass until something holds; AssertionError after `most` seconds."""
        while not until():
            assert self.step(), f"nothing more happens at {self.now:.3f} s"
            assert self.now <= most, f"not after {most} s"

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.step()
        self.now = until

    @property
    def is_over(self) -> bool:
        return all(side.stream.life in (Life.LINGERING, Life.CLOSED) for side in (self.a, self.b))
