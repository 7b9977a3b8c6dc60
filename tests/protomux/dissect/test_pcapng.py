from __future__ import annotations

import io
from collections.abc import Iterable
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protomux.dissect import Datagram, Other, Problem, read_datagrams
from protomux.dissect.network import Address, LinkType, udp_packet

PLACE: tuple[Address, Address] = (("127.0.0.1", 1), ("10.0.0.255", 2))
PACKET = udp_packet(*PLACE, b"abc")
SECOND = 10**9

TIME = 0x0005_0000_0000_0001


def read(data: bytes) -> list[Datagram | Other | Problem]:
    return list(read_datagrams(io.BytesIO(data)))


def filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def block(order: str, type: int, body: bytes) -> bytes:
    size = 12 + len(filled(body))
    return pack(f"{order}II", type, size) + filled(body) + pack(f"{order}I", size)


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(
    order: str,
    options: Iterable[tuple[int, bytes]] = (),
    link_type: int = LinkType.RAW,
    most_kept: int = 0,
) -> bytes:
    said = [pack(f"{order}HH", code, len(value)) + filled(value) for code, value in options]
    return block(order, 1, pack(f"{order}HHI", link_type, 0, most_kept) + b"".join(said))


def packet(order: str, number: int = 0, data: bytes = PACKET, kept: int | None = None) -> bytes:
    size = len(data)
    kept = size if kept is None else kept
    said = pack(f"{order}IIIII", number, TIME >> 32, TIME & 0xFFFF_FFFF, kept, size)
    return block(order, 6, said + data[:kept])


def simple(order: str, data: bytes = PACKET, kept: int | None = None) -> bytes:
    return block(order, 3, pack(f"{order}I", len(data)) + data[:kept])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("options", "time"),
    [
        ([], TIME * 1000),
        ([(9, b"\x06")], TIME * 1000),
        ([(9, b"\x09")], TIME),
        ([(9, b"\x0c")], TIME // 1000),
        ([(9, b"\x00")], TIME * SECOND),
        ([(9, b"\x8a")], TIME * SECOND // 1024),
        ([(2, b"lo"), (9, b"\x09"), (0, b"")], TIME),
        ([(0, b""), (9, b"\x09")], TIME * 1000),
    ],
)
def test_byte_orders_and_units_of_time(
    order: str, options: list[tuple[int, bytes]], time: int
) -> None:
    data = section(order) + interface(order, options) + packet(order)
    assert read(data) == [Datagram(1, time, *PLACE, b"abc", 3, len(data) - 4 - 1 - 3)]


@pytest.mark.parametrize("order", "<>")
def test_times_may_begin_at_another_time(order: str) -> None:
    since = interface(order, [(14, pack(f"{order}q", -5))])
    (found,) = read(section(order) + since + packet(order))
    assert isinstance(found, Datagram)
    assert found.time == TIME * 1000 - 5 * SECOND


def test_packets_are_of_interfaces_and_those_of_sections() -> None:
    ethernet = interface("<", link_type=LinkType.ETHERNET)
    framed = bytes(12) + b"\x08\x00" + PACKET
    data = b"".join(
        (
            *(section("<"), interface("<"), ethernet),
            *(packet("<", 1, framed), block("<", 5, b"statistics"), packet("<", 0)),
            *(section(">"), interface(">"), packet(">", 0)),
        )
    )
    found = read(data)
    assert [(type(each), getattr(each, "number", 0)) for each in found] == [
        (Datagram, 1),
        (Datagram, 2),
        (Datagram, 3),
    ]
    for each in found:
        assert isinstance(each, Datagram)
        assert data[each.offset : each.offset + 3] == each.data == b"abc"


def test_simple_packets_have_no_time_and_may_be_cut() -> None:
    data = section("<") + interface("<") + simple("<")
    assert read(data) == [Datagram(1, None, *PLACE, b"abc", 3, len(data) - 8)]
    data = section("<") + interface("<", most_kept=30) + simple("<", PACKET, 30)
    assert read(data) == [Datagram(1, None, *PLACE, b"ab", 3, len(data) - 8)]


def test_a_packet_of_which_not_all_was_kept() -> None:
    data = section("<") + interface("<") + packet("<", kept=27) + packet("<", kept=28)
    first, second = read(data)
    assert first is Other.CUT
    assert isinstance(second, Datagram)
    assert (second.number, second.data, second.size) == (2, b"", 3)


BEGINNING = section("<") + interface("<")
BEGUN = len(BEGINNING)


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (section("<")[:11], 11, "the last record is cut short: expected 12 bytes, got 11"),
        (section("<")[:27], 27, "the last record is cut short: expected 28 bytes, got 27"),
        (b"\n\r\r\n" + bytes(24), 8, "expected the byte order 0x1a2b3c4d, got 00000000"),
        (BEGINNING + pack("<III", 6, 8, 8), BEGUN + 4, "size of a block, got 8"),
        (BEGINNING + pack("<III", 6, 14, 8), BEGUN + 4, "size of a block, got 14"),
        (BEGINNING + pack("<III", 6, 2**24 + 4, 8), BEGUN + 4, "size of a block, got 16777220"),
        (BEGINNING + b"\0", BEGUN + 1, "the last record is cut short: expected 12 bytes, got 1"),
    ],
)
def test_where_it_cannot_be_read_on(data: bytes, offset: int, reason: str) -> None:
    (problem,) = read(data)
    assert isinstance(problem, Problem)
    assert problem.offset == offset
    assert reason in problem.reason


@pytest.mark.parametrize(
    ("wrong", "offset", "reason"),
    [
        (packet("<", 1), 8, "expected one of 1 interfaces, counted from 0, got 1"),
        (block("<", 6, bytes(16)), 24, "expected 4 bytes of size, got 0"),
        (
            block("<", 6, pack("<IIIII", 0, 0, 0, 5, 5) + b"four"),
            32,
            "expected 5 bytes of packet, got 4",
        ),
        (simple("<")[:-4] + b"\1\0\0\0", 44, "expected the size 30000000 once more, got 01000000"),
        (interface("<", [(9, b"")]), 20, "expected 1 byte of time resolution, got 0"),
        (
            block("<", 1, pack("<HHIHH", 101, 0, 0, 2, 8)),
            20,
            "expected 8 bytes of option, got 0",
        ),
    ],
)
def test_a_wrong_block_is_told_with_its_place_and_skipped(
    wrong: bytes, offset: int, reason: str
) -> None:
    problem, good = read(BEGINNING + wrong + packet("<"))
    assert problem == Problem(BEGUN + offset, reason)
    assert isinstance(good, Datagram)


def test_interfaces_are_not_without_end() -> None:
    found = read(section("<") + interface("<") * (2**16 + 1))
    assert [type(each) for each in found] == [Problem]


@given(
    st.lists(
        st.builds(
            lambda type, body: block("<", type, body),
            st.sampled_from([1, 3, 6, 0x0A0D0D0A]),
            st.binary(max_size=80),
        )
    ),
    st.integers(0, 200),
    st.binary(max_size=3),
)
def test_any_file(blocks: list[bytes], at: int, change: bytes) -> None:
    data = BEGINNING + packet("<") + b"".join(blocks)
    data = data[:at] + change + data[at + len(change) :]
    for entry in read(data):
        if isinstance(entry, Problem):
            assert 0 <= entry.offset <= len(data)
