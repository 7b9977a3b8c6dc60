"""Packets of the peer, put in order. Knows numbers, bytes and a window, not who sends what when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from protomux.encoding import BytesLike
from protomux.udx.packet import MAX_SACKS, Range, Type
from protomux.udx.ranges import Ranges

__all__ = ["FARTHEST", "MAX_EARLY", "Reassembly"]

MAX_EARLY: Final = 16_384
"""Packets beyond the next that are kept at most. A window of 4 MiB holds 3,700 full ones; so many
small ones take some 4 MB, whatever is in them."""

FARTHEST: Final = 65_536
"""How far beyond the next a packet may be to be looked at; as in libudx."""

_DATA, _END = int(Type.DATA), int(Type.END)


class Reassembly:
    """What comes of one stream.

    Attributes:
        expected: the number of the next packet.
        early_size: bytes that came before their turn.
        has_ended: the peer's END was taken.
    """

    __slots__ = ("_early", "_ranges", "_take_data", "early_size", "expected", "has_ended")

    def __init__(self, take_data: Callable[[bytes], None]) -> None:
        """Hand the bytes of each packet to `take_data` in its turn."""
        self._take_data = take_data
        self.expected = 0
        self.early_size = 0
        self.has_ended = False
        self._early: dict[int, tuple[int, bytes]] = {}
        self._ranges = Ranges()

    @property
    def sacks(self) -> Sequence[Range]:
        """The lowest ranges that came before their turn."""
        return self._ranges.first(MAX_SACKS) if self._early else ()

    @property
    def has_early(self) -> bool:
        """There is a gap in front of something that came."""
        return bool(self._early)

    def add(self, type: int, seq: int, payload: BytesLike, room: int) -> None:
        """Packet `seq` came: take it, now or in its turn.

        There is room for so many bytes, in which those are that came before their turn; but not for
        the one that is next, since it lets them go. One that came before, is behind the END, or for
        which there is no room, is dropped.
        """
        size = len(payload)
        if self.has_ended or size > room:
            return
        if seq == self.expected:
            self._take(type, bytes(payload))
            if self._early:
                self._catch_up()
        elif size <= room - self.early_size and self._is_wanted(seq):
            self._early[seq] = type, bytes(payload)
            self.early_size += size
            self._ranges.add(seq)

    def _is_wanted(self, seq: int) -> bool:
        is_near = self.expected < seq < self.expected + FARTHEST
        return is_near and seq not in self._early and len(self._early) < MAX_EARLY

    def _catch_up(self) -> None:
        early = self._early
        while self.expected in early and not self.has_ended:
            type, data = early.pop(self.expected)
            self.early_size -= len(data)
            self._take(type, data)
        if self.has_ended:
            self.clear()
        else:
            self._ranges.drop_below(self.expected)

    def _take(self, type: int, data: bytes) -> None:
        self.expected += 1
        self.has_ended = bool(type & _END)
        if type & _DATA and data:
            self._take_data(data)

    def clear(self) -> None:
        """Forget what came before its turn."""
        self._early.clear()
        self._ranges = Ranges()
        self.early_size = 0
