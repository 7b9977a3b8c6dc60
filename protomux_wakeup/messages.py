"""The messages of the wakeup protocol and their bytes. Knows no peer and no session.

Unknown flags and bytes after a message are ignored, as by the original: they are room for later
versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from protomux.encoding import Encoding, array, fixed32, uint
from protomux.errors import EncodingError

__all__ = [
    "PROTOCOL",
    "VERSION",
    "Handshake",
    "Info",
    "Lookup",
    "MessageType",
    "Writer",
    "announce",
    "handshake",
    "info",
    "lookup",
]

PROTOCOL: Final = "wakeup"
"""Name of the protocol on its mux."""

VERSION: Final = 0
"""The version that this side speaks."""

_ACTIVE: Final = 1  # flag of Handshake and Info
_HAS_HASH: Final = 1  # flag of Lookup


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


class _WriterEncoding:
    def encode(self, value: Writer, /) -> bytes:
        return fixed32.encode(value.key) + uint.encode(value.length)

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[Writer, int]:
        key, position = fixed32.decode(data, start, end)
        length, position = uint.decode(data, position, end)
        return Writer(key, length), position


class _AnnounceEncoding:
    """A list of at most 0x100000 writers; (key, length) pairs do as well."""

    _writers: Final = array(_WriterEncoding())

    def encode(self, value: Iterable[tuple[bytes, int]], /) -> bytes:
        try:
            writers = [Writer(*entry) for entry in value]
        except TypeError as error:
            raise EncodingError(f"expected Writers or (key, length) pairs: {error}") from error
        return self._writers.encode(writers)

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[list[Writer], int]:
        return self._writers.decode(data, start, end)


class _InfoEncoding:
    def encode(self, value: Info, /) -> bytes:
        return uint.encode(_ACTIVE if value.active else 0)

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[Info, int]:
        flags, position = uint.decode(data, start, end)
        return Info(bool(flags & _ACTIVE)), position


handshake: Final[Encoding[Handshake]] = _HandshakeEncoding()
lookup: Final[Encoding[Lookup]] = _LookupEncoding()
announce: Final = _AnnounceEncoding()
info: Final[Encoding[Info]] = _InfoEncoding()
