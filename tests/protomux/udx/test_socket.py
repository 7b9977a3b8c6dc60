"""A UDP socket that carries streams, and datagrams of others."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket as sockets
import sys
from pathlib import Path
from random import Random

import asyncio_dgram
import pytest

from protomux import StreamClosed
from protomux.udx import Address, create_socket
from protomux.udx.datagrams import Datagrams
from protomux.udx.packet import Packet, Type, encode_packet
from tests.protomux.udx.protocol import LIMIT, Log, socket_pair, stream_pair

WINDOW = 2**20


def has_ipv6() -> bool:
    try:
        with sockets.socket(sockets.AF_INET6, sockets.SOCK_DGRAM) as socket:
            socket.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


async def test_what_is_no_packet_goes_to_the_callback() -> None:
    seen: asyncio.Queue[tuple[bytes, Address]] = asyncio.Queue()

    def take(data: bytes, address: Address) -> None:
        seen.put_nowait((data, address))

    async with await create_socket("127.0.0.1", on_datagram=take) as socket:
        stranger = await asyncio_dgram.connect(socket.address)
        for data in (b"d1:ad2:id20:e", b"\xff\x02" + bytes(18), b"\xff\x01short"):
            await stranger.send(data)
            async with asyncio.timeout(LIMIT):
                assert await seen.get() == (data, stranger.sockname)
        socket.send(b"answer", stranger.sockname)
        async with asyncio.timeout(LIMIT):
            assert (await stranger.recv())[0] == b"answer"
        socket.send(b"", socket.address)
        async with asyncio.timeout(LIMIT):
            assert await seen.get() == (b"", socket.address)
        # One of a stream that is not here is a packet all the same.
        await stranger.send(encode_packet(Packet(Type.DATA, 7, WINDOW, 0, 0, (), b"x")))
        await stranger.send(b"last")
        async with asyncio.timeout(LIMIT):
            assert (await seen.get())[0] == b"last"
        socket.on_datagram = None
        await stranger.send(b"nobody")
        stranger.close()


async def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(data: bytes, address: Address) -> None:
        raise RuntimeError("no")

    async with stream_pair() as ends:
        ends.sockets[0].on_datagram = fail
        ends.sockets[1].send(b"x", ends.sockets[0].address)
        ends.right.write(b"data")
        await ends.at_left.has(size=4)
    assert "on_datagram failed" in caplog.text


async def test_packets_from_elsewhere_are_not_of_the_stream() -> None:
    async with stream_pair() as ends:
        stranger = await asyncio_dgram.connect(ends.sockets[0].address)
        for type in (Type.DATA, Type.MESSAGE, Type.DESTROY, Type.HEARTBEAT, Type.END, Type.SACK):
            for id in (0, 1, 2**32 - 1):
                payload = b"12345678"
                await stranger.send(encode_packet(Packet(type, id, 0, 0, 0, (), payload)))
        ends.right.write(b"data")
        await ends.at_left.has(size=4)
        assert ends.at_left.data == b"data"
        assert ends.at_left.calls == ["made"]
        assert not ends.at_left.messages
        assert ends.left.get_extra_info("udx").peer_window > 0
        stranger.close()


@pytest.mark.parametrize(
    ("left", "right", "name"),
    [
        pytest.param("::1", "::1", "::1", marks=needs_ipv6),
        pytest.param("::", "127.0.0.1", "127.0.0.1", marks=needs_ipv6),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
    ],
)
async def test_both_versions_of_ip(left: str, right: str, name: str) -> None:
    data = Random(2).randbytes(300_000)
    async with await create_socket(left) as one, await create_socket(right) as other:
        logs = Log(), Log()
        there, back = one.create_stream(1, logs[0]), other.create_stream(2, logs[1])
        there.connect(2, name, other.address[1])
        back.connect(1, name, one.address[1])
        for stream in (there, back):
            stream.write(data)
        for log in logs:
            await log.has(size=len(data))
            assert log.data == data
        stream = there.get_extra_info("udx")
        overhead = 48 if right == "::1" else 28
        assert there.max_message_size == stream.mtu.size - overhead - 20


async def test_many_streams_on_one_socket() -> None:
    count = 200
    async with socket_pair() as (left, right):
        logs = [(Log(), Log()) for _ in range(count)]
        for number, (one, other) in enumerate(logs):
            left.create_stream(number, one).connect(count - number, *right.address)
            right.create_stream(count - number, other).connect(number, *left.address)
        for number, (one, other) in enumerate(logs):
            await one.has("made")
            await other.has("made")
            one.transport.write(b"%d" % number * 1000)
            one.transport.close()
            other.transport.close()
        for one, other in logs:
            await other.has("lost")
            await one.has("lost")
            assert one.error is other.error is None


async def test_numbers_that_are_none_or_taken() -> None:
    async with await create_socket("127.0.0.1") as socket:
        for wrong in (-1, 2**32):
            with pytest.raises(ValueError, match=f"id from 0 to .*, got {wrong}"):
                socket.create_stream(wrong)
        for wrong in (0, 16_383, 2**32):
            with pytest.raises(ValueError, match=f"window from 16384 to .*, got {wrong}"):
                socket.create_stream(5, window=wrong)
        socket.create_stream(5)
        with pytest.raises(ValueError, match="no stream of this socket has, got 5"):
            socket.create_stream(5)
    with pytest.raises(StreamClosed, match="a socket that is open"):
        socket.create_stream(6)
    socket.send(b"dropped", ("127.0.0.1", 9))


async def test_closing_a_socket_destroys_its_streams() -> None:
    async with stream_pair() as ends:
        ends.left.write(b"lost, perhaps")
        socket = ends.sockets[0]
        socket.close()
        socket.close()
        async with asyncio.timeout(LIMIT):
            await socket.wait_closed()
            await ends.left.wait_released()
        assert ends.at_left.calls[-1] == "lost"
        assert str(ends.at_left.error) == "the socket was closed"
        await ends.at_right.has("lost")
        assert isinstance(ends.at_right.error, StreamClosed)
        ends.left.write(b"dropped")
        ends.left.abort()
        assert "closed" in repr(socket)


async def test_a_socket_may_close_after_its_last_stream() -> None:
    async with stream_pair() as ends:
        socket = ends.sockets[0]
        socket.close_when_idle()
        ends.left.write(b"all of it")
        ends.left.close()
        await ends.at_right.has("eof")
        assert ends.at_right.data == b"all of it"
        ends.right.abort()
        async with asyncio.timeout(LIMIT):
            await socket.wait_closed()


async def test_a_socket_that_was_to_close_after_its_last_stream_may_close_before() -> None:
    async with stream_pair() as ends:
        socket = ends.sockets[0]
        socket.close_when_idle()
        socket.close()
        async with asyncio.timeout(LIMIT):
            await socket.wait_closed()
        assert ends.at_left.calls[-1] == "lost"
        assert str(ends.at_left.error) == "the socket was closed"


async def test_a_tap_sees_the_packets_of_both_ways() -> None:
    async with stream_pair() as ends:
        seen: list[tuple[Address, Address, bytes]] = []
        left, right = ends.sockets
        left.tap = lambda *packet: seen.append(packet)
        ends.right.write(b"data")
        await ends.at_left.has(size=4)
        ends.left.write(b"more")
        await ends.at_right.has(size=4)
        assert (right.address, left.address) == seen[0][:2]
        assert seen[0][2].endswith(b"data")
        assert any(packet[:2] == (left.address, right.address) for packet in seen)


async def test_a_tap_that_fails_is_taken_off(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*packet: object) -> None:
        raise RuntimeError("no")

    async with stream_pair() as ends:
        for socket in ends.sockets:
            socket.tap = fail
        ends.left.write(b"data")
        await ends.at_right.has(size=4)
        assert [socket.tap for socket in ends.sockets] == [None, None]
    assert caplog.text.count("taken off") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("::", marks=needs_ipv6)])
async def test_packets_never_go_in_fragments_but_where_they_have_to(host: str) -> None:
    options = [(sockets.IPPROTO_IP, 10), (sockets.IPPROTO_IPV6, 23)][: 1 + (host == "::")]
    async with await create_socket(host) as socket:
        bound = socket.get_extra_info("socket")
        assert [bound.getsockopt(*option) for option in options] == [3] * len(options)
        with socket._datagrams.fragmenting():
            assert [bound.getsockopt(*option) for option in options] == [0] * len(options)
        assert [bound.getsockopt(*option) for option in options] == [3] * len(options)


async def test_an_address_that_is_taken() -> None:
    async with await create_socket("127.0.0.1") as socket:
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            await create_socket("127.0.0.1", socket.address[1])


def test_a_socket_that_its_loop_leaves_behind_is_closed() -> None:
    async def leave() -> sockets.socket:
        socket = await create_socket("127.0.0.1")
        bound: sockets.socket = socket.get_extra_info("socket")
        return bound

    bound = asyncio.run(leave())
    gc.collect()
    assert bound.fileno() == -1


async def test_what_the_network_does_not_take_is_lost() -> None:
    async with stream_pair() as ends:
        socket = ends.sockets[0]
        socket.send(bytes(65_600), ends.sockets[1].address)  # larger than IP allows
        socket.send(b"x", ("255.255.255.255", 9))  # not allowed without SO_BROADCAST
        ends.left.write(b"data")
        await ends.at_right.has(size=4)


def test_what_the_kernel_has_no_room_for_waits(tmp_path: Path) -> None:
    """Of a Unix socket, whose receiver's queue is the only one on loopback that fills up."""
    with (
        sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as receiver,
        sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as sender,
    ):
        receiver.bind(str(tmp_path / "receiver"))
        datagrams = Datagrams(sender)
        path = receiver.getsockname()
        sent = [b"%d" % number for number in range(3000)]
        for start in range(0, 2000, 10):
            datagrams.send(path, sent[start : start + 10])
        assert datagrams.is_blocked
        taken: list[bytes] = []
        receiver.setblocking(False)
        while datagrams.is_blocked:
            try:
                while True:
                    taken.append(receiver.recv(100))
            except BlockingIOError:
                datagrams.drain()
        try:
            while True:
                taken.append(receiver.recv(100))
        except BlockingIOError:
            pass
        # What was taken is in order; of what waited beyond its bound nothing is kept.
        assert taken == sent[: len(taken)]
        assert 1000 <= len(taken) < 2000
