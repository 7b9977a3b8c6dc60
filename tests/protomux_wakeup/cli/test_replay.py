from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from protomux import Protomux
from protomux.dissect import (
    CaptureWriter,
    Direction,
    Entry,
    Frame,
    Problem,
    RecordedStream,
    StreamEnd,
    StreamStart,
    read_capture,
)
from protomux.frames import close_body, encode_batch, encode_frame, open_body
from protomux.streams import memory_pair
from protomux_wakeup import Announced, LookedUp, Wakeup, Writer, messages
from protomux_wakeup.capability import Capability
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form
from protomux_wakeup.cli.replay import ReplayedStream, replay
from tests.raw_peer import RawPeer
from tests.ticking import ticks

from .recorder import LIMIT, Recorder

IN, OUT = Direction.IN, Direction.OUT
CAPABILITY = b"c" * 32
KEY = b"k" * 32
HASH = b"h" * 64


def start(stream: int = 1) -> StreamStart:
    return StreamStart(stream, 0.0, False, HASH, KEY)


def came(data: bytes, stream: int = 1) -> Frame:
    return Frame(stream, 0.0, IN, data, 0)


def opened(capability: bytes = CAPABILITY, *, is_right: bool = True) -> bytes:
    """Return the open of an initiator who knows the capability, or pretends to."""
    secret = Capability(capability)
    proof = secret.prove(True, HASH) if is_right else bytes(32)
    handshake = messages.handshake.encode(messages.Handshake(0, proof, True))
    return encode_frame(0, open_body(1, "wakeup", secret.id, handshake))


ANNOUNCE = encode_frame(1, b"\x01" + messages.announce.encode([Writer(KEY, 5)]))
LOOKUP = encode_frame(1, b"\x00" + messages.lookup.encode(messages.Lookup()))


async def replayed(
    *entries: Entry | Problem,
    capability: bytes | None = CAPABILITY,
    only: int | None = None,
    form: Form = Form.CAPTURE,
) -> Recorder:
    report = Recorder()
    assert await replay(report, form, entries, capability, only) is Exit.DONE
    return report


async def fails(
    *entries: Entry | Problem, only: int | None = None, capability: bytes | None = CAPABILITY
) -> tuple[Recorder, Failure]:
    report = Recorder()
    with pytest.raises(Failure) as caught:
        await replay(report, Form.CAPTURE, entries, capability, only)
    return report, caught.value


async def test_what_came_in_happens_again() -> None:
    report = await replayed(
        start(), came(opened()), came(LOOKUP), came(ANNOUNCE), StreamEnd(1, 1.0, None)
    )
    assert report.events == [
        "stream_started",
        "frame_received",
        "peer_added",
        "peer_active",
        "frame_sent",
        "frame_received",
        "lookup_received",
        "frame_received",
        "announce_received",
        "stream_ended",
        "peer_inactive",
        "peer_removed",
    ]
    assert report.complaints == []
    told = await report.heard("announce_received")
    assert told.writers == [Writer(KEY, 5)]
    assert told.fields["peer"] == KEY.hex()
    sent = await report.heard("frame_sent")
    assert sent.text.startswith('──▶ open 1 "wakeup"')
    assert (await report.heard("frame_received", 3)).text == "◀── 1: announce of 1 log"


@pytest.mark.parametrize("capability", [None, b"d" * 32])
async def test_a_topic_that_is_not_here(capability: bytes | None) -> None:
    report = await replayed(start(), came(opened()), came(LOOKUP), capability=capability)
    assert (await report.heard("topic_unknown")).fields["peer"] == KEY.hex()
    said = " ".join(str(line.fields.get("summary")) for line in report.lines)
    assert "reject 1" in said
    assert "lookup_received" not in report.events


async def test_a_proof_that_is_wrong_stays_so() -> None:
    report = await replayed(start(), came(opened(is_right=False)), came(LOOKUP))
    assert "peer_added" not in report.events
    assert "lookup_received" not in report.events


async def test_what_ends_the_stream_is_a_failure() -> None:
    report, failure = await fails(
        start(), came(opened()), came(b"\x01\x00\x01"), came(LOOKUP), StreamEnd(1, 1.0, "too late")
    )
    assert failure.code is Exit.FAILED
    assert str(failure).startswith("stream 1, frame 2 of those that came in: EncodingError: ")
    destroyed = await report.heard("stream_destroyed")
    assert destroyed.fields["number"] == 2
    assert report.events.count("frame_received") == 2
    wrong = await report.heard("frame_received", 2)
    assert wrong.text == "◀── wrong at byte 3: expected 32 bytes of hash, got 0"


async def test_streams_are_apart_from_each_other() -> None:
    entries: list[Entry | Problem] = [
        start(1),
        start(2),
        came(opened(), 2),
        came(b"\x00\x02\x07", 1),
        came(LOOKUP, 2),
    ]
    report, failure = await fails(*entries)
    assert str(failure).startswith("stream 1, frame 1 of")
    assert "ProtocolError" in str(failure)
    assert "lookup_received" in report.events
    report = await replayed(*entries, only=2)
    assert "lookup_received" in report.events
    assert {line.fields["stream"] for line in report.lines if "stream" in line.fields} == {2}


async def test_a_stream_that_is_not_there() -> None:
    _, failure = await fails(start(1), came(opened()), only=3)
    assert failure.code is Exit.USAGE
    assert "expected a stream that is in the recording, got 3" in str(failure)


async def test_frames_alone_are_those_of_an_unknown_initiator() -> None:
    report = await replayed(came(opened()), capability=None, form=Form.HEX)
    assert report.events == ["frame_received", "topic_unknown", "frame_sent"]
    assert report.complaints == []
    report = await replayed(came(opened()), Frame(1, None, OUT, b"\x00", 0), form=Form.RAW)
    assert "peer_added" not in report.events
    assert [complaint.kind for complaint in report.complaints] == ["warning"]
    assert "a raw file tells no handshake hash" in report.messages[0]


async def test_a_damaged_recording_is_replayed_as_far_as_it_goes() -> None:
    report = Recorder()
    entries: list[Entry | Problem] = [start(), came(opened()), Problem(77, "torn")]
    assert await replay(report, Form.CAPTURE, entries, CAPABILITY) is Exit.FAILED
    assert "peer_removed" in report.events
    assert report.messages == ["capture file, byte 77: torn"]


async def test_a_number_that_begins_again_is_another_stream() -> None:
    report = await replayed(start(), came(opened()), start(), came(opened()))
    assert report.events.count("peer_added") == 2
    assert report.events.count("peer_removed") == 2


async def test_what_a_mux_does_not_want_to_read_is_left() -> None:
    """Messages for a channel whose open is not answered yet: the hook takes its time."""
    report = Recorder()
    big = encode_batch([(1, b"\x01" + bytes(40_000))] * 2)
    stream = ReplayedStream(start(), lambda frame: report.say("frame_sent", frame.hex()))
    mux = Protomux.of(stream)
    held = asyncio.Event()

    async def pair(id: bytes | None) -> None:
        await held.wait()

    mux.pair("wakeup", callback=pair)
    for frame in (opened(), big, LOOKUP, LOOKUP):
        stream.feed(frame)
    await ticks()
    assert stream.unread == 2
    held.set()
    await ticks()
    assert stream.unread == 0
    mux.stream.close()
    await stream.wait_closed()
    assert stream.is_gone
    assert stream.error is None
    assert stream.write(b"") is False


async def test_a_frame_that_takes_many_turns() -> None:
    """A mux lets the loop go on in between; the next frame waits for the end of this one."""
    count = 2000
    many = encode_batch([(1, LOOKUP[1:])] * count)
    report = await replayed(start(), came(opened()), came(many), came(ANNOUNCE))
    happened = [event for event in report.events if event.endswith("_received")]
    assert happened == [
        "frame_received",
        "frame_received",
        *["lookup_received"] * count,
        "frame_received",
        "announce_received",
    ]


async def test_a_conversation_is_replayed_from_its_capture(tmp_path: Path) -> None:
    """The hooks are called as they were when it was recorded."""
    path = tmp_path / "capture"
    capture = CaptureWriter(path)
    left, right = memory_pair()
    recorded = RecordedStream(left, capture)
    host, guest = Wakeup(), Wakeup()
    session = host.session(CAPABILITY)
    events = session.events()
    host.add_stream(recorded)
    peer = guest.session(CAPABILITY)
    guest.add_stream(right)
    peer.broadcast_lookup()
    peer.broadcast_announce([Writer(KEY, 9)])
    seen: list[str] = []

    async def see(events: AsyncIterator[object]) -> None:
        async for event in events:
            seen.append(type(event).__name__)
            if isinstance(event, LookedUp):
                peer.broadcast_announce([Writer(KEY, 9)])
            if isinstance(event, Announced):
                right.close()
                left.close()
                return

    async with asyncio.timeout(LIMIT):
        peer.active()
        await ticks()
        peer.broadcast_lookup()
        await see(events)
        await recorded.wait_closed()
    capture.close()
    entries = read_all(path)
    report = await replayed(*entries)
    shown = [event for event in report.events if "frame" not in event and "stream" not in event]
    names = {"peer_added": "PeerAdded", "peer_active": "PeerActive", "lookup_received": "LookedUp"}
    assert [names.get(event, "Announced") for event in shown][: len(seen)] == seen
    assert report.events[-3:] == ["stream_ended", "peer_inactive", "peer_removed"]


def read_all(path: Path) -> Sequence[Entry | Problem]:
    with path.open("rb") as file:
        return list(read_capture(file))


async def test_a_raw_peer_needs_no_reason_to_leave() -> None:
    stream = ReplayedStream(start(), lambda frame: None)
    receiver = RawPeer(stream)
    stream.feed(encode_frame(0, close_body(1)))
    assert await receiver.wait_frames(1) == [b"\x00\x03\x01"]
    stream.abort(ConnectionError("enough"))
    await receiver.wait_lost()
    assert str(receiver.error) == "enough"
