"""Packets as udx-native 1.21.3 sends them, and numbers that go round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protomux.udx.packet import (
    HEADER_SIZE,
    MAX_SACKS,
    Packet,
    Type,
    decode_packet,
    encode_packet,
    unwrap,
)

WINDOW = 4 * 1024 * 1024

# Recorded between two streams of udx-native, with ids 1 and 2; long payloads are left out.
RECORDED = [
    (
        "ff0108000200000000004000000000000000000068656c6c6f",
        Packet(Type.MESSAGE, 2, WINDOW, 0, 0, [], b"hello"),
    ),
    (
        "ff01030002000000000040001200000000000000627965",
        Packet(Type.DATA | Type.END, 2, WINDOW, 18, 0, [], b"bye"),
    ),
    ("ff01000001000000000040000000000003000000", Packet(0, 1, WINDOW, 0, 3, [])),
    (
        "ff010400010000000000400000000000030000000400000009000000",
        Packet(Type.SACK, 1, WINDOW, 0, 3, [(4, 9)]),
    ),
    ("ff01020001000000000040000000000013000000", Packet(Type.END, 1, WINDOW, 0, 19, [])),
]


@pytest.mark.parametrize(("datagram", "packet"), RECORDED)
def test_packets_are_those_of_the_original(datagram: str, packet: Packet) -> None:
    assert decode_packet(bytes.fromhex(datagram)) == packet
    assert encode_packet(packet).hex() == datagram


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        bytes(19),
        b"\xfe\x01" + bytes(18),
        b"\xff\x02" + bytes(18),
        b"\xff\x01\x00\x01" + bytes(16),
        b"\xff\x01\x01\x09" + bytes(16) + b"eight...",
    ],
)
def test_what_is_no_packet_is_none(datagram: bytes) -> None:
    assert decode_packet(datagram) is None


def test_padding_is_skipped() -> None:
    packet = Packet(Type.DATA, 1, 0, 7, 8, [], b"payload")
    datagram = encode_packet(packet, 32)
    assert len(datagram) == HEADER_SIZE + 32 + 7
    assert decode_packet(datagram) == packet


def test_ranges_may_stand_in_front_of_data() -> None:
    datagram = bytes.fromhex("ff010508") + bytes(16) + bytes.fromhex("0500000006000000") + b"data"
    packet = decode_packet(datagram)
    assert packet is not None
    assert (packet.sacks, packet.payload) == ([(5, 6)], b"data")


def test_a_part_of_a_range_is_none() -> None:
    datagram = bytes.fromhex("ff010400") + bytes(16) + bytes.fromhex("050000000600000007000000")
    packet = decode_packet(datagram)
    assert packet is not None
    assert (packet.sacks, packet.payload) == ([(5, 6)], b"")


def test_no_more_ranges_are_said_than_the_original_says() -> None:
    ranges = [(2 * number, 2 * number + 1) for number in range(100)]
    packet = decode_packet(encode_packet(Packet(0, 1, 2, 3, 4, ranges)))
    assert packet is not None
    assert packet.sacks == ranges[:MAX_SACKS]
    assert packet.type == Type.SACK


@given(st.integers(0, 2**40), st.integers(-(2**31), 2**31 - 1))
def test_numbers_that_went_round_are_found_again(near: int, distance: int) -> None:
    number = near + distance
    assert unwrap(number % 2**32, near) == number
    packet = decode_packet(encode_packet(Packet(0, 1, 2, abs(number), near)))
    assert packet is not None
    assert unwrap(packet.seq, abs(number)) == abs(number)
    assert unwrap(packet.ack, near) == near
