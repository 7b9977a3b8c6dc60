"""UDP datagrams in the packets of a network, declared with Construct; and packets made of them.

link   what stands in front of IP, by the link type of the capture: Ethernet with its VLAN tags,
       the headers of Linux's "any" device, those of the null and loopback devices, or nothing
ip     IPv4 with its options, IPv6 with its extensions
udp    u16 each: port of the source, of the destination, size with this header, checksum; the
       datagram. Big endian

Checksums are not looked at: most network cards fill them in behind the place where captures are
made. Fragments are not put together.
"""

from __future__ import annotations

import socket
from enum import Enum, IntEnum
from functools import lru_cache
from struct import Struct as Layout
from typing import Any, Final, NamedTuple, TypeAlias

from construct import Byte, Bytes, Int16ub, Int32ub, Struct

from protomux.dissect.tree import Format, Problem, Wrong, field, parse

__all__ = [
    "MAX_PAYLOAD",
    "Address",
    "Captured",
    "Datagram",
    "LinkType",
    "Other",
    "find_datagram",
    "udp_packet",
]

Address: TypeAlias = tuple[str, int]
"""An IP address, and a port."""

MAX_PAYLOAD: Final = 65507
"""Bytes of the largest datagram: what IPv4 leaves of 65,535."""

_UDP: Final = 17
_V4, _V6 = 4, 6
_V4_TYPE, _V6_TYPE = 0x0800, 0x86DD
_VLAN_TYPES: Final = frozenset({0x8100, 0x88A8, 0x9100})
_V4_FAMILY: Final = 2
_V6_FAMILIES: Final = frozenset({10, 24, 28, 30})  # each system has its own
_V4_SIZE: Final = 20
_MORE_OR_LATER: Final = 0x3FFF
"""Of IPv4's third word: more fragments follow, and where this one belongs; 0 in a whole packet."""
_V6_EXTENSIONS: Final = frozenset({0, 43, 60})
_V6_FRAGMENT: Final = 44
_V6_MORE_OR_LATER: Final = 0xFFF9


class LinkType(IntEnum):
    """What the packets of a capture begin with; the names are those of the tcpdump project."""

    NULL = 0
    ETHERNET = 1
    RAW = 101
    LOOP = 108
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


class Captured(NamedTuple):
    """A packet as it was captured.

    Attributes:
        number: in its file, from 1.
        time: nanoseconds since 1970; None where nobody wrote that down.
        link_type: what it begins with, one of `LinkType` or another.
        data: its bytes, as many as were kept.
        size: bytes that it had.
        offset: of `data` in the file.
    """

    number: int
    time: int | None
    link_type: int
    data: bytes
    size: int
    offset: int


class Datagram(NamedTuple):
    """A UDP datagram.

    Attributes:
        number, time: those of the packet that it came in.
        source, destination: from where it came, and where it went.
        data: its bytes, as many as were kept.
        size: bytes that it had.
        offset: of `data` in the file.
    """

    number: int
    time: int | None
    source: Address
    destination: Address
    data: bytes
    size: int
    offset: int


class Other(Enum):
    """A packet in which no datagram can be read, though nothing is wrong with it."""

    NO_UDP = "no_udp"
    FRAGMENT = "fragment"
    CUT = "cut"


_ethernet: Final = Struct(field("addresses", Bytes(12)), field("type", Int16ub))
_vlan: Final = Struct(field("tag", Int16ub), field("type", Int16ub))
_sll: Final = Struct(field("about", Bytes(14)), field("type", Int16ub))
_sll2: Final = Struct(field("type", Int16ub), field("about", Bytes(18)))
_family: Final = field("family", Bytes(4))

_v4: Final = Struct(
    field("version_and_header_size", Byte),
    field("service", Byte),
    field("size", Int16ub),
    field("id", Int16ub),
    field("fragment", Int16ub),
    field("ttl", Byte),
    field("protocol", Byte),
    field("checksum", Int16ub),
    field("source", Bytes(4)),
    field("destination", Bytes(4)),
)
_v6: Final = Struct(
    field("version_and_flow", Int32ub),
    field("size", Int16ub),
    field("next", Byte),
    field("hops", Byte),
    field("source", Bytes(16)),
    field("destination", Bytes(16)),
)
_v6_extension: Final = Struct(field("next", Byte), field("size", Byte), field("first", Bytes(6)))
_v6_fragment: Final = Struct(
    field("next", Byte), field("reserved", Byte), field("fragment", Int16ub), field("id", Int32ub)
)
_udp: Final = Struct(
    field("source", Int16ub),
    field("destination", Int16ub),
    field("size", Int16ub),
    field("checksum", Int16ub),
)

_Place: TypeAlias = tuple[bytes, bytes]
"""The addresses of the source and of the destination, as IP has them."""


def find_datagram(packet: Captured) -> Datagram | Other | Problem:
    """Return the datagram in a packet, or why there is none. Offsets are those in the file."""
    is_cut = len(packet.data) < packet.size
    layers = _Layers(packet.data, is_cut)
    try:
        place = _read_ip(layers, _read_link(layers, packet.link_type))
        if isinstance(place, Other):
            return place
        begin = layers.position
        udp = layers.read(_udp, "UDP header")
        layers.bound(begin, udp.size, begin + 4, "UDP datagram")
    except Wrong as wrong:
        offset, reason = wrong.problem.offset, wrong.problem.reason
        is_missing = is_cut and offset >= len(packet.data)
        return Other.CUT if is_missing else Problem(packet.offset + offset, reason)
    source, destination = map(_text, place)
    return Datagram(
        packet.number,
        packet.time,
        (source, udp.source),
        (destination, udp.destination),
        packet.data[layers.position : layers.end],
        udp.size - _udp_layout.size,
        packet.offset + layers.position,
    )


class _Layers:
    """A packet that is read header by header; each may say where what follows it ends."""

    def __init__(self, data: bytes, is_cut: bool) -> None:
        self.data: Final = data
        self.position = 0
        self.end = len(data)
        self._is_cut = is_cut

    def read(self, format: Format, name: str) -> Any:
        value, self.position = parse(format, self.data, self.position, self.end, name=name)
        return value

    def bound(self, begin: int, size: int, at: int, what: str) -> None:
        """End where `what` does, which the bytes from `at` on say has this size."""
        least = self.position - begin
        if size < least:
            raise Wrong(at, f"expected at least {least} bytes of {what}, got {size}")
        if begin + size <= self.end:
            self.end = begin + size
        elif not self._is_cut:
            raise Wrong(at, f"expected at most {self.end - begin} bytes of {what}, got {size}")


def _read_link(layers: _Layers, link_type: int) -> tuple[int, ...]:
    """Return the versions of IP that may follow."""
    match link_type:
        case LinkType.RAW:
            return (_V4, _V6)
        case LinkType.IPV4:
            return (_V4,)
        case LinkType.IPV6:
            return (_V6,)
        case LinkType.ETHERNET:
            type = layers.read(_ethernet, "Ethernet header").type
            while type in _VLAN_TYPES:
                type = layers.read(_vlan, "VLAN tag").type
        case LinkType.LINUX_SLL:
            type = layers.read(_sll, "Linux cooked header").type
        case LinkType.LINUX_SLL2:
            type = layers.read(_sll2, "Linux cooked header").type
        case LinkType.NULL | LinkType.LOOP:
            octets = layers.read(_family, "loopback header")
            family = octets[0] or octets[3]  # in either byte order
            if family == _V4_FAMILY:
                return (_V4,)
            return (_V6,) if family in _V6_FAMILIES else ()
        case _:
            return ()
    return {_V4_TYPE: (_V4,), _V6_TYPE: (_V6,)}.get(type, ())


def _read_ip(layers: _Layers, versions: tuple[int, ...]) -> _Place | Other:
    """Read up to the header of UDP."""
    if not versions:
        return Other.NO_UDP
    begin = layers.position
    if begin >= layers.end:
        raise Wrong(begin, "expected an IP packet, got 0 bytes")
    version = layers.data[begin] >> 4
    if version not in versions:
        expected = " or ".join(map(str, versions))
        raise Wrong(begin, f"expected IP version {expected}, got {version}")
    return _read_v4(layers) if version == _V4 else _read_v6(layers)


def _read_v4(layers: _Layers) -> _Place | Other:
    begin = layers.position
    head = layers.read(_v4, "IPv4 header")
    header_size = 4 * (head.version_and_header_size & 0x0F)
    if header_size < _V4_SIZE:
        raise Wrong(begin, f"expected a header of at least {_V4_SIZE} bytes, got {header_size}")
    layers.read(field("options", Bytes(header_size - _V4_SIZE)), "IPv4 options")
    layers.bound(begin, head.size, begin + 2, "IPv4 packet")
    if head.protocol != _UDP:
        return Other.NO_UDP
    return Other.FRAGMENT if head.fragment & _MORE_OR_LATER else (head.source, head.destination)


def _read_v6(layers: _Layers) -> _Place | Other:
    begin = layers.position
    head = layers.read(_v6, "IPv6 header")
    layers.bound(layers.position, head.size, begin + 4, "IPv6 packet")
    next = head.next
    while next in _V6_EXTENSIONS or next == _V6_FRAGMENT:
        if next == _V6_FRAGMENT:
            extension = layers.read(_v6_fragment, "IPv6 fragment header")
            if extension.fragment & _V6_MORE_OR_LATER:
                return Other.FRAGMENT
        else:
            extension = layers.read(_v6_extension, "IPv6 extension")
            layers.read(field("rest", Bytes(8 * extension.size)), "IPv6 extension")
        next = extension.next
    return (head.source, head.destination) if next == _UDP else Other.NO_UDP


def _text(address: bytes) -> str:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address)


# A datagram is captured where it is sent, so what follows must not take long; Construct would.
_v4_layout: Final = Layout("!BBHHHBBH4s4s")
_v6_layout: Final = Layout("!IHBB16s16s")
_udp_layout: Final = Layout("!HHHH")
_TTL: Final = 64
_DONT_FRAGMENT: Final = 0x4000


def udp_packet(source: Address, destination: Address, payload: bytes) -> bytes:
    """Return the IP packet of a datagram, with its checksums.

    Raises ValueError for more than `MAX_PAYLOAD` bytes, and for what are not two IP addresses of
    one version.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"expected a datagram of at most {MAX_PAYLOAD} bytes, got {len(payload)}")
    place = _place(source[0], destination[0])
    size = _udp_layout.size + len(payload)
    ports = source[1], destination[1], size
    # UDP's checksum is that of the addresses, the protocol and the size as well.
    summed = b"".join((*place, bytes((0, _UDP)), size.to_bytes(2), _udp_layout.pack(*ports, 0)))
    checksum = _checksum(summed + payload) or 0xFFFF
    if len(place[0]) == 4:
        fixed = (0x45, 0, _V4_SIZE + size, 0, _DONT_FRAGMENT, _TTL, _UDP)
        head = _v4_layout.pack(*fixed, _checksum(_v4_layout.pack(*fixed, 0, *place)), *place)
    else:
        head = _v6_layout.pack(_V6 << 28, size, _UDP, _TTL, *place)
    return b"".join((head, _udp_layout.pack(*ports, checksum), payload))


@lru_cache(maxsize=256)
def _place(source: str, destination: str) -> _Place:
    place = _octets(source), _octets(destination)
    if len(place[0]) != len(place[1]):
        raise ValueError(f"expected addresses of one IP version, got {source} and {destination}")
    return place


def _octets(host: str) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.inet_pton(family, host.partition("%")[0])
    except OSError:
        raise ValueError(f"expected an IP address, got {host!r}") from None


def _checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    # The sum of 16-bit words with the carry around its end is the number modulo 2^16 - 1, where
    # 0 stands for that itself: IP has no header of zeros only.
    number = int.from_bytes(data + bytes(len(data) % 2))
    return 0xFFFF - (number % 0xFFFF or 0xFFFF)
