"""The messages of the wakeup protocol and their bytes. Knows no peer and no session.

Unknown flags and bytes after a message are ignored, as by the original: they are room for later
versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from protomux.crypto import KEY_SIZE
from protomux.encoding import MAX_ARRAY, Encoding, fixed32, uint
from protomux.errors import EncodingError, LimitExceeded
from protomux.speedups import twin

__all__ = [
    "PROTOCOL",
    "VERSION",
    "AnnounceEncoding",
    "Handshake",
    "Info",
    "Lookup",
    "MessageType",
    "Writer",
    "announce",
    "handshake",
    "info",
    "lookup",
    "writers_of",
]

PROTOCOL: Final = "wakeup"
"""Name of the protocol on its mux."""

VERSION: Final = 0
"""The version that this side speaks."""

_ACTIVE: Final = 1  # flag of Handshake and Info
_HAS_HASH: Final = 1  # flag of Lookup
_ONE_BYTE: Final = 0xFC  # largest integer that has one byte


class MessageType(IntEnum):
    """Message types of a wakeup channel."""

    LOOKUP = 0
    ANNOUNCE = 1
    INFO = 2


class Handshake(NamedTuple):
    """What goes along with an open.

    Attributes:
        version: of the protocol, 0.
        capability: 32 bytes, the proof that the sender knows the capability.
        active: the sender's topic is active.
    """

    version: int
    capability: bytes
    active: bool


class Lookup(NamedTuple):
    """A question: which logs have grown?

    Attributes:
        hash: 32 bytes of the asking application's own, or None. A peer may leave the question
            unanswered when the hash tells it that the asker knows everything already.
    """

    hash: bytes | None = None


class Writer(NamedTuple):
    """One entry of an announce.

    Attributes:
        key: 32-byte key of a log.
        length: the log has at least this many blocks.
    """

    key: bytes
    length: int


class Info(NamedTuple):
    """The sender's topic has become active, or inactive."""

    active: bool


class _HandshakeEncoding:
    def encode(self, value: Handshake, /) -> bytes:
        return (
            uint.encode(value.version)
            + fixed32.encode(value.capability)
            + uint.encode(_ACTIVE if value.active else 0)
        )

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[Handshake, int]:
        version, position = uint.decode(data, start, end)
        capability, position = fixed32.decode(data, position, end)
        flags, position = uint.decode(data, position, end)
        return Handshake(version, capability, bool(flags & _ACTIVE)), position


class _LookupEncoding:
    def encode(self, value: Lookup, /) -> bytes:
        if value.hash is None:
            return uint.encode(0)
        return uint.encode(_HAS_HASH) + fixed32.encode(value.hash)

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[Lookup, int]:
        flags, position = uint.decode(data, start, end)
        if not flags & _HAS_HASH:
            return Lookup(None), position
        hash, position = fixed32.decode(data, position, end)
        return Lookup(hash), position


@twin
class AnnounceEncoding:
    """A list of writers; (key, length) pairs do as well.

    Encodes up to 0x100000 of them, and decodes up to `most`: LimitExceeded beyond that,
    EncodingError beyond what an array may have.
    """

    _writer: Final = Writer
    _least: Final = KEY_SIZE + 1  # bytes of an entry

    def __init__(self, most: int = MAX_ARRAY) -> None:
        self._most = most

    def encode(self, value: Iterable[tuple[bytes, int]], /) -> bytes:
        """Return the bytes of `value`."""
        writers = writers_of(value)
        if len(writers) > MAX_ARRAY:
            raise EncodingError(f"expected at most {MAX_ARRAY} writers, got {len(writers)}")
        return uint.encode(len(writers)) + b"".join(
            [fixed32.encode(key) + uint.encode(length) for key, length in writers]
        )

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[list[Writer], int]:
        """Read the writers from `data[start:end]`; return them and the position after them."""
        count, position = uint.decode(data, start, end)
        if count > self._most:
            error = LimitExceeded if count <= MAX_ARRAY else EncodingError
            raise error(f"expected at most {self._most} writers, got {count}")
        if count * self._least > end - position:  # before any of them is made
            raise EncodingError(
                f"expected {count} writers of {self._least} bytes or more, got {end - position} "
                f"bytes"
            )
        writers = []
        for _ in range(count):
            begin, position = position, position + KEY_SIZE
            if position < end and data[position] <= _ONE_BYTE:
                length = data[position]
                position += 1
            else:
                length, position = uint.decode(data, position, end)  # refuses if the key is cut
            writers.append(self._writer(data[begin : begin + KEY_SIZE], length))
        return writers, position


@twin
def writers_of(entries: Iterable[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Return `entries`, Writers or (key, length) pairs, as a list.

    Raises EncodingError for what is none of them; keys and lengths are not looked at.
    """
    try:
        return [(key, length) for key, length in entries]
    except (TypeError, ValueError) as error:
        raise EncodingError(f"expected Writers or (key, length) pairs: {error}") from error


class _InfoEncoding:
    def encode(self, value: Info, /) -> bytes:
        return uint.encode(_ACTIVE if value.active else 0)

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[Info, int]:
        flags, position = uint.decode(data, start, end)
        return Info(bool(flags & _ACTIVE)), position


handshake: Final[Encoding[Handshake]] = _HandshakeEncoding()
lookup: Final[Encoding[Lookup]] = _LookupEncoding()
announce: Final = AnnounceEncoding()
info: Final[Encoding[Info]] = _InfoEncoding()
