"""What a peer sends, cut into messages. Knows lengths and memory, not what is in a message.

Each message has its length in front, 24 bits little endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from protomux.encoding import BytesLike
from protomux.speedups import twin

__all__ = ["LENGTH_SIZE", "Incoming", "message_of"]

T = TypeVar("T")

LENGTH_SIZE: Final = 3
"""Bytes of the length in front of a message."""


@twin
class Incoming:
    """Bytes as they come, of which whole messages are taken in order.

    They are not copied while they last: what `feed` was given is looked at in place until `keep`
    says that it goes, or the last of it is taken. Whole messages, which is what mostly comes, are
    never copied here.

    Attributes:
        received: bytes that came in all.
        waiting: bytes that were not taken yet, lengths among them.
        size: bytes of the next message, as its length says; -1 while that is not there.
    """

    __slots__ = ("_data", "_position", "received", "size", "waiting")

    def __init__(self) -> None:
        self._data: BytesLike = b""
        self._position = 0
        self.received = 0
        self.waiting = 0
        self.size = -1

    def feed(self, data: BytesLike) -> None:
        """So much more came."""
        more = len(data)
        if self.waiting:
            self.keep()
            assert isinstance(self._data, bytearray)
            self._data += data
        else:
            # Not to be taken for our own, which `keep` changes.
            self._data = memoryview(data) if isinstance(data, bytearray) else data
            self._position = 0
        self.received += more
        self.waiting += more
        self._find_size()

    def take(self, read: Callable[[BytesLike, int, int], T]) -> T | None:
        """Step behind the next message and return `read(data, start, end)` of it.

        None where it is not there as a whole.
        """
        size = self.size
        if size < 0 or self.waiting < LENGTH_SIZE + size:
            return None
        start = self._position + LENGTH_SIZE
        self._position = start + size
        self.waiting -= LENGTH_SIZE + size
        data = self._data
        if self.waiting == 0:  # nothing of what was taken is held
            self._data = b""
        self._find_size()
        return read(data, start, start + size)

    def keep(self) -> None:
        """Copy what waits, since the memory of what was fed is used for something else now."""
        if isinstance(self._data, bytearray):
            del self._data[: self._position]
        else:
            with memoryview(self._data) as view:
                self._data = bytearray(view[self._position :])
        self._position = 0

    def clear(self) -> None:
        """Drop what waits."""
        self._data = b""
        self._position = self.waiting = 0
        self.size = -1

    def _find_size(self) -> None:
        if self.waiting < LENGTH_SIZE:
            self.size = -1
        else:
            data, position = self._data, self._position
            self.size = data[position] | data[position + 1] << 8 | data[position + 2] << 16


def message_of(data: BytesLike, start: int, end: int) -> bytes:
    """Return a message as it is: a reader for `Incoming.take`."""
    with memoryview(data) as view:
        return bytes(view[start:end])
