"""Connecting and listening, TCP and Unix sockets alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from protomux import HandshakeError, KeyPair, Limits
from protomux.streams import (
    SecretStream,
    Server,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from protomux.streams.net import OnStream
from protomux.streams.noise import Handshake
from tests.raw_peer import RawPeer
from tests.ticking import ticks, until

Connect = Callable[..., Any]


class Place:
    """Somewhere to listen, of either kind."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path / "socket"
        self.port = 0

    async def listen(self, on_stream: OnStream, **options: Any) -> Server:
        if self.kind == "unix":
            return await start_unix_server(on_stream, self.path, **options)
        server = await start_server(on_stream, "127.0.0.1", 0, **options)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def connect(self, **options: Any) -> SecretStream:
        async with asyncio.timeout(5):
            if self.kind == "unix":
                return await open_unix_connection(self.path, **options)
            return await open_connection("127.0.0.1", self.port, **options)


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


async def finish(*streams: SecretStream) -> None:
    async with asyncio.timeout(5):
        for stream in streams:
            stream.abort()
            await stream.wait_closed()


async def test_a_server_hands_over_open_streams(place: Place) -> None:
    keys = KeyPair.generate()
    streams: asyncio.Queue[SecretStream] = asyncio.Queue()
    async with await place.listen(streams.put_nowait, key_pair=keys) as server:
        assert server.is_serving()
        ours = await place.connect(remote_public_key=keys.public_key, pattern="XX")
        theirs = await asyncio.wait_for(streams.get(), 5)
        assert theirs.is_open
        assert theirs.remote_public_key == ours.public_key
        peer = RawPeer(theirs)
        ours.write(b"hello")
        assert await peer.wait_frames(1) == [b"hello"]
    assert not server.is_serving()
    assert server.sockets == ()
    assert ours.is_open, "streams outlive their server"
    await finish(ours, theirs)


async def test_on_stream_may_be_async(place: Place) -> None:
    async def echo(stream: SecretStream) -> None:
        await asyncio.sleep(0)
        peer = RawPeer(stream)
        (frame,) = await peer.wait_frames(1)
        stream.write(frame.upper())
        stream.close()

    async with await place.listen(echo):
        ours = await place.connect()
        peer = RawPeer(ours)
        ours.write(b"hello")
        await peer.wait_lost()
        assert peer.frames == [b"HELLO"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_on_stream_that_raises_costs_its_stream_only(
    place: Place, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    streams: list[SecretStream] = []

    def fail(stream: SecretStream) -> None:
        streams.append(stream)
        if len(streams) == 1:
            raise ValueError("of the application")

    async def fail_later(stream: SecretStream) -> None:
        fail(stream)

    async with await place.listen(fail_later if is_async else fail):
        with caplog.at_level(logging.ERROR, "protomux"):
            first = await place.connect()
            await asyncio.wait_for(first.wait_closed(), 5)
        assert "on_stream failed" in caplog.text
        assert isinstance(streams[0].error, ValueError)
        second = await place.connect()
        assert second.is_open
        await finish(second)


async def test_a_server_has_one_random_identity_unless_given(place: Place) -> None:
    async with await place.listen(lambda _stream: None):
        one, two = await place.connect(), await place.connect()
        assert one.remote_public_key == two.remote_public_key
        await finish(one, two)


async def test_a_firewall_keeps_out(place: Place) -> None:
    friend = KeyPair.generate()
    streams: list[SecretStream] = []
    async with await place.listen(streams.append, firewall=lambda key: key != friend.public_key):
        stranger = await place.connect()  # open from its own side: it has shown its key last
        await asyncio.wait_for(stranger.wait_closed(), 5)
        assert isinstance(stranger.error, HandshakeError)
        assert streams == []
        ours = await place.connect(key_pair=friend)
        peer = RawPeer(ours)
        await until(lambda: streams)
        streams[0].write(b"welcome")
        assert await peer.wait_frames(1) == [b"welcome"]
        await finish(ours, *streams)


async def test_connecting_to_another_than_expected_raises(place: Place) -> None:
    async with await place.listen(lambda _stream: None):
        with pytest.raises(HandshakeError, match="pinned key"):
            await place.connect(remote_public_key=KeyPair.generate().public_key)


async def test_connecting_to_nobody_raises(place: Place, unused_tcp_port: int) -> None:
    place.port = unused_tcp_port
    with pytest.raises(OSError, match=r"."):
        await place.connect()


async def test_a_connect_that_is_cancelled_leaves_nothing_open() -> None:
    gone = asyncio.Event()
    accepted = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(35)  # the first Noise message, never answered
        accepted.set()
        await reader.read()
        gone.set()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    task = asyncio.create_task(open_connection("127.0.0.1", port))
    async with asyncio.timeout(5):
        await accepted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()
    listener.close()


async def test_closing_a_server_aborts_handshakes_in_flight(place: Place) -> None:
    server = await place.listen(lambda _stream: None)
    if place.kind == "unix":
        reader, writer = await asyncio.open_unix_connection(str(place.path))
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    async with asyncio.timeout(5):
        await until(lambda: server._opening)
        server.close()
        server.close()
        await server.wait_closed()
        assert not server._opening
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()


async def test_closing_and_aborting_all_clients(place: Place) -> None:
    streams: list[SecretStream] = []
    async with await place.listen(streams.append) as server:
        one = await place.connect()
        peer = RawPeer(one)
        await until(lambda: len(streams) == 1)
        RawPeer(streams[0])
        server.close_clients()
        await asyncio.wait_for(one.wait_closed(), 5)
        assert peer.error is None
        two = await place.connect()
        RawPeer(two)
        await until(lambda: len(streams) == 2)
        server.abort_clients()
        await asyncio.wait_for(two.wait_closed(), 5)
        for stream in streams:
            await stream.wait_closed()
        assert not server._streams


async def test_a_stream_lost_as_it_opens_is_not_handed_over(place: Place) -> None:
    streams: list[SecretStream] = []
    async with await place.listen(streams.append) as server:
        handed = asyncio.Event()
        hand_over = server._opened

        def lose_first(stream: SecretStream) -> None:
            stream.abort()
            hand_over(stream)
            handed.set()

        server._opened = lose_first  # type: ignore[method-assign]
        ours = await place.connect()
        await asyncio.wait_for(handed.wait(), 5)
        await finish(ours)
    assert streams == []


async def test_a_replayed_handshake_is_not_handed_over(tmp_path: Path) -> None:
    place = Place("unix", tmp_path)
    keys = KeyPair.generate()
    streams: list[SecretStream] = []
    first = Handshake("IK", True, KeyPair.generate(), keys.public_key).write()
    async with await place.listen(streams.append, key_pair=keys, pattern="IK") as server:
        _, writer = await asyncio.open_unix_connection(str(place.path))
        writer.write(len(first).to_bytes(3, "little") + first)
        await until(lambda: any(stream.is_open for stream in server._opening))
        await ticks()
        assert streams == []
        writer.close()
        await until(lambda: not server._opening)


async def test_a_wrong_option_is_an_error_at_once(place: Place) -> None:
    with pytest.raises(ValueError, match="a pattern of XX, IK, XK"):
        await place.listen(lambda _stream: None, pattern="NN")


async def test_one_handshake_too_many_ends_the_oldest(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    streams: list[SecretStream] = []
    async with await place.listen(streams.append, limits=Limits(handshakes=2)):
        silent = []
        with caplog.at_level(logging.DEBUG, "protomux"):
            for _ in range(3):
                if place.kind == "unix":
                    reader, writer = await asyncio.open_unix_connection(place.path)
                else:
                    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
                silent.append((reader, writer))
            async with asyncio.timeout(5):
                with suppress(ConnectionResetError):
                    assert await silent[0][0].read() == b""
        assert "at most 2 handshakes at once, another connection came" in caplog.text
        honest = await place.connect()  # ends the second
        async with asyncio.timeout(5):
            with suppress(ConnectionResetError):
                assert await silent[1][0].read() == b""
        await until(lambda: streams)
        assert not silent[2][0].at_eof()
        for _, writer in silent:
            writer.close()
        await finish(honest, *streams)
