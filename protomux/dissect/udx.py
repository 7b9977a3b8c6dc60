"""Packets of UDX, declared with Construct. Knows one datagram, nothing of the stream it is for.

packet   u8 magic 0xff, u8 version 1, u8 type, u8 offset, then u32 each: the receiver's stream id,
         window, seq, ack; so many bytes as the offset says; the payload. Little endian.
offset   padding; where the type has the bit SACK, ranges of two u32, the second excluded. What is
         left behind the last whole range is padding as well. Ranges reach to the end if the offset
         is 0 or would leave no payload.
"""

from __future__ import annotations

from typing import IO, Any, Final

from construct import Byte, Int32ul, Struct, stream_write

from protomux.dissect.compact import raw
from protomux.dissect.tree import Dissection, Format, FormatBase, Wrong, build, field, tape_of

__all__ = ["MAGIC", "SACK", "flags", "is_sure", "packet", "split"]

MAGIC: Final = b"\xff\x01"
"""What tells a packet from other datagrams: the first byte, and the version."""

SACK: Final = 4
"""The bit of the type that says that there are ranges."""

_FLAGS: Final = {
    1: "data",
    2: "end",
    SACK: "sack",
    8: "message",
    16: "destroy",
    32: "heartbeat",
}
_RANGE_SIZE: Final = 8
_HEADER_SIZE: Final = 20


class _Exactly(FormatBase):
    """A byte that is always the same."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.flagbuildnone = True
        self._value = value

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> int:
        begin = tape_of(stream).position
        found: int = Byte._parsereport(stream, context, path)
        if found != self._value:
            raise Wrong(begin, f"expected {self._value:#04x}, got {found:#04x}")
        return found

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        return Byte._build(self._value, stream, context, path)


class _Offset(FormatBase):
    """How far behind the header the payload begins."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> int:
        tape = tape_of(stream)
        begin = tape.position
        offset: int = Byte._parsereport(stream, context, path)
        most = tape.end - begin - 1 - 4 * Int32ul.sizeof()
        if offset > most >= 0:
            raise Wrong(begin, f"expected an offset of at most {most} bytes, got {offset}")
        return offset

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        return Byte._build(obj, stream, context, path)


class _Ranges(FormatBase):
    """The ranges of a selective acknowledgement, as many as there are whole ones."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> list[Any]:
        if not context.type & SACK:
            return []
        tape = tape_of(stream)
        left = tape.end - tape.position
        size = context.offset if 0 < context.offset < left else left
        return [_RANGE._parsereport(stream, context, path) for _ in range(size // _RANGE_SIZE)]

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        for each in obj:
            data = build(_RANGE, each)
            stream_write(stream, data, len(data), path)
        return obj


class _Padding(FormatBase):
    """What else the offset skips; a part of the tree only if there is something."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> bytes:
        tape = tape_of(stream)
        ranges = _RANGE_SIZE * len(context.ranges)
        left = tape.end - tape.position
        is_ranges_alone = context.type & SACK and context.offset == 0
        size = left if is_ranges_alone else max(context.offset - ranges, 0)
        if size == 0:
            return b""
        with tape.narrowed(size, "padding"):
            padding: bytes = _PADDING._parsereport(stream, context, path)
        return padding

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        return raw._build(obj or b"", stream, context, path)


_RANGE: Final = field("range", Struct(field("start", Int32ul), field("end", Int32ul)))
_PADDING: Final = field("padding", raw)

packet: Final[Format] = Struct(
    field("magic", _Exactly(MAGIC[0])),
    field("version", _Exactly(MAGIC[1])),
    field("type", Byte),
    field("offset", _Offset()),
    field("stream_id", Int32ul),
    field("window", Int32ul),
    field("seq", Int32ul),
    field("ack", Int32ul),
    "ranges" / _Ranges(),
    "padding" / _Padding(),
    field("payload", raw),
)
"""One datagram."""


def flags(type: int) -> list[str]:
    """Return the names of the bits of a type; none is a bare acknowledgement."""
    return [_FLAGS.get(1 << bit, hex(1 << bit)) for bit in range(8) if type & 1 << bit]


def is_sure(found: Dissection) -> bool:
    """Tell whether what was found in a packet holds though bytes are missing from its end."""
    if found.problem is not None:
        return False
    return found.value.offset > 0 or not found.value.type & SACK


def split(data: bytes) -> list[bytes]:
    """Return the packets in `data` that Linux passes on as one datagram (UDP_SEGMENT, udp(7)).

    The network card cuts them apart, behind the place where captures are made, and no capture
    tells their size: all have it but the last, which may be shorter. So they are looked for where
    a header with the same stream id comes again and again.
    """
    id = data[4:8]
    size = data.find(MAGIC, _HEADER_SIZE)
    while size > 0:
        starts = range(0, len(data), size)
        if all(data.startswith(MAGIC, at) and data[at + 4 : at + 8] == id for at in starts):
            return [data[at : at + size] for at in starts]
        size = data.find(MAGIC, size + 1)
    return [data]
