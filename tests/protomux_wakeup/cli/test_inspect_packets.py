from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from protomux.dissect import Datagram, Direction, Frame, Other, Problem, dissect, udx
from protomux.udx.packet import Packet, Range, Type, encode_packet
from protomux_wakeup.cli.anatomy import packet_fields, packet_line
from protomux_wakeup.cli.inspect import inspect
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form, Recording

from .recorder import Recorder

A, B = ("127.0.0.1", 4000), ("::1", 65535)
DATA = encode_packet(Packet(Type.DATA, 7, 65536, 1, 2, [], b"payload"))
WRONG = DATA[:3] + b"\xff" + DATA[4:]
BEGAN = 1_700_000_000_000_000_000


def captured(
    data: bytes, number: int = 1, *, time: int | None = BEGAN, size: int | None = None
) -> Datagram:
    return Datagram(number, time, A, B, data, len(data) if size is None else size, 100)


def inspected(*entries: Datagram | Other | Problem) -> tuple[Recorder, Exit]:
    report = Recorder()
    return report, inspect(report, Recording(Form.PCAP, iter(entries)))


def line(packet: Packet, padding: int = 0) -> str:
    data = encode_packet(packet, padding)
    return packet_line(packet_fields(dissect(udx.packet, data), len(data)))


@pytest.mark.parametrize(
    ("type", "sacks", "payload", "shown"),
    [
        (0, [], b"", "ACK, {}"),
        (Type.DATA, [], b"1", "DATA, {}, payload 1 byte"),
        (Type.DATA | Type.END, [], b"12", "DATA+END, {}, payload 2 bytes"),
        (0, [(5, 6), (8, 10)], b"", "SACK, {}, sacks 5..6 8..10"),
        (Type.HEARTBEAT, [], b"", "HEARTBEAT, {}"),
        (0xD0, [], b"", "DESTROY+0x40+0x80, {}"),
    ],
)
def test_a_packet_in_one_line(
    type: int, sacks: Sequence[Range], payload: bytes, shown: str
) -> None:
    packet = Packet(type, 7, 65536, 1, 2, sacks, payload)
    assert line(packet) == shown.format("stream 7, window 65536, seq 1, ack 2")


def test_a_padded_packet_in_one_line() -> None:
    assert line(Packet(Type.DATA, 7, 65536, 1, 2, [], b"12"), 32).endswith(
        ", ack 2, padding 32, payload 2 bytes"
    )


@pytest.mark.parametrize("size", range(len(DATA)))
def test_a_packet_that_breaks_off(size: int) -> None:
    found = dissect(udx.packet, DATA[:size])
    fields = packet_fields(found, size)
    is_header = size >= 20
    assert fields["flags"] == (None if size < 3 else ["data"])
    assert fields["seq"] == (None if size < 16 else 1)
    assert fields["sacks"] == ([] if is_header else None)
    assert fields["payload_size"] == (size - 20 if is_header else None)
    text = packet_line(fields)
    assert ("stream 7" in text) is (size >= 8)
    assert text.startswith("DATA" if size > 2 else f"{size} byte")


def test_packets_of_a_capture() -> None:
    report, code = inspected(captured(DATA), captured(DATA, 3, time=BEGAN + 1_500_000))
    assert code is Exit.DONE
    assert report.complaints == []
    first, second = report.lines
    shown = (
        "127.0.0.1:4000 ──▶ [::1]:65535 DATA, stream 7, window 65536, seq 1, ack 2, "
        "payload 7 bytes, {} s, at byte 100 of the file"
    )
    assert (first.label, first.text) == ("packet 1", shown.format("0.000000"))
    assert (second.label, second.text) == ("packet 3", shown.format("0.001500"))
    assert first.details == []
    fields: Any = dict(second.fields)
    assert [part["name"] for part in fields.pop("tree")["children"]][-1] == "payload"
    assert fields == {
        "number": 3,
        "at": 0.0015,
        "captured_at": 1_700_000_000.0015,
        "direction": None,
        "source": "127.0.0.1:4000",
        "destination": "[::1]:65535",
        "offset": 100,
        "packet": DATA.hex(),
        "size": 27,
        "flags": ["data"],
        "type": 1,
        "stream_id": 7,
        "window": 65536,
        "seq": 1,
        "ack": 2,
        "sacks": [],
        "padding": 0,
        "payload_size": 7,
        "problem": None,
    }


def test_packets_without_a_time() -> None:
    report, _ = inspected(captured(DATA, time=None))
    assert report.lines[0].fields["at"] is None
    assert report.lines[0].text.endswith("payload 7 bytes, at byte 100 of the file")


def test_a_wrong_packet_is_a_failure_and_shown_in_full() -> None:
    report = Recorder()
    entries = iter([captured(DATA), captured(WRONG, 2)])
    with pytest.raises(Failure, match="1 of 2 packets is wrong") as caught:
        inspect(report, Recording(Form.PCAP, entries))
    assert caught.value.code is Exit.FAILED
    reason = "expected an offset of at most 7 bytes, got 255"
    assert report.lines[1].details[-1] == f"! byte 3: {reason}"
    assert report.lines[1].fields["problem"] == {"offset": 3, "reason": reason}


def test_what_is_no_udx_is_counted() -> None:
    cut = encode_packet(Packet(0, 1, 2, 3, 4, [(5, 6)]))
    report, code = inspected(
        *[captured(each) for each in (b"", b"\xff", b"\xff\x02" + DATA[2:], b"d1:ad2:id20:")],
        captured(DATA[:1], size=27),
        captured(DATA[:19], size=27),
        captured(cut[:24], size=28),
        captured(b"d", size=27),
        *[Other.NO_UDP] * 3,
        Other.FRAGMENT,
        Other.CUT,
    )
    assert code is Exit.DONE
    (skipped,) = report.lines
    assert skipped.event == "skipped"
    assert skipped.fields == {"no_udx": 5, "no_udp": 3, "fragment": 1, "cut": 4}
    assert skipped.text == (
        "13 packets: 5 without UDX, 3 without UDP, 1 in fragments, 4 cut short by the capture"
    )


def test_of_a_packet_that_was_cut_the_header_is_shown() -> None:
    report, code = inspected(captured(DATA[:20], size=27))
    assert code is Exit.DONE
    assert "payload 7 bytes" in report.lines[0].text
    assert report.lines[0].fields["payload_size"] == 7


def test_packets_that_were_passed_on_as_one() -> None:
    report, _ = inspected(captured(DATA * 3, 5), captured(DATA, 6))
    assert [line.label for line in report.lines] == ["packet 5"] * 3 + ["packet 6"]
    assert [line.fields["offset"] for line in report.lines] == [100, 127, 154, 100]
    assert all(line.fields["packet"] == DATA.hex() for line in report.lines)


def test_a_wrong_file_is_one_after_what_is_right_in_it() -> None:
    report, code = inspected(captured(DATA), Problem(9, "torn"), Other.NO_UDP)
    assert code is Exit.FAILED
    assert report.events == ["packet", "skipped"]
    assert [tuple(complaint) for complaint in report.complaints] == [
        ("error", "pcap file, byte 9: torn", {"offset": 9, "reason": "torn"})
    ]


def test_packets_in_hex_lines_are_shown_in_full() -> None:
    report = Recorder()
    lines = [
        Frame(1, None, direction, DATA, number)
        for number, direction in enumerate((Direction.OUT, Direction.IN))
    ]
    assert inspect(report, Recording(Form.UDX, iter(lines))) is Exit.DONE
    there, back = report.lines
    shown = "DATA, stream 7, window 65536, seq 1, ack 2, payload 7 bytes, at byte"
    assert there.text == f"──▶ {shown} 0 of the file"
    assert back.text == f"◀── {shown} 1 of the file"
    assert (back.label, back.fields["direction"]) == ("packet 2", "in")
    assert back.fields["source"] is back.fields["destination"] is back.fields["at"] is None
    assert there.details[0] == " 0..27  packet"
    assert there.details[-1] == "20..27    payload 7061796c6f6164"
