"""What a peer sends, cut into messages. Knows lengths and memory, not what is in a message.

Each message has its length in front, 24 bits little endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from protomux.encoding import BytesLike
from protomux.speedups import twin

__all__ = ["LENGTH_SIZE", "Incoming", "message_of"]

T = TypeVar("T")

LENGTH_SIZE: Final = 3
"""Bytes of the length in front of a message."""

_MOST: Final = 2**24
"""No message has so many bytes: its length has 24 bits."""


class Opener(Protocol):
    """What opens messages: a `Decryptor`."""

    def decrypt(self, data: BytesLike, start: int, end: int, /) -> bytes:
        """Return what is in the message `data[start:end]`."""
        ...


class Taker(Protocol):
    """What takes what was in them: a receiver of frames."""

    def frame_received(self, frame: bytes, /) -> None:
        """One whole frame, in order."""
        ...


@twin
class Incoming:
    """Bytes as they come, of which whole messages are taken in order.

    Whole messages, which is what mostly comes, are handed on from the memory in which they came,
    and never copied here. What has to wait is.

    Attributes:
        taker: takes what was in each message, as it comes; while it is None they wait.
        opener: opens the messages that are handed on.
        received: bytes that came in all.
        waiting: bytes that were not taken yet, lengths among them.
        size: bytes of the next message, as its length says; -1 while that is not there.
    """

    __slots__ = (
        "_data",
        "_longest",
        "_position",
        "opener",
        "received",
        "size",
        "taker",
        "waiting",
    )

    def __init__(self, longest: float) -> None:
        """Hand on no message of more than `longest` bytes, nor what is behind it."""
        self._longest = min(longest, _MOST)
        self._data: BytesLike = b""
        self._position = 0
        self.opener: Opener | None = None
        self.taker: Taker | None = None
        self.received = 0
        self.waiting = 0
        self.size = -1

    def feed(self, data: BytesLike, /) -> bool:
        """So much more came: then `hand_on`. `data` is not looked at any more after that.

        But for one that raises, whose caller goes on with `clear`.
        """
        more = len(data)
        if more == 0:
            return self.hand_on()
        if self.waiting:
            # No bytearray where what is handed on brought more.
            kept = self._data if isinstance(self._data, bytearray) else self._keep()
            kept += data
        else:
            # Not to be taken for our own, which `_keep` changes.
            self._data = memoryview(data) if isinstance(data, bytearray) else data
            self._position = 0
        self.received += more
        self.waiting += more
        self._find_size()
        return self.hand_on()

    def take(self, read: Callable[[BytesLike, int, int], T]) -> T | None:
        """Step behind the next message and return `read(data, start, end)` of it.

        None where it is not there as a whole.
        """
        if self.size < 0 or self.waiting < LENGTH_SIZE + self.size:
            return None
        return self._step(read)

    def _step(self, read: Callable[[BytesLike, int, int], T]) -> T:
        start = self._position + LENGTH_SIZE
        self._position = end = start + self.size
        self.waiting -= LENGTH_SIZE + self.size
        data = self._data
        if self.waiting == 0:  # nothing of what was taken is held
            self._data = b""
        self._find_size()
        return read(data, start, end)

    def hand_on(self) -> bool:
        """Let each message that is there as a whole be taken.

        Returns False where that is not all: nobody takes them, or the next one is too long.
        """
        is_all = False
        while self.taker is not None and self.size <= self._longest:
            if self.size < 0 or self.waiting < LENGTH_SIZE + self.size:
                is_all = True
                break
            assert self.opener is not None
            frame = self._step(self.opener.decrypt)
            self.taker.frame_received(frame)
        if self.waiting:
            self._keep()
        return is_all

    def _keep(self) -> bytearray:
        """Copy what waits, since the memory of what was fed is used for something else now."""
        data = self._data
        if isinstance(data, bytearray):
            del data[: self._position]
        else:
            with memoryview(data) as view:
                self._data = data = bytearray(view[self._position :])
        self._position = 0
        return data

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
