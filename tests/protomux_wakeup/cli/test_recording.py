from __future__ import annotations

import io
from pathlib import Path

import pytest

from protomux.dissect import Datagram, Direction, Frame, PcapWriter, Problem
from protomux.streams import memory_pair
from protomux.udx.packet import Packet, Type, encode_packet
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form, Recording, open_recording, recorder
from tests.raw_peer import RawPeer

from .recorder import Recorder

IN, OUT = Direction.IN, Direction.OUT


def read(path: Path, data: bytes, form: Form | None = None) -> tuple[Form, list[Frame | Problem]]:
    path.write_bytes(data)
    with open_recording(str(path), form) as recording:
        entries = [entry for entry in recording.entries if isinstance(entry, Frame | Problem)]
    return recording.form, entries


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "frames"


@pytest.mark.parametrize(
    ("line", "direction", "data", "offset"),
    [
        ("000102", IN, b"\x00\x01\x02", 0),
        ("  00 01\t02  ", IN, b"\x00\x01\x02", 2),
        ("> aBfF", OUT, b"\xab\xff", 2),
        (">abff # out", OUT, b"\xab\xff", 1),
        ("< ab", IN, b"\xab", 2),
        ("<", IN, b"", 1),
        ("> # nothing in it", OUT, b"", 1),
        ("ab\r", IN, b"\xab", 0),
    ],
)
def test_hex_lines(path: Path, line: str, direction: Direction, data: bytes, offset: int) -> None:
    expected = Frame(1, None, direction, data, offset)
    assert read(path, line.encode()) == (Form.HEX, [expected])
    before = "# ä comment\n\n  \n".encode()
    shifted = expected._replace(offset=offset + len(before))
    assert read(path, before + line.encode() + b"\n\n") == (Form.HEX, [shifted])


@pytest.mark.parametrize(
    ("text", "offset", "reason"),
    [
        ("00\n0g\n", 4, "line 2: expected hex digits, got 'g'"),
        ("> 0 x", 4, "line 1: expected hex digits, got 'x'"),
        (">> 00", 1, "line 1: expected hex digits, got '>'"),
        ("00\n 123\n", 7, "line 2: expected two hex digits for each byte, got one for the last"),
    ],
)
def test_wrong_hex_lines(path: Path, text: str, offset: int, reason: str) -> None:
    _, entries = read(path, text.encode() + b"\nff")
    assert Problem(offset, reason) in entries
    last = entries[-1]
    assert isinstance(last, Frame)
    assert last.data == b"\xff"


def test_a_line_without_end(path: Path) -> None:
    form, entries = read(path, b"0" * 2**25 + b"0" * 9000)
    assert form is Form.HEX
    assert [type(entry) for entry in entries] == [Problem]


def test_raw_frames(path: Path) -> None:
    data = b"\x03\x00\x00abc" + b"\x00\x00\x00" + b"\x01\x00\x00d"
    assert read(path, data) == (
        Form.RAW,
        [
            Frame(1, None, IN, b"abc", 3),
            Frame(1, None, IN, b"", 9),
            Frame(1, None, IN, b"d", 12),
        ],
    )


@pytest.mark.parametrize(
    ("tail", "offset", "reason"),
    [
        (b"\x05\x00", 6, "expected 3 bytes of a length, got 2"),
        (b"\x05\x00\x00ab", 9, "expected 5 bytes of a frame, got 2"),
        (b"\x05\x00\x00", 7, "expected 5 bytes of a frame, got 0"),
    ],
)
def test_torn_raw_frames(path: Path, tail: bytes, offset: int, reason: str) -> None:
    _, entries = read(path, b"\x01\x00\x00d" + tail)
    assert entries == [Frame(1, None, IN, b"d", 3), Problem(offset, reason)]


PACKET = encode_packet(Packet(Type.DATA, 1, 2, 3, 4, [], b"payload"))
PCAPNG = bytes.fromhex("0a0d0d0a 1c000000 4d3c2b1a 0100 0000 ffffffffffffffff 1c000000")


@pytest.mark.parametrize(
    "before",
    ["", "> ", "  <", "# ff0101 is one\n\n \t> ", "#\n#\n", "\n\r\n"],
)
@pytest.mark.parametrize("upper", [False, True])
def test_packets_in_hex_lines(path: Path, before: str, upper: bool) -> None:
    digits = PACKET.hex(" ")
    text = before + (digits.upper() if upper else digits)
    form, (packet,) = read(path, text.encode())
    assert form is Form.UDX
    direction = OUT if ">" in before else IN
    assert packet == Frame(1, None, direction, PACKET, len(before))


@pytest.mark.parametrize("text", ["00ff01", "ff00", "ff", "# ff01", "ff 0 2 01", "> ff\n01", ""])
def test_what_does_not_begin_as_a_packet_is_a_frame(path: Path, text: str) -> None:
    assert read(path, text.encode())[0] is Form.HEX


def test_captures_of_a_network(path: Path) -> None:
    writer = PcapWriter(path)
    writer.tap(("::1", 1), ("::1", 2), PACKET)
    writer.close()
    with open_recording(str(path), None) as recording:
        (datagram,) = recording.entries
    assert recording.form is Form.PCAP
    assert isinstance(datagram, Datagram)
    assert datagram.data == PACKET
    assert read(path, PCAPNG) == (Form.PCAP, [])


@pytest.mark.parametrize("form", Form)
def test_only_frames_are_frames(path: Path, form: Form) -> None:
    path.write_bytes(b"")
    with open_recording(str(path), form) as recording:
        if form in (Form.HEX, Form.RAW, Form.CAPTURE):
            assert list(recording.frames()) == []
        else:
            reason = f"expected a file of frames, got UDX packets in a {form.value} file"
            with pytest.raises(Failure, match=reason) as caught:
                recording.frames()
            assert caught.value.code is Exit.USAGE


def test_the_form_can_be_said(path: Path) -> None:
    assert read(path, b"646", Form.RAW)[0] is Form.RAW
    assert read(path, b"\x00", Form.HEX)[0] is Form.HEX
    form, (problem,) = read(path, b"0001", Form.CAPTURE)
    assert form is Form.CAPTURE
    assert isinstance(problem, Problem)


@pytest.mark.parametrize("form", [None, *Form])
def test_an_empty_file_holds_nothing(path: Path, form: Form | None) -> None:
    assert read(path, b"", form)[1] == []


async def test_a_capture(path: Path) -> None:
    report = Recorder()
    left, right = memory_pair()
    with recorder(path, report) as carrier:
        carried = carrier(left)
        peer = RawPeer(right)
        RawPeer(carried)
        carried.write(b"\x01\x00")
        await peer.wait_frames(1)
    assert report.complaints == []
    with open_recording(str(path), None) as recording:
        _, frame = recording.entries
    assert recording.form is Form.CAPTURE
    assert isinstance(frame, Frame)
    assert frame.data == b"\x01\x00"


def test_what_cannot_be_read(path: Path) -> None:
    with pytest.raises(Failure, match="No such file") as caught, open_recording(str(path), None):
        pass
    assert caught.value.code is Exit.USAGE


def test_what_cannot_be_recorded_to(path: Path) -> None:
    """Neither what is there, nor where there is nothing."""

    def begin(path: Path) -> None:
        with recorder(path, Recorder()):
            pass

    with pytest.raises(Failure, match="No such file"):
        begin(path / "below")
    with recorder(path, Recorder()), pytest.raises(Failure, match="another process"):
        begin(path)
    path.write_text("mine")
    with pytest.raises(Failure, match="expected a new file or an empty one"):
        begin(path)


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Piped:
        buffer = io.BufferedReader(io.BytesIO(b"0001"))

    monkeypatch.setattr("sys.stdin", Piped())
    with open_recording("-", None) as recording:
        assert isinstance(recording, Recording)
        assert list(recording.entries) == [Frame(1, None, IN, b"\x00\x01", 0)]
