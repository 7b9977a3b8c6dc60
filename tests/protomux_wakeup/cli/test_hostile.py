"""Files that nobody would have written: whatever is in them, there is a clear end."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.twins import CASES, mutated
from protomux.dissect import Direction, Entry, Frame, Problem, StreamStart
from protomux_wakeup.cli.inspect import inspect
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form, open_recording
from protomux_wakeup.cli.replay import replay

from .recorder import Recorder

START = b"\x89PMUXCAP\x01\x00" + bytes(8)
RANDOMS = st.randoms(use_true_random=False)
FRAMES = {case.name: case for case in CASES if case.name in ("frame", "batch")}


@pytest.mark.parametrize("form", Form)
@given(data=st.binary(), lines=st.text("0123456789abcdefg<># \n"), is_begun=st.booleans())
def test_any_file(form: Form, data: bytes, lines: str, is_begun: bool) -> None:
    if form is Form.HEX:
        data += lines.encode()
    if form is Form.CAPTURE and is_begun:
        data = START + len(data).to_bytes(4, "little") + data + b"\x00"
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
