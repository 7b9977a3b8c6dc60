"""The wire as an attacker writes it: bytes, right or wrong. Knows no stream and none of our codec.

A *body* is type and payload, as it stands in a frame of its own or in a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

__all__ = [
    "ANNOUNCE",
    "BATCH",
    "CLOSE",
    "INFO",
    "LOOKUP",
    "MAX_FRAME",
    "OPEN",
    "REJECT",
    "announce",
    "batch",
    "bodies",
    "close",
    "discovery_key",
    "filled",
    "frame",
    "handshake",
    "info",
    "lookup",
    "message",
    "opening",
    "proof",
    "read_buffer",
    "read_uint",
    "reject",
    "uint",
]

MAX_FRAME: Final = 2**24 - 1 - 17
"""Bytes of the largest frame that a secret stream carries."""

BATCH, OPEN, REJECT, CLOSE = 0, 1, 2, 3
LOOKUP, ANNOUNCE, INFO = 0, 1, 2

_INITIATOR: Final = bytes.fromhex(
    "063a3bb9280276c0d40c8706d7f1ce871f123d6a5f16bfe7744428bc96eb2ce0"
)
_RESPONDER: Final = bytes.fromhex(
    "abcb0d8387a3802891f0d6a62b08db97ed6ad680363579bf274fc9fec0792bf3"
)


def uint(value: int) -> bytes:
    """Any value of 64 bits, also those that nobody may send."""
    if value <= 0xFC:
        return bytes([value])
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFFFFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    return b"\xff" + value.to_bytes(8, "little")


def _buffer(data: bytes) -> bytes:
    return uint(len(data)) + data


# Bodies of the control channel.


def opening(number: int, protocol: str, id: bytes = b"", handshake: bytes = b"") -> bytes:
    return b"\x01" + uint(number) + _buffer(protocol.encode()) + _buffer(id) + handshake


def reject(number: int) -> bytes:
    return b"\x02" + uint(number)


def close(number: int) -> bytes:
    return b"\x03" + uint(number)


# Bodies of other channels.


def message(type: int, payload: bytes = b"") -> bytes:
    return uint(type) + payload


def lookup(hash: bytes | None = None) -> bytes:
    return b"\x00\x00" if hash is None else b"\x00\x01" + hash


def announce(entries: Iterable[tuple[bytes, int]], count: int | None = None) -> bytes:
    """An announce that says it has `count` entries, as many as it has unless given."""
    parts = [key + uint(length) for key, length in entries]
    return b"\x01" + uint(len(parts) if count is None else count) + b"".join(parts)


def info(active: bool) -> bytes:
    return b"\x02\x01" if active else b"\x02\x00"


# Frames.


def frame(channel: int, body: bytes) -> bytes:
    return uint(channel) + body


def batch(channel: int, bodies: Iterable[bytes]) -> bytes:
    """A batch for one channel, 0 for opens, rejects and closes."""
    return b"\x00\x00" + uint(channel) + b"".join(map(_buffer, bodies))


def filled(channel: int, piece: bytes, size: int) -> bytes:
    """A batch of at most `size` bytes that repeats `piece`, bytes as they stand in it."""
    head = b"\x00\x00" + uint(channel)
    return head + piece * ((size - len(head)) // len(piece))


# The wakeup protocol's own.


def discovery_key(capability: bytes) -> bytes:
    return blake2b(b"hypercore", digest_size=32, key=capability).digest()


def proof(capability: bytes, is_initiator: bool, handshake_hash: bytes) -> bytes:
    role = _INITIATOR if is_initiator else _RESPONDER
    return blake2b(role + capability + handshake_hash, digest_size=32).digest()


def handshake(proof: bytes, active: bool = True) -> bytes:
    return b"\x00" + proof + (b"\x01" if active else b"\x00")


# Reading what comes back.


def read_uint(data: bytes, position: int) -> tuple[int, int]:
    """Return a value and the position behind it."""
    first = data[position]
    if first <= 0xFC:
        return first, position + 1
    end = position + 1 + (2, 4, 8)[first - 0xFD]
    return int.from_bytes(data[position + 1 : end], "little"), end


def read_buffer(data: bytes, position: int) -> tuple[bytes, int]:
    """Return the bytes behind a length, and the position behind them."""
    size, position = read_uint(data, position)
    return data[position : position + size], position + size


def bodies(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (channel, body) of all that a frame carries."""
    if not frame:
        return
    channel, position = read_uint(frame, 0)
    if channel != 0 or frame[position] != BATCH:
        yield channel, frame[position:]
        return
    channel, position = read_uint(frame, position + 1)
    while position < len(frame):
        size, position = read_uint(frame, position)
        if size == 0:
            channel, position = read_uint(frame, position)
            continue
        yield channel, frame[position : position + size]
        position += size
