"""Files of captured packets as Wireshark writes them (pcapng): read.

    file       sections, of blocks
    block      u32 type, u32 size, the body, u32 size again; filled up to 4 bytes
    section    the first block of each tells the byte order, u32 0x1a2b3c4d
    interface  u16 link type, u16 unused, u32 most bytes kept of a packet, options
    packet     u32 number of the interface, u64 time with its upper half first, u32 bytes that were
               kept, u32 bytes that there were; the bytes, options
    simple     u32 bytes that there were; the bytes, from the first interface
    option     u16 code, u16 size, the value filled up to 4 bytes; the last has the code 0

All other blocks are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

from construct import Bytes, Int8ub, Int16ub, Int16ul, Int32ub, Int32ul, Int64sb, Int64sl, Struct

from protomux.dissect.network import Captured
from protomux.dissect.tree import Format, Problem, Wrong, field, parse, torn

__all__ = ["PCAPNG_MAGIC", "read_pcapng"]

PCAPNG_MAGIC: Final = b"\x0a\x0d\x0d\x0a"
"""The first four bytes of such a file: the type of a section, in both byte orders."""

_INTERFACE, _SIMPLE, _PACKET = 1, 3, 6
_ORDERED: Final = 0x1A2B3C4D
_FRAME: Final = 12
"""Bytes of a block without its body."""
_MAX_BLOCK: Final = 2**24
"""Bytes of a block, as Wireshark has it."""
_MAX_INTERFACES: Final = 2**16
_END, _RESOLUTION, _SINCE = 0, 9, 14


class _Order(NamedTuple):
    """The formats in one byte order."""

    int32: Format
    interface: Format
    packet: Format
    simple: Format
    option: Format
    int64: Format


def _order(int16: Format, int32: Format, int64: Format) -> _Order:
    interface = Struct(
        field("link_type", int16), field("unused", Bytes(2)), field("most_kept", int32)
    )
    packet = Struct(
        field("interface", int32),
        field("time_above", int32),
        field("time_below", int32),
        field("kept", int32),
        field("size", int32),
    )
    option = Struct(field("code", int16), field("size", int16))
    return _Order(int32, interface, packet, Struct(field("size", int32)), option, int64)


_LITTLE: Final = _order(Int16ul, Int32ul, Int64sl)
_BIG: Final = _order(Int16ub, Int32ub, Int64sb)


class _Interface(NamedTuple):
    """What a block says of an interface.

    Attributes:
        link_type: what its packets begin with.
        most_kept: bytes of a packet; 0 for all.
        units: of time, in a second.
        since: seconds from 1970 to where its times begin.
    """

    link_type: int
    most_kept: int
    units: int
    since: int


def read_pcapng(file: IO[bytes], magic: bytes) -> Iterator[Captured | Problem]:
    """Yield the packets of a file whose magic has been read, and what is wrong with it, where.

    Nothing is read beyond a block whose size is wrong or that is cut short. Raises OSError where
    the file cannot be read.
    """
    section = _Section(_LITTLE)
    offset = number = 0
    head = magic + file.read(_FRAME - len(magic))
    while head:
        if len(head) < _FRAME:
            yield torn(_FRAME, offset, len(head))
            return
        try:
            if head.startswith(PCAPNG_MAGIC):
                section = _begin_section(head)
            type, size = section.head(head)
        except Wrong as wrong:
            yield Problem(offset + wrong.problem.offset, wrong.problem.reason)
            return
        block = head + file.read(size - _FRAME)
        if len(block) < size:
            yield torn(size, offset, len(block))
            return
        number += type in (_PACKET, _SIMPLE)
        try:
            packet = section.read(type, block, number)
        except Wrong as wrong:
            yield Problem(offset + wrong.problem.offset, wrong.problem.reason)
        else:
            if packet is not None:
                yield packet._replace(offset=offset + packet.offset)
        offset += size
        head = file.read(_FRAME)


def _begin_section(head: bytes) -> _Section:
    for order in (_LITTLE, _BIG):
        if order.int32.parse(head[8:]) == _ORDERED:
            return _Section(order)
    raise Wrong(8, f"expected the byte order {_ORDERED:#x}, got {head[8:].hex()}")


class _Section:
    """The byte order of a section, and the interfaces that were told of in it so far.

    Offsets are those in the block that is read.
    """

    def __init__(self, order: _Order) -> None:
        self._order = order
        self._interfaces: list[_Interface] = []

    def head(self, head: bytes) -> tuple[int, int]:
        """Return the type and the size of the block that begins so."""
        type, size = (self._order.int32.parse(head[at : at + 4]) for at in (0, 4))
        if size % 4 or not _FRAME <= size <= _MAX_BLOCK:
            expected = f"expected a multiple of 4 from {_FRAME} to {_MAX_BLOCK}"
            raise Wrong(4, f"{expected} for the size of a block, got {size}")
        return type, size

    def read(self, type: int, block: bytes, number: int) -> Captured | None:
        """Take a whole block in; return the packet that is in it, if there is one."""
        if block[-4:] != block[4:8]:
            expected, found = block[4:8].hex(), block[-4:].hex()
            raise Wrong(len(block) - 4, f"expected the size {expected} once more, got {found}")
        if type == _INTERFACE:
            self._add_interface(block)
        elif type == _PACKET:
            return self._read_packet(block, number)
        elif type == _SIMPLE:
            return self._read_simple(block, number)
        return None

    def _add_interface(self, block: bytes) -> None:
        if len(self._interfaces) == _MAX_INTERFACES:
            raise Wrong(0, f"expected at most {_MAX_INTERFACES} interfaces, got one more")
        said, position = _parse(self._order.interface, block, 8, "interface")
        units, since = 10**6, 0
        while position < len(block) - 4:
            option, begin = _parse(self._order.option, block, position, "option")
            _, position = _parse(Bytes(option.size + -option.size % 4), block, begin, "option")
            if option.code == _END:
                break
            if option.code == _RESOLUTION:
                power, _ = _parse(Int8ub, block, begin, "time resolution")
                units = 2 ** (power & 0x7F) if power & 0x80 else 10**power
            elif option.code == _SINCE:
                since, _ = _parse(self._order.int64, block, begin, "time offset")
        self._interfaces.append(_Interface(said.link_type, said.most_kept, units, since))

    def _read_packet(self, block: bytes, number: int) -> Captured:
        said, begin = _parse(self._order.packet, block, 8, "packet")
        interface = self._interface(said.interface)
        data, _ = _parse(Bytes(said.kept), block, begin, "packet")
        passed = said.time_above << 32 | said.time_below
        time = passed * 10**9 // interface.units + interface.since * 10**9
        return Captured(number, time, interface.link_type, data, said.size, begin)

    def _read_simple(self, block: bytes, number: int) -> Captured:
        said, begin = _parse(self._order.simple, block, 8, "simple packet")
        interface = self._interface(0)
        kept = min(said.size, interface.most_kept or said.size)
        data, _ = _parse(Bytes(kept), block, begin, "simple packet")
        return Captured(number, None, interface.link_type, data, said.size, begin)

    def _interface(self, number: int) -> _Interface:
        if number >= len(self._interfaces):
            expected = f"one of {len(self._interfaces)} interfaces"
            raise Wrong(8, f"expected {expected}, counted from 0, got {number}")
        return self._interfaces[number]


def _parse(format: Format, block: bytes, start: int, name: str) -> tuple[Any, int]:
    """Return a value in the body of a block, and where it ends."""
    return parse(format, block, start, len(block) - 4, name=name)
