"""A set of numbers as ranges, for numbers that come nearly in order. Knows no packet."""

from __future__ import annotations

from bisect import bisect_right

from protomux.udx.packet import Range

__all__ = ["Ranges"]


class Ranges:
    """Numbers, of which those that follow each other are kept as one range."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._starts, number)
        return index > 0 and number < self._ends[index - 1]

    def __len__(self) -> int:
        return len(self._starts)

    def first(self, count: int) -> list[Range]:
        """Return the lowest ranges, at most so many, in order."""
        return list(zip(self._starts[:count], self._ends[:count], strict=True))

    def add(self, number: int) -> None:
        """Take in one that is not there."""
        starts, ends = self._starts, self._ends
        index = bisect_right(starts, number)
        joins_before = index > 0 and ends[index - 1] == number
        joins_after = index < len(starts) and starts[index] == number + 1
        if joins_before and joins_after:
            ends[index - 1] = ends[index]
            del starts[index], ends[index]
        elif joins_before:
            ends[index - 1] = number + 1
        elif joins_after:
            starts[index] = number
        else:
            starts.insert(index, number)
            ends.insert(index, number + 1)

    def drop_below(self, number: int) -> None:
        """Forget all that are less than `number`."""
        index = bisect_right(self._starts, number)
        if index > 0 and self._ends[index - 1] > number:
            index -= 1
            self._starts[index] = number
        del self._starts[:index], self._ends[:index]
