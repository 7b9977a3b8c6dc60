"""A UDX stream as an asyncio.Transport, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Any

import pytest

from protomux import LimitExceeded, StreamClosed
from protomux.udx import create_socket, transport
from protomux.udx.stream import WINDOW, Life
from tests.protomux.udx.protocol import LIMIT, Log, socket_pair, stream_pair
from tests.ticking import until

DATA = Random(1).randbytes(3_000_000)


async def write_all(log: Log, data: bytes) -> None:
    for start in range(0, len(data), 60_000):
        async with asyncio.timeout(LIMIT):
            await log.writable.wait()
        log.transport.write(data[start : start + 60_000])


@pytest.mark.parametrize("segments", [True, False])
async def test_bytes_go_both_ways_at_once(segments: bool) -> None:
    async with stream_pair() as ends:
        if not segments:
            for socket in ends.sockets:
                socket._datagrams._sends_segments = False
        await asyncio.gather(write_all(ends.at_left, DATA), write_all(ends.at_right, DATA[::-1]))
        ends.left.write_eof()
        ends.right.write_eof()
        await ends.at_left.has("eof")
        await ends.at_right.has("eof")
        assert ends.at_right.data == DATA
        assert ends.at_left.data == DATA[::-1]
        assert "lost" not in ends.at_left.calls  # it may still be asked for its peer
        ends.left.close()
        await ends.at_left.has("lost")
        assert ends.at_left.error is None


async def test_a_buffered_protocol_gets_its_buffers_filled() -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(1000)
            self.data = bytearray()
            self.done = asyncio.Event()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.data += self.buffer[:nbytes]

        def eof_received(self) -> None:
            self.done.set()

    async with socket_pair() as (left, right):
        taker, log = Buffered(), Log()
        left.create_stream(1, taker).connect(2, *right.address)
        stream = right.create_stream(2, log)
        stream.connect(1, *left.address)
        stream.write(DATA[:100_001])
        stream.write_eof()
        async with asyncio.timeout(LIMIT):
            await taker.done.wait()
        assert taker.data == DATA[:100_001]
        await log.has("eof")  # as it did not keep the stream open


async def test_a_reader_that_pauses_holds_the_writer_up() -> None:
    async with stream_pair() as ends:
        ends.right.pause_reading()
        assert not ends.right.is_reading()
        ends.left.write(bytes(WINDOW + 1_000_000))
        assert ends.at_left.calls[-1] == "paused"
        stream = ends.right.get_extra_info("udx")
        await until(lambda: stream.window < 1500)
        assert not ends.at_right.data
        assert ends.left.get_write_buffer_size() >= 1_000_000
        ends.right.resume_reading()
        await ends.at_left.has("resumed")
        await ends.at_right.has(size=WINDOW + 1_000_000)
        assert stream.window == WINDOW


async def test_the_end_waits_for_a_reader_that_pauses() -> None:
    async with stream_pair() as ends:
        ends.right.pause_reading()
        ends.left.write(b"all")
        ends.left.close()
        await ends.at_left.has("lost")
        assert ends.at_right.calls == ["made"]
        ends.right.resume_reading()
        await ends.at_right.has("eof")
        assert ends.at_right.data == b"all"


async def test_one_half_ends_and_the_other_goes_on() -> None:
    async with stream_pair() as ends:
        ends.left.write(b"question")
        ends.left.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            ends.left.write(b"more")
        await ends.at_right.has("eof")
        ends.right.write(b"answer")
        ends.right.close()
        await ends.at_left.has("eof")
        assert ends.at_left.data == b"answer"
        await ends.at_right.has("lost")
        assert ends.at_right.error is None


async def test_a_protocol_that_does_not_stay_open_answers_the_end() -> None:
    async with stream_pair(at_right=Log(stays_open=False)) as ends:
        ends.left.close()
        ends.left.write(b"dropped")
        await ends.at_right.has("lost")
        await ends.at_left.has("lost")
        assert (ends.at_left.error, ends.at_right.error) == (None, None)
        assert ends.at_right.calls == ["made", "eof", "lost"]
        assert ends.at_right.data == b""


async def test_close_sends_all_that_was_written() -> None:
    async with stream_pair() as ends:
        ends.left.write(DATA)
        ends.left.close()
        ends.left.close()
        assert ends.left.is_closing()
        await ends.at_left.has("lost")
        assert ends.at_right.data == DATA


async def test_abort_tells_the_peer() -> None:
    async with stream_pair() as ends:
        ends.left.write(b"lost")
        ends.left.abort()
        ends.left.abort()
        await ends.at_left.has("lost")
        assert ends.at_left.error is None
        await ends.at_right.has("lost")
        assert isinstance(ends.at_right.error, StreamClosed)
        async with asyncio.timeout(LIMIT):
            await ends.left.wait_released()
            await ends.right.wait_released()
        ends.sockets[0].create_stream(0)  # its number is free


async def test_a_stream_that_nobody_connected_closes_without_a_word() -> None:
    async with socket_pair() as (socket, _):
        for end in (transport.UdxTransport.close, transport.UdxTransport.abort):
            log = Log()
            stream = socket.create_stream(1, log)
            end(stream)
            async with asyncio.timeout(LIMIT):
                await stream.wait_released()
            assert log.calls == []


async def test_a_stream_closed_in_the_tick_of_connect_is_made_and_lost() -> None:
    async with socket_pair() as (left, right):
        log = Log()
        stream = left.create_stream(1, log)
        stream.connect(2, *right.address)
        stream.abort()
        await log.has("lost")
        assert log.calls == ["made", "lost"]


async def test_who_goes_on_sending_after_our_close_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "CLOSE_TIME", 0.1)
    async with stream_pair() as ends:
        ends.left.close()
        await ends.at_left.has("lost")
        ends.right.write(b"nobody takes this")
        await ends.at_right.has("lost")
        assert isinstance(ends.at_right.error, StreamClosed)
        assert ends.at_left.data == b""


@pytest.mark.parametrize("place", ["data_received", "connection_made", "message_received"])
async def test_a_protocol_that_fails_loses_its_stream_alone(place: str) -> None:
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    log = Log()
    setattr(log, place, fail)
    async with socket_pair() as (left, right):
        other = Log()
        stream = left.create_stream(1, log)
        stream.connect(2, *right.address)
        peer = right.create_stream(2, other)
        peer.connect(1, *left.address)
        await other.has("made")
        peer.send_message(b"message")
        peer.write(b"data")
        await other.has("lost")
        assert isinstance(other.error, StreamClosed)
        assert [str(context["exception"]) for context in seen] == ["no"]
        assert "lost" in log.calls


async def test_messages_come_beside_the_bytes() -> None:
    async with stream_pair() as ends:
        ends.right.pause_reading()
        largest = ends.left.max_message_size
        ends.left.write(b"bytes")
        for message in (b"", b"one", bytes(largest)):
            ends.left.send_message(message)
        await ends.at_right.has(messages=3)
        assert ends.at_right.messages == [b"", b"one", bytes(largest)]
        assert ends.at_right.data == b""
        with pytest.raises(LimitExceeded, match=f"at most {largest} bytes, got {largest + 1}"):
            ends.left.send_message(bytes(largest + 1))


async def test_messages_for_a_protocol_without_them_are_dropped() -> None:
    class Plain(asyncio.Protocol):
        pass

    async with socket_pair() as (left, right):
        log = Log()
        left.create_stream(1, Plain()).connect(2, *right.address)
        stream = right.create_stream(2, log)
        stream.send_message(b"before the connection")
        stream.connect(1, *left.address)
        stream.send_message(b"message")
        stream.close()
        await log.has("lost")
        assert log.error is None


async def test_a_stream_goes_on_by_another_socket() -> None:
    async with stream_pair() as ends, await create_socket("127.0.0.1") as other:
        half = len(DATA) // 2
        host, port = ends.sockets[1].address
        ends.left.write(DATA[:half])
        await ends.at_right.has(size=100_000)
        other.create_stream(0)
        with pytest.raises(ValueError, match="without a stream 0"):
            ends.left.change_remote(1, host, port, socket=other)
        other._transports.clear()
        ends.left.change_remote(1, host, port, socket=other)
        ends.right.change_remote(0, *other.address)
        assert ends.right.get_extra_info("peername") == other.address
        ends.left.write(DATA[half:])
        ends.left.close()
        await ends.at_right.has("eof")
        assert ends.at_right.data == DATA


async def test_what_a_stream_tells_of_itself() -> None:
    async with stream_pair() as ends:
        left, (socket, other) = ends.left, ends.sockets
        assert left.get_extra_info("peername") == other.address
        assert left.get_extra_info("sockname") == socket.address
        assert left.get_extra_info("socket").getsockname() == socket.address
        assert left.get_extra_info("cipher", "none") == "none"
        assert left.get_extra_info("udx").life is Life.OPEN
        assert left.get_protocol() is ends.at_left
        assert left.can_write_eof()
        assert "0 to 1 open" in repr(left)


async def test_limits_of_what_waits_to_be_written() -> None:
    async with stream_pair() as ends:
        left = ends.left
        assert left.get_write_buffer_limits() == (64 * 1024, 256 * 1024)
        left.set_write_buffer_limits(high=1000)
        assert left.get_write_buffer_limits() == (250, 1000)
        left.set_write_buffer_limits(low=1000)
        assert left.get_write_buffer_limits() == (1000, 4000)
        with pytest.raises(ValueError, match=r"high \(1\) >= low \(2\)"):
            left.set_write_buffer_limits(high=1, low=2)
        left.writelines([bytes(4000), b"", b"1"])
        assert ends.at_left.calls == ["made", "paused"]
        await ends.at_left.has("resumed")
        await ends.at_right.has(size=4001)


async def test_what_is_written_before_the_connection_pauses_after_it() -> None:
    async with socket_pair() as (left, right):
        log = Log()
        stream = left.create_stream(1, log)
        stream.write(bytes(300_000))
        assert log.calls == []
        stream.connect(2, *right.address)
        await log.has("paused")
        assert log.calls == ["made", "paused"]


async def test_a_stream_that_closed_in_order_lets_another_have_its_number() -> None:
    async with stream_pair() as ends:
        for end in (ends.left, ends.right):
            end.close()
        await ends.at_left.has("lost")
        await ends.at_right.has("lost")
        socket = ends.sockets[0]
        log = Log()
        await until(lambda: ends.left.get_extra_info("udx").is_replaceable)
        socket.create_stream(0, log)
        with pytest.raises(ValueError, match="no stream of this socket has"):
            socket.create_stream(0)
        async with asyncio.timeout(LIMIT):
            await ends.left.wait_released()


async def test_wrong_ways_to_connect() -> None:
    async with socket_pair() as (socket, _):
        stream = socket.create_stream(1)
        with pytest.raises(RuntimeError, match="a protocol to be set"):
            stream.connect(2, "127.0.0.1", 1)
        stream.set_protocol(Log())
        for wrong in (-1, 2**32):
            with pytest.raises(ValueError, match=f"remote_id from 0 to .*, got {wrong}"):
                stream.connect(wrong, "127.0.0.1", 1)
        for host in ("localhost", "::1", "", "1.2.3", "256.0.0.1", "\udcff"):
            with pytest.raises(ValueError, match="expected an IP address"):
                stream.connect(2, host, 1)
        for port in (0, 65536):
            with pytest.raises(ValueError, match=f"port from 1 to 65535, got {port}"):
                stream.connect(2, "127.0.0.1", port)
        with pytest.raises(RuntimeError, match="that is connected"):
            stream.change_remote(2, "127.0.0.1", 1)
        stream.connect(2, "127.0.0.1", 1)
        with pytest.raises(RuntimeError, match="not connected before"):
            stream.connect(2, "127.0.0.1", 1)


async def test_a_sign_of_life_keeps_the_path_open(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncio")
    async with stream_pair() as ends:
        seen = asyncio.Event()
        ends.sockets[1].tap = lambda source, destination, data: seen.set()
        with pytest.raises(ValueError, match="expected 0 seconds or more, got -1"):
            ends.left.set_keep_alive(-1)
        ends.left.set_keep_alive(0.05)
        async with asyncio.timeout(LIMIT):
            await seen.wait()


async def test_a_stream_that_moved_on_outlives_the_socket_it_left() -> None:
    async with stream_pair() as ends, await create_socket("127.0.0.1") as other:
        host, port = ends.sockets[1].address
        ends.left.change_remote(1, host, port, socket=other)
        ends.right.change_remote(0, *other.address)
        ends.sockets[0].close()
        ends.left.write(b"still here")
        await ends.at_right.has(size=10)
        ends.left.close()
        ends.right.close()
        await ends.at_left.has("lost")
        assert ends.at_left.error is None


async def test_what_a_peer_sent_before_its_end_is_not_lost_by_what_comes_after() -> None:
    async with stream_pair() as ends:
        ends.right.pause_reading()
        ends.left.write(DATA[:100_000])
        ends.left.close()
        await ends.at_left.has("lost")  # all was acknowledged
        ends.sockets[0].close()
        await until(lambda: ends.right.get_extra_info("udx").life is Life.CLOSED)
        assert ends.at_right.calls == ["made"]
        ends.right.resume_reading()
        await ends.at_right.has("lost")
        assert ends.at_right.calls == ["made", "eof", "lost"]
        assert ends.at_right.data == DATA[:100_000]
        assert isinstance(ends.at_right.error, StreamClosed)
