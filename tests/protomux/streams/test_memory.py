"""The pair of streams inside one process."""

from __future__ import annotations

import asyncio
import logging

import pytest

from protomux.errors import StreamClosed
from protomux.streams import memory_pair
from tests.raw_peer import RawPeer
from tests.ticking import ticks


class Receiver(RawPeer):
    """Notes as well when it is asked to wait."""

    def pause_writing(self) -> None:
        self.frames.append(b"pause")

    def resume_writing(self) -> None:
        self.frames.append(b"resume")


async def test_both_ends_share_what_two_peers_of_a_stream_share() -> None:
    a, b = memory_pair()
    assert (a.is_initiator, b.is_initiator) == (True, False)
    assert a.handshake_hash == b.handshake_hash
    assert len(a.handshake_hash or b"") == 64
    assert (a.public_key, a.remote_public_key) == (b.remote_public_key, b.public_key)
    assert a.is_open
    await a.wait_opened()
    assert memory_pair()[0].handshake_hash != a.handshake_hash


async def test_frames_wait_for_a_receiver_and_while_reading_is_paused() -> None:
    a, b = memory_pair()
    a.write(b"one")
    a.write(b"")
    await asyncio.sleep(0)
    peer = RawPeer(b)
    assert await peer.wait_frames(2) == [b"one", b""]
    b.pause_reading()
    a.write(b"two")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert peer.frames == []
    b.resume_reading()
    assert await peer.wait_frames(1) == [b"two"]


async def test_pausing_inside_a_frame_holds_the_next_one() -> None:
    a, b = memory_pair()
    frames = []

    class PausesAtOnce(RawPeer):
        def frame_received(self, frame: bytes) -> None:
            frames.append(frame)
            self.stream.pause_reading()

    PausesAtOnce(b)
    a.write(b"one")
    a.write(b"two")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert frames == [b"one"]


async def test_a_writer_waits_for_a_reader() -> None:
    a, b = memory_pair()
    writer, reader = Receiver(a), Receiver(b)
    b.pause_reading()
    assert a.write(bytes(64 * 1024))
    assert not a.write(b"x")
    assert not a.write(b"y")
    assert writer.frames == [b"pause"]
    b.resume_reading()
    await reader.wait_frames(3)
    assert await writer.wait_frames(2) == [b"pause", b"resume"]
    assert a.write(b"z")


async def test_writing_without_a_receiver_says_when_to_wait() -> None:
    a, b = memory_pair()
    assert not a.write(bytes(70_000))
    reader = RawPeer(b)
    await reader.wait_frames(1)
    assert a.write(b"x")


async def test_close_flushes_and_waits_for_the_other_end() -> None:
    a, b = memory_pair()
    one, two = RawPeer(a), RawPeer(b)
    b.pause_reading()
    a.write(b"first")
    a.close()
    a.close()
    assert a.is_closing
    a.write(b"still in the tick of the close")
    await ticks(2)
    assert a.write(b"too late") is False
    b.write(b"an answer")
    assert await one.wait_frames(1) == [b"an answer"]
    b.resume_reading()
    await a.wait_closed()
    await a.wait_closed()
    await b.wait_closed()
    assert two.frames == [b"first", b"still in the tick of the close"]
    assert one.is_lost
    assert two.is_lost
    assert a.error is b.error is None
    assert not a.is_open
    with pytest.raises(StreamClosed):
        await a.wait_opened()


async def test_both_ends_close_at_once() -> None:
    a, b = memory_pair()
    one, two = RawPeer(a), RawPeer(b)
    a.close()
    b.close()
    await a.wait_closed()
    await b.wait_closed()
    assert one.error is two.error is None


async def test_abort_ends_both_at_once() -> None:
    a, b = memory_pair()
    one, two = RawPeer(a), RawPeer(b)
    error = ValueError("of the application")
    a.write(b"lost")
    a.close()
    a.abort(error)
    a.abort(None)
    await one.wait_lost()
    await two.wait_lost()
    assert one.error is a.error is error
    assert isinstance(two.error, StreamClosed)
    assert two.frames == []
    assert b.write(b"x") is False
    b.abort()
    b.close()


async def test_a_receiver_that_comes_late_is_told_of_the_end() -> None:
    a, b = memory_pair()
    a.abort()
    await b.wait_closed()
    peer = RawPeer(b)
    await peer.wait_lost()
    assert isinstance(peer.error, StreamClosed)


async def test_a_receiver_that_raises_costs_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    a, b = memory_pair()

    class Raises(RawPeer):
        def frame_received(self, frame: bytes) -> None:
            raise ValueError("in frame_received")

        def connection_lost(self, error: Exception | None) -> None:
            raise ValueError("in connection_lost")

    Raises(b)
    a.write(b"x")
    with caplog.at_level(logging.ERROR, "protomux"):
        await b.wait_closed()
    assert isinstance(b.error, ValueError)
    assert "failed at its end" in caplog.text
    await a.wait_closed()


async def test_cancelling_a_wait_leaves_the_stream_alone() -> None:
    a, b = memory_pair()
    RawPeer(a)
    RawPeer(b)
    waiter = asyncio.create_task(a.wait_closed())
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert a.is_open
    a.close()
    await a.wait_closed()


async def test_what_was_written_waits_for_a_reader_that_closes_too() -> None:
    a, b = memory_pair()
    one, two = RawPeer(a), RawPeer(b)
    b.pause_reading()
    a.write(b"hello")
    a.close()
    b.close()
    await ticks()
    assert not two.is_lost
    b.resume_reading()
    await one.wait_lost()
    await two.wait_lost()
    assert two.frames == [b"hello"]
    assert a.error is b.error is None


async def test_ends_without_receivers_close() -> None:
    a, b = memory_pair()
    a.write(b"nobody")
    a.close()
    b.close()
    async with asyncio.timeout(5):
        await a.wait_closed()
        await b.wait_closed()
