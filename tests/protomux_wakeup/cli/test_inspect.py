from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from protomux.dissect import Conversation, Direction, Entry, Frame, Problem, StreamEnd, StreamStart
from protomux.frames import close_body, encode_batch, encode_frame, open_body, reject_body
from protomux_wakeup import messages
from protomux_wakeup.cli.anatomy import brief, outline, tree_fields
from protomux_wakeup.cli.inspect import inspect
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form, Recording

from .recorder import Recorder

IN, OUT = Direction.IN, Direction.OUT
TOPIC, PROOF, KEY = b"\xaa" * 32, b"\xbb" * 32, b"\xcc" * 32
HANDSHAKE = messages.handshake.encode(messages.Handshake(0, PROOF, True))
OPEN = encode_frame(0, open_body(1, "wakeup", TOPIC, HANDSHAKE))
ANNOUNCE = encode_frame(1, b"\x01" + messages.announce.encode([messages.Writer(KEY, 5)]))
LOOKUP = encode_frame(1, b"\x00\x00")


def frame(data: bytes, direction: Direction = IN, stream: int = 1) -> Frame:
    return Frame(stream, 0.25, direction, data, 7)


def start(stream: int) -> StreamStart:
    return StreamStart(stream, 0.0, True, b"h" * 64, KEY)


def inspected(*entries: Entry | Problem) -> tuple[Recorder, Exit]:
    report = Recorder()
    return report, inspect(report, Recording(Form.CAPTURE, iter(entries)))


def outlines(*frames: bytes) -> list[str]:
    conversation = Conversation()
    found = [conversation.read(IN, each) for each in frames]
    return list(outline(found[-1]))


def briefs(*frames: bytes) -> str:
    conversation = Conversation()
    found = [conversation.read(IN, each) for each in frames]
    return brief(found[-1])


def test_a_tree_for_people() -> None:
    assert outlines(OPEN, ANNOUNCE) == [
        " 0..36  frame",
        " 0..1     channel 1",
        " 1..2     type 1",
        " 2..36    announce",
        " 2..3       count 1",
        " 3..36      writer",
        f" 3..35        key {KEY.hex()}",
        "35..36        length 5",
    ]


def test_a_tree_that_breaks_off() -> None:
    assert outlines(OPEN, ANNOUNCE[:20]) == [
        " 0..20  frame",
        " 0..1     channel 1",
        " 1..2     type 1",
        " 2..20    announce …",
        " 2..3       count 1",
        " 3..20      writer …",
        " 3..20        key …",
        "! byte 20: expected 32 bytes of key, got 17",
    ]


def test_a_tree_that_is_too_long_for_people() -> None:
    many = encode_batch([(1, b"\x05")] * 1000 + [(0, close_body(1))])[:-1]
    shown = outlines(many)
    parts = len(list(Conversation().read(IN, many).root.walk()))
    assert shown[1000].split()[1:] == ["entry", "…"]
    assert shown[1001:] == [
        f"… {parts - 1001} more parts, which --json shows",
        "! byte 2007: expected 2 bytes of a batched message, got 1",
    ]


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", '""'),
        (b"\x01\x02", "0102"),
        (bytes(33), "00" * 32 + "… (33 bytes)"),
    ],
)
def test_bytes_for_people(payload: bytes, shown: str) -> None:
    assert outlines(encode_frame(3, b"\x00" + payload))[-1].endswith(f"payload {shown}")


def test_text_for_people_does_not_move_the_cursor() -> None:
    name = "\x1b[2J\n" + "x" * 40
    line = outlines(encode_frame(0, open_body(1, name, None, b"")))[5]
    assert line.endswith('protocol "\\u001b[2J\\n' + "x" * 27 + '"… (45 characters)')
    assert outlines(encode_frame(0, open_body(1, name, None, b"")))[6].endswith("id -")


def test_a_tree_for_scripts() -> None:
    found = Conversation().read(IN, OPEN[:60])
    tree: Any = tree_fields(found.root)
    opened = tree["children"][2]
    assert [part["name"] for part in opened["children"]] == [
        "channel",
        "protocol",
        "id",
        "handshake",
    ]
    assert opened["children"][2] == {"name": "id", "start": 10, "end": 43, "value": TOPIC.hex()}
    assert opened["children"][3]["whole"] is False
    assert opened["children"][3]["children"][-1] == {
        "name": "capability",
        "start": 44,
        "end": 60,
        "whole": False,
    }


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([OPEN], 'open 1 "wakeup" aaaaaaaaaaaa…'),
        ([encode_frame(0, open_body(1, "chat", None, b""))], 'open 1 "chat"'),
        ([OPEN, ANNOUNCE], "1: announce of 1 log"),
        ([OPEN, LOOKUP], "1: lookup"),
        ([OPEN, b"\x01\x02\x00"], "1: inactive"),
        ([OPEN, b"\x01\x02\x01"], "1: active"),
        ([LOOKUP], "1: type 0, 1 byte"),
        ([encode_frame(0, reject_body(2))], "reject 2"),
        ([encode_batch([(0, close_body(3)), (1, b"\x05ab")])], "close 3, 1: type 5, 2 bytes"),
        ([encode_batch([(1, b"\x05")] * 9)], ", ".join(["1: type 5, 0 bytes"] * 4) + ", …"),
        ([b""], "empty"),
        ([b"\x00\x00\x01"], "a batch of nothing"),
        ([b"\x00\x07"], "control 7"),
        ([b"\x00"], "wrong at byte 1: expected 1 byte of type, got 0"),
        ([b"\x00\x02"], "wrong at byte 2: expected 1 byte of channel, got 0"),
    ],
)
def test_a_frame_in_one_line(frames: Sequence[bytes], text: str) -> None:
    assert briefs(*frames) == text


def test_frames_of_streams() -> None:
    report, code = inspected(
        start(1),
        start(2),
        frame(OPEN),
        frame(LOOKUP, stream=2),
        frame(LOOKUP, OUT),
        frame(LOOKUP),
        StreamEnd(1, 1.5, None),
        start(1),
        frame(LOOKUP),
        StreamEnd(1, 2.5, "lost \x1b"),
    )
    assert code is Exit.DONE
    assert report.complaints == []
    assert [line.event for line in report.lines] == [
        *["stream_started"] * 2,
        *["frame"] * 4,
        "stream_ended",
        "stream_started",
        "frame",
        "stream_ended",
    ]
    found = [line for line in report.lines if line.event == "frame"]
    assert [line.details[3].split()[1] for line in found[1:]] == [
        "payload",  # another stream
        "payload",  # the other side
        "lookup",
        "payload",  # a new stream of that number
    ]
    assert found[0].fields["problem"] is None
    assert found[0].fields["direction"] == "in"
    assert found[2].fields["frame"] == LOOKUP.hex()
    assert found[3].text == "◀── 3 bytes, stream 1, 0.250000 s, at byte 7 of the file"
    assert report.lines[-1].text == "1, at 2.500000 s: 'lost \\x1b'"
    assert report.lines[-1].fields["error"] == "lost \x1b"


def test_a_wrong_frame_is_a_failure() -> None:
    report = Recorder()
    entries: list[Entry | Problem] = [frame(OPEN), frame(b"\x01\x00\x01"), frame(LOOKUP)]
    with pytest.raises(Failure, match="1 of 3 frames is wrong") as caught:
        inspect(report, Recording(Form.HEX, iter(entries)))
    assert caught.value.code is Exit.FAILED
    assert report.lines[1].fields["problem"] == {
        "offset": 3,
        "reason": "expected 32 bytes of hash, got 0",
    }
    assert report.lines[1].details[-1] == "! byte 3: expected 32 bytes of hash, got 0"


def test_a_wrong_file_is_one_too_after_what_is_right_in_it() -> None:
    report, code = inspected(frame(OPEN), Problem(9, "torn"))
    assert code is Exit.FAILED
    assert report.events == ["frame"]
    assert [tuple(complaint) for complaint in report.complaints] == [
        ("error", "capture file, byte 9: torn", {"offset": 9, "reason": "torn"})
    ]


def test_it_stops_when_nobody_reads_any_more() -> None:
    report = Recorder()

    def entries() -> Any:
        yield frame(OPEN)
        report.lost = BrokenPipeError()
        yield frame(OPEN)
        raise AssertionError("read on")

    assert inspect(report, Recording(Form.RAW, entries())) is Exit.DONE
    assert report.events == ["frame"]


def test_a_frame_of_a_file_without_times() -> None:
    report, _ = inspected(Frame(1, None, OUT, LOOKUP, 3))
    assert report.lines[0].text == "──▶ 3 bytes, at byte 3 of the file"
    assert report.lines[0].fields["at"] is None
