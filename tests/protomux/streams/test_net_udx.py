"""Secret streams over UDX, between two who know each other's address and ids."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from protomux import HandshakeError, KeyPair, LimitExceeded, Limits, Protomux, StreamClosed
from protomux.streams import (
    SecretStream,
    Server,
    memory_pair,
    open_udx_connection,
    start_udx_server,
)
from protomux.udx import Socket, UdxTransport, create_socket
from protomux_wakeup import Announced, Wakeup, Writer
from tests.protomux.udx.protocol import LIMIT, socket_pair
from tests.ticking import ticks

KEY_PAIR = KeyPair.generate(b"s" * 32)


class Pair:
    """A server, the only peer that it waits for, and what came."""

    def __init__(self, here: Socket, there: Socket) -> None:
        self.here, self.there = here, there
        self.arrived: asyncio.Queue[SecretStream] = asyncio.Queue()
        self.server: Server

    async def listen(self, **options: Any) -> None:
        host, port = self.there.address
        self.server = await start_udx_server(
            self.arrived.put_nowait, host, port, id=5, remote_id=6, local=self.here, **options
        )

    async def connect(self, **options: Any) -> SecretStream:
        host, port = self.here.address
        async with asyncio.timeout(LIMIT):
            return await open_udx_connection(
                host, port, id=6, remote_id=5, local=self.there, **options
            )

    async def both(self, **options: Any) -> tuple[SecretStream, SecretStream]:
        stream = await self.connect(**options)
        async with asyncio.timeout(LIMIT):
            return stream, await self.arrived.get()


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[Pair]:
    async with socket_pair() as (here, there):
        made = Pair(here, there)
        await made.listen(**options)
        yield made
        made.server.close()
        async with asyncio.timeout(LIMIT):
            await made.server.wait_closed()


async def finish(*streams: SecretStream) -> None:
    for stream in streams:
        stream.close()
    async with asyncio.timeout(LIMIT):
        for stream in streams:
            await stream.wait_closed()
    assert [stream.error for stream in streams] == [None] * len(streams)


async def release(stream: SecretStream) -> None:
    """Wait until another stream may have its number."""
    assert isinstance(stream.transport, UdxTransport)
    stream.transport.abort()
    stream.transport.get_extra_info("udx").destroy()
    async with asyncio.timeout(LIMIT):
        await stream.transport.wait_released()


async def test_a_stream_that_opens_and_closes_in_order() -> None:
    async with pair(key_pair=KEY_PAIR) as ends:
        assert ends.server.is_serving()
        assert [each.getsockname() for each in ends.server.sockets] == [ends.here.address]
        one, other = await ends.both(remote_public_key=KEY_PAIR.public_key)
        assert one.handshake_hash == other.handshake_hash
        await finish(one, other)


async def test_wakeup_over_it() -> None:
    async with pair() as ends:
        one, other = await ends.both()
        capability, writers = b"c" * 32, [Writer(b"k" * 32, 7)]
        asker, teller = Wakeup(), Wakeup()
        session = asker.session(capability)
        events = session.events()
        teller.session(
            capability, on_peer_add=lambda peer, session: session.announce(peer, writers)
        )
        asker.add_stream(one)
        teller.add_stream(other)
        async with asyncio.timeout(LIMIT):
            async for event in events:
                if isinstance(event, Announced):
                    assert event.writers == writers
                    break
        assert Protomux.of(one).stream is one
        asker.destroy()
        teller.destroy()
        await finish(one, other)


async def test_messages_beside_the_frames() -> None:
    async with pair() as ends:
        one, other = await ends.both()
        seen: asyncio.Queue[bytes] = asyncio.Queue()
        other.on_message = seen.put_nowait
        assert other.send(b"for nobody")
        for data in (b"first", b"", bytes(one.max_message_size)):
            assert one.send(data)
            async with asyncio.timeout(LIMIT):
                assert await seen.get() == data
        size = one.max_message_size
        with pytest.raises(LimitExceeded, match=f"at most {size} bytes, got {size + 1}"):
            one.send(bytes(size + 1))
        # What nobody sealed does nothing.
        assert isinstance(one.transport, UdxTransport)
        one.transport.send_message(bytes(40))
        assert one.send(b"last")
        async with asyncio.timeout(LIMIT):
            assert await seen.get() == b"last"
        await finish(one, other)
        assert not one.send(b"too late")


async def test_a_message_that_the_application_fails_over_ends_the_stream() -> None:
    async with pair() as ends:
        one, other = await ends.both()

        def fail(data: bytes) -> None:
            raise ValueError("no")

        other.on_message = fail
        one.send(b"x")
        async with asyncio.timeout(LIMIT):
            await other.wait_closed()
            await one.wait_closed()
        assert isinstance(other.error, ValueError)
        assert isinstance(one.error, StreamClosed)


async def test_other_streams_have_no_messages() -> None:
    left, right = memory_pair()
    stream = SecretStream(True)
    assert stream.max_message_size == 0
    assert not stream.send(b"x")
    stream.message_received(bytes(100))
    stream.abort()
    left.abort()
    right.abort()


async def test_the_peer_may_come_again() -> None:
    async with pair() as ends:
        for _ in range(3):
            one, other = await ends.both()
            await finish(one, other)


async def test_the_peer_may_come_again_after_it_was_cut_off() -> None:
    async with pair() as ends:
        for _ in range(2):
            one, other = await ends.both()
            one.abort()
            async with asyncio.timeout(LIMIT):
                await other.wait_closed()
            assert isinstance(other.error, StreamClosed)
            await release(one)


async def test_time_for_the_handshake_runs_from_its_first_byte() -> None:
    async with pair(limits=Limits(handshake_time=0.05)) as ends:
        host, port = ends.here.address
        transport = ends.there.create_stream(6, asyncio.Protocol())
        transport.connect(5, host, port)
        transport.write(b"\x20")
        async with asyncio.timeout(LIMIT):
            await transport.wait_released()  # destroyed by the server
        one, other = await ends.both()
        await finish(one, other)


async def test_nobody_there() -> None:
    async with socket_pair() as (here, there):
        host, port = here.address
        with pytest.raises(HandshakeError, match="no complete handshake"):
            await open_udx_connection(
                host, port, id=1, remote_id=1, local=there, limits=Limits(handshake_time=0.05)
            )


async def test_both_may_bind_where_they_are_told() -> None:
    arrived: asyncio.Queue[SecretStream] = asyncio.Queue()
    async with socket_pair() as (one, other):
        (host, here), (_, there) = one.address, other.address
    server = await start_udx_server(
        arrived.put_nowait, "localhost", there, id=1, remote_id=2, local=(host, here)
    )
    stream = await open_udx_connection(
        "localhost", here, id=2, remote_id=1, local=(host, there), is_initiator=True
    )
    async with asyncio.timeout(LIMIT):
        other_end = await arrived.get()
    server.close()
    await finish(stream, other_end)
    async with asyncio.timeout(LIMIT):
        await server.wait_closed()


@pytest.mark.parametrize("wrong", ["id", "remote_id", "host", "taken"])
async def test_wrong_numbers_and_addresses(wrong: str) -> None:
    async with socket_pair() as (here, there):
        host, port = there.address
        id = -1 if wrong == "id" else 1
        remote_id = -1 if wrong == "remote_id" else 1
        error: type[Exception] = ValueError
        if wrong == "taken":
            here.create_stream(1)
        if wrong == "host":
            host, error = "no.such.host.invalid", OSError
        with pytest.raises(error):
            await open_udx_connection(host, port, id=id, remote_id=remote_id, local=here)
        with pytest.raises(error):
            await start_udx_server(
                lambda stream: None, host, port, id=id, remote_id=remote_id, local=here
            )
        await ticks()
        if wrong != "taken":
            here.create_stream(1)  # nothing of it was kept
        sockets_before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(error):
                await open_udx_connection(
                    host, port if wrong != "taken" else 0, id=id, remote_id=remote_id
                )
        await ticks()
        assert len(os.listdir("/proc/self/fd")) <= sockets_before


async def test_a_server_that_closes_in_the_tick_of_its_start_lets_go() -> None:
    async with socket_pair() as (here, there):
        host, port = there.address
        async with await start_udx_server(
            lambda stream: None, host, port, id=1, remote_id=2, local=here
        ):
            pass
        while here._transports:  # noqa: ASYNC110 - told by nothing else
            await asyncio.sleep(0)
        server = await start_udx_server(lambda stream: None, host, port, id=1, remote_id=2)
        (bound,) = server.sockets
        server.close()
        async with asyncio.timeout(LIMIT):
            await server.wait_closed()
            while bound.fileno() != -1:  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_a_server_on_a_socket_that_closes_ends_with_it() -> None:
    async with socket_pair() as (here, there):
        made = Pair(here, there)
        await made.listen()
        here.close()
        async with asyncio.timeout(LIMIT):
            await here.wait_closed()
            while made.server.is_serving():  # noqa: ASYNC110 - told by nothing else
                await asyncio.sleep(0)
        made.server.close()
        await made.server.wait_closed()


async def test_a_server_that_closes_leaves_open_streams_alone() -> None:
    async with pair() as ends:
        one, other = await ends.both()
        ends.server.close()
        one.write(b"still here")
        await finish(one, other)


async def test_ipv6() -> None:
    try:
        socket = await create_socket("::1")
    except OSError:
        pytest.skip("this machine has no ::1")
    async with socket, await create_socket("::1") as other:
        made = Pair(socket, other)
        made.arrived = asyncio.Queue()
        host, port = other.address[:2]
        server = await start_udx_server(
            made.arrived.put_nowait, host, port, id=1, remote_id=2, local=socket
        )
        host, port = socket.address[:2]
        stream = await open_udx_connection(host, port, id=2, remote_id=1, local=other)
        async with asyncio.timeout(LIMIT):
            there = await made.arrived.get()
        await finish(stream, there)
        server.close()
