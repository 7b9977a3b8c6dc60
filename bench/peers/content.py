"""What is sent, so that both sides know it: made of numbers alone."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

__all__ = ["FIRSTS", "KEPT_EVERY", "Announces", "capability", "log_key", "pool"]

KEPT_EVERY: Final = 64
"""Of so many measured messages one is kept whole, and verified after the clock."""


def _bytes(kind: str, number: int) -> bytes:
    return sha256(f"{kind} {number}".encode()).digest()


def capability(number: int) -> bytes:
    """Return the secret of a topic."""
    return _bytes("capability", number)


def log_key(number: int) -> bytes:
    """Return the key of a log."""
    return _bytes("log", number)


def length(number: int) -> int:
    """Return the length of a log: by turns one that takes 1 byte on the wire, 3 or 5."""
    return (number % 0xFD, 0xFD + number, 0x10000 + number)[number % 3]


FIRSTS: Final = [log_key(number) for number in range(61)]


class Announces:
    """Announces of so many entries; of one to the next only the first entry changes."""

    def __init__(self, entries: int) -> None:
        self.rest: Final = [
            (log_key(len(FIRSTS) + number), length(number)) for number in range(entries - 1)
        ]

    def whole(self, number: int) -> list[tuple[bytes, int]]:
        """Return all entries of one announce."""
        return [(FIRSTS[number % len(FIRSTS)], number), *self.rest]

    def checksum(self, numbers: range) -> int:
        """Return the sum of the first and the last length of all these announces."""
        if not self.rest:
            return 2 * sum(numbers)
        return sum(numbers) + len(numbers) * self.rest[-1][1]


def pool(size: int) -> list[bytes]:
    """Return the raw messages of so many bytes that are sent by turns."""
    return [
        b"".join(_bytes(f"raw {number}", part) for part in range(-(-size // 32)))[:size]
        for number in range(61)
    ]
