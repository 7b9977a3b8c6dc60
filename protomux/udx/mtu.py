"""How large a datagram may be on the path: packets made longer are sent to see whether they arrive.

Knows sizes, no packet. After RFC 8899 (DPLPMTUD), in the steps of libudx: from 1,200 bytes, which
every path carries that QUIC runs on, by 32 up to 1,500. A size that did not arrive `MAX_PROBES`
times is too large, and the search is over.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BASE", "MOST", "PathMtu"]

BASE: Final = 1200
"""Bytes of an IP packet that is taken to arrive: RFC 8899, section 5.1.2."""

MOST: Final = 1500
"""Bytes of the largest IP packet that is tried: Ethernet's."""

STEP: Final = 32
MAX_PROBES: Final = 3


class PathMtu:
    """The search for the largest datagram of one path.

    Attributes:
        size: bytes of an IP packet that are known to arrive.
        wanted: bytes of the IP packet to be tried next; None where there is nothing to try now.
    """

    __slots__ = ("_failed", "_most", "_next", "size", "wanted")

    def __init__(self, most: int = MOST) -> None:
        self._most: Final = most
        self.size = min(BASE, most)
        self.wanted: int | None = None
        self._next = min(self.size + STEP, most)
        self._failed = 0

    def confirm(self) -> None:
        """A packet of the size that is known has arrived: go on from it."""
        if self._next > self.size and self.wanted is None and self._failed == 0:
            self.wanted = self._next

    def sent(self) -> None:
        """One of the size that was wanted is on its way."""
        self.wanted = None
        self._failed += 1

    def arrived(self, size: int) -> None:
        """One of so many bytes has arrived."""
        if size > self.size:
            self.size = size
            self._failed = 0
            self._next = min(size + STEP, self._most)
            if self._next > size:
                self.wanted = self._next

    def lost(self, size: int) -> None:
        """One of so many bytes has not."""
        if size > self.size and size == self._next and self._failed < MAX_PROBES:
            self.wanted = size
