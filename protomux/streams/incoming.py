"""What a peer sends, cut into messages. Knows lengths and memory, not what is in a message.

Each message has its length in front, 24 bits little endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar, cast

from protomux.encoding import BytesLike
from protomux.speedups import twin

__all__ = ["LENGTH_SIZE", "Incoming", "message_of"]

T = TypeVar("T")

LENGTH_SIZE: Final = 3
"""Bytes of the length in front of a message."""


class Opener(Protocol):
    """What opens messages: a `Decryptor`."""

    def decrypt(self, data: BytesLike, start: int, end: int, /) -> bytes:
        """Return what is in the message `data[start:end]`."""
        ...


@twin
class Incoming:
    """Bytes as they come, of which whole messages are taken in order.

    Whole messages, which is what mostly comes, are handed on from the memory in which they came,
    and never copied here. What has to wait is.

    Attributes:
        receive: receive(frame) for what was in each message, as it comes; None: they wait.
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
        "receive",
        "received",
        "size",
        "waiting",
    )

    def __init__(self, longest: float) -> None:
        """Hand on no message of more than `longest` bytes, nor what is behind it."""
        self._longest = longest
        self._data: BytesLike = b""
        self._position = 0
        self.opener: Opener | None = None
        self.receive: Callable[[bytes], None] | None = None
        self.received = 0
        self.waiting = 0
        self.size = -1

    def feed(self, data: BytesLike, size: int | None = None) -> bool:
        """So much more came: `data`, or so many bytes at its begin. Then `hand_on`."""
        more = len(data) if size is None else min(size, len(data))
        if more == 0:
            return self.hand_on()
        if self.waiting:
            kept = cast(bytearray, self._data)
            kept += data if more == len(data) else data[:more]
            self._data = kept
        else:
            # Not to be taken for our own, which `_keep` changes.
            self._data = memoryview(data) if isinstance(data, bytearray) else data
            self._position = 0
        self.received += more
        self.waiting += more
        self._find_size()
        try:
            return self.hand_on()
        finally:
            if self.waiting:
                self._keep()

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
        """Let each message that is there as a whole be received.

        Returns False where that is not all: nobody receives, or the next one is too long.
        """
        while self.receive is not None and self.size <= self._longest:
            if self.size < 0 or self.waiting < LENGTH_SIZE + self.size:
                return True
            assert self.opener is not None
            frame = self._step(self.opener.decrypt)
            self.receive(frame)
        return False

    def _keep(self) -> None:
        """Copy what waits, since the memory of what was fed is used for something else now."""
        if isinstance(self._data, bytearray):
            del self._data[: self._position]
        else:
            with memoryview(self._data) as view:
                self._data = bytearray(view[self._position : self._position + self.waiting])
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
