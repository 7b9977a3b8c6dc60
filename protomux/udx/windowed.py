"""The least or the greatest of what was seen lately. Knows numbers and a clock handed in."""

from __future__ import annotations

from typing import Final

__all__ = ["WindowedMax", "WindowedMin"]


class WindowedMin:
    """The least value of the last `window` units of the clock, of which it keeps three.

    By Kathleen Nichols' algorithm, as in Linux' lib/win_minmax.c: beside the least, the least since
    that one, and the least since the second; so that when one is too old there is another, and
    none of them is older than it must be. What it says may be somewhat greater than the truth,
    when the least goes out of the window, and never less.
    """

    __slots__ = ("_best", "_window")

    def __init__(self, window: float) -> None:
        self._window: Final = window
        self._best: list[tuple[float, float]] = []  # (when, value): one, or three in this order

    @property
    def value(self) -> float | None:
        """The least; None before the first `add`."""
        return self._best[0][1] if self._best else None

    def add(self, value: float, now: float) -> None:
        """`value` was seen; `now` never goes back."""
        seen = now, value
        best = self._best
        if not best or value <= best[0][1] or now - best[2][0] > self._window:
            self._best = [seen] * 3
            return
        if value <= best[1][1]:
            best[1:] = [seen, seen]
        elif value <= best[2][1]:
            best[2] = seen
        age = now - best[0][0]
        if age > self._window:  # the second is the least now, and so on
            best[:] = [best[1], best[2], seen]
            if now - best[0][0] > self._window:
                best[:] = [best[1], best[2], seen]
        elif best[1][0] == best[0][0] and age > self._window / 4:
            best[1:] = [seen, seen]  # no second for a quarter of the window: it would be too old
        elif best[2][0] == best[1][0] and age > self._window / 2:
            best[2] = seen


class WindowedMax:
    """The greatest, in the same way: what it says may be somewhat less than the truth."""

    __slots__ = ("_negative",)

    def __init__(self, window: float) -> None:
        self._negative = WindowedMin(window)

    @property
    def value(self) -> float | None:
        """The greatest; None before the first `add`."""
        found = self._negative.value
        return None if found is None else -found

    def add(self, value: float, now: float) -> None:
        """`value` was seen; `now` never goes back."""
        self._negative.add(-value, now)
