from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protomux.dissect import Datagram, Other, Problem
from protomux.dissect.network import Address, Captured, LinkType, find_datagram, udp_packet

V4: tuple[Address, Address] = (("127.0.0.1", 1), ("10.0.0.255", 65535))
V6: tuple[Address, Address] = (("::1", 1), ("fe80::1", 65535))
FOUR, SIX = udp_packet(*V4, b"abc"), udp_packet(*V6, b"abc")


def find(link_type: int, packet: bytes, kept: int | None = None) -> Datagram | Other | Problem:
    return find_datagram(Captured(1, None, link_type, packet[:kept], len(packet), 100))


def changed(packet: bytes, at: int, value: str) -> bytes:
    octets = bytes.fromhex(value)
    return packet[:at] + octets + packet[at + len(octets) :]


def extended(next: int, *extensions: str) -> bytes:
    """Return SIX with IPv6 extensions, the first of which is of type `next`."""
    octets = bytes.fromhex("".join(extensions))
    size = len(SIX) - 40 + len(octets)
    return SIX[:4] + size.to_bytes(2) + bytes([next]) + SIX[7:40] + octets + SIX[40:]


MACS = "ff" * 12
COOKED = "0000 0304 0006 000000000000 0000"
COOKED2 = "0000 00000001 0001 00 06 0000000000000000"


@pytest.mark.parametrize(
    ("link_type", "before", "packet"),
    [
        (LinkType.RAW, "", FOUR),
        (LinkType.RAW, "", SIX),
        (LinkType.IPV4, "", FOUR),
        (LinkType.IPV6, "", SIX),
        (LinkType.ETHERNET, MACS + "0800", FOUR),
        (LinkType.ETHERNET, MACS + "86dd", SIX),
        (LinkType.ETHERNET, MACS + "88a8 0001 8100 0002 0800", FOUR),
        (LinkType.LINUX_SLL, COOKED + "0800", FOUR),
        (LinkType.LINUX_SLL2, "86dd" + COOKED2, SIX),
        (LinkType.NULL, "02000000", FOUR),
        (LinkType.NULL, "00000002", FOUR),
        (LinkType.NULL, "1e000000", SIX),
        (LinkType.LOOP, "0000001c", SIX),
    ],
)
def test_every_link(link_type: LinkType, before: str, packet: bytes) -> None:
    octets = bytes.fromhex(before)
    place = V4 if packet is FOUR else V6
    offset = 100 + len(octets) + len(packet) - 3
    expected = Datagram(1, None, *place, b"abc", 3, offset)
    assert find(link_type, octets + packet) == expected
    if link_type is LinkType.ETHERNET:  # fills up what is too short
        assert find(link_type, octets + packet + bytes(9)) == expected
    whole = octets + packet
    for kept in range(len(whole) - 3):
        assert find(link_type, whole, kept) is Other.CUT


@pytest.mark.parametrize(
    ("link_type", "packet"),
    [
        (LinkType.ETHERNET, bytes.fromhex(MACS + "0806") + bytes(28)),  # ARP
        (LinkType.LINUX_SLL2, bytes.fromhex("0806" + COOKED2) + bytes(28)),
        (LinkType.NULL, bytes.fromhex("07000000") + bytes(28)),
        (LinkType.RAW, changed(FOUR, 9, "06")),  # TCP
        (LinkType.RAW, changed(SIX, 6, "06")),
        (LinkType.RAW, extended(0, "3b00" + "00" * 6)),
        (147, FOUR),  # a link type that nobody knows
    ],
)
def test_what_is_no_udp(link_type: int, packet: bytes) -> None:
    assert find(link_type, packet) is Other.NO_UDP


@pytest.mark.parametrize(
    "extensions",
    [
        [(0, "11 00 050200000000")],
        [(43, "3c 01" + "00" * 14), (60, "11 00" + "00" * 6)],
        [(44, "11 00 0000 00000001")],  # a fragment that is the whole
    ],
)
def test_extensions_of_ipv6(extensions: list[tuple[int, str]]) -> None:
    found = find(LinkType.RAW, extended(extensions[0][0], *(octets for _, octets in extensions)))
    assert isinstance(found, Datagram)
    assert (found.source, found.destination, found.data) == (*V6, b"abc")


def test_options_of_ipv4() -> None:
    packet = b"\x46" + FOUR[1:2] + (len(FOUR) + 4).to_bytes(2) + FOUR[4:20] + bytes(4) + FOUR[20:]
    found = find(LinkType.RAW, packet)
    assert isinstance(found, Datagram)
    assert (found.source, found.destination, found.data) == (*V4, b"abc")


@pytest.mark.parametrize(
    "packet",
    [
        changed(FOUR, 6, "2000"),
        changed(FOUR, 6, "0001"),
        extended(44, "11 00 0001 00000001"),
        extended(44, "11 00 0008 00000001"),
    ],
)
def test_fragments(packet: bytes) -> None:
    assert find(LinkType.RAW, packet) is Other.FRAGMENT


@pytest.mark.parametrize(
    ("packet", "offset", "reason"),
    [
        (b"", 0, "expected an IP packet, got 0 bytes"),
        (FOUR[:19], 19, "expected 4 bytes of destination, got 3"),
        (changed(FOUR, 0, "55"), 0, "expected IP version 4 or 6, got 5"),
        (changed(FOUR, 0, "44"), 0, "expected a header of at least 20 bytes, got 16"),
        (changed(FOUR, 0, "4f"), 31, "expected 40 bytes of options, got 11"),
        (changed(FOUR, 2, "0013"), 2, "expected at least 20 bytes of IPv4 packet, got 19"),
        (changed(FOUR, 2, "0020"), 2, "expected at most 31 bytes of IPv4 packet, got 32"),
        (changed(FOUR, 2, "001b"), 27, "expected 2 bytes of checksum, got 1"),
        (changed(FOUR, 24, "0007"), 24, "expected at least 8 bytes of UDP datagram, got 7"),
        (changed(FOUR, 24, "000c"), 24, "expected at most 11 bytes of UDP datagram, got 12"),
        (changed(SIX, 4, "000c"), 4, "expected at most 11 bytes of IPv6 packet, got 12"),
        (changed(SIX, 6, "00"), 51, "expected 8 bytes of rest, got 3"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(packet: bytes, offset: int, reason: str) -> None:
    assert find(LinkType.RAW, packet) == Problem(100 + offset, reason)


def test_the_version_is_that_of_the_link() -> None:
    reason = "expected IP version 4, got 6"
    assert find(LinkType.IPV4, SIX) == Problem(100, reason)
    assert find(LinkType.ETHERNET, bytes.fromhex(MACS + "0800") + SIX) == Problem(114, reason)


@given(
    st.sampled_from(LinkType),
    st.binary(max_size=60) | st.sampled_from([FOUR, SIX]),
    st.integers(0, 70),
    st.binary(max_size=4),
    st.integers(0, 70),
)
def test_any_packet(link_type: LinkType, packet: bytes, at: int, change: bytes, kept: int) -> None:
    packet = packet[:at] + change + packet[at + len(change) :]
    found = find(link_type, packet, kept)
    if isinstance(found, Datagram):
        begin = found.offset - 100
        assert packet[:kept][begin : begin + len(found.data)] == found.data
        assert len(found.data) <= found.size
    if isinstance(found, Problem):
        assert 100 <= found.offset <= 100 + min(kept, len(packet))
