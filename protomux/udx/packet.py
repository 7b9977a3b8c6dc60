"""UDX packets as bytes. Knows their format, and how sequence numbers go round; nothing of streams.

One datagram is one packet: a header of 20 bytes, little endian,

    u8 magic 0xff   u8 version 1   u8 type   u8 data offset
    u32 stream id, the receiver's
    u32 receive window, bytes that the sender can take
    u32 seq, of this packet
    u32 ack, the next seq that the sender expects

then `data offset` bytes of selective acknowledgements or padding, then the payload. Where the type
says SACK and the offset is 0, all of the rest is acknowledgements. The format is that of libudx.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from protomux.encoding import BytesLike

__all__ = [
    "HEADER_SIZE",
    "MAX_SACKS",
    "RANGE_SIZE",
    "Packet",
    "Range",
    "Type",
    "decode_packet",
    "encode_packet",
    "unwrap",
]

HEADER_SIZE: Final = 20
"""Bytes of the header."""

RANGE_SIZE: Final = 8
"""Bytes of a range of a selective acknowledgement."""

MAX_SACKS: Final = 50
"""Ranges in one selective acknowledgement; as many as libudx sends."""

_MAGIC: Final = 0xFF
_VERSION: Final = 1

_header: Final = Struct("<BBBBIIII")
_range: Final = Struct("<II")

_MASK: Final = 2**32 - 1
_HALF: Final = 2**31


class Type(IntFlag):
    """What a packet is; several may hold. With none it is a bare acknowledgement."""

    DATA = 1
    END = 2
    SACK = 4
    MESSAGE = 8
    DESTROY = 16
    HEARTBEAT = 32


# To ask an enum for its member takes Python 3.11 as long as a call.
_SACK: Final = int(Type.SACK)

Range: TypeAlias = tuple[int, int]
"""Sequence numbers from the first up to the second, which is not among them."""


class Packet(NamedTuple):
    """What stands in one packet.

    Attributes:
        type: bits of `Type`, also ones that it does not name.
        stream_id: the receiver's name for the stream.
        window: bytes that the sender of the packet can take.
        seq: its sequence number; an acknowledgement carries the next that will be used.
        ack: the next sequence number that its sender expects.
        sacks: ranges that its sender has beyond `ack`, as they came: not checked.
        payload: the bytes of DATA or MESSAGE.
    """

    type: int
    stream_id: int
    window: int
    seq: int
    ack: int
    sacks: Sequence[Range] = ()
    payload: BytesLike = b""


def encode_packet(packet: Packet, padding: int = 0) -> bytes:
    """Return the datagram; so much padding, 0 to 255 bytes, makes one that probes the MTU longer.

    Sequence numbers are taken modulo 2^32. One with ranges is an acknowledgement: of those at most
    `MAX_SACKS` are said, and there is neither payload nor padding.
    """
    type, stream_id, window, seq, ack, sacks, payload = packet
    if sacks:
        type |= _SACK
        said = [_range.pack(start & _MASK, end & _MASK) for start, end in sacks[:MAX_SACKS]]
        payload, padding = b"".join(said), 0
    head = _header.pack(
        _MAGIC, _VERSION, type, padding, stream_id, window, seq & _MASK, ack & _MASK
    )
    return b"".join((head, bytes(padding), payload))


def decode_packet(datagram: BytesLike) -> Packet | None:
    """Return what stands in `datagram`; None if it is no packet of UDX, or a broken one."""
    size = len(datagram)
    if size < HEADER_SIZE:
        return None
    magic, version, type, offset, stream_id, window, seq, ack = _header.unpack_from(datagram)
    if magic != _MAGIC or version != _VERSION:
        return None
    after = size - HEADER_SIZE
    if offset > after:
        return None
    sacks: list[Range] = []
    if type & _SACK:
        # Without an offset inside, all of the rest is ranges, and there is no payload.
        end = HEADER_SIZE + (offset if 0 < offset < after else after)
        end -= (end - HEADER_SIZE) % _range.size
        sacks = list(_range.iter_unpack(memoryview(datagram)[HEADER_SIZE:end]))
        if offset == 0:
            offset = after
    return Packet(type, stream_id, window, seq, ack, sacks, datagram[HEADER_SIZE + offset :])


def unwrap(number: int, near: int) -> int:
    """Return the number without an end that is `number` modulo 2^32 and nearest to `near`.

    So that sequence numbers, which go round on the wire, can be compared as any others are here.
    Of two that are equally far, the one below, as by the signed difference in libudx.
    """
    return near + ((number - near + _HALF) & _MASK) - _HALF
