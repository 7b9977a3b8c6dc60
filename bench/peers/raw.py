"""The client sends raw messages on one channel as fast as the stream takes them."""

from __future__ import annotations

import asyncio

from bench.peers.content import KEPT_EVERY, pool
from bench.peers.meeting import Meeting
from bench.peers.talk import Arrivals, Talk, fail
from protomux import Channel, Protomux
from protomux.encoding import raw

__all__ = ["client", "listener"]

PROTOCOL = "bench/raw"


def _units(talk: Talk) -> int:
    """Return what a message counts: its bytes in a work of large ones."""
    return talk.size["bytes"] if talk.size["bytes"] > 1024 else 1


async def client(talk: Talk) -> None:
    """Send."""
    messages = pool(talk.size["bytes"])
    meeting = await Meeting.begin(talk)
    mux = Protomux(await meeting.stream())
    drained = asyncio.Event()
    channel = mux.create_channel(PROTOCOL, messages=[raw], on_drain=lambda _channel: drained.set())
    assert channel is not None
    channel.open()
    await channel.wait_opened()

    async def send(numbers: range) -> None:
        send = channel.messages[0].send
        for number in numbers:
            if not send(messages[number % 61]):
                drained.clear()
                await drained.wait()

    warm, count = talk.size["warm"], talk.size["count"]
    await talk.sync("ready")
    await send(range(warm))
    await talk.sync("warm", tidy=True)
    talk.begin()
    await send(range(warm, warm + count))
    await talk.sync("done")
    talk.end(began=True)
    check = sum(len(messages[n % 61]) + messages[n % 61][0] for n in range(warm, warm + count))
    talk.finish(count * _units(talk), check)


class _Listener(Arrivals):
    """Counts messages."""

    def __init__(self, messages: list[bytes]) -> None:
        super().__init__()
        self.is_warming = True
        self.kept: list[bytes] = []
        self._messages = messages

    def on_message(self, message: bytes, _channel: Channel) -> None:
        number = self.count
        if self.is_warming:
            self.verify(message, number)
        elif not number % KEPT_EVERY:
            self.kept.append(message)
        self.total += len(message) + message[0]
        self.count = number + 1
        if self.count == self.expected:
            self.finish()

    def verify(self, message: bytes, number: int) -> None:
        if message != self._messages[number % 61]:
            fail(f"the message {number} is not what was sent")


async def listener(talk: Talk) -> None:
    """Take messages."""
    warm, count = talk.size["warm"], talk.size["count"]
    heard = _Listener(pool(talk.size["bytes"]))
    meeting = await Meeting.begin(talk)
    mux = Protomux(await meeting.stream())
    channel = mux.create_channel(PROTOCOL, messages=[(raw, heard.on_message)])
    assert channel is not None
    channel.open()
    heard.expect(warm)
    await talk.sync("ready")
    await heard.wait()
    heard.is_warming = False
    heard.expect(count)
    await talk.sync("warm", tidy=True)
    talk.begin()
    await heard.wait()
    await talk.sync("done")
    talk.end(ended=heard.ended)
    for index, message in enumerate(heard.kept):
        heard.verify(message, warm + index * KEPT_EVERY)
    talk.finish(heard.count * _units(talk), heard.total)
