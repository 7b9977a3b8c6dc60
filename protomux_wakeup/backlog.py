"""What waits for a peer that does not keep up. Knows messages, no channel.

A hint says "at least this long", so a log's newest length takes the place of the one before, and an
info that of the one before. Lookups become one: with a hash if all had that hash, else without any,
because a peer may leave a lookup unanswered for its hash. So what waits is bounded by what there is
to tell, however often it is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from protomux.outbox import FRAME_OVERHEAD
from protomux_wakeup.messages import Info, Lookup

__all__ = ["ANNOUNCE_ENTRIES", "Backlog"]

ANNOUNCE_ENTRIES: Final = 4096
"""Entries in an announce of what waited: some 150 KB, twice what makes a stream say "wait"."""


_LARGEST_ENTRY: Final = 32 + 9
"""Bytes of a key and of the longest integer."""


class Backlog:
    """The messages that wait for one peer, each kind merged."""

    __slots__ = ("_info", "_lengths", "_lookup")

    def __init__(self) -> None:
        self._info: Info | None = None
        self._lookup: Lookup | None = None
        self._lengths: dict[bytes, int] = {}

    @property
    def logs(self) -> int:
        """Logs of which there is news."""
        return len(self._lengths)

    def announce(self, writers: Iterable[tuple[bytes, int]]) -> None:
        """Tell of `writers`, in place of what was to be told of the same logs."""
        for key, length in writers:
            self._lengths[bytes(key)] = length

    def look_up(self, lookup: Lookup) -> None:
        """Ask `lookup`, together with the question before."""
        self._lookup = lookup if self._lookup in (None, lookup) else Lookup(None)

    def inform(self, info: Info) -> None:
        """Say `info`, in place of what was to be said before."""
        self._info = info

    def take(self, frame_size: int) -> Info | Lookup | list[tuple[bytes, int]] | None:
        """Remove and return the next message, that fits a frame; None if nothing waits."""
        if self._info is not None:
            info, self._info = self._info, None
            return info
        if self._lookup is not None:
            lookup, self._lookup = self._lookup, None
            return lookup
        if self._lengths:
            entries = max(1, min(ANNOUNCE_ENTRIES, (frame_size - FRAME_OVERHEAD) // _LARGEST_ENTRY))
            keys = list(islice(self._lengths, entries))
            return [(key, self._lengths.pop(key)) for key in keys]
        return None
