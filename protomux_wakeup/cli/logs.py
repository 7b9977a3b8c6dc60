"""The logs that we know, and how long each is. Knows a bound, no peer and no file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protomux_wakeup import Writer

__all__ = ["MOST_LOGS", "Logs"]

MOST_LOGS: Final = 131_072
"""Logs that are kept. One announce (5.4 MB at most) tells all of them, and two such announces are
what a peer of this library lets wait for its application."""


class Logs:
    """The greatest length that was heard of, for each log."""

    def __init__(self) -> None:
        self._lengths: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[Writer]:
        return (Writer(key, length) for key, length in self._lengths.items())

    def learn(self, writer: Writer) -> bool:
        """Remember `writer`; False if that is nothing new.

        Raises ValueError where there is no room for one more log.
        """
        if writer.length <= self._lengths.get(writer.key, -1):
            return False
        if writer.key not in self._lengths and len(self._lengths) >= MOST_LOGS:
            raise ValueError(f"expected at most {MOST_LOGS} logs, left out {writer.key.hex()}")
        self._lengths[writer.key] = writer.length
        return True
