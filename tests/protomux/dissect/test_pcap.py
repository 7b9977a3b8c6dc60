from __future__ import annotations

import asyncio
import io
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from struct import pack

import pytest

from protomux.dissect import Datagram, Other, PcapWriter, Problem, read_datagrams
from protomux.dissect.network import MAX_PAYLOAD, Address, LinkType, udp_packet
from protomux.dissect.pcap import MAX_KEPT
from protomux.udx import create_socket
from protomux.udx.packet import decode_packet

V4: tuple[Address, Address] = (("127.0.0.1", 1), ("10.0.0.255", 65535))
V6: tuple[Address, Address] = (("::1", 1), ("fe80::1", 65535))

MICRO, NANO = 0xA1B2C3D4, 0xA1B23C4D


def read(data: bytes) -> list[Datagram | Other | Problem]:
    return list(read_datagrams(io.BytesIO(data)))


def header(order: str, magic: int = MICRO, link_type: int = LinkType.RAW) -> bytes:
    return pack(f"{order}IHHIIII", magic, 2, 4, 0, 0, MAX_KEPT, link_type)


def record(order: str, packet: bytes, kept: int | None = None) -> bytes:
    kept = len(packet) if kept is None else kept
    return pack(f"{order}IIII", 1_700_000_000, 123_456, kept, len(packet)) + packet[:kept]


@pytest.mark.parametrize("place", [V4, V6])
@pytest.mark.parametrize("payload", [b"", b"a", b"\xff\x01" + bytes(1470), bytes(MAX_PAYLOAD)])
def test_what_was_written_is_read(
    tmp_path: Path, place: tuple[Address, Address], payload: bytes
) -> None:
    path = tmp_path / "pcap"
    source, destination = place
    writer = PcapWriter(path)
    writer.datagram(1_700_000_000.25, source, destination, payload)
    writer.tap(destination, source, payload)
    writer.close()
    writer.datagram(0.0, source, destination, b"too late")
    assert writer.error is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = path.read_bytes()
    first, second = read(data)
    assert isinstance(first, Datagram)
    assert isinstance(second, Datagram)
    at = 1_700_000_000_250_000_000
    size = len(payload)
    assert first == Datagram(1, at, source, destination, payload, size, first.offset)
    assert second == Datagram(2, second.time, destination, source, payload, size, second.offset)
    assert second.time is not None
    assert second.time > at
    for each in (first, second):
        assert data[each.offset : each.offset + size] == payload


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "unit"), [(MICRO, 1000), (NANO, 1)])
def test_byte_orders_and_units_of_time(order: str, magic: int, unit: int) -> None:
    packet = udp_packet(*V4, b"abc")
    found = read(header(order, magic) + record(order, packet) * 2)
    at = 1_700_000_000 * 10**9 + 123_456 * unit
    assert found == [Datagram(1, at, *V4, b"abc", 3, 68), Datagram(2, at, *V4, b"abc", 3, 115)]


def test_a_packet_of_which_not_all_was_kept() -> None:
    packet = udp_packet(*V4, b"abcdef")
    cut = [read(header("<") + record("<", packet, kept))[0] for kept in range(len(packet))]
    assert cut[:28] == [Other.CUT] * 28
    for size, found in enumerate(cut[28:]):
        assert isinstance(found, Datagram)
        assert (found.data, found.size) == (b"abcdef"[:size], 6)


def test_link_types_may_tell_of_a_check_sequence() -> None:
    data = header("<", link_type=0xF400_0000 | LinkType.RAW) + record("<", udp_packet(*V4, b""))
    assert isinstance(read(data)[0], Datagram)


@pytest.mark.parametrize(
    ("change", "offset", "reason"),
    [
        (lambda data: b"PK\x03\x04" + data[4:], 0, "pcap or pcapng file, which does not begin"),
        (lambda data: data[:3], 0, "pcap or pcapng file, which does not begin with d4c3b2"),
        (lambda data: data[:10], 10, "expected 8 bytes of unused, got 2"),
        (lambda data: data[:30], 30, "the last record is cut short: expected 16 bytes, got 6"),
        (lambda data: data[:-1], 70, "the last record is cut short: expected 31 bytes, got 30"),
        (
            lambda data: data[:32] + b"\x01\x00\x04\x00" + data[36:],
            32,
            "expected at most 262144 bytes of a packet, got 262145",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    change: Callable[[bytes], bytes], offset: int, reason: str
) -> None:
    (problem,) = read(change(header("<") + record("<", udp_packet(*V4, b"abc"))))
    assert isinstance(problem, Problem)
    assert problem.offset == offset
    assert reason in problem.reason


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    assert read(b"") == []
    path = tmp_path / "pcap"
    PcapWriter(path).close()
    assert read(path.read_bytes()) == []
    with pytest.raises(FileExistsError):
        PcapWriter(path)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pcap"
    path.write_bytes(header("<") + record("<", udp_packet(*V4, bytes(1000))) * 1000)
    with path.open("rb", buffering=0) as file:
        entries = read_datagrams(file)
        for number in range(1, 4):
            assert isinstance(next(entries), Datagram)
            assert file.tell() == 24 + number * 1044


def test_a_disk_that_is_full_ends_it_with_the_last_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "pcap"
    errors: list[OSError] = []
    writer = PcapWriter(path, errors.append)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        for _ in range(4):
            writer.tap(*V4, bytes(900))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [writer.error] == errors
    assert [type(entry) for entry in read(path.read_bytes())] == [Datagram] * 2


@pytest.mark.parametrize(
    ("source", "destination", "payload", "reason"),
    [
        ("127.0.0.1", "::1", b"", "expected addresses of one IP version, got 127.0.0.1 and ::1"),
        ("localhost", "::1", b"", "expected an IP address, got 'localhost'"),
        ("::1", "fe80:", b"", "expected an IP address, got 'fe80:'"),
        ("::1", "::1", bytes(65508), "expected a datagram of at most 65507 bytes, got 65508"),
    ],
)
def test_what_no_packet_can_be_made_of(
    source: str, destination: str, payload: bytes, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        udp_packet((source, 1), (destination, 2), payload)


def test_an_address_may_name_its_interface() -> None:
    assert udp_packet(("fe80::1%eth0", 1), ("fe80::2", 2), b"") == udp_packet(
        ("fe80::1", 1), ("fe80::2", 2), b""
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_tap_of_a_socket(tmp_path: Path, host: str) -> None:
    class Receiver(asyncio.Protocol):
        def __init__(self) -> None:
            self.received = 0
            self.ended = asyncio.Event()

        def data_received(self, data: bytes) -> None:
            self.received += len(data)

        def eof_received(self) -> None:
            self.ended.set()

    path = tmp_path / "pcap"
    receiver = Receiver()
    async with asyncio.timeout(30), await create_socket(host) as a, await create_socket(host) as b:
        writer = PcapWriter(path)
        a.tap = writer.tap
        there, back = a.create_stream(1, asyncio.Protocol()), b.create_stream(2, receiver)
        there.connect(2, host, b.address[1])
        back.connect(1, host, a.address[1])
        there.write(bytes(100_000))
        there.write_eof()
        await receiver.ended.wait()
        ours, theirs = a.address[:2], b.address[:2]
        writer.close()
    assert receiver.received == 100_000
    assert writer.error is None
    with path.open("rb") as file:
        found = list(read_datagrams(file))
    sent = 0
    for entry in found:
        assert isinstance(entry, Datagram)
        packet = decode_packet(entry.data)
        assert packet is not None
        places = (ours, theirs) if packet.stream_id == 2 else (theirs, ours)
        assert (entry.source, entry.destination) == places
        sent += len(packet.payload)
    assert sent >= 100_000
