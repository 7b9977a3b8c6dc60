from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from protomux import Protomux, encoding
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
from protomux.streams import (
    FramedStream,
    SecretStream,
    memory_pair,
    open_connection,
    start_server,
)
from protomux_wakeup import PeerAdded, Wakeup
from tests.golden.replay import RecordingStream
from tests.raw_peer import RawPeer
from tests.ticking import until

CAPABILITY = b"c" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "capture"


@pytest.fixture
def capture(path: Path) -> Iterator[CaptureWriter]:
    writer = CaptureWriter(path)
    yield writer
    writer.close()


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def entries_of(path: Path) -> list[Entry | Problem]:
    with path.open("rb") as file:
        return list(read_capture(file))


def frames_of(path: Path) -> list[tuple[Direction, bytes]]:
    return [(entry.direction, entry.data) for entry in entries_of(path) if isinstance(entry, Frame)]


async def test_a_mux_and_its_peer_on_a_recorded_stream(path: Path, capture: CaptureWriter) -> None:
    left, right = memory_pair()
    recorded = RecordedStream(left, capture)
    peer = RawPeer(right)
    mux = Protomux.of(recorded)
    assert recorded.receiver is mux
    assert Protomux.of(recorded) is mux
    heard: list[str] = []
    channel = mux.create_channel("chat", messages=[(encoding.string, lambda t, _: heard.append(t))])
    assert channel is not None
    channel.open()
    (sent,) = await peer.wait_frames(1)
    peer.open(1, "chat")
    peer.message(1, 0, encoding.string.encode("hello"))
    await until(lambda: heard == ["hello"])
    right.close()
    mux.stream.close()
    await recorded.wait_closed()
    start, *frames, end = entries_of(path)
    assert isinstance(start, StreamStart)
    assert left.handshake_hash is not None
    assert left.remote_public_key is not None
    assert start[2:] == (True, left.handshake_hash, left.remote_public_key)
    assert frames_of(path) == [
        (Direction.OUT, sent),
        (Direction.IN, b"\x00\x01\x01\x04chat\x00"),
        (Direction.IN, b"\x01\x00\x05hello"),
    ]
    assert len(frames) == 3
    assert isinstance(end, StreamEnd)
    assert end.error is None


async def test_flow_control_passes_through(capture: CaptureWriter) -> None:
    left, right = memory_pair()
    recorded = RecordedStream(left, capture)
    calls: list[str] = []

    class Receiver(RawPeer):
        def pause_writing(self) -> None:
            calls.append("pause")

        def resume_writing(self) -> None:
            calls.append("resume")

    own, peer = Receiver(recorded), RawPeer(right)
    right.pause_reading()
    assert recorded.write(b"x") is True
    assert recorded.write(bytes(100_000)) is False
    recorded.pause_reading()
    right.write(b"y")
    right.resume_reading()
    await peer.wait_frames(2)
    await until(lambda: calls == ["pause", "resume"])
    assert own.frames == []
    recorded.resume_reading()
    assert await own.wait_frames(1) == [b"y"]
    error = ConnectionError("enough")
    recorded.abort(error)
    await own.wait_lost()
    assert own.error is error


async def test_an_abort_is_in_the_capture(path: Path, capture: CaptureWriter) -> None:
    left, _right = memory_pair()
    recorded = RecordedStream(left, capture)
    RawPeer(recorded)
    recorded.abort(ConnectionError("enough"))
    await recorded.wait_closed()
    end = entries_of(path)[-1]
    assert isinstance(end, StreamEnd)
    assert end.error == "enough"
    recorded.write(b"late")
    recorded.set_receiver(RawPeer(memory_pair()[0]))
    await asyncio.sleep(0)
    assert entries_of(path)[-1] == end


async def test_what_a_stream_has_beside(capture: CaptureWriter) -> None:
    left, _ = memory_pair()
    recorded = RecordedStream(left, capture)
    assert recorded.public_key == left.public_key
    assert recorded.remote_public_key == left.remote_public_key
    assert "MemoryStream" in repr(recorded)
    await recorded.wait_opened()
    bare: FramedStream = RecordedStream(RecordingStream(True, bytes(64)), capture)
    assert not hasattr(bare, "wait_opened")
    RawPeer(left)
    with pytest.raises(ValueError, match="without a receiver"):
        RecordedStream(left, capture)


async def test_two_wakeups_over_tcp(path: Path, capture: CaptureWriter) -> None:
    """One records from before its stream is open."""
    arrived: asyncio.Future[SecretStream] = asyncio.get_running_loop().create_future()
    host, guest = Wakeup(), Wakeup()
    async with (
        asyncio.timeout(10),
        await start_server(arrived.set_result, "127.0.0.1", 0) as server,
    ):
        port = server.sockets[0].getsockname()[1]
        stream = await open_connection("127.0.0.1", port)
        recorded = RecordedStream(stream, capture)
        events = host.session(CAPABILITY).events()
        guest.session(CAPABILITY)
        guest.add_stream(recorded)
        host.add_stream(await arrived)
        assert isinstance(await anext(events), PeerAdded)
        assert guest.has_stream(recorded, CAPABILITY)
        for each in (stream, arrived.result()):
            each.close()
        await recorded.wait_closed()
    start, *_, end = entries_of(path)
    assert isinstance(start, StreamStart)
    assert start.handshake_hash == stream.handshake_hash
    assert isinstance(end, StreamEnd)
    assert {direction for direction, _ in frames_of(path)} == {Direction.IN, Direction.OUT}
    assert CAPABILITY not in bytes_of(path)


async def test_frames_written_before_the_stream_is_open(path: Path, capture: CaptureWriter) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        below = SecretStream(False)
        accepting = RecordedStream(below, capture)
        accepting.write(b"early")
        peer = RawPeer(accepting)
        assert entries_of(path) == []
        server = await loop.create_server(lambda: below, "127.0.0.1", 0)
        async with server:
            stream = await open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            stream.write(b"late")
            await peer.wait_frames(1)
            accepting.abort()
            await accepting.wait_closed()
            stream.abort()
            await stream.wait_closed()
    assert frames_of(path) == [(Direction.OUT, b"early"), (Direction.IN, b"late")]


async def test_a_stream_that_never_opens_leaves_nothing(path: Path, capture: CaptureWriter) -> None:
    recorded = RecordedStream(SecretStream(False), capture)
    peer = RawPeer(recorded)
    recorded.write(b"early")
    recorded.abort()
    await peer.wait_lost()
    assert bytes_of(path) == b""
