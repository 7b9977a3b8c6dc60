"""Files of captured packets as libpcap writes them: read, and written of datagrams.

    pcap    magic, u16 2, u16 4, two unused u32, u32 most bytes kept of a packet, u32 link type;
            then records
    record  u32 seconds since 1970, u32 micro- or nanoseconds, u32 bytes that were kept, u32 bytes
            that there were; the bytes

The magic is a u32 that tells the byte order, and the unit of the second time.

```python
writer = PcapWriter(path)
socket.tap = writer.tap      # of a protomux.udx.Socket
```
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from struct import Struct as Layout
from typing import IO, Final, NamedTuple

from construct import Bytes, Int16ub, Int16ul, Int32ub, Int32ul, Struct

from protomux.dissect.network import Address, Captured, LinkType, udp_packet
from protomux.dissect.ownfile import OnError, OwnFile
from protomux.dissect.tree import Format, Problem, dissect, field, parse, torn

__all__ = ["MAX_KEPT", "PCAP_MAGICS", "PcapWriter", "read_pcap"]

MAX_KEPT: Final = 262144
"""Bytes kept of a packet, as the tcpdump project and Wireshark have it."""

_HEADER_SIZE: Final = 24
_RECORD_SIZE: Final = 16
_VERSION: Final = (2, 4)
_LINK_TYPE: Final = 0xFFFF
"""Of the u32: the rest tells of a frame check sequence."""


class _Order(NamedTuple):
    """The formats in one byte order, and nanoseconds of the unit of time."""

    header: Format
    record: Format
    unit: int


def _order(int16: Format, int32: Format, unit: int) -> _Order:
    header = Struct(
        field("magic", int32),
        field("major", int16),
        field("minor", int16),
        field("unused", Bytes(8)),
        field("most_kept", int32),
        field("link_type", int32),
    )
    record = Struct(
        field("seconds", int32),
        field("fraction", int32),
        field("kept", int32),
        field("size", int32),
    )
    return _Order(header, record, unit)


_MICRO, _NANO = 0xA1B2C3D4, 0xA1B23C4D
_orders: Final = {
    _MICRO.to_bytes(4, "little"): _order(Int16ul, Int32ul, 1000),
    _MICRO.to_bytes(4, "big"): _order(Int16ub, Int32ub, 1000),
    _NANO.to_bytes(4, "little"): _order(Int16ul, Int32ul, 1),
    _NANO.to_bytes(4, "big"): _order(Int16ub, Int32ub, 1),
}

PCAP_MAGICS: Final = tuple(_orders)
"""The first four bytes of such a file."""


def read_pcap(file: IO[bytes], magic: bytes) -> Iterator[Captured | Problem]:
    """Yield the packets of a file whose magic has been read, and what is wrong with it, where.

    Nothing is read beyond a record whose size is wrong or that is cut short. Raises OSError where
    the file cannot be read.
    """
    order = _orders[magic]
    data = magic + file.read(_HEADER_SIZE - len(magic))
    found = dissect(order.header, data, name="header")
    if found.problem is not None:
        yield found.problem
        return
    link_type = found.value.link_type & _LINK_TYPE
    offset, number = _HEADER_SIZE, 0
    while head := file.read(_RECORD_SIZE):
        if len(head) < _RECORD_SIZE:
            yield torn(_RECORD_SIZE, offset, len(head))
            return
        said, _ = parse(order.record, head)
        if said.kept > MAX_KEPT:
            reason = f"expected at most {MAX_KEPT} bytes of a packet, got {said.kept}"
            yield Problem(offset + 8, reason)
            return
        begin = offset + _RECORD_SIZE
        data = file.read(said.kept)
        if len(data) < said.kept:
            yield torn(said.kept, begin, len(data))
            return
        number += 1
        at = said.seconds * 10**9 + said.fraction * order.unit
        yield Captured(number, at, link_type, data, said.size, begin)
        offset = begin + said.kept


class PcapWriter:
    """Writes datagrams as the IP packets that carry them, until it is closed or cannot go on.

    Each is handed to the operating system at once. The file is for its owner only (mode 0600).
    """

    # A datagram is captured where it is sent, so this must not take long; Construct would.
    _record: Final = Layout("<IIII")

    def __init__(self, path: Path, on_error: OnError | None = None) -> None:
        """Begin a capture in a new file, or in one that is empty.

        `on_error(error)` is called once, where a write fails; the capture ends there, with the
        last whole record. Raises FileExistsError for a file that is not empty, and OSError for
        one that cannot be written or that another process writes.
        """
        self._file: Final = OwnFile(path, on_error)
        major, minor = _VERSION
        header = {
            "magic": _MICRO,
            "major": major,
            "minor": minor,
            "unused": bytes(8),
            "most_kept": MAX_KEPT,
            "link_type": LinkType.RAW,
        }
        self._file.append(_orders[_MICRO.to_bytes(4, "little")].header.build(header))

    @property
    def error(self) -> OSError | None:
        """Why nothing is written any more; None while all is well, and after `close()`."""
        return self._file.error

    def datagram(self, time: float, source: Address, destination: Address, payload: bytes) -> None:
        """Write a datagram that was on its way at `time`, in seconds since 1970.

        Raises ValueError for one that is too long, and for what are not two IP addresses of one
        version.
        """
        packet = udp_packet(source, destination, payload)
        seconds, fraction = divmod(round(time * 1_000_000), 1_000_000)
        size = len(packet)
        self._file.append(self._record.pack(seconds, fraction, size, size) + packet)

    def tap(self, source: Address, destination: Address, data: bytes) -> None:
        """Write a datagram that is on its way now, as `datagram` does."""
        self.datagram(time.time(), source, destination, data)

    def close(self) -> None:
        """Write no more."""
        self._file.close()
