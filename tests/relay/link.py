"""One direction of a relay: what becomes of each datagram, and when. Knows no socket, no clock.

Rules and units are those of `tests.path`, which the simulation of UDX follows too. Every choice is
drawn from the seed in the order of arrival, and for each datagram the same number of times: what a
full queue or a blackout takes away changes nothing for those behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random

from tests.path import Path

__all__ = ["Counters", "Link", "Relayed"]


@dataclass(frozen=True)
class Relayed(Path):
    """A path through real sockets, where more can happen than in the simulation.

    Attributes:
        reordering: the part of them that is not held up by delay and jitter, and so overtakes.
        corruption: the part of them of which one byte is changed. UDP's checksum does not tell:
            it is computed anew.
    """

    reordering: float = 0.0
    corruption: float = 0.0


@dataclass
class Counters:
    """What became of the datagrams of one direction.

    Attributes:
        passed: those that went on, without the copies.
        lost: by the path, for whatever reason; `overflowed` of them for want of queue.
        queue_peak: bytes that waited for the rate at most, headers included.
    """

    passed: int = 0
    lost: int = 0
    overflowed: int = 0
    duplicated: int = 0
    corrupted: int = 0
    overtaking: int = 0
    queue_peak: float = 0.0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class Link:
    """One direction; several flows may share it, and then share its rate and queue.

    Attributes:
        path: may be replaced at any time.
        is_dark: everything is lost while it is set, as in a blackout of the path.
    """

    def __init__(self, path: Relayed, seed: str, now: float) -> None:
        self.path = path
        self.counters = Counters()
        self.is_dark = False
        self._random = Random(seed)
        self._epoch = now
        self._free_at = now

    def restart(self, now: float) -> None:
        """Count the seconds of the path's blackout from now on, not from the beginning."""
        self._epoch = now

    def offer(self, datagram: bytes, headers: int, now: float) -> Sequence[tuple[float, bytes]]:
        """Return what arrives of `datagram`, and when: nothing, itself, or two of it.

        `headers` are the bytes that IP and UDP add to it.
        """
        path, counters, draw = self.path, self.counters, self._random.random
        is_lost = draw() < path.loss
        is_doubled = draw() < path.duplication
        overtakes = draw() < path.reordering
        is_corrupted = draw() < path.corruption
        jitter, second_jitter, place = draw(), draw(), draw()
        size = len(datagram) + headers
        begin = max(self._free_at, now)
        waiting = (begin - now) * path.rate if begin > now else 0.0
        overflows = waiting > path.queue
        if (
            is_lost
            or size > path.largest
            or overflows
            or self.is_dark
            or path.blackout[0] <= now - self._epoch < path.blackout[1]
        ):
            counters.lost += 1
            counters.overflowed += overflows and not is_lost
            return ()
        counters.passed += 1
        counters.queue_peak = max(counters.queue_peak, waiting + size)
        self._free_at = begin + size / path.rate
        if is_corrupted and datagram:
            counters.corrupted += 1
            datagram = _corrupted(datagram, place)
        if overtakes:
            counters.overtaking += 1
            first = self._free_at
        else:
            first = self._free_at + path.delay + jitter * path.jitter
        if not is_doubled:
            return ((first, datagram),)
        counters.duplicated += 1
        second = self._free_at + path.delay + second_jitter * path.jitter
        return ((first, datagram), (second, datagram))


def _corrupted(datagram: bytes, place: float) -> bytes:
    """Return `datagram` with one bit or more of one byte changed; `place` is from [0, 1)."""
    scaled = place * len(datagram)
    index = int(scaled)
    change = 1 + int((scaled - index) * 255)
    return datagram[:index] + bytes((datagram[index] ^ change,)) + datagram[index + 1 :]
