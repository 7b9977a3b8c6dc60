"""The client announces as fast as the stream takes it, in one topic; the listener counts."""

from __future__ import annotations

import asyncio

from bench.peers.content import FIRSTS, KEPT_EVERY, Announces, capability
from bench.peers.meeting import LIMITS, Meeting
from bench.peers.talk import Arrivals, Talk, fail
from protomux_wakeup import Peer, Session, Wakeup, Writer

__all__ = ["client", "listener"]


async def client(talk: Talk) -> None:
    """Announce."""
    announces = Announces(talk.size["entries"])
    meeting = await Meeting.begin(talk)
    wakeup = Wakeup(limits=LIMITS)
    proven: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
    session = wakeup.session(
        capability(0), on_peer_add=lambda peer, _session: proven.set_result(peer)
    )
    wakeup.add_stream(await meeting.stream())
    peer = await proven
    writers = announces.whole(0)

    async def announce(numbers: range) -> None:
        send = session.announce
        for number in numbers:
            writers[0] = FIRSTS[number % 61], number
            if not send(peer, writers):
                await peer.wait_drained()

    warm, count = talk.size["warm"], talk.size["count"]
    await talk.sync("ready")
    await announce(range(warm))
    await talk.sync("warm", tidy=True)
    talk.begin()
    numbers = range(warm, warm + count)
    await announce(numbers)
    await talk.sync("done")
    talk.end(began=True)
    talk.finish(count * talk.size["entries"], announces.checksum(numbers))


class _Listener(Arrivals):
    """Counts announces."""

    def __init__(self, announces: Announces) -> None:
        super().__init__()
        self.is_warming = True
        self.kept: list[list[Writer]] = []
        self._announces = announces

    def on_announce(self, writers: list[Writer], _peer: Peer, _session: Session) -> None:
        number = self.count
        if self.is_warming:
            self.verify(writers, number)
        elif not number % KEPT_EVERY:
            self.kept.append(writers)
        self.total += writers[0].length + writers[-1].length
        self.count = number + 1
        if self.count == self.expected:
            self.finish()

    def verify(self, writers: list[Writer], number: int) -> None:
        if writers != self._announces.whole(number):
            fail(f"the announce {number} is not what was sent")


async def listener(talk: Talk) -> None:
    """Take announces."""
    warm, count = talk.size["warm"], talk.size["count"]
    heard = _Listener(Announces(talk.size["entries"]))
    meeting = await Meeting.begin(talk)
    wakeup = Wakeup(limits=LIMITS)
    wakeup.session(capability(0), heard)
    wakeup.add_stream(await meeting.stream())
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
    for index, writers in enumerate(heard.kept):
        heard.verify(writers, warm + index * KEPT_EVERY)
    talk.finish(heard.count * talk.size["entries"], heard.total)
