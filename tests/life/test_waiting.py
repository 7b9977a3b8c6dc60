"""Whatever waits ends when the stream is lost, and can be cancelled at any point."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from protomux import Channel, HandshakeError, LimitExceeded, Protomux, ProtomuxError, StreamClosed
from protomux.encoding import raw
from protomux.streams import (
    SecretStream,
    Server,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from protomux_wakeup import (
    Announced,
    Event,
    Limits,
    Peer,
    PeerActive,
    PeerAdded,
    PeerRemoved,
    Session,
    Wakeup,
)
from tests.life.census import Census, leaves_nothing
from tests.life.meeting import CAPABILITY, LOSSES, ORDERLY, Meeting, meeting
from tests.life.relay import RESET_ON_CLOSE
from tests.ticking import ticks, until

T = TypeVar("T")

MOST_TICKS = 300
"""More than any of these waits takes when nobody disturbs it."""


def port_of(server: Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def started(wait: Awaitable[T]) -> asyncio.Task[T]:
    """Return a task that waits already."""

    async def wrapped() -> T:
        return await wait

    task = asyncio.create_task(wrapped())
    await ticks(3)
    assert not task.done()
    return task


async def saturated(session: Session, peer: Peer) -> asyncio.Task[bool]:
    """Announce to a `peer` that does not read until that is noticed; return who waits for it."""
    writers = [(number.to_bytes(32), number) for number in range(4096)]
    while True:
        session.announce(peer, writers)
        waiting = asyncio.create_task(peer.wait_drained())
        await ticks(30)
        if not waiting.done():
            return waiting


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and see that it was."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def cancel_everywhere(
    wait: Callable[[], Coroutine[Any, Any, T]], undone: Callable[[], Awaitable[object]]
) -> T:
    """Cancel `wait()` after no tick, after one, and so on until it is done first.

    Each time nothing may be left once `undone()` has returned.
    """
    census = Census()
    for passed in range(MOST_TICKS):
        task = asyncio.create_task(wait())
        await ticks(passed)
        if task.done():
            return task.result()
        await cancelled(task)
        await undone()
        await census.check(f"by a cancel after {passed} ticks")
    raise AssertionError(f"expected it to end within {MOST_TICKS} ticks")


# When the stream is lost


async def lose(how: str, met: Meeting) -> None:
    LOSSES[how](met)
    await met.near.stream.wait_closed()
    assert met.near.stream.error is None or isinstance(
        met.near.stream.error, ProtomuxError | OSError
    )


@pytest.mark.parametrize("how", LOSSES)
@leaves_nothing
async def test_a_lost_stream_ends_every_wait(how: str) -> None:
    async with meeting() as met:
        near, far = met.near, met.far
        never = asyncio.Event()
        asked: list[asyncio.Task[Any] | None] = []

        async def pair(_id: bytes | None) -> None:
            asked.append(asyncio.current_task())
            await never.wait()

        far.mux.pair("never", callback=pair)
        near.mux.pair("never back", callback=pair)
        opened, opening, created = (near.channel(name) for name in ("both", "never", "not yet"))
        other = far.channel("both")
        back = far.channel("never back")
        for channel in (opened, opening, other, back):
            channel.open()
        assert await opened.wait_opened()
        await until(lambda: len(asked) == 2)
        answers = [
            (await started(opening.wait_opened()), False),
            (await started(created.wait_opened()), False),
            (await started(back.wait_opened()), False),
            *[
                (await started(channel.wait_closed()), None)
                for channel in (opened, opening, created, other, back)
            ],
            *[(await started(side.stream.wait_closed()), None) for side in (near, far)],
        ]
        events = near.session.events()
        event = await started(events.__anext__())
        await lose(how, met)
        for task, answer in answers:
            assert await task is answer
        assert await opened.wait_opened(), "it was"
        for side in (near, far):
            assert not list(side.mux)
            assert side.session.peers == ()
            with pytest.raises((StreamClosed, OSError)):
                await side.stream.wait_opened()
        await until(lambda: all(task is not None and task.cancelled() for task in asked))
        seen: list[type[Event]] = [type(await event)]
        near.wakeup.destroy()
        seen += [type(event) async for event in events]
        assert seen[-1] is PeerRemoved


# An orderly end would wait for the peer to read, until the time for it is over.
@pytest.mark.parametrize("how", [how for how in LOSSES if how not in ORDERLY])
@leaves_nothing
async def test_a_lost_stream_ends_the_wait_for_a_peer_that_does_not_read(how: str) -> None:
    async with meeting() as met:
        near, far = met.near, met.far
        far.mux.pause_reading(50)
        (peer,) = near.session.peers
        waiting = await saturated(near.session, peer)
        other = await started(peer.wait_drained())
        await cancelled(other)
        await lose(how, met)
        assert await waiting is False
        assert await peer.wait_drained() is False


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@leaves_nothing
async def test_a_connection_lost_in_its_handshake_ends_who_opens_it(reset: bool) -> None:
    accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop.add_reader(listener, lambda: accepted.put_nowait(listener.accept()[0]))
        opening = await started(open_connection(*listener.getsockname()))
        with await accepted.get() as end:
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        with pytest.raises(HandshakeError):
            await opening
        loop.remove_reader(listener)


@pytest.mark.parametrize("how", ["abort", "abort with", "close"])
@leaves_nothing
async def test_a_stream_that_is_ended_before_it_opens_ends_who_waits(how: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        stream = SecretStream(True)
        wakeup = Wakeup()
        wakeup.add_stream(stream)
        waits = [await started(stream.wait_opened()) for _ in range(2)]
        closing = await started(stream.wait_closed())
        await asyncio.get_running_loop().create_connection(lambda: stream, sock=ours)
        await cancelled(waits.pop())
        error: Exception = StreamClosed("the stream is closed")
        if how == "close":
            stream.close()
        elif how == "abort":
            error = StreamClosed("the stream was aborted")
            stream.abort()
        else:
            error = LimitExceeded("no space")
            stream.abort(error)
        with pytest.raises(type(error), match=str(error)):
            await waits[0]
        await closing
        assert list(wakeup.muxes) == []
        wakeup.destroy()


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@leaves_nothing
async def test_a_client_that_leaves_cancels_the_firewall_that_is_asked_about_it(
    reset: bool,
) -> None:
    asked = asyncio.Event()
    answers: list[str] = []

    async def firewall(_key: bytes) -> bool:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            answers.append("cancelled")
        return False

    async with await start_server(lambda _stream: None, "127.0.0.1", firewall=firewall) as server:
        client = SecretStream(True)
        await asyncio.get_running_loop().create_connection(
            lambda: client, "127.0.0.1", port_of(server)
        )
        await client.wait_opened()  # it has shown its key last, so it is open from its own side
        await asked.wait()
        assert client.transport is not None
        if reset:
            client.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE
            )
            client.abort()
        else:
            server.close()
        await client.wait_closed()
        await until(lambda: answers)


@leaves_nothing
async def test_a_lost_stream_cancels_what_asked_the_application_about_it() -> None:
    async with meeting() as met:
        woken: list[asyncio.Task[Any] | None] = []

        async def on_wakeup(_id: bytes, _mux: Protomux) -> None:
            woken.append(asyncio.current_task())
            await asyncio.Event().wait()

        sleeper = Wakeup(on_wakeup)
        sleeper.add_stream(met.far.stream)
        met.near.wakeup.session(b"\x08" * 32)
        await until(lambda: woken)
        met.relay.cut(reset=True)
        await until(lambda: all(task is not None and task.cancelled() for task in woken))
        sleeper.destroy()


@leaves_nothing
async def test_an_async_on_stream_sees_the_end_of_its_stream() -> None:
    ended: list[str] = []

    async def on_stream(stream: SecretStream) -> None:
        channel = Protomux(stream).create_channel("chat", messages=[raw])
        assert channel is not None
        channel.open()
        ended.append("rejected" if not await channel.wait_opened() else "opened")
        await stream.wait_closed()
        ended.append("closed")

    async with await start_server(on_stream, "127.0.0.1") as server:
        stream = await open_connection("127.0.0.1", port_of(server))
        Protomux(stream)
        await until(lambda: ended)
        stream.abort()
        await stream.wait_closed()
        await until(lambda: len(ended) == 2)
    assert ended == ["rejected", "closed"]


@pytest.mark.parametrize("first", ["connection", "close"])
@leaves_nothing
async def test_a_server_that_closes_in_the_tick_of_a_connection_keeps_nothing_of_it(
    first: str,
) -> None:
    streams: list[SecretStream] = []
    server = await start_server(streams.append, "127.0.0.1")
    loop = asyncio.get_running_loop()
    poke, poked = socket.socketpair()
    with poke, poked:
        loop.add_reader(poked, server.close)
        if first == "close":
            poke.send(b"now")
        with socket.create_connection(("127.0.0.1", port_of(server))) as client:
            if first == "connection":
                poke.send(b"now")
            client.setblocking(False)
            async with asyncio.timeout(5):
                await server.wait_closed()
                with suppress(ConnectionResetError):  # it was not even accepted
                    assert await loop.sock_recv(client, 1) == b""
        loop.remove_reader(poked)
    assert streams == []


# When somebody cancels


@leaves_nothing
async def test_connecting_can_be_cancelled_at_any_point(tmp_path: Path) -> None:
    def gone(server: Server) -> Awaitable[None]:
        return until(lambda: not server._streams and not server._opening)

    async def check(server: Server, connect: Callable[[], Any]) -> None:
        async with server:
            stream = await cancel_everywhere(connect, lambda: gone(server))
            assert stream.is_open
            stream.abort()
            await stream.wait_closed()
            await gone(server)

    tcp = await start_server(lambda _stream: None, "127.0.0.1")
    await check(tcp, lambda: open_connection("127.0.0.1", port_of(tcp)))
    path = tmp_path / "socket"
    unix = await start_unix_server(lambda _stream: None, path)
    await check(unix, lambda: open_unix_connection(path))


@leaves_nothing
async def test_listening_can_be_cancelled_at_any_point(tmp_path: Path) -> None:
    for listen in (
        lambda: start_server(lambda _stream: None, "127.0.0.1"),
        lambda: start_unix_server(lambda _stream: None, tmp_path / "socket"),
    ):
        server = await cancel_everywhere(listen, ticks)
        assert server.is_serving()
        server.close()
        await server.wait_closed()


@leaves_nothing
async def test_leaving_a_server_can_be_cancelled_at_any_point() -> None:
    async def serve() -> None:
        async with await start_server(lambda _stream: None, "127.0.0.1"):
            await ticks(2)

    await cancel_everywhere(serve, ticks)


@pytest.mark.parametrize("after", range(6))
@leaves_nothing
async def test_a_cancelled_wait_takes_nothing_from_another(after: int) -> None:
    async with meeting() as met:
        near, far = met.near, met.far
        may_open = asyncio.Event()
        answered: list[Channel] = []

        async def pair(_id: bytes | None) -> None:
            await may_open.wait()
            answered.append(far.channel("late"))
            answered[0].open()

        far.mux.pair("late", callback=pair)
        opening = near.channel("late")
        opening.open()
        server = await start_server(lambda _stream: None, "127.0.0.1")
        waits: list[tuple[Callable[[], Coroutine[Any, Any, Any]], object]] = [
            (opening.wait_opened, True),
            (opening.wait_closed, None),
            (near.stream.wait_closed, None),
            (server.wait_closed, None),
        ]
        for wait, answer in waits:
            stays = await started(wait())
            goes = asyncio.create_task(wait())
            await ticks(after)
            if wait == opening.wait_opened:
                may_open.set()
            elif wait == opening.wait_closed:
                answered[0].close()
            elif wait == near.stream.wait_closed:
                far.stream.close()
            else:
                server.close()
            await ticks(after)
            if not goes.done():
                await cancelled(goes)
            assert await stays is answer
            assert await wait() is answer


@leaves_nothing
async def test_a_cancelled_iteration_loses_no_event() -> None:
    async with meeting() as met:
        events = met.near.session.events()
        (peer,) = met.far.session.peers
        told, heard = 60, list[int]()
        for number in count():
            if number < told:
                met.far.session.announce(peer, [(bytes(32), number)])
            waiting = asyncio.create_task(events.__anext__())
            await ticks(number % 7)
            if waiting.done():
                event = waiting.result()
                assert isinstance(event, Announced)
                heard.append(event.writers[0].length)
                if len(heard) == told:
                    break
            else:
                await cancelled(waiting)
        assert heard == list(range(told))


@leaves_nothing
async def test_a_cancelled_wait_for_a_drained_peer_takes_nothing_from_another() -> None:
    async with meeting() as met:
        met.far.stream.pause_reading()
        (peer,) = met.near.session.peers
        stays = await saturated(met.near.session, peer)
        goes = await started(peer.wait_drained())
        await cancelled(goes)
        met.far.stream.resume_reading()
        assert await stays


@leaves_nothing
async def test_opening_a_stream_can_be_cancelled_by_one_and_waited_for_by_another() -> None:
    ends = socket.socketpair()
    streams = SecretStream(True), SecretStream(False)
    wakeup = Wakeup(limits=Limits(handshake_time=5))
    session = wakeup.session(CAPABILITY)
    events = session.events()
    waits = [[await started(stream.wait_opened()) for _ in range(2)] for stream in streams]
    for stream, end in zip(streams, ends, strict=True):
        wakeup.add_stream(stream)
        await asyncio.get_running_loop().create_connection(lambda s=stream: s, sock=end)  # type: ignore[misc]
    for goes, stays in waits:
        await cancelled(goes)
        await stays
    async for event in events:  # both ends are of one topic here, so it meets itself
        assert isinstance(event, PeerAdded | PeerActive)
        if len(session.peers) == 2:
            break
    await events.aclose()
    wakeup.destroy()
    for stream in streams:
        stream.abort()
        await stream.wait_closed()
