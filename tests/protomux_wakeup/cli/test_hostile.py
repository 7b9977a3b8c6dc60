"""Files that nobody would have written: whatever is in them, there is a clear end."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.twins import ALL_CASES, CASES, mutated
from protomux.dissect import Direction, Entry, Frame, Problem, StreamStart
from protomux.dissect.network import udp_packet
from protomux_wakeup.cli.inspect import inspect
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form, open_recording
from protomux_wakeup.cli.replay import replay

from .recorder import Recorder

START = b"\x89PMUXCAP\x01\x00" + bytes(8)
PCAP_START = bytes.fromhex("d4c3b2a1 0200 0400") + bytes(8) + bytes.fromhex("00000400 65000000")
RANDOMS = st.randoms(use_true_random=False)
FRAMES = {case.name: case for case in CASES if case.name in ("frame", "batch")}


@pytest.mark.parametrize("form", Form)
@given(data=st.binary(), lines=st.text("0123456789abcdefg<># \n"), is_begun=st.booleans())
def test_any_file(form: Form, data: bytes, lines: str, is_begun: bool) -> None:
    if form in (Form.HEX, Form.UDX):
        data += lines.encode()
    if form is Form.CAPTURE and is_begun:
        data = START + len(data).to_bytes(4, "little") + data + b"\x00"
    if form is Form.PCAP and is_begun:
        sizes = len(data).to_bytes(4, "little") * 2
        data = PCAP_START + bytes(8) + sizes + data + b"\x00"
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        report = Recorder()
        with open_recording(file.name, form) as recording, suppress(Failure):
            code = inspect(report, recording)
            assert (code is Exit.DONE) is (report.complaints == [])


@given(random=RANDOMS, names=st.lists(st.sampled_from([*FRAMES]), max_size=4))
async def test_any_frames(random: Random, names: list[str]) -> None:
    frames = [mutated(random, FRAMES[name].encode(FRAMES[name].make(random))) for name in names]
    entries: list[Entry | Problem] = [
        StreamStart(1, 0.0, random.random() < 0.5, bytes(64), bytes(32)),
        *(Frame(1, 0.0, Direction.IN, frame, 0) for frame in frames),
    ]
    report = Recorder()
    with suppress(Failure):
        await replay(report, Form.CAPTURE, entries, b"c" * 32)
    assert report.events.count("frame_received") <= len(frames)
    assert report.complaints == []


@given(random=RANDOMS, link=st.sampled_from([0, 1, 101, 113, 276]), has_more=st.booleans())
def test_any_packets(random: Random, link: int, has_more: bool) -> None:
    """Packets that were right before something in them was changed, or in what is around them."""
    packet = next(case for case in ALL_CASES if case.name == "packet")
    datagram = mutated(random, packet.encode(packet.make(random)))
    data = mutated(random, udp_packet(("::1", 1), ("::1", 2), datagram))
    sizes = len(data).to_bytes(4, "little") + (len(data) + has_more).to_bytes(4, "little")
    start = PCAP_START[:-4] + link.to_bytes(4, "little")
    with tempfile.NamedTemporaryFile() as file:
        file.write(start + bytes(8) + sizes + data)
        file.flush()
        report = Recorder()
        with open_recording(file.name, None) as recording, suppress(Failure):
            assert recording.form is Form.PCAP
            code = inspect(report, recording)
            assert (code is Exit.DONE) is (report.complaints == [])
        assert len(report.lines + report.complaints) > 0
