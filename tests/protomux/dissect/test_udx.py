"""What the codec sends is read here, field by field as in libudx's own dissector."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from protomux.dissect import Dissection, dissect, udx
from protomux.udx.packet import MAX_SACKS, Packet, Range, Type, decode_packet, encode_packet

from .udx_talk import converse


def parts(found: Dissection) -> list[tuple[str, int, int]]:
    return [(node.name, node.start, node.end) for node in found.root.children]


HEADER = [
    ("magic", 0, 1),
    ("version", 1, 2),
    ("type", 2, 3),
    ("offset", 3, 4),
    ("stream_id", 4, 8),
    ("window", 8, 12),
    ("seq", 12, 16),
    ("ack", 16, 20),
]


@pytest.mark.parametrize("padding", [0, 1, 32, 255])
def test_every_type_with_a_payload_and_padding(padding: int) -> None:
    for type in range(256):
        check(Packet(type & ~Type.SACK, 2**32 - 1, 3, 4, 5, [], b"payload"), padding)


def check(packet: Packet, padding: int) -> None:
    found = dissect(udx.packet, encode_packet(packet, padding))
    assert found.problem is None
    body = 20 + padding
    expected = [*HEADER, ("padding", 20, body)] if padding else HEADER
    assert parts(found) == [*expected, ("payload", body, body + 7)]
    assert (found.value.type, found.value.offset) == (packet.type, padding)
    assert (found.value.stream_id, found.value.window) == (2**32 - 1, 3)
    assert (found.value.seq, found.value.ack, found.value.payload) == (4, 5, b"payload")


@pytest.mark.parametrize("count", [1, 2, MAX_SACKS])
def test_every_number_of_ranges(count: int) -> None:
    ranges: Sequence[Range] = [(3 * number, 3 * number + 2) for number in range(count)]
    found = dissect(udx.packet, encode_packet(Packet(0, 1, 2, 3, 4, ranges)))
    assert found.problem is None
    end = 20 + 8 * count
    assert parts(found) == [
        *HEADER,
        *(("range", at, at + 8) for at in range(20, end, 8)),
        ("payload", end, end),
    ]
    assert [(each.start, each.end) for each in found.value.ranges] == ranges


def test_a_conversation() -> None:
    said = Type(0)
    is_padded = is_bare = False

    def heard(_time: float, _source: object, _destination: object, datagram: bytes) -> None:
        nonlocal said, is_padded, is_bare
        packet = decode_packet(datagram)
        found = dissect(udx.packet, datagram)
        assert packet is not None
        assert found.problem is None
        value = found.value
        assert tuple(packet[:5]) == (
            *(value.type, value.stream_id, value.window, value.seq, value.ack),
        )
        assert list(packet.sacks) == [(each.start, each.end) for each in value.ranges]
        assert packet.payload == value.payload
        said |= Type(packet.type)
        is_bare |= packet.type == 0
        is_padded |= len(value.padding) > 0

    converse("127.0.0.1", heard)
    assert set(said) == set(Type)
    assert is_bare
    assert is_padded


@pytest.mark.parametrize(
    ("type", "names"),
    [
        (0, []),
        (1 | 2, ["data", "end"]),
        (4 | 8, ["sack", "message"]),
        (16 | 32, ["destroy", "heartbeat"]),
        (64 | 128, ["0x40", "0x80"]),
    ],
)
def test_the_bits_have_names(type: int, names: list[str]) -> None:
    assert udx.flags(type) == names


@pytest.mark.parametrize("size", range(20, 61))
def test_what_is_sure_of_a_packet_without_its_end_is_so(size: int) -> None:
    padded = encode_packet(Packet(Type.DATA, 1, 2, 3, 4, [], b"payload" * 4), 12)
    assert len(padded) == 60
    assert udx.is_sure(dissect(udx.packet, padded[:size])) is (size >= 32)
    ranges = encode_packet(Packet(0, 1, 2, 3, 4, [(n, n + 1) for n in range(5)]))
    assert len(ranges) == 60
    assert not udx.is_sure(dissect(udx.packet, ranges[:size]))


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("last", [20, 21, 600])
def test_what_was_sent_as_one_is_told_apart(count: int, last: int) -> None:
    packets = [
        encode_packet(Packet(Type.DATA, 7, 2, number, 4, [], b"\xff\x01" + bytes(578)))
        for number in range(count)
    ]
    packets.append(encode_packet(Packet(Type.DATA, 7, 2, count, 4, [], bytes(last - 20))))
    assert udx.split(b"".join(packets)) == packets


def test_one_that_is_like_several_is_one() -> None:
    other = encode_packet(Packet(0, 8, 2, 3, 4))
    for payload in (b"", bytes(2000), other, other * 3, b"\xff\x01" * 500):
        whole = encode_packet(Packet(Type.DATA, 7, 2, 3, 4, [], payload))
        assert udx.split(whole) == [whole]
