"""A close loses nothing that was written, an abort waits for nothing, and both leave nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from protomux import Channel, Protomux, ProtomuxError, StreamClosed
from protomux.encoding import uint
from protomux.streams import SecretStream, open_connection, start_server
from protomux_wakeup import Wakeup
from tests.life.census import Census, leaves_nothing
from tests.life.conversation import KNOWN, Host, visit
from tests.ticking import ticks, until

FRAME = 50_000
FRAMES = 100
"""5 MB: more than the sockets of both sides hold."""


class SlowReader:
    """Takes a frame, and then none for some ticks."""

    def __init__(self, stream: SecretStream, pause: int) -> None:
        self.stream = stream
        self.numbers: list[int] = []
        self.error: Exception | None = None
        self.is_lost = False
        self._pause = pause
        self._loop = asyncio.get_running_loop()
        stream.set_receiver(self)

    def frame_received(self, frame: bytes) -> None:
        self.numbers.append(int.from_bytes(frame[:4]))
        if self._pause:
            self.stream.pause_reading()
            self._loop.call_soon(self._wait, self._pause)

    def _wait(self, left: int) -> None:
        if left:
            self._loop.call_soon(self._wait, left - 1)
        else:
            self.stream.resume_reading()

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.error = error


async def pair() -> tuple[SecretStream, SecretStream]:
    """Return two open streams over loopback TCP."""
    accepted: asyncio.Future[SecretStream] = asyncio.get_running_loop().create_future()
    async with await start_server(accepted.set_result, "127.0.0.1") as server:
        stream = await open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        return stream, await accepted


def write_all(stream: SecretStream) -> list[int]:
    """Write 5 MB, heeding nobody who asks to wait."""
    for number in range(FRAMES):
        stream.write(number.to_bytes(4) + bytes(FRAME - 4))
    return list(range(FRAMES))


async def gone(*streams: SecretStream) -> None:
    for stream in streams:
        await stream.wait_closed()


@pytest.mark.parametrize("closers", ["one", "other", "both"])
@pytest.mark.parametrize("pause", [0, 5])
@leaves_nothing
async def test_a_close_flushes_megabytes_both_ways_to_slow_readers(
    closers: str, pause: int
) -> None:
    a, b = await pair()
    readers = SlowReader(a, pause), SlowReader(b, 2 * pause)
    told = write_all(a)
    assert write_all(b) == told
    if closers != "other":
        a.close()
    if closers != "one":
        b.close()
    await gone(a, b)
    for reader in readers:
        assert reader.numbers == told
        assert reader.is_lost
        assert reader.error is None


@leaves_nothing
async def test_a_close_takes_first_what_a_peer_that_closed_before_has_sent() -> None:
    a, b = await pair()
    heard: list[int] = []
    here, there = Protomux(a), Protomux(b)
    ours = here.create_channel("count", messages=[(uint, lambda n, _channel: heard.append(n))])
    theirs = there.create_channel("count", messages=[uint])
    assert ours is not None
    assert theirs is not None
    ours.open()
    theirs.open()
    assert await theirs.wait_opened()
    # More than is handed on in a tick, in two frames, and the end right behind.
    for number in range(5_000):
        theirs.messages[0].send(number)
    await ticks(1)
    theirs.messages[0].send(5_000)
    b.close()
    await until(lambda: heard)
    a.close()
    await gone(a, b)
    await ours.wait_closed()
    assert heard == list(range(5_001))
    assert a.error is b.error is None


@leaves_nothing
async def test_a_close_of_a_stream_that_nobody_reads_lets_its_peer_finish() -> None:
    a, b = await pair()
    reader = SlowReader(a, 0)
    write_all(a)
    await until(lambda: b.transport is not None and not b.transport.is_reading())
    b.write(bytes(4))
    b.close()
    await gone(a, b)
    assert reader.numbers == [0]
    assert a.error is b.error is None


@pytest.mark.parametrize("first", ["send", "close"])
@leaves_nothing
async def test_what_channels_send_in_the_tick_of_the_close_arrives(first: str) -> None:
    a, b = await pair()
    heard: tuple[list[int], list[int]] = ([], [])

    def note(number: int, channel: Channel) -> None:
        channel.user_data.append(number)

    channels = []
    for stream, numbers in zip((a, b), heard, strict=True):
        channel = Protomux(stream).create_channel(
            "count", user_data=numbers, messages=[(uint, note)]
        )
        assert channel is not None
        channel.open()
        channels.append(channel)
    for channel in channels:
        assert await channel.wait_opened()
    for stream, channel in zip((a, b), channels, strict=True):
        if first == "close":
            stream.close()
        for number in range(1_000):
            channel.messages[0].send(number)
        if first == "send":
            stream.close()
    await gone(a, b)
    for channel in channels:
        await channel.wait_closed()
    assert heard == (list(range(1_000)), list(range(1_000)))
    assert a.error is b.error is None


@leaves_nothing
async def test_an_abort_waits_for_nothing_and_drops_what_waits() -> None:
    a, b = await pair()
    here, there = SlowReader(a, 0), SlowReader(b, 0)
    b.pause_reading()
    write_all(a)
    assert a.transport is not None
    assert a.transport.get_write_buffer_size() > 0
    a.abort()
    await ticks(2)
    assert here.is_lost
    assert isinstance(here.error, StreamClosed)
    assert a.transport.get_write_buffer_size() == 0
    b.resume_reading()
    await gone(b)
    assert there.error is None or isinstance(there.error, ProtomuxError)
    assert there.numbers == list(range(len(there.numbers)))
    assert len(there.numbers) < FRAMES


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("how", ["close", "abort"])
@leaves_nothing
async def test_a_host_that_goes_in_the_middle_leaves_nothing(how: str, debug: bool) -> None:
    asyncio.get_running_loop().set_debug(debug)
    census = Census()

    async def hold(passed: int) -> None:
        host = Host()
        await host.start("XX")
        guests = [asyncio.create_task(visit(host.port, "XX")) for _ in range(3)]
        await ticks(passed)
        host.server.close()
        host.wakeup.destroy()
        if how == "close":
            host.server.close_clients()
        else:
            host.server.abort_clients()
        await asyncio.gather(*guests)
        await host.stop()

    for passed in range(0, 120, 12 if debug else 3):
        await hold(passed)
        await census.check(f"by a host that goes after {passed} ticks")


@pytest.mark.parametrize(
    "end",
    [
        lambda wakeup, stream: (wakeup.destroy(), stream.close()),
        lambda wakeup, stream: (stream.close(), wakeup.destroy()),
        lambda wakeup, stream: (wakeup.destroy(), stream.abort()),
        lambda wakeup, stream: (stream.abort(), wakeup.destroy()),
    ],
    ids=["destroy, close", "close, destroy", "destroy, abort", "abort, destroy"],
)
@leaves_nothing
async def test_a_guest_that_goes_in_the_middle_leaves_nothing(
    end: Callable[[Wakeup, SecretStream], object],
) -> None:
    census = Census()

    async def hold(passed: int) -> None:
        host = Host()
        await host.start("XX")
        stream = SecretStream(True)
        wakeup = Wakeup()
        wakeup.add_stream(stream)
        wakeup.session(KNOWN).broadcast_lookup()
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: stream, "127.0.0.1", host.port)
        await ticks(passed)
        end(wakeup, stream)
        await stream.wait_closed()
        with suppress(ProtomuxError):
            await stream.wait_opened()
        await until(lambda: not host.server._opening and not host.server._streams)
        await host.stop()

    for passed in range(0, 40, 2):
        await hold(passed)
        await census.check(f"by a guest that goes after {passed} ticks")
