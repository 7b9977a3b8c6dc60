"""The client asks, the listener answers with an announce, one question at a time."""

from __future__ import annotations

import asyncio
from time import monotonic_ns

from bench.peers.content import FIRSTS, KEPT_EVERY, capability
from bench.peers.meeting import LIMITS, Meeting
from bench.peers.talk import Arrivals, Talk, fail
from protomux_wakeup import Lookup, Peer, Session, Wakeup, Writer

__all__ = ["client", "listener"]


class _Client(Arrivals):
    """Asks again as soon as there is an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.is_warming = True
        self.times: list[int] = []
        self.kept: list[list[Writer]] = []
        self.proven: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        self._asked = 0

    def on_peer_add(self, peer: Peer, _session: Session) -> None:
        self.proven.set_result(peer)

    def ask(self, peer: Peer, session: Session) -> None:
        self._asked = monotonic_ns()
        session.lookup(peer)

    def on_announce(self, writers: list[Writer], peer: Peer, session: Session) -> None:
        self.times.append(monotonic_ns() - self._asked)
        number = self.count
        if self.is_warming:
            verify(writers, number)
        elif not number % KEPT_EVERY:
            self.kept.append(writers)
        self.total += writers[0].length
        self.count = number + 1
        if self.count == self.expected:
            self.finish()
        else:
            self.ask(peer, session)


def verify(writers: list[Writer], number: int) -> None:
    """Fail unless this is the answer to the question of that number."""
    if writers != [(FIRSTS[number % 61], number)]:
        fail(f"the answer {number} is not what was sent")


async def client(talk: Talk) -> None:
    """Ask."""
    warm, count = talk.size["warm"], talk.size["count"]
    asker = _Client()
    meeting = await Meeting.begin(talk)
    wakeup = Wakeup(limits=LIMITS)
    session = wakeup.session(capability(0), asker)
    wakeup.add_stream(await meeting.stream())
    peer = await asker.proven
    asker.expect(warm)
    await talk.sync("ready")
    asker.ask(peer, session)
    await asker.wait()
    asker.is_warming = False
    asker.times.clear()
    asker.expect(count)
    await talk.sync("warm", tidy=True)
    talk.begin()
    asker.ask(peer, session)
    await asker.wait()
    talk.end(began=True, ended=asker.ended)
    await talk.sync("done")
    for index, writers in enumerate(asker.kept):
        verify(writers, index * KEPT_EVERY)
    times = sorted(asker.times)
    figures = {
        f"rtt p{part}": times[min(len(times) - 1, len(times) * part // 100)] / 1000
        for part in (50, 99)
    }
    talk.finish(asker.count, asker.total, figures)


class _Listener(Arrivals):
    """Answers."""

    def on_lookup(self, _lookup: Lookup, peer: Peer, session: Session) -> None:
        number = self.count
        session.announce(peer, [(FIRSTS[number % 61], number)])
        self.total += number
        self.count = number + 1
        if self.count == self.expected:
            self.finish()


async def listener(talk: Talk) -> None:
    """Answer."""
    answerer = _Listener()
    meeting = await Meeting.begin(talk)
    wakeup = Wakeup(limits=LIMITS)
    wakeup.session(capability(0), answerer)
    wakeup.add_stream(await meeting.stream())
    answerer.expect(talk.size["warm"])
    await talk.sync("ready")
    await answerer.wait()
    answerer.expect(talk.size["count"])
    await talk.sync("warm", tidy=True)
    talk.begin()
    await answerer.wait()
    await talk.sync("done")
    talk.end()
    talk.finish(answerer.count, answerer.total)
